"""Penalties on the weights themselves, not on activities.

Which weights is the caller's choice: the source's segmentation nets penalise the kernels of all convolutions and leave
out the bottleneck and the pooling scalars.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def l1_penalty(kernels: Sequence[tf.Tensor]) -> tf.Tensor:
    """``Σ |w|`` over all entries of all kernels: float scalar, >= 0. The gradient at 0 is 0.

    Args:
        kernels: float tensors of any shape, at least one.
    """
    return tf.add_n([tf.reduce_sum(tf.abs(kernel)) for kernel in kernels])


def l2_penalty(kernels: Sequence[tf.Tensor]) -> tf.Tensor:
    """``½ Σ w²`` over all entries of all kernels: float scalar, >= 0; its gradient is w.

    Args:
        kernels: float tensors of any shape, at least one.
    """
    return 0.5 * tf.add_n([tf.reduce_sum(tf.square(kernel)) for kernel in kernels])
