from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from training.losses.segmentation import squared_error
from training.losses.weight_penalties import l1_penalty, l2_penalty

SHAPES = ((3, 3, 2, 4), (1, 1, 4, 1))


def test_penalties_are_their_closed_forms(rng: np.random.Generator) -> None:
    kernels = [rng.standard_normal(shape) for shape in SHAPES]
    flat = np.concatenate([kernel.ravel() for kernel in kernels])
    assert float(l1_penalty(kernels)) == pytest.approx(np.abs(flat).sum(), rel=1e-12)
    assert float(l2_penalty(kernels)) == pytest.approx(0.5 * flat @ flat, rel=1e-12)


def test_gradients_are_the_signs_and_the_weights(rng: np.random.Generator) -> None:
    kernels = [tf.Variable(rng.standard_normal(shape)) for shape in SHAPES]
    kernels[0][0, 0, 0, 0].assign(0.0)
    for penalty, slope in ((l1_penalty, np.sign), (l2_penalty, np.asarray)):
        with tf.GradientTape() as tape:
            value = penalty(kernels)
        for kernel, gradient in zip(kernels, tape.gradient(value, kernels), strict=True):
            np.testing.assert_array_equal(gradient, slope(kernel.numpy()))


def test_squared_error_is_its_closed_form(rng: np.random.Generator) -> None:
    logits = rng.standard_normal((2, 5, 4, 1))
    mask = rng.integers(0, 2, logits.shape).astype(float)
    expected = np.mean((1 / (1 + np.exp(-logits)) - mask) ** 2)
    assert float(squared_error(mask, logits)) == pytest.approx(expected, rel=1e-12)
