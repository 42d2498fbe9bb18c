"""Stacked sparse auto-encoders of MNIST digits, trained layer by layer and fine-tuned with a classifier.

``python -m training train mnist_stacked`` trains them; see ``training/RESULTS.md`` for what they score, how long it
takes and on which machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf

from training.datasets.digits import DigitData
from training.encoders.stacked import StackedAutoencoder
from training.experiments.base import ExperimentError
from training.experiments.mnist import PIXELS, MnistExperiment, in_chunks
from training.experiments.ranges import NonNegativeFloat, PositiveFloat, PositiveInt, Range
from training.loops.staged import Stage, Staged
from training.loops.trainer import Program
from training.losses.likelihood import softmax_crossentropy
from training.losses.reconstruction import squared_error
from training.losses.weight_penalties import l2_penalty
from training.sparsity.kl import kl_sparsity

Labelled = tuple[tf.Tensor, tf.Tensor]
"""Digits [B, 784] and their labels [B]."""


@dataclass(frozen=True, kw_only=True)
class Stacked(MnistExperiment):
    """Two sparse sigmoid layers and a softmax: the stacked auto-encoder of the UFLDL course, by Adam on batches.

    Four kinds of stages follow one another, each with its own Adam:

    1. each layer alone, from the bottom up, as a sparse auto-encoder of the latents below it:
       ``½‖a − â‖² + λ/2 (‖W₁‖² + ‖W₂‖²) + β Σ_j KL(ρ ‖ ρ̂_j)``, ρ̂ over the batch;
    2. the softmax on the last latents, which stay as they are: ``accuracy_before_fine_tuning``;
    3. encoders and softmax together: ``accuracy``;
    4. the decoders, all unfolded, on the latents that fine-tuning has left: without it, the reconstruction would go
       through decoders made for other latents.

    Attributes:
        widths: latents of each layer.
        classes: of the softmax.
        layer_epochs: passes of each layer's own training.
        classifier_epochs: of the softmax alone.
        fine_tuning_epochs: of encoders and softmax.
        decoder_epochs: of the unfolded decoders.
        classifier_rate: learning rate of the softmax alone, whose inputs are small.
        fine_tuning_rate: learning rate of the third kind of stage; ``learning_rate`` is that of layers and decoders.
        target_activation: ρ.
        sparsity_weight: β.
        weight_decay: λ of the layers' own training.
        classifier_decay: λ of the softmax's kernel.
    """

    widths: tuple[PositiveInt, ...] = (200, 200)
    classes: Annotated[int, Range(2)] = 10
    layer_epochs: PositiveInt = 30
    classifier_epochs: PositiveInt = 10
    fine_tuning_epochs: PositiveInt = 20
    decoder_epochs: PositiveInt = 10
    classifier_rate: PositiveFloat = 1e-2
    fine_tuning_rate: PositiveFloat = 1e-3
    target_activation: Annotated[float, Range(0, 1, above=True, below=True)] = 0.1
    sparsity_weight: NonNegativeFloat = 3.0
    weight_decay: NonNegativeFloat = 3e-3
    classifier_decay: NonNegativeFloat = 1e-4

    def __post_init__(self) -> None:
        """Refuses stages that are no whole."""
        super().__post_init__()
        tops = self.classifier_epochs + self.fine_tuning_epochs + self.decoder_epochs
        total = len(self.widths) * self.layer_epochs + tops
        if self.epochs != total:
            raise ExperimentError(
                f"{self.name}: epochs must be the sum over its stages, {len(self.widths)} · layer_epochs + "
                f"classifier_epochs + fine_tuning_epochs + decoder_epochs = {total}. Received: {self.epochs}"
            )

    def build(self) -> StackedAutoencoder:
        """A fresh model."""
        return StackedAutoencoder(PIXELS, self.widths, self.classes, seed=self.seed)

    def program(self, model: StackedAutoencoder, data: DigitData) -> Program:
        """The stages, one after the other.

        Raises:
            ExperimentError: the data have no classes, or more than the softmax.
        """
        highest = int(data.train_labels.max())
        if not data.labelled or highest >= self.classes:
            raise ExperimentError(
                f"{self.name}: fine-tuning needs digits of two classes or more, labelled 0..{self.classes - 1} "
                f"(--set classes=...). Received: labels up to {highest}"
            )
        images, labels = self.train_images(data), data.train_labels[: self.train_examples or None]

        def digits(epoch: int) -> Iterator[tf.Tensor]:
            return self.batches(images, epoch)

        def labelled(epoch: int) -> Iterator[Labelled]:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(images))
            for start in range(0, len(order), self.batch_size):
                chosen = order[start : start + self.batch_size]
                yield tf.constant(images[chosen]), tf.constant(labels[chosen])

        levels = range(len(self.widths))
        encoders = [variable for encoder in model.encoders for variable in encoder.trainable_variables]
        decoders = [variable for decoder in model.decoders for variable in decoder.trainable_variables]
        softmax = model.classifier.trainable_variables
        return Staged(
            model,
            [
                *(self._layer_stage(model, level, digits) for level in levels),
                Stage(
                    "classifier",
                    self.classifier_epochs,
                    lambda batch: self.classifier_objective(model, batch),
                    keras.optimizers.Adam(self.classifier_rate),
                    softmax,
                    labelled,
                    at_end=model.remember_pretrained,
                ),
                Stage(
                    "fine_tuning",
                    self.fine_tuning_epochs,
                    lambda batch: self.classifier_objective(model, batch),
                    keras.optimizers.Adam(self.fine_tuning_rate),
                    [*encoders, *softmax],
                    labelled,
                ),
                Stage(
                    "decoders",
                    self.decoder_epochs,
                    lambda image: {"loss": squared_error(image, model(image, training=True))},
                    keras.optimizers.Adam(self.learning_rate),
                    decoders,
                    digits,
                ),
            ],
        )

    def layer_objective(self, model: StackedAutoencoder, level: int, image: tf.Tensor) -> Mapping[str, tf.Tensor]:
        """The sparse auto-encoder's cost of one level, from digits [B, 784] that the levels below have encoded."""
        encoder, decoder = model.encoders[level], model.decoders[level]
        below = model.encode_to(image, level)
        latents = encoder(below)
        error = squared_error(below, decoder(latents))
        activation = tf.reduce_mean(latents, axis=0)
        loss = (
            error / 2
            + self.weight_decay * l2_penalty([encoder.kernel, decoder.kernel])
            + self.sparsity_weight * kl_sparsity(activation, self.target_activation)
        )
        return {"loss": loss, "squared_error": error, "mean_activation": tf.reduce_mean(activation)}

    def classifier_objective(self, model: StackedAutoencoder, batch: Labelled) -> Mapping[str, tf.Tensor]:
        """Cross-entropy of the labels with the softmax's weight decay."""
        image, labels = batch
        logits = model.classify(image)
        penalty = self.classifier_decay * l2_penalty([model.classifier.kernel])
        right = tf.reduce_mean(tf.cast(tf.argmax(logits, axis=-1) == labels, tf.float32))
        return {"loss": softmax_crossentropy(labels, logits) + penalty, "accuracy": right}

    def extra_scores(self, model: StackedAutoencoder, data: DigitData) -> dict[str, float]:
        """Accuracy of the softmax on test digits before and after fine-tuning, 0..1."""
        return {
            "accuracy_before_fine_tuning": accuracy(model.pretrained, data),
            "accuracy": accuracy(model.classify, data),
        }

    def _layer_stage(
        self, model: StackedAutoencoder, level: int, digits: Callable[[int], Iterable[tf.Tensor]]
    ) -> Stage:
        pair = (model.encoders[level], model.decoders[level])
        return Stage(
            f"layer_{level + 1}",
            self.layer_epochs,
            lambda image: self.layer_objective(model, level, image),
            keras.optimizers.Adam(self.learning_rate),
            [variable for layer in pair for variable in layer.trainable_variables],
            digits,
        )


def accuracy(classify: Callable[[tf.Tensor], tf.Tensor], data: DigitData) -> float:
    """Share of test digits whose largest logit is that of their label, 0..1."""
    return float(np.mean(in_chunks(classify, data.test_images).argmax(axis=1) == data.test_labels))


STACKED = (
    Stacked(
        name="mnist_stacked",
        summary="two sparse layers trained greedily, then fine-tuned with a softmax (UFLDL)",
        epochs=100,
        batch_size=100,
        learning_rate=1e-3,
        presets={
            "quick": {
                "epochs": 14,
                "layer_epochs": 4,
                "classifier_epochs": 2,
                "fine_tuning_epochs": 3,
                "decoder_epochs": 1,
                "train_examples": 30_000,
                "probe_examples": 10_000,
            }
        },
    ),
)
