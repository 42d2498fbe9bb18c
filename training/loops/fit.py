"""Training by automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import tensorflow as tf

from training.distribution import shares

Objective = Callable[[Any], Mapping[str, tf.Tensor]]


class Autodiff:
    """The :class:`~training.loops.trainer.Program` of an objective that ``tf.GradientTape`` differentiates.

    Made inside the scope of a ``tf.distribute`` strategy, it spreads each batch over the strategy's replicas.

    Args:
        model: the trained model; all its trainable variables are updated.
        objective: from a batch to scalars; ``loss`` is minimised, the others are only reported.
        optimizer: a Keras optimiser of its own for this program.
        batches: from an epoch (from 0) to its batches.
        before_epoch: called with the epoch (from 0) before its first step.
        validate: scalars on held-out data.
    """

    def __init__(
        self,
        model: keras.Model,
        objective: Objective,
        optimizer: keras.optimizers.Optimizer,
        batches: Callable[[int], Iterable[Any]],
        *,
        before_epoch: Callable[[int], None] | None = None,
        validate: Callable[[], Mapping[str, float]] | None = None,
    ) -> None:
        self._model = model
        self._objective = objective
        self._optimizer = optimizer
        self._batches = batches
        self._before_epoch = before_epoch
        self._validate = validate
        self._strategy = tf.distribute.get_strategy()
        optimizer.build(model.trainable_variables)
        spread = self._strategy.num_replicas_in_sync > 1
        self._graph_step = tf.function(self._spread_update if spread else self._update, reduce_retracing=True)

    @property
    def state(self) -> Mapping[str, Any]:
        """Model and optimiser."""
        return {"model": self._model, "optimizer": self._optimizer}

    def batches(self, epoch: int) -> Iterable[Any]:
        """The batches of ``epoch``."""
        return self._batches(epoch)

    def before_epoch(self, epoch: int) -> None:
        """Runs the hook given to the constructor."""
        if self._before_epoch is not None:
            self._before_epoch(epoch)

    def step(self, batch: Any) -> Mapping[str, tf.Tensor]:
        """One gradient step on ``batch``."""
        scalars: Mapping[str, tf.Tensor]
        if self._strategy.num_replicas_in_sync > 1:
            scalars = self._graph_step(*shares(self._strategy, batch))
        else:
            scalars = self._graph_step(batch)
        return scalars

    def validate(self) -> Mapping[str, float]:
        """Runs the validation given to the constructor."""
        return {} if self._validate is None else self._validate()

    def _update(self, batch: Any, weight: tf.Tensor | float = 1.0) -> Mapping[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            scalars = {name: scalar * weight for name, scalar in self._objective(batch).items()}
        variables = self._model.trainable_variables
        self._optimizer.apply(tape.gradient(scalars["loss"], variables), variables)
        return scalars

    def _spread_update(self, parts: Any, weights: Any) -> Mapping[str, tf.Tensor]:
        # the optimiser sums the replicas' gradients, and each carries its weight already
        scalars = self._strategy.run(self._update, args=(parts, weights))
        return {
            name: self._strategy.reduce(tf.distribute.ReduceOp.SUM, scalar, axis=None)
            for name, scalar in scalars.items()
        }
