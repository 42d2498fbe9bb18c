"""Large frames in overlapping tiles, so that small pedestrians reach the model at a size it knows.

Each pixel's probability is the mean over the tiles that hold it, weighted by how far inside of the tile it lies: the
weight falls linearly to the tile's edge across the overlap, so that no seam shows. A frame without tiles is one tile.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from serving.imaging import Picture, Probabilities

# Measured on vtest and Mall, see RESULTS.md.
AUTO_SIDE = 256
_AUTO_FROM = 1.5
_OVERLAP = 0.25


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of the frame."""

    top: int
    left: int
    height: int
    width: int

    def of(self, picture: Picture) -> Picture:
        """That part of a picture."""
        return picture[self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True, slots=True)
class Tiling:
    """How frames are cut.

    Attributes:
        side: of a tile in pixels; 0 = the frame is one tile.
    """

    side: int = 0
    auto: bool = False

    @classmethod
    def parse(cls, text: str) -> "Tiling":
        """Reads ``off``, ``auto`` or the side of a tile."""
        if text == "auto":
            return cls(AUTO_SIDE, auto=True)
        return cls() if text == "off" else cls(int(text))

    def cut(self, height: int, width: int) -> tuple[Tile, ...]:
        """The tiles of a frame, row by row; they cover it, and neighbours overlap by a quarter of their side or more.

        ``auto`` leaves frames whole whose shorter side is less than half as long again as a tile.
        """
        if not self.side or (self.auto and min(height, width) < _AUTO_FROM * self.side):
            return (Tile(0, 0, height, width),)
        return _cut(self.side, height, width)

    def blend(self, parts: Sequence[Probabilities], height: int, width: int) -> Probabilities:
        """Joins the probabilities of the tiles.

        Args:
            parts: one [tile height, tile width] for each tile of ``cut``, in its order.
            height: of the frame.
            width: of the frame.

        Returns:
            [height, width] in [0, 1].
        """
        tiles = self.cut(height, width)
        if len(tiles) == 1:
            return parts[0]
        total = np.zeros((height, width), np.float32)
        for tile, part in zip(tiles, parts, strict=True):
            total[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width] += part * _window(tile)
        # Rounding may leave a hair more than 1 where all are sure.
        blended: Probabilities = np.minimum(total / _weights(tiles, height, width), np.float32(1))
        return blended


@lru_cache(maxsize=16)
def _cut(side: int, height: int, width: int) -> tuple[Tile, ...]:
    return tuple(
        Tile(top, left, min(side, height), min(side, width))
        for top in _starts(side, height)
        for left in _starts(side, width)
    )


def _starts(side: int, length: int) -> list[int]:
    if length <= side:
        return [0]
    count = int(np.ceil((length - side) / (side * (1 - _OVERLAP)))) + 1
    return [round(number * (length - side) / (count - 1)) for number in range(count)]


@lru_cache(maxsize=16)
def _window(tile: Tile) -> npt.NDArray[np.float32]:
    return np.outer(_ramp(tile.height), _ramp(tile.width))


def _ramp(length: int) -> npt.NDArray[np.float32]:
    inside = np.minimum(np.arange(length), np.arange(length)[::-1]) + 1.0
    return np.minimum(1.0, inside / max(1.0, _OVERLAP * length)).astype(np.float32)


@lru_cache(maxsize=4)
def _weights(tiles: tuple[Tile, ...], height: int, width: int) -> npt.NDArray[np.float32]:
    weights = np.zeros((height, width), np.float32)
    for tile in tiles:
        weights[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width] += _window(tile)
    return weights
