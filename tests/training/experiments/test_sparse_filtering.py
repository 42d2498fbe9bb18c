from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.training.conftest import TINY
from training.datasets.digits import DigitData
from training.encoders.sparse_filtering import SparseFilteringEncoder
from training.experiments import EXPERIMENTS
from training.experiments.sparse_filtering import RIDGE, keep_norms_and_decoder, value_and_gradient
from training.runs import Run


def oracle(filters: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """C and the feature norms, feature by feature and example by example."""
    features = (images - images.mean(axis=1, keepdims=True)) @ filters
    active = np.sqrt(features**2 + 1e-8)
    norms = np.sqrt((active**2).sum(axis=0))
    balanced = active / norms
    return np.stack([row / np.linalg.norm(row) for row in balanced]), norms


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray:
    return rng.random((40, 12))


def test_objective_is_the_mean_row_sum_on_pictures_without_their_means(
    rng: np.random.Generator, images: np.ndarray
) -> None:
    filters = rng.standard_normal((12, 7))
    value, _ = value_and_gradient(tf.constant(filters), tf.constant(images))
    assert float(value) == pytest.approx(oracle(filters, images)[0].sum() / 40, rel=1e-12)
    brighter, _ = value_and_gradient(tf.constant(filters), tf.constant(images + rng.random((40, 1))))
    assert float(brighter) == pytest.approx(float(value), rel=1e-10)


def test_gradient_by_the_filters_agrees_with_central_differences(rng: np.random.Generator, images: np.ndarray) -> None:
    filters, h = rng.standard_normal((12, 7)), 1e-5
    _, gradient = value_and_gradient(tf.constant(filters), tf.constant(images))
    numeric = np.zeros_like(filters)
    for index in np.ndindex(filters.shape):
        for sign in (1, -1):
            moved = filters.copy()
            moved[index] += sign * h
            numeric[index] += sign * float(value_and_gradient(tf.constant(moved), tf.constant(images))[0]) / (2 * h)
    assert np.linalg.norm(gradient - numeric) < 1e-7 * np.linalg.norm(numeric)


def test_kept_norms_and_decoder_are_those_of_the_training_examples(images: np.ndarray) -> None:
    model = SparseFilteringEncoder(12, 7, seed=1)
    keep_norms_and_decoder(model, tf.constant(images))
    latents, norms = oracle(model.dictionary.numpy().astype(float), images)
    np.testing.assert_allclose(model.norms.numpy(), norms, rtol=1e-6)
    np.testing.assert_allclose(model.encode(images.astype(np.float32)), latents, atol=1e-5)
    # the ridge as extra rows of an ordinary least-squares problem, the bias as a column of ones
    strength = np.sqrt(RIDGE * 40 / 7)
    left = np.vstack([np.hstack([latents, np.ones((40, 1))]), np.hstack([strength * np.eye(7), np.zeros((7, 1))])])
    fitted = np.linalg.lstsq(left, np.vstack([images, np.zeros((7, 12))]), rcond=None)[0]
    np.testing.assert_allclose(model.decoder.numpy(), fitted[:-1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model.decoder_bias.numpy(), fitted[-1], rtol=1e-4, atol=1e-4)


def test_latents_of_an_example_do_not_depend_on_its_batch(images: np.ndarray) -> None:
    model = SparseFilteringEncoder(12, 7)
    pictures = images.astype(np.float32)
    keep_norms_and_decoder(model, tf.constant(pictures))
    np.testing.assert_allclose(model.encode(pictures[:1]), model.encode(pictures)[:1], atol=1e-6)


def test_training_lowers_the_objective_on_test_digits(tmp_path, digit_data: DigitData) -> None:
    settings = {**TINY["mnist_sparse_filtering"], "iterations": "30"}
    run = Run(EXPERIMENTS["mnist_sparse_filtering"].with_settings(settings), digit_data, tmp_path / "run")
    run.train()
    scores = run.experiment.extra_scores(run.model(), digit_data)
    assert 1.0 <= scores["objective"] < 0.9 * scores["control_untrained_objective"]
