"""One model version, loaded: manifest, sessions, queue, and the count of those who use it."""

import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from serving.backend import ENCODING, OnnxBackend, Runtime
from serving.batcher import Batch, DynamicBatcher, Run
from serving.call import Call
from serving.errors import ModelError, UnavailableError
from serving.manifest import Manifest, TensorSpec
from serving.metrics import ModelMetrics
from serving.model_settings import Limits
from serving.tally import Statistics
from serving.ticket import Array, Rows, Ticket
from serving.timings import Timings
from serving.tracing import Tracer


class Servable(ABC):
    """One model version, wherever it is loaded: what it is, who uses it, and what it has done.

    Args:
        manifest: its manifest.
        limits: batch, queue and instances.
        metrics: where its requests are noted.
        fingerprint: of the files it was loaded from; see ``repository.py``.
        provider: the execution provider really in use.
        decodes: the outputs that follow from an encoding alone; none where the model cannot be cut there.
    """

    def __init__(
        self,
        manifest: Manifest,
        limits: Limits,
        metrics: ModelMetrics,
        fingerprint: str,
        provider: str,
        decodes: tuple[str, ...],
    ) -> None:
        self.manifest = manifest
        self.limits = limits
        self.metrics = metrics
        self.fingerprint = fingerprint
        self.provider = provider
        self.decodes = decodes
        self.statistics = Statistics()
        self._users = 0
        self._retired = False
        self._lock = threading.Lock()
        self._left = threading.Condition(self._lock)

    @abstractmethod
    def infer(self, inputs: Mapping[str, Array], outputs: tuple[str, ...], call: Call) -> Rows:
        """Runs checked inputs in a batch with others' and waits for the rows.

        Args:
            inputs: name -> array [rows, ...]; or the encoding alone, see ``decodes``.
            outputs: those wanted.
            call: whose request it is.

        Raises:
            RequestError: see ``DynamicBatcher.infer``.
        """

    @abstractmethod
    def close(self, timeout: float | None = None) -> None:
        """Finishes what waits, at most for ``timeout`` seconds, and ends."""

    @property
    def name(self) -> str:
        """Of the model."""
        return self.manifest.name

    @property
    def version(self) -> int:
        """Of the model."""
        return self.manifest.version

    def note(self, timings: Timings, postprocessed: bool = True) -> None:
        """Notes one answered request, for metrics and statistics; without postprocessing that phase did not happen."""
        self.metrics.observe(timings, postprocessed)
        self.statistics.answered(timings)

    def enter(self) -> bool:
        """Counts one more user. False: the servable is being replaced; ask the repository again."""
        with self._lock:
            if self._retired:
                return False
            self._users += 1
            return True

    def leave(self) -> None:
        """Counts one user less."""
        with self._lock:
            self._users -= 1
            if self._retired and not self._users:
                self._left.notify_all()

    def retire(self, timeout: float | None) -> None:
        """Takes no more users, waits at most ``timeout`` seconds until those there are have left, and closes."""
        with self._left:
            self._retired = True
            self._left.wait_for(lambda: not self._users, timeout)
        self.close(timeout)


