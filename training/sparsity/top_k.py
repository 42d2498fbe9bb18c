"""The k largest latents of each example are kept (k-sparse auto-encoders; TopK sparse auto-encoders).

Makhzani and Frey, "k-Sparse Autoencoders", arXiv 1312.5663, section 2.1: Γ = supp_k(z), z outside Γ set to 0.
"""

from __future__ import annotations

import tensorflow as tf


def top_k(latents: tf.Tensor, k: int | tf.Tensor) -> tf.Tensor:
    """Keeps the ``k`` largest entries of each row, by signed value and not by magnitude; the rest becomes 0.

    The gradient passes unchanged through the kept entries and not at all through the selection. Among equal
    values the lower index wins, so a row never keeps more than ``k``.

    Args:
        latents: float [N, D].
        k: how many entries to keep, 1..D; an int32 scalar tensor where it changes during training.

    Returns:
        float [N, D] with at most ``k`` non-zero entries a row.
    """
    values, columns = tf.math.top_k(latents, k, sorted=False)
    shape = tf.shape(latents)
    rows = tf.broadcast_to(tf.range(shape[0])[:, tf.newaxis], tf.shape(columns))
    return tf.scatter_nd(tf.stack([rows, columns], axis=-1), values, shape)


def smallest_top_k(latents: tf.Tensor, k: int | tf.Tensor) -> tf.Tensor:
    """Keeps what reaches the smallest of all the rows' k-th largest values, as the program of the source does.

    One threshold serves the whole batch, so every row but one keeps more than ``k``: at k = 25 of 100 latents some 43
    on average. For comparison with that program alone; no graph with such a batch dependence is exported.

    Args:
        latents: float [N, D].
        k: 1..D.

    Returns:
        float [N, D].
    """
    threshold = tf.reduce_min(tf.math.top_k(latents, k).values)
    return tf.where(latents >= threshold, latents, tf.zeros_like(latents))
