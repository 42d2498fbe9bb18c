"""Pedestrian segmentation on Penn-Fudan, from an encoder that has seen ImageNet. Optional: its weights are others'.

``python -m training train pedestrian_mobilenet`` downloads them (some 3 MB) from where ``keras.applications`` has them;
``--set weights=FILE`` takes a file, ``--set weights=none`` none at all. With the project's own downloads, not Keras':
those have no time limits, and take half a file for a whole one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
from numpy.typing import NDArray

from training.datasets.download import RemoteFile, cache_folder, fetch
from training.datasets.pedestrians import PRETRAINED, PedestrianData
from training.datasets.source import DataError, DataUnavailable, find
from training.encoders.mobilenet import ALPHAS, SKIPS, encoder_of, load_encoder, mobilenet_unet, read_weights
from training.experiments.base import ExperimentError
from training.experiments.pedestrian import AugmentedPedestrian
from training.experiments.ranges import NonNegativeInt, PositiveFloat, PositiveInt
from training.loops.staged import Stage, Staged
from training.loops.trainer import Program

ADDRESS = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"
"""Of the weights that ``keras.applications.MobileNetV2`` names."""
IMAGENET, NONE = "imagenet", "none"


@dataclass(frozen=True, kw_only=True)
class PedestrianMobileNet(AugmentedPedestrian):
    """The net of :mod:`training.encoders.mobilenet`.

    With weights from elsewhere the encoder stays as it is for the first epochs, so that the decoder's first errors do
    not undo it; then all is trained, at a lower rate. The encoder's batch normalisation is left alone throughout.
    Without them the whole net is trained from the first epoch on, at ``learning_rate``.

    Attributes:
        alpha: width of MobileNetV2 relative to the publication's.
        weights: of the encoder at the start. ``imagenet``; ``none`` for drawn ones; or a file as ``keras.applications``
            publishes them, without the classifier.
        frozen_epochs: of the decoder alone.
        fine_tuning_rate: learning rate, at its start, of all together.
    """

    local: ClassVar[tuple[str, ...]] = ("weights",)

    alpha: PositiveFloat = 0.5
    widths: tuple[PositiveInt, ...] = (16, 32, 48, 64)
    weights: str = IMAGENET
    frozen_epochs: NonNegativeInt
    fine_tuning_rate: PositiveFloat

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.widths) != len(SKIPS):
            raise ExperimentError(
                f"{self.name}: widths must hold the channels of {len(SKIPS)} levels. "
                f"Received: {','.join(map(str, self.widths))}"
            )
        if self.frozen_epochs >= self.epochs:
            raise ExperimentError(
                f"{self.name}: frozen_epochs must lie in 0..{self.epochs - 1}, for there are {self.epochs} epochs. "
                f"Received: {self.frozen_epochs}"
            )
        if self.weights == IMAGENET and self.alpha not in ALPHAS:
            known = ", ".join(map(str, ALPHAS))
            raise ExperimentError(
                f"{self.name}: there are ImageNet weights for alpha {known}; others need weights=none or a file. "
                f"Received: {self.alpha}"
            )

    @property
    def pretrained(self) -> bool:
        """Whether the encoder starts with weights from elsewhere."""
        return self.weights != NONE

    def load_data(self, choice: str) -> PedestrianData:
        """As the others', under a name that says so where more than this data set has taught the model."""
        data = super().load_data(choice)
        return dataclasses.replace(data, name=data.name + PRETRAINED) if self.pretrained else data

    def build(self) -> keras.Model:
        """A fresh model, without weights from elsewhere: a trained one needs them no more."""
        return mobilenet_unet(self.alpha, self.widths, pretrained=self.pretrained, seed=self.seed)

    def prepare(self) -> None:
        """Fetches the encoder's weights and reads them."""
        if self.pretrained:
            self._encoder_weights()

    def missing(self) -> str:
        """The encoder's weights, where they would have to be downloaded."""
        if self.weights != IMAGENET or _imagenet_at_hand(self.alpha):
            return ""
        return f"its ImageNet weights are not on this machine; python -m training train {self.name} downloads them"

    def program(self, model: keras.Model, data: PedestrianData) -> Program:
        """The decoder, then all; or all from the first step on where the encoder has nothing to keep."""
        trained = self.with_head(model)
        objective = self.objective(trained)
        encoder = {id(variable) for variable in encoder_of(model).trainable_variables}
        decoder = [variable for variable in trained.trainable_variables if id(variable) not in encoder]
        frozen = self.frozen_epochs if self.pretrained else 0
        if self.pretrained:
            load_encoder(model, self._encoder_weights())

        def stage(name: str, epochs: int, rate: float, variables: list[Any]) -> Stage:
            optimizer = self.optimizer(rate, epochs, data)
            return Stage(name, epochs, objective, optimizer, variables, lambda epoch: self.batches(data, epoch))

        rate = self.fine_tuning_rate if self.pretrained else self.learning_rate
        stages = [stage("decoder", frozen, self.learning_rate, decoder)] if frozen else []
        return Staged(trained, [*stages, stage("whole", self.epochs - frozen, rate, trained.trainable_variables)])

    def _encoder_weights(self) -> Mapping[str, list[NDArray[np.float32]]]:
        """Of each layer of the encoder.

        Raises:
            DataError: they cannot be had, or are not what they should be.
        """
        try:
            path = _imagenet(self.alpha) if self.weights == IMAGENET else Path(self.weights).expanduser()
            return _read(path, self.alpha)
        except DataUnavailable as error:
            raise DataUnavailable(
                f"{self.name}: {error} Or name the file by --set weights=FILE, or train without: --set weights=none"
            ) from error
        except ValueError as error:
            raise DataError(f"{self.name}: {error}") from error


@lru_cache(maxsize=1)
def _read(path: Path, alpha: float) -> dict[str, list[NDArray[np.float32]]]:
    return read_weights(path, alpha)


def _imagenet(alpha: float) -> Path:
    file = _remote(alpha)
    return find(file.name) or fetch(file)


def _imagenet_at_hand(alpha: float) -> bool:
    file = _remote(alpha)
    return bool(find(file.name, expected=False)) or (cache_folder() / file.name).is_file()


def _remote(alpha: float) -> RemoteFile:
    name = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{alpha}_224_no_top.h5"

    def accept(path: Path) -> None:
        try:
            _read(path, alpha)
        except ValueError as error:
            raise DataError(str(error)) from error

    # Keras names no checksum of these files: that they fit the network decides
    return RemoteFile(f"imagenet/{name}", (ADDRESS + name,), checksum=None, accept=accept)


# The rates are those of the U-Net and a tenth of them, as fine tuning usually has it; not chosen by measurement, for
# the weights could not be had where this was written.
PEDESTRIAN_MOBILENET = (
    PedestrianMobileNet(
        name="pedestrian_mobilenet",
        summary="U-Net whose way down is a MobileNetV2 that has seen ImageNet; optional, its weights are downloaded",
        epochs=300,
        frozen_epochs=30,
        ask_height=224,
        ask_width=224,
        batch_size=8,
        learning_rate=3e-3,
        fine_tuning_rate=3e-4,
        precision="float32",  # a step in bfloat16 takes as long: depthwise convolutions gain nothing by it
        presets={"quick": {"epochs": 60, "frozen_epochs": 15, "zoom": (0.5, 1.6), "paste": 0.0}},
    ),
)
