"""The five segmentation auto-encoders of the source, on Penn-Fudan stretched to 96x96.

One architecture with a bottleneck of nine numbers (:mod:`training.encoders.segmentation_autoencoder`), and no
augmentation: the source asks whether sparsity regularises in its place. The control that answers it is
``python -m training train pedestrian_plain --set augment=true --runs ...``; those that are matched with the staged nets
are ``--set epochs=400``, in all epochs, and ``--set epochs=200``, in those end to end. ``training/RESULTS.md`` has the
scores of all of them.

The preset ``blog`` is the source's program: statistics over the mini-batch of 5, ε = 1e-20, mean of entries, the linear
features handed on, 201 epochs of sparse filtering whose objective stays in the sum with weight 1.75.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import keras
import numpy as np
import tensorflow as tf

from training.datasets.pedestrians import PedestrianData
from training.datasets.pipeline import training_pipeline
from training.encoders.segmentation_autoencoder import CODE, SIDE, SegmentationAutoencoder
from training.evaluation.segmentation import score_masks
from training.evaluation.sparse_coding import score_sparsity
from training.experiments.base import ExperimentError
from training.experiments.pedestrian import PedestrianExperiment
from training.export.servable import Tensor
from training.loops.fit import Autodiff, Objective
from training.loops.staged import Stage, Staged
from training.loops.trainer import Program
from training.losses.segmentation import binary_crossentropy, squared_error
from training.losses.weight_penalties import l1_penalty, l2_penalty
from training.sparsity.sparse_filtering import (
    PROGRAM_EPSILON,
    Reduction,
    activated,
    feature_norms,
    negative_share,
    normalised,
    sparse_filtering,
)

Penalty = Literal["none", "l1", "l2"]
PENALTIES = {"l1": l1_penalty, "l2": l2_penalty}


@dataclass(frozen=True, kw_only=True)
class PedestrianAutoencoder(PedestrianExperiment):
    """The net trained end to end on ``L = mean (p - t)² + mean crossentropy``, plain or with a weight penalty.

    The bottleneck hands ``√(F² + ε)`` to the decoder, which is also the encoding. The source's program has it so even
    in its plain net.

    Attributes:
        augment: flip, zoom, move and recolour the training pictures; the control.
        penalty: on the kernels of all convolutions.
        penalty_weight: of the penalty beside L.
        epsilon: ε of the soft absolute.
        weight_average: momentum, over steps, of the moving average of the weights that the trained net ends with; 0
            ends with the last step's. At a constant rate and five pictures a step the last step is one of many that
            differ by hundredths of IoU; on training pictures held out the average was the better one each time.
    """

    resizing_rule: ClassVar[Any] = "stretch"
    multiple_of: ClassVar[int] = 1

    ask_height: int = SIDE
    ask_width: int = SIDE
    epochs: int = 800
    batch_size: int = 5
    learning_rate: float = 0.005
    augment: bool = False
    penalty: Penalty = "none"
    penalty_weight: float = 0.005
    epsilon: float = 1e-8
    weight_average: float = 0.997

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.weight_average < 1:
            raise ExperimentError(
                f"{self.name}: weight_average must lie in 0..1, 1 excluded. Received: {self.weight_average}"
            )
        if (self.ask_height, self.ask_width) != (SIDE, SIDE):
            raise ExperimentError(
                f"{self.name}: the architecture is made for {SIDE}x{SIDE}. "
                f"Received: ask_height={self.ask_height}, ask_width={self.ask_width}"
            )

    def build(self) -> SegmentationAutoencoder:
        """A fresh model."""
        return SegmentationAutoencoder(
            lambda features: activated(features, "soft_absolute", self.epsilon),
            lambda features, _: activated(features, "soft_absolute", self.epsilon),
            seed=self.seed,
        )

    def program(self, model: SegmentationAutoencoder, data: PedestrianData) -> Program:
        """Adam."""
        optimizer = self.optimizer()

        def batches(epoch: int) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
            yield from self.batches(data, epoch)
            # the trainer asks for the next batch when it is done with this one: the last step lies behind us
            if epoch == self.epochs - 1:
                optimizer.finalize_variable_values(model.trainable_variables)

        return Autodiff(model, self.segmentation_objective(model), optimizer, batches)

    def optimizer(self) -> keras.optimizers.Optimizer:
        """Adam, which also averages the weights."""
        if not self.weight_average:
            return keras.optimizers.Adam(self.learning_rate)
        return keras.optimizers.Adam(self.learning_rate, use_ema=True, ema_momentum=self.weight_average)

    def segmentation_objective(self, model: SegmentationAutoencoder) -> Objective:
        """L and the penalty, of a batch of pictures uint8 [B, 96, 96, 3] and masks float [B, 96, 96, 1]."""

        def objective(batch: tuple[tf.Tensor, tf.Tensor]) -> Mapping[str, tf.Tensor]:
            picture, mask = batch
            logits = model(picture, training=True)
            crossentropy, square = binary_crossentropy(mask, logits), squared_error(mask, logits)
            scalars = {"crossentropy": crossentropy, "squared_error": square}
            if self.penalty == "none":
                return {"loss": crossentropy + square, **scalars}
            penalty = PENALTIES[self.penalty](model.convolution_kernels())
            return {"loss": crossentropy + square + self.penalty_weight * penalty, **scalars, "penalty": penalty}

        return objective

    def batches(self, data: PedestrianData, epoch: int) -> tf.data.Dataset:
        """Pictures and masks in an order drawn from (seed, epoch)."""
        return training_pipeline(
            data.train,
            height=SIDE,
            width=SIDE,
            batch_size=self.batch_size,
            seed=self.seed,
            epoch=epoch,
            augment=self.augment,
            rule="stretch",
        )

    def outputs_of(self, model: SegmentationAutoencoder, image: tf.Tensor) -> Mapping[str, tf.Tensor]:
        """``mask`` and ``encoding``, with one pass through the encoder."""
        encoding, logits = model.encode_and_segment(image)
        return {"mask": tf.sigmoid(logits), "encoding": encoding}

    def further_outputs(self) -> tuple[Tensor, ...]:
        """The nine numbers."""
        return (Tensor("encoding", "FP32", (-1, CODE), ("batch", "latent"), None),)

    def evaluate(self, model: SegmentationAutoencoder, data: PedestrianData) -> dict[str, float]:
        """Scores on the test pictures with their controls; IoU on the training pictures; the code's sparsity."""
        scores = super().evaluate(model, data)
        fitted = [self.predict(model, scene) >= self.threshold for scene in data.train]
        train = score_masks([scene.mask for scene in data.train], fitted)
        encoding = np.concatenate([model.encode(self.asked(scene)[np.newaxis]).numpy() for scene in data.test])
        return {
            **scores,
            "train_iou_per_image": train.iou_per_image,
            "encoding_hoyer": score_sparsity(encoding, np.any(encoding != 0, axis=0)).hoyer,
        }


