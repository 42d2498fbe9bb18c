from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from training.sparsity.activity import l1_activity


def test_penalty_is_summed_over_latents_and_averaged_over_examples(rng: np.random.Generator) -> None:
    latents = rng.standard_normal((6, 9))
    expected = sum(abs(value) for row in latents for value in row) / 6
    assert float(l1_activity(tf.constant(latents))) == pytest.approx(expected, rel=1e-12)


def test_penalty_does_not_depend_on_how_often_the_examples_are_repeated(rng: np.random.Generator) -> None:
    latents = tf.constant(rng.standard_normal((6, 9)))
    assert float(l1_activity(tf.tile(latents, (4, 1)))) == pytest.approx(float(l1_activity(latents)), rel=1e-12)


def test_gradient_is_the_sign_divided_by_the_batch(rng: np.random.Generator) -> None:
    latents = tf.constant(rng.standard_normal((6, 9)))
    with tf.GradientTape() as tape:
        tape.watch(latents)
        value = l1_activity(latents)
    np.testing.assert_allclose(tape.gradient(value, latents), np.sign(latents) / 6, rtol=1e-12)
