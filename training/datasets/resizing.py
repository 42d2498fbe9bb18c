"""The one rule by which a picture becomes a model input and a model's map becomes a map of the picture's own size.

The server applies the same rule with its own code (training and serving import nothing of each other); a contract test
holds both to identical arrays.

    letterbox   s = min(height / H, width / W); the picture becomes max(1, round(H s)) x max(1, round(W s)), centred;
                an odd row or column of padding goes below or to the right
    stretch     the picture becomes height x width
"""

from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import cv2
import numpy as np
import numpy.typing as npt

ResizingRule = Literal["letterbox", "stretch"]

PAD_VALUE = 127
"""Mid-grey, the value of padding in pictures."""

AnyPixel = TypeVar("AnyPixel", bound=np.generic)


@dataclass(frozen=True)
class Geometry:
    """Where a picture lies in a model input, all in pixels.

    Attributes:
        source_height: Height of the picture.
        source_width: Width of the picture.
        height: Height of the model input.
        width: Width of the model input.
        top: Rows of padding above the resized picture.
        left: Columns of padding to its left.
        inner_height: Height of the resized picture.
        inner_width: Width of the resized picture.
    """

    source_height: int
    source_width: int
    height: int
    width: int
    top: int
    left: int
    inner_height: int
    inner_width: int


def place(source_height: int, source_width: int, rule: ResizingRule, height: int, width: int) -> Geometry:
    """Compute where a picture of a given size lies in a model input.

    Args:
        source_height: Height of the picture, at least 1.
        source_width: Width of the picture, at least 1.
        rule: `letterbox` keeps the aspect ratio and pads, `stretch` fills.
        height: Height of the model input, at least 1.
        width: Width of the model input, at least 1.

    Returns:
        The geometry.

    Raises:
        ValueError: For an unknown rule or a side below 1.
    """
    if min(source_height, source_width, height, width) < 1:
        raise ValueError(f"Sides must be at least 1. Received: {source_height}x{source_width} to {height}x{width}")
    if rule == "stretch":
        return Geometry(source_height, source_width, height, width, 0, 0, height, width)
    if rule != "letterbox":
        raise ValueError(f"The rule must be one of {', '.join(get_args(ResizingRule))}. Received: {rule!r}")
    scale = min(height / source_height, width / source_width)
    inner_height = max(1, round(source_height * scale))
    inner_width = max(1, round(source_width * scale))
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    return Geometry(source_height, source_width, height, width, top, left, inner_height, inner_width)


def resample(array: npt.NDArray[AnyPixel], height: int, width: int) -> npt.NDArray[AnyPixel]:
    """Resize by area where both sides shrink or stay, bilinearly otherwise; the same size returns the array itself.

    Args:
        array: [H, W] or [H, W, C], uint8 or float32.
        height: New height.
        width: New width.

    Returns:
        [height, width] or [height, width, C] of the same dtype.
    """
    if array.shape[:2] == (height, width):
        return array
    shrinks = height <= array.shape[0] and width <= array.shape[1]
    resized: Any = cv2.resize(array, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return resized  # type: ignore[no-any-return]  # cv2 is untyped for us


def _pad(array: npt.NDArray[AnyPixel], geometry: Geometry, value: int) -> npt.NDArray[AnyPixel]:
    if array.shape[:2] == (geometry.height, geometry.width):
        return array
    padded = np.full((geometry.height, geometry.width, *array.shape[2:]), value, dtype=array.dtype)
    bottom, right = geometry.top + geometry.inner_height, geometry.left + geometry.inner_width
    padded[geometry.top : bottom, geometry.left : right] = array
    return padded


def resize(
    picture: npt.NDArray[np.uint8], rule: ResizingRule, height: int, width: int, pad_value: int = PAD_VALUE
) -> tuple[npt.NDArray[np.uint8], Geometry]:
    """Turn a picture into a model input.

    Args:
        picture: uint8 [H, W, 3] or [H, W].
        rule: `letterbox` keeps the aspect ratio and pads, `stretch` fills.
        height: Height of the model input.
        width: Width of the model input.
        pad_value: 0..255, the value of the padding.

    Returns:
        The input, uint8 [height, width, 3] or [height, width] (the picture itself when nothing is to be done), and
        the geometry that `restore` needs.

    Raises:
        ValueError: For an unknown rule or a side below 1.
    """
    geometry = place(picture.shape[0], picture.shape[1], rule, height, width)
    return _pad(resample(picture, geometry.inner_height, geometry.inner_width), geometry, pad_value), geometry


def resize_mask(mask: npt.NDArray[AnyPixel], rule: ResizingRule, height: int, width: int) -> npt.NDArray[AnyPixel]:
    """Resize a mask as `resize` does its picture: nearest neighbour, padding 0.

    OpenCV's INTER_NEAREST takes the upper left pixel of each block, which shifts a mask shrunk 4 times by 3/8 of a
    pixel against its picture; INTER_NEAREST_EXACT takes the middle one.

    Args:
        mask: Bool or uint8 [H, W]; instance numbers stay whole.
        rule: `letterbox` keeps the aspect ratio and pads, `stretch` fills.
        height: Height of the model input.
        width: Width of the model input.

    Returns:
        [height, width] of the same dtype.

    Raises:
        ValueError: For an unknown rule or a side below 1.
    """
    geometry = place(mask.shape[0], mask.shape[1], rule, height, width)
    inner: Any = mask
    if mask.shape != (geometry.inner_height, geometry.inner_width):
        inner = cv2.resize(
            mask.view(np.uint8) if mask.dtype == np.bool_ else mask,
            (geometry.inner_width, geometry.inner_height),
            interpolation=cv2.INTER_NEAREST_EXACT,
        ).astype(mask.dtype)
    return _pad(inner, geometry, 0)


def restore(probabilities: npt.NDArray[np.float32], geometry: Geometry) -> npt.NDArray[np.float32]:
    """Bring a model's map back to the picture's own size: cut the padding off, then resize bilinearly.

    Args:
        probabilities: float32 [height, width], 0..1.
        geometry: What `resize` returned for the picture.

    Returns:
        float32 [H, W], 0..1.

    Raises:
        ValueError: When the map is not of the geometry's size.
    """
    if probabilities.shape != (geometry.height, geometry.width):
        raise ValueError(
            f"The map must be {geometry.height}x{geometry.width}. Received: shape {tuple(probabilities.shape)}"
        )
    bottom, right = geometry.top + geometry.inner_height, geometry.left + geometry.inner_width
    inner = probabilities[geometry.top : bottom, geometry.left : right]
    if inner.shape == (geometry.source_height, geometry.source_width):
        return inner
    size = (geometry.source_width, geometry.source_height)
    restored: Any = cv2.resize(np.ascontiguousarray(inner), size, interpolation=cv2.INTER_LINEAR)
    return restored  # type: ignore[no-any-return]  # cv2 is untyped for us
