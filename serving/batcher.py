"""The dynamic batcher: joins what waits for one model into one run, and sends each row home.

* No added delay by default: when the model is free it takes what is there, and nothing waits for company. With a delay
  the first in line waits at most that long for a full batch, however many come after it.
* Only requests with equal shapes and the same outputs share a run. Priority 1 goes before 2, and so on; of equal
  priority the oldest goes first. Priorities are strict: a model kept busy by the first never gets to the last.
* A run never holds more than ``max_batch_size`` rows, nor, where their size is free, more than ``max_run_pixels``. A
  request with more is refused, not split: the caller knows best how to cut it, and its parts then compete fairly.
* With allowed batch sizes each run is filled up to the next of them that the pixels allow, so that the provider sees
  few shapes. What is filled in is a copy of the first row, hence a valid one, and is cut off again.
* The queue is bounded and refuses at once when full.
* A cancelled or expired request leaves the queue at once, and its slot is free; it never reaches the model.
* As many runs at once as there are instances. Runs happen on one thread of the batcher's for each, since CUDA keeps
  streams and memory per calling thread. Where that does not matter (``caller_runs``), a request that finds the model
  idle runs on its caller's thread instead: two thread switches cost more than a small encoder's whole run.
"""

import bisect
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import numpy.typing as npt

from serving.call import Call
from serving.errors import InferenceError, QueueFullError, UnavailableError
from serving.model_settings import Limits
from serving.ticket import Rows, Ticket, count_rows, join

Array = npt.NDArray[Any]
Run = Callable[[Mapping[str, Array], tuple[str, ...]], list[Array]]


@dataclass(frozen=True, slots=True)
class Batch:
    """What one run held.

    Attributes:
        rows: those of the callers.
        padding: rows filled in.
        started: when, by ``time.monotonic()``.
        seconds: the run, joining included.
        calls: whose rows they are.
    """

    rows: int
    padding: int
    started: float
    seconds: float
    calls: Sequence[Call]


