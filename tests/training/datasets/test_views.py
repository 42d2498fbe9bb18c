from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from training.datasets.views import answer_to_a_view

SIZES = ((32, 48), (48, 72), (64, 96))


@pytest.fixture
def pictures() -> tf.Tensor:
    """Smooth ones: brighter to the right and downwards, each on its own."""
    rows, columns = np.mgrid[0:48, 0:72]
    ramps = [columns * 2.5 + rows * number for number in (0.5, 1.0, 1.5)]
    return tf.constant(np.stack([np.dstack([ramp] * 3) for ramp in ramps]).round().astype(np.uint8))


def brightness(pictures: tf.Tensor) -> tf.Tensor:
    return tf.cast(pictures[..., :1], tf.float32)


def test_an_answer_lies_where_it_belongs_whatever_the_view(pictures: tf.Tensor) -> None:
    for seed in range(20):
        found = answer_to_a_view(brightness, pictures, SIZES, seed=seed)
        assert found.shape == (3, 48, 72, 1)
        inner = np.s_[:, 3:-3, 3:-3]  # at the border a filter has but one side
        np.testing.assert_allclose(found[inner], brightness(pictures)[inner], atol=1.5)


def test_every_size_is_shown_both_ways_round(pictures: tf.Tensor) -> None:
    seen = set()

    def answer(view: tf.Tensor) -> tf.Tensor:
        assert view.dtype == tf.uint8
        mirrored = float(view[0, 10, 0, 0]) > float(view[0, 10, -1, 0])
        seen.add((*view.shape[1:3], mirrored))
        return brightness(view)

    for seed in range(100):
        answer_to_a_view(answer, pictures, SIZES, seed=seed)
    assert seen == {(*size, mirrored) for size in SIZES for mirrored in (False, True)}


def test_what_is_drawn_depends_on_the_seed_and_the_pictures_alone(pictures: tf.Tensor) -> None:
    def noted(pictures: tf.Tensor, seed: int) -> tuple[int, ...]:
        shapes: list[tuple[int, ...]] = []

        def answer(view: tf.Tensor) -> tf.Tensor:
            shapes.append(tuple(view.shape))
            return brightness(view)

        answer_to_a_view(answer, pictures, SIZES, seed=seed)
        return shapes[0]

    assert [noted(pictures, seed) for seed in range(9)] == [noted(pictures, seed) for seed in range(9)]
    assert len({noted(pictures, seed) for seed in range(9)}) > 1
    assert len({noted(pictures + tf.constant(change, tf.uint8), 0) for change in range(9)}) > 1


def test_a_compiled_step_takes_all_sizes(pictures: tf.Tensor) -> None:
    compiled = tf.function(lambda pictures: answer_to_a_view(brightness, pictures, SIZES, seed=4))
    for change in range(6):
        changed = pictures + tf.constant(change, tf.uint8)
        expected = answer_to_a_view(brightness, changed, SIZES, seed=4)
        np.testing.assert_allclose(compiled(changed), expected, atol=1e-4)
