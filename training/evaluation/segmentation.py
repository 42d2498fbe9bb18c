"""How good pedestrian masks are, at the picture's own size.

Pixel accuracy is left out on purpose: with 15 % pedestrian pixels, an empty mask scores 85 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

BoolMask = NDArray[np.bool_]

BOUNDARY_TOLERANCE = 0.0075
"""Of the picture's diagonal, as the Berkeley and DAVIS benchmarks use it."""


@dataclass(frozen=True)
class SegmentationScores:
    """Scores over a set of pictures; all lie in 0..1 and larger is better.

    Attributes:
        iou_per_image: mean over pictures of intersection over union; 1 where truth and prediction are both empty.
        iou_pooled: intersection over union of all pixels of all pictures together.
        dice_per_image: mean over pictures of ``2 |P ∩ T| / (|P| + |T|)``; 1 where both are empty.
        precision: of all pixels called pedestrian, the share that are; 1 when none is called so.
        recall: of all pedestrian pixels, the share that is found.
        boundary_f: mean over pictures of the F-measure of mask boundaries (Perazzi et al., CVPR 2016, section 5):
            a boundary pixel counts as found within 0.75 % of the picture's diagonal.
    """

    iou_per_image: float
    iou_pooled: float
    dice_per_image: float
    precision: float
    recall: float
    boundary_f: float


def score_masks(truths: Sequence[BoolMask], predictions: Sequence[BoolMask]) -> SegmentationScores:
    """Compares masks picture by picture.

    Args:
        truths: bool [H, W] each.
        predictions: bool, each of the shape of its truth.

    Raises:
        ValueError: no pictures, different numbers, or a prediction of another shape than its truth.
    """
    if not truths or len(truths) != len(predictions):
        raise ValueError(
            f"expected as many predictions as truths, at least 1. Received: {len(truths)} truths, "
            f"{len(predictions)} predictions"
        )
    intersections, truth_areas, prediction_areas, boundaries = [], [], [], []
    for index, (truth, prediction) in enumerate(zip(truths, predictions, strict=True)):
        if truth.shape != prediction.shape:
            raise ValueError(f"picture {index}: the truth has shape {truth.shape}. Received: {prediction.shape}")
        intersections.append(np.count_nonzero(truth & prediction))
        truth_areas.append(np.count_nonzero(truth))
        prediction_areas.append(np.count_nonzero(prediction))
        boundaries.append(boundary_f(truth, prediction))
    intersection, truth_area, area = map(np.asarray, (intersections, truth_areas, prediction_areas))
    union = truth_area + area - intersection
    empty = union == 0
    return SegmentationScores(
        iou_per_image=float(np.mean(np.where(empty, 1.0, intersection / np.maximum(union, 1)))),
        iou_pooled=float(intersection.sum() / union.sum()) if union.sum() else 1.0,
        dice_per_image=float(np.mean(np.where(empty, 1.0, 2 * intersection / np.maximum(truth_area + area, 1)))),
        precision=float(intersection.sum() / area.sum()) if area.sum() else 1.0,
        recall=float(intersection.sum() / truth_area.sum()) if truth_area.sum() else 1.0,
        boundary_f=float(np.mean(boundaries)),
    )


def boundary_f(truth: BoolMask, prediction: BoolMask) -> float:
    """F-measure of the boundaries of two masks bool [H, W]; see :class:`SegmentationScores`.

    1 where neither has a boundary, 0 where only one has.
    """
    height, width = truth.shape
    radius = max(1, round(BOUNDARY_TOLERANCE * float(np.hypot(height, width))))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    edges = _boundary(truth), _boundary(prediction)
    if not edges[0].any() or not edges[1].any():
        return float(edges[0].any() == edges[1].any())
    near_truth, near_prediction = (cv2.dilate(edge, kernel) for edge in edges)
    recall = np.count_nonzero(edges[0] & near_prediction) / np.count_nonzero(edges[0])
    precision = np.count_nonzero(edges[1] & near_truth) / np.count_nonzero(edges[1])
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def _boundary(mask: BoolMask) -> NDArray[np.uint8]:
    # the picture's frame is no boundary: a pedestrian cut by it is not outlined there
    solid = mask.astype(np.uint8)
    eroded = cv2.erode(solid, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_REPLICATE)
    boundary: NDArray[np.uint8] = solid - eroded
    return boundary


def control_predictions(
    train_masks: Sequence[BoolMask],
    sizes: Sequence[tuple[int, int]],
) -> dict[str, list[BoolMask]]:
    """What can be scored without looking at a picture.

    Args:
        train_masks: bool [H, W], the training truths.
        sizes: (height, width) of the pictures to predict.

    Returns:
        ``all_background``, and ``mean_mask``: the average training mask, stretched to each picture and cut where its
        pooled IoU on the training masks themselves is best.
    """
    side = 128
    stretched = np.stack(
        [cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA) for mask in train_masks]
    )
    mean = stretched.mean(axis=0)
    hard = stretched >= 0.5

    def pooled_iou(cut: float) -> float:
        guess = mean >= cut
        return float((hard & guess).sum() / (hard | guess).sum())

    cut = max(np.unique(mean)[::8].tolist(), key=pooled_iou)
    return {
        "all_background": [np.zeros(size, bool) for size in sizes],
        "mean_mask": [
            cv2.resize(mean, (width, height), interpolation=cv2.INTER_LINEAR) >= cut for height, width in sizes
        ],
    }
