from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import entropy

from training.sparsity.kl import CLIP, kl_sparsity


def test_penalty_is_the_divergence_of_two_coins_for_each_latent(rng: np.random.Generator) -> None:
    active = rng.uniform(0.01, 0.99, 20)
    expected = sum(entropy([0.1, 0.9], [share, 1 - share]) for share in active)
    assert float(kl_sparsity(tf.constant(active), 0.1)) == pytest.approx(expected, rel=1e-12)


def test_penalty_is_zero_at_the_target_alone() -> None:
    assert float(kl_sparsity(tf.fill((5,), tf.constant(0.1, tf.float64)), 0.1)) == pytest.approx(0, abs=1e-15)
    assert float(kl_sparsity(tf.constant([0.1, 0.1001], tf.float64), 0.1)) > 0


def test_gradient_is_its_closed_form(rng: np.random.Generator) -> None:
    active = tf.constant(rng.uniform(0.01, 0.99, 20))
    with tf.GradientTape() as tape:
        tape.watch(active)
        value = kl_sparsity(active, 0.1)
    np.testing.assert_allclose(tape.gradient(value, active), -0.1 / active + 0.9 / (1 - active), rtol=1e-12)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_silent_and_saturated_latents_have_a_finite_penalty(share: float) -> None:
    expected = entropy([0.1, 0.9], [abs(share - CLIP), 1 - abs(share - CLIP)])
    assert float(kl_sparsity(tf.constant([share], tf.float64), 0.1)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("target", [0.0, 1.0, -0.1])
def test_impossible_targets_are_refused(target: float) -> None:
    with pytest.raises(ValueError, match=rf"between 0 and 1\. Received: {target}"):
        kl_sparsity(tf.constant([0.5]), target)
