"""Sparse coding of MNIST digits.

``python -m training train mnist_k_sparse`` trains the k-sparse auto-encoder; see ``training/RESULTS.md`` for what it
scores, how long it takes and on which machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import keras
import tensorflow as tf

from training.datasets.digits import DigitData
from training.encoders.k_sparse import KSparseAutoencoder
from training.experiments.mnist import PIXELS, MnistExperiment, in_chunks
from training.loops.fit import Autodiff
from training.loops.trainer import Program
from training.losses.reconstruction import squared_error


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
            lambda epoch: self.batches(self.train_images(data), epoch),
            before_epoch=lambda epoch: model.k.assign(self.k_at(epoch)),
        )

    def extra_scores(self, model: KSparseAutoencoder, data: DigitData) -> dict[str, float]:
        """The probe with two and three times as many latents: the paper encodes more widely than it trains."""
        scores = {}
        for alpha in (2, 3):
            wider = KSparseAutoencoder(PIXELS, self.latents, self.k, alpha=alpha)
            wider.set_weights(model.get_weights())
            train, test = in_chunks(wider.encode, data.train_images), in_chunks(wider.encode, data.test_images)
            scores[f"probe_error_alpha_{alpha}"] = self.probe(data, train, test)
        return scores


SPARSE_CODING = (
    KSparse(
        name="mnist_k_sparse",
        summary="k-sparse auto-encoder, tied and linear (Makhzani and Frey)",
        epochs=30,
        batch_size=100,
        learning_rate=1e-3,
        presets={"quick": {"epochs": 5, "probe_examples": 20_000}},
    ),
)
