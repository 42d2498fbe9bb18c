"""What the server measures, as Prometheus sees it. The only module that knows the library.

Times are histograms in seconds, so that they add up over replicas; each phase of a request is one metric. Buckets
start at 100 microseconds, since that is where a small encoder lives. One process, one registry.

Label values are bounded: models and versions are those loaded, methods those of the services, and a name that a
client made up is counted under ``unknown``.
"""

import platform
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.server import HTTPServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, ProcessCollector, make_wsgi_app

from serving import exposition
from serving.timings import Timings

UNKNOWN = "unknown"

_SECONDS = (
    *(0.0001, 0.0002, 0.0003, 0.0005, 0.0008),
    *(0.0013, 0.002, 0.003, 0.005, 0.008),
    *(0.013, 0.02, 0.03, 0.05, 0.08),
    *(0.13, 0.2, 0.3, 0.5, 0.8),
    *(1.3, 2.0, 3.0, 5.0, 10.0),
)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_MODEL = ("model", "version")

Families = list[Metric]


class Metrics:
    """All metrics of one server.

    Args:
        version: of Sparsewalk, for the build info.
        runtime_version: of ONNX Runtime, likewise.
        registry: where they are registered; a fresh one where None.
    """

    def __init__(self, *, version: str, runtime_version: str, registry: CollectorRegistry | None = None) -> None:
        registry = CollectorRegistry() if registry is None else registry
        self._registry = registry
        phases = {
            "decode": "From the bytes of a picture to the model's input.",
            "queue": "Waiting for the model.",
            "inference": "The run of the model that held the request.",
            "postprocess": "From the model's output to the answer.",
            "total": "From the request's arrival at the engine to its answer.",
        }
        self._phases = {
            phase: Histogram(f"sparsewalk_{phase}_seconds", text, _MODEL, buckets=_SECONDS, registry=registry)
            for phase, text in phases.items()
        }
        self._batch = Histogram("sparsewalk_batch_rows", "Rows in one run.", _MODEL, buckets=_ROWS, registry=registry)
        self._padding = Counter(
            "sparsewalk_batch_padding_rows", "Rows filled in to reach an allowed batch size.", _MODEL, registry=registry
        )
        self._depth = Gauge("sparsewalk_queue_depth", "Requests that wait for the model.", _MODEL, registry=registry)
        self._requests = Counter(
            "sparsewalk_requests",
            "Requests answered, by gRPC status code.",
            (*_MODEL, "method", "code"),
            registry=registry,
        )
        # Looking a child up takes longer than counting; there are as many as models times methods times codes.
        self._counters: dict[tuple[str, str, str, str], Counter] = {}
        self._in_flight = Gauge("sparsewalk_requests_in_flight", "Requests under way.", registry=registry)
        self._ready = Gauge("sparsewalk_model_ready", "1 when the model answers.", _MODEL, registry=registry)
        self._load = Gauge(
            "sparsewalk_model_load_seconds", "Time that loading and warm-up took.", _MODEL, registry=registry
        )
        self._provider = Gauge(
            "sparsewalk_provider_info",
            "1 for the execution provider that really runs the model.",
            (*_MODEL, "provider"),
            registry=registry,
        )
        build = Gauge(
            "sparsewalk_build_info", "1; what runs here.", ("version", "python", "onnxruntime"), registry=registry
        )
        build.labels(version, platform.python_version(), runtime_version).set(1)
        ProcessCollector(registry=registry)

    def model(self, name: str, version: int) -> "ModelMetrics":
        """The metrics of one model version, bound once, so that a request pays for no look-up."""
        labels = (name, str(version))
        return ModelMetrics(
            phases={phase: histogram.labels(*labels) for phase, histogram in self._phases.items()},
            batch=self._batch.labels(*labels),
            padding=self._padding.labels(*labels),
            depth=self._depth.labels(*labels),
            ready=self._ready.labels(*labels),
            load=self._load.labels(*labels),
            provider=self._provider,
            labels=labels,
        )

    def count(self, model: str, version: str, method: str, code: str) -> None:
        """Counts one answered request. Model and version must be known ones, or ``UNKNOWN``."""
        key = (model, version, method, code)
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = self._requests.labels(*key)
        counter.inc()

    def watch_in_flight(self, count: Callable[[], int]) -> None:
        """Has ``count`` asked for the requests under way whenever the metrics are read."""
        self._in_flight.set_function(count)

    def serve(self, host: str, port: int, context: Callable[[], ssl.SSLContext] | None = None) -> HTTPServer:
        """Serves ``/metrics`` over HTTP on a thread of its own.

        Args:
            host: address to listen on.
            port: 0 takes any free one; the server returned says which (``server_port``).
            context: asked for the certificates of each connection; None: no TLS.

        Raises:
            OSError: the port is taken, or not ours to bind.
        """
        return serve(self._registry, host, port, context)

    def families(self) -> Families:
        """Everything as it is now, for a page that adds up several processes."""
        return list(self._registry.collect())


@dataclass(frozen=True, slots=True)
class ModelMetrics:
    """The metrics of one model version."""

    phases: dict[str, Histogram]
    batch: Histogram
    padding: Counter
    depth: Gauge
    ready: Gauge
    load: Gauge
    provider: Gauge
    labels: tuple[str, str]

    def loaded(self, provider: str, seconds: float) -> None:
        """Notes that the model is ready, where it runs, and how long loading took."""
        self.provider.labels(*self.labels, provider).set(1)
        self.load.set(seconds)
        self.ready.set(1)

    def closed(self) -> None:
        """Notes that the model answers no more."""
        self.ready.set(0)

    def observe(self, timings: Timings, skip: Iterable[str] = ()) -> None:
        """Notes one answered request; phases in ``skip`` did not happen."""
        for phase, histogram in self.phases.items():
            if phase not in skip:
                histogram.observe(getattr(timings, phase))

    def observe_batch(self, rows: int, padding: int) -> None:
        """Notes one run: the callers' rows, and those filled in."""
        self.batch.observe(rows)
        if padding:
            self.padding.inc(padding)

    def watch_queue(self, depth: Callable[[], int]) -> None:
        """Has ``depth`` asked for the requests that wait whenever the metrics are read."""
        self.depth.set_function(depth)


def serve(
    registry: CollectorRegistry, host: str, port: int, context: Callable[[], ssl.SSLContext] | None = None
) -> HTTPServer:
    """Serves a registry's page; see ``Metrics.serve``."""
    return exposition.serve(make_wsgi_app(registry), host, port, context)