class DynamicBatcher:
    """Joins requests for one model.

    Args:
        runs: one for each instance. Each maps (name -> array [rows, ...], output names) to the outputs in that order,
            and is never called twice at once unless ``caller_runs``.
        name: of the model, for messages and the threads.
        limits: sizes, delay and instances; there are as many runs as instances.
        caller_runs: whether the first of ``runs`` may be called on any thread and while it runs, and so on that of a
            caller who finds the model idle.
        on_batch: told of each run that went well.
        pixels: those of each row of a request; None where the model fixes their size.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        *,
        name: str,
        limits: Limits,
        caller_runs: bool,
        on_batch: Callable[[Batch], None],
        pixels: Callable[[Mapping[str, Array]], int | None] = lambda _: None,
    ) -> None:
        self.name = name
        self.limits = limits
        self._sizes = limits.batch_sizes()
        self._runs = runs
        # Somebody who runs on his own thread waits for nobody.
        self._caller_runs = caller_runs and limits.max_queue_delay == 0
        self._on_batch = on_batch
        self._pixels = pixels
        self._waiting: list[Ticket] = []
        # The lock on its own, for those who need not wait: taking it through the condition costs more.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._busy = 0
        self._closing = False
        self._threads: list[threading.Thread] = []

    def start(self, warm_up: Callable[[Run], None] = lambda _: None) -> None:
        """Starts the run threads.

        Args:
            warm_up: what each of them does first, with its run; this waits until all are through.

        Raises:
            Exception: whatever ``warm_up`` raised first; the batcher is then closed.
        """
        outcomes: SimpleQueue[Exception | None] = SimpleQueue()
        for number, run in enumerate(self._runs):
            name = f"run-{self.name}-{number}"
            self._threads.append(
                threading.Thread(target=self._work, args=(run, warm_up, outcomes), name=name, daemon=True)
            )
            self._threads[-1].start()
        failures = [error for error in [outcomes.get() for _ in self._runs] if error is not None]
        if failures:
            self.close()
            raise failures[0]

    @property
    def depth(self) -> int:
        """Requests that wait now."""
        return len(self._waiting)

    def infer(self, inputs: Mapping[str, Array], outputs: tuple[str, ...], call: Call) -> Rows:
        """Runs one request and waits for its rows: ``submit`` and ``result`` in one, with the short cut when idle.

        Args:
            inputs: name -> array [rows, ...]; the same, positive number of rows in each.
            outputs: names of the outputs wanted.
            call: whose request it is.

        Raises:
            RequestError: see ``submit`` and ``Ticket.result``.
        """
        if not (self._caller_runs and self._seize()):
            return self.submit(inputs, outputs, call).result()
        try:
            call.check()
            rows, most = count_rows(inputs), self._check(inputs)
            started = time.monotonic()
            try:
                results = self._compute(self._runs[0], (inputs,), outputs, rows, most, started, (call,))
            except Exception as error:
                raise InferenceError(f"the run of {self.name} failed") from error
            return Rows(dict(zip(outputs, results, strict=True)), 0.0, time.monotonic() - started, rows)
        finally:
            self._yield()

    def submit(
        self,
        inputs: Mapping[str, Array],
        outputs: tuple[str, ...],
        call: Call,
        *,
        submitted: float | None = None,
        settled: Callable[[Ticket], None] | None = None,
    ) -> Ticket:
        """Queues one request.

        Args:
            inputs: name -> array [rows, ...]; the same, positive number of rows in each.
            outputs: names of the outputs wanted.
            call: whose request it is.
            submitted: when it began to wait, by ``time.monotonic()``; now where None.
            settled: called once, when the ticket has its outcome, with a lock held: it must not wait.

        Raises:
            InvalidInputError: more rows or pixels than a run holds.
            QueueFullError: the queue is full.
            UnavailableError: the batcher is closed.
        """
        ticket = Ticket(inputs, outputs, call, self._check(inputs), self.withdraw, submitted, settled)
        with self._changed:
            if self._closing:
                raise UnavailableError(f"{self.name} is shutting down")
            if len(self._waiting) >= self.limits.max_queue_size:
                raise QueueFullError(f"the queue of {self.name} is full ({self.limits.max_queue_size} requests wait)")
            bisect.insort(self._waiting, ticket, key=_place)
            self._changed.notify()
        # The ticket has the call: if the call had the ticket, rows and model would stay until the collector comes.
        waiting = weakref.ref(ticket)

        def withdraw() -> None:
            if (ticket := waiting()) is not None:
                self.withdraw(ticket)

        call.watch(withdraw)
        return ticket

    def withdraw(self, ticket: Ticket) -> None:
        """Ends a ticket whose caller went away or ran out of time, and frees its slot. Harmless when it has ended."""
        with self._changed:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            ticket.expire()

    def close(self, timeout: float | None = None) -> None:
        """Takes no more requests, runs those that wait, and ends the run threads.

        Args:
            timeout: seconds for that; afterwards those still waiting get an UnavailableError.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        end = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        with self._changed:
            while self._waiting:
                self._waiting.pop().settle(UnavailableError(f"{self.name} is shutting down"))
            if not self._busy and not any(thread.is_alive() for thread in self._threads):
                # Whoever still holds the batcher, the memory of its sessions is free from here on.
                self._runs = ()

    def _check(self, inputs: Mapping[str, Array]) -> int:
        """Refuses what no run can hold; returns the most rows that a run of such inputs holds."""
        pixels = self._pixels(inputs)
        self.limits.check_rows(self.name, count_rows(inputs), pixels)
        return self.limits.most_rows(pixels)

    def _seize(self) -> bool:
        """Takes the model for the calling thread if it is idle and no one waits."""
        with self._lock:
            if self._busy == len(self._runs) or self._waiting or self._closing:
                return False
            self._busy += 1
            return True

    def _yield(self) -> None:
        """Gives an instance back, to those who came meanwhile if there are any."""
        with self._lock:
            self._busy -= 1
            if self._waiting or self._closing:
                self._changed.notify()

    def _work(self, run: Run, warm_up: Callable[[Run], None], outcomes: "SimpleQueue[Exception | None]") -> None:
        try:
            warm_up(run)
        except Exception as error:
            outcomes.put(error)
            return
        outcomes.put(None)
        while batch := self._next_batch():
            try:
                self._execute(run, batch)
            finally:
                # not to be kept until the next one comes
                del batch
                self._yield()

    def _next_batch(self) -> list[Ticket]:
        """Waits for work; an empty list means that the batcher is closed and drained."""
        with self._changed:
            while True:
                pause = None
                if self._busy < len(self._runs):
                    self._drop_dead()
                    if self._waiting:
                        pause = self._pause()
                        if pause <= 0:
                            batch = self._gather()
                            self._busy += 1
                            if self._waiting:
                                self._changed.notify()
                            return batch
                    elif self._closing:
                        # The next thread finds this out for itself.
                        self._changed.notify()
                        return []
                self._changed.wait(pause)

    def _drop_dead(self) -> None:
        """Lets go of the tickets that nobody waits for. The lock is held, as in the next two."""
        for ticket in [ticket for ticket in self._waiting if ticket.call.over]:
            self._waiting.remove(ticket)
            ticket.expire()

    def _pause(self) -> float:
        """Seconds for which the first in line still waits for company; 0 or less when it goes now."""
        if self.limits.max_queue_delay == 0 or self._closing:
            return 0.0
        first = self._waiting[0]
        rows = sum(ticket.rows for ticket in self._waiting if ticket.key == first.key)
        if rows >= first.most:
            return 0.0
        return first.submitted + self.limits.max_queue_delay - time.monotonic()

    def _gather(self) -> list[Ticket]:
        """Takes the first ticket and its equals, as far as they fit."""
        batch: list[Ticket] = []
        rest: list[Ticket] = []
        rows, full = 0, False
        for ticket in self._waiting:
            if full or (batch and ticket.key != batch[0].key):
                rest.append(ticket)
            elif rows + ticket.rows > ticket.most:
                # Equals stay in order: a smaller one behind does not overtake.
                full = True
                rest.append(ticket)
            else:
                batch.append(ticket)
                rows += ticket.rows
        self._waiting = rest
        return batch

    def _execute(self, run: Run, batch: list[Ticket]) -> None:
        started = time.monotonic()
        names = batch[0].key[0]
        rows = sum(ticket.rows for ticket in batch)
        try:
            parts = [ticket.inputs for ticket in batch]
            results = self._compute(run, parts, names, rows, batch[0].most, started, [ticket.call for ticket in batch])
        except Exception as error:
            with self._changed:
                for ticket in batch:
                    failure = InferenceError(f"the run of {self.name} failed")
                    failure.__cause__ = error
                    ticket.settle(failure)
            return
        elapsed = time.monotonic() - started
        with self._changed:
            start = 0
            for ticket in batch:
                own = slice(start, start + ticket.rows)
                start = own.stop
                outputs = {name: array[own] for name, array in zip(names, results, strict=True)}
                ticket.settle(Rows(outputs, started - ticket.submitted, elapsed, rows))

    def _compute(
        self,
        run: Run,
        parts: Sequence[Mapping[str, Array]],
        names: tuple[str, ...],
        rows: int,
        most: int,
        started: float,
        calls: Sequence[Call],
    ) -> list[Array]:
        """Joins, fills up, runs and cuts off what was filled in."""
        size = next((size for size in self._sizes if rows <= size <= most), rows)
        results = run(join(parts, size - rows), names)
        for name, array in zip(names, results, strict=True):
            if len(array) != size:
                raise ValueError(f"output {name!r} has {len(array)} rows where {size} went in")
        self._on_batch(Batch(rows, size - rows, started, time.monotonic() - started, calls))
        return results if size == rows else [array[:rows] for array in results]


def _place(ticket: Ticket) -> tuple[int, int]:
    return ticket.place
