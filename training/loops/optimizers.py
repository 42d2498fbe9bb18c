"""Adam in one pass over memory, and Adam as the source's program has it."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


class FusedAdam(keras.optimizers.Adam):
    """Keras' Adam (Kingma and Ba, arXiv 1412.6980), each variable updated by one kernel.

    Keras writes the update as ten operations, each of which reads and writes the whole variable: for the dictionary of
    the k-sparse auto-encoder this costs more than one of its matrix products. The arithmetic is the same.
    """

    def update_step(self, gradient: tf.Tensor, variable: Any, learning_rate: tf.Tensor) -> None:
        """``m ← β₁m + (1−β₁)g``, ``v ← β₂v + (1−β₂)g²``, ``w ← w − α√(1−β₂ᵗ)/(1−β₁ᵗ) · m/(√v + ε)``."""
        index = self._get_variable_index(variable)
        dtype = variable.dtype
        step = tf.cast(self.iterations + 1, dtype)
        beta_1, beta_2 = tf.constant(self.beta_1, dtype), tf.constant(self.beta_2, dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=_handle(variable),
            m=_handle(self._momentums[index]),
            v=_handle(self._velocities[index]),
            beta1_power=tf.pow(beta_1, step),
            beta2_power=tf.pow(beta_2, step),
            lr=tf.cast(learning_rate, dtype),
            beta1=beta_1,
            beta2=beta_2,
            epsilon=tf.constant(self.epsilon, dtype),
            grad=tf.cast(gradient, dtype),
        )


class ProgramAdam(keras.optimizers.Adam):
    """Adam as the program of the source has it: its bias correction does not fade.

    It divides by ``1 − β`` where Adam divides by ``1 − βᵗ``, which makes the step some ``10 / √1000 ≈ 0.316`` times as
    long in the long run, and optionally takes ``λ w`` off the weights beside the step, not multiplied by the rate.

    Args:
        learning_rate: α.
        decoupled_decay: λ of the decay beside the step; 0 for none.
        options: as of Keras' Adam.
    """

    def __init__(self, learning_rate: float, *, decoupled_decay: float = 0.0, **options: Any) -> None:
        super().__init__(learning_rate, epsilon=1e-8, **options)
        self.decoupled_decay = decoupled_decay

    def update_step(self, gradient: tf.Tensor, variable: Any, learning_rate: tf.Tensor) -> None:
        """``w ← w − α · m/(1−β₁) / (√(v/(1−β₂)) + ε) − λ w``."""
        index = self._get_variable_index(variable)
        m, v = self._momentums[index], self._velocities[index]
        gradient = tf.cast(gradient, variable.dtype)
        m.assign(self.beta_1 * m + (1 - self.beta_1) * gradient)
        v.assign(self.beta_2 * v + (1 - self.beta_2) * tf.square(gradient))
        corrected = tf.sqrt(v / (1 - self.beta_2)) + self.epsilon
        step = tf.cast(learning_rate, variable.dtype) * (m / (1 - self.beta_1)) / corrected
        variable.assign_sub(step + self.decoupled_decay * variable)


def _handle(variable: Any) -> tf.Tensor:
    # Keras wraps TensorFlow's variable, and hands the bare one to each replica of a distribution strategy
    return (variable.value if isinstance(variable, keras.Variable) else variable).handle
