"""What all encoders of MNIST digits share: data, scores with their controls, pictures and the exported graph."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, cast

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from training.datasets import mnist, own
from training.datasets.digits import DigitData
from training.datasets.source import DataPolicy
from training.evaluation import figures, latent_figures
from training.evaluation.film import write_gif
from training.evaluation.probes import pca_codes, probe_error, random_dictionary_codes
from training.evaluation.sparse_coding import (
    class_purity,
    firing_frequency,
    score_firing,
    score_reconstruction,
    score_sparsity,
)
from training.experiments.base import Epochs, Experiment
from training.experiments.ranges import NonNegativeInt, PositiveInt
from training.export.servable import Family, Resizing, Servable, Tensor

Floats = NDArray[np.float32]

PIXELS = 28 * 28
CHUNK = 2000
"""Rows encoded at once in evaluation."""
WEIGHTS_FILM = "weights.gif"


@dataclass(frozen=True, kw_only=True)
class MnistExperiment(Experiment[DigitData]):
    """An encoder from 784 grey values in 0..1 to latents and back.

    The model has ``encode(image)`` and ``call(image)``, both from float [N, 784]; where it has a ``dictionary``
    [784, D], its columns are drawn; where its latents jump, it has ``margin(image)``, float [N], which says how near. A
    new encoder states how it is built and how it is trained.

    Attributes:
        train_examples: the first so many of the training digits are used; 0 for all.
        probe_examples: likewise for fitting the linear probes and their controls.
        probe_pca: components of the PCA control; where there are fewer training digits, as many as these.
    """

    family: ClassVar[Family] = "mnist"

    train_examples: NonNegativeInt = 0
    probe_examples: NonNegativeInt = 0
    probe_pca: PositiveInt = 100

    def load_data(self, choice: str) -> DigitData:
        """MNIST, scikit-learn's digits scaled up, or pictures of one's own."""
        return _load(choice)

    def train_images(self, data: DigitData) -> Floats:
        """The digits that are trained on: float32 [N, 784]."""
        return data.train_images[: self.train_examples or None]

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
            margin_of=getattr(model, "margin", None),
        )

    def encoding_size(self, model: keras.Model) -> int:
        """Number of latents D of ``encode``."""
        return int(model.encode(tf.zeros((1, PIXELS))).shape[1])

    def parity_inputs(self, data: DigitData) -> NDArray[Any]:
        """Test digits."""
        return data.test_images[:64]

    def snapshot(self, model: keras.Model) -> Floats | None:
        """The first 100 dictionary columns [784, 100], where the model has a dictionary."""
        return model.dictionary.numpy()[:, :100] if hasattr(model, "dictionary") else None

    def evaluate(self, model: keras.Model, data: DigitData) -> dict[str, float]:
        """Reconstruction, sparsity and linear-probe error, with the raw, PCA and random-dictionary controls.

        Encoders add their own scores to these.
        """
        reconstruction = in_chunks(lambda image: model(image, training=False), data.test_images)
        train, test = in_chunks(model.encode, data.train_images), in_chunks(model.encode, data.test_images)
        frequency = firing_frequency(train)
        sparsity = score_sparsity(test, frequency > 0)
        scores = {
            **asdict(score_reconstruction(data.test_images, reconstruction)),
            **asdict(sparsity),
            **asdict(score_firing(frequency)),
            "class_purity": _purity(data, test),
            "probe_error": self.probe(data, train, test),
            **self.extra_scores(model, data),
            **controls(data, test.shape[1], round(sparsity.l0), self.probe_pca, self.probe_examples),
        }
        # pictures of one's own may have no classes, and then there is nothing to probe for
        return {name: value for name, value in scores.items() if not math.isnan(value)}

    def extra_scores(self, model: keras.Model, data: DigitData) -> dict[str, float]:
        """Scores that only this encoder has."""
        del model, data
        return {}

    def probe(self, data: DigitData, train: Floats, test: Floats) -> float:
        """Linear-probe error of latents [N, D] of the training and [M, D] of the test digits, 0..1.

        NaN where those that it is fitted on are of one class.
        """
        return _probe(data, train, test, self.probe_examples)

    def draw(self, model: keras.Model, data: DigitData, folder: Path) -> list[Path]:
        """Digits with their encodings and reconstructions, how latents are used, and the learned dictionary."""
        images = data.test_images[:10]
        encoding, reconstruction = model.encode(images).numpy(), model(images, training=False).numpy()
        latents = in_chunks(model.encode, data.test_images)
        pictures = {
            "reconstructions.png": figures.reconstructions(images, encoding, reconstruction, self.name),
            "latents_histogram.png": latent_figures.latent_histogram(
                latents, firing_frequency(latents), f"{self.name}: latents of the test digits"
            ),
        }
        if hasattr(model, "dictionary"):
            columns = model.dictionary.numpy()
            pictures["dictionary.png"] = figures.dictionary(columns, self.name)
            pictures["dictionary_raw.png"] = figures.raw_dictionary(columns, self.name)
        return figures.save(pictures, folder)

    def draw_training(self, history: Epochs, snapshots: list[Floats], folder: Path) -> list[Path]:
        """Adds the film of the dictionary as it was learned."""
        paths = super().draw_training(history, snapshots, folder)
        if snapshots:
            frames = latent_figures.weight_frames(snapshots)
            # the last one stays for a second and a half before the film begins anew
            write_gif(frames + frames[-1:] * 15, folder / WEIGHTS_FILM, rate=10)
            paths.append(folder / WEIGHTS_FILM)
        return paths


def in_chunks(function: Any, rows: Floats) -> Floats:
    """``function`` over ``rows`` [N, V], a few thousand at a time: float32 [N, D]."""
    return np.concatenate([np.asarray(function(rows[start : start + CHUNK])) for start in range(0, len(rows), CHUNK)])


def controls(data: DigitData, latents: int, l0: int, pca: int, probe_examples: int) -> dict[str, float]:
    """What needs no training: raw pixels, PCA, and a random dictionary with as many latents and as many active.

    Args:
        data: the digits.
        latents: size of the random dictionary D.
        l0: its active latents, 1..D, and the components of the PCA whose explained variance is compared.
        pca: components of the PCA whose probe error is compared. Neither PCA has more components than there are
            training digits.
        probe_examples: training digits on which probes are fitted; 0 for all.
    """
    l0, most = min(max(l0, 1), latents), min(PIXELS, len(data.train_images))
    train, test = data.train_images[: probe_examples or None], data.test_images
    random_train, random_test = (random_dictionary_codes(images, latents, l0, seed=0) for images in (train, test))
    return {
        **_fixed_controls(data, min(pca, most), probe_examples),
        "control_pca_same_l0_explained_variance": _pca_explained_variance(data, min(l0, most)),
        "control_random_dictionary_probe_error": _probe(data, random_train, random_test, probe_examples),
        "control_random_dictionary_class_purity": _purity(data, random_test),
    }


# Training many encoders on the same digits fits the same controls once.
@lru_cache(maxsize=4)
def _fixed_controls(data: DigitData, pca: int, probe_examples: int) -> dict[str, float]:
    train, test, _ = pca_codes(data.train_images, data.test_images, pca)
    return {
        "control_raw_probe_error": _probe(data, data.train_images, data.test_images, probe_examples),
        "control_raw_class_purity": _purity(data, data.test_images),
        f"control_pca_{pca}_probe_error": _probe(data, train, test, probe_examples),
    }


@lru_cache(maxsize=64)
def _pca_explained_variance(data: DigitData, components: int) -> float:
    _, _, rebuilt = pca_codes(data.train_images, data.test_images, components)
    return score_reconstruction(data.test_images, rebuilt).explained_variance


@lru_cache(maxsize=3)
def _load(choice: str) -> DigitData:
    return own.load_pictures(choice) if own.is_own(choice) else mnist.load(cast(DataPolicy, choice))


def _probe(data: DigitData, train: Floats, test: Floats, examples: int) -> float:
    kept = slice(examples or None)
    labels = data.train_labels[kept]
    if len(np.unique(labels)) < 2:
        return math.nan
    return probe_error(train[kept], labels, test, data.test_labels)


def _purity(data: DigitData, test: Floats) -> float:
    return class_purity(test, data.test_labels) if data.labelled else math.nan
