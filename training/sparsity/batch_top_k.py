"""The k·N largest latents of a batch of N examples are kept, wherever they are (BatchTopK).

Bussmann, Leask and Nanda, "BatchTopK Sparse Autoencoders", arXiv 2412.06410, equations 3 and 4: in training the
budget of k latents an example is a mean, so that an example with much to say may use more; in inference a fixed
threshold takes its place, which makes an example's latents independent of its batch.
"""

from __future__ import annotations

import tensorflow as tf

from training.sparsity.top_k import top_k


def batch_top_k(latents: tf.Tensor, k: int | tf.Tensor) -> tf.Tensor:
    """Keeps the ``k * N`` largest entries of the whole batch, by signed value; the rest becomes 0.

    The gradient passes unchanged through the kept entries and not at all through the selection. Among equal values
    the lower index of the flattened batch wins.

    Args:
        latents: float [N, D].
        k: entries kept of an example on average, 1..D.

    Returns:
        float [N, D] with at most ``k * N`` non-zero entries.
    """
    shape = tf.shape(latents)
    return tf.reshape(top_k(tf.reshape(latents, (1, -1)), k * shape[0]), shape)


def smallest_kept(latents: tf.Tensor) -> tf.Tensor:
    """The smallest positive entry of ``latents`` [N, D], infinite where there is none: float scalar.

    Its mean over many batches estimates the threshold of equation 4, ``θ = E[min {z : z > 0}]``.
    """
    return tf.reduce_min(tf.where(latents > 0, latents, latents.dtype.max))


def above(latents: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
    """``z · 1[z > θ]``: what a threshold leaves of ``latents`` [N, D]; ``threshold`` is a scalar or [D]."""
    return tf.where(latents > threshold, latents, tf.zeros_like(latents))
