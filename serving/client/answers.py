"""What the client gives back."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from serving.timings import Timings

_TINT = np.array([230, 20, 50], dtype=np.float32)
_TINT_STRENGTH = 0.45
_OUTLINE = np.array([255, 40, 70], dtype=np.uint8)
_HALO = np.array([255, 255, 255], dtype=np.uint8)
_UNLIMITED = 2**62


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """The pedestrian mask of one picture.

    Attributes:
        array: bool [H, W] at the picture's own size (after its EXIF orientation); True is pedestrian.
        model, version: who answered.
        threshold: the probability from which a pixel counts as pedestrian.
        foreground_fraction: share of True pixels, 0..1.
        timings: seconds in the server, by phase.
        probabilities: float32 [H, W] in [0, 1], where they were asked for.
    """

    array: npt.NDArray[np.bool_]
    model: str
    version: int
    threshold: float
    foreground_fraction: float
    timings: Timings
    probabilities: npt.NDArray[np.float32] | None = None

    def png(self) -> bytes:
        """The mask as an 8-bit grey PNG: 255 pedestrian, 0 background."""
        return to_png(self.array.astype(np.uint8) * np.uint8(255))

    def overlay(self, picture: "str | Path | bytes | npt.NDArray[np.uint8]") -> npt.NDArray[np.uint8]:
        """The picture with the mask on it: tinted red, outlined in red with a white edge.

        Args:
            picture: the one that was segmented: a path, its bytes, or RGB uint8 [H, W, 3].

        Returns:
            RGB uint8 [H, W, 3]; the picture given is not changed.

        Raises:
            ValueError: the picture has another size than the mask.
        """
        base = _read(picture)
        if base.shape != (*self.array.shape, 3):
            raise ValueError(f"the picture is [*{self.array.shape}, 3] like the mask. Received: {base.shape}")
        stroke = max(1, round(min(self.array.shape) / 200))
        tinted = base.astype(np.float32)
        tinted[self.array] += _TINT_STRENGTH * (_TINT - tinted[self.array])
        painted = np.rint(tinted).astype(np.uint8)
        painted[self.array & _grow(~self.array, stroke)] = _OUTLINE
        painted[~self.array & _grow(self.array, max(1, stroke // 2))] = _HALO
        return painted


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Encodings or reconstructions.

    Attributes:
        array: float32 [rows, values].
        model, version: who answered.
        timings: seconds in the server, by phase.
    """

    array: npt.NDArray[np.float32]
    model: str
    version: int
    timings: Timings


@dataclass(frozen=True, slots=True)
class Model:
    """One model version of the server.

    Attributes:
        name, version, family: what it is.
        inputs, outputs: name -> (dtype, shape), -1 where a size is free.
        ready: whether it answers.
        provider: the ONNX Runtime execution provider that really runs it.
        data_source: ``real`` or ``embedded``: what it was trained on.
        scores: name -> value, as measured after training.
        default_threshold: of a segmentation model, None for others.
    """

    name: str
    version: int
    family: str
    inputs: Mapping[str, tuple[str, tuple[int, ...]]]
    outputs: Mapping[str, tuple[str, tuple[int, ...]]]
    ready: bool
    provider: str
    data_source: str
    scores: Mapping[str, float]
    default_threshold: float | None


def to_png(array: npt.NDArray[np.uint8]) -> bytes:
    """Encodes [H, W] or [H, W, 3] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def _read(picture: "str | Path | bytes | npt.NDArray[np.uint8]") -> npt.NDArray[np.uint8]:
    if isinstance(picture, np.ndarray):
        return picture
    # Here, since it brings OpenCV, which asking does not need. The very function that the server decodes with.
    from serving import imaging

    return imaging.decode(picture if isinstance(picture, bytes) else Path(picture).read_bytes(), _UNLIMITED)


def _grow(mask: npt.NDArray[np.bool_], radius: int) -> npt.NDArray[np.bool_]:
    """Dilates by a square of side 2 * radius + 1, in time that does not depend on the radius."""
    grown = mask
    for axis in (0, 1):
        margin: list[tuple[int, int]] = [(0, 0), (0, 0)]
        margin[axis] = (radius + 1, radius)
        counts: npt.NDArray[Any] = np.cumsum(np.pad(grown, margin), axis=axis, dtype=np.int32)
        size = mask.shape[axis]
        upper = np.take(counts, np.arange(2 * radius + 1, 2 * radius + 1 + size), axis=axis)
        grown = upper > np.take(counts, np.arange(size), axis=axis)
    return grown
