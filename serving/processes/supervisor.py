"""The supervisor: keeps every seat filled, makes changes in all processes at once, and sums up what they measure.

It has neither models nor gRPC. Processes are started as fresh interpreters, never forked: gRPC and ONNX Runtime have
threads and locks that a fork would break.

* Start: nobody is ready before all are. When one cannot start, none does, and the exit code is 1.
* A process that ends unasked, or hangs, is replaced: at once after a long life, else after a pause that doubles up to
  half a minute. The others serve meanwhile; it joins when it serves what they do. Where nobody is left and the seat
  cannot be filled, the supervisor gives up with exit code 1, so that whoever watches over it knows.
* Stop: those that listen drain within the grace time, the engine after them. A second signal cuts that short.
* When the supervisor itself is killed, its children find their links cut, drain and end.
"""

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from http.server import HTTPServer
from queue import Empty, SimpleQueue
from typing import Any

from serving import assembly, backend, metrics, signals
from serving.changes import Changes, Order, Refresh, poll
from serving.errors import PortError, ProcessError, ServingError, StartError
from serving.placement import Placement
from serving.processes.assignment import Assignment, Role, Seat
from serving.processes.fleet import Fleet
from serving.processes.metrics import Ledger
from serving.processes.port import SharedPort
from serving.processes.process import Process
from serving.settings import Settings
from serving.tally import Snapshot

# How often the processes are asked for their metrics even if nobody reads the page.
_LOOK_SECONDS = 5.0
# What a process may take to tell them, or statistics; one that takes longer is told of as before, or left out.
_ANSWER_SECONDS = 5.0
# One that answers nothing for so long is killed, and so replaced: it lives, but callers and changes wait for it.
_SILENCE_SECONDS = 60.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
# A process that was ready for this long is replaced at once.
_LONG_LIFE = 60.0
# Failures in a row after which a seat that nobody else can stand in for is given up.
_PATIENCE = 5
# Beyond the grace time, for what follows the last request.
_MARGIN_SECONDS = 5.0

_log = logging.getLogger(__name__)


