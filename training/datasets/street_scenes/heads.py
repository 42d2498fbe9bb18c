"""Draws a pedestrian's head: hair, face, hat."""

import numpy as np

from training.datasets.street_scenes.figure_canvas import FigureCanvas
from training.datasets.street_scenes.layer import PERSON, mixed, shaded
from training.datasets.street_scenes.looks import Look


class Head:
    """The head of one pedestrian.

    Args:
        canvas: Where it is drawn.
        look: The pedestrian.
        side: How far it faces to the right, -1..1.
        lean: How far the body leans, in statures.
        rng: Source of randomness for the fringe.
    """

    def __init__(self, canvas: FigureCanvas, look: Look, *, side: float, lean: float, rng: np.random.Generator) -> None:
        self._canvas, self._look, self._side, self._lean, self._rng = canvas, look, side, lean, rng

    def draw(self) -> None:
        """Draws it."""
        look = self._look
        grown = 1.22 if look.child else 1.0
        x, y = self._lean * 1.4 + self._side * 0.012, 0.925
        across, up = (0.049 + 0.007 * look.turn) * grown, 0.067 * grown
        hair, size = look.hair_colour, self._canvas.size
        if look.hair == "long" and not look.back:
            self._canvas.oval(x - self._side * 0.03, y - 0.025, across * 1.2, up * 1.25, shaded(hair, 0.85))
        self._canvas.limb([(x, y - 0.015), (x, y + 0.012)], [across * 0.9, across], look.skin)
        self._canvas.oval(x, y, across, up, look.skin)
        if look.back and look.turn < 0.5:
            self._canvas.oval(
                x, y + 0.008, across * 1.06, up * 0.98, hair if look.hair != "bald" else shaded(look.skin, 0.94)
            )
            if look.hair == "long":
                self._canvas.layer.solid(
                    self._canvas.path(
                        [(x - across, y), (x + across, y), (x + across * 0.9, 0.8), (x - across * 0.9, 0.8)]
                    ),
                    hair,
                    PERSON,
                )
        elif look.hair != "bald":
            self._hair(x, y, across, up)
        if look.hair == "bun":
            bun = (-look.facing * look.turn * 0.06, 0.02) if look.turn > 0.4 else (0.0, 0.07)
            self._canvas.oval(x + bun[0], y + bun[1], 0.026 * grown, 0.026 * grown, hair)
        if not look.back and size > 130:
            self._face(x, y, across, up)
        self._hat(x, y, across, up)

    def _hair(self, x: float, y: float, across: float, up: float) -> None:
        """Hair seen from front or side: a cap whose edge leaves the face free."""
        look = self._look
        turn = np.linspace(0.12 * np.pi, 0.88 * np.pi, 12)
        rim = [(x + across * 1.1 * np.cos(a), y + up * 1.08 * np.sin(a)) for a in turn]
        fringe = up * (0.4 + 0.2 * self._rng.random())
        if look.turn > 0.4:
            long = look.hair == "long"
            arc = np.linspace(0.22 * np.pi, 1.12 * np.pi, 14)
            over = [(1.08 * np.cos(a), 1.08 * np.sin(a)) for a in arc]
            nape = [(-1.1, -1.5), (-0.3, -1.5)] if long else [(-0.82, -0.55)]
            face = [(-0.12, -0.2), (-0.02, 0.25), (0.5, 0.4)]
            points = [(x + look.facing * across * u, y + up * v) for u, v in (*over, *nape, *face)]
        else:
            temple, brow = y + fringe * 0.2, y + fringe
            points = [
                *rim,
                (x - across, temple),
                (x - across * 0.6, brow),
                (x + across * 0.7, brow),
                (x + across, temple),
            ]
        self._canvas.layer.polygon(self._canvas.path(points), look.hair_colour, PERSON)

    def _face(self, x: float, y: float, across: float, up: float) -> None:
        look, size = self._look, self._canvas.size
        dark = shaded(look.skin, 0.45)
        shift = self._side * across * 0.55
        for sign in (-1, 1):
            spot = x + shift + sign * across * 0.4 * (1 - 0.6 * look.turn)
            if abs(spot - x) < across * 0.95:
                wide = 0.26 if look.glasses else 0.12
                colour = (20, 20, 22) if look.glasses else mixed(dark, (30, 24, 22), 0.5)
                self._canvas.oval(spot, y + up * 0.05, across * wide, up * (0.11 if look.glasses else 0.06), colour)
        mouth = [
            self._canvas.at(x + shift * 1.1 - across * 0.25, y - up * 0.5),
            self._canvas.at(x + shift * 1.1 + across * 0.25, y - up * 0.5),
        ]
        self._canvas.layer.line(mouth, 0.007 * size, mixed(look.skin, (150, 50, 50), 0.5), PERSON)

    def _hat(self, x: float, y: float, across: float, up: float) -> None:
        look = self._look
        if look.hat == "none":
            return
        turn = np.linspace(0.0, np.pi, 12)
        crown = [(x + across * 1.14 * np.cos(a), y + up * 0.3 + up * 0.85 * np.sin(a)) for a in turn]
        colour = look.top_colour if look.hat == "hood" else look.hat_colour
        if look.hat == "hood":
            self._canvas.oval(x - self._side * 0.012, y + up * 0.2, across * 1.22, up * 1.05, colour)
            if not look.back:
                self._canvas.oval(x + self._side * 0.02, y - up * 0.05, across * 0.85, up * 0.8, look.skin)
            return
        self._canvas.layer.solid(self._canvas.path(crown), colour, PERSON)
        if look.hat == "brim":
            self._canvas.oval(x, y + up * 0.34, across * 1.75, up * 0.16, shaded(colour, 0.85))
        elif look.hat == "cap" and not look.back:
            forward = self._side * across
            self._canvas.oval(x + forward * 1.1, y + up * 0.32, across * 0.9, up * 0.13, shaded(colour, 0.75))
        elif look.hat == "beanie":
            self._canvas.limb(
                [(x - across, y + up * 0.32), (x + across, y + up * 0.32)], [0.012] * 2, shaded(colour, 0.85)
            )
