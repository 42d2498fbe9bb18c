"""The neural rule as the program of the source has it, for comparison with its figures.

It differs from the paper (:mod:`training.loops.neural_coding`) in five ways: one threshold for the batch, the mean of
the h largest values of every example with h half the batch size; one-sided; the product of two sums,
``(Σ (y − A x)) (Σ sgn x)ᵀ``, in place of the sum of products; Adam's step upwards with ``λ A`` added, which makes
weights grow where a decay would shrink them; columns of any length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import tensorflow as tf

from training.encoders.neural_dictionary import NeuralDictionary, hard_threshold
from training.loops.neural_coding import THRESHOLD_MEMORY
from training.loops.optimizers import ProgramAdam


class NeuralProgram:
    """The :class:`~training.loops.trainer.Program` of the source's rule.

    The model's threshold follows the batches' as a moving average, for the export, which must not depend on a batch.

    Args:
        model: the trained model, one-sided.
        batches: from an epoch (from 0) to its batches [B, V].
        learning_rate: of Adam with its constant bias correction.
        weight_growth: λ.
        batch_size: the h of above is half of it.
    """

    def __init__(
        self,
        model: NeuralDictionary,
        batches: Callable[[int], Iterable[Any]],
        *,
        learning_rate: float,
        weight_growth: float,
        batch_size: int,
    ) -> None:
        self._model, self._batches, self._weight_growth = model, batches, weight_growth
        self._averaged = min(max(1, batch_size // 2), model.latents)
        self._optimizer = ProgramAdam(learning_rate)
        self._optimizer.build(model.trainable_variables)
        self._graph_step = tf.function(self._update, reduce_retracing=True)

    @property
    def state(self) -> Mapping[str, Any]:
        """Model and optimiser."""
        return {"model": self._model, "optimizer": self._optimizer}

    def batches(self, epoch: int) -> Iterable[Any]:
        """The batches of ``epoch``."""
        return self._batches(epoch)

    def before_epoch(self, epoch: int) -> None:
        """Nothing changes from epoch to epoch."""

    def step(self, batch: Any) -> Mapping[str, tf.Tensor]:
        """One step of the rule on ``batch``."""
        scalars: Mapping[str, tf.Tensor] = self._graph_step(batch)
        return scalars

    def validate(self) -> Mapping[str, float]:
        """Nothing is validated."""
        return {}

    def _update(self, batch: tf.Tensor) -> Mapping[str, tf.Tensor]:
        model = self._model
        dictionary = tf.convert_to_tensor(model.dictionary)
        latents = tf.matmul(batch, dictionary)
        threshold = tf.reduce_mean(tf.math.top_k(latents, self._averaged).values)
        codes = hard_threshold(latents, threshold, two_sided=False)
        residual = batch - tf.matmul(codes, dictionary, transpose_b=True)
        update = tf.reduce_sum(residual, axis=0)[:, tf.newaxis] * tf.reduce_sum(tf.sign(codes), axis=0)
        self._optimizer.apply([-(update + self._weight_growth * dictionary)], [model.dictionary])

        # the first batch sets it, the later ones move it
        old = tf.convert_to_tensor(model.threshold)
        moved = THRESHOLD_MEMORY * old + (1 - THRESHOLD_MEMORY) * threshold
        model.threshold.assign(tf.where(old == 0, threshold, moved))
        count = tf.cast(tf.shape(batch)[0], batch.dtype)
        return {
            "loss": 0.5 * tf.reduce_sum(tf.square(residual)) / count,
            "l0": tf.reduce_sum(tf.cast(codes != 0, batch.dtype)) / count,
        }
