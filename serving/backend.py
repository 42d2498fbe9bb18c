"""ONNX Runtime: one session for one model version. The only module that knows the library.

Fails closed: CUDA that was asked for and is not really in use is an error, never a silent run on the CPU.
"""

import contextlib
import ctypes
import hashlib
import io
import logging
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt
import onnxruntime as ort

from serving import graph
from serving.errors import ModelError, ProviderError
from serving.manifest import Manifest, TensorSpec

FILE_NAME = "model.onnx"
ENCODING = "encoding"
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
VERSION: str = ort.__version__

Array = npt.NDArray[Any]
ProviderChoice = Literal["auto", "cuda", "cpu"]

_CUDA_OPTIONS = {
    # The default tries every algorithm anew whenever the shape changes.
    "cudnn_conv_algo_search": "HEURISTIC",
    # Doubling the arena wastes memory once shapes are few.
    "arena_extend_strategy": "kSameAsRequested",
}
_ORT_TYPES = {"UINT8": "tensor(uint8)", "FP32": "tensor(float)"}
_SEVERITY_ERROR, _SEVERITY_FATAL = 3, 4

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Runtime:
    """What a session gets of the machine.

    Attributes:
        provider: the execution provider to use, CPU or CUDA (never ``auto``: see ``Runtime.choose``).
        threads: of one run on the CPU, at least 1.
        required: whether it is an error when the provider turns out not to work.
    """

    provider: str
    threads: int
    required: bool

    @classmethod
    def choose(cls, choice: ProviderChoice, threads: int) -> "Runtime":
        """Looks at the machine once.

        Args:
            choice: ``auto`` takes CUDA where there is a GPU.
            threads: 0 = as many as the quota and the affinity allow.

        Raises:
            ProviderError: CUDA is asked for and cannot be there.
        """
        # The library speaks on stderr about what it cannot find; what matters comes back as an error of ours.
        ort.set_default_logger_severity(_SEVERITY_FATAL)
        threads = threads or usable_cores()
        if choice == "cpu":
            return cls(CPU, threads, required=True)
        built, devices = CUDA in ort.get_available_providers(), count_gpus()
        if built and devices:
            with _prints_logged():
                ort.preload_dlls(msvc=False)
            return cls(CUDA, threads, required=choice == "cuda")
        why = "no NVIDIA GPU is visible" if built else "this build of ONNX Runtime has no CUDA (onnxruntime-gpu has)"
        if choice == "cuda":
            raise ProviderError(f"provider cuda was asked for, but {why}")
        _log.info("provider auto: %s on %d threads, since %s", CPU, threads, why)
        return cls(CPU, threads, required=True)


class OnnxBackend:
    """One loaded model.

    Args:
        folder: the version folder with ``model.onnx``.
        manifest: what the file must agree with.
        runtime: provider and threads.

    Attributes:
        provider: the execution provider really in use.
        decodes: the outputs that follow from an encoding alone; see ``graph.py``.
        one_thread: whether all runs should come from one thread, as CUDA keeps streams and memory for each that calls.

    Raises:
        ModelError: the file is missing, not the one the manifest speaks of, no ONNX model, or has other tensors.
        ProviderError: the provider required is not in use after all.
    """

    def __init__(self, folder: Path, manifest: Manifest, runtime: Runtime) -> None:
        path = folder / FILE_NAME
        try:
            model = path.read_bytes()
        except OSError as error:
            raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
        digest = hashlib.sha256(model).hexdigest()
        if digest != manifest.onnx_sha256:
            raise ModelError(
                f"{path}: not the file its manifest speaks of. Expected SHA-256 {manifest.onnx_sha256}."
                f" Received: {digest} ({len(model)} bytes)"
            )
        # The bytes that were hashed are the bytes that run, whatever happens to the file meanwhile.
        self._session = _open_session(path, model, runtime)
        self._encoder: Any = None
        self._decoder: Any = None
        self.decodes: tuple[str, ...] = ()
        self.provider: str = self._session.get_providers()[0]
        self.one_thread = self.provider != CPU
        if self.provider != runtime.provider:
            complaint = f"{path}: {runtime.provider} was asked for, but ONNX Runtime runs it on {self.provider}"
            if runtime.required:
                raise ProviderError(f"{complaint}; are the CUDA 13 and cuDNN 9 libraries installed?")
            _log.warning("%s", complaint)
        _compare(path, "input", manifest.inputs, self._session.get_inputs())
        _compare(path, "output", manifest.outputs, self._session.get_outputs())
        if manifest.output(ENCODING) is not None and len(manifest.outputs) > 1:
            self._open_halves(path, model, runtime)
        self._options = ort.RunOptions()
        self._options.log_severity_level = _SEVERITY_FATAL

    def run(self, inputs: Mapping[str, Array], outputs: tuple[str, ...]) -> list[Array]:
        """Runs the model.

        Args:
            inputs: name -> array [rows, ...] of the manifest's dtypes and shapes; or the encoding alone, for outputs in
                ``decodes``.
            outputs: names of those wanted.

        Returns:
            The outputs, in that order.
        """
        session = self._session
        if ENCODING in inputs:
            session = self._decoder
        elif self._encoder is not None and outputs == (ENCODING,):
            session = self._encoder
        results: list[Array] = session.run(outputs, inputs, self._options)
        return results

    def _open_halves(self, path: Path, model: bytes, runtime: Runtime) -> None:
        encoder = graph.encoder_half(model, ENCODING)
        if encoder is not None:
            self._encoder = _open_session(path, encoder, runtime)
        decoder = graph.decoder_half(model, ENCODING)
        if decoder is not None:
            half, outputs = decoder
            self._decoder = _open_session(path, half, runtime)
            self.decodes = tuple(outputs)


