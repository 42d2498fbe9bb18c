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

_LEVELS = (0.5, 0.7, 1.0, 1.4, 2.0)
"""Sizes in which each picture is kept, relative to the letterboxed one: bilinear sampling does not average, so a box is
cut out of the smallest size that need not be enlarged, at most 1.43 times as large as wanted."""

_LUMA = np.array([0.299, 0.587, 0.114])
_YIQ = np.array([_LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_YIQ_INVERSE = np.linalg.inv(_YIQ)


@dataclass(frozen=True, eq=False)
class _Sources:
    """Pictures in several sizes, laid end to end.

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
) -> tf.data.Dataset:
    """Batches of one epoch, each scene once, in an order of the epoch's own.

    With `augment` each picture is flipped (half of them), zoomed about its letterboxed size with a small change of
    aspect, moved anywhere it shows all or fills the frame, and changed in brightness, contrast, saturation and
    hue. Outside the picture the input is 127 and the mask 0. Without `augment` pictures are resized as
    `training.datasets.resizing` says, as at inference.

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

    Returns:
        Data set of (picture uint8 [B, height, width, 3], mask float32 [B, height, width, 1] of 0 and 1).

    Raises:
        ValueError: Without scenes, or for a batch size below 1.
    """
    if not scenes or batch_size < 1:
        raise ValueError(f"Expected scenes and a batch size of at least 1. Received: {len(scenes)}, {batch_size}")
    order = np.random.default_rng([seed, epoch]).permutation(len(scenes))
    if augment:
        sources = _augmentation_sources(tuple(scenes), height, width, rule)
        table = _draw_table(sources, order, height, width, seed, epoch, zoom)
        dataset = tf.data.Dataset.from_tensor_slices(table)
        dataset = dataset.map(_renderer(sources.pixels, height, width), num_parallel_calls=tf.data.AUTOTUNE)
    else:
        pictures, masks = _resized(tuple(scenes), height, width, rule)
        dataset = tf.data.Dataset.from_tensor_slices(order)
        dataset = dataset.map(lambda index: (pictures[index], tf.cast(masks[index], tf.float32)))
    return dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)


# Two entries: a train and a validation part. Scenes compare by identity, so the key is cheap.
@lru_cache(maxsize=2)
def _augmentation_sources(scenes: tuple[PedestrianScene, ...], height: int, width: int, rule: ResizingRule) -> _Sources:
    pieces: list[npt.NDArray[np.uint8]] = []
    shapes = np.zeros((len(scenes), len(_LEVELS), 2), dtype=np.int64)
    base = np.zeros((len(scenes), 2))
    for index, scene in enumerate(scenes):
        picture = np.dstack([scene.picture, scene.mask.astype(np.uint8) * np.uint8(255)])
        geometry = place(picture.shape[0], picture.shape[1], rule, height, width)
        base[index] = geometry.inner_height, geometry.inner_width
        for level, scale in enumerate(_LEVELS):
            # Never enlarged here: that is the sampling's own work. At least 2, for boxes count in (side - 1).
            sides = [
                max(2, min(side, round(b * scale))) for side, b in zip(picture.shape[:2], base[index], strict=True)
            ]
            shapes[index, level] = sides
            pieces.append(resample(picture, *sides).reshape(-1, 4))
    lengths = np.array([len(piece) for piece in pieces])
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]]).reshape(len(scenes), len(_LEVELS))
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
    order: npt.NDArray[np.int64],
    height: int,
    width: int,
    seed: int,
    epoch: int,
    zoom: tuple[float, float],
) -> dict[str, npt.NDArray[Any]]:
    """Draw what happens to each picture of an epoch.

    Returns:
        In the epoch's order: `offset` int64 [N] and `shape` int64 [N, 2] of the size to cut from, `box` float32 [N, 4]
        as tf.image.crop_and_resize counts, `matrix` float32 [N, 3, 3] and `shift` float32 [N, 3] of the colours.
    """
    offsets, shapes, boxes, matrices, shifts = [], [], [], [], []
    for index in order:
        rng = np.random.default_rng([seed, epoch, int(index)])
        scale = rng.uniform(*zoom)
        aspect = 1.0 + rng.uniform(-ASPECT, ASPECT)
        size = sources.base[index] * scale * np.array([aspect**0.5, aspect**-0.5])
        level = min(int(np.searchsorted(_LEVELS, scale)), len(_LEVELS) - 1)
        slack = np.array([height, width]) - size
        corner = rng.uniform(np.minimum(slack, 0.0), np.maximum(slack, 0.0))
        shape = sources.shapes[index, level]
        box = _box(corner, size, shape, height, width)
        if rng.random() < 0.5:
            box = box[[0, 3, 2, 1]]
        matrix, shift = _draw_colours(rng)
        offsets.append(sources.offsets[index, level])
        shapes.append(shape)
        boxes.append(box)
        matrices.append(matrix)
        shifts.append(shift)
    return {
        "offset": np.array(offsets),
        "shape": np.array(shapes),
        "box": np.array(boxes, dtype=np.float32),
        "matrix": np.array(matrices, dtype=np.float32),
        "shift": np.array(shifts, dtype=np.float32),
    }


def _box(
    corner: npt.NDArray[np.float64],
    size: npt.NDArray[np.float64],
    shape: npt.NDArray[np.int64],
    height: int,
    width: int,
) -> npt.NDArray[np.float64]:
    """The box that shows a picture of `shape` in the frame at `corner` with `size`, both in pixels of the frame.

    crop_and_resize samples from the centre of pixel 0 (box value 0) to the centre of the last one (box value 1), so the
    box runs from what the centre of the frame's first pixel sees to what the centre of its last one sees.

    Returns:
        float64 [4]: y1, x1, y2, x2.
    """
    frame = np.array([height, width])
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


def _renderer(pixels: tf.Tensor, height: int, width: int) -> Any:
    """Make the function that turns a row of the table into (picture, mask)."""

    def render(row: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        count = row["shape"][0] * row["shape"][1]
        source = tf.reshape(tf.slice(pixels, [row["offset"], 0], [count, 4]), [1, row["shape"][0], row["shape"][1], 4])
        # -1 marks what lies outside the picture: no pixel has that value.
        seen = tf.image.crop_and_resize(source, row["box"][tf.newaxis], [0], [height, width], extrapolation_value=-1.0)
        seen = tf.reshape(seen, [height * width, 4])
        colours = tf.matmul(seen[:, :3], row["matrix"]) + row["shift"]
        colours = tf.clip_by_value(colours + 0.5, 0.0, 255.0)
        colours = tf.where(seen[:, 3:] < 0.0, tf.constant(PAD_VALUE, tf.float32), colours)
        picture = tf.reshape(tf.cast(colours, tf.uint8), [height, width, 3])
        mask = tf.reshape(tf.cast(seen[:, 3:] > 127.5, tf.float32), [height, width, 1])
        return picture, mask

    return render
