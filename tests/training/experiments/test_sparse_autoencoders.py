from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.training.conftest import SMALL_SPARSE_AUTOENCODER
from training.datasets.digits import DigitData
from training.experiments import EXPERIMENTS
from training.experiments.sparse_autoencoders import JumpRelu, SparseAutoencoderExperiment
from training.runs import Run
from training.sparsity.geometric_median import geometric_median

NAMES = ["mnist_top_k", "mnist_batch_top_k", "mnist_jump_relu"]


def small(name: str, **settings: str) -> SparseAutoencoderExperiment:
    experiment = EXPERIMENTS[name].with_settings({**SMALL_SPARSE_AUTOENCODER, "batch_size": "50", **settings})
    assert isinstance(experiment, SparseAutoencoderExperiment)
    return experiment


@pytest.mark.parametrize("name", NAMES)
def test_training_starts_at_the_geometric_median(digit_data: DigitData, name: str) -> None:
    experiment = small(name)
    model = experiment.build()
    experiment.program(model, digit_data)
    np.testing.assert_array_equal(model.b_dec, geometric_median(digit_data.train_images))


def test_batch_top_k_has_about_k_active_latents_without_a_batch(digit_data: DigitData, tmp_path: Path) -> None:
    experiment = small("mnist_batch_top_k", epochs="20")
    run = Run(experiment, digit_data, tmp_path)
    run.train()
    active = np.count_nonzero(run.model().encode(digit_data.train_images), axis=1)
    assert active.mean() == pytest.approx(experiment.k, rel=0.15)
    assert active.std() > 0


def test_jump_relu_comes_to_its_target(digit_data: DigitData, tmp_path: Path) -> None:
    experiment = small("mnist_jump_relu", epochs="60", learning_rate="0.01")
    run = Run(experiment, digit_data, tmp_path)
    run.train()
    active = np.count_nonzero(run.model().encode(digit_data.train_images), axis=1)
    assert active.mean() == pytest.approx(experiment.k, rel=0.15)


def test_the_sparsity_weight_warms_up() -> None:
    experiment = small("mnist_jump_relu", epochs="8", sparsity_warmup="0.5")
    assert isinstance(experiment, JumpRelu)
    model = experiment.build()
    pre = np.full((4, 64), 1.0, np.float32)
    losses = [float(experiment.sparsity_loss(model, pre, np.int32(epoch))) for epoch in range(6)]
    full = experiment.sparsity_weight * (64 / 8 - 1) ** 2
    assert losses == pytest.approx([full / 4, full / 2, full * 3 / 4, full, full, full])


def test_dead_latents_are_revived(digit_data: DigitData) -> None:
    """Latents with a bias that silences them fire again with the auxiliary loss, and do not without it."""
    fired = {}
    for weight in ("0", "0.25"):
        experiment = small("mnist_top_k", epochs="60", aux_weight=weight, learning_rate="0.01", dead_after="100")
        model = experiment.build()
        bias = np.zeros(64, np.float32)
        bias[32:] = -0.6
        model.b_enc.assign(bias)
        program = experiment.program(model, digit_data)
        for epoch in range(experiment.epochs):
            program.before_epoch(epoch)
            for batch in program.batches(epoch):
                program.step(batch)
        codes = model.encode(digit_data.train_images).numpy()
        fired[weight] = np.count_nonzero(codes[:, 32:].any(axis=0))
    assert fired["0.25"] > 2 * fired["0"]


def test_a_resumed_run_remembers_which_latents_are_idle(digit_data: DigitData, tmp_path: Path) -> None:
    experiment = small("mnist_top_k", epochs="4")
    whole, cut = Run(experiment, digit_data, tmp_path / "whole"), Run(experiment, digit_data, tmp_path / "cut")
    whole.train()
    cut.train(stop_after=2)
    cut.train()
    for one, other in zip(whole.model().get_weights(), cut.model().get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert cut.model().idle.numpy().max() > 0
