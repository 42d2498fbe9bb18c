from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from training.sparsity.batch_top_k import above, batch_top_k, smallest_kept


def oracle(latents: np.ndarray, k: int) -> np.ndarray:
    """One stable sort of the flattened batch."""
    flat = latents.ravel()
    kept = np.zeros_like(flat)
    chosen = np.argsort(-flat, kind="stable")[: k * len(latents)]
    kept[chosen] = flat[chosen]
    return kept.reshape(latents.shape)


@pytest.mark.parametrize("k", [1, 3, 25, 40])
def test_support_and_values_are_those_of_one_sort_of_the_batch(rng: np.random.Generator, k: int) -> None:
    latents = rng.standard_normal((17, 40)).astype(np.float32)
    np.testing.assert_array_equal(batch_top_k(latents, k), oracle(latents, k))


def test_an_example_with_much_to_say_uses_the_budget_of_the_others() -> None:
    latents = tf.constant([[9.0, 8.0, 7.0, 6.0], [1.0, 2.0, 3.0, 4.0]])
    np.testing.assert_array_equal(batch_top_k(latents, 2), [[9.0, 8.0, 7.0, 6.0], [0.0, 0.0, 0.0, 0.0]])


def test_one_example_alone_is_plain_top_k(rng: np.random.Generator) -> None:
    latents = rng.standard_normal((1, 30)).astype(np.float32)
    assert np.count_nonzero(batch_top_k(latents, 7)) == 7


def test_gradient_passes_through_the_kept_entries_alone(rng: np.random.Generator) -> None:
    latents = tf.constant(rng.standard_normal((5, 12)))
    weights = rng.standard_normal((5, 12))
    with tf.GradientTape() as tape:
        tape.watch(latents)
        value = tf.reduce_sum(batch_top_k(latents, 4) * weights)
    np.testing.assert_array_equal(tape.gradient(value, latents), weights * (oracle(latents.numpy(), 4) != 0))


def test_the_batch_size_may_change_without_retracing() -> None:
    traces = []

    @tf.function(input_signature=[tf.TensorSpec((None, 9))])
    def kept(latents: tf.Tensor) -> tf.Tensor:
        traces.append(1)
        return tf.math.count_nonzero(batch_top_k(latents, 2))

    assert [int(kept(tf.ones((size, 9)))) for size in (1, 4, 7)] == [2, 8, 14]
    assert len(traces) == 1


def test_smallest_kept_looks_at_positive_entries_alone() -> None:
    assert float(smallest_kept(tf.constant([[0.0, 3.0], [-1.0, 0.25]]))) == 0.25
    assert float(smallest_kept(tf.zeros((2, 2)))) == np.finfo(np.float32).max


def test_a_threshold_keeps_what_is_strictly_above_it() -> None:
    latents = tf.constant([[0.5, 1.0, 1.5], [-2.0, 3.0, 0.75]])
    np.testing.assert_array_equal(above(latents, tf.constant(1.0)), [[0, 0, 1.5], [0, 3, 0]])
    np.testing.assert_array_equal(above(latents, tf.constant([0.0, 3.0, 0.5])), [[0.5, 0, 1.5], [0, 0, 0.75]])
