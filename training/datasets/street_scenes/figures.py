"""Draws a pedestrian as a sprite.

A figure is built in its own units: x to the right and y upwards, in statures, the ground at y = 0. Proportions follow
the usual eight-heads canon of figure drawing (chin 0.86, shoulders 0.815, hips 0.52, knees 0.28, ankles 0.04).
"""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from training.datasets.street_scenes.figure_canvas import FigureCanvas
from training.datasets.street_scenes.heads import Head
from training.datasets.street_scenes.layer import PERSON, THING, Colour, Layer, Point, shaded
from training.datasets.street_scenes.looks import Arm, Look

THIGH = SHIN = 0.24
UPPER_ARM, FOREARM = 0.165, 0.15


class Figure:
    """One pedestrian being drawn.

    Args:
        look: The pedestrian.
        size: Stature in pixels of the layer.
        rng: Source of randomness for creases and small irregularities.
        sun: Where the light comes from, -1 left to 1 right.
    """

    def __init__(self, look: Look, size: float, rng: np.random.Generator, sun: float) -> None:
        self._look, self._rng = look, rng
        self._canvas = FigureCanvas(size, 0.75 if look.umbrella else 0.5, 1.34 if look.umbrella else 1.06, sun)
        self._side = look.facing * look.turn
        self._shoulder = (0.118 - 0.062 * look.turn) * look.build
        self._hip = (0.082 - 0.034 * look.turn) * look.build
        self._lean = 0.02 * self._side * min(1.0, look.stride * 3)
        self._head = Head(self._canvas, look, side=self._side, lean=self._lean, rng=rng)

    @property
    def foot(self) -> tuple[int, int]:
        """Column and row in the sprite of the point on the ground between the feet."""
        return self._canvas.foot

    def draw(self) -> Layer:
        """Draw the figure.

        Returns:
            A sprite whose labels are CLEAR, THING (the umbrella) and PERSON (with clothes, bags and hat).
        """
        look = self._look
        front_is_bag = look.bag == "backpack" and look.back and look.turn < 0.5
        far, near = self._legs()
        if look.umbrella:
            self._umbrella(look.umbrella)
        far_arm, near_arm = look.arms
        if look.turn > 0.5:
            self._arm(far_arm, -1)
        if look.bag == "backpack" and not front_is_bag:
            self._backpack()
        self._leg(far, darker=True)
        self._leg(near, darker=False)
        self._torso()
        if look.turn <= 0.5:
            self._arm(far_arm, -1)
        if look.bag == "shoulder":
            self._shoulder_bag()
        if look.back and look.turn <= 0.5:
            self._head.draw()
            self._arm(near_arm, 1)
        else:
            self._arm(near_arm, 1)
            self._head.draw()
        if front_is_bag:
            self._backpack()
        self._canvas.layer.apply_light(self._rng, self._canvas.size)
        return self._canvas.layer

    def _legs(self) -> tuple[list[Point], list[Point]]:
        """Hip, knee, ankle of both legs; sets how far the body sinks because the legs are spread."""
        look = self._look
        legs = []
        for sign in (-1, 1):
            swing, knee_bend = sign * look.stride, look.bend if sign < 0 else look.bend * 0.2
            spread = (1 - look.turn) * 0.75 + 0.1
            hip = (sign * self._hip * spread, 0.52)
            # Seen from the front a leg swings towards us: it only looks shorter.
            sweep = 0.25 + 0.75 * look.turn
            knee = (hip[0] + self._side * THIGH * np.sin(swing), hip[1] - THIGH * np.cos(swing * sweep))
            lower = swing - knee_bend
            ankle = (knee[0] + self._side * SHIN * np.sin(lower), knee[1] - SHIN * np.cos(lower * (0.5 + 0.5 * sweep)))
            ankle = (ankle[0] + sign * 0.012 * (1 - look.turn), ankle[1])
            legs.append([hip, knee, ankle])
        self._canvas.lift = 0.035 - min(leg[2][1] for leg in legs)
        return legs[0], legs[1]

    def _leg(self, joints: list[Point], *, darker: bool) -> None:
        look, tone = self._look, 0.8 if darker and self._look.turn > 0.3 else 1.0
        wide = look.build * (1.12 if look.child else 1.0)
        hip, knee, ankle = joints
        forward = self._side * 0.085 + np.sign(ankle[0] or 1) * 0.02 * (1 - look.turn)
        shoe = shaded(look.shoe_colour, tone)
        heel, toe = (ankle[0] - forward * 0.25, ankle[1] - 0.012), (ankle[0] + forward, ankle[1] - 0.02)
        bare = look.bottom != "trousers"
        if bare:
            self._canvas.limb(joints, [0.058 * wide, 0.038 * wide, 0.024 * wide], shaded(look.skin, tone))
        self._canvas.limb([heel, toe], [0.026, 0.02], shoe)
        colour = shaded(look.bottom_colour, tone)
        if look.bottom == "trousers":
            self._canvas.limb(joints, [0.066 * wide, 0.046 * wide, 0.034 * wide], colour)
        elif look.bottom == "shorts":
            share = float(np.clip((hip[1] - look.bottom_hem) / THIGH, 0.3, 1.0))
            end = (hip[0] + (knee[0] - hip[0]) * share, hip[1] + (knee[1] - hip[1]) * share)
            self._canvas.limb([hip, end], [0.068 * wide, 0.056 * wide], colour)

    def _torso(self) -> None:
        look, lean = self._look, self._lean
        shoulder, hip = self._shoulder, self._hip + 0.018
        self._canvas.limb(
            [(-self._hip * 0.6, 0.52), (self._hip * 0.6, 0.52)], [0.06 * look.build] * 2, look.bottom_colour
        )
        if look.bottom in ("skirt", "dress"):
            flare = hip + 0.02 + (0.5 - look.bottom_hem) * 0.16
            sway = 0.25 * look.stride * self._side * 0.3
            points = [(-hip, 0.6), (hip, 0.6), (flare + sway, look.bottom_hem), (-flare + sway, look.bottom_hem)]
            self._canvas.layer.solid(self._canvas.path(points), look.bottom_colour, PERSON)
        waist = (0.088 - 0.022 * look.turn) * look.build**1.4
        belly = 0.03 * max(0.0, look.build - 1.0) * 3 * self._side
        hem = min(look.hem, 0.5)
        flare = hip + (0.5 - look.hem) * 0.18
        outline = [
            (-shoulder * 0.45 + lean, 0.845), (shoulder * 0.45 + lean, 0.845), (shoulder + lean, 0.815),
            (shoulder * 0.97 + lean, 0.73), (waist + max(0.0, belly) + lean * 0.5, 0.62), (hip, 0.53), (flare, hem),
            (-flare, hem), (-hip, 0.53), (-waist + min(0.0, belly) + lean * 0.5, 0.62), (-shoulder * 0.97 + lean, 0.73),
            (-shoulder + lean, 0.815),
        ]  # fmt: skip
        self._canvas.limb([(lean, 0.82), (lean * 1.2, 0.88)], [0.032, 0.028], shaded(look.skin, 0.86))
        path = self._canvas.path(outline)
        self._canvas.layer.solid(path, look.top_colour, PERSON)
        self._pattern(path)
        if look.open_front and not look.back:
            middle = self._side * shoulder * 0.7 + lean
            inner = [(middle - 0.022, 0.84), (middle + 0.022, 0.84), (middle + 0.035, hem), (middle - 0.03, hem)]
            self._canvas.layer.polygon(self._canvas.path(inner), look.accent, PERSON)
        elif not look.back and look.turn < 0.7:
            neck = [(lean - 0.03, 0.846), (lean + 0.03, 0.846), (lean + self._side * 0.02, 0.815)]
            self._canvas.layer.polygon(self._canvas.path(neck), look.skin, PERSON)

    def _pattern(self, outline: npt.NDArray[Any]) -> None:
        look = self._look
        if look.pattern == "plain" or self._canvas.size < 40:
            return
        layer, size = self._canvas.layer, self._canvas.size
        inside = np.zeros_like(layer.labels)
        cv2.fillPoly(inside, np.rint(outline).astype(np.int32)[np.newaxis], 1)
        rows = np.arange(layer.height)[:, np.newaxis] / size
        columns = (np.arange(layer.width)[np.newaxis] - self._canvas.foot[0]) / size
        bend = 0.01 * np.sin(columns * 40)
        pitch = 0.032
        marks: Any
        if look.pattern == "stripes":
            marks = ((rows + bend) % pitch < pitch * 0.5) & (columns == columns)
        elif look.pattern == "pinstripes":
            marks = ((columns + bend[:, :1]) % (pitch * 0.6) < pitch * 0.15) & (rows == rows)
        elif look.pattern == "checks":
            marks = ((rows + bend) % pitch < pitch * 0.4) ^ (columns % pitch < pitch * 0.4)
        elif look.pattern == "dots":
            marks = (np.sin(rows * 190) * np.sin(columns * 190)) > 0.45
        elif look.pattern == "halves":
            marks = (rows > self._canvas.above - 0.7) & (columns == columns)
        else:
            middle = self._side * 0.03
            marks = (abs(columns - middle) < 0.05) & (abs(rows - (self._canvas.above - 0.72)) < 0.035)
        cv2.copyTo(np.full_like(layer.picture, look.accent), inside & marks.astype(np.uint8), layer.picture)

    def _arm(self, pose: Arm, sign: int) -> None:
        look = self._look
        side_on = look.turn > 0.5
        tone = 0.8 if side_on and sign < 0 else 0.95
        x = sign * (self._shoulder - 0.012) * (0.35 if side_on else 1.0) + self._lean
        shoulder = (x, 0.795)
        # Angles from straight down; positive swings forward (outward seen from the front).
        angles: dict[Arm, tuple[float, float]] = {
            "swing": (-sign * look.stride * 1.05, -sign * look.stride * 1.05 + 0.35),
            "hang": (0.06, 0.16),
            "pocket": (-0.35 if side_on else 0.3, 0.35 if side_on else -0.35),
            "phone": (0.55, 2.3),
            "hip": (-0.5 if side_on else 0.75, 0.5 if side_on else -0.7),
            "carry": (0.1, 1.25),
            "raised": (1.1, 1.9),
        }
        if look.umbrella and sign > 0:
            upper, lower = 0.4, 2.3
        else:
            upper, lower = angles[pose]
        if side_on or (abs(self._side) > 0.3 and pose == "swing"):
            direction = look.facing * max(look.turn, 0.4)
            elbow = (x + direction * UPPER_ARM * np.sin(upper), 0.795 - UPPER_ARM * np.cos(upper))
            hand = (elbow[0] + direction * FOREARM * np.sin(lower), elbow[1] - FOREARM * np.cos(lower))
        elif pose == "swing":
            elbow = (x + sign * 0.03, 0.795 - UPPER_ARM * 0.97)
            hand = (elbow[0] - sign * 0.005, elbow[1] - FOREARM * np.cos(lower * 1.3))
        else:
            # From the front forearms go inwards when bent, except those that are raised.
            inward = -0.55 if pose in ("phone", "carry") else 1.0
            elbow = (x + sign * UPPER_ARM * np.sin(abs(upper)) * 0.7, 0.795 - UPPER_ARM * np.cos(upper))
            hand = (elbow[0] + sign * inward * FOREARM * np.sin(lower), elbow[1] - FOREARM * np.cos(lower))
        skin, sleeve = shaded(look.skin, tone), shaded(look.top_colour, tone)
        thick = look.build
        if pose != "pocket":
            self._canvas.oval(hand[0], hand[1], 0.021, 0.025, skin)
        if look.long_sleeves:
            self._canvas.limb([shoulder, elbow, hand], [0.037 * thick, 0.032 * thick, 0.024 * thick], sleeve)
        else:
            self._canvas.limb([shoulder, elbow, hand], [0.03 * thick, 0.025 * thick, 0.018], skin)
            middle = (shoulder[0] * 0.35 + elbow[0] * 0.65, shoulder[1] * 0.35 + elbow[1] * 0.65)
            self._canvas.limb([shoulder, middle], [0.039 * thick, 0.036 * thick], sleeve)
        if sign > 0 and look.bag in ("handbag", "shopping") and not look.umbrella:
            self._hand_bag(hand)

    def _hand_bag(self, hand: Point) -> None:
        look = self._look
        wide, high = (0.07, 0.09) if look.bag == "handbag" else (0.075, 0.14)
        x, y = hand[0], hand[1] - 0.05
        self._canvas.layer.line(
            [self._canvas.at(hand[0], hand[1]), self._canvas.at(x, y)],
            0.012 * self._canvas.size,
            look.bag_colour,
            PERSON,
        )
        corners = [(x - wide * 0.8, y), (x + wide * 0.8, y), (x + wide, y - high), (x - wide, y - high)]
        self._canvas.layer.solid(self._canvas.path(corners), look.bag_colour, PERSON)

    def _shoulder_bag(self) -> None:
        look, lean = self._look, self._lean
        sign = look.facing
        x = sign * (self._hip + 0.03) * (0.3 if look.turn > 0.5 else 1.0)
        strap = [self._canvas.at(-sign * self._shoulder * 0.6 + lean, 0.84), self._canvas.at(x, 0.56)]
        self._canvas.layer.line(strap, 0.016 * self._canvas.size, shaded(look.bag_colour, 0.7), PERSON)
        corners = [(x - 0.065, 0.57), (x + 0.065, 0.57), (x + 0.07, 0.46), (x - 0.07, 0.46)]
        self._canvas.layer.solid(self._canvas.path(corners), look.bag_colour, PERSON)

    def _backpack(self) -> None:
        look, lean = self._look, self._lean
        if look.turn < 0.5:
            if look.back:
                points = [(-0.075, 0.81), (0.075, 0.81), (0.088, 0.7), (0.082, 0.58), (-0.082, 0.58), (-0.088, 0.7)]
                self._canvas.layer.solid(self._canvas.path(points), look.bag_colour, PERSON)
                pocket = [(-0.055, 0.67), (0.055, 0.67), (0.055, 0.6), (-0.055, 0.6)]
                self._canvas.layer.polygon(self._canvas.path(pocket), shaded(look.bag_colour, 0.8), PERSON)
            return
        back = -look.facing
        points = [(0.0, 0.82), (0.09, 0.81), (0.135, 0.72), (0.125, 0.58), (0.0, 0.57)]
        self._canvas.layer.solid(
            self._canvas.path([(lean + back * (0.02 + x), y) for x, y in points]), look.bag_colour, PERSON
        )

    def _umbrella(self, colour: Colour) -> None:
        """The umbrella belongs to nobody's mask, as in Penn-Fudan."""
        x = self._lean + self._look.facing * 0.06
        layer, size = self._canvas.layer, self._canvas.size
        layer.line([self._canvas.at(x, 0.8), self._canvas.at(x, 1.22)], 0.012 * size, (60, 60, 62), THING)
        arc = np.linspace(0, np.pi, 24)
        rim = [(x + 0.42 * np.cos(a), 1.04 + 0.2 * np.sin(a)) for a in arc]
        scallops = [(x - 0.42 + 0.84 * i / 16, 1.04 + 0.02 * abs(np.sin(i * np.pi / 4))) for i in range(17)]
        layer.solid(self._canvas.path([*rim, *scallops]), colour, THING)
        for i in (1, 2, 3):
            foot_x = x - 0.42 + 0.84 * i / 4
            layer.line(
                [self._canvas.at(x, 1.24), self._canvas.at(foot_x, 1.05)], 0.006 * size, shaded(colour, 0.7), THING
            )
