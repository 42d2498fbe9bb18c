"""The modern sparse auto-encoders on MNIST: TopK, BatchTopK and JumpReLU.

``python -m training train mnist_batch_top_k`` trains one; see ``training/RESULTS.md`` for what they score, how long
they take and on which machine. Their exports carry ``sae/``, the layout that sparse auto-encoder tools read.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import keras
import numpy as np
import tensorflow as tf

from training.datasets.digits import DigitData
from training.encoders.sparse_autoencoder import (
    BatchTopKAutoencoder,
    JumpReluAutoencoder,
    SparseAutoencoder,
    TopKAutoencoder,
)
from training.experiments.base import ExperimentError
from training.experiments.mnist import PIXELS, MnistExperiment
from training.experiments.ranges import NonNegativeFloat, PositiveFloat, PositiveInt, Range, Share
from training.export.manifest import TrainingRecord
from training.export.safetensors import SaeLayout, write_sae
from training.loops.fit import Autodiff
from training.loops.trainer import Program
from training.losses.auxiliary import dead_latents, target_l0, unexplained
from training.sparsity.geometric_median import geometric_median

MEDIAN_OF = 10_000
"""Examples whose geometric median the input bias starts from; more change it by less than a thousandth."""


@dataclass(frozen=True, kw_only=True)
class SparseAutoencoderExperiment(MnistExperiment):
    """What the three share: arXiv 2406.04093, appendix A.

    Adam without a second-moment floor to speak of (its epsilon 6.25e-10), a linear warm-up over a twentieth of the
    steps and cosine decay to nothing, so that thresholds have settled when training ends.

    Two settings differ from the paper's, whose batches have 131,072 examples and which trains on billions of them. A
    latent counts as dead after 2,500 examples, since one that is revived late hardly catches up. And the auxiliary
    loss weighs 1/4 and not 1/32, with few dead latents of an example at a time, so that they compete for the residual:
    in short trainings with 1/32 and 256 of them three to four times as many latents were dead at any time.

    Attributes:
        latents: size of the dictionary D.
        k: latents active in an example, the same as in the k-sparse auto-encoder so that both can be compared.
        dead_after: examples without firing after which a latent counts as dead.
        aux_k: dead latents that may explain the residual of an example.
        aux_weight: weight of that share of unexplained residual.
    """

    latents: PositiveInt = 1000
    k: PositiveInt = 25
    dead_after: PositiveInt = 2_500
    aux_k: PositiveInt = 50
    aux_weight: NonNegativeFloat = 0.25

    def __post_init__(self) -> None:
        """Refuses what does not go together."""
        super().__post_init__()
        if self.k > self.latents:
            raise ExperimentError(
                f"{self.name}: k must lie in 1..{self.latents}, the number of latents. Received: {self.k}"
            )

    @abstractmethod
    def build(self) -> SparseAutoencoder:
        """A fresh model."""

    def sparsity_loss(self, model: SparseAutoencoder, preactivations: tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
        """What is added to keep the latents sparse; nothing where k itself does."""
        del model, preactivations, epoch
        return tf.constant(0.0)

    def steps(self, data: DigitData) -> int:
        """Steps of the whole training."""
        return self.epochs * -(-len(self.train_images(data)) // self.batch_size)

    def program(self, model: SparseAutoencoder, data: DigitData) -> Program:
        """Adam on the unexplained share, the auxiliary loss of dead latents and the kind's sparsity loss."""
        images = self.train_images(data)
        model.b_dec.assign(geometric_median(images[:MEDIAN_OF]))
        steps = self.steps(data)
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0, steps - steps // 20, warmup_target=self.learning_rate, warmup_steps=steps // 20
        )
        progress = tf.Variable(0, trainable=False, dtype=tf.int32, name="epoch")

        def objective(image: tf.Tensor) -> Mapping[str, tf.Tensor]:
            preactivations = model.preactivations(image)
            latents = model.sparse_in_training(preactivations)
            reconstruction = model.decode(latents, training=True)
            model.count_idle(latents)
            dead = model.idle >= self.dead_after
            residual = tf.stop_gradient(image - reconstruction)

            def auxiliary() -> tf.Tensor:
                revived = dead_latents(preactivations, dead, min(self.aux_k, self.latents))
                return unexplained(residual, model.decode(revived, training=True) - model.b_dec)

            def nothing() -> tf.Tensor:
                return tf.constant(0.0)

            scalars = {
                "unexplained": unexplained(image, reconstruction),
                # without a dead latent there is nothing to decode, and most steps have none
                "auxiliary": tf.cond(tf.reduce_any(dead), auxiliary, nothing),
                "sparsity": self.sparsity_loss(model, preactivations, progress),
            }
            loss = scalars["unexplained"] + self.aux_weight * scalars["auxiliary"] + scalars["sparsity"]
            return {
                "loss": loss,
                **scalars,
                "l0": tf.reduce_mean(tf.math.count_nonzero(latents, axis=1, dtype=tf.float32)),
                "dead": tf.reduce_mean(tf.cast(dead, tf.float32)),
            }

        return Autodiff(
            model,
            objective,
            keras.optimizers.Adam(schedule, epsilon=6.25e-10),
            lambda epoch: self.batches(images, epoch),
            before_epoch=progress.assign,
        )

    @abstractmethod
    def layout(self, model: SparseAutoencoder) -> SaeLayout:
        """The model as arrays."""

    def extra_files(self, model: SparseAutoencoder, training: TrainingRecord, folder: Path) -> None:
        """The layout that sparse auto-encoder tools read, in ``sae/``."""
        write_sae(self.layout(model), asdict(training), folder)


