"""The auto-encoder family on MNIST: activity L1, undercomplete, convolutional, variational.

``python -m training train mnist_variational`` trains one of them; see ``training/RESULTS.md`` for what each scores, how
long it takes and on which machine. The denoising and the stacked one have modules of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy.stats import norm

from training.datasets.digits import DigitData
from training.encoders.convolutional import ConvolutionalAutoencoder
from training.encoders.dense import DenseAutoencoder
from training.encoders.variational import VariationalAutoencoder, reparameterised
from training.evaluation import digit_figures, figures
from training.experiments.mnist import PIXELS, Floats, MnistExperiment, in_chunks
from training.experiments.ranges import NonNegativeFloat, PositiveInt
from training.loops.fit import Autodiff
from training.loops.trainer import Program
from training.losses.likelihood import bernoulli_crossentropy, gaussian_kl
from training.noise import EVALUATION, standard_normal, step_seed
from training.sparsity.activity import l1_activity

MANIFOLD_SIDE = 15
"""Rows and columns of the picture of the latent plane."""

Noisy = tuple[tf.Tensor, tf.Tensor]
"""Digits [B, 784] and the N(0, 1) noise [B, D] of their latents."""


@dataclass(frozen=True, kw_only=True)
class Bernoulli(MnistExperiment):
    """An auto-encoder of grey pixels by their cross-entropy, averaged over the pixels as Keras reports it."""

    def objective(self, model: Any, image: tf.Tensor) -> Mapping[str, tf.Tensor]:
        """The cross-entropy of ``image`` [B, 784] and its reconstruction, in nats for one pixel."""
        return {"loss": bernoulli_crossentropy(image, model.decode_logits(model.encode(image))) / PIXELS}

    def program(self, model: Any, data: DigitData) -> Program:
        """Adam."""
        images = self.train_images(data)
        return Autodiff(
            model,
            lambda image: self.objective(model, image),
            keras.optimizers.Adam(self.learning_rate),
            lambda epoch: self.batches(images, epoch),
        )

    def extra_scores(self, model: Any, data: DigitData) -> dict[str, float]:
        """The cross-entropy of a test pixel, in nats."""
        logits = in_chunks(lambda image: model.decode_logits(model.encode(image)), data.test_images)
        return {"crossentropy": float(bernoulli_crossentropy(data.test_images, logits)) / PIXELS}


@dataclass(frozen=True, kw_only=True)
class Undercomplete(Bernoulli):
    """Fewer latents than pixels and no other constraint; ``widths=32`` is the simple one, 128,64,32 the deep one.

    Attributes:
        widths: units of each layer on the way down, the latents last.
    """

    widths: tuple[PositiveInt, ...] = (128, 64, 32)

    def build(self) -> DenseAutoencoder:
        """A fresh model."""
        return DenseAutoencoder(PIXELS, self.widths, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class L1Activity(Undercomplete):
    """Cross-entropy of a pixel plus ``l1 · Σ_j |a_j|`` of an example, both averaged over the batch.

    The penalty is part of the objective here and not a Keras ``activity_regularizer``, whose division by the batch
    size depends on the release. The source writes ``10e-6``, which is 1e-5, and the Keras blog ``10e-5``, which is
    1e-4: the numbers as Python reads them are used.

    Attributes:
        l1: weight of the penalty.
    """

    l1: NonNegativeFloat = 1e-5

    def objective(self, model: DenseAutoencoder, image: tf.Tensor) -> Mapping[str, tf.Tensor]:
        """Cross-entropy and penalty of ``image`` [B, 784]."""
        encoding = model.encode(image)
        crossentropy = bernoulli_crossentropy(image, model.decode_logits(encoding)) / PIXELS
        activity = l1_activity(encoding)
        return {"loss": crossentropy + self.l1 * activity, "crossentropy": crossentropy, "l1_activity": activity}

    def extra_scores(self, model: DenseAutoencoder, data: DigitData) -> dict[str, float]:
        """Adds the penalised sum ``Σ_j |a_j|`` of a test digit."""
        activity = float(l1_activity(in_chunks(model.encode, data.test_images)))
        return {**super().extra_scores(model, data), "l1_activity": activity}


@dataclass(frozen=True, kw_only=True)
class Convolutional(Bernoulli):
    """The convolutional auto-encoder of the Keras blog, its code of 4x4 places with 8 channels.

    Attributes:
        channels: of the three levels on the way down.
    """

    channels: tuple[PositiveInt, ...] = (16, 8, 8)

    def build(self) -> ConvolutionalAutoencoder:
        """A fresh model."""
        return ConvolutionalAutoencoder(self.channels, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class Variational(MnistExperiment):
    """The variational auto-encoder: Kingma and Welling, arXiv 1312.6114, equation 10 with one draw for each digit.

    ``nats = Σ_v BCE(x_v, x̂_v) + KL(q(z|x) ‖ N(0, I))``, an upper bound of the negative log-likelihood of a digit. The
    exported encoding is the mean of the posterior; nothing is drawn there. The paper has one hidden layer of 500 units
    (``widths=500``); with a plane of latents two layers are some 15 nats better.

    Attributes:
        latents: number of latents; with 2 their plane is drawn.
        widths: units of the hidden layers of the encoder; the decoder mirrors them.
    """

    latents: PositiveInt = 2
    widths: tuple[PositiveInt, ...] = (512, 256)

    def build(self) -> VariationalAutoencoder:
        """A fresh model."""
        return VariationalAutoencoder(PIXELS, self.latents, self.widths, seed=self.seed)

    def objective(self, model: VariationalAutoencoder, batch: Noisy) -> Mapping[str, tf.Tensor]:
        """The bound and its two terms in nats; ``batch`` holds digits [B, 784] and N(0, 1) noise [B, D]."""
        image, noise = batch
        mean, log_variance = model.posterior(image)
        logits = model.decode_logits(reparameterised(mean, log_variance, noise))
        reconstruction, kl = bernoulli_crossentropy(image, logits), gaussian_kl(mean, log_variance)
        return {"loss": reconstruction + kl, "reconstruction_nats": reconstruction, "kl_nats": kl}

    def noisy_batches(self, images: Floats, epoch: int) -> Iterator[Noisy]:
        """Digits [B, 784] and noise [B, D]; the noise is a function of (seed, epoch, step)."""
        for step, image in enumerate(self.batches(images, epoch)):
            yield image, standard_normal((len(image), self.latents), step_seed(self.seed, epoch, step))

    def program(self, model: VariationalAutoencoder, data: DigitData) -> Program:
        """Adam on the bound."""
        images = self.train_images(data)
        return Autodiff(
            model,
            lambda batch: self.objective(model, batch),
            keras.optimizers.Adam(self.learning_rate),
            lambda epoch: self.noisy_batches(images, epoch),
        )

    def extra_scores(self, model: VariationalAutoencoder, data: DigitData) -> dict[str, float]:
        """The bound on test digits and its two terms, in nats, with the noise of every evaluation."""
        noise = standard_normal((len(data.test_images), self.latents), EVALUATION)
        scalars = self.objective(model, (tf.constant(data.test_images), noise))
        return {("nats" if key == "loss" else key): float(value) for key, value in scalars.items()}

    def draw(self, model: VariationalAutoencoder, data: DigitData, folder: Path) -> list[Path]:
        """Adds, for two latents, where the test digits lie and what the decoder makes of the plane."""
        paths = super().draw(model, data, folder)
        if self.latents != 2:
            return paths
        scatter = digit_figures.latent_scatter(
            in_chunks(model.encode, data.test_images), data.test_labels, f"{self.name}: means of the test digits"
        )
        title = f"{self.name}: decoded plane, both latents from the 5 % to the 95 % quantile of N(0, 1)"
        map_of_plane = digit_figures.manifold(decoded_plane(model), title)
        return [*paths, *figures.save({"latents.png": scatter, "manifold.png": map_of_plane}, folder)]


def decoded_plane(model: VariationalAutoencoder) -> Floats:
    """What the decoder makes of a grid that has equal probability between its lines: float32 [15, 15, 784].

    Latent 1 grows to the right and latent 2 upwards, as in the scatter plot.
    """
    ticks = norm.ppf(np.linspace(0.05, 0.95, MANIFOLD_SIDE)).astype(np.float32)
    right, up = np.meshgrid(ticks, ticks[::-1])
    pictures = tf.sigmoid(model.decode_logits(np.stack([right, up], axis=-1).reshape(-1, 2))).numpy()
    decoded: Floats = pictures.reshape(MANIFOLD_SIDE, MANIFOLD_SIDE, PIXELS)
    return decoded


AUTOENCODER_FAMILY = (
    L1Activity(
        name="mnist_l1_activity",
        summary="32 rectified latents with an L1 penalty on their activity",
        widths=(32,),
        epochs=100,
        batch_size=256,
        learning_rate=1e-3,
        presets={"quick": {"epochs": 8, "probe_examples": 10_000}},
    ),
    Undercomplete(
        name="mnist_undercomplete",
        summary="deep auto-encoder 784-128-64-32 and back",
        epochs=50,
        batch_size=256,
        learning_rate=1e-3,
        presets={"quick": {"epochs": 8, "probe_examples": 10_000}},
    ),
    Convolutional(
        name="mnist_convolutional",
        summary="convolutional auto-encoder with a 4x4x8 code",
        epochs=25,
        batch_size=128,
        learning_rate=1e-3,
        presets={"quick": {"epochs": 1, "train_examples": 30_000, "probe_examples": 10_000}},
    ),
    Variational(
        name="mnist_variational",
        summary="variational auto-encoder with a plane of latents (Kingma and Welling)",
        epochs=60,
        batch_size=128,
        learning_rate=1e-3,
        presets={"quick": {"epochs": 6, "probe_examples": 10_000}},
    ),
)
