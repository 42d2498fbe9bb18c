"""Noise that is a function of its seed alone, so that a run that was cut and resumed sees the same noise again."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

EVALUATION = (20, 8)
"""Seed of the noise in every evaluation: scores of different runs share it."""


def step_seed(seed: int, epoch: int, step: int) -> tf.Tensor:
    """The seed, int32 [2], of one training step.

    Args:
        seed: of the run.
        epoch: from 0.
        step: of the epoch, from 0.
    """
    return tf.random.fold_in(tf.constant((seed, epoch), tf.int32), step)


def kept_values(
    shape: Sequence[int], keep: float, seed: tf.Tensor | Sequence[int], *, rescale: bool = False
) -> tf.Tensor:
    """Masking noise: factors that are 1 with probability ``keep`` and otherwise 0, each drawn on its own.

    Args:
        shape: of the result.
        keep: in 0..1; Vincent et al. (ICML 2008) state the other share, ν = 1 - keep.
        seed: of :func:`step_seed`, or two integers.
        rescale: give ``1 / keep`` instead of 1, so that the mean of what is masked stays as it was.

    Returns:
        float32 of that shape.
    """
    kept = tf.cast(tf.random.stateless_uniform(shape, seed) < keep, tf.float32)
    return kept / keep if rescale else kept


def standard_normal(shape: Sequence[int], seed: tf.Tensor | Sequence[int]) -> tf.Tensor:
    """Draws from N(0, 1).

    Args:
        shape: of the result.
        seed: of :func:`step_seed`, or two integers.

    Returns:
        float32 of that shape.
    """
    return tf.random.stateless_normal(shape, seed)
