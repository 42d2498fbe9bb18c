"""What is tried: each model in several ways, at each batch size, beside the CPU."""

import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serving import manifest as manifests
from serving.backend import CPU, CUDA, TENSORRT, Acceleration, OnnxBackend, Runtime
from serving.errors import StartError
from serving.manifest import Manifest

Array = npt.NDArray[Any]

# A variant in 16 or 8 bits was moved so and so far from its original by its own rounding, as its manifest says. Two
# devices round in other places, so each may lie that far from the original, and twice as far from the other.
_ROUNDINGS = 2

# Calls before a timing begins: first runs choose algorithms and capture graphs.
_WARM_UP_RUNS = 3


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run a model.

    Attributes:
        name: for people.
        runtime: provider and how it is used.
        fixed: whether the batch sizes are fixed ones, with buffers bound on the device.
        tolerance: largest difference from the CPU, relative to the magnitude of outputs beyond 1, that is let pass.
            For a variant of few bits it may be more; see :class:`Trial`.
    """

    name: str
    runtime: Runtime
    fixed: bool
    tolerance: float


@dataclass(frozen=True, slots=True)
class Timing:
    """Of one model, way and batch size.

    Attributes:
        difference: the largest from the CPU's answer, absolute for values up to 1 and relative beyond.
        median_seconds, p99_seconds: of a run, copying to and from the device included.
        rows_per_second: by the median.
    """

    rows: int
    difference: float
    median_seconds: float
    p99_seconds: float
    rows_per_second: float


@dataclass(frozen=True, slots=True)
class Trial:
    """One model, one way.

    Attributes:
        provider: the one really in use; empty when the model could not be opened.
        error: why not; empty when all went well.
        tolerance: the way's, or twice what the model's own rounding makes of the original's answers, whichever is more.
        memory_bytes: on the device after opening, after the timings, after many more runs on the same thread, and after
            a run on each of several new threads; None where nothing tells.
    """

    model: str
    way: str
    provider: str
    error: str
    tolerance: float
    timings: list[Timing]
    memory_bytes: dict[str, int | None]

    @property
    def passed(self) -> bool:
        """Whether it ran, and close enough to the CPU."""
        return not self.error and all(timing.difference <= self.tolerance for timing in self.timings)


def ways(threads: int, tensorrt: bool) -> list[Way]:
    """The ways on a GPU.

    TF32 keeps 10 bits of each factor, as FP16 does, hence the wider tolerance; whether that is good enough is for the
    task's own score to say.
    """
    exact, rounded = 1e-3, 5e-2
    found = [
        Way("cuda", Runtime(CUDA, threads, required=True), False, exact),
        Way("cuda bound", Runtime(CUDA, threads, required=True), True, exact),
        Way("cuda graphs", Runtime(CUDA, threads, True, Acceleration(graphs=True)), True, exact),
        Way("cuda tf32", Runtime(CUDA, threads, True, Acceleration(precision="tf32")), True, rounded),
    ]
    if tensorrt:
        found += [
            Way("tensorrt", Runtime(TENSORRT, threads, required=True), True, rounded),
            Way("tensorrt fp16", Runtime(TENSORRT, threads, True, Acceleration(precision="fp16")), True, rounded),
        ]
    return found


def dry_ways(threads: int) -> list[Way]:
    """One way on the CPU, so that all but the GPU can be tried without one."""
    return [Way("cpu", Runtime(CPU, threads, required=True), True, 0.0)]


def try_model(
    folder: Path,
    way: Way,
    batch_sizes: Sequence[int],
    *,
    seconds: float,
    threads: int,
    memory: Callable[[], int | None],
) -> Trial:
    """Opens a model one way, compares it with the CPU and times it.

    Args:
        folder: the version folder.
        way: how.
        batch_sizes: rows of the runs.
        seconds: of timing for each.
        threads: of a run on the CPU.
        memory: tells what is in use on the device.
    """
    manifest = manifests.read(folder / manifests.FILE_NAME)
    name = f"{manifest.name}/{manifest.version}"
    tolerance = max(way.tolerance, _ROUNDINGS * manifest.parity.largest_difference)
    used: dict[str, int | None] = {}
    timings: list[Timing] = []
    provider = ""
    try:
        sizes = tuple(sorted(batch_sizes))
        backend = OnnxBackend(
            folder, manifest, way.runtime, batch_sizes=sizes if way.fixed else (), max_batch_size=sizes[-1]
        )
        provider = backend.provider
        reference = OnnxBackend(folder, manifest, Runtime(CPU, threads, required=True))
        used["opened"] = memory()
        # One by one: those that were made before a failure are told.
        timings.extend(_time(backend, reference, manifest, rows, seconds) for rows in sizes)
        used["timed"] = memory()
        inputs = _inputs(manifest, sizes[0])
        for _ in range(200):
            backend.run(inputs, manifest.output_names)
        used["200 more runs"] = memory()
        # A control: what every further thread costs, for which the service keeps to one.
        for number in range(4):
            thread = threading.Thread(target=backend.run, args=(inputs, manifest.output_names), name=f"other-{number}")
            thread.start()
            thread.join()
        used["4 more threads"] = memory()
    except StartError as error:
        return Trial(name, way.name, provider, str(error), tolerance, timings, used)
    except Exception as error:
        # ONNX Runtime's errors have no common root; whatever it is, the report is to say it and go on.
        told = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return Trial(name, way.name, provider, told, tolerance, timings, used)
    return Trial(name, way.name, provider, "", tolerance, timings, used)


def difference(one: Array, other: Array) -> float:
    """The largest difference, absolute for values up to 1 in magnitude and relative beyond; infinite for NaN."""
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return float("inf")
    return float(np.max(np.abs(one - other) / np.maximum(1.0, np.abs(other)), initial=0.0))


def _time(backend: OnnxBackend, reference: OnnxBackend, manifest: Manifest, rows: int, seconds: float) -> Timing:
    inputs, names = _inputs(manifest, rows), manifest.output_names
    for _ in range(_WARM_UP_RUNS):
        answer = backend.run(inputs, names)
    expected = reference.run(inputs, names)
    largest = max(difference(one, other) for one, other in zip(answer, expected, strict=True))
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken) < 2:
        started = time.perf_counter()
        backend.run(inputs, names)
        taken.append(time.perf_counter() - started)
    median = statistics.median(taken)
    return Timing(rows, largest, median, statistics.quantiles(taken, n=100)[98], rows / median)


def _inputs(manifest: Manifest, rows: int) -> Mapping[str, Array]:
    """Noise, the same each time, in the range of the input's values."""
    noise = np.random.default_rng(0)
    spec = manifest.image
    shape = manifest.shape_of(spec, rows)
    low, high = spec.value_range or (0.0, 1.0)
    if spec.dtype == "UINT8":
        return {spec.name: noise.integers(int(low), int(high) + 1, shape, dtype=np.uint8)}
    return {spec.name: noise.uniform(low, high, shape).astype(np.float32)}
