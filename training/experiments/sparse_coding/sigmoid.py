"""Cases a to c: sigmoid latents, plain, with weight decay and with the KL penalty."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import tensorflow as tf

from training.datasets.digits import DigitData
from training.encoders.sigmoid_autoencoder import Initial, SigmoidAutoencoder
from training.experiments.mnist import PIXELS, in_chunks
from training.experiments.ranges import NonNegativeFloat, Range
from training.experiments.sparse_coding.base import SparseCoding
from training.loops.fit import Autodiff
from training.loops.manual import Manual, sigmoid_gradients
from training.loops.trainer import Program
from training.losses.reconstruction import squared_error
from training.losses.weight_penalties import l2_penalty
from training.sparsity.kl import kl_sparsity

ACTIVATION_MEMORY = 0.99
"""Of the moving average of the latents' mean activation."""


@dataclass(frozen=True, kw_only=True)
class SigmoidCoding(SparseCoding):
    """Cases a to c: sigmoid latents, plain, with weight decay, and with Ng's KL penalty (CS294A, section 3).

    Attributes:
        initial: how the weights are drawn.
        sparsity_weight: β of the KL penalty.
        target_activation: ρ.
        activation_average: ρ̂ over the ``batch``, or ``moving`` over the last hundred batches or so.
    """

    initial: Initial = "uniform"
    sparsity_weight: NonNegativeFloat = 0.0
    target_activation: Annotated[float, Range(0, 1, above=True, below=True)] = 0.1
    activation_average: Literal["batch", "moving"] = "batch"

    def build(self) -> SigmoidAutoencoder:
        """A fresh model."""
        return SigmoidAutoencoder(PIXELS, self.latents, biases=self.biases, initial=self.initial, seed=self.seed)

    def program(self, model: SigmoidAutoencoder, data: DigitData) -> Program:
        """Adam on squared error, decay and penalty."""

        def batches(epoch: int) -> Iterator[tf.Tensor]:
            return self.batches(self.train_images(data), epoch)

        if self.gradients == "manual":
            return Manual(model, lambda image: self.backward(model, image), self.optimizer(), batches)
        return Autodiff(model, lambda image: self.objective(model, image), self.optimizer(), batches)

    def objective(self, model: SigmoidAutoencoder, image: tf.Tensor) -> Mapping[str, tf.Tensor]:
        """``½ ‖x̂ − x‖² + λ/2 (‖W₁‖² + ‖W₂‖²) + β Σ KL(ρ ‖ ρ̂)`` for a tape to differentiate."""
        a = model.encode(image)
        activation = tf.reduce_mean(a, axis=0)
        loss = 0.5 * squared_error(image, model.decode(a))
        if self.coupled_decay:
            loss += self.coupled_decay * l2_penalty([model.encoder, model.decoder])
        if self.sparsity_weight:
            loss += self.sparsity_weight * kl_sparsity(self._averaged(model, activation), self.target_activation)
        return {"loss": loss, "activation": tf.reduce_mean(activation)}

    def backward(
        self, model: SigmoidAutoencoder, image: tf.Tensor
    ) -> tuple[Mapping[str, tf.Tensor], Sequence[tf.Tensor]]:
        """The same with its gradients written out."""
        result = sigmoid_gradients(
            image,
            tf.convert_to_tensor(model.encoder),
            tf.convert_to_tensor(model.encoder_bias),
            tf.convert_to_tensor(model.decoder),
            tf.convert_to_tensor(model.decoder_bias),
            weight_decay=self.coupled_decay,
            sparsity_weight=self.sparsity_weight,
            target_activation=self.target_activation,
            moving_activation=lambda activation: self._averaged(model, activation),
        )
        weights, biases = (result.encoder, result.decoder), (result.encoder_bias, result.decoder_bias)
        gradients = [weights[0], biases[0], weights[1], biases[1]] if self.biases else weights
        return {"loss": result.loss, "activation": tf.reduce_mean(result.mean_activation)}, gradients

    def extra_scores(self, model: SigmoidAutoencoder, data: DigitData) -> dict[str, float]:
        """Mean activation over all training digits: of all latents, and of the least and the most active one."""
        mean = in_chunks(model.encode, self.train_images(data)).mean(axis=0, dtype=np.float64)
        return {
            "mean_activation": float(mean.mean()),
            "least_mean_activation": float(mean.min()),
            "most_mean_activation": float(mean.max()),
        }

    def _averaged(self, model: SigmoidAutoencoder, activation: tf.Tensor) -> tf.Tensor:
        """ρ̂ of the penalty; a moving one keeps the derivative of the batch's."""
        if self.activation_average == "batch":
            return activation
        fixed = tf.stop_gradient(activation)
        old = tf.convert_to_tensor(model.mean_activation)
        # 0 is what it starts with, and no mean of a sigmoid
        moved = tf.where(old == 0, fixed, ACTIVATION_MEMORY * old + (1 - ACTIVATION_MEMORY) * fixed)
        model.mean_activation.assign(moved)
        return activation + (moved - fixed)
