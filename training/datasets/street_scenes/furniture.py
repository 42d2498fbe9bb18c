"""What stands in a street besides people. Each thing covers what is behind it: its pixels get label 0.

Every function takes the layer, the source of randomness, the column `x` and row `y` of its foot, and the pixels a metre
there.
"""

from collections.abc import Callable

import numpy as np

from training.datasets.street_scenes.background import foliage
from training.datasets.street_scenes.layer import Colour, Layer, Point, jittered, mixed, shaded

CARS: tuple[Colour, ...] = (
    (28, 30, 34), (200, 202, 204), (236, 236, 234), (120, 124, 128), (150, 30, 34), (36, 60, 110), (70, 76, 84),
    (206, 170, 60), (40, 82, 66), (128, 104, 80),
)  # fmt: skip
METALS: tuple[Colour, ...] = ((60, 62, 64), (96, 98, 100), (40, 60, 50), (140, 142, 144), (30, 30, 32))
SIGNS: tuple[Colour, ...] = ((186, 32, 36), (30, 80, 160), (232, 230, 226), (226, 186, 50), (30, 110, 70))


def _pick(rng: np.random.Generator, palette: tuple[Colour, ...], spread: float = 8.0) -> Colour:
    return jittered(rng, palette[rng.integers(len(palette))], spread)


def car(layer: Layer, rng: np.random.Generator, x: float, y: float, metre: float) -> None:
    """A car seen from its side."""
    length, paint = rng.uniform(3.7, 4.8), _pick(rng, CARS)
    flip, high = rng.choice([-1, 1]), rng.uniform(1.38, 1.75)
    tail = rng.uniform(0.62, 0.95)  # how far back the roof reaches: saloon to estate

    def at(points: list[Point]) -> list[Point]:
        return [(x + flip * (u - 0.5) * length * metre, y - v * metre) for u, v in points]

    layer.polygon(at([(0.02, 0.06), (0.98, 0.06), (0.96, 0.2), (0.04, 0.2)]), (22, 22, 24))
    body = [
        (0.0, 0.25), (0.01, 0.62), (0.05, 0.74), (0.24, 0.86), (0.36, high - 0.04), (0.42, high), (tail - 0.1, high),
        (tail, high - 0.06), (min(0.98, tail + 0.1), 0.92), (0.985, 0.85), (1.0, 0.5), (0.99, 0.22),
    ]  # fmt: skip
    layer.polygon(at(body), paint)
    layer.polygon(at([(0.0, 0.25), (0.005, 0.46), (1.0, 0.46), (0.99, 0.22)]), shaded(paint, 0.78))
    glass = mixed((36, 42, 50), (150, 166, 180), 0.4 * rng.random())
    layer.polygon(at([(0.27, 0.88), (0.38, high - 0.08), (0.55, high - 0.08), (0.55, 0.88)]), glass)
    rear = [(0.575, 0.88), (0.575, high - 0.08), (tail - 0.1, high - 0.08), (min(0.93, tail + 0.04), 0.9)]
    layer.polygon(at(rear), shaded(glass, 1.15))
    layer.line(at([(0.56, 0.86), (0.56, 0.3)]), 0.02 * metre, shaded(paint, 0.6))
    layer.line(at([(0.1, 0.66), (0.95, 0.66)]), 0.03 * metre, shaded(paint, 1.2))
    for u in (0.18, 0.81):
        centre = at([(u, 0.31)])[0]
        layer.ellipse(centre, (0.36 * metre, 0.36 * metre), shaded(paint, 0.4))
        layer.ellipse(centre, (0.31 * metre, 0.31 * metre), (24, 24, 26))
        layer.ellipse(centre, (0.18 * metre, 0.18 * metre), (150, 152, 154))
        layer.ellipse(centre, (0.07 * metre, 0.07 * metre), (70, 72, 74))
    layer.polygon(at([(0.005, 0.56), (0.06, 0.68), (0.06, 0.56)]), (240, 236, 210))
    layer.polygon(at([(0.985, 0.58), (0.985, 0.78), (0.955, 0.78), (0.955, 0.58)]), (170, 30, 30))


