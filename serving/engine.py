"""The engine: what the service can do, without a protocol. Every servicer and the video job stand on it.

One request is a straight line: find the servable, check and convert the input, run, convert the output. Whatever is
wrong with an input is said here or in the leaves below, before the model is asked.
"""

import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from serving import imaging
from serving.call import Call
from serving.errors import DeadlineError, InvalidInputError, quote
from serving.imaging import Geometry, MaskFormat, Picture
from serving.manifest import TensorSpec
from serving.metrics import UNKNOWN
from serving.repository import ModelRepository, Servable
from serving.timings import Timings

Array = npt.NDArray[Any]
Source = bytes | Array  # an encoded picture, or values


@dataclass(frozen=True, slots=True)
class Segmentation:
    """The answer to ``Engine.segment``.

    Attributes:
        model, version: who answered.
        mask: encoded in ``form``.
        height, width: of the mask.
        threshold: the one that was used.
        foreground_fraction: share of foreground pixels, 0..1.
        timings: seconds by phase.
    """

    model: str
    version: int
    mask: bytes
    form: MaskFormat
    height: int
    width: int
    threshold: float
    foreground_fraction: float
    timings: Timings


@dataclass(frozen=True, slots=True)
class Inference:
    """The answer to ``Engine.infer`` and its kin: the outputs asked for, name -> array [rows, ...]."""

    model: str
    version: int
    outputs: dict[str, Array]
    timings: Timings


