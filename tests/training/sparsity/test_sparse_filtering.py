from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from training.sparsity.sparse_filtering import (
    PROGRAM_EPSILON,
    activated,
    feature_norms,
    negative_share,
    normalised,
    sparse_filtering,
    sparse_filtering_with_gradient,
)

ACTIVATIONS = ("soft_absolute", "elu_abs", "elu_signed")
REDUCTIONS = ("examples", "entries")


def oracle(features: np.ndarray, activation: str, epsilon: float, reduction: str) -> float:
    """Example by example and feature by feature, as the paper words it."""
    elu = np.where(features > 0, features, np.expm1(np.minimum(features, 0)))
    active = {
        "soft_absolute": np.sqrt(features**2 + epsilon),
        "elu_abs": np.sqrt(elu**2 + epsilon),
        "elu_signed": elu,
    }[activation]
    count, size = features.shape
    for feature in range(size):
        active[:, feature] = active[:, feature] / np.linalg.norm(active[:, feature])
    total = sum(float(np.sum(row / np.linalg.norm(row))) for row in active)
    return total / (count if reduction == "examples" else count * size)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("epsilon", [1e-8, PROGRAM_EPSILON])
def test_objective_is_the_papers_words(
    rng: np.random.Generator, activation: str, reduction: str, epsilon: float
) -> None:
    features = rng.standard_normal((13, 7))
    value = float(sparse_filtering(tf.constant(features), activation, epsilon, reduction))
    assert value == pytest.approx(oracle(features, activation, epsilon, reduction), rel=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_hand_derived_gradient_is_that_of_the_tape(rng: np.random.Generator, activation: str, reduction: str) -> None:
    features = tf.constant(rng.standard_normal((40, 9)))
    with tf.GradientTape() as tape:
        tape.watch(features)
        value = sparse_filtering(features, activation, reduction=reduction)
    by_hand, gradient = sparse_filtering_with_gradient(features, activation, reduction=reduction)
    assert float(by_hand) == pytest.approx(float(value), rel=1e-14)
    np.testing.assert_allclose(gradient, tape.gradient(value, features), rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_hand_derived_gradient_agrees_with_central_differences(rng: np.random.Generator, activation: str) -> None:
    # away from 0: within √ε of it the soft absolute bends on the scale of the step itself
    features = rng.choice([-1, 1], (8, 5)) * rng.uniform(0.2, 2.0, (8, 5))
    _, gradient = sparse_filtering_with_gradient(tf.constant(features), activation)
    numeric, h = np.zeros_like(features), 1e-5
    for index in np.ndindex(features.shape):
        for sign in (1, -1):
            moved = features.copy()
            moved[index] += sign * h
            numeric[index] += sign * float(sparse_filtering(tf.constant(moved), activation)) / (2 * h)
    assert np.linalg.norm(gradient - numeric) < 1e-7 * np.linalg.norm(numeric)


@pytest.mark.parametrize("activation", ["soft_absolute", "elu_abs"])
def test_objective_lies_between_one_and_the_root_of_the_features(rng: np.random.Generator, activation: str) -> None:
    for _ in range(20):
        features = tf.constant(rng.standard_normal((30, 9)) * rng.lognormal(size=9))
        assert 1.0 <= float(sparse_filtering(features, activation)) <= 3.0


def test_bounds_are_reached() -> None:
    alone, equal = tf.eye(9, dtype=tf.float64), tf.ones((5, 9), tf.float64)
    assert float(sparse_filtering(alone, epsilon=PROGRAM_EPSILON)) == pytest.approx(1.0)
    assert float(sparse_filtering(equal)) == pytest.approx(3.0)
    assert float(sparse_filtering(equal, reduction="entries")) == pytest.approx(1 / 3)
    assert float(sparse_filtering(-equal, "elu_signed")) == pytest.approx(-3.0)


def test_scaling_a_feature_changes_nothing(rng: np.random.Generator) -> None:
    features = rng.standard_normal((30, 9))
    scaled = features * rng.uniform(0.5, 20, 9)
    one, other = (float(sparse_filtering(tf.constant(F), epsilon=PROGRAM_EPSILON)) for F in (features, scaled))
    assert one == pytest.approx(other, rel=1e-12)
    one, other = (float(sparse_filtering(tf.constant(F))) for F in (features, scaled))
    assert one == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_feature_has_norm_one_over_the_training_examples(rng: np.random.Generator, activation: str) -> None:
    features = tf.constant(rng.standard_normal((30, 9)))
    norms = feature_norms(features, activation)
    assert norms.shape == (9,)
    balanced = activated(features, activation) / norms
    np.testing.assert_allclose(np.linalg.norm(balanced, axis=0), 1.0, rtol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_with_kept_norms_an_example_does_not_depend_on_the_others(rng: np.random.Generator, activation: str) -> None:
    features = tf.constant(rng.standard_normal((30, 9)))
    norms = feature_norms(features, activation)
    whole = normalised(features, norms, activation)
    np.testing.assert_allclose(whole, normalised(features, None, activation), rtol=1e-12)
    np.testing.assert_allclose(whole[3:4], normalised(features[3:4], norms, activation), rtol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1.0, rtol=1e-12)


def test_silent_features_leave_value_and_gradient_finite() -> None:
    features = tf.zeros((6, 4))
    for activation in ACTIVATIONS:
        value, gradient = sparse_filtering_with_gradient(features, activation)
        assert np.isfinite(value)
        assert np.all(np.isfinite(gradient))


def test_only_signed_elu_has_negative_entries() -> None:
    features = tf.constant([[-1.0, 2.0], [-3.0, -4.0]])
    assert [float(negative_share(features, activation)) for activation in ACTIVATIONS] == [0.0, 0.0, 0.75]


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"soft_absolute, elu_abs or elu_signed\. Received: 'relu'"):
        sparse_filtering(tf.ones((2, 2)), "relu")
    with pytest.raises(ValueError, match=r"examples or entries\. Received: 'sum'"):
        sparse_filtering(tf.ones((2, 2)), reduction="sum")
