"""Sparse filtering of MNIST digits on its own, by L-BFGS on the whole training set.

``python -m training train mnist_sparse_filtering`` trains it; see ``training/RESULTS.md`` for what it scores, how long
it takes and on which machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from training.datasets.digits import DigitData
from training.encoders.sparse_filtering import SparseFilteringEncoder, centred
from training.experiments.mnist import PIXELS, MnistExperiment
from training.experiments.ranges import PositiveInt
from training.loops.lbfgs import Lbfgs
from training.loops.trainer import Program
from training.sparsity.sparse_filtering import (
    feature_norms,
    normalised,
    sparse_filtering,
    sparse_filtering_with_gradient,
)

RIDGE = 1e-4
"""Of the decoder's fit, relative to the mean square of a latent: keeps its weights in the range of float32."""


@dataclass(frozen=True, kw_only=True)
class SparseFiltering(MnistExperiment):
    """Sparse filtering: Ngiam et al., NIPS 2011, with the paper's soft absolute and ε = 1e-8.

    The objective is J / N, in 1..√H. The gradient is the hand-derived one; no tape runs. An epoch is
    ``iterations`` steps of L-BFGS. The method is made for patches of natural pictures: on whole digits its latents
    serve a linear classifier little better than the raw pixels do, and there is no decoder: the reconstruction that is
    scored and exported is a linear least-squares fit of the training digits to their latents.

    ``learning_rate`` and ``batch_size`` have no meaning here: L-BFGS finds its step itself, on all examples at once.

    Attributes:
        latents: number of features H.
        iterations: of L-BFGS in an epoch.
    """

    latents: PositiveInt = 256
    iterations: PositiveInt = 25

    def build(self) -> SparseFilteringEncoder:
        """A fresh model."""
        return SparseFilteringEncoder(PIXELS, self.latents, seed=self.seed)

    def program(self, model: SparseFilteringEncoder, data: DigitData) -> Program:
        """L-BFGS on the filters; norms and decoder follow after each epoch."""
        return Lbfgs(
            model,
            model.dictionary,
            value_and_gradient,
            self.train_images(data),
            self.iterations,
            at_end=lambda images: keep_norms_and_decoder(model, images),
        )

    def extra_scores(self, model: SparseFilteringEncoder, data: DigitData) -> dict[str, float]:
        """J / N of the test digits, with the filters as they are and as they were drawn."""
        pictures = centred(tf.constant(data.test_images))
        return {
            name: float(sparse_filtering(tf.matmul(pictures, filters)))
            for name, filters in (
                ("objective", model.dictionary),
                ("control_untrained_objective", self.build().dictionary),
            )
        }


def value_and_gradient(filters: tf.Tensor, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """J / N and its gradient by the filters: ``F = X W`` hands ``Xᵀ ∂J/∂F`` back to W.

    Args:
        filters: float [V, H], W.
        images: float [N, V]; X is these, each without its mean.

    Returns:
        float scalar and float [V, H].
    """
    pictures = centred(images)
    value, by_features = sparse_filtering_with_gradient(tf.matmul(pictures, filters))
    return value, tf.matmul(pictures, by_features, transpose_a=True)


def keep_norms_and_decoder(model: SparseFilteringEncoder, images: tf.Tensor) -> None:
    """Sets what follows from the filters: the features' norms over ``images`` [N, V], and the linear decoder.

    The decoder minimises ``Σ_n ‖x_n − c_n D − d‖² + r ‖D‖²``, r a small share of the latents' mean square times N.
    """
    features = tf.matmul(centred(images), tf.cast(model.dictionary, images.dtype))
    norms = feature_norms(features)
    latents = normalised(features, norms).numpy()
    pictures = images.numpy()
    latent_mean, picture_mean = latents.mean(axis=0), pictures.mean(axis=0)
    latents -= latent_mean
    gram = latents.T @ latents
    gram[np.diag_indices_from(gram)] += RIDGE * len(latents) / latents.shape[1]
    decoder = np.linalg.solve(gram, latents.T @ (pictures - picture_mean))
    model.norms.assign(norms)
    model.decoder.assign(decoder)
    model.decoder_bias.assign(picture_mean - latent_mean @ decoder)


SPARSE_FILTERING = (
    SparseFiltering(
        name="mnist_sparse_filtering",
        summary="sparse filtering by L-BFGS (Ngiam et al.)",
        epochs=8,
        batch_size=60_000,
        learning_rate=1.0,
        presets={"quick": {"epochs": 4, "train_examples": 5_000, "probe_examples": 10_000}},
    ),
)
