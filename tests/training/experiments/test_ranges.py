"""Settings that cannot be trained with are refused before anything is written."""

from __future__ import annotations

import dataclasses
import math
import typing
from pathlib import Path

import pytest

from tests.training.conftest import TINY
from training.datasets.digits import DigitData
from training.experiments import EXPERIMENTS, OPTIONAL
from training.experiments.base import ExperimentError
from training.experiments.ranges import Range
from training.runs import Run

ALL = {**EXPERIMENTS, **OPTIONAL}


@pytest.mark.parametrize("name", ALL)
def test_every_number_that_can_be_set_has_a_range(name: str) -> None:
    experiment = ALL[name]
    kinds = typing.get_type_hints(type(experiment), include_extras=True)
    for setting in experiment.settings():
        kind = kinds[setting]
        if typing.get_origin(kind) is tuple:
            kind = typing.get_args(kind)[0]
        if getattr(kind, "__origin__", kind) in (int, float):
            assert any(isinstance(note, Range) for note in getattr(kind, "__metadata__", ())), setting


@pytest.mark.parametrize(
    ("range_", "inside", "beyond", "text"),
    [
        (Range(1), [1, 2, 10**9], [0, -1, math.inf, math.nan], "be finite, 1 or more"),
        (Range(0, above=True), [1e-9, 3], [0.0, -1.0, math.nan], "be finite and above 0"),
        (Range(0, 1), [0, 0.5, 1], [-0.1, 1.1, math.nan], "lie in 0..1"),
        (Range(0, 1, below=True), [0, 0.5], [1, math.inf], "lie in 0..1, 1 excluded"),
        (Range(0, 1, above=True, below=True), [0.5], [0, 1], "lie in 0..1, 0 and 1 excluded"),
    ],
)
def test_a_range_has_its_ends_unless_excluded(
    range_: Range, inside: list[float], beyond: list[float], text: str
) -> None:
    assert all(value in range_ for value in inside)
    assert not any(value in range_ for value in beyond)
    assert str(range_) == text


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        ("mnist_plain", "epochs=0", r"mnist_plain: epochs must be finite, 1 or more\. Received: 0"),
        ("mnist_top_k", "batch_size=0", r"batch_size must be finite, 1 or more\. Received: 0"),
        ("mnist_top_k", "seed=-1", r"seed must lie in 0\.\.2147483647\. Received: -1"),
        ("mnist_top_k", "learning_rate=-1", r"learning_rate must be finite and above 0\. Received: -1"),
        ("mnist_top_k", "learning_rate=nan", r"learning_rate must be finite and above 0\. Received: nan"),
        ("mnist_top_k", "train_examples=-5", r"train_examples must be finite, 0 or more\. Received: -5"),
        ("mnist_top_k", "k=5000", r"mnist_top_k: k must lie in 1\.\.1000, the number of latents\. Received: 5000"),
        ("mnist_k_sparse", "k=5000", r"mnist_k_sparse: k must lie in 1\.\.1000, the number of latents"),
        ("mnist_k_sparse", "alpha=41", r"alpha \* k must lie in 1\.\.1000.*Received: 1025"),
        ("mnist_neural", "k=196", r"k must be below 196, the number of latents\. Received: 196"),
        ("mnist_undercomplete", "widths=64,0", r"widths must be finite, 1 or more\. Received: 64,0"),
        ("mnist_stacked", "layer_epochs=0", r"layer_epochs must be finite, 1 or more"),
        ("mnist_denoising", "keep=0", r"keep must lie in 0\.\.1, 0 excluded\. Received: 0"),
        ("pedestrian_unet", "ask_height=100", r"ask_height must be a multiple of 32 pixels\. Received: 100"),
        ("pedestrian_unet", "train_width=100", r"train_width must be a multiple of 32 pixels\. Received: 100"),
        ("pedestrian_unet", "zoom=0.5,inf", r"zoom must be finite and above 0\. Received: 0.5,inf"),
        ("pedestrian_unet", "widths=8", r"widths must hold the channels of 2 to 4 levels\. Received: 8"),
        ("pedestrian_unet", "widths=8,8,8,8,8", r"widths must hold the channels of 2 to 4 levels"),
        ("pedestrian_unet", "epochs=2,settling=0.8", r"settling must leave one of 2 epochs before it\. Received: 0.8"),
        ("pedestrian_mobilenet", "widths=8,8", r"widths must hold the channels of 4 levels\. Received: 8,8"),
        ("pedestrian_plain", "weight_average=1", r"weight_average must lie in 0\.\.1, 1 excluded\. Received: 1"),
    ],
)
def test_what_cannot_be_trained_with_is_refused(name: str, setting: str, message: str) -> None:
    pairs = dict(part.split("=") for part in setting.split(",") if "=" in part)
    with pytest.raises(ExperimentError, match=message):
        ALL[name].with_settings(pairs if len(pairs) > 1 else dict([setting.split("=")]))


def test_what_is_refused_leaves_no_folder_behind(tmp_path: Path, digit_data: DigitData) -> None:
    experiment = EXPERIMENTS["mnist_denoising"].with_settings(TINY["mnist_denoising"])
    too_large = dataclasses.replace(experiment, drop_partial=True, batch_size=len(digit_data.train_images) + 1)
    folder = tmp_path / "mnist_denoising"
    with pytest.raises(ExperimentError, match=r"drop_partial needs as many digits as batch_size=301.*Received: 300"):
        Run(too_large, digit_data, folder).train()
    assert not folder.exists()
    Run(experiment, digit_data, folder).train(stop_after=1)


def test_what_is_refused_with_force_leaves_the_run_before_it(tmp_path: Path, digit_data: DigitData) -> None:
    experiment = EXPERIMENTS["mnist_denoising"].with_settings({**TINY["mnist_denoising"], "epochs": "1"})
    run = Run(experiment, digit_data, tmp_path)
    run.train()
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(ExperimentError, match="drop_partial"):
        Run(dataclasses.replace(experiment, drop_partial=True, batch_size=301), digit_data, tmp_path).train(force=True)
    assert {path.name for path in tmp_path.iterdir()} == before
    assert run.complete


def test_k_sparse_keeps_no_more_latents_than_there_are() -> None:
    experiment = EXPERIMENTS["mnist_k_sparse"].with_settings({"latents": "50", "k": "20", "k_start": "100"})
    assert [experiment.k_at(epoch) for epoch in range(10)] == [50, 50, 50, 50, 36, 20, 20, 20, 20, 20]