class Engine:
    """Answers requests from a repository's models.

    Args:
        repository: the models.
        max_pixels: most pixels of a picture, or of all pictures of one batch of raw tensors.
        picture_slots: most pictures that are decoded, resized or turned into masks at once. More than there are cores
            only costs memory.
    """

    def __init__(self, repository: ModelRepository, *, max_pixels: int, picture_slots: int) -> None:
        self._repository = repository
        self._max_pixels = max_pixels
        self._slots = threading.BoundedSemaphore(picture_slots)

    def ready(self) -> bool:
        """Whether every model is loaded and warm."""
        return self._repository.ready

    def models(self) -> list[Servable]:
        """Every model version that is loaded."""
        return self._repository.servables()

    def identify(self, name: str, version: int | None) -> tuple[str, str]:
        """The labels under which a request is counted: only names that exist, whatever the client wrote."""
        versions = [servable.version for servable in self._repository.servables() if servable.name == name]
        if not versions:
            return UNKNOWN, UNKNOWN
        if version is None:
            return name, str(max(versions))
        return name, str(version) if version in versions else UNKNOWN

    def segment(
        self,
        name: str,
        version: int | None,
        source: Source,
        *,
        threshold: float | None = None,
        form: MaskFormat = MaskFormat.PNG,
        at_model_size: bool = False,
        call: Call | None = None,
    ) -> Segmentation:
        """The pedestrian mask of one picture.

        Args:
            name: of the model.
            version: None = the newest.
            source: an encoded picture, or a uint8 RGB array [H, W, 3].
            threshold: in [0, 1]; a pixel is foreground when its probability is at least this. None = the model's own.
            form: how the mask is encoded.
            at_model_size: the mask at the size at which the model was asked, padding included, not at the picture's.
            call: whose request it is.

        Raises:
            RequestError: see ``errors.py``.
        """
        started = time.monotonic()
        call = call or Call()
        servable = self._repository.get(name, version)
        _require(servable, "mask")
        threshold = _check_threshold(servable, threshold)
        if not isinstance(source, bytes) and not (source.dtype == np.uint8 and source.ndim == 3):
            raise InvalidInputError(f"a picture is uint8 [height, width, 3]. Received: {_describe(source)}")
        with self._picture_slot(call):
            tensor, geometry = self._to_input(servable, source)
        decoded = time.monotonic()
        rows = servable.infer({servable.manifest.image.name: tensor}, ("mask",), call)
        inferred = time.monotonic()
        with self._picture_slot(call):
            probabilities = rows.outputs["mask"][0, :, :, 0]
            if not at_model_size:
                probabilities = imaging.restore(probabilities, geometry)
            mask = imaging.to_mask(probabilities, threshold)
            encoded = imaging.encode_mask(probabilities, mask, form)
        height, width = mask.shape
        ended = time.monotonic()
        timings = Timings(
            decoded - started, rows.queue_seconds, rows.inference_seconds, ended - inferred, ended - started
        )
        servable.metrics.observe(timings)
        fraction = np.count_nonzero(mask) / mask.size
        return Segmentation(servable.name, servable.version, encoded, form, height, width, threshold, fraction, timings)

    def encode(self, name: str, version: int | None, source: Source, *, call: Call | None = None) -> Inference:
        """The encoding (latents) of one picture or of a batch of rows: output ``encoding``, float32 [rows, latents].

        Args:
            name: of the model.
            version: None = the newest.
            source: an encoded picture; a uint8 picture [H, W, 3]; an array like the model's input, with or without the
                batch axis; or, for a grey model, uint8 pictures of just its size, [H, W] or [rows, H, W].
            call: whose request it is.

        Raises:
            RequestError: see ``errors.py``.
        """
        return self._ask(name, version, source, "encoding", call or Call())

    def reconstruct(self, name: str, version: int | None, source: Source, *, call: Call | None = None) -> Inference:
        """What the auto-encoder makes of its input: output ``reconstruction``; otherwise like ``encode``."""
        return self._ask(name, version, source, "reconstruction", call or Call())

    def infer(
        self,
        name: str,
        version: int | None,
        inputs: Mapping[str, Array],
        outputs: Sequence[str] = (),
        *,
        call: Call | None = None,
    ) -> Inference:
        """Runs named arrays through a model as they are.

        Args:
            name: of the model.
            version: None = the newest.
            inputs: name -> array [rows, ...] exactly as the manifest says.
            outputs: names of those wanted; none = all.
            call: whose request it is.

        Raises:
            RequestError: see ``errors.py``.
        """
        started = time.monotonic()
        servable = self._repository.get(name, version)
        for output in outputs:
            _require(servable, output)
        if len(set(outputs)) != len(outputs):
            raise InvalidInputError(f"each output is asked for once. Received: {', '.join(outputs)}")
        known = [spec.name for spec in servable.manifest.inputs]
        if sorted(inputs) != sorted(known):
            came = ", ".join(quote(each) for each in inputs) or "none"
            raise InvalidInputError(f"{servable.name} takes the inputs {', '.join(known)}. Received: {came}")
        for spec in servable.manifest.inputs:
            self._check(servable, spec, inputs[spec.name])
        ordered = {spec.name: inputs[spec.name] for spec in servable.manifest.inputs}
        return self._run(servable, ordered, tuple(outputs), started, call or Call())

    def _ask(self, name: str, version: int | None, source: Source, output: str, call: Call) -> Inference:
        started = time.monotonic()
        servable = self._repository.get(name, version)
        _require(servable, output)
        image = servable.manifest.image
        if isinstance(source, bytes) or _is_picture(servable, source):
            with self._picture_slot(call):
                tensor, _ = self._to_input(servable, source)
        else:
            tensor = _as_rows(servable, source)
            self._check(servable, image, tensor)
        return self._run(servable, {image.name: tensor}, (output,), started, call)

    def _run(
        self,
        servable: Servable,
        inputs: Mapping[str, Array],
        outputs: tuple[str, ...],
        started: float,
        call: Call,
    ) -> Inference:
        decoded = time.monotonic()
        rows = servable.infer(inputs, outputs, call)
        total = time.monotonic() - started
        timings = Timings(decoded - started, rows.queue_seconds, rows.inference_seconds, 0.0, total)
        servable.metrics.observe(timings, skip=("postprocess",))
        return Inference(servable.name, servable.version, rows.outputs, timings)

    def _to_input(self, servable: Servable, source: Source) -> tuple[Array, Geometry]:
        """An encoded picture or a uint8 one -> the model's input [1, ...] and where the picture lies in it."""
        if isinstance(source, bytes):
            if not source:
                raise InvalidInputError("the request holds no picture: it is empty")
            picture: Picture = imaging.decode(source, self._max_pixels)
        else:
            picture = source
            self._check_picture(picture)
        image, resizing = servable.manifest.image, servable.manifest.resizing
        if _is_grey(servable):
            picture = imaging.to_grey(picture)
        resized, geometry = imaging.resize(picture, resizing.rule, resizing.height, resizing.width, resizing.pad_value)
        if image.dtype == "UINT8":
            return resized[np.newaxis], geometry
        return resized.reshape(1, -1).astype(np.float32) / np.float32(255), geometry

    def _check_picture(self, picture: Array) -> None:
        if picture.ndim == 3 and picture.shape[2] != 3:
            raise InvalidInputError(f"a picture is uint8 [height, width, 3]. Received: {_describe(picture)}")
        height, width = picture.shape[:2]
        if height < 1 or width < 1:
            raise InvalidInputError(f"a picture has at least one pixel. Received: {_describe(picture)}")
        if height * width > self._max_pixels:
            raise InvalidInputError(f"a picture has at most {self._max_pixels} pixels. Received: {height} x {width}")

    def _check(self, servable: Servable, spec: TensorSpec, array: Array) -> None:
        """Holds an array to its spec: dtype, shape, and values in range (which NaN and infinity are not)."""
        fits = array.dtype == spec.numpy_dtype and array.ndim == len(spec.shape)
        if not fits or any(wanted not in (-1, size) for wanted, size in zip(spec.shape, array.shape, strict=True)):
            raise _refusal(servable, spec, "", _describe(array))
        if array.size == 0:
            raise _refusal(servable, spec, " with at least one row", _describe(array))
        step = servable.manifest.resizing.multiple_of
        for size, axis, free in zip(array.shape, spec.axes, spec.shape, strict=True):
            if free == -1 and axis in ("height", "width") and size % step:
                raise _refusal(servable, spec, f", {axis} a multiple of {step}", _describe(array))
        if array.ndim == 4 and math.prod(array.shape[:3]) > self._max_pixels:
            raise _refusal(servable, spec, f", at most {self._max_pixels} pixels", _describe(array))
        if spec.dtype == "FP32":
            _check_values(servable, spec, array)

    @contextmanager
    def _picture_slot(self, call: Call) -> Iterator[None]:
        """Bounds the pictures in work, and so the memory they take; gives up when the caller does."""
        if not self._slots.acquire(timeout=call.remaining()):
            raise DeadlineError("the deadline passed before the picture was decoded")
        try:
            call.check()
            yield
        finally:
            self._slots.release()


