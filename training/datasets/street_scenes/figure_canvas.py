"""The sprite on which a pedestrian is drawn, in the figure's own units."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from training.datasets.street_scenes.layer import PERSON, Colour, Layer, Point


class FigureCanvas:
    """A layer addressed in statures: x to the right and y upwards, the ground at y = 0.

    Args:
        size: Stature in pixels of the layer.
        reach: Width to each side, in statures.
        above: Height, in statures.
        sun: Where the light comes from, -1 left to 1 right.

    Attributes:
        layer: What is drawn on.
        size: As given.
        above: As given.
        lift: How far everything drawn from now on stands above the ground, in statures.
    """

    def __init__(self, size: float, reach: float, above: float, sun: float) -> None:
        self.size, self.above, self.lift = size, above, 0.0
        self._reach = reach
        self.layer = Layer(max(4, round(size * (above + 0.05))), max(4, round(2 * reach * size)), sun=sun)

    @property
    def foot(self) -> tuple[int, int]:
        """Column and row in the layer of the point on the ground between the feet."""
        return round(self._reach * self.size), round(self.above * self.size)

    def at(self, x: float, y: float) -> Point:
        """Column and row of a point."""
        column, row = self.foot
        return column + x * self.size, row - (y + self.lift) * self.size

    def path(self, points: Iterable[Point]) -> npt.NDArray[Any]:
        """Columns and rows of points: float [N, 2]."""
        return np.array([self.at(x, y) for x, y in points])

    def limb(self, joints: Sequence[Point], radii: Sequence[float], colour: Colour) -> None:
        """Draws a limb through its joints, as thick as the radii."""
        self.layer.limb([self.at(*joint) for joint in joints], [r * self.size for r in radii], colour, PERSON)

    def oval(self, x: float, y: float, across: float, up: float, colour: Colour) -> None:
        """Draws an upright ellipse with its half axes."""
        self.layer.ellipse(self.at(x, y), (across * self.size, up * self.size), colour, PERSON)
