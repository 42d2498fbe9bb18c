from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.training.conftest import TINY
from training.datasets.digits import DigitData
from training.evaluation.stability import match_dictionaries
from training.experiments import EXPERIMENTS
from training.run_folder import RunError
from training.stability_study import study


def test_order_sign_and_length_do_not_matter(rng: np.random.Generator) -> None:
    columns = rng.standard_normal((30, 12)).astype(np.float32)
    changed = columns[:, rng.permutation(12)] * rng.choice([-2.0, 0.5], 12).astype(np.float32)
    match = match_dictionaries(columns, changed)
    assert match.mean_cosine == pytest.approx(1, abs=1e-6)
    assert match.shared == 1


def test_half_in_common_is_half_shared(rng: np.random.Generator) -> None:
    directions = np.linalg.qr(rng.standard_normal((60, 60)))[0].astype(np.float32)
    match = match_dictionaries(directions[:, :20], directions[:, 10:30])
    assert match.shared == 0.5
    assert match.mean_cosine == pytest.approx(0.5, abs=1e-6)


def test_each_column_is_used_once() -> None:
    one = np.array([[1, 1], [0, 0]], np.float32)
    assert match_dictionaries(one, np.eye(2, dtype=np.float32)).mean_cosine == 0.5


def test_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"same shape\. Received: \(4, 3\) and \(4, 2\)"):
        match_dictionaries(np.ones((4, 3), np.float32), np.ones((4, 2), np.float32))


def test_seeds_are_trained_and_matched_beside_untrained_ones(tmp_path: Path, digit_data: DigitData) -> None:
    experiment = EXPERIMENTS["mnist_k_sparse"].with_settings({**TINY["mnist_k_sparse"], "epochs": "4"})
    scores = study(experiment, digit_data, [0, 1, 2], tmp_path)
    assert scores["mean_cosine_smallest"] <= scores["mean_cosine"] <= scores["mean_cosine_largest"]
    assert scores["mean_cosine"] > scores["control_untrained_mean_cosine"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["seed-0", "seed-1", "seed-2", "stability.json"]
    written = json.loads((tmp_path / "stability.json").read_text())
    assert (written["seeds"], written["scores"]) == ([0, 1, 2], scores)
    run = json.loads((tmp_path / "seed-0" / "config.json").read_text())
    assert {**written["settings"], "seed": 0} == run["settings"]
    for key in ("experiment", "preset", "dataset", "data_source"):
        assert written[key] == run[key]


@pytest.mark.parametrize(("name", "settings"), [("mnist_neural", {}), ("mnist_k_sparse", {"start": "strokes"})])
def test_the_control_of_a_training_that_starts_from_digits_does_so_too(
    tmp_path: Path, digit_data: DigitData, name: str, settings: dict[str, str]
) -> None:
    experiment = EXPERIMENTS[name].with_settings({**TINY[name], "epochs": "1", **settings})
    dictionaries = []
    for seed in ("0", "1"):
        seeded = experiment.with_settings({"seed": seed})
        model = seeded.build()
        seeded.program(model, digit_data)
        dictionaries.append(model.dictionary.numpy())
    start = match_dictionaries(*dictionaries).mean_cosine
    assert start > 0.2  # drawn ones share 0.1
    scores = study(experiment, digit_data, [0, 1], tmp_path)
    assert scores["control_untrained_mean_cosine"] == start


@pytest.mark.parametrize(("name", "seeds", "message"), [
    ("mnist_k_sparse", [3], "two or more different seeds. Received: 3"),
    ("mnist_k_sparse", [1, 1], "two or more different seeds. Received: 1, 1"),
    ("mnist_convolutional", [0, 1], "mnist_convolutional has none"),
])  # fmt: skip
def test_what_cannot_be_compared_is_refused(
    name: str, seeds: list[int], message: str, tmp_path: Path, digit_data: DigitData
) -> None:
    with pytest.raises(RunError, match=message):
        study(EXPERIMENTS[name], digit_data, seeds, tmp_path)
