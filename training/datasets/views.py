"""Other views of a batch of pictures: smaller, larger, mirrored."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf


def answer_to_a_view(
    answer: Callable[[tf.Tensor], tf.Tensor], pictures: tf.Tensor, sizes: Sequence[tuple[int, int]], *, seed: int
) -> tf.Tensor:
    """Shows pictures in a size that is drawn, mirrored half of the time, and brings the answer back.

    On the average over many drawings this is the answer of Radosavovic et al., "Data Distillation: Towards
    Omni-Supervised Learning", arXiv 1712.04440, to several views, at the price of one. What is drawn depends on the
    seed and the pictures alone, so that a training that is resumed sees what it would have seen.

    Args:
        answer: from uint8 [B, h, w, 3] to float32 [B, h, w, 1], for each of ``sizes``.
        pictures: uint8 [B, H, W, 3].
        sizes: heights and widths (h, w) to draw from, each as probable as the others.
        seed: of what is drawn.

    Returns:
        float32 [B, H, W, 1].
    """
    key = tf.stack([tf.constant(seed, tf.int64), tf.reduce_sum(tf.cast(pictures, tf.int64))])
    draws = tf.random.stateless_uniform([2], key)
    size = tf.gather(tf.constant(sizes), tf.cast(draws[0] * len(sizes), tf.int32))
    mirrored = draws[1] < 0.5
    resized = tf.image.resize(tf.where(mirrored, pictures[:, :, ::-1], pictures), size, antialias=True)
    # Bilinear, so weighted means: they stay in 0..255.
    view = tf.cast(tf.round(resized), tf.uint8)
    restored = tf.image.resize(answer(view), tf.shape(pictures)[1:3], antialias=True)
    return tf.where(mirrored, restored[:, :, ::-1], restored)
