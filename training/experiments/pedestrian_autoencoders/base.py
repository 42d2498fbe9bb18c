"""The segmentation auto-encoder trained end to end, plain or with a weight penalty."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

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
from training.experiments.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Range
from training.export.servable import Servable, Tensor
from training.loops.fit import Autodiff, Objective
from training.loops.redrawing import constant_loss, redraw
from training.loops.trainer import Program
from training.losses.segmentation import binary_crossentropy, squared_error
from training.losses.weight_penalties import l1_penalty, l2_penalty
from training.sparsity.sparse_filtering import (
    activated,
)

logger = logging.getLogger(__name__)

Penalty = Literal["none", "l1", "l2"]
REDRAWS = 3
STUCK = 0.97
"""Share of a constant mask's loss. After 40 epochs a stuck net is at 0.99, the others were at 0.86 at most."""
PENALTIES = {"l1": l1_penalty, "l2": l2_penalty}


@dataclass(frozen=True, kw_only=True)
class PedestrianAutoencoder(PedestrianExperiment):
    """The net trained end to end on ``L = mean (p - t)² + mean crossentropy``, plain or with a weight penalty.

    The bottleneck hands ``√(F² + ε)`` to the decoder, which is also the encoding. The source's program has it so even
    in its plain net.

    Attributes:
        epochs: of both stages where there are two. On training pictures held out 400 were better than 800 for the
            net with ELU, and as good for the plain one.
        augment: flip, zoom, move and recolour the training pictures; the control.
        penalty: on the kernels of all convolutions.
        penalty_weight: of the penalty beside L.
        epsilon: ε of the soft absolute.
        weight_average: momentum, over steps, of the moving average of the weights that the trained net ends with; 0
            ends with the last step's. At a constant rate and five pictures a step the last step is one of many that
            differ by hundredths of IoU; on training pictures held out the average was the better one each time.
        redraw_after: epochs end to end after which a net that answers no better than a constant mask gets new weights,
            and again after as many, at most three times; 0 never. The source's small initial weights, without a bias,
            leave one net in some where it started, for as long as it is trained. Larger ones never did, but the nets
            they led to were no better on training pictures held out (``training/RESULTS.md``).
    """

    resizing_rule: ClassVar[Any] = "stretch"
    multiple_of: ClassVar[int] = 1

    ask_height: PositiveInt = SIDE
    ask_width: PositiveInt = SIDE
    epochs: PositiveInt = 400
    batch_size: PositiveInt = 5
    learning_rate: PositiveFloat = 0.005
    augment: bool = False
    penalty: Penalty = "none"
    penalty_weight: NonNegativeFloat = 0.005
    epsilon: PositiveFloat = 1e-8
    weight_average: Annotated[float, Range(0, 1, below=True)] = 0.997
    redraw_after: NonNegativeInt = 40

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.ask_height, self.ask_width) != (SIDE, SIDE):
            raise ExperimentError(
                f"{self.name}: the architecture is made for {SIDE}x{SIDE}. "
                f"Received: ask_height={self.ask_height}, ask_width={self.ask_width}"
            )

    def build(self, dtype: Literal["float32", "float64"] = "float32") -> SegmentationAutoencoder:
        """A fresh model."""
        return SegmentationAutoencoder(
            lambda features: activated(features, "soft_absolute", self.epsilon),
            lambda features, _: activated(features, "soft_absolute", self.epsilon),
            seed=self.seed,
            dtype=dtype,
        )

    def servable(self, model: SegmentationAutoencoder) -> Servable:
        """With the same in float64: features of some hundreds cancel in the decoder."""

        def precise_of(image: tf.Tensor) -> Mapping[str, tf.Tensor]:
            twin = self.build("float64")
            twin.set_weights(model.get_weights())
            return self.outputs_of(twin, image)

        return dataclasses.replace(super().servable(model), precise_of=precise_of)

    def program(self, model: SegmentationAutoencoder, data: PedestrianData) -> Program:
        """Adam."""
        optimizer = self.optimizer()

        def batches(epoch: int) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
            self.redraw_if_stuck(model, ("encoder", "decoder"), optimizer, data, epoch)
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

    def redraw_if_stuck(
        self,
        model: SegmentationAutoencoder,
        parts: Sequence[str],
        optimizer: keras.optimizers.Optimizer,
        data: PedestrianData,
        epoch: int,
    ) -> None:
        """See :attr:`redraw_after`; a function of weights, seed and ``epoch``, counted from 0 end to end, alone."""
        if not self.redraw_after or epoch not in [self.redraw_after * time for time in range(1, REDRAWS + 1)]:
            return
        plain = dataclasses.replace(self, augment=False, batch_size=len(data.train))
        ((picture, mask),) = plain.batches(data, 0)
        if tf.reduce_min(mask) == tf.reduce_max(mask):  # of small persons nothing may be left; constant is right, then
            return
        logits = model(picture)
        loss = float(binary_crossentropy(mask, logits) + squared_error(mask, logits))
        constant = float(constant_loss(mask))
        if loss < STUCK * constant:
            return
        logger.warning(
            "%s: the loss after %d epochs is %.3f, a constant mask's %.3f; weights are drawn anew",
            self.name, epoch, loss, constant,
        )  # fmt: skip
        fresh = dataclasses.replace(self, seed=(self.seed + 1) * 10_000 + epoch).build()
        redraw([getattr(model, part) for part in parts], [getattr(fresh, part) for part in parts], optimizer)

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