@dataclass(frozen=True, kw_only=True)
class PedestrianSparseFiltering(PedestrianAutoencoder):
    """The net whose encoder first learns sparse features without any mask, and which is then trained end to end.

    Stage 1 minimises the sparse filtering objective of F alone; the decoder is left as it is. Stage 2 minimises L, with
    an Adam of its own at ten times the rate. The encoding is the sparse filtering transform of F with the feature norms
    of the training pictures, which are kept in the model: each picture's encoding is its own.

    Attributes:
        activation: of the sparse filtering.
        forward: what the decoder is given: the ``linear`` F, or the ``activated`` A.
        epochs: of both stages. On training pictures held out, 200 of stage 2 were better than 600, and the plain net no
            better for it (``training/RESULTS.md``).
        filter_epochs: of stage 1; the other ``epochs - filter_epochs`` are stage 2.
        filter_learning_rate: of stage 1.
        filter_codes: pictures over which a step of sparse filtering normalises, all of them where there are fewer. An
            epoch of stage 1 has as many steps as one of stage 2.
        reduction: of the sparse filtering objective; ``examples`` is the paper's sum, divided by the examples.
        stage2_sf_weight: of the sparse filtering objective beside L in stage 2.
    """

    activation: Literal["soft_absolute", "elu_abs", "elu_signed"]
    forward: Literal["linear", "activated"] = "activated"
    epochs: int = 400
    filter_epochs: int = 200
    filter_learning_rate: float = 0.0005
    filter_codes: int = 85
    reduction: Literal["examples", "entries"] = "examples"
    stage2_sf_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.filter_epochs < self.epochs:
            raise ExperimentError(
                f"{self.name}: filter_epochs must lie in 1..{self.epochs - 1}, for there are {self.epochs} epochs. "
                f"Received: {self.filter_epochs}"
            )

    def build(self) -> SegmentationAutoencoder:
        """A fresh model."""
        return SegmentationAutoencoder(
            tf.identity if self.forward == "linear" else self._activated,
            lambda features, norms: normalised(features, norms, self.activation, self.epsilon),
            code_stddev=1.0,
            seed=self.seed,
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
            for (picture, mask), codes in zip(self.batches(data, epoch), self._drawn(pictures, epoch), strict=True):
                # a mini-batch that is large enough is normalised over itself, as the source's program does
                yield picture, mask, picture if self.filter_codes <= self.batch_size else codes

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
                    batches=whole_batches if weighted else lambda epoch: self.batches(data, epoch),
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


_BLOG = {"epochs": 801, "epsilon": PROGRAM_EPSILON, "weight_average": 0.0}
_BLOG_STAGED = {
    **_BLOG,
    "forward": "linear",
    "filter_epochs": 201,
    "filter_codes": 5,
    "reduction": "entries",
    "stage2_sf_weight": 1.75,
}
_QUICK = {"epochs": 80}
_QUICK_STAGED = {"epochs": 70, "filter_epochs": 10}

PEDESTRIAN_AUTOENCODERS = (
    PedestrianAutoencoder(
        name="pedestrian_plain",
        summary="segmentation auto-encoder 96x96 through nine numbers",
        presets={"quick": _QUICK, "blog": _BLOG},
    ),
    PedestrianAutoencoder(
        name="pedestrian_l1",
        summary="the same with an L1 penalty on the convolutions' weights",
        penalty="l1",
        presets={"quick": _QUICK, "blog": _BLOG},
    ),
    PedestrianAutoencoder(
        name="pedestrian_l2",
        summary="the same with an L2 penalty on the convolutions' weights",
        penalty="l2",
        presets={"quick": _QUICK, "blog": _BLOG},
    ),
    PedestrianSparseFiltering(
        name="pedestrian_sparse_softabs",
        summary="the same, its encoder first trained by sparse filtering with the soft absolute",
        activation="soft_absolute",
        presets={"quick": _QUICK_STAGED, "blog": _BLOG_STAGED},
    ),
    PedestrianSparseFiltering(
        name="pedestrian_sparse_elu",
        summary="the same, its encoder first trained by sparse filtering with ELU",
        activation="elu_abs",
        presets={"quick": _QUICK_STAGED, "blog": {**_BLOG_STAGED, "activation": "elu_signed"}},
    ),
)
