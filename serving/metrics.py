"""What the server measures, as Prometheus sees it. Only this module and ``processes/metrics.py`` know the library.

Times are histograms in seconds, so that they add up over replicas; each phase of a request is one metric. Buckets
start at 100 microseconds, since that is where a small encoder lives. One process, one registry. ``tests/serving/
metrics.golden.txt`` holds the names, for whoever draws or alerts on them.

Label values are bounded: models and versions are those loaded, methods those of the services, and a name that a
client made up is counted under ``unknown``. What a version measured goes with it when it is unloaded.
"""

import platform
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from http.server import HTTPServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, ProcessCollector, make_wsgi_app
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from serving import exposition
from serving.bins import NOTHING, Bins
from serving.gpu import Gpu, Gpus
from serving.timings import Timings

UNKNOWN = "unknown"

_SECONDS = (
    *(0.0001, 0.0002, 0.0003, 0.0005, 0.0008),
    *(0.0013, 0.002, 0.003, 0.005, 0.008),
    *(0.013, 0.02, 0.03, 0.05, 0.08),
    *(0.13, 0.2, 0.3, 0.5, 0.8),
    *(1.3, 2.0, 3.0, 5.0, 10.0),
)
_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
_SHARES = (0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_MODEL = ("model", "version")

# In the order of the fields of Timings.
_PHASES = {
    "sparsewalk_decode_seconds": ("From the bytes of a picture to the model's input.", _SECONDS),
    "sparsewalk_queue_seconds": ("Waiting for the model.", _SECONDS),
    "sparsewalk_inference_seconds": ("The run of the model that held the request.", _SECONDS),
    "sparsewalk_postprocess_seconds": ("From the model's output to the answer.", _SECONDS),
    "sparsewalk_total_seconds": ("From the request's arrival at the engine to its answer.", _SECONDS),
}
_BATCHES = {
    "sparsewalk_batch_rows": ("Rows in one run.", _ROWS),
    "sparsewalk_batch_fill_ratio": ("Rows in one run, of the most that there may be.", _SHARES),
}

Families = list[Metric]
# Name and version of a model, and the state it is in.
States = Iterable[tuple[str, int, str]]


class Metrics:
    """All metrics of one server.

    Args:
        version: of Sparsewalk, for the build info.
        runtime_version: of ONNX Runtime, likewise.
        registry: where they are registered; a fresh one where None.
        gpus: whose state is told; where None, those of this machine, if any.
    """

    def __init__(
        self,
        *,
        version: str,
        runtime_version: str,
        registry: CollectorRegistry | None = None,
        gpus: Gpus | None = None,
    ) -> None:
        registry = CollectorRegistry() if registry is None else registry
        self._registry = registry
        self._phases = _Histograms(_PHASES, registry)
        self._batches = _Histograms(_BATCHES, registry)
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
        self._refusals = Counter(
            "sparsewalk_refusals",
            "Requests refused or failed, by what was wrong; each has one reason.",
            (*_MODEL, "reason"),
            registry=registry,
        )
        self._in_flight = Gauge("sparsewalk_requests_in_flight", "Requests under way.", registry=registry)
        self._ready = Gauge("sparsewalk_model_ready", "1 when the model answers.", _MODEL, registry=registry)
        self._load = Gauge(
            "sparsewalk_model_load_seconds", "Time that loading and warm-up took.", _MODEL, registry=registry
        )
        self._warm_up = Gauge(
            "sparsewalk_model_warm_up_seconds", "Time that warm-up took, within loading.", _MODEL, registry=registry
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
        found = Gpus.find() if gpus is None else gpus
        if found is not None:
            registry.register(_GpuCollector(found))

    def model(self, name: str, version: int) -> "ModelMetrics":
        """The metrics of one model version, bound once, so that a request pays for no look-up."""
        labels = (name, str(version))
        return ModelMetrics(
            phases=self._phases.of(labels),
            batches=self._batches.of(labels),
            padding=self._padding.labels(*labels),
            depth=self._depth.labels(*labels),
            ready=self._ready.labels(*labels),
            load=self._load.labels(*labels),
            warm_up=self._warm_up.labels(*labels),
            provider=self._provider,
            labels=labels,
        )

    def drop(self, model: str, version: int) -> None:
        """Forgets what a version has measured that is served no more; that it is not ready stays until ``forget``."""
        labels = (model, str(version))
        self._phases.drop(labels)
        self._batches.drop(labels)
        self._counters = {key: counter for key, counter in list(self._counters.items()) if key[:2] != labels}
        named = dict(zip(_MODEL, labels, strict=True))
        gauges = (self._depth, self._load, self._warm_up, self._provider)
        for metric in (*gauges, self._padding, self._requests, self._refusals):
            metric.remove_by_labels(named)

    def forget(self, model: str, version: int) -> None:
        """Forgets a version that is gone, so that models which are trained on and on do not fill the page."""
        self.drop(model, version)
        self._ready.remove(model, str(version))

    def count(self, model: str, version: str, method: str, code: str) -> None:
        """Counts one answered request. Model and version must be known ones, or ``UNKNOWN``."""
        key = (model, version, method, code)
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = self._requests.labels(*key)
        counter.inc()

    def refused(self, model: str, version: str, reason: str) -> None:
        """Counts one request that was refused or failed; model and version as in ``count``."""
        self._refusals.labels(model, version, reason).inc()

    def watch_in_flight(self, count: Callable[[], int]) -> None:
        """Has ``count`` asked for the requests under way whenever the metrics are read."""
        self._in_flight.set_function(count)

    def watch_states(self, states: Callable[[], States], possible: Iterable[str]) -> None:
        """Has ``states`` asked whenever the metrics are read; each is one of ``possible``."""
        self._registry.register(_StateCollector(states, tuple(possible)))

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

    phases: Bins
    batches: Bins
    padding: Counter
    depth: Gauge
    ready: Gauge
    load: Gauge
    warm_up: Gauge
    provider: Gauge
    labels: tuple[str, str]

    def loaded(self, provider: str, seconds: float) -> None:
        """Notes that the model is ready, where it runs, and how long loading took."""
        self.provider.labels(*self.labels, provider).set(1)
        self.load.set(seconds)
        self.ready.set(1)

    def warmed_up(self, seconds: float) -> None:
        """Notes how long the first runs took."""
        self.warm_up.set(seconds)

    def closed(self) -> None:
        """Notes that the model answers no more."""
        self.ready.set(0)

    def observe(self, timings: Timings, postprocessed: bool = True) -> None:
        """Notes one answered request; without postprocessing that phase did not happen."""
        self.phases.add(timings if postprocessed else timings._replace(postprocess=NOTHING))

    def observe_batch(self, rows: int, padding: int, most: int) -> None:
        """Notes one run: the callers' rows, those filled in, and how many there may be."""
        self.batches.add((rows, rows / most))
        if padding:
            self.padding.inc(padding)

    def watch_queue(self, depth: Callable[[], int]) -> None:
        """Has ``depth`` asked for the requests that wait whenever the metrics are read."""
        self.depth.set_function(depth)


class _Histograms(Collector):
    """Histograms of each model version that are filled together.

    Args:
        kinds: name -> what it is, and the upper bounds of its buckets.
        registry: where they are registered.
    """

    def __init__(self, kinds: Mapping[str, tuple[str, tuple[float, ...]]], registry: CollectorRegistry) -> None:
        self._kinds = kinds
        self._bins: dict[tuple[str, str], Bins] = {}
        registry.register(self)

    def of(self, labels: tuple[str, str]) -> Bins:
        """Those of one model version, the same until they are dropped."""
        return self._bins.setdefault(labels, Bins([bounds for _, bounds in self._kinds.values()]))

    def drop(self, labels: tuple[str, str]) -> None:
        """Forgets those of one model version."""
        self._bins.pop(labels, None)

    def collect(self) -> Iterator[Metric]:
        """All of them, now."""
        families = [HistogramMetricFamily(name, text, labels=_MODEL) for name, (text, _) in self._kinds.items()]
        for labels, bins in list(self._bins.items()):
            for family, (_, bounds), found in zip(families, self._kinds.values(), bins.read(), strict=True):
                names = [*map(floatToGoString, bounds), "+Inf"]
                family.add_metric(labels, list(zip(names, found.counts, strict=True)), found.total)
        yield from families


class _StateCollector(Collector):
    def __init__(self, states: Callable[[], States], possible: tuple[str, ...]) -> None:
        self._states = states
        self._possible = possible

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "sparsewalk_model_state", "1 for the state that the model is in.", labels=(*_MODEL, "state")
        )
        for name, version, found in self._states():
            for state in self._possible:
                family.add_metric((name, str(version), state), float(state == found))
        yield family


class _GpuCollector(Collector):
    _FIGURES: tuple[tuple[str, str, Callable[[Gpu], float | None]], ...] = (
        (
            "sparsewalk_gpu_utilization_ratio",
            "Share of time in which the GPU ran something.",
            lambda gpu: gpu.utilization,
        ),
        ("sparsewalk_gpu_memory_used_bytes", "Memory of the GPU in use, by anyone.", lambda gpu: gpu.memory_used),
        ("sparsewalk_gpu_memory_total_bytes", "Memory of the GPU.", lambda gpu: gpu.memory_total),
        ("sparsewalk_gpu_power_watts", "What the GPU draws.", lambda gpu: gpu.power),
        ("sparsewalk_gpu_temperature_celsius", "How warm the GPU is.", lambda gpu: gpu.temperature),
    )

    def __init__(self, gpus: Gpus) -> None:
        self._gpus = gpus

    def collect(self) -> Iterator[Metric]:
        found = list(self._gpus.read())
        for name, text, figure in self._FIGURES:
            family = GaugeMetricFamily(name, text, labels=("gpu", "uuid"))
            for gpu in found:
                value = figure(gpu)
                if value is not None:
                    family.add_metric((str(gpu.index), gpu.uuid), value)
            yield family


def serve(
    registry: CollectorRegistry, host: str, port: int, context: Callable[[], ssl.SSLContext] | None = None
) -> HTTPServer:
    """Serves a registry's page; see ``Metrics.serve``."""
    return exposition.serve(make_wsgi_app(registry), host, port, context)
