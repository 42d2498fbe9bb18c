"""What lies behind the street's people: sky, houses or green, and the ground with its markings."""

from typing import Any

import cv2
import numpy as np

from training.datasets.street_scenes.layer import THING, Colour, Layer, jittered, mixed, noise, shaded
from training.datasets.street_scenes.view import View

SKIES: tuple[tuple[Colour, Colour], ...] = (
    ((96, 146, 206), (188, 212, 234)), ((140, 176, 216), (222, 230, 236)), ((186, 192, 198), (224, 226, 228)),
    ((214, 218, 222), (240, 240, 238)), ((130, 140, 156), (206, 196, 186)), ((110, 130, 170), (244, 206, 164)),
)  # fmt: skip
WALLS: tuple[Colour, ...] = (
    (176, 164, 146), (150, 96, 74), (128, 76, 62), (196, 186, 168), (120, 118, 114), (164, 160, 156), (208, 202, 190),
    (92, 88, 86), (168, 140, 112), (136, 142, 148), (186, 150, 120), (222, 216, 206),
)  # fmt: skip
GREENS: tuple[Colour, ...] = ((52, 84, 38), (70, 104, 48), (88, 118, 56), (40, 66, 36), (84, 108, 66), (98, 120, 60))
PAVINGS: tuple[Colour, ...] = (
    (150, 146, 140), (128, 126, 124), (176, 168, 156), (160, 142, 126), (110, 110, 112), (186, 182, 176),
    (146, 120, 104),
)  # fmt: skip
ROADS: tuple[Colour, ...] = ((84, 84, 86), (104, 104, 104), (70, 72, 76), (124, 122, 118))
LAWNS: tuple[Colour, ...] = ((92, 118, 54), (74, 102, 48), (112, 126, 66), (128, 122, 76))
SHOPS: tuple[Colour, ...] = ((168, 40, 36), (30, 70, 120), (24, 90, 66), (220, 170, 50), (60, 40, 40), (230, 228, 220))


def roughen(layer: Layer, rng: np.random.Generator, top: int, bottom: int, amount: float, stretch: float = 1.0) -> None:
    """Add grain of standard deviation `amount` to the rows from `top` to `bottom`."""
    top, bottom = max(0, top), min(layer.height, bottom)
    if bottom - top < 2:
        return
    grain = (amount * noise(rng, bottom - top, layer.width, stretch)).astype(np.int16)
    rows = layer.picture[top:bottom]
    layer.picture[top:bottom] = cv2.add(rows, cv2.merge([grain] * 3), dtype=cv2.CV_8U)


def sky(layer: Layer, rng: np.random.Generator, view: View) -> None:
    """Fill everything above the horizon with a sky, sometimes with clouds."""
    high, low = (np.array(jittered(rng, colour, 6), dtype=np.float32) for colour in SKIES[rng.integers(len(SKIES))])
    rows = max(2, int(view.horizon) + 2)
    share = np.linspace(0, 1, rows, dtype=np.float32)[:, np.newaxis]
    column = (high + (low - high) * share).astype(np.uint8)[:, np.newaxis]
    layer.picture[:rows] = cv2.resize(column, (layer.width, rows))
    if rng.random() < 0.5:
        cloud = np.clip(noise(rng, rows, layer.width, 2.0, "smooth"), 0, 1.5) * 40
        layer.picture[:rows] = cv2.add(layer.picture[:rows], cv2.merge([cloud.astype(np.uint8)] * 3))
    # What can be seen between the backdrop and the horizon is far away and hazy.
    haze = mixed(jittered(rng, PAVINGS[rng.integers(len(PAVINGS))]), (190, 196, 200), 0.35)
    layer.box(0, rows, layer.width, layer.height, haze)


