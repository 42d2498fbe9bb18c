"""Case d: the neural algorithm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import tensorflow as tf

from training.datasets.digits import DigitData
from training.encoders.neural_dictionary import NeuralDictionary
from training.experiments.base import ExperimentError
from training.experiments.mnist import PIXELS, MnistExperiment
from training.experiments.ranges import NonNegativeFloat, PositiveInt, Range
from training.experiments.sparse_coding.base import Gradients
from training.loops.neural_coding import NeuralCoding, Rule
from training.loops.neural_program import NeuralProgram
from training.loops.trainer import Program


@dataclass(frozen=True, kw_only=True)
class Neural(MnistExperiment):
    """The neural algorithm (case d): Arora, Ge, Ma, Moitra, arXiv 1503.00778. See :mod:`training.loops.neural_coding`.

    Attributes:
        latents: number of dictionary columns m.
        k: active latents of a digit on average; the threshold follows from it.
        rule: of the paper, ``neural`` or ``olshausen_field``, or the source's ``program`` (which knows no k).
        gradients: ``manual`` alone: the rule is no gradient of any objective.
        weight_growth: λ of the source's program.
        learning_rate: η in units of m/k; the rate of Adam for the rule ``program``. Strokes overlap as the columns of
            the paper's model must not, and 0.3, which serves on data of that model, is refused here by the guard, 0.1
            too; 0.02 and 0.03 do about equally well.
    """

    latents: PositiveInt = 196
    k: Annotated[float, Range(1)] = 10.0
    rule: Literal["neural", "olshausen_field", "program"] = "neural"
    gradients: Gradients = "manual"
    weight_growth: NonNegativeFloat = 0.0

    def __post_init__(self) -> None:
        """Refuses automatic differentiation, and what does not go together."""
        super().__post_init__()
        if self.k >= self.latents:
            raise ExperimentError(
                f"{self.name}: k must be below {self.latents}, the number of latents. Received: {self.k}"
            )
        if self.gradients == "auto":
            raise ExperimentError(
                f"{self.name}: the neural rule is no gradient of an objective, so there is nothing to differentiate; "
                "gradients must be manual. Received: 'auto'"
            )

    def build(self) -> NeuralDictionary:
        """A fresh model."""
        return NeuralDictionary(PIXELS, self.latents, two_sided=self.rule != "program", seed=self.seed)

    def program(self, model: NeuralDictionary, data: DigitData) -> Program:
        """The rule."""
        images = self.train_images(data)

        def batches(epoch: int) -> Iterator[tf.Tensor]:
            return self.batches(images, epoch)

        if self.rule == "program":
            return NeuralProgram(
                model,
                batches,
                learning_rate=self.learning_rate,
                weight_growth=self.weight_growth,
                batch_size=self.batch_size,
            )
        rule: Rule = self.rule
        return NeuralCoding(
            model, images, batches, k=self.k, rate=self.learning_rate, rule=rule, seed=self.seed, name=self.name
        )
