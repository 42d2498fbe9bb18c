from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.segmentation import boundary_f, control_predictions, score_masks


def rectangle(top: int, left: int, bottom: int, right: int, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def test_scores_of_two_overlapping_rectangles() -> None:
    # 200 pixels each, 100 shared: IoU 1/3, Dice 1/2
    scores = score_masks([rectangle(0, 0, 10, 20)], [rectangle(0, 10, 10, 30)])
    assert scores.iou_per_image == pytest.approx(1 / 3)
    assert scores.iou_pooled == pytest.approx(1 / 3)
    assert scores.dice_per_image == pytest.approx(1 / 2)
    assert scores.precision == pytest.approx(1 / 2)
    assert scores.recall == pytest.approx(1 / 2)


def test_per_image_and_pooled_differ_when_areas_do() -> None:
    truths = [rectangle(0, 0, 10, 10), rectangle(0, 0, 40, 60)]
    predictions = [rectangle(0, 0, 10, 5), rectangle(0, 0, 40, 60)]
    scores = score_masks(truths, predictions)
    assert scores.iou_per_image == pytest.approx((0.5 + 1) / 2)
    assert scores.iou_pooled == pytest.approx((50 + 2400) / (100 + 2400))


def test_empty_truth_and_empty_prediction_agree() -> None:
    nothing = np.zeros((8, 8), bool)
    scores = score_masks([nothing], [nothing])
    assert (scores.iou_per_image, scores.dice_per_image, scores.iou_pooled, scores.boundary_f) == (1, 1, 1, 1)


def test_an_empty_prediction_of_a_pedestrian_scores_nothing() -> None:
    scores = score_masks([rectangle(5, 5, 20, 20)], [np.zeros((40, 60), bool)])
    assert (scores.iou_per_image, scores.dice_per_image, scores.recall, scores.boundary_f) == (0, 0, 0, 0)
    assert scores.precision == 1


def test_boundary_f_forgives_the_tolerance_and_no_more() -> None:
    size = (300, 400)  # diagonal 500: tolerance 4 pixels
    truth = rectangle(100, 100, 200, 200, size)
    assert boundary_f(truth, rectangle(104, 100, 204, 200, size)) == pytest.approx(1.0, abs=0.02)
    moved = boundary_f(truth, rectangle(110, 100, 210, 200, size))
    assert 0.4 < moved < 0.7  # the two vertical sides still lie on each other, the horizontal ones do not
    assert boundary_f(truth, truth) == 1.0


def test_the_frame_of_the_picture_is_no_boundary() -> None:
    assert boundary_f(np.ones((20, 20), bool), np.ones((20, 20), bool)) == 1.0


@pytest.mark.parametrize(
    ("truths", "predictions", "message"),
    [
        ([], [], "at least 1"),
        ([rectangle(0, 0, 5, 5)], [], "1 truths, 0 predictions"),
        ([np.zeros((4, 4), bool)], [np.zeros((4, 5), bool)], r"\(4, 4\). Received: \(4, 5\)"),
    ],
)
def test_what_cannot_be_compared_is_refused(truths: list, predictions: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_masks(truths, predictions)


def test_controls_are_an_empty_mask_and_the_best_cut_of_the_mean() -> None:
    train = [rectangle(0, 0, 40, 30), rectangle(0, 0, 40, 30), rectangle(0, 30, 40, 60)]
    controls = control_predictions(train, [(40, 60), (20, 30)])
    assert not controls["all_background"][0].any()
    assert [mask.shape for mask in controls["mean_mask"]] == [(40, 60), (20, 30)]
    # keeping the left half: pooled IoU 2/4; keeping everything: 3/6. Both tie, so the mask is one of them
    assert controls["mean_mask"][0][:, :29].all()
