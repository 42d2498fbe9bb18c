"""Dictionary columns of length 1, without which latents could become small for free by letting their columns grow.

Gao et al., "Scaling and evaluating sparse autoencoders", arXiv 2406.04093, appendix A.1: the columns are brought back
to length 1 after each step, and the part of the gradient along a column is removed before it, since the former would
undo it while it distorts Adam's moments.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf


def tangent(rows: tf.Tensor) -> tf.Tensor:
    """``rows`` [D, V] unchanged; their gradient loses the part parallel to each row, ``g − w ⟨g, w⟩ / ⟨w, w⟩``."""

    def operator(w: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            along = tf.reduce_sum(upstream * w, axis=1, keepdims=True)
            return upstream - w * along / tf.reduce_sum(tf.square(w), axis=1, keepdims=True)

        return tf.identity(w), gradient

    return tf.custom_gradient(operator)(rows)