class LoadedServable(Servable):
    """One model version that is loaded in this process.

    Args:
        folder: the version folder.
        manifest: its manifest.
        runtime: provider and threads.
        limits: batch, queue and instances.
        metrics: where the runs are noted.
        fingerprint: of the files it was loaded from; see ``repository.py``.
        tracer: where the runs of traced requests are told of; None: no traces.

    Attributes:
        load_seconds: that loading and warm-up took; 0 before.

    Raises:
        StartError: the model cannot be loaded.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        runtime: Runtime,
        limits: Limits,
        metrics: ModelMetrics,
        fingerprint: str = "",
        tracer: Tracer | None = None,
    ) -> None:
        if not limits.most_rows(manifest.free_pixels()):
            raise ModelError(
                f"{folder}: pictures are brought to {manifest.resizing.height} x {manifest.resizing.width}, of which a"
                f" run holds none: max_run_pixels is {limits.max_run_pixels}"
            )

        def load() -> OnnxBackend:
            return OnnxBackend(
                folder, manifest, runtime, batch_sizes=limits.batch_sizes(), max_batch_size=limits.max_batch_size
            )

        backend = load()
        backends = [backend]
        if backend.one_thread:
            # A session and a thread for each; on the CPU one session takes several runs at once.
            backends += [load() for _ in range(limits.instances - 1)]
        super().__init__(manifest, limits, metrics, fingerprint, backend.provider, backend.decodes)
        self._batcher = DynamicBatcher(
            [backends[number % len(backends)].run for number in range(limits.instances)],
            name=f"{manifest.name}/{manifest.version}",
            limits=limits,
            caller_runs=not backend.one_thread,
            on_batch=_teller(manifest, limits, metrics, self.statistics, tracer),
            pixels=_pixel_counter(manifest.image),
        )
        self.load_seconds = 0.0
        # Metrics outlive the servable, whose sessions are to go with it: they must not keep it.
        batcher = weakref.ref(self._batcher)
        metrics.watch_queue(lambda: 0 if (loaded := batcher()) is None else loaded.depth)

    def start(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Starts the run threads and runs every batch size once, so that no caller pays for a first run.

        Args:
            stop: asked before each batch size.

        Raises:
            ModelError: the model does not run.
            UnavailableError: ``stop`` said yes.
        """
        started = time.monotonic()
        try:
            self._batcher.start(lambda run: self._warm_up(run, stop))
        except UnavailableError:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise ModelError(f"{self.name}/{self.version}: the warm-up run failed: {error}") from error
        self.metrics.warmed_up(time.monotonic() - started)

    def infer(self, inputs: Mapping[str, Array], outputs: tuple[str, ...], call: Call) -> Rows:
        """See ``Servable.infer``."""
        return self._batcher.infer(inputs, outputs, call)

    def submit(
        self,
        inputs: Mapping[str, Array],
        outputs: tuple[str, ...],
        call: Call,
        submitted: float,
        settled: Callable[[Ticket], None],
    ) -> None:
        """Queues checked inputs for a batch with others', and does not wait; see ``DynamicBatcher.submit``."""
        self._batcher.submit(inputs, outputs, call, submitted=submitted, settled=settled)

    def close(self, timeout: float | None = None) -> None:
        """See ``Servable.close``."""
        self._batcher.close(timeout)

    def _warm_up(self, run: Run, stop: Callable[[], bool]) -> None:
        names = self.manifest.output_names
        most = self.limits.most_rows(self.manifest.free_pixels())
        encoding = self.manifest.output(ENCODING)
        for rows in [size for size in self.limits.batch_sizes() if size <= most] or [1]:
            if stop():
                raise UnavailableError(f"{self.name}/{self.version} is not loaded: the server is stopping")
            image = {spec.name: _blank(spec, self.manifest, rows) for spec in self.manifest.inputs}
            run(image, names)
            if encoding is not None:
                run(image, (ENCODING,))
                if self.decodes:
                    run({ENCODING: _blank(encoding, self.manifest, rows)}, self.decodes)


def _teller(
    manifest: Manifest, limits: Limits, metrics: ModelMetrics, statistics: Statistics, tracer: Tracer | None
) -> Callable[[Batch], None]:
    """What notes a run of the model. It knows no servable: in a circle with it, none would go by reference counts."""

    def tell(batch: Batch) -> None:
        metrics.observe_batch(batch.rows, batch.padding, limits.max_batch_size)
        statistics.ran(batch.rows, batch.seconds)
        if tracer is not None:
            ended = batch.started + batch.seconds
            tracer.ran(batch.calls, manifest.name, manifest.version, batch.rows, batch.padding, batch.started, ended)

    return tell


def _pixel_counter(image: TensorSpec) -> Callable[[Mapping[str, Array]], int | None]:
    """What counts the pixels of each row of a request; of encodings there are none."""
    return lambda inputs: image.free_pixels(inputs[image.name].shape) if image.name in inputs else None


def _blank(spec: TensorSpec, manifest: Manifest, rows: int) -> Array:
    """Rows of zeros at the size that pictures are brought to."""
    return np.zeros(manifest.shape_of(spec, rows), dtype=spec.numpy_dtype)
