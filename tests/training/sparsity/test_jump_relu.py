from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from training.sparsity.jump_relu import jump_relu, rectangle, step

BANDWIDTH = 0.4


@pytest.fixture
def latents(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((50, 6))


@pytest.fixture
def threshold(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(0.2, 1.0, 6)


def gradients(operator, z: np.ndarray, theta: np.ndarray, weights: np.ndarray) -> list[np.ndarray]:
    latents, threshold = tf.constant(z), tf.constant(theta)
    with tf.GradientTape() as tape:
        tape.watch([latents, threshold])
        value = tf.reduce_sum(operator(latents, threshold, BANDWIDTH) * weights)
    return [gradient.numpy() for gradient in tape.gradient(value, [latents, threshold])]


def test_values_are_the_equations(latents: np.ndarray, threshold: np.ndarray) -> None:
    heaviside = (latents > threshold).astype(float)
    np.testing.assert_array_equal(jump_relu(latents, threshold, BANDWIDTH), latents * heaviside)
    np.testing.assert_array_equal(step(latents, threshold, BANDWIDTH), heaviside)


def test_pseudo_derivatives_are_the_equations(
    rng: np.random.Generator, latents: np.ndarray, threshold: np.ndarray
) -> None:
    """Equations 11 and 12 entry by entry, summed over examples for the threshold that they share."""
    weights = rng.standard_normal(latents.shape)
    to_jump, to_step = np.zeros(6), np.zeros(6)
    for (row, column), z in np.ndenumerate(latents):
        inside = abs((z - threshold[column]) / BANDWIDTH) < 0.5
        to_jump[column] -= weights[row, column] * threshold[column] / BANDWIDTH * inside
        to_step[column] -= weights[row, column] / BANDWIDTH * inside
    z_gradient, threshold_gradient = gradients(jump_relu, latents, threshold, weights)
    np.testing.assert_allclose(z_gradient, weights * (latents > threshold), rtol=1e-12)
    np.testing.assert_allclose(threshold_gradient, to_jump, rtol=1e-12)
    z_gradient, threshold_gradient = gradients(step, latents, threshold, weights)
    np.testing.assert_array_equal(z_gradient, np.zeros_like(latents))
    np.testing.assert_allclose(threshold_gradient, to_step, rtol=1e-12)


def test_the_estimate_is_the_derivative_of_the_expectation(rng: np.random.Generator) -> None:
    """For z ~ U(0, 2): E[H(z − θ)] = 1 − θ/2 and E[JumpReLU] = 1 − θ²/4, so the derivatives are −1/2 and −θ/2."""
    z, theta = rng.uniform(0, 2, (200_000, 1)), np.array([0.8])
    mean = np.full_like(z, 1 / len(z))
    assert gradients(step, z, theta, mean)[1] == pytest.approx(-0.5, abs=0.01)
    assert gradients(jump_relu, z, theta, mean)[1] == pytest.approx(-0.4, abs=0.01)


def test_the_kernel_has_area_one() -> None:
    u = np.linspace(-2, 2, 400_001)
    assert np.trapezoid(rectangle(tf.constant(u)).numpy(), u) == pytest.approx(1, abs=1e-4)
