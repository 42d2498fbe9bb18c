"""What a pedestrian looks like: drawn once at random, then only read."""

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from training.datasets.street_scenes.layer import Colour, jittered

T = TypeVar("T")

Arm = Literal["swing", "hang", "pocket", "phone", "hip", "carry", "raised"]
Bottom = Literal["trousers", "shorts", "skirt", "dress"]
Hair = Literal["short", "long", "bun", "bald"]
Hat = Literal["none", "cap", "beanie", "brim", "hood"]
Bag = Literal["none", "backpack", "handbag", "shoulder", "shopping"]
Pattern = Literal["plain", "stripes", "pinstripes", "checks", "dots", "print", "halves"]

SKINS: tuple[Colour, ...] = (
    (244, 214, 190), (231, 190, 160), (214, 168, 134), (186, 136, 100), (146, 98, 68), (104, 68, 48), (72, 48, 36),
)  # fmt: skip
HAIRS: tuple[Colour, ...] = (
    (22, 20, 20), (34, 26, 22), (58, 40, 28), (92, 62, 38), (150, 112, 66), (196, 160, 104), (120, 52, 28),
    (140, 138, 136), (206, 204, 200),
)  # fmt: skip
CLOTHES: tuple[Colour, ...] = (
    (24, 24, 28), (40, 42, 48), (26, 34, 64), (62, 66, 74), (110, 112, 116), (168, 170, 172), (226, 226, 224),
    (244, 242, 236), (206, 190, 160), (142, 112, 80), (92, 70, 52), (92, 98, 68), (54, 84, 62), (40, 116, 92),
    (52, 92, 150), (84, 132, 184), (140, 182, 216), (166, 34, 40), (206, 62, 52), (224, 124, 52), (236, 196, 70),
    (222, 140, 160), (150, 70, 120), (98, 72, 140), (30, 130, 140),
)  # fmt: skip
LEGWEAR: tuple[Colour, ...] = (
    (26, 26, 30), (36, 38, 44), (30, 38, 66), (44, 58, 94), (68, 88, 128), (112, 134, 166), (78, 78, 80),
    (126, 120, 110),    (172, 156, 126), (206, 196, 176), (228, 226, 222), (78, 70, 52), (96, 60, 50),
)  # fmt: skip
SHOES: tuple[Colour, ...] = ((24, 22, 22), (58, 42, 32), (226, 226, 226), (120, 120, 122), (150, 52, 48), (60, 80, 130))


@dataclass(frozen=True)
class Look:
    """A pedestrian.

    Attributes:
        stature: Height in metres.
        child: Whether the proportions are a child's.
        build: Width relative to the average, 0.85..1.3.
        turn: 0 seen from the front or back, 1 from the side.
        facing: 1 to the right, -1 to the left.
        back: Whether seen from behind.
        stride: Swing of the legs in radians, 0 standing.
        bend: Bend of the rear knee in radians.
        arms: What the far and the near arm do (left and right one seen from the front).
        skin: Colour of the skin.
        hair: Cut of the hair.
        hair_colour: Its colour.
        hat: Head-wear.
        hat_colour: Its colour.
        top_colour: Colour of the upper garment.
        accent: Second colour of a pattern, inner shirt of an open coat.
        pattern: Pattern of the upper garment.
        long_sleeves: Whether sleeves reach the wrist.
        hem: Height of the upper garment's hem, of the stature.
        open_front: Whether a coat is open.
        bottom: Lower garment.
        bottom_colour: Its colour.
        bottom_hem: Height of the hem of skirt, dress or shorts, of the stature.
        shoe_colour: Colour of the shoes.
        bag: What is carried.
        bag_colour: Its colour.
        umbrella: Colour of the umbrella held, or None.
        glasses: Whether dark glasses are worn.
    """

    stature: float
    child: bool
    build: float
    turn: float
    facing: int
    back: bool
    stride: float
    bend: float
    arms: tuple[Arm, Arm]
    skin: Colour
    hair: Hair
    hair_colour: Colour
    hat: Hat
    hat_colour: Colour
    top_colour: Colour
    accent: Colour
    pattern: Pattern
    long_sleeves: bool
    hem: float
    open_front: bool
    bottom: Bottom
    bottom_colour: Colour
    bottom_hem: float
    shoe_colour: Colour
    bag: Bag
    bag_colour: Colour
    umbrella: Colour | None
    glasses: bool


