from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from training.evaluation.sparse_coding import score_reconstruction
from training.losses.auxiliary import dead_latents, target_l0, unexplained


def test_unexplained_is_one_minus_the_explained_variance(rng: np.random.Generator) -> None:
    x = rng.standard_normal((30, 8)).astype(np.float32)
    rebuilt = x + 0.5 * rng.standard_normal(x.shape).astype(np.float32)
    expected = 1 - score_reconstruction(x, rebuilt).explained_variance
    assert float(unexplained(x, rebuilt)) == pytest.approx(expected, rel=1e-5)
    assert float(unexplained(x, np.tile(x.mean(axis=0), (30, 1)))) == pytest.approx(1)
    assert float(unexplained(x[:1], rebuilt[:1])) == 0


def test_unexplained_has_the_gradient_of_central_differences(rng: np.random.Generator) -> None:
    x, rebuilt = rng.standard_normal((5, 4)), tf.constant(rng.standard_normal((5, 4)))
    with tf.GradientTape() as tape:
        tape.watch(rebuilt)
        value = unexplained(x, rebuilt)
    gradient = tape.gradient(value, rebuilt).numpy()
    for place in np.ndindex(5, 4):
        shift = np.zeros((5, 4))
        shift[place] = 1e-5
        slope = (unexplained(x, rebuilt + shift) - unexplained(x, rebuilt - shift)) / 2e-5
        assert gradient[place] == pytest.approx(float(slope), rel=1e-7)


def test_only_dead_latents_that_would_fire_explain_the_residual() -> None:
    preactivations = tf.constant([[5.0, 3.0, 2.0, -1.0, 1.0], [9.0, -3.0, -2.0, -1.0, 0.5]])
    dead = tf.constant([False, True, True, True, True])
    np.testing.assert_array_equal(dead_latents(preactivations, dead, 2), [[0, 3, 2, 0, 0], [0, 0, 0, 0, 0.5]])


def test_dead_latents_receive_a_gradient_and_living_ones_none(rng: np.random.Generator) -> None:
    preactivations, dead = tf.constant(rng.random((4, 6))), tf.constant([True, False, True, False, True, False])
    with tf.GradientTape() as tape:
        tape.watch(preactivations)
        value = tf.reduce_sum(dead_latents(preactivations, dead, 3))
    np.testing.assert_array_equal(tape.gradient(value, preactivations), np.tile([1.0, 0, 1, 0, 1, 0], (4, 1)))


def test_target_l0_vanishes_on_target_alone() -> None:
    assert [float(target_l0(tf.constant(active), 25)) for active in (25.0, 50.0, 0.0)] == [0, 1, 1]
