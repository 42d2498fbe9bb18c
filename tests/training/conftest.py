"""Small data and small trained runs, made once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from training.datasets import digits, streets
from training.datasets.digits import DigitData
from training.datasets.pedestrians import PedestrianData
from training.experiments import EXPERIMENTS
from training.runs import Run

SMALL_SPARSE_AUTOENCODER = {
    "epochs": "3",
    "latents": "64",
    "k": "8",
    "dead_after": "300",
    "aux_k": "16",
    "probe_pca": "16",
}
TINY = {
    "pedestrian_unet": {
        "epochs": "2",
        "stem": "4",
        "widths": "8,8,8,8",
        "bottleneck": "8",
        "train_height": "32",
        "train_width": "32",
        "ask_height": "64",
        "ask_width": "64",
    },
    "pedestrian_plain": {"epochs": "2"},
    "pedestrian_l1": {"epochs": "2"},
    "pedestrian_l2": {"epochs": "2"},
    "pedestrian_sparse_softabs": {"epochs": "3", "filter_epochs": "1"},
    "pedestrian_sparse_elu": {"epochs": "3", "filter_epochs": "1"},
    "mnist_plain": {"epochs": "2", "latents": "48", "probe_pca": "16"},
    "mnist_l2": {"epochs": "2", "latents": "48", "probe_pca": "16"},
    "mnist_kl": {"epochs": "2", "latents": "48", "probe_pca": "16"},
    "mnist_neural": {"epochs": "2", "latents": "48", "k": "6", "batch_size": "50", "probe_pca": "16"},
    "mnist_k_sparse": {"epochs": "2", "latents": "64", "k": "8", "k_start": "16", "probe_pca": "16"},
    "mnist_denoising": {"epochs": "2", "latents": "48", "probe_pca": "16"},
    "mnist_l1_activity": {"epochs": "2", "widths": "12", "probe_pca": "16"},
    "mnist_undercomplete": {"epochs": "2", "widths": "24,12", "probe_pca": "16"},
    "mnist_convolutional": {"epochs": "2", "channels": "4,4,2", "probe_pca": "16"},
    "mnist_variational": {"epochs": "2", "widths": "24", "probe_pca": "16"},
    "mnist_stacked": {
        "epochs": "5",
        "widths": "24,12",
        "layer_epochs": "1",
        "classifier_epochs": "1",
        "fine_tuning_epochs": "1",
        "decoder_epochs": "1",
        "probe_pca": "16",
    },
    "mnist_sparse_filtering": {"epochs": "2", "latents": "24", "iterations": "5", "probe_pca": "16"},
    "mnist_top_k": SMALL_SPARSE_AUTOENCODER,
    "mnist_batch_top_k": SMALL_SPARSE_AUTOENCODER,
    "mnist_jump_relu": SMALL_SPARSE_AUTOENCODER,
}
"""Settings with which each experiment trains in a second or two."""


@pytest.fixture(scope="session")
def street_data() -> PedestrianData:
    return streets.load(seed=0, train=9, test=7)


@pytest.fixture(scope="session")
def digit_data() -> DigitData:
    whole = digits.load()
    return dataclasses.replace(
        whole,
        train_images=whole.train_images[:300],
        train_labels=whole.train_labels[:300],
        test_images=whole.test_images[:100],
        test_labels=whole.test_labels[:100],
    )


@pytest.fixture(scope="session")
def tiny_runs(
    tmp_path_factory: pytest.TempPathFactory, street_data: PedestrianData, digit_data: DigitData
) -> dict[str, Run]:
    """Every experiment of the registry, trained small."""
    folder = tmp_path_factory.mktemp("runs")
    runs = {}
    for name, experiment in EXPERIMENTS.items():
        data = {"segmentation": street_data, "mnist": digit_data}[experiment.family]
        runs[name] = Run(experiment.with_preset("quick").with_settings(TINY[name]), data, folder / name)
        runs[name].train()
    return runs


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory, tiny_runs: dict[str, Run]) -> Path:
    """A model repository with version 1 of every experiment."""
    models = tmp_path_factory.mktemp("models")
    for run in tiny_runs.values():
        run.export(models)
    return models


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
