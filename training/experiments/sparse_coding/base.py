"""What those ways of sparse coding share that minimise a squared error by Adam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import keras

from training.experiments.base import ExperimentError
from training.experiments.mnist import MnistExperiment
from training.experiments.ranges import NonNegativeFloat, PositiveInt
from training.loops.optimizers import FusedAdam, ProgramAdam

Gradients = Literal["auto", "manual"]


@dataclass(frozen=True, kw_only=True)
class SparseCoding(MnistExperiment):
    """What the cases share that minimise ``½ ‖x̂ − x‖² + λ/2 ‖W‖² + …``, by Adam.

    Attributes:
        latents: number of latents.
        biases: whether there are any; the source's program has none.
        gradients: ``auto`` differentiates the objective with a tape; ``manual`` uses :mod:`training.loops.manual`.
        weight_decay: λ, on weights but not on biases.
        decay: ``coupled`` adds λ w to the gradient; ``decoupled`` takes λ w off the weights beside Adam's step, not
            multiplied by the rate, as the source's program does in case b.
        bias_correction: Adam's; ``constant`` as the source's program has it.
    """

    latents: PositiveInt = 196
    biases: bool = True
    gradients: Gradients = "auto"
    weight_decay: NonNegativeFloat = 0.0
    decay: Literal["coupled", "decoupled"] = "coupled"
    bias_correction: Literal["fading", "constant"] = "fading"

    def __post_init__(self) -> None:
        """Refuses what does not go together."""
        super().__post_init__()
        if self.decay == "decoupled" and self.bias_correction != "constant":
            raise ExperimentError(
                f"{self.name}: decay=decoupled is the source's and needs bias_correction=constant. "
                f"Received: {self.bias_correction!r}"
            )

    @property
    def coupled_decay(self) -> float:
        """The λ that is part of the objective."""
        return self.weight_decay if self.decay == "coupled" else 0.0

    def optimizer(self) -> keras.optimizers.Optimizer:
        """Adam."""
        if self.bias_correction == "constant":
            decay = self.weight_decay if self.decay == "decoupled" else 0.0
            return ProgramAdam(self.learning_rate, decoupled_decay=decay)
        return FusedAdam(self.learning_rate)
