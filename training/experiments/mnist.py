"""Encoders of MNIST digits.

``python -m training train mnist_k_sparse`` trains the k-sparse auto-encoder; see ``training/RESULTS.md`` for what it
scores, how long it takes and on which machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from training.datasets import mnist
from training.datasets.digits import DigitData
from training.datasets.source import DataPolicy
from training.encoders.k_sparse import KSparseAutoencoder
from training.evaluation import figures
from training.evaluation.probes import pca_codes, probe_error, random_dictionary_codes
from training.evaluation.sparse_coding import score_reconstruction, score_sparsity
from training.experiments.base import Experiment
from training.export.servable import Family, Resizing, Servable, Tensor
from training.loops.fit import Autodiff
from training.loops.trainer import Program
from training.losses.reconstruction import squared_error

Floats = NDArray[np.float32]

PIXELS = 28 * 28
CHUNK = 2000
"""Rows encoded at once in evaluation."""


@dataclass(frozen=True, kw_only=True)
class MnistExperiment(Experiment[DigitData]):
    """An encoder from 784 grey values in 0..1 to latents and back.

    The model has ``encode(image)`` and ``call(image)``; a new encoder states how it is built and trained.

    Attributes:
        probe_pca: components of the PCA control.
    """

    family: ClassVar[Family] = "mnist"

    probe_pca: int = 100

    def load_data(self, policy: DataPolicy) -> DigitData:
        """MNIST, or scikit-learn's digits scaled up."""
        return mnist.load(policy)

    def batches(self, images: Floats, epoch: int) -> Iterator[tf.Tensor]:
        """Batches [B, 784] in an order drawn from (seed, epoch); the last, smaller one is kept."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(images))
        for start in range(0, len(images), self.batch_size):
            yield tf.constant(images[order[start : start + self.batch_size]])

    def servable(self, model: keras.Model) -> Servable:
        """``image`` to ``encoding`` and ``reconstruction``."""
        return Servable(
            family=self.family,
            model=model,
            outputs_of=lambda image: {"encoding": model.encode(image), "reconstruction": model(image, training=False)},
            input=Tensor("image", "FP32", (-1, PIXELS), ("batch", "pixel"), (0.0, 1.0), "GRAY"),
            outputs=(
                Tensor("encoding", "FP32", (-1, self.encoding_size(model)), ("batch", "latent"), None),
                Tensor("reconstruction", "FP32", (-1, PIXELS), ("batch", "pixel"), None, "GRAY"),
            ),
            resizing=Resizing("stretch", 28, 28),
            default_threshold=None,
        )

    def encoding_size(self, model: keras.Model) -> int:
        """Number of latents D of ``encode``."""
        return int(model.encode(tf.zeros((1, PIXELS))).shape[1])

    def parity_inputs(self, data: DigitData) -> NDArray[Any]:
        """Test digits."""
        return data.test_images[:64]

    def probe_scores(self, data: DigitData, train: Floats, test: Floats) -> float:
        """Linear-probe error of latents of the training and test digits."""
        return probe_error(train, data.train_labels, test, data.test_labels)

    def draw(self, model: keras.Model, data: DigitData, folder: Path) -> list[Path]:
        """Digits with their encodings and reconstructions, and the learned dictionary."""
        images = data.test_images[:10]
        encoding, reconstruction = model.encode(images).numpy(), model(images, training=False).numpy()
        pictures = {"reconstructions.png": figures.reconstructions(images, encoding, reconstruction, self.name)}
        if hasattr(model, "dictionary"):
            pictures["dictionary.png"] = figures.dictionary(model.dictionary.numpy(), self.name)
        return figures.save(pictures, folder)


@dataclass(frozen=True, kw_only=True)
class KSparse(MnistExperiment):
    """The k-sparse auto-encoder (case e): Makhzani and Frey, arXiv 1312.5663.

    Attributes:
        latents: size of the dictionary.
        k: latents kept at the end of training and in the export.
        k_start: latents kept in the first epoch; lowered linearly to ``k`` over the first half of the epochs.
        alpha: the exported encoding keeps ``alpha * k`` latents. 1 keeps ``decode(encoding)`` equal to the exported
            reconstruction; the probe is reported at 1, 2 and 3 whatever is exported.
    """

    latents: int = 1000
    k: int = 25
    k_start: int = 100
    alpha: float = 1.0

    def build(self) -> KSparseAutoencoder:
        """A fresh model."""
        return KSparseAutoencoder(PIXELS, self.latents, self.k, alpha=self.alpha, seed=self.seed)

    def k_at(self, epoch: int) -> int:
        """Latents kept in ``epoch`` (from 0)."""
        half = self.epochs // 2
        if epoch >= half:
            return self.k
        return round(self.k_start + (self.k - self.k_start) * epoch / half)

    def program(self, model: KSparseAutoencoder, data: DigitData) -> Program:
        """Adam on the squared error through the kept latents."""

        def objective(image: tf.Tensor) -> Mapping[str, tf.Tensor]:
            return {"loss": squared_error(image, model(image, training=True))}

        return Autodiff(
            model,
            objective,
            keras.optimizers.Adam(self.learning_rate),
            lambda epoch: self.batches(data.train_images, epoch),
            before_epoch=lambda epoch: model.k.assign(self.k_at(epoch)),
        )

    def evaluate(self, model: KSparseAutoencoder, data: DigitData) -> dict[str, float]:
        """Reconstruction, sparsity and linear-probe error, with the raw, PCA and random-dictionary controls."""
        reconstruction = in_chunks(lambda image: model(image, training=False), data.test_images)
        codes = in_chunks(model.encode, data.train_images), in_chunks(model.encode, data.test_images)
        scores = {
            **asdict(score_reconstruction(data.test_images, reconstruction)),
            **asdict(score_sparsity(codes[1], np.any(codes[0] != 0, axis=0))),
        }
        for alpha in (1, 2, 3):
            wider = KSparseAutoencoder(PIXELS, self.latents, self.k, alpha=alpha)
            wider.set_weights(model.get_weights())
            train, test = in_chunks(wider.encode, data.train_images), in_chunks(wider.encode, data.test_images)
            scores["probe_error" if alpha == 1 else f"probe_error_alpha_{alpha}"] = self.probe_scores(data, train, test)
        return {**scores, **self.controls(data)}

    def controls(self, data: DigitData) -> dict[str, float]:
        """What needs no training: raw pixels, PCA, and a random dictionary with the same L0."""
        train_pca, test_pca, _ = pca_codes(data.train_images, data.test_images, self.probe_pca, self.seed)
        _, _, rebuilt = pca_codes(data.train_images, data.test_images, self.k, self.seed)
        random = [
            random_dictionary_codes(images, self.latents, self.k, self.seed)
            for images in (data.train_images, data.test_images)
        ]
        return {
            "control_raw_probe_error": self.probe_scores(data, data.train_images, data.test_images),
            f"control_pca_{self.probe_pca}_probe_error": self.probe_scores(data, train_pca, test_pca),
            f"control_pca_{self.k}_explained_variance": score_reconstruction(
                data.test_images, rebuilt
            ).explained_variance,
            "control_random_dictionary_probe_error": self.probe_scores(data, *random),
        }


def in_chunks(function: Any, rows: Floats) -> Floats:
    """``function`` over ``rows`` [N, V], a few thousand at a time: float32 [N, D]."""
    return np.concatenate([np.asarray(function(rows[start : start + CHUNK])) for start in range(0, len(rows), CHUNK)])


MNIST = (
    KSparse(
        name="mnist_k_sparse",
        summary="k-sparse auto-encoder, tied and linear (Makhzani and Frey)",
        epochs=30,
        batch_size=100,
        learning_rate=1e-3,
        presets={"quick": {"epochs": 5}},
    ),
)
