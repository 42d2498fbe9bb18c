"""The camera of a scene: a pinhole over a flat street."""

from dataclasses import dataclass

import numpy as np

from training.datasets.street_scenes.layer import Point


@dataclass(frozen=True)
class View:
    """A camera looking along the street.

    A point on the ground X metres to the right at depth d metres is seen at (vanishing + X f / d, horizon + c f / d).

    Attributes:
        height: Rows of the layer.
        width: Columns of the layer.
        horizon: Row of the horizon.
        vanishing: Column of the vanishing point.
        camera: Height of the camera c in metres.
        focal: Focal length f in pixels.
        sun: Where the light comes from, -1 left to 1 right.
        subject: Pixels a metre where the nearest pedestrian stands.
    """

    height: int
    width: int
    horizon: float
    vanishing: float
    camera: float
    focal: float
    sun: float
    subject: float

    def ground(self, x: float, depth: float) -> Point:
        """Where a point of the ground is seen."""
        return self.vanishing + x * self.focal / depth, self.horizon + self.camera * self.focal / depth

    def metre(self, row: float) -> float:
        """Pixels a metre for what stands on the ground at `row` (below the horizon)."""
        return max(1.0, (row - self.horizon) / self.camera)

    def row(self, metre: float) -> float:
        """Row of the ground where a metre has `metre` pixels."""
        return self.horizon + self.camera * metre

    @property
    def nearest(self) -> float:
        """Depth in metres of the ground at the lower edge."""
        return self.camera * self.focal / (self.height - self.horizon)


def draw_view(rng: np.random.Generator, height: int, width: int) -> View:
    """Draw a camera for a layer of `height` x `width`.

    Most pictures of pedestrians are taken so that the nearest one nearly fills the height with both feet in view; the
    camera's height follows from where those feet and the horizon are seen.
    """
    horizon = height * rng.uniform(0.18, 0.42)
    feet = height * (rng.uniform(0.84, 0.99) if rng.random() < 0.8 else rng.uniform(0.99, 1.2))
    subject = height * rng.uniform(0.48, 0.9) / 1.72
    return View(
        height=height,
        width=width,
        horizon=horizon,
        vanishing=width * rng.uniform(0.1, 0.9),
        camera=max(1.0, (feet - horizon) / subject),
        focal=width * rng.uniform(0.9, 1.5),
        sun=float(rng.choice([-1.0, 1.0]) * rng.uniform(0.3, 1.0)),
        subject=subject,
    )
