from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from typer.testing import CliRunner

from tests.training.mobilenet_weights import write_mobilenet_weights
from training import __main__ as command_line
from training.datasets import penn_fudan
from training.datasets.pedestrians import PedestrianData
from training.datasets.source import DataError, DataUnavailable
from training.encoders.mobilenet import encoder_of, read_weights
from training.experiments import EXPERIMENTS, OPTIONAL, experiment_named, pedestrian_mobilenet
from training.experiments.base import ExperimentError
from training.experiments.pedestrian_mobilenet import PedestrianMobileNet
from training.export.manifest import TrainingRecord
from training.export.version_folder import export_version
from training.loops.staged import Staged
from training.runs import Run

NAME = "pedestrian_mobilenet"
SMALL = {
    "alpha": "0.35",
    "widths": "8,8,8,8",
    "train_height": "32",
    "train_width": "32",
    "ask_height": "32",
    "ask_width": "32",
    "precision": "float32",
}


@pytest.fixture(autouse=True)
def nothing_at_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, street_data: PedestrianData) -> Path:
    """No data folder, an empty cache, and an address where nobody answers: no test may download. Few scenes."""
    monkeypatch.setattr(penn_fudan, "load", lambda _: street_data)
    monkeypatch.setenv("SPARSEWALK_DATA", "")
    monkeypatch.setenv("SPARSEWALK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(pedestrian_mobilenet, "ADDRESS", "http://127.0.0.1:1/")
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mobilenet_weights(tmp_path_factory.mktemp("weights") / "mobilenet.h5")


def experiment(**settings: str) -> PedestrianMobileNet:
    made = experiment_named(NAME).with_preset("quick").with_settings({**SMALL, **settings})
    assert isinstance(made, PedestrianMobileNet)
    return made


def put_into(folder: Path, weights: Path, alpha: str = "0.5") -> Path:
    path = folder / "imagenet" / f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{alpha}_224_no_top.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(weights.read_bytes())
    return path


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and standard error of ``python -m training ...``, in this process."""
    monkeypatch.setattr(sys, "argv", ["training", *arguments])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    return int(ended.value.code or 0), capsys.readouterr().err


def test_it_is_optional() -> None:
    assert len(EXPERIMENTS) == 21
    assert list(OPTIONAL) == [NAME]
    assert NAME not in EXPERIMENTS
    listed = CliRunner().invoke(command_line.app, ["list", "--all"]).output.splitlines()
    assert listed == [*EXPERIMENTS, NAME]


def test_settings_survive_the_way_through_text() -> None:
    made = experiment(weights="some/file.h5")
    text = {
        key: ",".join(map(str, value)) if isinstance(value, list) else str(value)
        for key, value in made.settings().items()
    }
    assert made.with_settings(text) == made


def test_without_network_it_says_what_is_missing_and_touches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    code, said = command(monkeypatch, capsys, "train", NAME, "--data", "embedded", f"--runs={runs}")
    assert code == 1
    assert "kernels_0.5_224_no_top.h5 could not be downloaded. Tried: http://127.0.0.1:1/" in said
    assert "--set weights=FILE, or train without: --set weights=none" in said
    assert not (runs / NAME).exists()


def test_train_all_skips_it_unless_its_weights_are_here_or_it_is_named(
    nothing_at_hand: Path, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(command_line, "_train", lambda name, *_: done.append(name))

    def train_all(*options: str) -> str:
        done.clear()
        result = CliRunner().invoke(command_line.app, ["train-all", f"--runs={tmp_path}", *options])
        assert result.exit_code == 0
        return result.output

    assert train_all() == (
        f"skipped: {NAME}: its ImageNet weights are not on this machine; "
        f"python -m training train {NAME} downloads them\n"
    )
    assert done == list(EXPERIMENTS)
    assert train_all("--only", NAME) == ""
    assert done == [NAME]
    assert train_all("--preset", "blog") == ""
    put_into(nothing_at_hand, published)
    assert train_all() == ""
    assert done == [*EXPERIMENTS, NAME]


def test_weights_are_found_among_the_data_and_in_the_cache(
    nothing_at_hand: Path, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = experiment()
    with pytest.raises(DataUnavailable):
        made.prepare()
    cached = put_into(nothing_at_hand, published, "0.35")
    assert not made.missing()
    made.prepare()
    cached.unlink()
    put_into(tmp_path / "data", published, "0.35")
    monkeypatch.setenv("SPARSEWALK_DATA", str(tmp_path / "data"))
    assert not made.missing()
    made.prepare()


def test_a_file_that_does_not_fit_is_told_before_anything_is_written(
    published: Path, street_data: PedestrianData, tmp_path: Path
) -> None:
    made = experiment(weights=str(published), alpha="0.5")
    with pytest.raises(DataError, match=rf"{NAME}: .*{published.name} must hold Keras' weights .*alpha=0\.5"):
        Run(made, street_data, tmp_path / "run").train()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": "0.4"}, r"alpha 0\.35, 0\.5, .*weights=none or a file\. Received: 0\.4"),
        ({"frozen_epochs": "60"}, r"frozen_epochs must lie in 0\.\.59, for there are 60 epochs\. Received: 60"),
        ({"frozen_epochs": "-1"}, r"Received: -1"),
        ({"fold": "3"}, r"fold must lie in"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        experiment(**settings)


def test_the_name_of_the_data_says_that_it_has_seen_others() -> None:
    assert experiment().load_data("embedded").name == "streets_pretrained"
    assert experiment(weights="none", fold="0").load_data("embedded").name == "streets_fold_0"


def test_without_weights_everything_is_trained_from_the_start(street_data: PedestrianData) -> None:
    made = experiment(weights="none")
    made.prepare()
    program = made.program(made.build(), street_data)
    assert isinstance(program, Staged)
    (stage,) = program._stages
    assert (stage.name, stage.epochs) == ("whole", made.epochs)
    assert float(stage.optimizer.learning_rate) == pytest.approx(made.learning_rate / 20)
    assert any("Conv1/" in variable.path for variable in stage.variables)


@dataclass
class Trained:
    """A net after some steps of both stages on one batch, and what it was on the way."""

    experiment: PedestrianMobileNet
    model: keras.Model
    plan: list[tuple[str, int, float]]
    decoder: set[str]
    losses: dict[str, list[float]]
    encoders: dict[str, list[np.ndarray]]


@pytest.fixture(scope="module")
def trained(published: Path, street_data: PedestrianData) -> Trained:
    made = experiment(weights=str(published), auxiliary_weight="0")
    model = made.build()
    program = made.program(model, street_data)
    batch = next(iter(program.batches(0)))
    result = Trained(
        made,
        model,
        [(stage.name, stage.epochs, float(stage.optimizer.learning_rate)) for stage in program._stages],
        {variable.path.split("/")[0].partition("_")[0].rstrip("1234") for variable in program._stages[0].variables},
        {},
        {"before": encoder_of(model).get_weights()},
    )
    tf.config.run_functions_eagerly(True)  # to trace the optimiser's steps would take a minute
    try:
        for stage, epoch in (("decoder", 0), ("whole", made.frozen_epochs)):
            program.before_epoch(epoch)
            result.losses[stage] = [float(program.step(batch)["loss"]) for _ in range(3)]
            result.encoders[stage] = encoder_of(model).get_weights()
    finally:
        tf.config.run_functions_eagerly(False)
    return result


def test_the_decoder_has_the_first_epochs_and_each_stage_its_rate(trained: Trained) -> None:
    made = trained.experiment
    assert [(name, epochs) for name, epochs, _ in trained.plan] == [("decoder", 15), ("whole", 45)]
    # with a twentieth of the rate at the start
    rates = [rate for _, _, rate in trained.plan]
    assert rates == pytest.approx([made.learning_rate / 20, made.fine_tuning_rate / 20])
    assert trained.decoder == {"up", "half"}


def test_the_encoder_waits_for_the_decoder_then_all_learns(trained: Trained, published: Path) -> None:
    for losses in trained.losses.values():
        assert losses[-1] < losses[0]
    assert all(map(np.array_equal, trained.encoders["before"], trained.encoders["decoder"]))
    began = read_weights(published, trained.experiment.alpha)
    for layer in encoder_of(trained.model).layers:
        for weight, value in zip(layer.weights, began.get(layer.name, []), strict=True):
            # kernels are trained, batch normalisation is left alone
            assert np.array_equal(value, weight.numpy()) == (weight.name != "kernel"), weight.path


def test_the_exported_forms_agree_at_any_size_with_the_statistics_folded_in(
    trained: Trained, street_data: PedestrianData, tmp_path: Path
) -> None:
    record = TrainingRecord(NAME, "quick", "streets_pretrained", "embedded", 0, "unknown", "2026-01-01T00:00:00+00:00")
    made = trained.experiment
    folder = export_version(
        made.servable(trained.model), made.parity_inputs(street_data),
        name=NAME, models=tmp_path, training=record, scores={"iou_per_image": 0.5},
    )  # fmt: skip
    assert {entry.name for entry in folder.iterdir()} >= {"saved_model.pb", "variables", "model.onnx", "manifest.json"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["parity"]["largest_difference"] <= manifest["parity"]["tolerance"] == 1e-5
    assert manifest["inputs"][0]["shape"] == [-1, -1, -1, 3]
    graph = onnx.load(folder / "model.onnx").graph
    assert "BatchNormalization" not in {node.op_type for node in graph.node}
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    picture = np.stack([scene.picture[:96, :160] for scene in street_data.test[:2]])
    (mask,) = session.run(["mask"], {"image": picture})
    np.testing.assert_allclose(mask, made.outputs_of(trained.model, tf.constant(picture))["mask"], atol=1e-5)


def test_a_trained_model_needs_the_weights_no_more(
    trained: Trained, street_data: PedestrianData, tmp_path: Path
) -> None:
    gone = dataclasses.replace(trained.experiment, weights=str(tmp_path / "gone.h5"))
    again = gone.build()
    again.set_weights(trained.model.get_weights())
    picture = street_data.test[0].picture[np.newaxis, :64, :64]
    np.testing.assert_array_equal(again(picture), trained.model(picture))
    with pytest.raises(DataError, match=r"gone\.h5 must hold"):
        gone.program(again, street_data)
