from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from training.evaluation.mall import (
    BODY_SHARE,
    HEIGHT_AT_ONE,
    FrameScores,
    body_heights,
    score_frames,
    summarise,
)
from training.evaluation.mall_figures import heat_overlay, red_share_over_time

H, W = 300, 400
FLAT = np.ones(H)
NOBODY = np.zeros((0, 2))


def one(probability: np.ndarray, heads: np.ndarray = NOBODY, perspective: np.ndarray = FLAT) -> FrameScores:
    return score_frames([probability], [heads], perspective)[0]


def blank(value: float = 0.0) -> np.ndarray:
    return np.full((H, W), value)


def square(top: int, left: int, side: int, into: np.ndarray | None = None) -> np.ndarray:
    into = blank() if into is None else into
    into[top : top + side, left : left + side] = 1.0
    return into


def test_red_share_detail_and_components_of_two_squares() -> None:
    scores = one(square(10, 10, 20, square(100, 100, 10)))
    assert scores.red_share == pytest.approx(500 / (H * W))
    assert scores.detail == pytest.approx((80 + 40) / 500)
    assert scores.components == 2
    assert scores.holes == 0.0


def test_the_frames_border_is_no_outline() -> None:
    scores = one(blank(1.0))
    assert (scores.detail, scores.sharpness, scores.red_share, scores.components) == (0.0, 0.0, 1.0, 1)


def test_a_hole_is_enclosed_background() -> None:
    ring = square(10, 10, 20)
    ring[15:20, 15:25] = 0.0
    assert one(ring).holes == pytest.approx(50 / 400)
    ring[15:20, 25:30] = 0.0  # opened to the right
    assert one(ring).holes == 0.0
    # diagonal contact does not open it: red counts as 8-connected, holes as 4-connected
    assert one(square(0, 0, H)).holes == 0.0


def test_blur_counts_the_undecided() -> None:
    probability = blank()
    probability[:30] = 0.5
    probability[30:60] = 0.95
    assert one(probability).blur == pytest.approx(0.1)


def test_a_steeper_edge_is_sharper() -> None:
    ramp = np.broadcast_to(np.clip((np.arange(W) - 195) / 10, 0, 1), (H, W))
    step = np.broadcast_to((np.arange(W) >= 200).astype(float), (H, W))
    assert one(ramp).sharpness == pytest.approx(0.1)
    assert one(step).sharpness == pytest.approx(0.5)


def test_expected_share_is_that_of_bodies_below_their_heads() -> None:
    inside = np.array([[50.0, 20.0], [90.0, 40.0]])
    assert one(blank(), inside).expected_share == pytest.approx(2 * BODY_SHARE * HEIGHT_AT_ONE**2 / (H * W))
    # half of the body lies below the frame
    cut = np.array([[50.0, H - HEIGHT_AT_ONE / 2]])
    assert one(blank(), cut).expected_share == pytest.approx(0.5 * BODY_SHARE * HEIGHT_AT_ONE**2 / (H * W))


def test_persons_farther_away_are_smaller() -> None:
    perspective = np.linspace(16.0, 1.0, H)
    near, far = body_heights(np.array([150.0, 5.0]), perspective)
    assert far < near
    for row, height in ((150.0, near), (5.0, far)):
        assert height == pytest.approx(HEIGHT_AT_ONE / np.sqrt(perspective[round(row + height)]), rel=0.02)


def test_torsos_are_looked_for_below_the_head() -> None:
    head = np.array([[200.0, 50.0], [20.0, 50.0]])
    scores = one(square(70, 190, 30), head)
    assert scores.torsos_hit == 0.5
    assert one(square(40, 190, 20), head).torsos_hit == 0.0


def test_change_is_between_neighbouring_frames() -> None:
    maps = [square(0, 0, 10), square(0, 5, 10), square(0, 5, 10)]
    changes = [scores.change for scores in score_frames(maps, [NOBODY] * 3, FLAT)]
    assert changes == [0.0, pytest.approx(100 / (H * W)), 0.0]


def test_summary_of_a_red_area_that_follows_the_heads() -> None:
    heads = [np.tile([[200.0, 50.0]], (count, 1)) for count in (1, 2, 3, 4)]
    following = [square(0, 0, 10 * count) for count in (1, 2, 3, 4)]
    scores = summarise(score_frames(following, heads, FLAT), [1, 2, 3, 4])
    assert scores.count_correlation == pytest.approx(1.0)
    assert scores.area_correlation == pytest.approx(1.0)
    against = summarise(score_frames(following[::-1], heads, FLAT), [1, 2, 3, 4])
    assert against.count_correlation == pytest.approx(-1.0)
    assert scores.flooding == pytest.approx(scores.red_share - scores.expected_share)
    assert scores.torso_lift == pytest.approx(scores.torsos_hit - scores.red_share)
    assert scores.flicker == pytest.approx(np.mean([300, 500, 700]) / (H * W))


def test_a_flood_and_a_blank_have_no_correlation_and_no_nan() -> None:
    heads = [np.tile([[200.0, 50.0]], (count, 1)) for count in (1, 2, 3)]
    for value in (0.0, 1.0):
        scores = summarise(score_frames([blank(value)] * 3, heads, FLAT), [1, 2, 3])
        assert all(np.isfinite(list(vars(scores).values())))
        assert (scores.count_correlation, scores.torso_lift, scores.flicker) == (0.0, 0.0, 0.0)
        assert scores.red_share == value


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected maps of 300 rows\. Received: 10"):
        one(np.zeros((10, W)))
    with pytest.raises(ValueError, match="two or more frames"):
        summarise([one(blank())], [1])
    with pytest.raises(ValueError, match=r"two or more frames, each with a count\. Received: 2, 3"):
        summarise([one(blank()), replace(one(blank()), red_share=0.5)], [1, 2, 3])


def test_overlay_is_half_frame_half_heat() -> None:
    frame = np.full((4, 6, 3), 100, np.uint8)
    np.testing.assert_allclose(heat_overlay(frame, np.zeros((4, 6)))[0, 0], [55, 50, 50], atol=6)
    assert heat_overlay(frame, np.ones((4, 6))).min() >= 175
    np.testing.assert_array_equal(heat_overlay(frame, np.ones((4, 6)), alpha=0.0), frame)


def test_plot_has_a_line_for_each_model_and_one_for_the_heads() -> None:
    figure = red_share_over_time(np.arange(3), {"a": np.zeros(3), "b": np.ones(3)}, np.zeros(3), np.arange(3))
    assert [len(axes.lines) for axes in figure.axes] == [3, 1]
