"""Learning rates that change with the step."""

from __future__ import annotations

import keras
import tensorflow as tf


def warm_cosine(rate: float, steps: int) -> keras.optimizers.schedules.CosineDecay:
    """A rise from a twentieth of ``rate`` over a twentieth of ``steps``, then half a cosine down to nearly 0.

    Args:
        rate: at the top.
        steps: of the half cosine; the last twentieth of it lies beyond a training of so many steps.
    """
    return keras.optimizers.schedules.CosineDecay(rate / 20, steps, warmup_target=rate, warmup_steps=steps // 20)


@keras.saving.register_keras_serializable("sparsewalk")
class RestartedCosine(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]  # untyped there
    """Two of :func:`warm_cosine`, one after the other.

    Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", arXiv 1608.03983, with one restart.

    Args:
        first: rate at the top of the first one.
        first_steps: its steps, at least 1.
        second: rate at the top of the second one.
        second_steps: its steps; 0 for none.
    """

    def __init__(self, first: float, first_steps: int, second: float, second_steps: int) -> None:
        self.first, self.first_steps, self.second, self.second_steps = first, first_steps, second, second_steps
        self._one = warm_cosine(first, first_steps)
        self._other = warm_cosine(second, second_steps) if second_steps else None

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """The rate of ``step``, from 0."""
        step = tf.cast(step, tf.float32)
        if self._other is None:
            return self._one(step)
        return tf.where(step < self.first_steps, self._one(step), self._other(tf.nn.relu(step - self.first_steps)))

    def get_config(self) -> dict[str, float]:
        """The constructor's arguments."""
        return {
            "first": self.first,
            "first_steps": self.first_steps,
            "second": self.second,
            "second_steps": self.second_steps,
        }