def foliage(layer: Layer, rng: np.random.Generator, box: tuple[int, int, int, int], *, ragged: float = 0.8) -> None:
    """Fill an oval or, with little `ragged`, nearly the whole box with leaves; covered pixels get label 0.

    Args:
        layer: Where to draw.
        rng: Source of randomness.
        box: left, top, right, bottom.
        ragged: How far the edge runs in and out, 0..1.
    """
    left, top, right, bottom = box
    x0, y0, x1, y1 = max(0, left), max(0, top), min(layer.width, right), min(layer.height, bottom)
    if x1 - x0 < 3 or y1 - y0 < 3:
        return
    height, width = y1 - y0, x1 - x0
    v = (np.arange(y0, y1, dtype=np.float32)[:, np.newaxis] - (top + bottom) / 2) / ((bottom - top) / 2)
    u = (np.arange(x0, x1, dtype=np.float32)[np.newaxis] - (left + right) / 2) / ((right - left) / 2)
    power = 2.2 if ragged > 0.5 else 8.0
    coarse, leaves = noise(rng, height, width), noise(rng, height, width, 1.0, "clumps")
    edge = ragged * 0.2 * (coarse + leaves)
    inside = (np.abs(u) ** power + np.abs(v) ** power < 1.0 - 0.08 * ragged + edge).astype(np.uint8)
    base = np.array(jittered(rng, GREENS[rng.integers(len(GREENS))], 8), dtype=np.float32) * rng.uniform(0.9, 1.35)
    light = np.clip(1.0 + 0.3 * leaves + 0.18 * coarse - 0.25 * v, 0.2, 2.2)
    colours: Any = np.stack([light * channel for channel in base], axis=-1)
    cv2.copyTo(np.clip(colours, 0, 255).astype(np.uint8), inside, layer.picture[y0:y1, x0:x1])
    cv2.copyTo(np.zeros_like(inside), inside, layer.labels[y0:y1, x0:x1])


def facade(rng: np.random.Generator, height: int, width: int, metre: float) -> Layer:
    """Draw the front of a house, its foot at the lower edge.

    Args:
        rng: Source of randomness.
        height: Rows.
        width: Columns.
        metre: Pixels a metre.
    """
    layer = Layer(height, width)
    wall = jittered(rng, WALLS[rng.integers(len(WALLS))])
    layer.box(0, 0, width, height, wall)
    roughen(layer, rng, 0, height, 6.0)
    if rng.random() < 0.35 and metre > 12:
        for y in np.arange(0.0, height, max(4.0, 0.25 * metre)):
            layer.line([(0, y), (width, y)], 1, shaded(wall, 0.9))
    floor, pitch = rng.uniform(2.9, 3.8) * metre, rng.uniform(1.7, 3.4) * metre
    wide, high = pitch * rng.uniform(0.4, 0.85), floor * rng.uniform(0.42, 0.7)
    glass = jittered(rng, [(48, 56, 66), (70, 84, 100), (30, 34, 40), (120, 138, 156)][rng.integers(4)])
    frame = shaded(wall, rng.choice([0.6, 1.25, 0.4]))
    ground = rng.uniform(3.2, 4.4) * metre
    thick = max(1, round(0.07 * metre))
    sills = rng.random() < 0.5
    for bottom in np.arange(height - ground - 0.2 * floor, 0, -floor).tolist():
        for left in np.arange(-rng.random() * pitch, width, pitch).tolist():
            top = bottom - high
            layer.box(left - thick, top - thick, left + wide + thick, bottom + thick, frame)
            pane = mixed(glass, (212, 220, 228), 0.5 * rng.random() ** 3)
            layer.box(left, top, left + wide, bottom, pane)
            shine = [(left, top), (left + wide * rng.uniform(0.2, 0.8), top), (left, bottom)]
            layer.polygon(shine, mixed(pane, (236, 240, 244), 0.16))
            layer.line([(left + wide / 2, top), (left + wide / 2, bottom)], thick, frame)
            if sills:
                layer.box(left - 3 * thick, bottom, left + wide + 3 * thick, bottom + 2 * thick, shaded(wall, 1.15))
    _ground_floor(layer, rng, ground, metre, wall)
    return layer


