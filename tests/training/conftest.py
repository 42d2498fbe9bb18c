"""Small data and small trained runs, made once."""

from __future__ import annotations

import dataclasses
import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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
    """Every experiment of the registry, trained small: by one of the test processes, for all of them."""
    shared = shared_folder(tmp_path_factory)
    runs = {}
    for name, experiment in EXPERIMENTS.items():
        data = {"segmentation": street_data, "mnist": digit_data}[experiment.family]
        runs[name] = Run(experiment.with_preset("quick").with_settings(TINY[name]), data, shared / "runs" / name)
    for name in in_own_order(runs):
        with locked(shared / f"{name}.lock"):
            runs[name].train()
            runs[name].scores()
    return runs


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory, tiny_runs: dict[str, Run]) -> Path:
    """A model repository with version 1 of every experiment."""
    shared = shared_folder(tmp_path_factory)
    for name in in_own_order(tiny_runs):
        with locked(shared / f"{name}.lock"):
            tiny_runs[name].export(shared / "models")
    return shared / "models"


def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all processes of a parallel test run."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tiny"


def in_own_order(names: Iterable[str]) -> list[str]:
    """From one end or from the other, so that two processes share the work instead of waiting for each other."""
    backwards = os.environ.get("PYTEST_XDIST_WORKER", "gw0") != "gw0"
    return list(reversed(list(names))) if backwards else list(names)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
