"""Objectives of sparse auto-encoders beside the plain reconstruction error.

Gao et al., "Scaling and evaluating sparse autoencoders", arXiv 2406.04093, appendix A.2 (auxiliary loss).
"""

from __future__ import annotations

import tensorflow as tf

from training.sparsity.top_k import top_k


def unexplained(inputs: tf.Tensor, reconstruction: tf.Tensor) -> tf.Tensor:
    """``Σ‖x − x̂‖² / Σ‖x − x̄‖²`` over a batch with x̄ its mean: 0 when all is explained, 1 for the mean.

    The denominator has no gradient, so that a target which is itself computed is not moved by it.

    Args:
        inputs: float [N, V].
        reconstruction: float [N, V].

    Returns:
        float scalar, >= 0; 0 where all inputs are equal.
    """
    spread = tf.reduce_sum(tf.square(inputs - tf.reduce_mean(inputs, axis=0)))
    return tf.math.divide_no_nan(tf.reduce_sum(tf.square(inputs - reconstruction)), tf.stop_gradient(spread))


def dead_latents(preactivations: tf.Tensor, dead: tf.Tensor, k: int) -> tf.Tensor:
    """The ``k`` largest positive preactivations among the dead latents of each example; all else is 0.

    Decoded, they are asked to explain what the living latents left over (AuxK), which gives latents that never fire a
    gradient again.

    Args:
        preactivations: float [N, D].
        dead: bool [D].
        k: 1..D.

    Returns:
        float [N, D], >= 0.
    """
    # zeros and not minus infinity: the rectifier lets nothing below zero through anyhow
    return tf.nn.relu(top_k(tf.where(dead, preactivations, tf.zeros_like(preactivations)), k))


def target_l0(active: tf.Tensor, target: float) -> tf.Tensor:
    """``(L0 / target − 1)²``, float scalar: 0 where ``active`` latents an example are just as many as asked for."""
    return tf.square(active / target - 1.0)
