from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from training.sparsity.top_k import top_k


def oracle(latents: np.ndarray, k: int) -> np.ndarray:
    """Row by row; a stable sort of the negated values puts the lower index first among equals."""
    kept = np.zeros_like(latents)
    for row, out in zip(latents, kept, strict=True):
        chosen = np.argsort(-row, kind="stable")[:k]
        out[chosen] = row[chosen]
    return kept


@pytest.mark.parametrize("k", [1, 3, 25, 40])
def test_support_and_values_are_those_of_a_stable_sort(rng: np.random.Generator, k: int) -> None:
    latents = rng.standard_normal((17, 40)).astype(np.float32)
    np.testing.assert_array_equal(top_k(latents, k), oracle(latents, k))


def test_ties_go_to_the_lower_index(rng: np.random.Generator) -> None:
    latents = rng.integers(-2, 3, (50, 30)).astype(np.float32)
    np.testing.assert_array_equal(top_k(latents, 7), oracle(latents, 7))


def test_the_largest_are_kept_by_sign_and_not_by_magnitude() -> None:
    np.testing.assert_array_equal(top_k(tf.constant([[-9.0, 1.0, 2.0]]), 2), [[0.0, 1.0, 2.0]])


def test_gradient_passes_through_the_kept_entries_alone(rng: np.random.Generator) -> None:
    latents = tf.constant(rng.standard_normal((5, 12)))
    weights = rng.standard_normal((5, 12))
    with tf.GradientTape() as tape:
        tape.watch(latents)
        value = tf.reduce_sum(top_k(latents, 4) * weights)
    np.testing.assert_array_equal(tape.gradient(value, latents), weights * (oracle(latents.numpy(), 4) != 0))


def test_k_may_be_a_tensor_that_changes_without_retracing() -> None:
    traces = []

    @tf.function
    def kept(k: tf.Tensor) -> tf.Tensor:
        traces.append(1)
        return tf.math.count_nonzero(top_k(tf.ones((2, 9)), k))

    assert [int(kept(tf.constant(k))) for k in (1, 5, 9)] == [2, 10, 18]
    assert len(traces) == 1
