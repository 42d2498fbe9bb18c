"""Objectives for foreground probabilities, computed from logits.

The logits form is used throughout: a float32 sigmoid that rounds to exactly 0 or 1 has no gradient there, so that a
wrong saturated pixel would stop learning.
"""

from __future__ import annotations

import tensorflow as tf


def binary_crossentropy(mask: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Mean over all pixels of ``-t log p - (1 - t) log(1 - p)`` with ``p = sigmoid(logits)``.

    Args:
        mask: float [N, H, W, 1], truth t in 0..1.
        logits: float [N, H, W, 1].

    Returns:
        float scalar, >= 0, in nats.
    """
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=mask, logits=logits))


def squared_error(mask: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Mean over all pixels of ``(p - t)²`` with ``p = sigmoid(logits)``: the Brier score.

    Args:
        mask: float [N, H, W, 1], truth t in 0..1.
        logits: float [N, H, W, 1].

    Returns:
        float scalar in 0..1.
    """
    return tf.reduce_mean(tf.square(tf.sigmoid(logits) - mask))


def soft_dice(mask: tf.Tensor, logits: tf.Tensor, smoothing: float = 1.0) -> tf.Tensor:
    """One minus the soft Dice coefficient over the pixels of the whole batch.

    ``1 - (2 Σ p t + s) / (Σ p + Σ t + s)``; Milletari, Navab and Ahmadi, "V-Net", arXiv 1606.04797, with plain sums
    in the denominator. Summing over the batch keeps pictures with few pedestrians from dominating the gradient.

    Args:
        mask: float [N, H, W, 1], truth t in 0..1.
        logits: float [N, H, W, 1].
        smoothing: s > 0, in pixels; makes an empty batch well defined (0 when nothing is predicted).

    Returns:
        float scalar in 0..1.
    """
    probability = tf.sigmoid(logits)
    overlap = tf.reduce_sum(probability * mask)
    total = tf.reduce_sum(probability) + tf.reduce_sum(mask)
    return 1.0 - (2.0 * overlap + smoothing) / (total + smoothing)