def _open_session(path: Path, model: bytes, runtime: Runtime) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = runtime.threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # Spinning threads eat the cores that decode the next picture.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Batches vary in size, and a memory plan is kept for each size ever seen.
    options.enable_mem_pattern = False
    options.log_severity_level = _SEVERITY_FATAL if runtime.provider == CPU else _SEVERITY_ERROR
    providers = [CPU] if runtime.provider == CPU else [(CUDA, _CUDA_OPTIONS), CPU]
    try:
        with _prints_logged():
            session = ort.InferenceSession(model, options, providers=providers)
    except Exception as error:
        # The library raises types of its own, without a common root, for every way a file can be broken.
        raise ModelError(f"{path}: ONNX Runtime cannot load it: {_one_line(error)}") from error
    session.disable_fallback()
    return session


@contextlib.contextmanager
def _prints_logged() -> Iterator[None]:
    """The library prints what it cannot load, on the stdout where our ready line belongs."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        yield
    for line in printed.getvalue().splitlines():
        _log.warning("onnxruntime: %s", line)


def _compare(path: Path, kind: str, specs: tuple[TensorSpec, ...], nodes: list[Any]) -> None:
    found = {node.name: node for node in nodes}
    expected = [spec.name for spec in specs]
    missing = [name for name in expected if name not in found]
    surplus = [name for name in found if name not in expected] if kind == "input" else []
    if missing or surplus:
        raise ModelError(f"{path}: the manifest names the {kind}s {expected}. Received: {list(found)}")
    for spec in specs:
        node = found[spec.name]
        if node.type != _ORT_TYPES[spec.dtype]:
            raise ModelError(f"{path}: {kind} {spec.name!r} is {_ORT_TYPES[spec.dtype]}. Received: {node.type}")
        # A name or None is a free axis. The model may leave free what the manifest fixes, never the other way round.
        sizes = [size if isinstance(size, int) else -1 for size in node.shape]
        fits = len(sizes) == len(spec.shape) and all(
            size in (-1, wanted) for size, wanted in zip(sizes, spec.shape, strict=True)
        )
        if not fits:
            raise ModelError(f"{path}: {kind} {spec.name!r} has shape {list(spec.shape)}. Received: {node.shape}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def count_gpus() -> int:
    """The NVIDIA GPUs that the driver shows this process; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """The cores this process may really use: the least of its affinity and the container's CPU quota, at least 1.

    Args:
        cgroup: where the control groups are mounted; version 2 (``cpu.max``) and 1 (``cpu.cfs_quota_us``) are read.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this platform
        cores = os.cpu_count() or 1
    quota = _quota(cgroup)
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def _quota(cgroup: Path) -> float | None:
    try:
        limit, period = (cgroup / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass
    try:
        limit = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text()
        period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text()
        return None if int(limit) <= 0 else int(limit) / int(period)
    except (OSError, ValueError):
        return None
