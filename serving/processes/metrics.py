"""One page of metrics for several processes: what each measured, added up under the same names.

Each process has a registry of its own and is asked for it when the page is read, and every few seconds besides, so that
little is lost of one that dies. What one that ended had counted stays in the sums, so that no counter ever falls.
Nothing is written to files. Not prometheus_client's multiprocess mode: it keeps files for every process there ever was,
knows neither gauges that are asked when read nor the process's own metrics, and makes each observation dearer.
"""

import threading
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from serving.metrics import Families

# Gauges that are not sums over processes; of those that end in _info any process's will do.
LEAST = {"sparsewalk_model_ready", "process_start_time_seconds", "process_max_fds"}
MOST = {
    "sparsewalk_model_load_seconds",
    "sparsewalk_model_warm_up_seconds",
    "sparsewalk_model_state",
    # Of the machine, and so the same in each.
    "sparsewalk_gpu_utilization_ratio",
    "sparsewalk_gpu_memory_used_bytes",
    "sparsewalk_gpu_memory_total_bytes",
    "sparsewalk_gpu_power_watts",
    "sparsewalk_gpu_temperature_celsius",
}


class Ledger(Collector):
    """Adds up.

    Args:
        ask: asks every process that lives, by any name, for its metrics; those that do not answer are left out.
    """

    def __init__(self, ask: Callable[[], dict[str, Families]]) -> None:
        self._ask = ask
        self._latest: dict[str, Families] = {}
        self._ended: Families = []
        self._lock = threading.Lock()
        self._own = CollectorRegistry()
        ProcessCollector(registry=self._own)
        self._running = Gauge(
            "sparsewalk_processes", "Processes that are ready, by what they do.", ("role",), registry=self._own
        )
        self._restarts = Counter(
            "sparsewalk_process_restarts",
            "Processes started in place of one that ended.",
            ("role",),
            registry=self._own,
        )
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """None: the processes are not asked before the page is."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The sums, now."""
        self.look()
        with self._lock:
            pages = [self._ended, *self._latest.values()]
        yield from add_up([*pages, list(self._own.collect())])

    def look(self) -> None:
        """Asks for the latest, so that not too much is lost of a process that dies before it is asked again."""
        answers = self._ask()
        with self._lock:
            self._latest.update({name: families for name, families in answers.items() if name in self._latest})

    def joined(self, name: str, role: str) -> None:
        """A process is ready."""
        self._running.labels(role).inc()
        with self._lock:
            self._latest[name] = []

    def left(self, name: str, role: str, last: Families | None) -> None:
        """A process has ended; ``last`` is what it had measured, where it could still tell."""
        with self._lock:
            if name not in self._latest:
                return
            families = self._latest.pop(name)
            counted = [family for family in last or families if family.type in ("counter", "histogram", "summary")]
            self._ended = add_up([self._ended, counted])
        self._running.labels(role).dec()

    def restarted(self, role: str) -> None:
        """A process was started in place of another."""
        self._restarts.labels(role).inc()


def add_up(pages: Iterable[Families]) -> Families:
    """The sums over several pages, in the order in which names first come."""
    sums: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for page in pages:
        for family in page:
            if family.name not in sums:
                sums[family.name] = Metric(family.name, family.documentation, family.type, family.unit)
                values[family.name] = {}
            of_family = values[family.name]
            for sample in family.samples:
                key = (sample.name, tuple(sample.labels.items()))
                had = of_family.get(key)
                of_family[key] = sample.value if had is None else _join(sample.name, had, sample.value)
    for name, family in sums.items():
        family.samples = [Sample(sample, dict(labels), value) for (sample, labels), value in values[name].items()]
    return list(sums.values())


def _join(name: str, one: float, other: float) -> float:
    if name in LEAST or name.endswith("_created"):
        return min(one, other)
    if name in MOST or name.endswith("_info"):
        return max(one, other)
    return one + other
