from __future__ import annotations

import numpy as np
import tensorflow as tf

from training.sparsity.unit_norm import tangent


def test_the_gradient_has_no_part_along_a_row_and_is_unchanged_across_it(rng: np.random.Generator) -> None:
    rows, upstream = tf.constant(rng.standard_normal((6, 9))), rng.standard_normal((6, 9))
    with tf.GradientTape() as tape:
        tape.watch(rows)
        value = tf.reduce_sum(tangent(rows) * upstream)
    gradient = tape.gradient(value, rows).numpy()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(np.sum(gradient * unit, axis=1), 0, atol=1e-12)
    across = np.eye(9) - unit.numpy()[:, :, None] * unit.numpy()[:, None, :]
    np.testing.assert_allclose(gradient, np.einsum("dij,dj->di", across, upstream), atol=1e-12)


def test_values_pass_unchanged(rng: np.random.Generator) -> None:
    rows = rng.standard_normal((4, 5))
    np.testing.assert_array_equal(tangent(tf.constant(rows)), rows)
