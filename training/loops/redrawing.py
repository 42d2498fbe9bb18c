"""Weights that are drawn again when training does not leave the plateau it starts on."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf


def constant_loss(mask: tf.Tensor) -> tf.Tensor:
    """The least cross-entropy plus squared error of an answer that is the same for every pixel: float scalar.

    That answer is the share of foreground, p, and its loss ``-p log p - (1 - p) log(1 - p) + p (1 - p)``.

    Args:
        mask: float, 0 or 1, with some of both.
    """
    share = tf.reduce_mean(mask)
    return -share * tf.math.log(share) - (1 - share) * tf.math.log(1 - share) + share * (1 - share)


def redraw(parts: Sequence[keras.Model], fresh: Sequence[keras.Model], optimizer: keras.optimizers.Optimizer) -> None:
    """Gives each of ``parts`` the weights of its fresh twin, and has ``optimizer`` start at its first step again."""
    for part, twin in zip(parts, fresh, strict=True):
        part.set_weights(twin.get_weights())
    rate = float(optimizer.learning_rate)
    for variable in optimizer.variables:
        variable.assign(tf.zeros_like(variable.value))
    optimizer.learning_rate = rate
