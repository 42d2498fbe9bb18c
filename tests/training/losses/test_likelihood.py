from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from scipy import integrate, stats

from training.losses.likelihood import bernoulli_crossentropy, gaussian_kl, softmax_crossentropy


def test_crossentropy_is_its_closed_form_summed_over_values(rng: np.random.Generator) -> None:
    logits, x = rng.standard_normal((6, 11)) * 3, rng.random((6, 11))
    p = 1 / (1 + np.exp(-logits))
    expected = np.mean(np.sum(-x * np.log(p) - (1 - x) * np.log(1 - p), axis=1))
    assert float(bernoulli_crossentropy(x, logits)) == pytest.approx(expected, rel=1e-12)


def test_least_crossentropy_of_grey_values_is_their_entropy(rng: np.random.Generator) -> None:
    x = rng.uniform(0.05, 0.95, (4, 9))
    best = float(bernoulli_crossentropy(x, np.log(x / (1 - x))))
    assert best == pytest.approx(np.mean(np.sum(stats.bernoulli(x).entropy(), axis=1)), rel=1e-12)
    for _ in range(10):
        assert float(bernoulli_crossentropy(x, np.log(x / (1 - x)) + 0.1 * rng.standard_normal(x.shape))) > best


def test_a_wrong_saturated_pixel_still_has_a_gradient() -> None:
    logits = tf.constant([[200.0]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = bernoulli_crossentropy(tf.zeros_like(logits), logits)
    assert tape.gradient(loss, logits).numpy().item() == pytest.approx(1.0)


@pytest.mark.parametrize(("mean", "log_variance"), [(0.0, 0.0), (1.5, -1.0), (-0.3, 0.7), (2.0, -3.0)])
def test_kl_is_the_integral_it_stands_for(mean: float, log_variance: float) -> None:
    posterior, prior = stats.norm(mean, np.exp(0.5 * log_variance)), stats.norm()
    expected, _ = integrate.quad(
        lambda z: posterior.pdf(z) * (posterior.logpdf(z) - prior.logpdf(z)), mean - 12, mean + 12, epsabs=1e-12
    )
    value = float(gaussian_kl(tf.constant([[mean]], tf.float64), tf.constant([[log_variance]], tf.float64)))
    assert value == pytest.approx(expected, abs=1e-9)


def test_kl_is_what_monte_carlo_finds(rng: np.random.Generator) -> None:
    mean, log_variance = rng.standard_normal((1, 3)), rng.standard_normal((1, 3))
    z = mean + np.exp(0.5 * log_variance) * rng.standard_normal((400_000, 3))
    ratio = stats.norm(mean, np.exp(0.5 * log_variance)).logpdf(z) - stats.norm().logpdf(z)
    drawn = ratio.sum(axis=1)
    error = 5 * drawn.std() / np.sqrt(len(drawn))
    assert float(gaussian_kl(mean, log_variance)) == pytest.approx(drawn.mean(), abs=error)


def test_kl_is_summed_over_latents_averaged_over_examples_and_zero_at_the_prior(rng: np.random.Generator) -> None:
    mean, log_variance = rng.standard_normal((5, 4)), rng.standard_normal((5, 4))
    single = [float(gaussian_kl(mean[[i]][:, [j]], log_variance[[i]][:, [j]])) for i in range(5) for j in range(4)]
    assert float(gaussian_kl(mean, log_variance)) == pytest.approx(sum(single) / 5, rel=1e-12)
    assert float(gaussian_kl(np.zeros((2, 3)), np.zeros((2, 3)))) == 0.0


def test_softmax_crossentropy_is_its_closed_form(rng: np.random.Generator) -> None:
    logits, labels = rng.standard_normal((7, 10)), rng.integers(0, 10, 7)
    expected = np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(7), labels])
    assert float(softmax_crossentropy(labels, logits)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "loss",
    [
        lambda variable, rng: bernoulli_crossentropy(rng.random((3, 5)), variable),
        lambda variable, rng: gaussian_kl(variable, tf.constant(rng.standard_normal((3, 5)))),
        lambda variable, rng: gaussian_kl(tf.constant(rng.standard_normal((3, 5))), variable),
        lambda variable, rng: softmax_crossentropy(rng.integers(0, 5, 3), variable),
    ],
)
def test_gradient_agrees_with_central_differences(rng: np.random.Generator, loss) -> None:
    start = rng.standard_normal((3, 5))
    variable = tf.Variable(start)
    with tf.GradientTape() as tape:
        value = loss(variable, np.random.default_rng(1))
    gradient = tape.gradient(value, variable).numpy()
    numeric, h = np.zeros_like(start), 1e-5
    for index in np.ndindex(start.shape):
        for sign in (1, -1):
            moved = start.copy()
            moved[index] += sign * h
            numeric[index] += sign * float(loss(tf.constant(moved), np.random.default_rng(1))) / (2 * h)
    assert np.linalg.norm(gradient - numeric) < 1e-7 * np.linalg.norm(numeric)