@dataclass(frozen=True, kw_only=True)
class TopK(SparseAutoencoderExperiment):
    """TopK with the auxiliary loss: Gao et al., arXiv 2406.04093."""

    def build(self) -> TopKAutoencoder:
        """A fresh model."""
        return TopKAutoencoder(PIXELS, self.latents, self.k, seed=self.seed)

    def layout(self, model: TopKAutoencoder) -> SaeLayout:
        """The model as arrays."""
        return SaeLayout("topk", "topk", **arrays_of(model), k=self.k)


@dataclass(frozen=True, kw_only=True)
class BatchTopK(SparseAutoencoderExperiment):
    """BatchTopK: Bussmann, Leask and Nanda, arXiv 2412.06410.

    Attributes:
        threshold_rate: weight of the newest batch in the moving average of the exported threshold. In trainings of
            less than 2,000 steps it is larger, so that the average forgets the first half of them.
    """

    threshold_rate: Annotated[float, Range(0, 1, above=True)] = 0.01

    def build(self) -> BatchTopKAutoencoder:
        """A fresh model."""
        return BatchTopKAutoencoder(PIXELS, self.latents, self.k, threshold_rate=self.threshold_rate, seed=self.seed)

    def program(self, model: BatchTopKAutoencoder, data: DigitData) -> Program:
        """As for the others; the threshold follows at least as fast as the training is short."""
        model.threshold_rate = min(1.0, max(self.threshold_rate, 20 / self.steps(data)))
        return super().program(model, data)

    def layout(self, model: BatchTopKAutoencoder) -> SaeLayout:
        """The model as arrays, with the threshold of inference."""
        # the rectifier comes before the threshold, which is never below 0
        threshold = np.full(self.latents, model.threshold.numpy(), np.float32)
        return SaeLayout("jumprelu", "batchtopk", **arrays_of(model), threshold=threshold)


@dataclass(frozen=True, kw_only=True)
class JumpRelu(SparseAutoencoderExperiment):
    """JumpReLU: Rajamanoharan et al., arXiv 2407.14435, with the loss ``c (L0/k − 1)²`` that aims at k.

    Attributes:
        bandwidth: of the straight-through estimate, in units of a latent. The paper's 0.001 is meant for inputs of
            length 1; digits are some ten times as long.
        initial_threshold: of every latent.
        sparsity_weight: c, after the warm-up.
        sparsity_warmup: share of the epochs over which c rises linearly from 0.
    """

    bandwidth: PositiveFloat = 0.1
    initial_threshold: PositiveFloat = 0.5
    sparsity_weight: NonNegativeFloat = 5.0
    sparsity_warmup: Share = 0.25

    def build(self) -> JumpReluAutoencoder:
        """A fresh model."""
        return JumpReluAutoencoder(
            PIXELS,
            self.latents,
            bandwidth=self.bandwidth,
            initial_threshold=self.initial_threshold,
            seed=self.seed,
        )

    def layout(self, model: JumpReluAutoencoder) -> SaeLayout:
        """The model as arrays."""
        return SaeLayout("jumprelu", "jumprelu", **arrays_of(model), threshold=model.threshold.numpy())

    def sparsity_loss(self, model: JumpReluAutoencoder, preactivations: tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
        """The weighted distance of L0 from k."""
        ramp = tf.minimum(1.0, tf.cast(epoch + 1, tf.float32) / max(1.0, self.sparsity_warmup * self.epochs))
        return ramp * self.sparsity_weight * target_l0(model.active(preactivations), self.k)


def arrays_of(model: SparseAutoencoder) -> dict[str, Any]:
    """The arrays that all three have, under the names of the layout."""
    return {name: getattr(model, name).numpy() for name in ("W_enc", "b_enc", "W_dec", "b_dec")}


_QUICK = {"epochs": 4, "probe_examples": 10_000}

SPARSE_AUTOENCODERS = (
    TopK(
        name="mnist_top_k",
        summary="TopK sparse auto-encoder with auxiliary loss for dead latents (Gao et al.)",
        epochs=30,
        batch_size=250,
        learning_rate=2e-3,
        presets={"quick": _QUICK},
    ),
    BatchTopK(
        name="mnist_batch_top_k",
        summary="BatchTopK sparse auto-encoder, exported with its threshold (Bussmann et al.)",
        epochs=30,
        batch_size=250,
        learning_rate=2e-3,
        presets={"quick": _QUICK},
    ),
    JumpRelu(
        name="mnist_jump_relu",
        summary="JumpReLU sparse auto-encoder with learned thresholds (Rajamanoharan et al.)",
        epochs=30,
        batch_size=250,
        learning_rate=2e-3,
        presets={"quick": _QUICK},
    ),
)
