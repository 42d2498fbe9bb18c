from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from training.sparsity.top_k import smallest_top_k, top_k, top_k_by_bisection, top_k_margin


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


def test_margin_is_the_gap_to_the_first_that_is_not_kept() -> None:
    latents = tf.constant([[5.0, 1.0, 3.0, 2.5], [0.0, -1.0, -1.0, 4.0]])
    np.testing.assert_array_equal(top_k_margin(latents, 2), [0.5, 1.0])
    np.testing.assert_array_equal(top_k_margin(latents, 3), [1.5, 0.0])
    np.testing.assert_array_equal(top_k_margin(latents, tf.constant(4)), [np.inf, np.inf])


def test_a_change_below_half_the_margin_keeps_the_selection(rng: np.random.Generator) -> None:
    latents = rng.standard_normal((40, 30)).astype(np.float32)
    margin = top_k_margin(latents, 6).numpy()[:, None]
    changed = latents + 0.49 * margin * rng.uniform(-1, 1, latents.shape).astype(np.float32)
    np.testing.assert_array_equal(top_k(changed, 6).numpy() != 0, top_k(latents, 6).numpy() != 0)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [1, 7, 30])
def test_bisection_keeps_what_top_k_keeps(rng: np.random.Generator, jit: bool, dtype: type, k: int) -> None:
    select = tf.function(top_k_by_bisection, jit_compile=jit)
    smooth = rng.standard_normal((40, 30)).astype(dtype)
    tied = rng.integers(-2, 3, (40, 30)).astype(dtype) * dtype(0.5)
    tied[0] = 0
    tied[1, ::2] = -0.0
    tied[2] = -1e-40 if dtype is np.float32 else -1e-310
    huge = smooth * dtype(1e30)
    for latents in (smooth, tied, huge, -np.abs(smooth)):
        np.testing.assert_array_equal(select(tf.constant(latents), tf.constant(k)), oracle(latents, k))


def test_bisection_has_the_gradient_of_top_k(rng: np.random.Generator) -> None:
    latents = tf.constant(rng.standard_normal((5, 12)))
    gradients = []
    for select in (top_k, top_k_by_bisection):
        with tf.GradientTape() as tape:
            tape.watch(latents)
            value = tf.reduce_sum(tf.square(select(latents, 4)))
        gradients.append(tape.gradient(value, latents))
    np.testing.assert_array_equal(*gradients)


def test_one_threshold_for_the_batch_keeps_more(rng: np.random.Generator) -> None:
    latents = rng.standard_normal((20, 30)).astype(np.float32)
    cut = np.sort(latents, axis=1)[:, -5].min()
    np.testing.assert_array_equal(smallest_top_k(latents, 5), np.where(latents >= cut, latents, 0))
