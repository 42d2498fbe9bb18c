"""A layer to draw on: a picture, whose pixel is whose, and how the light falls.

Everything is drawn without antialiasing on a layer of twice the final size; reducing it afterwards antialiases the
picture and gives each pixel to whoever holds most of it (see `training.datasets.streets`).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

Colour = tuple[int, int, int]
"""Red, green, blue, 0..255."""

Point = tuple[float, float]
"""x to the right, y downwards, in pixels of the layer."""

CLEAR = 0
"""Label of a pixel where a sprite shows what is behind it."""
THING = 1
"""Label of a pixel of a sprite that belongs to no person (an umbrella)."""
PERSON = 2
"""Label of a pixel of a sprite that belongs to its person."""

NoiseKind = Literal["mixed", "smooth", "clumps"]

_NOISE_KINDS: tuple[NoiseKind, ...] = ("mixed", "smooth", "clumps")
_NEUTRAL = 128
_NOISE_SIDE = 1024
_CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 24)), np.sin(np.linspace(0, 2 * np.pi, 24))], axis=1)


def _colour(red: float, green: float, blue: float) -> Colour:
    return min(255, max(0, int(red))), min(255, max(0, int(green))), min(255, max(0, int(blue)))


def shaded(colour: Colour, factor: float) -> Colour:
    """Darken (factor below 1) or lighten a colour."""
    red, green, blue = colour
    return _colour(red * factor, green * factor, blue * factor)


def mixed(first: Colour, second: Colour, share: float) -> Colour:
    """Mix two colours; `share` 0..1 is the second one's."""
    red, green, blue = (int(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def jittered(rng: np.random.Generator, colour: Colour, spread: float = 12.0) -> Colour:
    """A colour near `colour`: brightness off by a normal deviate of `spread`, each channel by another of a third."""
    common, *own = rng.standard_normal(4) * (spread, spread / 3, spread / 3, spread / 3)
    red, green, blue = (value + common + change for value, change in zip(colour, own, strict=True))
    return _colour(red, green, blue)


@lru_cache(maxsize=1)
def _noise_bank() -> npt.NDArray[np.float32]:
    """float32 [3, 1024, 1024] of unit variance: noise of many sizes, smooth noise, and clumps of 2 to 16 pixels."""
    rng = np.random.default_rng(5)
    bank = np.zeros((3, _NOISE_SIDE, _NOISE_SIDE), dtype=np.float32)
    for exponent in range(10):
        coarse = rng.standard_normal((_NOISE_SIDE >> exponent, _NOISE_SIDE >> exponent)).astype(np.float32)
        wave = cv2.resize(coarse, (_NOISE_SIDE, _NOISE_SIDE), interpolation=cv2.INTER_CUBIC)
        bank[0] += wave * 1.35**exponent
        if exponent >= 4:
            bank[1] += wave * 1.6**exponent
        if 1 <= exponent <= 4:
            bank[2] += wave
    bank -= bank.mean(axis=(1, 2), keepdims=True)
    bank /= bank.std(axis=(1, 2), keepdims=True)
    return bank


def noise(rng: np.random.Generator, height: int, width: int, stretch: float = 1.0, kind: NoiseKind = "mixed") -> Any:
    """A piece of noise, float32 [height, width], about normal with unit variance; `stretch` widens its grains."""
    tile = _noise_bank()[_NOISE_KINDS.index(kind)]
    rows, columns = min(height, _NOISE_SIDE), min(max(2, int(width / stretch)), _NOISE_SIDE)
    top = int(rng.integers(0, _NOISE_SIDE - rows + 1))
    left = int(rng.integers(0, _NOISE_SIDE - columns + 1))
    piece = tile[top : top + rows, left : left + columns]
    if piece.shape == (height, width):
        return piece
    return cv2.resize(piece, (width, height), interpolation=cv2.INTER_LINEAR)


class Layer:
    """A picture with labels and light.

    Attributes:
        picture: uint8 [H, W, 3], RGB.
        labels: uint8 [H, W].
        light: uint8 [H, W] brightness, 128 neutral; None on a layer that is not lit.

    Args:
        height: Rows.
        width: Columns.
        sun: Where the light comes from, -1 left to 1 right; None makes a layer that is not lit.
    """

    def __init__(self, height: int, width: int, *, sun: float | None = None) -> None:
        self.picture: npt.NDArray[np.uint8] = np.zeros((height, width, 3), dtype=np.uint8)
        self.labels: npt.NDArray[np.uint8] = np.zeros((height, width), dtype=np.uint8)
        self.light: npt.NDArray[np.uint8] | None = None
        self._sun = 0.0
        if sun is not None:
            self.light, self._sun = np.full((height, width), _NEUTRAL, dtype=np.uint8), sun

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.picture.shape[0])

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.picture.shape[1])

    def polygon(self, points: Sequence[Point] | npt.NDArray[Any], colour: Colour, label: int = 0) -> None:
        """Fill a polygon."""
        corners = np.rint(np.asarray(points)).astype(np.int32)[np.newaxis]
        cv2.fillPoly(self.picture, corners, colour)
        cv2.fillPoly(self.labels, corners, label)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour, label: int = 0) -> None:
        """Fill an upright rectangle."""
        corners = (round(left), round(top)), (round(right), round(bottom))
        cv2.rectangle(self.picture, *corners, colour, -1)
        cv2.rectangle(self.labels, *corners, label, -1)

    def ellipse(self, centre: Point, radii: Point, colour: Colour, label: int = 0, angle: float = 0.0) -> None:
        """Fill an ellipse turned by `angle` radians."""
        cosine, sine = np.cos(angle), np.sin(angle)
        points = _CIRCLE * radii @ np.array([[cosine, sine], [-sine, cosine]]) + centre
        self.polygon(points, colour, label)

    def line(self, points: Sequence[Point], thickness: float, colour: Colour, label: int = 0) -> None:
        """Draw a line through points."""
        path = np.rint(np.asarray(points)).astype(np.int32)[np.newaxis]
        cv2.polylines(self.picture, path, False, colour, max(1, round(thickness)))
        cv2.polylines(self.labels, path, False, label, max(1, round(thickness)))

    def limb(self, joints: Sequence[Point], radii: Sequence[float], colour: Colour, label: int = 0) -> None:
        """Draw a rounded, tapering limb through joints; on a lit layer it gets a dark edge and a light core."""
        for outline in _limb_outlines(joints, radii):
            self.polygon(outline, colour, label)
        if self.light is not None:
            for shrink, value in ((1.0, 104), (0.62, 128), (0.3, 146)):
                moved = [(x + self._sun * (1 - shrink) * 0.5 * r, y) for (x, y), r in zip(joints, radii, strict=True)]
                for outline in _limb_outlines(moved, [radius * shrink for radius in radii]):
                    cv2.fillPoly(self.light, np.rint(outline).astype(np.int32)[np.newaxis], value)

    def solid(self, points: npt.NDArray[Any], colour: Colour, label: int = 0) -> None:
        """Fill a polygon and, on a lit layer, give it a dark edge and a light core."""
        self.polygon(points, colour, label)
        if self.light is not None:
            middle = points.mean(axis=0)
            for shrink, value in ((1.0, 104), (0.72, 128), (0.4, 144)):
                inner = (points - middle) * (shrink, 0.5 + 0.5 * shrink) + middle
                inner[:, 0] += self._sun * (1 - shrink) * 0.3 * np.ptp(points[:, 0])
                cv2.fillPoly(self.light, np.rint(inner).astype(np.int32)[np.newaxis], value)

    def apply_light(self, rng: np.random.Generator, size: float) -> None:
        """Fold the light, softened and creased, into the picture of a sprite `size` pixels tall."""
        if self.light is None:
            return
        side = max(3, int(size * 0.022) | 1)
        light = cv2.blur(cv2.blur(self.light, (side, side)), (side, side)).astype(np.float32)
        light += 9.0 * noise(rng, self.height, self.width)
        factor = cv2.merge([np.clip(light, 40, 230).astype(np.uint8)] * 3)
        self.picture = cv2.multiply(self.picture, factor, scale=1.0 / _NEUTRAL)

    def paste(self, sprite: "Layer", left: int, top: int, label: int) -> None:
        """Lay a sprite over this layer; pixels labelled PERSON get `label`, those labelled THING 0."""
        x0, y0 = max(0, left), max(0, top)
        x1, y1 = min(self.width, left + sprite.width), min(self.height, top + sprite.height)
        if x1 <= x0 or y1 <= y0:
            return
        rows, columns = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
        labels = sprite.labels[rows, columns]
        cv2.copyTo(sprite.picture[rows, columns], labels, self.picture[y0:y1, x0:x1])
        owner = np.where(labels == PERSON, np.uint8(label), np.uint8(0))
        cv2.copyTo(owner, labels, self.labels[y0:y1, x0:x1])


def _limb_outlines(joints: Sequence[Point], radii: Sequence[float]) -> list[npt.NDArray[Any]]:
    outlines = [_CIRCLE * radius + joint for joint, radius in zip(joints, radii, strict=True)]
    for (x0, y0), (x1, y1), r0, r1 in zip(joints[:-1], joints[1:], radii[:-1], radii[1:], strict=True):
        length = max(1e-6, float(np.hypot(x1 - x0, y1 - y0)))
        across = np.array([-(y1 - y0), x1 - x0]) / length
        start, end = np.array([x0, y0]), np.array([x1, y1])
        outlines.append(np.array([start + across * r0, end + across * r1, end - across * r1, start - across * r0]))
    return outlines
