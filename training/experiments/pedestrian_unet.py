"""The U-Net for pedestrians: ``python -m training train pedestrian_unet``.

See ``training/RESULTS.md`` for what it scores, how long it takes and on which machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import keras
import tensorflow as tf

from training.datasets.mixing import mixed
from training.datasets.pedestrians import PedestrianData
from training.datasets.source import DataError
from training.encoders.unet import unet
from training.experiments.base import ExperimentError
from training.experiments.pedestrian import AugmentedPedestrian, Target
from training.experiments.ranges import PositiveFloat, PositiveInt, Range, Share
from training.loops.fit import Autodiff
from training.loops.precision import computing_in
from training.loops.schedules import RestartedCosine
from training.loops.trainer import Program
from training.run_folder import FINGERPRINT, WEIGHTS, load_weights, read_config


@dataclass(frozen=True, kw_only=True)
class PedestrianUNet(AugmentedPedestrian):
    """The U-Net of :mod:`training.encoders.unet`.

    Attributes:
        stem: channels of the strided first convolution.
        bottleneck: channels at the lowest resolution.
        settling: share of the epochs, the last ones, in which crops have ``settled_zoom`` and nobody is put in, at a
            rate that starts anew at ``settled_rate`` times the learning rate. At all zooms a person of any size is one
            to be found; at the zoom at which the model is asked it learns which are too small or far away to have been
            labelled. It costs recall and gains more precision.
        settled_zoom: about the one at which the model is asked.
        settled_rate: see above.
        teachers: folders of runs, as ``--runs`` takes them, each with a finished training of this experiment on the
            same data: the mean of their answers to the very crop that is shown is learned beside the labels (Hinton,
            Vinyals and Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531; that teachers see the
            same crop: Beyer et al., arXiv 2106.05237).
        distillation: share of that answer in what is learned, 0..1; the rest are the labels.
        start: folder of runs, likewise, with the training from whose weights this one starts; "" for new weights.
        mixing: probability of a crop to be mixed with another one (:mod:`training.datasets.mixing`), but for the epochs
            that settle. To crops of pictures that they were trained with, teachers answer little but the labels; to
            mixed ones they answer what is theirs.
    """

    local: ClassVar[tuple[str, ...]] = ("teachers", "start")

    stem: PositiveInt = 16
    widths: tuple[PositiveInt, ...] = (16, 40, 64, 96)
    bottleneck: PositiveInt = 112
    settling: Annotated[float, Range(0, 1, below=True)] = 0.18
    settled_zoom: tuple[PositiveFloat, ...] = (1.0, 1.3)
    settled_rate: PositiveFloat = 0.3
    teachers: tuple[str, ...] = ()
    distillation: Share = 0.7
    start: str = ""
    mixing: Share = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_zoom("settled_zoom", self.settled_zoom)
        # each level halves the size, and the stem does
        deepest, head = (self.multiple_of // 2).bit_length() - 1, bool(self.auxiliary_weight)
        if not 1 + head <= len(self.widths) <= deepest:
            raise ExperimentError(
                f"{self.name}: widths must hold the channels of {1 + head} to {deepest} levels. "
                f"Received: {','.join(map(str, self.widths))}"
            )
        if round(self.settling * self.epochs) >= self.epochs:
            raise ExperimentError(
                f"{self.name}: settling must leave one of {self.epochs} epochs before it. Received: {self.settling}"
            )

    def prepare(self) -> None:
        """Looks whether all teachers are there, and the training to start from.

        Raises:
            DataError: one is not.
        """
        wanted = [(teacher, "as a teacher") for teacher in self.teachers]
        if self.start:
            wanted.append((self.start, "to start from"))
        for runs, purpose in wanted:
            folder = Path(runs, self.name)
            if not (folder / WEIGHTS).exists():
                raise DataError(f"{folder}: expected a finished training of {self.name}, {purpose}. Received: none")

    def build(self) -> keras.Model:
        """A fresh model."""
        return unet(self.stem, self.widths, self.bottleneck, seed=self.seed)

    def program(self, model: keras.Model, data: PedestrianData) -> Program:
        """Everything from the first step on: at all zooms, then at that of the service."""
        if self.start:
            folder = Path(self.start, self.name)
            sizes = [
                {name: settings[name] for name in ("stem", "widths", "bottleneck")}
                for settings in (self.settings(), self._config(folder, data)["settings"])
            ]
            if sizes[0] != sizes[1]:
                raise DataError(f"{folder}: expected a net with {sizes[0]}, to start from. Received: {sizes[1]}")
            load_weights(model, folder)
        trained = self.with_head(model)
        objective = self.objective(trained, self.taught(data) if self.teachers else None)
        settled = round(self.settling * self.epochs)
        first, second = ((self.epochs - settled) * self.steps(data), settled * self.steps(data))
        schedule = RestartedCosine(self.learning_rate, first, self.settled_rate * self.learning_rate, second)

        def batches(epoch: int) -> tf.data.Dataset:
            if epoch < self.epochs - settled:
                batches = self.batches(data, epoch)
                return mixed(batches, self.mixing, seed=self.seed, epoch=epoch) if self.mixing else batches
            return self.batches(data, epoch, self.settled_zoom, paste=0.0)

        return Autodiff(trained, objective, self.adamw(schedule), batches)

    def taught(self, data: PedestrianData) -> Target:
        """What the teachers have a student learn: their mean answer, mixed with the labels.

        Raises:
            DataError: a teacher was trained on other pictures than ``data``, and may have seen those that are scored.
        """
        models = [self._teacher(Path(teacher, self.name), data) for teacher in self.teachers]

        def target(picture: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
            answers = []
            for model in models:
                with computing_in(model, self.precision):
                    answers.append(tf.sigmoid(tf.cast(model(picture, training=False), tf.float32)))
            return (1 - self.distillation) * mask + self.distillation * tf.add_n(answers) / len(answers)

        return target

    def _teacher(self, folder: Path, data: PedestrianData) -> keras.Model:
        settings = self._config(folder, data)["settings"]
        model = unet(settings["stem"], settings["widths"], settings["bottleneck"])
        load_weights(model, folder)
        return model

    def _config(self, folder: Path, data: PedestrianData) -> Mapping[str, Any]:
        """Of a run; refused where it was trained on other pictures than ``data``."""
        config = read_config(folder)
        if (config["dataset"], config["data_source"]) != (data.name, data.source):
            raise DataError(
                f"{folder}: expected a net trained on {data.name} ({data.source} data). "
                f"Received: one trained on {config['dataset']} ({config['data_source']} data)"
            )
        if config.get(FINGERPRINT, "") != data.fingerprint:
            raise DataError(
                f"{folder}: expected a net trained on the pictures of {data.location} as they are now. "
                f"Received: one trained on others, of {config['data']}"
            )
        return config


# In minutes: fewer epochs, and none of what makes the pictures harder and pays only later.
_QUICK = {
    "epochs": 70,
    "zoom": (0.5, 1.6),
    "paste": 0.0,
    "widths": (24, 48, 64, 96),
    "bottleneck": 96,
    "auxiliary_weight": 0.0,
    "settling": 0.0,
    "precision": "float32",
    "ask_height": 256,
    "ask_width": 256,
}

PEDESTRIAN = (
    PedestrianUNet(
        name="pedestrian_unet",
        summary="U-Net for pedestrian masks of any picture, trained with augmentation",
        epochs=854,
        ask_height=224,
        ask_width=224,
        batch_size=8,
        learning_rate=3e-3,
        presets={"quick": _QUICK},
    ),
)
