"""Sessions of ONNX Runtime: opened and checked, and run."""

import contextlib
import hashlib
import io
import itertools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnxruntime as ort

from serving import graph
from serving.backend.binding import BoundRun
from serving.backend.machine import count_gpus, usable_cores
from serving.backend.providers import (
    CPU,
    CUDA,
    GRAPH_ID,
    NO_GRAPH,
    PLAIN,
    TENSORRT,
    Acceleration,
    ProviderChoice,
    Shape,
    provider_list,
)
from serving.errors import ModelError, ProviderError
from serving.manifest import Manifest, TensorSpec
from serving.placement import ANYWHERE, Placement

FILE_NAME = "model.onnx"
ENCODING = "encoding"
VERSION: str = ort.__version__

Array = npt.NDArray[Any]
_LIBRARIES = {CUDA: "the CUDA 13 and cuDNN 9 libraries", TENSORRT: "TensorRT 10 and the CUDA 13 libraries"}
_ORT_TYPES = {"UINT8": "tensor(uint8)", "FP32": "tensor(float)"}
_SEVERITY_ERROR, _SEVERITY_FATAL = 3, 4

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Runtime:
    """What a session gets of the machine.

    Attributes:
        provider: the execution provider to use, CPU, CUDA or TENSORRT (never ``auto``: see ``Runtime.choose``).
        threads: of one run on the CPU, at least 1.
        required: whether it is an error when the provider turns out not to work.
        acceleration: how a GPU is used.
        placement: which cores runs may use, whichever thread asks for them.
    """

    provider: str
    threads: int
    required: bool
    acceleration: Acceleration = PLAIN
    placement: Placement = ANYWHERE

    @classmethod
    def choose(
        cls,
        choice: ProviderChoice,
        threads: int,
        acceleration: Acceleration = PLAIN,
        placement: Placement = ANYWHERE,
    ) -> "Runtime":
        """Looks at the machine once.

        Args:
            choice: ``auto`` takes CUDA where there is a GPU.
            threads: 0 = as many as the quota and the affinity allow.
            acceleration: how a GPU is used, if one is.
            placement: which cores runs may use.

        Raises:
            ProviderError: CUDA or TensorRT is asked for and cannot be there.
        """
        # The library speaks on stderr about what it cannot find; what matters comes back as an error of ours.
        ort.set_default_logger_severity(_SEVERITY_FATAL)
        threads = threads or usable_cores()
        if choice == "cpu":
            return cls(CPU, threads, required=True, placement=placement)
        provider = TENSORRT if choice == "tensorrt" else CUDA
        built, devices = provider in ort.get_available_providers(), count_gpus()
        if built and devices > acceleration.device_id:
            with _prints_logged():
                ort.preload_dlls(msvc=False)
            return cls(provider, threads, choice != "auto", acceleration, placement)
        if not built:
            why = f"this build of ONNX Runtime has no {provider} (onnxruntime-gpu has)"
        else:
            why = f"there is no GPU {acceleration.device_id}" if devices else "no NVIDIA GPU is visible"
        if choice != "auto":
            raise ProviderError(f"provider {choice} was asked for, but {why}")
        _log.info("provider auto: %s on %d threads, since %s", CPU, threads, why)
        return cls(CPU, threads, required=True, placement=placement)


