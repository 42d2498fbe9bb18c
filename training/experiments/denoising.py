"""The denoising auto-encoder of MNIST digits.

``python -m training train mnist_denoising`` trains it, ``--preset blog`` as the source's program does; see
``training/RESULTS.md`` for what it scores, how long it takes and on which machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import keras
import numpy as np
import tensorflow as tf

from training.datasets.digits import DigitData
from training.encoders.tied_sigmoid import TiedSigmoidAutoencoder
from training.evaluation import digit_figures, figures
from training.evaluation.sparse_coding import score_reconstruction
from training.experiments.base import ExperimentError
from training.experiments.mnist import PIXELS, Floats, MnistExperiment, in_chunks
from training.experiments.ranges import NonNegativeInt, PositiveInt, Range
from training.experiments.sparse_coding.base import Gradients
from training.loops.fit import Autodiff
from training.loops.manual import Manual, denoising_gradients
from training.loops.trainer import Program
from training.losses.reconstruction import squared_error
from training.noise import EVALUATION, kept_values, step_seed

SILENT = 0.05
"""A hidden unit that is never above this does not take part."""

Noisy = tuple[tf.Tensor, tf.Tensor]
"""Digits and the factors that mask them, both [B, 784]."""


@dataclass(frozen=True, kw_only=True)
class Denoising(MnistExperiment):
    """The tied denoising auto-encoder: Vincent, Larochelle, Bengio and Manzagol, ICML 2008, with squared error.

    Plain gradient descent. The source's program sums the cost over the batch of 128 with a rate of 0.02, which is a
    rate of 2.56 on the mean; it takes the digits in their fixed order, drops the last, smaller batch and trains on
    55,000 (preset ``blog``). Scores are given for corrupted and for clean digits: the source reports the former.
    Without rescaling, clean digits have more ink than the model was trained on, and in the long run their error is
    the larger of the two.

    Such a rate, at once, throws half the hidden units so far that they are silent ever after: digits are mostly black,
    and the first thing gradient descent does about reconstructions that are half grey is to push every unit down. A
    rise of the rate over the first 300 steps keeps them all, for a smaller error; the source's program has none.

    Attributes:
        latents: number of hidden units.
        gradients: ``auto`` differentiates the objective with a tape; ``manual`` uses :mod:`training.loops.manual`.
        keep: probability with which a pixel is kept; the others become 0.
        rescale: divide the kept pixels by ``keep``, so that the mean level stays that of clean digits.
        warm_up: steps over which the rate rises linearly to ``learning_rate``; 0 for the full rate at once.
        reduction: of the cost over the batch; ``sum`` is ``batch_size`` times the mean.
        shuffle: draw the order of the digits anew in each epoch.
        drop_partial: leave out the last batch of an epoch where it is smaller.
    """

    latents: PositiveInt = 500
    gradients: Gradients = "auto"
    keep: Annotated[float, Range(0, 1, above=True)] = 0.7
    rescale: bool = False
    warm_up: NonNegativeInt = 300
    reduction: Literal["mean", "sum"] = "mean"
    shuffle: bool = True
    drop_partial: bool = False

    def build(self) -> TiedSigmoidAutoencoder:
        """A fresh model."""
        return TiedSigmoidAutoencoder(PIXELS, self.latents, seed=self.seed)

    def objective(self, model: TiedSigmoidAutoencoder, batch: Noisy) -> Mapping[str, tf.Tensor]:
        """Squared error of the clean digits from the corrupted ones; ``batch`` holds digits and factors [B, 784]."""
        image, kept = batch
        error = squared_error(image, model(image * kept, training=True))
        return {"loss": self._weight * error, "squared_error": error}

    def backward(
        self, model: TiedSigmoidAutoencoder, batch: Noisy
    ) -> tuple[Mapping[str, tf.Tensor], Sequence[tf.Tensor]]:
        """The same with its gradients written out."""
        image, kept = batch
        weights = (model.dictionary, model.encoder_bias, model.decoder_bias)
        error, *gradients = denoising_gradients(image, image * kept, *map(tf.convert_to_tensor, weights))
        scalars = {"loss": self._weight * error, "squared_error": error}
        return scalars, [self._weight * gradient for gradient in gradients]

    def noisy_batches(self, images: Floats, epoch: int) -> Iterator[Noisy]:
        """Digits and masking factors, both [B, 784]; the factors are a function of (seed, epoch, step)."""
        batches = self.batches(images, epoch) if self.shuffle else self._batches_in_order(images)
        for step, image in enumerate(batches):
            if self.drop_partial and len(image) < self.batch_size:
                return
            yield image, self._kept(image, step_seed(self.seed, epoch, step))

    def program(self, model: TiedSigmoidAutoencoder, data: DigitData) -> Program:
        """Gradient descent on the squared error.

        Raises:
            ExperimentError: without the last, smaller batch nothing is left to train on.
        """
        images, descent = self.train_images(data), keras.optimizers.SGD(self._rate())
        if self.drop_partial and len(images) < self.batch_size:
            raise ExperimentError(
                f"{self.name}: drop_partial needs as many digits as batch_size={self.batch_size}, or more. "
                f"Received: {len(images)}"
            )

        def batches(epoch: int) -> Iterator[Noisy]:
            return self.noisy_batches(images, epoch)

        if self.gradients == "manual":
            return Manual(model, lambda batch: self.backward(model, batch), descent, batches)
        return Autodiff(model, lambda batch: self.objective(model, batch), descent, batches)

    def corrupted(self, images: Floats) -> Floats:
        """``images`` [N, 784] with the noise of every evaluation."""
        corrupted: Floats = images * self._kept(images, EVALUATION).numpy()
        return corrupted

    def extra_scores(self, model: TiedSigmoidAutoencoder, data: DigitData) -> dict[str, float]:
        """The squared error from corrupted test digits, and how many hidden units never fire.

        The squared error from clean digits is ``squared_error``. A sigmoid is never 0: ``silent_share`` counts units
        that stay below 0.05 on all training digits.
        """
        rebuilt = in_chunks(lambda image: model(image, training=False), self.corrupted(data.test_images))
        strongest = in_chunks(model.encode, data.train_images).max(axis=0)
        return {
            "squared_error_corrupted": score_reconstruction(data.test_images, rebuilt).squared_error,
            "silent_share": float(np.mean(strongest < SILENT)),
        }

    def draw(self, model: TiedSigmoidAutoencoder, data: DigitData, folder: Path) -> list[Path]:
        """Adds corrupted digits and what is made of them."""
        images = data.test_images[:10]
        corrupted = self.corrupted(images)
        rows = {"digit": images, "corrupted": corrupted, "rebuilt": model(corrupted, training=False).numpy()}
        picture = digit_figures.digit_rows(rows, f"{self.name}: {self.keep:.0%} of the pixels kept")
        return [*super().draw(model, data, folder), *figures.save({"denoising.png": picture}, folder)]

    def _rate(self) -> float | keras.optimizers.schedules.LearningRateSchedule:
        if not self.warm_up:
            return self.learning_rate
        start = self.learning_rate / 100
        return keras.optimizers.schedules.PolynomialDecay(start, self.warm_up, self.learning_rate, power=1.0)

    @property
    def _weight(self) -> float:
        return float(self.batch_size) if self.reduction == "sum" else 1.0

    def _kept(self, images: Any, seed: Any) -> tf.Tensor:
        return kept_values(images.shape, self.keep, seed, rescale=self.rescale)

    def _batches_in_order(self, images: Floats) -> Iterator[tf.Tensor]:
        for start in range(0, len(images), self.batch_size):
            yield tf.constant(images[start : start + self.batch_size])


DENOISING = (
    Denoising(
        name="mnist_denoising",
        summary="denoising auto-encoder, tied, masking noise (Vincent et al.)",
        epochs=100,
        batch_size=128,
        learning_rate=2.56,
        presets={
            "quick": {"epochs": 5, "probe_examples": 10_000},
            "blog": {
                "train_examples": 55_000,
                "reduction": "sum",
                "learning_rate": 0.02,
                "warm_up": 0,
                "shuffle": False,
                "drop_partial": True,
            },
        },
    ),
)