def tree(layer: Layer, rng: np.random.Generator, x: float, y: float, metre: float) -> None:
    """A tree with its crown."""
    high, thick = rng.uniform(2.2, 4.5) * metre, rng.uniform(0.1, 0.26) * metre
    bark = jittered(rng, (82, 68, 54), 12)
    lean = rng.normal(0, 0.03) * high
    trunk = [(x - thick, y), (x + thick, y), (x + lean + thick * 0.7, y - high), (x + lean - thick * 0.7, y - high)]
    layer.polygon(trunk, bark)
    dark = [
        (x + thick * 0.2, y),
        (x + thick, y),
        (x + lean + thick * 0.7, y - high),
        (x + lean + thick * 0.2, y - high),
    ]
    layer.polygon(dark, shaded(bark, 0.75))
    for sign in (-1, 1):
        end = (x + lean + sign * rng.uniform(0.5, 1.2) * metre, y - high * rng.uniform(1.1, 1.4))
        layer.line([(x + lean * 0.8, y - high * 0.8), end], thick * 0.8, shaded(bark, 0.9))
    for _ in range(int(rng.integers(2, 5))):
        cx, cy = x + lean + rng.normal(0, 0.8) * metre, y - high - rng.uniform(0.2, 1.6) * metre
        wide, tall = rng.uniform(1.0, 2.2) * metre, rng.uniform(0.8, 1.6) * metre
        foliage(layer, rng, (int(cx - wide), int(cy - tall), int(cx + wide), int(cy + tall)))


def lamp(layer: Layer, rng: np.random.Generator, x: float, y: float, metre: float) -> None:
    """A lamp post."""
    metal, high = _pick(rng, METALS), rng.uniform(3.5, 6.0) * metre
    layer.box(x - 0.06 * metre, y - high, x + 0.06 * metre, y, metal)
    layer.box(x - 0.06 * metre, y - high, x - 0.02 * metre, y, shaded(metal, 1.4))
    layer.box(x - 0.13 * metre, y - 0.5 * metre, x + 0.13 * metre, y, shaded(metal, 0.8))
    layer.ellipse((x, y - high), (0.25 * metre, 0.3 * metre), (226, 222, 206))


def sign(layer: Layer, rng: np.random.Generator, x: float, y: float, metre: float) -> None:
    """A traffic sign on a pole."""
    metal, high = jittered(rng, (150, 152, 154), 8), rng.uniform(2.0, 2.7) * metre
    layer.box(x - 0.04 * metre, y - high, x + 0.04 * metre, y, metal)
    face, side, centre = _pick(rng, SIGNS), 0.32 * metre, (x, y - high)
    shape = rng.integers(3)
    if shape == 0:
        layer.ellipse(centre, (side, side), face)
        layer.ellipse(centre, (side * 0.7, side * 0.7), mixed(face, (245, 244, 240), 0.8))
    elif shape == 1:
        layer.polygon(
            [(x, y - high - side), (x + side, y - high + side * 0.7), (x - side, y - high + side * 0.7)], face
        )
    else:
        layer.box(x - side, y - high - side, x + side, y - high + side, face)
        layer.box(x - side * 0.6, y - high - side * 0.2, x + side * 0.6, y - high + side * 0.1, (240, 240, 236))


def bollard(layer: Layer, rng: np.random.Generator, x: float, y: float, metre: float) -> None:
    """A row of one to four bollards."""
    metal, step = _pick(rng, METALS), rng.uniform(1.0, 1.8) * metre
    for i in range(int(rng.integers(1, 5))):
        at = x + i * step
        layer.box(at - 0.08 * metre, y - 0.9 * metre, at + 0.08 * metre, y, metal)
        layer.ellipse((at, y - 0.9 * metre), (0.09 * metre, 0.09 * metre), shaded(metal, 1.3))
        layer.box(
            at - 0.08 * metre, y - 0.75 * metre, at + 0.08 * metre, y - 0.65 * metre, mixed(metal, (240, 240, 235), 0.7)
        )


def litter_bin(layer: Layer, rng: np.random.Generator, x: float, y: float, metre: float) -> None:
    """A litter bin."""
    colour = _pick(rng, (*METALS, (36, 90, 60), (170, 90, 40)))
    wide, high = 0.27 * metre, rng.uniform(0.85, 1.05) * metre
    layer.polygon([(x - wide, y - high), (x + wide, y - high), (x + wide * 0.85, y), (x - wide * 0.85, y)], colour)
    for i in range(-2, 3):
        layer.line([(x + i * wide * 0.36, y - high), (x + i * wide * 0.32, y)], 0.02 * metre, shaded(colour, 0.7))
    layer.box(x - wide * 1.1, y - high - 0.08 * metre, x + wide * 1.1, y - high, shaded(colour, 0.6))


def bench(layer: Layer, rng: np.random.Generator, x: float, y: float, metre: float) -> None:
    """A bench seen from the front."""
    wood, half = jittered(rng, (128, 92, 58), 14), rng.uniform(0.7, 1.0) * metre
    for at in (x - half * 0.8, x + half * 0.8):
        layer.box(at - 0.04 * metre, y - 0.85 * metre, at + 0.04 * metre, y, (44, 44, 46))
    for low in (0.38, 0.58, 0.7, 0.82):
        layer.box(x - half, y - (low + 0.08) * metre, x + half, y - low * metre, shaded(wood, 0.8 + 0.3 * low))


