"""The L1 penalty on latents (not on weights)."""

from __future__ import annotations

import tensorflow as tf


def l1_activity(latents: tf.Tensor) -> tf.Tensor:
    """Mean over the batch of ``Σ_j |a_j|``, the sum over the latents of one example.

    Keras' ``activity_regularizer`` sums over the batch and divides by its size in some releases and not in others;
    this one states its own reduction.

    Args:
        latents: float [N, D].

    Returns:
        float scalar, >= 0.
    """
    return tf.reduce_mean(tf.reduce_sum(tf.abs(latents), axis=-1))
