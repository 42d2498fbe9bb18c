"""What the head positions of a crowd's video tell of its segmentation, where there are no masks.

Each claim of the source on its five nets gets a number here:

=====================  ==========================================================================================
"floods the scene"     ``flooding``: red area beyond what the heads let one expect; ``torso_lift``: how much likelier
                       a person's torso is red than any pixel
"blurs"                ``blur``: share of pixels whose probability is neither near 0 nor near 1
"sharp, clear edges"   ``sharpness``: how steep the probability is where it crosses one half
"holes"                ``holes``: share of the filled mask that is holes
"little detail"        ``detail``: length of the mask's outline by its area; ``components``: its parts
=====================  ==========================================================================================

"Red" is a pixel whose probability reaches the threshold. All maps are of the frame's own size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

HEIGHT_AT_ONE = 112.0
"""Pixels; height of a person whose feet stand where the perspective weight is 1. Read off five people of Mall's first
frame (feet in rows 118, 268, 316, 407 and 407; they give 108 to 116)."""
BODY_SHARE = 0.187
"""A person's area by the square of their height: the mean over the 423 masks of Penn-Fudan."""
TORSO = 0.3
"""The torso's middle lies this share of a person's height below the head's."""
GREY = (0.1, 0.9)
"""Probabilities between these count as undecided."""


@dataclass(frozen=True)
class FrameScores:
    """Of one frame.

    Attributes:
        red_share: share of the pixels that are red, 0..1.
        expected_share: share that the persons would cover by their heads, each unhidden and cut at the frame's edge.
        torsos_hit: share of the persons the middle of whose torso is red; 0 without persons.
        change: share of the pixels that were red in just one of this frame and the one before; 0 in the first.
        blur: share of the pixels with a probability strictly between 0.1 and 0.9.
        sharpness: mean magnitude of the probability's gradient, per pixel, where it crosses one half: red pixels with
            a neighbour that is not, taken at the threshold 0.5; 0 without an edge.
        holes: pixels that are not red but enclosed by red, by these and the red ones; 0 without red.
        detail: pixel sides between red and not red, by red pixels, per pixel; 0 without red. The frame's edge is none.
        components: 8-connected red parts.
    """

    red_share: float
    expected_share: float
    torsos_hit: float
    change: float
    blur: float
    sharpness: float
    holes: float
    detail: float
    components: int


@dataclass(frozen=True)
class MallScores:
    """Of a video: means over its frames, unless said otherwise.

    Attributes:
        red_share: see :class:`FrameScores`.
        expected_share: likewise.
        flooding: ``red_share − expected_share``: above 0 where more is red than the persons can cover.
        torso_lift: ``torsos_hit − red_share``: 0 where red falls on persons no more often than anywhere, near 1 for
            good masks.
        torsos_hit: see :class:`FrameScores`.
        count_correlation: Spearman's rank correlation of red share and number of heads over the frames, −1..1; 0 where
            either never changes.
        area_correlation: likewise of red share and expected share, which counts a near person for more than a far one.
        flicker: mean of ``change`` over all frames but the first.
        blur: see :class:`FrameScores`.
        sharpness: mean over the frames that have an edge, per pixel.
        holes: see :class:`FrameScores`.
        detail: likewise, over the frames that have red.
        components: see :class:`FrameScores`.
    """

    red_share: float
    expected_share: float
    flooding: float
    torsos_hit: float
    torso_lift: float
    count_correlation: float
    area_correlation: float
    flicker: float
    blur: float
    sharpness: float
    holes: float
    detail: float
    components: float


def score_frames(
    probabilities: Iterable[Floats],
    heads: Sequence[Floats],
    perspective: Floats,
    threshold: float = 0.5,
) -> list[FrameScores]:
    """Scores frame by frame.

    Args:
        probabilities: float [H, W] each, in the order of time.
        heads: for each frame float [P, 2], x and y in pixels.
        perspective: float [H], each row's area weight.
        threshold: probability from which a pixel is red.

    Raises:
        ValueError: not as many maps as frames with heads, or a map of another height than the perspective.
    """
    scores, before = [], None
    for probability, persons in zip(probabilities, heads, strict=True):
        if len(probability) != len(perspective):
            raise ValueError(f"expected maps of {len(perspective)} rows. Received: {len(probability)}")
        red = probability >= threshold
        torsos, expected = _persons(persons, perspective, red.shape)
        scores.append(
            FrameScores(
                red_share=float(red.mean()),
                expected_share=expected,
                torsos_hit=float(red[torsos[:, 1], torsos[:, 0]].mean()) if len(torsos) else 0.0,
                change=0.0 if before is None else float((red != before).mean()),
                blur=float(((probability > GREY[0]) & (probability < GREY[1])).mean()),
                sharpness=_sharpness(probability),
                holes=_holes(red),
                detail=_detail(red),
                components=int(cv2.connectedComponents(red.astype(np.uint8), connectivity=8)[0]) - 1,
            )
        )
        before = red
    return scores