class OnnxBackend:
    """One loaded model.

    Args:
        folder: the version folder with ``model.onnx``.
        manifest: what the file must agree with.
        runtime: provider and threads.
        batch_sizes: those that runs are filled up to. On a GPU, runs of these sizes, with pictures of the manifest's
            size, have their buffers on the device, and are captured as CUDA graphs where that is asked for.
        max_batch_size: most rows of a run, for which TensorRT builds its engine.

    Attributes:
        provider: the execution provider really in use.
        decodes: the outputs that follow from an encoding alone; see ``graph.py``.
        one_thread: whether all runs should come from one thread, as CUDA keeps streams and memory for each that calls.

    Raises:
        ModelError: the file is missing, not the one the manifest speaks of, no ONNX model, or has other tensors.
        ProviderError: the provider required is not in use after all.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        runtime: Runtime,
        *,
        batch_sizes: tuple[int, ...] = (),
        max_batch_size: int = 1,
    ) -> None:
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
        self._manifest = manifest
        self._max_batch_size = max_batch_size
        self._placement = runtime.placement
        self._session = self._open(path, model, runtime, manifest.inputs)
        self._encoder: Any = None
        self._decoder: Any = None
        self.decodes: tuple[str, ...] = ()
        self.provider: str = self._session.get_providers()[0]
        self.one_thread = self.provider != CPU
        if self.provider != runtime.provider:
            complaint = f"{path}: {runtime.provider} was asked for, but ONNX Runtime runs it on {self.provider}"
            if runtime.required:
                raise ProviderError(f"{complaint}; are {_LIBRARIES[runtime.provider]} installed?")
            _log.warning("%s", complaint)
        _compare(path, "input", manifest.inputs, self._session.get_inputs())
        _compare(path, "output", manifest.outputs, self._session.get_outputs())
        if manifest.output(ENCODING) is not None and len(manifest.outputs) > 1:
            self._open_halves(path, model, runtime)
        self._options = ort.RunOptions()
        self._options.log_severity_level = _SEVERITY_FATAL
        if self.one_thread:
            # Without buffers of its own a run is not to be captured.
            self._options.add_run_config_entry(GRAPH_ID, NO_GRAPH)
        self._device = "cuda" if self.one_thread else "cpu"
        self._device_id = runtime.acceleration.device_id
        self._graph_ids = itertools.count(1) if runtime.acceleration.graphs and self.provider == CUDA else None
        # By session and shape; None until the first run of a fixed shape. On the CPU binding only costs.
        self._bound: dict[tuple[int, Shape], BoundRun | None] = {}
        if self.one_thread:
            self._fix_shapes(batch_sizes)

    def run(self, inputs: Mapping[str, Array], outputs: tuple[str, ...]) -> list[Array]:
        """Runs the model.

        Args:
            inputs: name -> array [rows, ...] of the manifest's dtypes and shapes; or the encoding alone, for outputs in
                ``decodes``.
            outputs: names of those wanted.

        Returns:
            The outputs, in that order.
        """
        # Also threads of the batcher may have been started by one that speaks gRPC: by a call that loads a model.
        with self._placement.everywhere():
            return self._run(inputs, outputs)

    def _run(self, inputs: Mapping[str, Array], outputs: tuple[str, ...]) -> list[Array]:
        session = self._session
        if ENCODING in inputs:
            session = self._decoder
        elif self._encoder is not None and outputs == (ENCODING,):
            session = self._encoder
        if self._bound:
            key = (id(session), next(iter(inputs.values())).shape)
            if key in self._bound:
                bound = self._bound[key] or self._bind(key, session, inputs)
                return bound.run(inputs, outputs)
        results: list[Array] = session.run(outputs, inputs, self._options)
        return results

    def _fix_shapes(self, batch_sizes: tuple[int, ...]) -> None:
        """Says which shapes get buffers of their own: few, so that what they take on the device is bounded."""
        encoding = self._manifest.output(ENCODING)
        for rows in batch_sizes:
            image = self._manifest.shape_of(self._manifest.image, rows)
            for session in filter(None, (self._session, self._encoder)):
                self._bound[id(session), image] = None
            if self._decoder is not None and encoding is not None:
                self._bound[id(self._decoder), self._manifest.shape_of(encoding, rows)] = None

    def _bind(self, key: tuple[int, Shape], session: Any, inputs: Mapping[str, Array]) -> BoundRun:
        """Makes the buffers of a fixed shape; called in the warm-up, on the thread that runs."""
        graph_id = None if self._graph_ids is None else next(self._graph_ids)
        bound = BoundRun(
            session, inputs, device=self._device, device_id=self._device_id, graph_id=graph_id, severity=_SEVERITY_FATAL
        )
        self._bound[key] = bound
        return bound

    def _open_halves(self, path: Path, model: bytes, runtime: Runtime) -> None:
        encoder = graph.encoder_half(model, ENCODING)
        if encoder is not None:
            self._encoder = self._open(path, encoder, runtime, self._manifest.inputs)
        decoder = graph.decoder_half(model, ENCODING)
        encoding = self._manifest.output(ENCODING)
        if decoder is not None and encoding is not None:
            half, outputs = decoder
            self._decoder = self._open(path, half, runtime, (encoding,))
            self.decodes = tuple(outputs)

    def _open(self, path: Path, model: bytes, runtime: Runtime, inputs: tuple[TensorSpec, ...]) -> Any:
        shapes = {
            spec.name: (self._manifest.shape_of(spec, 1), self._manifest.shape_of(spec, self._max_batch_size))
            for spec in inputs
        }
        return _open_session(path, model, runtime, shapes)


def _open_session(path: Path, model: bytes, runtime: Runtime, inputs: Mapping[str, tuple[Shape, Shape]]) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = runtime.threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # Spinning threads eat the cores that decode the next picture.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Batches vary in size, and a memory plan is kept for each size ever seen.
    options.enable_mem_pattern = False
    options.log_severity_level = _SEVERITY_FATAL if runtime.provider == CPU else _SEVERITY_ERROR
    try:
        # The session starts threads of its own.
        with _prints_logged(), runtime.placement.everywhere():
            session = ort.InferenceSession(
                model, options, providers=provider_list(runtime.provider, runtime.acceleration, inputs)
            )
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