def _ground_floor(layer: Layer, rng: np.random.Generator, ground: float, metre: float, wall: Colour) -> None:
    foot = layer.height
    if rng.random() < 0.3:
        layer.box(0, foot - 0.8 * metre, layer.width, foot, shaded(wall, 0.7))
        return
    x: float = -rng.uniform(0, 3) * metre
    while x < layer.width:
        span = rng.uniform(2.5, 6.0) * metre
        shop = jittered(rng, SHOPS[rng.integers(len(SHOPS))], 15)
        top = foot - ground * 0.72
        layer.box(x, foot - ground, x + span, foot, shaded(wall, 0.8))
        layer.box(x + 0.15 * metre, top, x + span - 0.15 * metre, foot - 0.4 * metre, jittered(rng, (58, 62, 66), 14))
        for _ in range(5):  # goods and reflections behind the glass
            at, size = x + rng.uniform(0.3, 0.8) * span, rng.uniform(0.15, 0.7) * metre
            high = rng.uniform(0.5, 1.6) * metre
            colour = mixed((60, 62, 64), jittered(rng, (150, 140, 130), 50), 0.6)
            layer.box(at, foot - high - size, min(at + size, x + span - 0.2 * metre), foot - high, colour)
        if rng.random() < 0.5:
            door = x + rng.uniform(0.1, 0.7) * span
            layer.box(door, foot - 2.2 * metre, door + metre, foot, shaded(shop, 0.55))
            layer.box(door + 0.12 * metre, foot - 2.0 * metre, door + 0.88 * metre, foot - 0.5 * metre, (66, 74, 82))
        if rng.random() < 0.4:
            edge = top + 0.9 * metre
            stripes = max(2, round(span / (0.4 * metre)))
            for i in range(stripes):
                colour = shop if i % 2 else mixed(shop, (244, 240, 232), 0.85)
                a, b = x + span * i / stripes, x + span * (i + 1) / stripes
                layer.polygon([(a, top - 0.1 * metre), (b, top - 0.1 * metre), (b, edge), (a, edge)], colour)
        else:
            layer.box(x, foot - ground, x + span, top, shop)
            letter = x + 0.4 * metre
            while letter < x + span - 0.8 * metre:
                wide = rng.uniform(0.1, 0.3) * metre
                layer.box(
                    letter, foot - ground * 0.93, letter + wide, top - 0.05 * ground, mixed(shop, (250, 246, 230), 0.8)
                )
                letter += wide + 0.1 * metre
        x += span + rng.uniform(0.1, 0.8) * metre


