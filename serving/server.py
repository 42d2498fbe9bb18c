"""The composition root: builds everything once, from settings, and runs it.

Start: bind the ports (so that a taken one is said at once), answer health checks with NOT_SERVING, load and warm the
models, then SERVING. Stop: health NOT_SERVING, for a while new requests are still taken, then refused; those under way
finish within the grace time, then queues, sessions and the metrics port close.
"""

import gc
import logging
import signal
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import HTTPServer
from pathlib import Path
from typing import Protocol

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc

from serving import assembly, backend, imaging, signals
from serving.changes import poll
from serving.engine import Engine
from serving.errors import PortError
from serving.metrics import Metrics
from serving.placement import Placement
from serving.repository import Held
from serving.security import Tokens
from serving.servicers import native, open_inference, reflection, tensorflow_serving, transport
from serving.servicers.guard import Guard
from serving.servicers.health import Health
from serving.servicers.journal import Journal
from serving.servicers.registration import Registrar
from serving.servicers.status import Reception
from serving.settings import Settings
from serving.shared_memory import Regions
from serving.shelf import Shelf, State
from serving.tracing import Tracer

# Threads beyond the requests in flight and the open streams: for refusals and health checks.
_SPARE_THREADS = 16
# For answers that gRPC has got from us and not yet sent.
_SEND_SECONDS = 1.0
# For the last traces, if their collector is there; if not, nothing waits longer for it.
_FLUSH_SECONDS = 5.0

_SERVICES = (native.SERVICE_NAME, open_inference.SERVICE_NAME, *tensorflow_serving.SERVICE_NAMES)
_ALL_SERVICES = (*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)

_log = logging.getLogger(__name__)


class Repository(Protocol):
    """Where a server's models come from: this process, or the engine process (``processes/remote.py``)."""

    def load(self, stop: Callable[[], bool], *, held: Mapping[str, Held] | None, gate: Callable[[], bool]) -> None:
        """Makes the models ready."""

    def close(self, timeout: float | None) -> None:
        """Finishes what waits, and ends."""


@dataclass(frozen=True, slots=True)
class Membership:
    """What is different for a server that is one of several processes on one port.

    Attributes:
        repository: makes it, from the metrics, from whom to tell of changes, and from where traces go.
        gate: called when this server is ready; returns when all are. False: it is to stop.
        held: what the others serve, for one that comes back; None at the start.
        listens_first: whether it may be asked, and say that it is not ready, while it loads. Not for one that comes
            back: callers would get to it rather than to those that are ready.
    """

    repository: Callable[[Metrics, Callable[[str, bool], None], Tracer | None], tuple[Shelf, Repository]]
    gate: Callable[[], bool]
    held: Mapping[str, Held] | None
    listens_first: bool