def summarise(frames: Sequence[FrameScores], counts: Sequence[int] | NDArray[np.int64]) -> MallScores:
    """Means and correlation over a video.

    Args:
        frames: of :func:`score_frames`, at least two.
        counts: heads of each frame.

    Raises:
        ValueError: fewer than two frames, or other counts than frames.
    """
    if len(frames) < 2 or len(frames) != len(counts):
        raise ValueError(f"expected two or more frames, each with a count. Received: {len(frames)}, {len(counts)}")
    columns = {key: np.array([getattr(frame, key) for frame in frames]) for key in asdict(frames[0])}
    red = columns["red_share"]
    edged, coloured = columns["sharpness"] > 0, red > 0
    return MallScores(
        red_share=float(red.mean()),
        expected_share=float(columns["expected_share"].mean()),
        flooding=float((red - columns["expected_share"]).mean()),
        torsos_hit=float(columns["torsos_hit"].mean()),
        torso_lift=float((columns["torsos_hit"] - red).mean()),
        count_correlation=_rank_correlation(red, np.asarray(counts)),
        area_correlation=_rank_correlation(red, columns["expected_share"]),
        flicker=float(columns["change"][1:].mean()),
        blur=float(columns["blur"].mean()),
        sharpness=float(columns["sharpness"][edged].mean()) if edged.any() else 0.0,
        holes=float(columns["holes"].mean()),
        detail=float(columns["detail"][coloured].mean()) if coloured.any() else 0.0,
        components=float(columns["components"].mean()),
    )


def body_heights(rows: Floats, perspective: Floats) -> Floats:
    """Heights in pixels of the persons whose heads lie in ``rows`` [P]: float [P].

    A person's height goes with ``1 / √weight`` where the feet stand, which is that height below the head; three
    rounds of inserting the one in the other settle it to a pixel.
    """
    last = len(perspective) - 1
    heights = np.zeros(len(rows))
    for _ in range(4):
        feet = np.clip(np.rint(rows + heights), 0, last).astype(int)
        heights = HEIGHT_AT_ONE / np.sqrt(perspective[feet])
    return heights


def _rank_correlation(one: NDArray[Any], other: NDArray[Any]) -> float:
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(stats.spearmanr(one, other).statistic)


def _persons(heads: Floats, perspective: Floats, shape: tuple[int, ...]) -> tuple[NDArray[np.int64], float]:
    """The torsos' middles as int64 [P, 2] (x, y) inside the frame, and the share of the frame that all cover."""
    height, width = shape
    tall = body_heights(heads[:, 1], perspective)
    visible = np.clip((height - heads[:, 1]) / tall, 0.0, 1.0)
    torsos = np.rint(np.column_stack([heads[:, 0], heads[:, 1] + TORSO * tall])).astype(np.int64)
    expected = float(np.sum(BODY_SHARE * tall**2 * visible) / (height * width))
    return np.clip(torsos, 0, [width - 1, height - 1]), expected


def _sharpness(probability: Floats) -> float:
    inside = (probability >= 0.5).astype(np.uint8)
    # beyond the frame counts as inside, so that its border is no edge
    edge = inside.astype(bool) & (cv2.erode(inside, np.ones((3, 3), np.uint8), borderValue=1) == 0)
    if not edge.any():
        return 0.0
    down, across = np.gradient(probability, axis=0), np.gradient(probability, axis=1)
    return float(np.hypot(down[edge], across[edge]).mean())


def _holes(red: Mask) -> float:
    if not red.any():
        return 0.0
    # a frame of background around everything: what is not red and not connected with it is a hole
    padded = np.pad(~red, 1, constant_values=True).astype(np.uint8)
    _, labels = cv2.connectedComponents(padded, connectivity=4)
    holes = int(np.count_nonzero((labels != labels[0, 0]) & (padded == 1)))
    return holes / (holes + int(red.sum()))


def _detail(red: Mask) -> float:
    sides = np.count_nonzero(red[1:] != red[:-1]) + np.count_nonzero(red[:, 1:] != red[:, :-1])
    return float(sides / red.sum()) if red.any() else 0.0
