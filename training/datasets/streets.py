"""Synthetic street scenes with exact masks: the embedded stand-in for Penn-Fudan.

A scene is a pinhole view of a street: backdrop and ground, then things and people from far to near, each covering what
is behind it, in the picture and in the map of whose pixel is whose. It is drawn at twice its size without antialiasing
and reduced: the picture by area, the map by majority. What the camera does to the picture (light, blur, noise, JPEG)
leaves the map alone.
"""

import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from training.datasets.pedestrians import PedestrianData, PedestrianScene
from training.datasets.street_scenes import background, furniture
from training.datasets.street_scenes.figures import Figure
from training.datasets.street_scenes.layer import Layer
from training.datasets.street_scenes.looks import Look, draw_look
from training.datasets.street_scenes.view import View, draw_view

HEIGHTS = (300, 400)
WIDTHS = (300, 560)

_OVERSAMPLING = 2


def load(seed: int = 0, train: int = 85, test: int = 85) -> PedestrianData:
    """Draw a data set; each scene depends on the seed, its part and its number only.

    Args:
        seed: Seed of the data set, at least 0.
        train: Number of scenes to learn from.
        test: Number of scenes to score on.

    Returns:
        The scenes, named "street_train_000" and so on.
    """
    parts = []
    for part, (name, count) in enumerate((("train", train), ("test", test))):
        scenes = []
        for index in range(count):
            rng = np.random.default_rng([seed, part, index])
            height, width = int(rng.integers(*HEIGHTS)), int(rng.integers(*WIDTHS))
            drawn = draw_scene(rng, height, width)
            scenes.append(PedestrianScene(f"street_{name}_{index:03d}", drawn.picture, drawn.instances))
        parts.append(tuple(scenes))
    return PedestrianData("streets", "embedded", parts[0], parts[1])


def draw_scene(rng: np.random.Generator, height: int, width: int) -> PedestrianScene:
    """Draw a street scene with at least one pedestrian.

    Args:
        rng: Source of all randomness.
        height: Rows, at least 32.
        width: Columns, at least 32.

    Returns:
        A scene named "street"; its instances are numbered 1..n without a gap, each with at least one visible pixel.

    Raises:
        ValueError: For a side below 32.
    """
    if min(height, width) < 32:
        raise ValueError(f"A scene must be at least 32x32. Received: {height}x{width}")
    instances: Any = np.zeros((height, width), dtype=np.uint8)
    while not instances.any():  # everybody may have ended up behind something
        view = draw_view(rng, height * _OVERSAMPLING, width * _OVERSAMPLING)
        layer = Layer(view.height, view.width)
        backdrop_metre = _draw_place(layer, rng, view)
        _populate(layer, rng, view, backdrop_metre)
        instances = _majority(layer.labels)
    picture: Any = cv2.resize(layer.picture, (width, height), interpolation=cv2.INTER_AREA)
    return PedestrianScene("street", _photograph(picture, rng), instances)


def _draw_place(layer: Layer, rng: np.random.Generator, view: View) -> float:
    """Draw the empty street. Returns the pixels a metre at the backdrop."""
    metre = view.subject * rng.uniform(0.2, 0.55)
    background.sky(layer, rng, view)
    background.backdrop(layer, rng, view, metre)
    background.ground(layer, rng, view, metre)
    if rng.random() < 0.35:
        background.side_wall(layer, rng, view, view.focal / metre)
    if rng.random() < 0.4:
        background.dapple(layer, rng, int(view.row(metre)))
    return metre


def _populate(layer: Layer, rng: np.random.Generator, view: View, backdrop_metre: float) -> None:
    """Put things and people into the street, from far to near."""
    people = _place_people(rng, view, backdrop_metre)
    things: list[tuple[float, float, Any]] = []
    far_row, near_row = view.row(backdrop_metre), max(row for row, _, _ in people)
    for _ in range(int(rng.integers(1, 6))):
        row = far_row + (near_row - far_row) * rng.uniform(0.0, 0.35)
        things.append((row, rng.uniform(0, view.width), furniture.FAR[rng.integers(len(furniture.FAR))]))
    for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.35, 0.35, 0.2, 0.1]))):
        row = far_row + (view.height * 1.05 - far_row) * rng.uniform(0.35, 1.0)
        things.append((row, rng.uniform(0, view.width), furniture.NEAR[rng.integers(len(furniture.NEAR))]))
    _cast_shadows(layer, rng, view, [(row, x) for row, x, _ in people], [(row, x) for row, x, _ in things])
    standing: list[tuple[float, float, Any]] = sorted([*people, *things], key=lambda entry: entry[0])
    number = 0
    for row, x, what in standing:
        metre = view.metre(row)
        if isinstance(what, Look):
            number += 1
            figure = Figure(what, what.stature * metre, rng, view.sun)
            column, foot = figure.foot
            layer.paste(figure.draw(), round(x) - column, round(row) - foot, number)
        else:
            what(layer, rng, x, row, metre)


