from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from training import __main__ as command_line
from training import release as released
from training.experiments import EXPERIMENTS, OPTIONAL
from training.export.manifest import sha256_of
from training.release.recipes import trainings
from training.run_folder import RunError
from training.runs import Run, changed_settings


@pytest.fixture
def runs(tiny_runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny runs as if they were trained with full on real data."""

    def opened(name: str, folder: Path) -> Run:
        assert folder == tmp_path
        run = tiny_runs[name]
        return Run(
            dataclasses.replace(run.experiment, preset="full"), dataclasses.replace(run.data, source="real"), run.folder
        )

    monkeypatch.setattr(released, "open_run", opened)
    # of masks of a net that has seen two epochs nothing is worth keeping
    monkeypatch.setattr("training.variants.KEEPS", 0.0)
    return tmp_path


@pytest.mark.parametrize("name", ["pedestrian_unet", "pedestrian_sparse_elu", "mnist_k_sparse"])
def test_a_release_is_what_the_service_needs_and_a_card_with_the_manifests_numbers(
    runs: Path, tmp_path: Path, name: str
) -> None:
    folders = released.release(name, runs, tmp_path / "models")
    names = [name, "pedestrian_unet_int8"] if name == "pedestrian_unet" else [name]
    assert folders == [tmp_path / "models" / each / "1" for each in names]
    for folder in folders:
        assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "model.onnx"]
        assert sorted(path.name for path in folder.parent.iterdir()) == ["1", "README.md"]
        manifest = json.loads((folder / "manifest.json").read_text())
        assert (manifest["name"], manifest["training"]["experiment"]) == (folder.parent.name, name)
        assert manifest["onnx_sha256"] == sha256_of(folder / "model.onnx")
        card = (folder.parent / "README.md").read_text()
        assert manifest["onnx_sha256"] in card
        assert ("brings the mask back" in card) == (manifest["family"] == "segmentation")
        for score, value in manifest["scores"].items():
            assert f"| {score.removeprefix('control_')} | {value:.4f} |" in card
        for heading in ("Data", "Scores", "Limits", "Safety and fairness"):
            assert f"\n## {heading}\n" in card
        assert max(map(len, re.sub(r"\|.*\|", "", card).splitlines())) <= 130


def test_a_card_names_the_teachers_by_number_and_not_by_their_folders(tiny_runs: dict[str, Run]) -> None:
    run = tiny_runs["pedestrian_unet"]
    manifest = {
        **json.loads((Path(__file__).parents[1] / "contract" / "manifest.golden.json").read_text()),
        "name": "pedestrian_unet",
    }
    assert "teachers" not in released.card(run, manifest)
    settings = {"teachers": "/a/b,/c", "start": "/a/b", "zoom": "0.7,1.2", "seed": "3"}
    taught = dataclasses.replace(run, experiment=run.experiment.with_settings(settings))
    card = released.card(taught, manifest)
    assert "--set teachers=… --set start=…`, 2 networks trained before it being its teachers, and one of" in card
    assert "/a/b" not in card
    assert " --set seed=3 " in card
    assert " --set zoom=0.7,1.2 " in card
    usual = EXPERIMENTS["pedestrian_unet"].with_settings({"seed": "1"})
    assert "--preset full --data real --set seed=1`, " in released.card(
        dataclasses.replace(run, experiment=usual), manifest
    )


def test_the_same_training_keeps_its_version_and_another_takes_its_place(
    runs: Path, tiny_runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models"
    (first,) = released.release("mnist_kl", runs, models)
    before = (first / "model.onnx").stat().st_mtime_ns
    assert released.release("mnist_kl", runs, models) == [first]
    assert (first / "model.onnx").stat().st_mtime_ns == before
    run = tiny_runs["mnist_kl"]
    other = Run(
        dataclasses.replace(run.experiment, seed=5, preset="full"),
        dataclasses.replace(run.data, source="real"),
        tmp_path / "other",
    )
    other.train()
    monkeypatch.setattr(released, "open_run", lambda *_: other)
    assert released.release("mnist_kl", runs, models) == [models / "mnist_kl" / "2"]
    assert sorted(path.name for path in (models / "mnist_kl").iterdir()) == ["2", "README.md"]
    assert "seed=5" in (models / "mnist_kl" / "README.md").read_text()


def test_nothing_quick_and_nothing_synthetic_is_released(
    tiny_runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(released, "open_run", lambda name, _: tiny_runs[name])
    with pytest.raises(RunError, match=r"full on real data\. Received: quick on embedded data"):
        released.release("mnist_kl", tmp_path, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_manifest_and_card_tell_changed_settings_but_no_folder_of_this_machine() -> None:
    student = EXPERIMENTS["pedestrian_unet"].with_settings({"teachers": "/a,/b", "start": "/a", "mixing": "0.8"})
    assert changed_settings(student) == {"mixing": 0.8}
    assert changed_settings(OPTIONAL["pedestrian_mobilenet"].with_settings({"weights": "/a/b.h5"})) == {}
    quick = EXPERIMENTS["mnist_top_k"].with_preset("quick")
    assert changed_settings(quick) == {}
    assert changed_settings(quick.with_settings({"k": "30", "seed": "1"})) == {"k": 30, "seed": 1}


def test_what_is_released_exists() -> None:
    assert set(released.RELEASED) <= set(EXPERIMENTS)
    assert {name for name in EXPERIMENTS if name.startswith("pedestrian_")} <= set(released.RELEASED)


@pytest.mark.parametrize("name", released.RELEASED)
def test_teachers_are_trained_before_those_they_teach_and_the_model_comes_last(name: str, tmp_path: Path) -> None:
    done: list[str] = []
    for training in trainings(name):
        experiment = EXPERIMENTS[name].with_settings(
            dict(setting.split("=", 1) for setting in training.settings_in(tmp_path))
        )
        assert {*training.teachers, *filter(None, [training.start])} <= set(done)
        if training.teachers:
            assert experiment.settings()["teachers"] == [str(tmp_path / teacher) for teacher in training.teachers]
        done.append(training.folder)
    assert done[-1] == "."
    assert len(set(done)) == len(done)


def test_the_command_trains_teachers_first_and_releases_what_they_taught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[Path, list[str]]] = []

    def train(name: str, preset: str, data: str, settings: list[str], runs: Path, *_: object, force: bool) -> None:
        assert (name, preset, data, force) == ("pedestrian_unet", "full", "real", False)
        done.append((runs, settings))

    monkeypatch.setattr(command_line, "_train", train)
    monkeypatch.setattr(command_line, "release_model", lambda name, runs, output: [output / name / "1" / str(runs)])
    arguments = ["release", "--only=pedestrian_unet", f"--runs={tmp_path}", "--output=models"]
    result = CliRunner().invoke(command_line.app, arguments)
    assert result.exit_code == 0, result.output
    seeds = [tmp_path / "teachers" / str(seed) for seed in range(3)]
    assert [runs for runs, _ in done] == [*seeds, tmp_path]
    assert [settings for _, settings in done[:3]] == [["seed=0"], ["seed=1"], ["seed=2"]]
    assert f"start={seeds[0]}" in done[3][1]
    assert f"teachers={','.join(map(str, seeds))}" in done[3][1]
    assert str(tmp_path) in result.output
