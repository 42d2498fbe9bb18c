from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from training.losses.segmentation import binary_crossentropy, soft_dice


def test_crossentropy_is_its_closed_form(rng: np.random.Generator) -> None:
    logits = rng.standard_normal((2, 5, 4, 1))
    mask = rng.integers(0, 2, logits.shape).astype(float)
    p = 1 / (1 + np.exp(-logits))
    expected = np.mean(-mask * np.log(p) - (1 - mask) * np.log(1 - p))
    assert float(binary_crossentropy(mask, logits)) == pytest.approx(expected, rel=1e-12)


def test_a_wrong_saturated_pixel_still_has_a_gradient() -> None:
    logits = tf.constant([[[[200.0]]]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = binary_crossentropy(tf.zeros_like(logits), logits)
    assert tape.gradient(loss, logits).numpy().item() == pytest.approx(1.0)


def test_soft_dice_is_its_closed_form(rng: np.random.Generator) -> None:
    logits = rng.standard_normal((3, 4, 4, 1))
    mask = rng.integers(0, 2, logits.shape).astype(float)
    p = 1 / (1 + np.exp(-logits))
    expected = 1 - (2 * np.sum(p * mask) + 1) / (np.sum(p) + np.sum(mask) + 1)
    assert float(soft_dice(mask, logits)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("truth", "logit", "expected"), [(1.0, 100.0, 0.0), (0.0, -100.0, 0.0), (1.0, -100.0, 1 - 1 / 17)]
)
def test_soft_dice_at_its_ends(truth: float, logit: float, expected: float) -> None:
    mask, logits = tf.fill((1, 4, 4, 1), truth), tf.fill((1, 4, 4, 1), logit)
    assert float(soft_dice(mask, logits)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("loss", [binary_crossentropy, soft_dice])
def test_gradient_agrees_with_central_differences(rng: np.random.Generator, loss) -> None:
    logits = rng.standard_normal((2, 3, 3, 1))
    mask = rng.integers(0, 2, logits.shape).astype(float)
    variable = tf.Variable(logits)
    with tf.GradientTape() as tape:
        value = loss(mask, variable)
    gradient = tape.gradient(value, variable).numpy()
    numeric = np.zeros_like(logits)
    h = 1e-5
    for index in np.ndindex(logits.shape):
        for sign in (1, -1):
            moved = logits.copy()
            moved[index] += sign * h
            numeric[index] += sign * float(loss(mask, moved)) / (2 * h)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-7, atol=1e-10)
