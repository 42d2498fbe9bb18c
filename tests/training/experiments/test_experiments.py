from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.training.conftest import TINY
from training.__main__ import app
from training.datasets.digits import DigitData
from training.experiments import EXPERIMENTS, OPTIONAL, experiment_named
from training.experiments.base import ExperimentError
from training.run_folder import RunError
from training.runs import Run, open_run


def test_every_experiment_is_under_its_own_name_and_has_a_small_version_for_these_tests() -> None:
    assert [experiment.name for experiment in EXPERIMENTS.values()] == list(EXPERIMENTS)
    assert set(TINY) == set(EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_trains_scores_and_draws(tiny_runs: dict[str, Run], name: str) -> None:
    run = tiny_runs[name]
    scores = run.evaluate()
    assert all(isinstance(value, float) for value in scores.values())
    assert any(key.startswith("control_") for key in scores)
    figures = list((run.folder / "figures").glob("*.png"))
    assert figures
    assert all(figure.read_bytes().startswith(b"\x89PNG") for figure in figures)
    assert "cost.png" in [figure.name for figure in figures]
    filmed = any((run.folder / "snapshots").glob("*.npy"))
    assert (run.folder / "figures" / "weights.gif").exists() == filmed
    config = json.loads((run.folder / "config.json").read_text())
    assert config["data_source"] == "embedded"
    assert config["settings"] == json.loads(json.dumps(run.experiment.settings()))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_settings_survive_the_way_through_text(name: str) -> None:
    experiment = EXPERIMENTS[name].with_preset("quick")
    text = {
        key: ",".join(map(str, value)) if isinstance(value, list) else str(value)
        for key, value in experiment.settings().items()
    }
    assert experiment.with_settings(text) == experiment


def test_a_preset_states_only_its_difference() -> None:
    full = EXPERIMENTS["mnist_k_sparse"]
    quick = full.with_preset("quick")
    assert quick.preset == "quick"
    changed = {key for key, value in quick.settings().items() if value != full.settings()[key]}
    assert changed == set(full.presets["quick"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: experiment_named("mnist_k_sparce"), r"pedestrian_unet, .*mnist_k_sparse.*'mnist_k_sparce'"),
        (lambda: EXPERIMENTS["mnist_k_sparse"].with_preset("best"), r"presets quick, blog, full\. Received: 'best'"),
        (lambda: EXPERIMENTS["mnist_k_sparse"].with_settings({"lr": "1"}), r"learning_rate.*Received: 'lr'"),
        (lambda: EXPERIMENTS["mnist_k_sparse"].with_settings({"k": "ten"}), r"'k' must be int\. Received: 'ten'"),
        (lambda: EXPERIMENTS["mnist_k_sparse"].with_settings({"name": "x"}), r"Received: 'name'"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(change, message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        change()


def test_a_complete_run_is_not_trained_again_and_another_one_not_overwritten(
    tmp_path: Path, digit_data: DigitData
) -> None:
    experiment = EXPERIMENTS["mnist_k_sparse"].with_settings({**TINY["mnist_k_sparse"], "epochs": "1"})
    run = Run(experiment, digit_data, tmp_path / "mnist_k_sparse")
    run.train()
    before = (run.folder / "weights.npz").stat().st_mtime_ns
    run.train()
    assert (run.folder / "weights.npz").stat().st_mtime_ns == before
    other = Run(experiment.with_settings({"k": "3"}), digit_data, run.folder)
    with pytest.raises(RunError, match=r"settings: .*--force"):
        other.train()
    other.train(force=True)
    assert open_run("mnist_k_sparse", tmp_path).experiment.k == 3


def test_a_run_that_was_cut_is_not_exported(tmp_path: Path, digit_data: DigitData) -> None:
    experiment = EXPERIMENTS["mnist_k_sparse"].with_settings(TINY["mnist_k_sparse"])
    run = Run(experiment, digit_data, tmp_path / "mnist_k_sparse")
    run.train(stop_after=1)
    with pytest.raises(RunError, match=r"holds no complete training of mnist_k_sparse; expected weights\.npz"):
        run.export(tmp_path / "models")
    assert not (tmp_path / "models" / "mnist_k_sparse").exists()


def test_a_run_that_goes_on_with_other_code_names_both(
    tmp_path: Path, digit_data: DigitData, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(EXPERIMENTS["mnist_plain"].with_settings({**TINY["mnist_plain"], "epochs": "3"}), digit_data, tmp_path)

    def revision_after(epochs: int, code: str) -> str:
        monkeypatch.setattr("training.runs.code_revision", lambda: code)
        run.train(stop_after=epochs)
        revision: str = json.loads((tmp_path / "config.json").read_text())["code_revision"]
        return revision

    assert revision_after(0, "older") == "older"
    # nothing had been trained yet
    assert revision_after(1, "a") == revision_after(0, "a") == "a"
    assert "goes on with" not in caplog.text
    assert revision_after(1, "b") == "a, resumed with b"
    assert "mnist_plain: begun with code a, goes on with b" in caplog.text
    assert revision_after(1, "b") == "a, resumed with b"
    assert run.complete


def test_list_prints_one_name_a_line() -> None:
    result = CliRunner().invoke(app, ["list"])
    assert result.output.splitlines() == list(EXPERIMENTS)


def test_training_one_and_exporting_it_from_the_command_line(tmp_path: Path) -> None:
    settings = [f"--set={key}={value}" for key, value in TINY["mnist_k_sparse"].items()]
    common = [sys.executable, "-m", "training"]
    environment = {**os.environ, "SPARSEWALK_DATA": ""}
    trained = subprocess.run(
        [*common, "train", "mnist_k_sparse", "--data", "embedded", f"--runs={tmp_path / 'runs'}", *settings],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "probe_error" in trained.stdout
    assert re.search(r"embedded", trained.stderr)
    exported = subprocess.run(
        [*common, "export", f"--runs={tmp_path / 'runs'}", f"--models={tmp_path / 'models'}"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert exported.stdout.strip() == f"mnist_k_sparse: {tmp_path / 'models' / 'mnist_k_sparse' / '1'}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "mnist_k_sparce"], "Received: 'mnist_k_sparce'"),
        (["train", "mnist_k_sparse", "--data", "imaginary"], "data policy must be one of auto, real, embedded"),
        (["train", "mnist_k_sparse", "--set", "k"], "--set expects KEY=VALUE. Received: 'k'"),
        (["evaluate", "mnist_k_sparse", "--runs", "nowhere"], "nowhere/mnist_k_sparse/config.json does not exist"),
        (["export", "--runs", "nowhere"], "nowhere holds no trained experiment"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_one(arguments: list[str], message: str, tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-m", "training", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert child.returncode == 1
    assert message in child.stderr
    assert "Traceback" not in child.stderr


@pytest.fixture
def without_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights of others, whatever this machine has."""
    for experiment in OPTIONAL.values():
        monkeypatch.setattr(type(experiment), "missing", lambda _: "weights")


@pytest.mark.usefixtures("without_optional")
def test_failures_do_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing = {"pedestrian_unet": RunError("no luck"), "mnist_plain": ValueError("no one thought of this")}
    done = []

    def train(name: str, *_: object) -> None:
        if name in failing:
            raise failing[name]
        done.append(name)

    monkeypatch.setattr("training.__main__._train", train)
    result = CliRunner().invoke(app, ["train-all", f"--runs={tmp_path}"])
    assert result.exit_code == 1
    assert "train failed for 2 of" in result.output
    assert "pedestrian_unet: RunError: no luck" in result.output
    assert "mnist_plain: ValueError: no one thought of this" in result.output
    # of what nobody expected the log says where it came from
    assert [bool(record.exc_info) for record in caplog.records] == [False, True]
    assert done == [name for name in EXPERIMENTS if name not in failing]


@pytest.mark.usefixtures("without_optional")
def test_train_all_trains_those_that_have_the_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    monkeypatch.setattr("training.__main__._train", lambda name, *_: done.append(name))
    assert CliRunner().invoke(app, ["train-all", "--preset=full", f"--runs={tmp_path}"]).exit_code == 0
    assert done == list(EXPERIMENTS)
    done.clear()
    assert CliRunner().invoke(app, ["train-all", "--preset=blog", f"--runs={tmp_path}"]).exit_code == 0
    assert done == [name for name, experiment in EXPERIMENTS.items() if "blog" in experiment.presets]
