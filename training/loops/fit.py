"""Training by automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import tensorflow as tf

Objective = Callable[[Any], Mapping[str, tf.Tensor]]


class Autodiff:
    """The :class:`~training.loops.trainer.Program` of an objective that ``tf.GradientTape`` differentiates.

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
        optimizer.build(model.trainable_variables)
        self._graph_step = tf.function(self._update, reduce_retracing=True)

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
        scalars: Mapping[str, tf.Tensor] = self._graph_step(batch)
        return scalars

    def validate(self) -> Mapping[str, float]:
        """Runs the validation given to the constructor."""
        return {} if self._validate is None else self._validate()

    def _update(self, batch: Any) -> Mapping[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            scalars = self._objective(batch)
        variables = self._model.trainable_variables
        self._optimizer.apply(tape.gradient(scalars["loss"], variables), variables)
        return scalars