def backdrop(layer: Layer, rng: np.random.Generator, view: View, metre: float) -> None:
    """Draw what closes the street: houses, a park, or both.

    Args:
        layer: Where to draw.
        rng: Source of randomness.
        view: The camera.
        metre: Pixels a metre at the backdrop's foot.
    """
    foot = int(view.row(metre))
    kind = rng.choice(["houses", "park", "mixed"], p=[0.55, 0.25, 0.2])
    if kind != "park":
        x = -int(rng.uniform(0, 6) * metre)
        while x < layer.width:
            wide, high = int(rng.uniform(7, 20) * metre), int(rng.uniform(5, 17) * metre)
            wide, high = max(24, wide), max(24, min(high, foot + int(3 * metre)))
            house = facade(rng, high, wide, metre)
            house.labels[:] = THING
            layer.paste(house, x, foot - high, 0)
            x += wide + (int(rng.uniform(0, 4) * metre) if kind == "mixed" else 0)
    if kind != "houses":
        for _ in range(int(rng.integers(5, 11))):
            across, up = rng.uniform(1.5, 4) * metre, rng.uniform(1.5, 4) * metre
            u, v = rng.uniform(-0.1, 1.1) * layer.width, foot - rng.uniform(0.6, 1.8) * up
            foliage(layer, rng, (int(u - across), int(v - up), int(u + across), int(v + up)))
    if kind == "park" or rng.random() < 0.3:
        hedge = int(rng.uniform(0.5, 1.7) * metre)
        foliage(layer, rng, (-20, foot - hedge, layer.width + 20, foot + hedge // 4), ragged=0.3)


def side_wall(layer: Layer, rng: np.random.Generator, view: View, far: float) -> None:
    """Draw a row of houses along one side of the street, running to the vanishing point.

    Args:
        layer: Where to draw.
        rng: Source of randomness.
        view: The camera.
        far: Depth of its far end in metres.
    """
    side = -1.0 if view.vanishing > view.width / 2 else 1.0
    x, near = side * rng.uniform(2.5, 5.0), view.nearest * 0.8
    high = rng.uniform(5.0, 9.0)
    metre = 34.0
    house = facade(rng, int(high * metre), int(min(40.0, far - near) * metre), metre)
    if side > 0:
        house.picture = np.ascontiguousarray(house.picture[:, ::-1])
    ends = [(*view.ground(x, depth), view.focal / depth * high) for depth in (near, far)]
    (x0, y0, h0), (x1, y1, h1) = ends if side < 0 else ends[::-1]
    wide, tall = house.width, house.height
    corners = np.array([[0, 0], [wide, 0], [wide, tall], [0, tall]], dtype=np.float32)
    seen = np.array([[x0, y0 - h0], [x1, y1 - h1], [x1, y1], [x0, y0]], dtype=np.float32)
    transform = cv2.getPerspectiveTransform(corners, seen)
    cv2.warpPerspective(
        house.picture, transform, (layer.width, layer.height), layer.picture, borderMode=cv2.BORDER_TRANSPARENT
    )


def ground(layer: Layer, rng: np.random.Generator, view: View, metre: float) -> None:
    """Draw the street from the backdrop's foot (`metre` pixels a metre there) to the lower edge."""
    far, near = view.focal / metre, view.nearest * 0.9
    top = int(view.row(metre))
    paving = jittered(rng, PAVINGS[rng.integers(len(PAVINGS))], 8)
    layer.box(0, top, layer.width, layer.height, paving)
    kind = rng.choice(["pavement", "road_behind", "crossing", "lawn_behind"], p=[0.35, 0.3, 0.2, 0.15])
    if kind != "crossing":
        _tiles(layer, rng, view, near, far, paving)
    if kind in ("road_behind", "lawn_behind"):
        start = near * rng.uniform(1.4, 3.0)
        end = min(far, start + rng.uniform(4, 12))
        palette = ROADS if kind == "road_behind" else LAWNS
        band = jittered(rng, palette[rng.integers(len(palette))], 8)
        _band(layer, view, start, end, band)
        kerb = view.ground(0, start)[1]
        edge = (210, 186, 70) if rng.random() < 0.2 else shaded(paving, 1.2)
        layer.box(0, kerb, layer.width, kerb + max(2, 0.12 * view.metre(kerb)), edge)
        layer.box(0, kerb - max(1, 0.05 * view.metre(kerb)), layer.width, kerb, shaded(paving, 0.6))
        if kind == "lawn_behind":
            roughen(layer, rng, int(view.ground(0, end)[1]), int(kerb), 14.0, 2.0)
    elif kind == "crossing":
        _band(layer, view, near * 0.8, far, jittered(rng, ROADS[rng.integers(len(ROADS))], 8))
        _stripes(layer, rng, view, near)
    roughen(layer, rng, top, layer.height, rng.uniform(3, 9), 2.5)


def _band(layer: Layer, view: View, near: float, far: float, colour: Colour) -> None:
    layer.box(0, view.ground(0, far)[1], layer.width, view.ground(0, near)[1], colour)


def _tiles(layer: Layer, rng: np.random.Generator, view: View, near: float, far: float, paving: Colour) -> None:
    tile, joint = rng.uniform(0.4, 1.8), shaded(paving, rng.uniform(0.78, 0.94))
    if rng.random() < 0.3:
        return
    depth = near
    while depth < min(far, near + 14 * tile):
        y = view.ground(0, depth)[1]
        layer.line([(0, y), (layer.width, y)], max(1.0, 0.015 * view.metre(y)), joint)
        depth += tile
    reach = int(layer.width / view.metre(layer.height) / tile) + 2
    if rng.random() < 0.7:
        for i in range(-3 * reach, 3 * reach):
            layer.line([view.ground(i * tile, near), view.ground(i * tile, min(far, near * 5))], 1.5, joint)


def _stripes(layer: Layer, rng: np.random.Generator, view: View, near: float) -> None:
    paint = jittered(rng, (216, 214, 206), 8)
    start, end, pitch = near * rng.uniform(1.0, 1.3), near * rng.uniform(1.7, 2.6), rng.uniform(0.8, 1.2)
    for i in range(-16, 17):
        left, right = i * pitch, (i + 0.5) * pitch
        quad = [view.ground(left, start), view.ground(right, start), view.ground(right, end), view.ground(left, end)]
        layer.polygon(quad, paint)


def dapple(layer: Layer, rng: np.random.Generator, top: int) -> None:
    """Throw the broken shadow of trees on the rows below `top`."""
    rows = layer.height - top
    if rows < 8:
        return
    shade = cv2.resize(noise(rng, max(2, rows // 2), max(2, layer.width // 4)), (layer.width, rows))
    soft = np.clip(shade * 2 + rng.uniform(-0.5, 1.0), 0, 1) * rng.uniform(0.25, 0.5)
    factor = (255 * (1 - soft)).astype(np.uint8)
    layer.picture[top:] = cv2.multiply(layer.picture[top:], cv2.merge([factor] * 3), scale=1 / 255)
