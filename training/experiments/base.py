"""What every experiment is: a named, frozen configuration that knows how to put the pieces together."""

from __future__ import annotations

import abc
import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Self, TypeVar

import keras
import numpy as np
from numpy.typing import NDArray

from training.datasets.source import DataSource
from training.evaluation import figures
from training.evaluation.latent_figures import cost_over_time
from training.experiments.ranges import PositiveFloat, PositiveInt, Range, outside
from training.export.manifest import TrainingRecord
from training.export.servable import Family, Servable
from training.loops.trainer import Program

Preset = str
Epochs = Sequence[Mapping[str, float]]
FULL = "full"


class ExperimentError(Exception):
    """An experiment, preset or setting that does not exist, or a value that does not fit."""


class Data(typing.Protocol):
    """What every data set tells of itself."""

    @property
    def name(self) -> str:
        """For manifest, log and report."""

    @property
    def source(self) -> DataSource:
        """Real, or embedded stand-in."""

    @property
    def location(self) -> str:
        """Of data of one's own; "" for the named data sets."""

    @property
    def fingerprint(self) -> str:
        """Of the files of data of one's own; "" for the named data sets."""


DataT = TypeVar("DataT", bound=Data)


@dataclass(frozen=True, kw_only=True)
class Experiment(abc.ABC, Generic[DataT]):
    """One encoder with everything needed to train, score, show and export it.

    The defaults of the fields are the ``full`` preset; another preset states only its difference. A field's type says
    in which range it lies (:mod:`training.experiments.ranges`); what goes together with what, ``__post_init__``.

    Attributes:
        name: of the experiment, of its run folder and of the served model.
        summary: one line for ``list``.
        seed: of weights, order and augmentation.
        epochs: passes over the training data.
        batch_size: examples of one step.
        learning_rate: at the start.
        presets: from a preset's name to the fields in which it differs.
        preset: the one in force.
    """

    family: ClassVar[Family]
    local: ClassVar[tuple[str, ...]] = ()
    """Settings that name files or folders of the machine: no manifest and no card tells them."""

    name: str
    summary: str
    # TensorFlow's generators take no larger one
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0
    epochs: PositiveInt
    batch_size: PositiveInt
    learning_rate: PositiveFloat
    presets: Mapping[Preset, Mapping[str, Any]] = field(default_factory=dict)
    preset: Preset = FULL

    def __post_init__(self) -> None:
        """Refuses settings outside of their ranges.

        Raises:
            ExperimentError: a setting that cannot be trained with, or that does not go together with another.
        """
        for setting, range_, value in outside(self):
            text = ",".join(map(str, value)) if isinstance(value, tuple) else value
            raise ExperimentError(f"{self.name}: {setting} must {range_}. Received: {text}")

    def with_preset(self, preset: Preset) -> Self:
        """This experiment in another preset.

        Raises:
            ExperimentError: the experiment has no such preset; names those it has.
        """
        known = self.known_presets()
        if preset not in known:
            raise ExperimentError(f"{self.name}: expected one of the presets {', '.join(known)}. Received: {preset!r}")
        return dataclasses.replace(self, **self.presets.get(preset, {}), preset=preset)

    def known_presets(self) -> list[str]:
        """The presets that this experiment has."""
        return [*self.presets, FULL]

    def with_settings(self, settings: Mapping[str, str]) -> Self:
        """This experiment with fields changed from text, as ``--set learning_rate=0.01`` does.

        Raises:
            ExperimentError: no such field, or a text that is not of the field's type or not in its range.
        """
        types = typing.get_type_hints(type(self))
        changes: dict[str, Any] = {}
        for key, text in settings.items():
            if key not in self.settings():
                known = ", ".join(self.settings())
                raise ExperimentError(f"{self.name}: expected one of the settings {known}. Received: {key!r}")
            changes[key] = _parsed(types[key], text, f"{self.name}: setting '{key}'")
        return dataclasses.replace(self, **changes)

    def settings(self) -> dict[str, Any]:
        """The fields that can be set, as plain JSON values."""
        hidden = {"name", "summary", "presets", "preset"}
        return {
            item.name: _plain(getattr(self, item.name)) for item in dataclasses.fields(self) if item.name not in hidden
        }

    @abc.abstractmethod
    def load_data(self, choice: str) -> DataT:
        """The data set with its split.

        Args:
            choice: a policy ("auto", "real" or "embedded") for the experiment's own data set, or somebody's data as
                :mod:`training.datasets.own` reads them ("folder:PATH", "coco:FILE").

        Raises:
            DataError: the data cannot be had or are at fault.
        """

    @abc.abstractmethod
    def build(self) -> keras.Model:
        """A fresh model."""

    def missing(self) -> str:
        """What a training needs beside its data and has not got on this machine, and how to get it; "" for nothing."""
        return ""

    def prepare(self) -> None:
        """Brings here what a training needs beside its data; called before a run folder is touched.

        Raises:
            DataError: it cannot be had, or is at fault.
        """
        return

    @abc.abstractmethod
    def program(self, model: keras.Model, data: DataT) -> Program:
        """How ``model`` is trained."""

    @abc.abstractmethod
    def evaluate(self, model: keras.Model, data: DataT) -> dict[str, float]:
        """Scores on the test split, with their controls."""

    @abc.abstractmethod
    def draw(self, model: keras.Model, data: DataT, folder: Path) -> list[Path]:
        """Pictures of what the model does on the test split; returns the files written."""

    def draw_training(self, history: Epochs, snapshots: list[NDArray[np.float32]], folder: Path) -> list[Path]:
        """Pictures of how the training went: cost over time. Returns the files written.

        Args:
            history: the scalars of every epoch.
            snapshots: what :meth:`snapshot` kept, in order.
            folder: of the figures.
        """
        del snapshots
        return figures.save({"cost.png": cost_over_time(history, self.name)}, folder) if history else []

    def snapshot(self, model: keras.Model) -> NDArray[np.float32] | None:
        """What is kept of the model after an epoch to show how it learned; None for nothing."""
        del model
        return None

    @abc.abstractmethod
    def servable(self, model: keras.Model) -> Servable:
        """What is exported."""

    def extra_files(self, model: keras.Model, training: TrainingRecord, folder: Path) -> None:
        """Writes into the model version ``folder`` what others read beside SavedModel and ONNX; here nothing."""
        del model, training, folder

    @abc.abstractmethod
    def parity_inputs(self, data: DataT) -> NDArray[Any]:
        """Real inputs of the exported graph, at least 64 where the data set has them."""


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _parsed(kind: Any, text: str, what: str) -> Any:
    origin = typing.get_origin(kind)
    try:
        if origin is tuple:
            element, _ = typing.get_args(kind)
            return tuple(element(part) for part in text.split(",") if text)
        if origin is typing.Literal:
            if text not in typing.get_args(kind):
                raise ValueError
            return text
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return kind(text)
    except (ValueError, KeyError) as error:
        choices = typing.get_args(kind) if origin is typing.Literal else None
        expected = f"one of {', '.join(choices)}" if choices else getattr(kind, "__name__", str(kind))
        raise ExperimentError(f"{what} must be {expected}. Received: {text!r}") from error