def planter(layer: Layer, rng: np.random.Generator, x: float, y: float, metre: float) -> None:
    """A box with a shrub."""
    half, high = rng.uniform(0.4, 0.9) * metre, rng.uniform(0.35, 0.6) * metre
    box = jittered(rng, (150, 140, 128), 20)
    leaves = rng.uniform(0.3, 0.9) * metre
    foliage(
        layer, rng, (int(x - half * 1.1), int(y - high - leaves), int(x + half * 1.1), int(y - high + leaves * 0.4))
    )
    layer.box(x - half, y - high, x + half, y, box)
    layer.box(x - half, y - high, x + half, y - high * 0.85, shaded(box, 1.2))


def hedge(layer: Layer, rng: np.random.Generator, x: float, y: float, metre: float) -> None:
    """A clipped hedge."""
    half, high = rng.uniform(1.2, 3.5) * metre, rng.uniform(0.5, 1.0) * metre
    foliage(layer, rng, (int(x - half), int(y - high), int(x + half), int(y)), ragged=0.3)


def fence(layer: Layer, rng: np.random.Generator, x: float, y: float, metre: float) -> None:
    """A railing one can see through."""
    metal, half, high = _pick(rng, METALS), rng.uniform(1.0, 2.5) * metre, rng.uniform(0.8, 1.05) * metre
    for up in (1.0, 0.2):
        layer.box(x - half, y - up * high - 0.025 * metre, x + half, y - up * high + 0.025 * metre, metal)
    for at in np.arange(x - half, x + half, 0.16 * metre):
        layer.line([(at, y - high), (at, y)], 0.02 * metre, metal)


def bicycle(layer: Layer, rng: np.random.Generator, x: float, y: float, metre: float) -> None:
    """A parked bicycle."""
    frame, thick = _pick(rng, (*CARS, *SIGNS)), 0.045 * metre
    rear, front = (x - 0.52 * metre, y - 0.33 * metre), (x + 0.52 * metre, y - 0.33 * metre)
    circle = np.linspace(0, 2 * np.pi, 28)
    for cx, cy in (rear, front):
        rim = [(cx + 0.33 * metre * np.cos(a), cy + 0.33 * metre * np.sin(a)) for a in circle]
        layer.line(rim, 0.035 * metre, (28, 28, 30))
        for a in circle[::4]:
            layer.line([(cx, cy), (cx + 0.3 * metre * np.cos(a), cy + 0.3 * metre * np.sin(a))], 1, (130, 130, 132))
    crank, seat = (x - 0.08 * metre, y - 0.3 * metre), (x - 0.22 * metre, y - 0.85 * metre)
    head = (x + 0.36 * metre, y - 0.85 * metre)
    for path in ([rear, crank, head, front], [crank, seat], [rear, seat], [seat, head]):
        layer.line(path, thick, frame)
    layer.line([(x + 0.28 * metre, y - 1.0 * metre), (x + 0.46 * metre, y - 0.98 * metre)], thick, (30, 30, 32))
    layer.line([head, (x + 0.34 * metre, y - 1.0 * metre)], thick, frame)
    layer.ellipse((seat[0], seat[1] - 0.03 * metre), (0.14 * metre, 0.045 * metre), (26, 26, 28))


def poster(layer: Layer, rng: np.random.Generator, x: float, y: float, metre: float) -> None:
    """A lit poster on a stand, with a picture that must not be taken for a person."""
    half, high, foot = 0.65 * metre, 1.75 * metre, 0.4 * metre
    layer.box(x - half, y - high - foot, x + half, y, _pick(rng, METALS))
    paper = jittered(rng, (200, 190, 170), 40)
    left, top, right, bottom = x - half * 0.88, y - high - foot * 0.8, x + half * 0.88, y - foot
    layer.box(left, top, right, bottom, paper)
    for _ in range(5):
        u, v = rng.uniform(left, right - half * 0.3), rng.uniform(top, bottom - high * 0.2)
        size = rng.uniform(0.1, 0.5) * metre
        layer.box(u, v, min(u + size, right), min(v + size * 0.7, bottom), jittered(rng, (128, 110, 100), 60))


NEAR: tuple[Callable[[Layer, np.random.Generator, float, float, float], None], ...] = (
    lamp, sign, bollard, litter_bin, bench, planter, hedge, fence, bicycle, tree,
)  # fmt: skip
"""What stands among the people."""

FAR: tuple[Callable[[Layer, np.random.Generator, float, float, float], None], ...] = (
    car, car, car, tree, tree, lamp, poster, bicycle, hedge, bench, sign,
)  # fmt: skip
"""What stands behind them; cars and trees are the most common."""
