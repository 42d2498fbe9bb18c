"""The composition root: builds everything once, from settings, and runs it.

Start: bind the ports (so that a taken one is said at once), answer health checks with NOT_SERVING, load and warm the
models, then SERVING. Stop: health NOT_SERVING, no new requests, those under way finish within the grace time, then
queues, sessions and the metrics port close.
"""

import logging
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import HTTPServer
from importlib.metadata import PackageNotFoundError, version
from types import FrameType

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from serving import backend, imaging
from serving.backend import Runtime
from serving.engine import Engine
from serving.errors import PortError
from serving.metrics import Metrics
from serving.model_settings import Limits, VersionPolicy
from serving.repository import ModelRepository
from serving.servicers import native, open_inference, tensorflow_serving
from serving.servicers.status import Reception
from serving.settings import Settings

# Threads beyond the requests in flight: for refusals, health checks and open reflection streams.
_SPARE_THREADS = 16
# For what is between gRPC and us when the stop begins: requests taken but not yet on a thread, news to health watchers.
_SETTLE_SECONDS = 0.1

_SERVICES = (native.SERVICE_NAME, open_inference.SERVICE_NAME, *tensorflow_serving.SERVICE_NAMES)

_log = logging.getLogger(__name__)


class Server:
    """The service on its ports.

    Args:
        settings: all of it.

    Attributes:
        grpc_port, metrics_port: the real ones, once started.

    Raises:
        StartError: the provider asked for cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.grpc_port = settings.grpc_port
        self.metrics_port = settings.metrics_port
        imaging.limit_threads()
        self._metrics = Metrics(version=_distribution_version(), runtime_version=backend.VERSION)
        runtime = Runtime.choose(settings.provider, settings.threads)
        self._health = health.HealthServicer()
        self._repository = ModelRepository(
            settings.model_repository,
            runtime,
            Limits(
                settings.max_batch_size,
                settings.max_queue_size,
                settings.allowed_batch_sizes,
                settings.max_queue_delay_microseconds * 1e-6,
                settings.instances,
            ),
            self._metrics,
            policy=VersionPolicy.parse(settings.version_policy),
            retire_seconds=settings.grace_seconds,
            on_change=lambda name, served: self._set_health(name, serving=served),
        )
        self.engine = Engine(
            self._repository, max_pixels=settings.max_pixels, picture_slots=max(2, backend.usable_cores())
        )
        self._reception = Reception(self._repository, self._metrics, settings.max_in_flight, settings.stream_window)
        self._grpc = self._build_grpc()
        self._http: HTTPServer | None = None
        self._stopping = threading.Event()

    def start(self, stopping: threading.Event) -> None:
        """Binds the ports, loads the models, and serves.

        Args:
            stopping: loading ends early when it is set; the server is then not ready.

        Raises:
            StartError: a port is taken, or a model is broken.
        """
        self._set_health("", *_SERVICES, serving=False)
        self._bind()
        self._grpc.start()
        self._repository.load(stopping.is_set)
        if self._repository.ready:
            self._set_health("", *_SERVICES, serving=True)
            if self._settings.poll_seconds:
                threading.Thread(target=self._poll, name="poll", daemon=True).start()

    @property
    def summary(self) -> str:
        """One line for people and scripts: the addresses and what is served there."""
        host = self._settings.host
        models = ",".join(f"{servable.name}/{servable.version}" for servable in self.engine.models())
        return (
            f"ready grpc={_address(host, self.grpc_port)}"
            f" metrics=http://{_address(host, self.metrics_port)}/metrics models={models}"
        )

    def stop(self, grace: float) -> None:
        """Drains and closes.

        Args:
            grace: seconds for the requests under way; those that are not done by then are cancelled.
        """
        end = time.monotonic() + grace
        self._stopping.set()
        self._health.enter_graceful_shutdown()
        stopped = self._grpc.stop(grace)
        time.sleep(_SETTLE_SECONDS)
        self._reception.drain()
        self._reception.wait_idle(max(0.0, end - time.monotonic()))
        # What is open now are streams that would outlast any grace time: health watchers and reflection.
        self._grpc.stop(0)
        stopped.wait()
        self._reception.close()
        self._repository.close(max(0.0, end - time.monotonic()) + 1.0)
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()

    def hurry(self) -> None:
        """Cancels the requests that ``stop`` still waits for."""
        self._grpc.stop(0)

    def _poll(self) -> None:
        while not self._stopping.wait(self._settings.poll_seconds):
            self._repository.refresh()

    def _build_grpc(self) -> grpc.Server:
        settings = self._settings
        server = grpc.server(
            # An open stream holds a thread whether or not a request of it is under way.
            ThreadPoolExecutor(2 * settings.max_in_flight + _SPARE_THREADS, thread_name_prefix="grpc"),
            options=[
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_send_message_length", settings.max_message_bytes),
                # Without this, two servers share one port, and each gets half of the requests meant for the other.
                ("grpc.so_reuseport", 0),
            ],
        )
        native.add_to(server, native.EncoderServicer(self.engine, self._reception))
        open_inference.add_to(
            server,
            open_inference.OpenInferenceServicer(
                self.engine, self._reception, version=_distribution_version(), control=settings.callers_control_models
            ),
        )
        tensorflow_serving.add_to(
            server,
            tensorflow_serving.PredictionServicer(self.engine, self._reception),
            tensorflow_serving.ModelServicer(self.engine, self._reception, control=settings.callers_control_models),
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        return server

    def _bind(self) -> None:
        host = self._settings.host
        try:
            self.grpc_port = self._grpc.add_insecure_port(_address(host, self._settings.grpc_port))
        except RuntimeError as error:
            address = _address(host, self._settings.grpc_port)
            raise PortError(f"--grpc-port: cannot listen on {address}; is the port taken?") from error
        try:
            self._http = self._metrics.serve(host, self._settings.metrics_port)
        except OSError as error:
            address = _address(host, self._settings.metrics_port)
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

    def on_signal(number: int, frame: FrameType | None) -> None:
        del frame
        (hurry if stopping.is_set() else stopping).set()
        _log.info("%s: stopping%s", signal.Signals(number).name, " at once" if hurry.is_set() else "")

    # Before the models load: a server that is stopped while it loads ends at once.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    server = Server(settings)
    try:
        server.start(stopping)
        if not stopping.is_set():
            print(server.summary, flush=True)
            stopping.wait()
    finally:
        _stop(server, settings.grace_seconds, hurry)


def _stop(server: Server, grace: float, hurry: threading.Event) -> None:
    drain = threading.Thread(target=server.stop, args=(grace,), name="drain")
    drain.start()
    while drain.is_alive() and not hurry.wait(0.05):
        pass
    if hurry.is_set():
        server.hurry()
    drain.join()
    _log.info("stopped")


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _distribution_version() -> str:
    try:
        return version("sparsewalk")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"