class Server:
    """The service on its ports.

    Args:
        settings: all of it.
        member: of several processes; None = it is the only one, and serves the metrics too.

    Attributes:
        grpc_port, metrics_port: the real ones, once started.

    Raises:
        StartError: the provider, the certificates or the tokens cannot be used.
    """

    def __init__(self, settings: Settings, member: Membership | None = None) -> None:
        self._settings = settings
        self._member = member
        self.grpc_port = settings.grpc_port
        self.metrics_port = settings.metrics_port
        self._certificates = assembly.read_certificates(settings)
        self._placement = Placement(settings.request_core)
        self._tracer = assembly.make_tracer(settings)
        imaging.limit_threads()
        self.metrics = assembly.make_metrics()
        self._health = Health(settings.max_connections)
        self._started = False
        shelf: Shelf
        self._repository: Repository
        if member is None:
            shelf = self._repository = assembly.make_repository(
                settings, self.metrics, on_change=self._on_change, tracer=self._tracer, placement=self._placement
            )
        else:
            shelf, self._repository = member.repository(self.metrics, self._on_change, self._tracer)
        # Several processes share the cores.
        slots = max(2, backend.usable_cores() // settings.workers)
        self.engine = Engine(shelf, max_pixels=settings.max_pixels, picture_slots=slots, placement=self._placement)
        level = (
            None if settings.request_log_level == "off" else logging.getLevelName(settings.request_log_level.upper())
        )
        self._reception = Reception(
            shelf,
            self.metrics,
            settings.max_in_flight,
            settings.stream_window,
            Journal(level, self._tracer),
            settings.max_message_bytes,
        )
        self.metrics.watch_states(
            lambda: [(status.name, status.version, status.state.value) for status in shelf.statuses()],
            [state.value for state in State],
        )
        with self._placement.home():
            self._grpc = self._build_grpc()
        self._http: HTTPServer | None = None
        self._stopping = threading.Event()
        self._hurried = threading.Event()

    def start(self, stopping: threading.Event) -> None:
        """Binds the ports, loads the models, and serves.

        Args:
            stopping: loading ends early when it is set; the server is then not ready.

        Raises:
            StartError: a port is taken, or a model is broken.
        """
        self._set_health("", *_SERVICES, serving=False)
        member = self._member
        if member is None or member.listens_first:
            self._listen()
        self._repository.load(
            stopping.is_set,
            held=member.held if member is not None else None,
            gate=member.gate if member is not None else lambda: True,
        )
        if self.engine.repository.ready:
            # Python's collector walks all objects every few thousand requests and holds up each of them meanwhile, some
            # 35 ms for what is imported and loaded by now. That stays, or goes by reference counts (unloaded versions).
            gc.freeze()
            self._started = True
            self._set_health("", *_SERVICES, serving=self.engine.repository.ready)
            if member is not None and not member.listens_first:
                self._listen()
            if member is None and self._settings.poll_seconds:
                task = (self.engine.repository.refresh, self._settings.poll_seconds, self._stopping)
                threading.Thread(target=poll, args=task, name="poll", daemon=True).start()

    @property
    def summary(self) -> str:
        """One line for people and scripts: the addresses and what is served there."""
        models = [(servable.name, servable.version) for servable in self.engine.models()]
        return assembly.ready_line(self._settings, self.grpc_port, self.metrics_port, models)

    def stop(self, grace: float) -> None:
        """Drains and closes.

        Args:
            grace: seconds for the requests under way; those that are not done by then are cancelled.
        """
        end = time.monotonic() + grace
        self._stopping.set()
        self._health.enter_graceful_shutdown()
        self._reception.leave()
        # Those who hear of it go elsewhere; the others are still answered.
        self._hurried.wait(min(grace, self._settings.drain_delay_seconds))
        # gRPC's stop cancels the requests that it has and we have not. So new ones are refused by us, as UNAVAILABLE;
        # then connections are told to go away; and only then those who were refused, so that none is back too early.
        self._reception.drain()
        self._reception.settle()
        stopped = self._grpc.stop(max(0.0, end - time.monotonic()))
        self._reception.dismiss()
        self._reception.wait_idle(max(0.0, end - time.monotonic()))
        # An answer is ours until gRPC has it, and sent somewhat later: to stop now would cancel the last ones.
        stopped.wait(min(_SEND_SECONDS, max(0.0, end - time.monotonic())))
        # What is open now are streams that would outlast any grace time: health watchers and reflection.
        self._grpc.stop(0)
        if not stopped.wait(max(0.1, end - time.monotonic())):
            _log.warning("some calls have not ended in time")
        self._reception.close()
        self._repository.close(max(0.0, end - time.monotonic()) + 1.0)
        if self._tracer is not None:
            self._tracer.close(min(_FLUSH_SECONDS, max(1.0, end - time.monotonic())))
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()

    def hurry(self) -> None:
        """Cancels the requests that ``stop`` still waits for."""
        self._hurried.set()
        self._grpc.stop(0)

    def _build_grpc(self) -> grpc.Server:
        settings = self._settings
        server = grpc.server(
            # An open stream holds a thread whether or not a request of it is under way.
            ThreadPoolExecutor(
                2 * settings.max_in_flight + reflection.STREAMS + _SPARE_THREADS, thread_name_prefix="grpc"
            ),
            interceptors=[] if settings.token_file is None else [self._build_guard(settings.token_file)],
            options=[
                *transport.options(settings),
                # With it, servers share a port, and each gets a part of the requests; strangers are not to.
                ("grpc.so_reuseport", int(self._member is not None)),
            ],
        )
        services = Registrar(server, self._reception.turn_away)
        native.add_to(services, native.EncoderServicer(self.engine, self._reception))
        open_inference.add_to(
            services,
            open_inference.OpenInferenceServicer(
                self.engine,
                self._reception,
                version=assembly.distribution_version(),
                control=settings.callers_control_models,
                regions=Regions(settings.max_message_bytes) if settings.system_shared_memory else None,
            ),
        )
        tensorflow_serving.add_to(
            services,
            tensorflow_serving.PredictionServicer(self.engine, self._reception),
            tensorflow_serving.ModelServicer(self.engine, self._reception, control=settings.callers_control_models),
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, services)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflection.Reflection(_ALL_SERVICES), services)
        return server

    def _build_guard(self, token_file: Path) -> Guard:
        return Guard(Tokens(token_file), self._settings.token_free, _ALL_SERVICES, self._reception.turn_away)

    def _on_change(self, name: str, served: bool) -> None:
        self._set_health(name, serving=served)
        if self._started:
            # The process that has the models may come and go.
            self._set_health("", *_SERVICES, serving=self.engine.repository.ready)

    def _listen(self) -> None:
        # The threads of gRPC start from here, and all that answer requests from those.
        with self._placement.home():
            self._bind()
            self._grpc.start()

    def _bind(self) -> None:
        host = self._settings.host
        try:
            self.grpc_port = transport.listen(
                self._grpc, assembly.address(host, self._settings.grpc_port), self._certificates
            )
        except RuntimeError as error:
            address = assembly.address(host, self._settings.grpc_port)
            raise PortError(f"--grpc-port: cannot listen on {address}; is the port taken?") from error
        if self._member is not None:
            return
        try:
            self._http = self.metrics.serve(
                host, self._settings.metrics_port, assembly.metrics_context(self._settings, self._certificates)
            )
        except OSError as error:
            address = assembly.address(host, self._settings.metrics_port)
            raise PortError(f"--metrics-port: cannot listen on {address}: {error.strerror}") from error
        self.metrics_port = self._http.server_port

    def _set_health(self, *services: str, serving: bool) -> None:
        states = health_pb2.HealthCheckResponse
        for service in services:
            self._health.set(service, states.SERVING if serving else states.NOT_SERVING)


def run(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT; a second one cuts the grace time short.

    Raises:
        StartError: the server cannot start.
    """
    stopping, hurry = threading.Event(), threading.Event()

    def on_signal(number: signal.Signals) -> None:
        (hurry if stopping.is_set() else stopping).set()
        _log.info("%s: stopping%s", number.name, " at once" if hurry.is_set() else "")

    # Before the models load: a server that is stopped while it loads ends at once.
    signals.watch((signal.SIGTERM, signal.SIGINT), on_signal)
    server = Server(settings)
    try:
        server.start(stopping)
        if not stopping.is_set():
            print(server.summary, flush=True)
            stopping.wait()
    finally:
        drain(server, settings.grace_seconds, hurry)


def drain(server: Server, grace: float, hurry: threading.Event) -> None:
    """Stops a server, and cuts the grace time short when ``hurry`` is set.

    Args:
        server: to stop.
        grace: seconds for the requests under way.
        hurry: looked at all the time.
    """
    drain = threading.Thread(target=server.stop, args=(grace,), name="drain")
    drain.start()
    while drain.is_alive() and not hurry.wait(0.05):
        pass
    if hurry.is_set():
        server.hurry()
    drain.join()
    _log.info("stopped")
