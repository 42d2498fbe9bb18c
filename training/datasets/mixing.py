"""Batches in which pictures are mixed with each other."""

import tensorflow as tf


def mixed(batches: tf.data.Dataset, probability: float, *, seed: int, epoch: int) -> tf.data.Dataset:
    """Mixes pictures of a batch with those of the same batch in reverse order, and so their masks.

    Zhang et al., "mixup: Beyond Empirical Risk Minimization", arXiv 1710.09412, with shares drawn uniformly. What is
    drawn depends on (seed, epoch) and the batch's number alone.

    Args:
        batches: of (picture uint8 [B, H, W, 3], mask float32 [B, H, W, 1]).
        probability: of each picture to be mixed, 0..1.
        seed: of the run, at least 0.
        epoch: at least 0.

    Returns:
        The same with pictures ``share * own + (1 - share) * other``, rounded, and masks in 0..1.
    """
    of_epoch = tf.random.fold_in(tf.constant([seed, 0], tf.int64), epoch)

    def mix(number: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        picture, mask = batch
        draws = tf.random.stateless_uniform([2, tf.shape(picture)[0], 1, 1, 1], tf.random.fold_in(of_epoch, number))
        share = tf.where(draws[0] < probability, draws[1], 1.0)
        blended = share * tf.cast(picture, tf.float32) + (1.0 - share) * tf.cast(picture[::-1], tf.float32)
        return tf.cast(tf.round(blended), tf.uint8), share * mask + (1.0 - share) * mask[::-1]

    return batches.enumerate().map(mix, num_parallel_calls=tf.data.AUTOTUNE)
