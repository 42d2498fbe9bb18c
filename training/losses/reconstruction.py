"""How far a reconstruction is from its input."""

from __future__ import annotations

import tensorflow as tf


def squared_error(inputs: tf.Tensor, reconstruction: tf.Tensor) -> tf.Tensor:
    """Mean over the batch of ``‖x − x̂‖²``, the sum of squares over the values of one example.

    Args:
        inputs: float [N, V].
        reconstruction: float [N, V].

    Returns:
        float scalar, >= 0.
    """
    return tf.reduce_mean(tf.reduce_sum(tf.square(inputs - reconstruction), axis=-1))
