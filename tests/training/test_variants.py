from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from typer.testing import CliRunner

from training.__main__ import app
from training.export import half
from training.export.manifest import sha256_of
from training.run_folder import RunError, save_weights
from training.runs import Run
from training.variants import export_fp16, export_int8

EXPORTS = {"int8": export_int8, "fp16": export_fp16}


@pytest.mark.parametrize("kind", EXPORTS)
def test_a_variant_that_costs_too_much_is_refused_and_leaves_nothing(
    kind: str, tiny_models: Path, tiny_runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = tiny_models / "pedestrian_unet" / "1"
    run = tiny_runs["pedestrian_unet"]
    monkeypatch.setattr(type(run), "scores", lambda _: {"iou_per_image": 1.0})
    with pytest.raises(RunError, match=rf"the {kind} variant must keep an IoU of 0\.9900\. Received: 0\.\d{{4}}"):
        EXPORTS[kind](run, version, tmp_path)
    with pytest.raises(RunError, match=rf"{kind} variants are made of segmentation models\. Received: family mnist"):
        EXPORTS[kind](tiny_runs["mnist_kl"], tiny_models / "mnist_kl" / "1", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_fp16_variant_tells_what_halves_cost_and_answers_so(
    tiny_models: Path, tiny_runs: dict[str, Run], tmp_path: Path
) -> None:
    version = tiny_models / "pedestrian_unet" / "1"
    run = tiny_runs["pedestrian_unet"]
    folder = export_fp16(run, version, tmp_path)
    assert folder == tmp_path / "pedestrian_unet_fp16" / "1"
    manifests = [json.loads((each / "manifest.json").read_text()) for each in (version, folder)]
    changed = {key for key in manifests[0] if manifests[0][key] != manifests[1][key]}
    assert {"name", "parity", "onnx_sha256"} <= changed <= {"name", "parity", "onnx_sha256", "scores"}
    told = manifests[1]
    assert told["onnx_sha256"] == sha256_of(folder / "model.onnx")
    assert told["scores"]["iou_per_image"] >= 0.99 * run.scores()["iou_per_image"]
    pictures = run.experiment.parity_inputs(run.data)
    exact, variant, rounded = (
        onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(["mask"], {"image": pictures})[0]
        for model in (version / "model.onnx", folder / "model.onnx", half.rounded(version / "model.onnx"))
    )
    assert told["parity"]["largest_difference"] == pytest.approx(np.abs(exact - rounded).max(), rel=0.3)
    assert 0 < np.abs(exact - variant).max() < 0.01


def test_values_beyond_the_range_of_halves_are_refused(tiny_runs: dict[str, Run], tmp_path: Path) -> None:
    run = tiny_runs["pedestrian_unet"]
    model = run.model()
    for name, factor in (("stem_norm", 1e6), ("down1_1_norm", 1e6)):
        layer = model.get_layer(name)
        layer.gamma.assign(layer.gamma * factor)
    loud = dataclasses.replace(run, folder=tmp_path / "run")
    loud.folder.mkdir()
    for file in ("config.json", "scores.json"):
        (loud.folder / file).write_bytes((run.folder / file).read_bytes())
    save_weights(model, loud.folder)
    version = loud.export(tmp_path / "models")
    with pytest.raises(
        RunError, match=r"pedestrian_unet: all values of the fp16 variant must be finite\. Received: .*nan"
    ):
        export_fp16(loud, version, tmp_path / "models")
    assert not (tmp_path / "models" / "pedestrian_unet_fp16").exists()


def test_variants_are_exported_from_the_command_line(
    tiny_runs: dict[str, Run], tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.__main__.open_run", lambda name, _: tiny_runs[name])
    monkeypatch.setattr(Run, "export", lambda run, _: tiny_models / run.experiment.name / "1")
    names = ["pedestrian_unet", "mnist_kl"]
    result = CliRunner().invoke(app, ["export", *names, "--fp16", f"--models={tmp_path}"])
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        f"pedestrian_unet: {tiny_models / 'pedestrian_unet' / '1'}",
        f"pedestrian_unet: {tmp_path / 'pedestrian_unet_fp16' / '1'}",
        f"mnist_kl: {tiny_models / 'mnist_kl' / '1'}",
    ]
