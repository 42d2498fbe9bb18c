"""Pedestrian segmentation on Penn-Fudan: what all its networks share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from training.datasets import own, penn_fudan
from training.datasets.pedestrians import FOLDS, PedestrianData, PedestrianScene, held_out
from training.datasets.pipeline import training_pipeline
from training.datasets.resizing import resize, restore
from training.datasets.source import DataPolicy
from training.encoders.unet import with_quarter_head
from training.evaluation import figures
from training.evaluation.segmentation import control_predictions, score_masks
from training.experiments.base import Experiment, ExperimentError
from training.experiments.ranges import NonNegativeFloat, PositiveFloat, PositiveInt, Range, Share
from training.export.servable import Family, Resizing, Servable, Tensor
from training.loops.fit import Objective
from training.loops.precision import Precision, computing_in
from training.loops.schedules import warm_cosine
from training.losses.segmentation import binary_crossentropy, soft_dice

Answer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
Target = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


@dataclass(frozen=True, kw_only=True)
class PedestrianExperiment(Experiment[PedestrianData]):
    """A network from uint8 RGB pictures to pedestrian logits.

    Attributes:
        ask_height: pixels; the size at which evaluation and service ask the model.
        ask_width: likewise.
        threshold: probability from which a pixel is foreground.
        fold: -1 for the data's own split. 0, 1 or 2 leaves the test pictures alone, holds out that third of the
            training pictures and scores on it: what is to be chosen is chosen there.
    """

    family: ClassVar[Family] = "segmentation"
    resizing_rule: ClassVar[Any] = "letterbox"
    multiple_of: ClassVar[int] = 32
    pad_value: ClassVar[int] = 127

    ask_height: PositiveInt = 256
    ask_width: PositiveInt = 256
    threshold: Share = 0.5
    fold: Annotated[int, Range(-1, FOLDS - 1)] = -1

    def __post_init__(self) -> None:
        """Refuses sizes that the network does not take."""
        super().__post_init__()
        self.check_sizes("ask_height", "ask_width")

    def check_sizes(self, *settings: str) -> None:
        """Refuses sizes that are no multiples of what the network needs."""
        for setting in settings:
            pixels = getattr(self, setting)
            if pixels % self.multiple_of:
                raise ExperimentError(
                    f"{self.name}: {setting} must be a multiple of {self.multiple_of} pixels. Received: {pixels}"
                )

    def load_data(self, choice: str) -> PedestrianData:
        """Penn-Fudan, synthetic streets, or pictures with masks of one's own."""
        data = own.load_scenes(choice) if own.is_own(choice) else penn_fudan.load(cast(DataPolicy, choice))
        return data if self.fold < 0 else held_out(data, self.fold)

    def resizing(self) -> Resizing:
        """How a picture is brought to the model."""
        return Resizing(self.resizing_rule, self.ask_height, self.ask_width, self.multiple_of, self.pad_value)

    def servable(self, model: keras.Model) -> Servable:
        """``image`` to ``mask``, and to the encoding where there is one."""
        free = self.multiple_of > 1
        size = (-1, -1) if free else (self.ask_height, self.ask_width)
        axes = ("batch", "height", "width", "channel")
        return Servable(
            family=self.family,
            model=model,
            outputs_of=lambda image: self.outputs_of(model, image),
            input=Tensor("image", "UINT8", (-1, *size, 3), axes, (0.0, 255.0), "RGB"),
            outputs=(Tensor("mask", "FP32", (-1, *size, 1), axes, (0.0, 1.0)), *self.further_outputs()),
            resizing=self.resizing(),
            default_threshold=self.threshold,
        )

    def outputs_of(self, model: keras.Model, image: tf.Tensor) -> Mapping[str, tf.Tensor]:
        """The exported graph, from uint8 [N, H, W, 3] to every output."""
        return {"mask": tf.sigmoid(model(image, training=False))}

    def further_outputs(self) -> tuple[Tensor, ...]:
        """What the graph has beside ``mask``."""
        return ()

    def asked(self, scene: PedestrianScene) -> NDArray[np.uint8]:
        """The picture as the model is asked: uint8 [ask_height, ask_width, 3]."""
        rule = self.resizing()
        picture: NDArray[np.uint8] = resize(scene.picture, rule.rule, rule.height, rule.width, rule.pad_value)[0]
        return picture

    def parity_inputs(self, data: PedestrianData) -> NDArray[Any]:
        """Test pictures at the size at which the service asks."""
        return np.stack([self.asked(scene) for scene in data.test[:64]])

    def predict(self, model: keras.Model, scene: PedestrianScene) -> NDArray[np.float32]:
        """Probabilities at the picture's own size: float32 [H, W]."""
        outputs_of = self.servable(model).outputs_of
        return self.predict_by(lambda picture: np.asarray(outputs_of(tf.constant(picture))["mask"]), scene)

    def predict_by(self, answer: Answer, scene: PedestrianScene) -> NDArray[np.float32]:
        """The same of anything that answers uint8 [1, ask_height, ask_width, 3] by float [1, ..., 1] probabilities."""
        rule = self.resizing()
        picture, geometry = resize(scene.picture, rule.rule, rule.height, rule.width, rule.pad_value)
        return restore(answer(picture[np.newaxis])[0, :, :, 0], geometry)

    def evaluate(self, model: keras.Model, data: PedestrianData) -> dict[str, float]:
        """Scores at the pictures' own size, beside an empty mask and the mean training mask."""
        outputs_of = self.servable(model).outputs_of
        return self.score(lambda picture: np.asarray(outputs_of(tf.constant(picture))["mask"]), data)

    def score(self, answer: Answer, data: PedestrianData) -> dict[str, float]:
        """See :meth:`evaluate`; for ``answer`` see :meth:`predict_by`."""
        truths = [scene.mask for scene in data.test]
        predictions = [self.predict_by(answer, scene) >= self.threshold for scene in data.test]
        scores = asdict(score_masks(truths, predictions))
        sizes = [scene.instances.shape for scene in data.test]
        controls = control_predictions([scene.mask for scene in data.train], sizes)
        for name, masks in controls.items():
            control = score_masks(truths, masks)
            scores[f"control_{name}_iou_per_image"] = control.iou_per_image
            scores[f"control_{name}_dice_per_image"] = control.dice_per_image
        return scores

    def draw(self, model: keras.Model, data: PedestrianData, folder: Path) -> list[Path]:
        """The 2x3 panel of the source for a few test pictures."""
        scenes = data.test[:: max(1, len(data.test) // 6)][:6]
        panels = {
            f"panel_{scene.name}.png": figures.segmentation_panel(scene.picture, scene.mask, self.predict(model, scene))
            for scene in scenes
        }
        return figures.save(panels, folder)


@dataclass(frozen=True, kw_only=True)
class AugmentedPedestrian(PedestrianExperiment):
    """A fully convolutional network that ends as :func:`training.encoders.unet.way_up`, trained on augmented crops.

    Attributes:
        train_height: pixels of a training crop.
        train_width: likewise.
        zoom: smallest and largest zoom of a crop, relative to the picture letterboxed into the crop's size. The upper
            end covers the larger size at which the model is asked.
        paste: probability of each of up to two persons from other pictures to be put into a training crop.
        widths: channels of each level.
        dice_weight: weight of the soft Dice loss beside the cross-entropy.
        auxiliary_weight: weight of the same loss at a quarter of the resolution, of a head that is not exported; 0 for
            none.
        precision: of the training steps; weights, scores and export are float32 either way.
        weight_decay: of AdamW, on kernels only.
    """

    train_height: PositiveInt = 192
    train_width: PositiveInt = 192
    zoom: tuple[PositiveFloat, ...] = (0.45, 1.35)
    paste: Share = 0.5
    widths: tuple[PositiveInt, ...]
    dice_weight: NonNegativeFloat = 1.0
    auxiliary_weight: NonNegativeFloat = 0.4
    precision: Precision = "mixed_bfloat16"
    weight_decay: NonNegativeFloat = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_sizes("train_height", "train_width")
        self.check_zoom("zoom", self.zoom)

    def check_zoom(self, setting: str, zoom: tuple[float, ...]) -> None:
        """Refuses what is no range of zooms."""
        if len(zoom) != 2 or zoom[0] > zoom[1]:
            raise ExperimentError(
                f"{self.name}: {setting} must be a smallest and a largest zoom above 0, as 0.45,1.35. "
                f"Received: {','.join(map(str, zoom))}"
            )

    def with_head(self, model: keras.Model) -> keras.Model:
        """What is trained: ``model``, with the head at a quarter of the resolution where that has a weight."""
        return with_quarter_head(model, seed=self.seed) if self.auxiliary_weight else model

    def optimizer(self, learning_rate: float, epochs: int, data: PedestrianData) -> keras.optimizers.Optimizer:
        """AdamW at one rate after a rise, falling as a cosine."""
        return self.adamw(warm_cosine(learning_rate, epochs * self.steps(data)))

    def steps(self, data: PedestrianData) -> int:
        """Batches of an epoch."""
        return -(-len(data.train) // self.batch_size)

    def adamw(self, schedule: keras.optimizers.schedules.LearningRateSchedule) -> keras.optimizers.Optimizer:
        """AdamW whose decay leaves biases and normalisations alone."""
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=self.weight_decay)
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        return optimizer

    def objective(self, trained: keras.Model, target: Target | None = None) -> Objective:
        """Cross-entropy and soft Dice of a batch of pictures uint8 [B, H, W, 3] and masks float [B, H, W, 1].

        Args:
            trained: the net, with its head where it has one.
            target: from pictures and masks to what is to be answered, float [B, H, W, 1] in 0..1; None: the masks.
        """

        def objective(batch: tuple[tf.Tensor, tf.Tensor]) -> Mapping[str, tf.Tensor]:
            picture, mask = batch if target is None else (batch[0], target(*batch))
            with computing_in(trained, self.precision):
                outputs = trained(picture, training=True)
            logits, *quarter = [tf.cast(each, tf.float32) for each in tf.nest.flatten(outputs)]
            crossentropy, dice = binary_crossentropy(mask, logits), soft_dice(mask, logits)
            scalars = {"crossentropy": crossentropy, "soft_dice": dice}
            loss = crossentropy + self.dice_weight * dice
            for coarse in quarter:
                share = tf.nn.avg_pool2d(mask, 4, 4, "VALID")
                auxiliary = binary_crossentropy(share, coarse) + self.dice_weight * soft_dice(share, coarse)
                scalars["auxiliary"] = auxiliary
                loss += self.auxiliary_weight * auxiliary
            return {"loss": loss, **scalars}

        return objective

    def batches(
        self, data: PedestrianData, epoch: int, zoom: tuple[float, ...] = (), paste: float | None = None
    ) -> tf.data.Dataset:
        """Augmented crops and their masks, drawn from (seed, epoch).

        Args:
            data: whose training scenes to show.
            epoch: from 0.
            zoom: in place of the setting of that name.
            paste: likewise.
        """
        smallest, largest = zoom or self.zoom
        return training_pipeline(
            data.train,
            height=self.train_height,
            width=self.train_width,
            batch_size=self.batch_size,
            seed=self.seed,
            epoch=epoch,
            augment=True,
            zoom=(smallest, largest),
            paste=self.paste if paste is None else paste,
        )
