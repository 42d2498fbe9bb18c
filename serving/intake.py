"""What a model takes: pictures and values as they come -> its input, or a refusal that says what was expected."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from serving import imaging
from serving.backend import ENCODING
from serving.errors import InvalidInputError
from serving.imaging import Geometry, Picture
from serving.manifest import TensorSpec
from serving.servable import Servable

Array = npt.NDArray[Any]
Source = bytes | Array  # an encoded picture, or values


@dataclass(frozen=True, slots=True)
class Filled:
    """An array told by its first values, of which the last goes on to the end: a few bytes may tell of terabytes.

    So it becomes an array only where a model takes one of its shape.

    Attributes:
        values: [count], at least one and at most as many as the shape has.
        shape: of the array.
    """

    values: Array
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the array."""
        return self.values.dtype

    def spread(self) -> Array:
        """The array."""
        array = np.full(self.shape, self.values[-1])
        array.reshape(-1)[: len(self.values)] = self.values
        return array


class Intake:
    """Turns what callers send into what models take.

    Args:
        max_pixels: most pixels of a picture, or of all pictures of one batch of raw tensors.
    """

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels

    def to_input(self, servable: Servable, source: Source) -> tuple[Array, Geometry]:
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
            raise InvalidInputError(f"a picture is uint8 [height, width, 3]. Received: {describe(picture)}")
        height, width = picture.shape[:2]
        if height < 1 or width < 1:
            raise InvalidInputError(f"a picture has at least one pixel. Received: {describe(picture)}")
        if height * width > self._max_pixels:
            raise InvalidInputError(f"a picture has at most {self._max_pixels} pixels. Received: {height} x {width}")

    def take(self, servable: Servable, spec: TensorSpec, source: Array | Filled) -> Array:
        """Holds an array to its spec: dtype, shape, rows, pixels, and values in range (NaN and infinity are not).

        Nothing as large as the array is allocated before all but the values is as it should be.
        """
        shape = source.shape
        if source.dtype != spec.numpy_dtype or len(shape) != len(spec.shape):
            raise _refusal(servable, spec, "", describe(source))
        for size, wanted in zip(shape, spec.shape, strict=True):
            if wanted not in (-1, size):
                raise _refusal(servable, spec, "", describe(source))
        if 0 in shape:
            raise _refusal(servable, spec, " with at least one row", describe(source))
        servable.limits.check_rows(f"{servable.name}/{servable.version}", shape[0], spec.free_pixels(shape))
        if len(shape) == 4:
            step = servable.manifest.resizing.multiple_of
            for size, axis, free in zip(shape, spec.axes, spec.shape, strict=True):
                if free == -1 and axis in ("height", "width") and size % step:
                    raise _refusal(servable, spec, f", {axis} a multiple of {step}", describe(source))
            if math.prod(shape[:3]) > self._max_pixels:
                raise _refusal(servable, spec, f", at most {self._max_pixels} pixels", describe(source))
        array = source.spread() if isinstance(source, Filled) else source
        if spec.dtype == "FP32":
            _check_values(servable, spec, array)
        return array

    def take_encoding(self, servable: Servable, source: Array | Filled) -> Array:
        """Holds an encoding to the output it is like; its values may be any finite ones."""
        spec = servable.manifest.output(ENCODING)
        assert spec is not None  # asked before
        return self.take(servable, spec.model_copy(update={"value_range": None}), source)


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


def is_picture(servable: Servable, array: Array) -> bool:
    """Whether an array is to be read as one picture: uint8 [H, W, 3], or grey [H, W] of just the model's size.

    Grey of any other size is not: [1, 784] is far more likely a row with the wrong dtype than a flat picture.
    """
    if array.dtype != np.uint8:
        return False
    return (array.ndim == 3 and array.shape[2] == 3) or (_is_grey(servable) and array.shape == _size(servable))


def as_rows(servable: Servable, array: Array) -> Array:
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


def describe(array: Array | Filled) -> str:
    """Dtype and shape, as messages tell them."""
    name = array.dtype.name.upper().replace("FLOAT", "FP")
    return f"{name} {list(array.shape)}"
