"""Training in stages, each with its own objective, variables and optimiser.

The source's sparse filtering nets are trained so: first the encoder alone on the sparse filtering objective, then the
whole net end to end at ten times the rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from training.loops.fit import Objective


@dataclass(frozen=True)
class Stage:
    """A number of epochs trained in one way.

    Attributes:
        name: unique among the stages; names its optimiser in checkpoints.
        epochs: at least 1.
        objective: from a batch to scalars; ``loss`` is minimised, the others are only reported.
        optimizer: of this stage alone, so that its moments start at 0 where the stage starts.
        variables: those that are trained; the others stay as they are.
        batches: from an epoch, counted from 0 over all stages, to its batches.
        at_end: called once, after the stage's last step.
    """

    name: str
    epochs: int
    objective: Objective
    optimizer: keras.optimizers.Optimizer
    variables: Sequence[Any]
    batches: Callable[[int], Iterable[Any]]
    at_end: Callable[[], None] = lambda: None


class Staged:
    """The :class:`~training.loops.trainer.Program` of several stages, one after the other.

    Args:
        model: the trained model, with all its variables.
        stages: at least one, in order.

    Raises:
        ValueError: no stage, one without an epoch, or two of one name.
    """

    def __init__(self, model: keras.Model, stages: Sequence[Stage]) -> None:
        names = [stage.name for stage in stages]
        if not stages or len(set(names)) != len(names):
            raise ValueError(f"expected stages of different names, at least one. Received: {names}")
        for stage in stages:
            if stage.epochs < 1:
                raise ValueError(f"stage '{stage.name}' must have at least 1 epoch. Received: {stage.epochs}")
            stage.optimizer.build(stage.variables)
        self._model = model
        self._stages = tuple(stages)
        self._current = self._stages[0]
        self._steps = {stage.name: tf.function(_update_of(stage), reduce_retracing=True) for stage in stages}

    @property
    def epochs(self) -> int:
        """Of all stages together."""
        return sum(stage.epochs for stage in self._stages)

    @property
    def state(self) -> Mapping[str, Any]:
        """Model and every stage's optimiser."""
        return {"model": self._model, **{f"optimizer_{stage.name}": stage.optimizer for stage in self._stages}}

    def batches(self, epoch: int) -> Iterator[Any]:
        """The batches of ``epoch``; after the last one of a stage has been used, the stage is ended."""
        stage, last = self._stage_of(epoch)
        yield from stage.batches(epoch)
        # the trainer asks for the next batch when it is done with this one: the last step lies behind us
        if last:
            stage.at_end()

    def before_epoch(self, epoch: int) -> None:
        """Chooses the stage."""
        self._current, _ = self._stage_of(epoch)

    def step(self, batch: Any) -> Mapping[str, tf.Tensor]:
        """One gradient step of the present stage on ``batch``."""
        scalars: Mapping[str, tf.Tensor] = self._steps[self._current.name](batch)
        return scalars

    def validate(self) -> Mapping[str, float]:
        """Nothing: the stages' objectives cannot be compared."""
        return {}

    def _stage_of(self, epoch: int) -> tuple[Stage, bool]:
        """The stage of ``epoch``, and whether the epoch is its last one."""
        end = 0
        for stage in self._stages:
            end += stage.epochs
            if epoch < end:
                return stage, epoch == end - 1
        raise ValueError(f"there are {end} epochs in {len(self._stages)} stages. Received: epoch {epoch + 1}")


def _update_of(stage: Stage) -> Callable[[Any], Mapping[str, tf.Tensor]]:
    def update(batch: Any) -> Mapping[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            scalars = stage.objective(batch)
        stage.optimizer.apply(tape.gradient(scalars["loss"], stage.variables), stage.variables)
        return scalars

    return update