def _place_people(rng: np.random.Generator, view: View, backdrop_metre: float) -> list[tuple[float, float, Look]]:
    """Row and column of the feet, and the look, of each pedestrian: single ones, groups, now and then a crowd."""
    crowd, rainy = rng.random() < 0.12, rng.random() < 0.05
    count = (
        int(rng.integers(8, 17)) if crowd else int(rng.choice([1, 2, 3, 4, 5, 6], p=[0.2, 0.3, 0.2, 0.14, 0.1, 0.06]))
    )
    nearest = view.subject * (rng.uniform(0.5, 0.8) if crowd else 1.0)
    farthest = min(nearest, max(backdrop_metre * 1.1, nearest * 0.35))
    people: list[tuple[float, float, Look]] = []
    while len(people) < count:
        share = rng.random() ** 2
        metre = nearest + (farthest - nearest) * (share if people else 0.0)
        x = view.width * rng.uniform(0.06, 0.94)
        group = min(count - len(people), int(rng.choice([1, 2, 3], p=[0.65, 0.25, 0.1])))
        looks = [draw_look(rng, rainy=rainy) for _ in range(group)]
        for member, look in enumerate(looks):
            near = metre * (1 + rng.uniform(-0.03, 0.03) * member)
            at = x + member * near * rng.uniform(0.45, 0.8)
            people.append((view.row(near), at, look))
    return people


def _cast_shadows(
    layer: Layer,
    rng: np.random.Generator,
    view: View,
    people: list[tuple[float, float]],
    things: list[tuple[float, float]],
) -> None:
    """Darken the ground where people and things stand, and along their shadows on a sunny day."""
    small = np.zeros((layer.height // 8 + 1, layer.width // 8 + 1), dtype=np.uint8)
    sunny, length, depth = rng.random() < 0.55, rng.uniform(0.4, 1.6), rng.uniform(-0.25, 0.3)
    strength = int(rng.integers(90, 150))
    for row, x in [*people, *things]:
        metre = view.metre(row)
        foot = np.array([x, row])
        contact = (max(1, round(0.32 * metre / 8)), max(1, round(0.07 * metre / 8)))
        cv2.ellipse(small, (round(x / 8), round(row / 8)), contact, 0, 0, 360, strength, -1)
        if sunny:
            along = np.array([-view.sun * length, depth]) * metre
            across = np.array([0.0, 0.1]) * metre
            ends = [foot - across, foot + across, foot + along + across * 0.8, foot + along - across * 0.8]
            corners: Any = np.rint(np.array(ends) / 8).astype(np.int32)[np.newaxis]
            cv2.fillPoly(small, corners, strength)
    side = 3
    shade = cv2.resize(cv2.blur(cv2.blur(small, (side, side)), (side, side)), (layer.width, layer.height))
    shade[: int(view.horizon)] = 0
    layer.picture = cv2.multiply(layer.picture, cv2.merge([255 - shade] * 3), scale=1 / 255)


def _majority(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Halve a map of labels: each pixel goes to whoever has most of its four, to a person before the background.

    The third smallest of four labels is the one that holds three or four of them, and the larger one of two pairs.
    """
    upper, lower = labels[0::2], labels[1::2]
    low, high = np.minimum(upper, lower), np.maximum(upper, lower)
    third: npt.NDArray[np.uint8] = np.maximum(
        np.minimum(high[:, 0::2], high[:, 1::2]), np.maximum(low[:, 0::2], low[:, 1::2])
    )
    present = np.flatnonzero(np.bincount(third.ravel(), minlength=256)[1:]) + 1
    numbers = np.zeros(256, dtype=np.uint8)
    numbers[present] = np.arange(1, len(present) + 1)
    return numbers[third]


def _photograph(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Do to a picture what a camera does: uneven light, a cast of colour, blur, noise and often JPEG."""
    height, width = picture.shape[:2]
    angle, slope = rng.uniform(0, 2 * math.pi), rng.uniform(0.0, 0.22)
    across = np.linspace(-1, 1, width, dtype=np.float32)[np.newaxis] * np.float32(math.cos(angle) * slope)
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, np.newaxis] * np.float32(math.sin(angle) * slope)
    warmth, green = rng.normal(0.0, 0.04), rng.normal(0.0, 0.015)
    cast = np.array([1 + warmth, 1 + green, 1 - warmth], dtype=np.float32) * np.float32(rng.uniform(0.95, 1.3))
    light = (1.0 + across + down)[..., np.newaxis] * cast
    contrast, middle = np.float32(rng.uniform(0.85, 1.15)), np.float32(120.0)
    seen = (picture * light - middle) * contrast + middle
    blur = rng.uniform(0.3, 0.9)
    seen = cv2.GaussianBlur(seen, (0, 0), blur)
    grain = np.empty((height, width), dtype=np.float32)
    cv2.setRNGSeed(int(rng.integers(1 << 31)))
    cv2.randn(grain, 0.0, rng.uniform(1.0, 6.0))
    shot: Any = np.clip(seen + grain[..., np.newaxis], 0, 255).astype(np.uint8)
    if rng.random() < 0.6:
        quality = int(rng.integers(60, 96))
        _, coded = cv2.imencode(".jpg", shot, [cv2.IMWRITE_JPEG_QUALITY, quality])
        shot = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    return shot  # type: ignore[no-any-return]  # cv2 is untyped for us
