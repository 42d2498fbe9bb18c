"""tf.data pipelines of pedestrian pictures with augmentation, each batch a function of (seed, epoch) alone.

All random numbers of an epoch are drawn beforehand with NumPy, one generator for each (seed, epoch, index): a table of
a few numbers a picture. What remains for TensorFlow is arithmetic: cut a box out of a picture, resize it, multiply its
colours by a matrix. A run that is resumed at an epoch therefore sees the batches it would have seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from training.datasets.pedestrians import PedestrianScene
from training.datasets.resizing import PAD_VALUE, ResizingRule, place, resample, resize, resize_mask

ZOOM = (0.5, 1.3)
"""Range of the zoom relative to the letterboxed picture; above 1 a part is cut out."""
ASPECT = 0.1
"""The aspect ratio changes by at most this share."""
BRIGHTNESS = 32.0
"""Largest change of brightness, of 255."""
CONTRAST = 0.3
SATURATION = 0.4
HUE = 0.3
"""Largest turn of the hue in radians."""
GREY_SHARE = 0.08
"""Share of the pictures that turn grey."""

PASTED = 2
"""Most persons from other pictures that are put into one."""
PASTE_SCALE = (0.6, 1.3)
"""Their size relative to what it would be if their own picture were shown at the same zoom."""

_LEVELS = (0.5, 0.7, 1.0, 1.4, 2.0)
"""Sizes in which each picture is kept, relative to the letterboxed one: bilinear sampling does not average, so a box is
cut out of the smallest size that need not be enlarged, at most 1.43 times as large as wanted."""

_LUMA = np.array([0.299, 0.587, 0.114])
_YIQ = np.array([_LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_YIQ_INVERSE = np.linalg.inv(_YIQ)


@dataclass(frozen=True, eq=False)
class _Sources:
    """Pictures, or persons cut out of them, in several sizes, laid end to end.

    Attributes:
        pixels: uint8 [P, 4]: red, green, blue, and the mask as 0 or 255.
        offsets: int64 [N, levels], the first row of each picture in `pixels`.
        shapes: int64 [N, levels, 2], heights and widths.
        base: float64 [N, 2], height and width of the resized picture in the frame at zoom 1.
    """

    pixels: tf.Tensor
    offsets: npt.NDArray[np.int64]
    shapes: npt.NDArray[np.int64]
    base: npt.NDArray[np.float64]


def training_pipeline(
    scenes: Sequence[PedestrianScene],
    *,
    height: int,
    width: int,
    batch_size: int,
    seed: int,
    epoch: int,
    augment: bool,
    rule: ResizingRule = "letterbox",
    zoom: tuple[float, float] = ZOOM,
    paste: float = 0.0,
) -> tf.data.Dataset:
    """Batches of one epoch, each scene once, in an order of the epoch's own.

    With `augment` each picture is flipped (half of them), zoomed about its letterboxed size with a small change of
    aspect, moved anywhere it shows all or fills the frame, and changed in brightness, contrast, saturation and
    hue. Outside the picture the input is 127 and the mask 0. Without `augment` pictures are resized as
    `training.datasets.resizing` says, as at inference.

    With `paste` persons cut out of other pictures along their masks are put in as well (Ghiasi et al., "Simple
    Copy-Paste", arXiv 2012.07177): flipped half of the time, in sizes and places of their own.

    Args:
        scenes: The scenes, kept in memory in the sizes needed; give the same objects for each epoch.
        height: Height of the input in pixels.
        width: Width of the input in pixels.
        batch_size: Scenes a batch; the last one holds what is left.
        seed: Seed of the run, at least 0.
        epoch: Number of the epoch, at least 0.
        augment: Whether to augment.
        rule: How a picture is brought to the input's size.
        zoom: Smallest and largest zoom, drawn uniformly; above 2 pictures are enlarged from a size twice the input's.
        paste: Probability of each of the `PASTED` persons to be put into a picture, 0..1; for augmented pictures alone.

    Returns:
        Data set of (picture uint8 [B, height, width, 3], mask float32 [B, height, width, 1] of 0 and 1).

    Raises:
        ValueError: Without scenes, for a batch size below 1, or a probability out of range or without augmentation.
    """
    if not scenes or batch_size < 1:
        raise ValueError(f"Expected scenes and a batch size of at least 1. Received: {len(scenes)}, {batch_size}")
    if not 0 <= paste <= (1 if augment else 0):
        raise ValueError(f"Expected paste in 0..1, and 0 without augmentation. Received: {paste}, augment={augment}")
    order = np.random.default_rng([seed, epoch]).permutation(len(scenes))
    if augment:
        sources = _augmentation_sources(tuple(scenes), height, width, rule)
        persons = _persons(tuple(scenes), height, width, rule) if paste else None
        table = _draw_table(sources, persons, order, height, width, seed, epoch, zoom, paste)
        dataset = tf.data.Dataset.from_tensor_slices(table)
        render = _renderer(sources.pixels, None if persons is None else persons.pixels, height, width)
        dataset = dataset.map(render, num_parallel_calls=tf.data.AUTOTUNE)
    else:
        pictures, masks = _resized(tuple(scenes), height, width, rule)
        dataset = tf.data.Dataset.from_tensor_slices(order)
        dataset = dataset.map(lambda index: (pictures[index], tf.cast(masks[index], tf.float32)))
    return dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)


# Two entries: a train and a validation part. Scenes compare by identity, so the key is cheap.
@lru_cache(maxsize=2)
def _augmentation_sources(scenes: tuple[PedestrianScene, ...], height: int, width: int, rule: ResizingRule) -> _Sources:
    pictures, bases = [], []
    for scene in scenes:
        pictures.append(_with_mask(scene.picture, scene.mask))
        geometry = place(scene.instances.shape[0], scene.instances.shape[1], rule, height, width)
        bases.append((geometry.inner_height, geometry.inner_width))
    return _in_sizes(pictures, np.array(bases, np.float64))


@lru_cache(maxsize=2)
def _persons(scenes: tuple[PedestrianScene, ...], height: int, width: int, rule: ResizingRule) -> _Sources | None:
    """Each person of the scenes in a box of its own; `base` is its size where its picture is at zoom 1."""
    pictures, bases = [], []
    for scene in scenes:
        geometry = place(scene.instances.shape[0], scene.instances.shape[1], rule, height, width)
        shrink = np.array([geometry.inner_height, geometry.inner_width]) / scene.instances.shape
        for person in np.unique(scene.instances[scene.mask]):
            alone = scene.instances == person
            rows, columns = np.flatnonzero(alone.any(axis=1)), np.flatnonzero(alone.any(axis=0))
            box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            pictures.append(_with_mask(scene.picture[box], alone[box]))
            bases.append(shrink * alone[box].shape)
    return _in_sizes(pictures, np.array(bases)) if pictures else None


def _with_mask(picture: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    return np.dstack([picture, mask.astype(np.uint8) * np.uint8(255)])


def _in_sizes(pictures: Sequence[npt.NDArray[np.uint8]], base: npt.NDArray[np.float64]) -> _Sources:
    pieces: list[npt.NDArray[np.uint8]] = []
    shapes = np.zeros((len(pictures), len(_LEVELS), 2), dtype=np.int64)
    for index, picture in enumerate(pictures):
        for level, scale in enumerate(_LEVELS):
            # Never enlarged here: that is the sampling's own work. At least 2, for boxes count in (side - 1).
            sides = [
                max(2, min(side, round(b * scale))) for side, b in zip(picture.shape[:2], base[index], strict=True)
            ]
            shapes[index, level] = sides
            pieces.append(resample(picture, *sides).reshape(-1, 4))
    lengths = np.array([len(piece) for piece in pieces])
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]]).reshape(len(pictures), len(_LEVELS))
    return _Sources(tf.constant(np.concatenate(pieces)), offsets, shapes, base)


@lru_cache(maxsize=2)
def _resized(
    scenes: tuple[PedestrianScene, ...], height: int, width: int, rule: ResizingRule
) -> tuple[tf.Tensor, tf.Tensor]:
    pictures = np.stack([resize(scene.picture, rule, height, width)[0] for scene in scenes])
    masks = np.stack([resize_mask(scene.mask, rule, height, width) for scene in scenes])
    return tf.constant(pictures), tf.constant(masks[..., np.newaxis])


def _draw_table(
    sources: _Sources,
    persons: _Sources | None,
    order: npt.NDArray[np.int64],
    height: int,
    width: int,
    seed: int,
    epoch: int,
    zoom: tuple[float, float],
    paste: float,
) -> dict[str, npt.NDArray[Any]]:
    """Draw what happens to each picture of an epoch.

    Returns:
        In the epoch's order: `offset` int64 [N] and `shape` int64 [N, 2] of the size to cut from, `box` float32 [N, 4]
        as tf.image.crop_and_resize counts, `matrix` float32 [N, 3, 3] and `shift` float32 [N, 3] of the colours; of the
        persons put in `person_offset` int64 [N, PASTED], `person_shape` int64 [N, PASTED, 2] and `person_box` float32
        [N, PASTED, 4], those of shape 0 being none.
    """
    frame = np.array([height, width])
    table: dict[str, list[npt.NDArray[Any]]] = {}
    for index in order:
        rng = np.random.default_rng([seed, epoch, int(index)])
        scale = rng.uniform(*zoom)
        aspect = 1.0 + rng.uniform(-ASPECT, ASPECT)
        size = sources.base[index] * scale * np.array([aspect**0.5, aspect**-0.5])
        slack = frame - size
        corner = rng.uniform(np.minimum(slack, 0.0), np.maximum(slack, 0.0))
        row = _cut(sources, int(index), scale, corner, size, frame, flip=rng.random() < 0.5)
        row["matrix"], row["shift"] = _draw_colours(rng)
        cuts = [_draw_person(persons, scale, frame, rng, paste) for _ in range(PASTED)]
        row |= {f"person_{name}": np.stack([cut[name] for cut in cuts]) for name in cuts[0]}
        for name, value in row.items():
            table.setdefault(name, []).append(value)
    return {
        name: np.array(values, dtype=np.int64 if name.endswith(("offset", "shape")) else np.float32)
        for name, values in table.items()
    }


def _draw_person(
    persons: _Sources | None, scale: float, frame: npt.NDArray[np.int64], rng: np.random.Generator, paste: float
) -> dict[str, npt.NDArray[Any]]:
    """Draw whether a person is put in, which, in which size and where: its middle lies in the frame."""
    if persons is None or rng.random() >= paste:
        return {"offset": np.array(0), "shape": np.zeros(2), "box": np.zeros(4)}
    index = int(rng.integers(len(persons.base)))
    scale *= rng.uniform(*PASTE_SCALE)
    size = persons.base[index] * scale
    corner = rng.uniform(0.0, frame) - size / 2
    return _cut(persons, index, scale, corner, size, frame, flip=rng.random() < 0.5)


def _cut(
    sources: _Sources,
    index: int,
    scale: float,
    corner: npt.NDArray[np.float64],
    size: npt.NDArray[np.float64],
    frame: npt.NDArray[np.int64],
    *,
    flip: bool,
) -> dict[str, npt.NDArray[Any]]:
    """Where to find what is shown at `corner` of the frame with `size`."""
    level = min(int(np.searchsorted(_LEVELS, scale)), len(_LEVELS) - 1)
    shape = sources.shapes[index, level]
    box = _box(corner, size, shape, frame)
    return {"offset": sources.offsets[index, level], "shape": shape, "box": box[[0, 3, 2, 1]] if flip else box}


def _box(
    corner: npt.NDArray[np.float64],
    size: npt.NDArray[np.float64],
    shape: npt.NDArray[np.int64],
    frame: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """The box that shows a picture of `shape` in the frame at `corner` with `size`, both in pixels of the frame.

    crop_and_resize samples from the centre of pixel 0 (box value 0) to the centre of the last one (box value 1), so the
    box runs from what the centre of the frame's first pixel sees to what the centre of its last one sees.

    Returns:
        float64 [4]: y1, x1, y2, x2.
    """
    step = shape / size
    first = (0.5 - corner) * step - 0.5
    last = (frame - 0.5 - corner) * step - 0.5
    return np.concatenate([first / (shape - 1), last / (shape - 1)])


def _draw_colours(rng: np.random.Generator) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Draw a change of colours: rgb @ matrix + shift, for values 0..255.

    Hue and saturation turn and stretch the I-Q plane of YIQ; contrast stretches about mid-grey.

    Returns:
        matrix float64 [3, 3] and shift float64 [3].
    """
    angle = rng.uniform(-HUE, HUE)
    saturation = 1.0 + rng.uniform(-SATURATION, SATURATION)
    contrast = 1.0 + rng.uniform(-CONTRAST, CONTRAST)
    brightness = rng.uniform(-BRIGHTNESS, BRIGHTNESS)
    if rng.random() < GREY_SHARE:
        saturation = 0.0
    turn = saturation * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    plane = np.eye(3)
    plane[1:, 1:] = turn
    matrix = contrast * (_YIQ_INVERSE @ plane @ _YIQ)
    return matrix.T, np.full(3, (1.0 - contrast) * 127.5 + brightness)


def _renderer(pixels: tf.Tensor, persons: tf.Tensor | None, height: int, width: int) -> Any:
    """Make the function that turns a row of the table into (picture, mask)."""

    def show(pixels: tf.Tensor, offset: tf.Tensor, shape: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
        """Float [height * width, 4]; -1 marks what lies outside: no pixel has that value."""
        flat = tf.slice(pixels, [offset, 0], [shape[0] * shape[1], 4])
        source = tf.reshape(flat, [1, shape[0], shape[1], 4])
        seen = tf.image.crop_and_resize(source, box[tf.newaxis], [0], [height, width], extrapolation_value=-1.0)
        return tf.reshape(seen, [height * width, 4])

    def put_in(seen: tf.Tensor, row: dict[str, tf.Tensor], number: int) -> tf.Tensor:
        shape = row["person_shape"][number]

        def blended() -> tf.Tensor:
            person = show(persons, row["person_offset"][number], shape, row["person_box"][number])
            cover = tf.maximum(person[:, 3:], 0.0) / 255.0
            covered = cover * tf.concat([person[:, :3], tf.fill([height * width, 1], 255.0)], axis=1)
            # a picture's outside stays outside, so that nobody stands in the padding
            return tf.where(seen[:, 3:] < 0.0, seen, covered + (1.0 - cover) * seen)

        return tf.cond(shape[0] > 0, blended, lambda: seen)

    def render(row: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        seen = show(pixels, row["offset"], row["shape"], row["box"])
        if persons is not None:
            for number in range(PASTED):
                seen = put_in(seen, row, number)
        colours = tf.matmul(seen[:, :3], row["matrix"]) + row["shift"]
        colours = tf.clip_by_value(colours + 0.5, 0.0, 255.0)
        colours = tf.where(seen[:, 3:] < 0.0, tf.constant(PAD_VALUE, tf.float32), colours)
        picture = tf.reshape(tf.cast(colours, tf.uint8), [height, width, 3])
        mask = tf.reshape(tf.cast(seen[:, 3:] > 127.5, tf.float32), [height, width, 1])
        return picture, mask

    return render