def _pick(rng: np.random.Generator, options: tuple[T, ...], weights: tuple[float, ...] | None = None) -> T:
    if weights is None:
        return options[int(rng.integers(len(options)))]
    return options[int(np.searchsorted(np.cumsum(weights) / sum(weights), rng.random()))]


def draw_look(rng: np.random.Generator, *, rainy: bool = False) -> Look:
    """Draw a pedestrian.

    Args:
        rng: Source of randomness.
        rainy: Whether umbrellas are likely.

    Returns:
        The look.
    """
    child = rng.random() < 0.07
    walking = rng.random() < 0.68
    turn = _pick(rng, (0.0, 0.35, 0.7, 1.0), (4, 2, 2, 4)) if walking else _pick(rng, (0.0, 0.4, 1.0), (6, 2, 2))
    if walking:
        moving: tuple[Arm, ...] = ("swing", "phone", "pocket", "carry")
        arms = _pick(rng, moving, (10, 1, 1, 1)), _pick(rng, moving, (10, 1, 1, 1))
    else:
        still: tuple[Arm, ...] = ("hang", "pocket", "phone", "hip", "carry", "raised")
        arms = _pick(rng, still, (6, 2, 1.5, 1, 1, 0.4)), _pick(rng, still, (6, 2, 1.5, 1, 1, 0.4))
    bottoms: tuple[Bottom, ...] = ("trousers", "shorts", "skirt", "dress")
    bottom = _pick(rng, bottoms, (70, 14, 9, 7))
    coat = bottom != "dress" and rng.random() < 0.22
    long_sleeves = coat or rng.random() < 0.5
    top_colour = jittered(rng, _pick(rng, CLOTHES))
    umbrella = jittered(rng, _pick(rng, CLOTHES), 20) if rng.random() < (0.5 if rainy else 0.03) else None
    hems = {"trousers": 0.05, "shorts": rng.uniform(0.27, 0.36), "skirt": rng.uniform(0.22, 0.38), "dress": 0.0}
    return Look(
        stature=rng.uniform(1.05, 1.4) if child else float(np.clip(rng.normal(1.7, 0.08), 1.5, 1.95)),
        child=child,
        build=float(np.clip(rng.normal(1.0, 0.1), 0.84, 1.32)),
        turn=float(np.clip(turn + rng.normal(0, 0.06), 0.0, 1.0)),
        facing=1 if rng.random() < 0.5 else -1,
        back=rng.random() < 0.45,
        stride=rng.uniform(0.15, 0.5) if walking else rng.uniform(0.0, 0.1),
        bend=rng.uniform(0.1, 0.7) if walking else rng.uniform(0.0, 0.08),
        arms=arms,
        skin=jittered(rng, _pick(rng, SKINS, (3, 4, 4, 3, 2, 2, 1)), 6),
        hair=_pick(rng, ("short", "long", "bun", "bald"), (11, 6, 2, 1)),
        hair_colour=jittered(rng, _pick(rng, HAIRS, (6, 5, 5, 3, 1.5, 1, 0.7, 1.2, 0.8)), 6),
        hat=_pick(rng, ("none", "cap", "beanie", "brim", "hood"), (80, 8, 5, 4, 3)),
        hat_colour=jittered(rng, _pick(rng, CLOTHES)),
        top_colour=top_colour,
        accent=jittered(rng, _pick(rng, CLOTHES)),
        pattern=_pick(
            rng,
            ("plain", "stripes", "pinstripes", "checks", "dots", "print", "halves"),
            (60, 8, 4, 8, 4, 10, 6),
        ),
        long_sleeves=long_sleeves,
        hem=rng.uniform(0.3, 0.45) if coat else rng.uniform(0.46, 0.51),
        open_front=coat and rng.random() < 0.5,
        bottom=bottom,
        bottom_colour=top_colour if bottom == "dress" else jittered(rng, _pick(rng, LEGWEAR), 8),
        bottom_hem=rng.uniform(0.15, 0.36) if bottom == "dress" else float(hems[bottom]),
        shoe_colour=jittered(rng, _pick(rng, SHOES, (8, 3, 4, 2, 1, 1)), 6),
        bag=_pick(rng, ("none", "backpack", "handbag", "shoulder", "shopping"), (52, 18, 8, 13, 9)),
        bag_colour=jittered(rng, _pick(rng, CLOTHES)),
        umbrella=umbrella,
        glasses=rng.random() < 0.12,
    )
