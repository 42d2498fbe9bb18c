"""The segmentation auto-encoder whose encoder is first trained by sparse filtering."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import keras
import numpy as np
import tensorflow as tf

from training.datasets.pedestrians import PedestrianData
from training.encoders.segmentation_autoencoder import SegmentationAutoencoder
from training.experiments.base import ExperimentError
from training.experiments.pedestrian_autoencoders.base import PedestrianAutoencoder
from training.experiments.ranges import NonNegativeFloat, PositiveFloat, PositiveInt
from training.loops.staged import Stage, Staged
from training.loops.trainer import Program
from training.sparsity.sparse_filtering import (
    Reduction,
    activated,
    feature_norms,
    negative_share,
    normalised,
    sparse_filtering,
)


@dataclass(frozen=True, kw_only=True)
class PedestrianSparseFiltering(PedestrianAutoencoder):
    """The net whose encoder first learns sparse features without any mask, and which is then trained end to end.

    Stage 1 minimises the sparse filtering objective of F alone; the decoder is left as it is. Stage 2 minimises L, with
    an Adam of its own at ten times the rate. The encoding is the sparse filtering transform of F with the feature norms
    of the training pictures, which are kept in the model: each picture's encoding is its own.

    Attributes:
        activation: of the sparse filtering.
        forward: what the decoder is given: the ``linear`` F, or the ``activated`` A.
        filter_epochs: of stage 1; the other ``epochs - filter_epochs`` are stage 2.
        filter_learning_rate: of stage 1.
        filter_codes: pictures over which a step of sparse filtering normalises, all of them where there are fewer. An
            epoch of stage 1 has as many steps as one of stage 2.
        reduction: of the sparse filtering objective; ``examples`` is the paper's sum, divided by the examples.
        stage2_sf_weight: of the sparse filtering objective beside L in stage 2.
    """

    activation: Literal["soft_absolute", "elu_abs", "elu_signed"]
    forward: Literal["linear", "activated"] = "activated"
    filter_epochs: PositiveInt = 200
    filter_learning_rate: PositiveFloat = 0.0005
    filter_codes: PositiveInt = 85
    reduction: Literal["examples", "entries"] = "examples"
    stage2_sf_weight: NonNegativeFloat = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.filter_epochs >= self.epochs:
            raise ExperimentError(
                f"{self.name}: filter_epochs must lie in 1..{self.epochs - 1}, for there are {self.epochs} epochs. "
                f"Received: {self.filter_epochs}"
            )

    def build(self, dtype: Literal["float32", "float64"] = "float32") -> SegmentationAutoencoder:
        """A fresh model."""
        return SegmentationAutoencoder(
            tf.identity if self.forward == "linear" else self._activated,
            lambda features, norms: normalised(features, norms, self.activation, self.epsilon),
            code_stddev=1.0,
            seed=self.seed,
            dtype=dtype,
        )

    def program(self, model: SegmentationAutoencoder, data: PedestrianData) -> Program:
        """Sparse filtering, then end to end; each stage ends with the training pictures' feature norms kept."""
        pictures = tf.constant(np.stack([self.asked(scene) for scene in data.train]))
        reduction: Reduction = self.reduction

        def filtered(picture: tf.Tensor) -> dict[str, tf.Tensor]:
            features = model.features(picture)
            return {
                "sparse_filtering": sparse_filtering(features, self.activation, self.epsilon, reduction),
                "negative_share": negative_share(features, self.activation, self.epsilon),
            }

        def filter_objective(picture: tf.Tensor) -> Mapping[str, tf.Tensor]:
            scalars = filtered(picture)
            return {"loss": scalars["sparse_filtering"], **scalars}

        segment_objective = self.segmentation_objective(model)

        def whole_objective(batch: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> Mapping[str, tf.Tensor]:
            *segmentation, codes = batch
            scalars, sparsity = segment_objective(segmentation), filtered(codes)
            return {
                **scalars,
                **sparsity,
                "loss": scalars["loss"] + self.stage2_sf_weight * sparsity["sparse_filtering"],
            }

        def keep_norms() -> None:
            model.keep_norms(feature_norms(model.features(pictures), self.activation, self.epsilon))

        whole_optimizer = self.optimizer()

        def finish() -> None:
            whole_optimizer.finalize_variable_values(model.trainable_variables)
            keep_norms()

        def whole_batches(epoch: int) -> Iterator[tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
            restart(epoch)
            for (picture, mask), codes in zip(self.batches(data, epoch), self._drawn(pictures, epoch), strict=True):
                # a mini-batch that is large enough is normalised over itself, as the source's program does
                yield picture, mask, picture if self.filter_codes <= self.batch_size else codes

        def restart(epoch: int) -> None:
            # the features of the first stage stay
            self.redraw_if_stuck(model, ("decoder",), whole_optimizer, data, epoch - self.filter_epochs)

        def plain_batches(epoch: int) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
            restart(epoch)
            yield from self.batches(data, epoch)

        weighted = self.stage2_sf_weight != 0
        return Staged(
            model,
            (
                Stage(
                    name="sparse_filtering",
                    epochs=self.filter_epochs,
                    objective=filter_objective,
                    optimizer=keras.optimizers.Adam(self.filter_learning_rate),
                    variables=model.encoder.trainable_variables,
                    batches=lambda epoch: self._drawn(pictures, epoch),
                    at_end=keep_norms,
                ),
                Stage(
                    name="end_to_end",
                    epochs=self.epochs - self.filter_epochs,
                    objective=whole_objective if weighted else segment_objective,
                    optimizer=whole_optimizer,
                    variables=model.trainable_variables,
                    batches=whole_batches if weighted else plain_batches,
                    at_end=finish,
                ),
            ),
        )

    def evaluate(self, model: SegmentationAutoencoder, data: PedestrianData) -> dict[str, float]:
        """Also J / N of the test pictures under the kept norms, in 1..3, and the share of negative entries."""
        features = np.concatenate([model.features(self.asked(scene)[np.newaxis]).numpy() for scene in data.test])
        sphere = normalised(features, model.feature_norms.numpy(), self.activation, self.epsilon)
        return {
            **super().evaluate(model, data),
            "sparse_filtering": float(tf.reduce_sum(sphere)) / len(features),
            "negative_share": float(negative_share(features, self.activation, self.epsilon)),
        }

    def _activated(self, features: tf.Tensor) -> tf.Tensor:
        return activated(features, self.activation, self.epsilon)

    def _drawn(self, pictures: tf.Tensor, epoch: int) -> Iterator[tf.Tensor]:
        """For each step of ``epoch``, ``filter_codes`` of the pictures, none twice."""
        rng = np.random.default_rng([self.seed, epoch])
        count = pictures.shape[0]
        for _ in range(-(-count // self.batch_size)):
            if self.filter_codes >= count:
                yield pictures
            else:
                yield tf.gather(pictures, rng.choice(count, self.filter_codes, replace=False))