def _require(servable: Servable, output: str) -> None:
    if servable.manifest.output(output) is None:
        has = ", ".join(servable.manifest.output_names)
        raise InvalidInputError(f"{servable.name} has no output {quote(output)}; it has {has}")


def _check_threshold(servable: Servable, threshold: float | None) -> float:
    if threshold is None:
        default = servable.manifest.default_threshold
        return 0.5 if default is None else default
    if not 0.0 <= threshold <= 1.0:  # NaN too
        raise InvalidInputError(f"the threshold lies in [0, 1]. Received: {threshold}")
    return threshold


def _check_values(servable: Servable, spec: TensorSpec, array: Array) -> None:
    low, high = spec.value_range or (-math.inf, math.inf)
    least, most = float(array.min()), float(array.max())  # NaN wins both
    if low <= least and most <= high and math.isfinite(least) and math.isfinite(most):
        return
    if not np.isfinite(array).all():
        bad = array[~np.isfinite(array)]
        raise _refusal(servable, spec, ", all values finite", f"{bad.size} that are not, the first {bad[0]}")
    raise _refusal(servable, spec, f" with values in [{low:g}, {high:g}]", f"{least:g} to {most:g}")


def _refusal(servable: Servable, spec: TensorSpec, expectation: str, came: str) -> InvalidInputError:
    told = f"input {spec.name!r} of {servable.name} is {spec.dtype} {list(spec.shape)}{expectation}"
    return InvalidInputError(f"{told}. Received: {came}")


def _is_picture(servable: Servable, array: Array) -> bool:
    """Whether an array is to be read as one picture: uint8 [H, W, 3], or grey [H, W] of just the model's size.

    Grey of any other size is not: [1, 784] is far more likely a row with the wrong dtype than a flat picture.
    """
    if array.dtype != np.uint8:
        return False
    return (array.ndim == 3 and array.shape[2] == 3) or (_is_grey(servable) and array.shape == _size(servable))


def _as_rows(servable: Servable, array: Array) -> Array:
    """Adds the batch axis where it is left out; grey uint8 pictures [N, H, W] of just the model's size become rows."""
    if array.ndim == len(servable.manifest.image.shape) - 1:
        return array[np.newaxis]
    if array.dtype == np.uint8 and _is_grey(servable) and array.ndim == 3 and array.shape[1:] == _size(servable):
        return array.reshape(array.shape[0], -1).astype(np.float32) / np.float32(255)
    return array


def _is_grey(servable: Servable) -> bool:
    return servable.manifest.image.channel_order == "GRAY"


def _size(servable: Servable) -> tuple[int, int]:
    return servable.manifest.resizing.height, servable.manifest.resizing.width


def _describe(array: Array) -> str:
    names = {"uint8": "UINT8", "float32": "FP32"}
    return f"{names.get(array.dtype.name, array.dtype.name)} {list(array.shape)}"