class Supervisor:
    """The service as several processes.

    Args:
        settings: all of it.

    Raises:
        PortError: a port is taken.
        SecurityError: the certificates cannot be used.
        ProcessError: this is no system for several processes.
    """

    def __init__(self, settings: Settings) -> None:
        if not sys.platform.startswith("linux"):
            raise ProcessError(f"--workers and --engine-process: several processes need Linux, not {sys.platform}")
        if settings.workers > backend.usable_cores():
            _log.warning("--workers %d on %d cores: they wait for each other", settings.workers, backend.usable_cores())
        self._settings = settings
        self._placement = Placement(settings.request_core)
        self._with_engine = uses_engine(settings)
        listener = Role.FRONT if self._with_engine else Role.WORKER
        self._seats = [Seat(listener, number) for number in range(settings.workers)]
        if self._with_engine:
            self._seats.insert(0, Seat(Role.ENGINE, 0))
        self._processes: dict[Seat, Process] = {}
        self._failures = dict.fromkeys(self._seats, 0)
        self._events: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._stopping = threading.Event()
        self._announced = False
        self._error: StartError | None = None
        self._fleet = Fleet(lambda: [each.link for each in self._ready() if each.seat.role is not Role.FRONT])
        self._changes = Changes(self._fleet)
        self._filling = threading.Lock()
        self._ledger = Ledger(lambda: self._ask_all("metrics"))
        context = assembly.metrics_context(settings, assembly.read_certificates(settings))
        self._port = SharedPort(settings.host, settings.grpc_port)
        try:
            self._http: HTTPServer = metrics.serve(self._ledger.registry, settings.host, settings.metrics_port, context)
        except OSError as error:
            self._port.close()
            where = assembly.address(settings.host, settings.metrics_port)
            raise PortError(f"--metrics-port: cannot listen on {where}: {error.strerror}") from error

    def run(self) -> None:
        """Serves until SIGTERM or SIGINT; a second one cuts the grace time short.

        Raises:
            StartError: the service cannot start, or nobody is left to serve.
        """
        signals.watch((signal.SIGTERM, signal.SIGINT), self._on_signal)
        try:
            for seat in self._seats:
                self._fill(seat, first=True)
            while not self._stopping.is_set():
                self._next_event(None)
        finally:
            self._stopping.set()
            self._stop()
        if self._error is not None:
            raise self._error

    def _next_event(self, timeout: float | None) -> None:
        try:
            event = self._events.get(timeout=timeout)
        except Empty:
            return
        event()

    def _on_signal(self, number: signal.Signals) -> None:
        again = self._stopping.is_set()
        _log.info("%s: stopping%s", number.name, " at once" if again else "")
        self._stopping.set()
        # Wakes the main loop, whichever it is in.
        self._events.put(self._hurry if again else lambda: None)

    def _hurry(self) -> None:
        for process in list(self._processes.values()):
            process.link.tell("hurry")

    def _fill(self, seat: Seat, *, first: bool = False) -> Process | None:
        """Starts a process for a seat; None when all are to stop."""
        settings = self._settings.model_copy(
            update={
                "grpc_port": self._port.number,
                "threads": self._settings.threads or self._share_of_cores(seat),
                "request_core": self._placement.core_after(seat.number),
            }
        )
        assignment = Assignment(settings, None if first else self._fleet.held(), first)
        with self._filling:
            if self._stopping.is_set():
                return None
            process = Process(
                seat,
                {
                    "assignment": lambda: assignment,
                    "change": self._change,
                    "statistics": self._statistics,
                },
                assigned_first=first,
                on_loaded=lambda: self._events.put(lambda: self._on_loaded(process)),
                on_serving=lambda: self._events.put(lambda: self._on_serving(process)),
                on_end=lambda: self._events.put(lambda: self._on_end(process)),
            )
            process.start()
            self._processes[seat] = process
            for other in self._processes.values():
                process.attach(other)
        return process

    def _fill_first(self, seat: Seat) -> None:
        self._fill(seat, first=True)

    def _share_of_cores(self, seat: Seat) -> int:
        cores = backend.usable_cores()
        return cores if seat.role is Role.ENGINE else max(1, cores // self._settings.workers)

    def _on_loaded(self, process: Process) -> None:
        """At the start all wait for the last; later each joins for itself (see ``_refill``)."""
        if process.assigned_first and len(self._loaded()) == len(self._seats):
            for each in self._loaded():
                each.admit()

    def _on_serving(self, process: Process) -> None:
        """Only now callers get to it, and its metrics may say so."""
        if process.ended or self._stopping.is_set():
            return
        self._ledger.joined(str(process), process.seat.role.value)
        if self._announced:
            _log.info("%s is ready again", process)
        elif sum(each.serving for each in list(self._processes.values())) == len(self._seats):
            self._announced = True
            self._fleet.held()
            print(self._summary(), flush=True)
            threading.Thread(target=self._look, name="look", daemon=True).start()
            if self._settings.poll_seconds:
                task = (lambda: self._change(Refresh()), self._settings.poll_seconds, self._stopping)
                threading.Thread(target=poll, args=task, name="poll", daemon=True).start()

    def _on_end(self, process: Process) -> None:
        code = process.wait()
        seat = process.seat
        self._ledger.left(str(process), seat.role.value, process.last_metrics)
        with self._filling:
            if self._processes.get(seat) is process:
                del self._processes[seat]
        if self._stopping.is_set():
            return
        if process.failure is not None:
            _log.error("%s cannot start: %s", seat, process.failure)
            if process.assigned_first:
                self._give_up(process.failure)
                return
        admitted = process.admitted_at
        long = admitted is not None and time.monotonic() - admitted > _LONG_LIFE
        self._failures[seat] = 0 if long or code == 0 else self._failures[seat] + 1
        failures = self._failures[seat]
        told = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if failures >= _PATIENCE and not any(each.seat.role is seat.role for each in self._ready()):
            why = f": {process.failure}" if process.failure is not None else ""
            self._give_up(ProcessError(f"{seat} ended {failures} times in a row, the last with {told}{why}"))
            return
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (failures - 1)) if failures else 0.0
        _log.warning("%s ended with %s; it is started anew in %.1f s", seat, told, pause)
        self._ledger.restarted(seat.role.value)
        first = process.assigned_first and admitted is None
        threading.Thread(target=self._refill, args=(seat, pause, first), name=f"refill-{seat}", daemon=True).start()

    def _give_up(self, error: StartError) -> None:
        self._error = error
        self._stopping.set()

    def _refill(self, seat: Seat, pause: float, first: bool) -> None:
        """Fills a seat anew, on a thread of its own."""
        if self._stopping.wait(pause):
            return
        if first:  # all the others wait for it
            self._events.put(lambda: self._fill_first(seat))
            return
        try:
            # No change meanwhile: what it loads is what the others serve when it joins. Fronts load nothing.
            with nullcontext() if seat.role is Role.FRONT else self._changes.lock:
                process = self._fill(seat)
                if process is None:
                    return
                process.settled.wait()
                if process.ended or self._stopping.is_set():
                    return
                expected = self._fleet.held() or {}
                has = process.link.ask("held") if seat.role is Role.WORKER else expected
                process.admit()
            for name in [name for name in expected if has.get(name) != expected[name]]:
                # Its files were written over in place, and nobody can load any more what the others have.
                _log.warning("%s found other files of %s than the others have; all load it anew", process, name)
                with self._changes.lock:
                    self._fleet.reload(name)
        except ServingError as error:
            _log.warning("%s: %s", seat, error)

    def _loaded(self) -> list[Process]:
        return [each for each in list(self._processes.values()) if each.loaded]

    def _ready(self) -> list[Process]:
        return [each for each in list(self._processes.values()) if each.ready]

    def _change(self, order: Order) -> None:
        self._changes.carry_out(order)

    def _statistics(self, name: str, version: int) -> Snapshot:
        sums = Snapshot()
        for snapshot in self._ask_all("statistics", name, version).values():
            if snapshot is not None:
                sums.merge(snapshot)
        return sums

    def _ask_all(self, what: str, *arguments: Any) -> dict[str, Any]:
        """What those answer that do so in time, by process."""
        calls = {str(each): each.ask(what, *arguments) for each in self._ready()}
        end = time.monotonic() + _ANSWER_SECONDS
        answers = {}
        for name, call in calls.items():
            try:
                answers[name] = call.result(max(0.0, end - time.monotonic()))
            except Exception as error:
                _log.debug("%s of %s: %s", what, name, error)
        return answers

    def _look(self) -> None:
        while not self._stopping.wait(_LOOK_SECONDS):
            self._ledger.look()
            for process in self._ready():
                silence = time.monotonic() - process.heard_at
                if silence > _SILENCE_SECONDS and not self._stopping.is_set():
                    _log.error("%s has not answered for %.0f s and is killed", process, silence)
                    process.kill()

    def _summary(self) -> str:
        held = self._fleet.held() or {}
        models = [(name, version) for name in sorted(held) for version in sorted(held[name].versions)]
        return assembly.ready_line(self._settings, self._port.number, self._http.server_port, models)

    def _stop(self) -> None:
        """Those that listen first, then the engine, which they need until their last request."""
        end = time.monotonic() + self._settings.grace_seconds + _MARGIN_SECONDS
        for roles in ((Role.WORKER, Role.FRONT), (Role.ENGINE,)):
            with self._filling:
                stopped = [each for each in self._processes.values() if each.seat.role in roles]
            for process in stopped:
                process.stop()
            while any(not process.ended for process in stopped) and time.monotonic() < end:
                self._next_event(min(0.2, max(0.0, end - time.monotonic())))
            for process in stopped:
                if process.ended:
                    # Its link is gone, and it is about to be: whoever waits for us is to find nobody left behind.
                    process.wait()
            end += _MARGIN_SECONDS
        for process in list(self._processes.values()):
            if not process.ended:
                _log.error("%s did not stop in time and is killed", process.seat)
                self._error = self._error or ProcessError(f"{process.seat} did not stop in time and was killed")
                process.kill()
        self._http.shutdown()
        self._http.server_close()
        self._port.close()
        _log.info("stopped")


def uses_engine(settings: Settings) -> bool:
    """Whether one process has the models for all: when it is asked for, and for several workers on a GPU."""
    on_gpu = settings.provider != "cpu" and backend.count_gpus() > 0
    return settings.engine_process or (settings.workers > 1 and on_gpu)


def run(settings: Settings) -> None:
    """See ``Supervisor.run``."""
    Supervisor(settings).run()
