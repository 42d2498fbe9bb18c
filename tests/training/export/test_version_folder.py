from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf

from training.experiments import EXPERIMENTS
from training.export import parity, version_folder
from training.export.manifest import sha256_of
from training.export.parity import ParityError, prove_parity
from training.export.servable import Servable
from training.runs import Run

NAMES = list(EXPERIMENTS)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_folder_holds_the_three_forms_side_by_side(tiny_models: Path, name: str) -> None:
    folder = tiny_models / name / "1"
    assert {entry.name for entry in folder.iterdir()} >= {"saved_model.pb", "variables", "model.onnx", "manifest.json"}
    assert [entry.name for entry in folder.parent.iterdir()] == ["1"]


def test_tensor_names_types_and_free_axes_are_the_promised_ones(tiny_models: Path, name: str) -> None:
    manifest = json.loads((tiny_models / name / "1" / "manifest.json").read_text())
    session = onnxruntime.InferenceSession(tiny_models / name / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    types = {"UINT8": "tensor(uint8)", "FP32": "tensor(float)"}
    for described, actual in (
        (manifest["inputs"], session.get_inputs()),
        (manifest["outputs"], session.get_outputs()),
    ):
        assert [(tensor["name"], types[tensor["dtype"]]) for tensor in described] == [
            (tensor.name, tensor.type) for tensor in actual
        ]
        for tensor, value in zip(described, actual, strict=True):
            assert [-1 if isinstance(size, str) else size for size in value.shape] == tensor["shape"]
    expected = {
        "segmentation": ("image", "mask"),
        "mnist": ("image", "encoding", "reconstruction"),
    }[manifest["family"]]
    encodes = name.startswith("pedestrian_") and name != "pedestrian_unet"
    expected += ("encoding",) if encodes else ()
    assert (manifest["inputs"][0]["name"], *(tensor["name"] for tensor in manifest["outputs"])) == expected


def test_saved_model_signature_carries_the_same_names(tiny_models: Path, name: str) -> None:
    manifest = json.loads((tiny_models / name / "1" / "manifest.json").read_text())
    signature = tf.saved_model.load(str(tiny_models / name / "1")).signatures["serving_default"]
    assert list(signature.structured_input_signature[1]) == [tensor["name"] for tensor in manifest["inputs"]]
    assert sorted(signature.structured_outputs) == sorted(tensor["name"] for tensor in manifest["outputs"])


def test_manifest_tells_the_truth(tiny_models: Path, tiny_runs: dict[str, Run], name: str) -> None:
    folder = tiny_models / name / "1"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["name"], manifest["version"]) == (name, 1)
    assert manifest["onnx_sha256"] == sha256_of(folder / "model.onnx")
    assert manifest["training"]["data_source"] == "embedded"
    assert manifest["training"]["preset"] == "quick"
    quick, settings = EXPERIMENTS[name].with_preset("quick").settings(), tiny_runs[name].experiment.settings()
    assert manifest["training"]["settings"] == {key: settings[key] for key in settings if settings[key] != quick[key]}
    assert manifest["scores"] == json.loads((tiny_runs[name].folder / "scores.json").read_text())
    assert manifest["parity"]["batches"] == [1, 7, 64]
    assert 0 <= manifest["parity"]["largest_difference"] <= manifest["parity"]["tolerance"]
    # the auto-encoders of pedestrians may differ by what float32 rounds
    if name == "pedestrian_unet" or not name.startswith("pedestrian_"):
        assert manifest["parity"]["tolerance"] == 1e-5
    else:
        assert 1e-5 <= manifest["parity"]["tolerance"] < 1e-4


def test_opset_is_18_or_newer_and_transposes_are_at_the_ends_alone(tiny_models: Path, name: str) -> None:
    model = onnx.load(tiny_models / name / "1" / "model.onnx")
    assert model.opset_import[0].version >= 18
    weights = {weight.name: onnx.numpy_helper.to_array(weight) for weight in model.graph.initializer}
    transposes = [node for node in model.graph.node if node.op_type == "Transpose" and node.input[0] not in weights]
    # NHWC in, NCHW inside: one on the way in, and at most one out (a single channel needs none)
    assert len(transposes) <= 2


def test_no_weight_is_stored_twice(tiny_models: Path, name: str) -> None:
    model = onnx.load(tiny_models / name / "1" / "model.onnx")
    matrices = [onnx.numpy_helper.to_array(weight) for weight in model.graph.initializer if len(weight.dims) == 2]
    for position, one in enumerate(matrices):
        for other in matrices[:position]:
            assert not np.array_equal(one, other.T)
    tied = [node for node in model.graph.node if node.name.endswith("_tied")]
    assert len(tied) == (name in ("mnist_neural", "mnist_k_sparse", "mnist_denoising"))


def test_exporting_the_same_training_again_keeps_the_version(tiny_runs: dict[str, Run], tmp_path: Path) -> None:
    run = tiny_runs["mnist_k_sparse"]
    assert run.export(tmp_path) == run.export(tmp_path) == tmp_path / "mnist_k_sparse" / "1"


def test_a_version_from_before_manifests_told_settings_is_kept(tiny_runs: dict[str, Run], tmp_path: Path) -> None:
    run = tiny_runs["mnist_k_sparse"]
    path = run.export(tmp_path) / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["training"]["settings"]
    path.write_text(json.dumps(manifest))
    assert run.export(tmp_path) == path.parent


def test_another_training_becomes_the_next_version(tiny_runs: dict[str, Run], tmp_path: Path) -> None:
    run = tiny_runs["mnist_k_sparse"]
    other = Run(run.experiment.with_settings({"seed": "5"}), run.data, tmp_path / "run")
    other.train()
    run.export(tmp_path / "models")
    assert other.export(tmp_path / "models").name == "2"


def test_the_number_of_a_withdrawn_version_is_not_used_again(tiny_runs: dict[str, Run], tmp_path: Path) -> None:
    """As deploy/jobs/withdraw leaves the folder, once and with an earlier one of the same number aside."""
    run, folder = tiny_runs["mnist_k_sparse"], tmp_path / "mnist_k_sparse"
    run.export(tmp_path).rename(folder / ".withdrawn-1")
    (folder / ".withdrawn-1.~1~").mkdir()
    exported = run.export(tmp_path)
    assert exported == folder / "2"
    assert json.loads((exported / "manifest.json").read_text())["version"] == 2
    assert run.export(tmp_path) == exported


def biased(run: Run) -> Servable:
    """A servable whose eager side differs from its graph by twice the tolerance."""
    servable = run.experiment.servable(run.model())
    outputs_of = servable.outputs_of

    def differing(image):
        share = 0.0 if tf.inside_function() else 2e-5
        return {
            name: value + share * tf.maximum(1.0, tf.reduce_max(tf.abs(value)))
            for name, value in outputs_of(image).items()
        }

    object.__setattr__(servable, "outputs_of", differing)
    return servable


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        ([0.5, 0.25], [0.5, 0.25 + 1e-5], 1e-5),  # probabilities: absolute
        ([1000.0, 0.5], [1000.0, 0.5 + 1e-2], 1e-5),  # beyond 1: by the output's largest magnitude
        ([np.nan, 1.0], [0.0, 1.0], np.nan),
        ([1.0], [1.0, 2.0], np.inf),
    ],
)
def test_how_a_difference_is_measured(one: list[float], other: list[float], difference: float) -> None:
    compared = np.ones(len(one), bool)
    measured = parity._difference(np.array(one), np.array(other), compared)
    assert measured == pytest.approx(difference, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize(("error", "tolerance"), [(0.0, None), (2e-6, None), (8e-6, 3.2e-5)])
def test_forms_may_differ_by_four_times_what_float32_rounds(
    tiny_models: Path, tiny_runs: dict[str, Run], error: float, tolerance: float | None
) -> None:
    """The eager side differs from the graph by 2e-5; what it should be, computed precisely, by ``error``."""
    run = tiny_runs["mnist_k_sparse"]
    servable = biased(run)
    eager = servable.outputs_of

    def precise(image):
        return {name: value + error * max(1.0, float(np.abs(value).max())) for name, value in eager(image).items()}

    object.__setattr__(servable, "precise_of", precise)
    folder, inputs = tiny_models / "mnist_k_sparse" / "1", run.experiment.parity_inputs(run.data)
    if tolerance is None:
        with pytest.raises(ParityError, match="must agree within 1e-05"):
            prove_parity(servable, folder, inputs, name="x")
    else:
        proven = prove_parity(servable, folder, inputs, name="x")
        assert proven.tolerance == pytest.approx(tolerance, rel=0.05)
        assert proven.largest_difference == pytest.approx(2e-5, rel=0.05)


def test_an_export_that_misses_parity_fails_and_leaves_nothing(tiny_runs: dict[str, Run], tmp_path: Path) -> None:
    run = tiny_runs["mnist_k_sparse"]
    with pytest.raises(
        ParityError, match=r"output 'encoding' of Keras and SavedModel must agree within 1e-05 at batch 1"
    ):
        version_folder.export_version(
            biased(run),
            run.experiment.parity_inputs(run.data),
            name="mnist_k_sparse",
            models=tmp_path,
            training=None,  # type: ignore[arg-type]  # never reached
            scores={},
        )
    assert list((tmp_path / "mnist_k_sparse").iterdir()) == []


def at_jump(run: Run, jumps: int) -> Servable:
    """A biased servable that says the first ``jumps`` rows of a batch lie at a jump."""
    servable = biased(run)
    object.__setattr__(servable, "margin_of", lambda rows: np.where(np.arange(len(rows)) < jumps, 0.0, np.inf))
    return servable


def test_rows_at_a_jump_are_not_compared_and_are_counted(tiny_models: Path, tiny_runs: dict[str, Run]) -> None:
    run, folder = tiny_runs["mnist_k_sparse"], tiny_models / "mnist_k_sparse" / "1"
    inputs = run.experiment.parity_inputs(run.data)
    assert prove_parity(at_jump(run, 7), folder, inputs, name="x", tolerance=1.0).excluded_rows == 1 + 7 + 7
    with pytest.raises(ParityError, match="at batch 64"):
        prove_parity(at_jump(run, 7), folder, inputs, name="x")


def test_too_many_rows_at_a_jump_are_no_proof(tiny_models: Path, tiny_runs: dict[str, Run]) -> None:
    run, folder = tiny_runs["mnist_k_sparse"], tiny_models / "mnist_k_sparse" / "1"
    inputs = run.experiment.parity_inputs(run.data)
    with pytest.raises(ParityError, match=r"at least half of the inputs.*Received: 72 of 72"):
        prove_parity(at_jump(run, 64), folder, inputs, name="x")


def test_nan_is_a_difference(tiny_models: Path, tiny_runs: dict[str, Run]) -> None:
    run = tiny_runs["mnist_k_sparse"]
    inputs = np.full((1, 784), np.nan, np.float32)
    with pytest.raises(ParityError, match="nan"):
        prove_parity(run.experiment.servable(run.model()), tiny_models / "mnist_k_sparse" / "1", inputs, name="x")


def test_disk_full_leaves_the_previous_version_whole(
    tiny_runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_runs["mnist_k_sparse"]
    run.export(tmp_path)
    # other scores: a new version is due
    monkeypatch.setattr(Run, "scores", lambda _: {"probe_error": 0.5})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(version_folder, "write_onnx", full)
    with pytest.raises(OSError, match="No space left"):
        run.export(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


KILLED = """
    import os, signal
    from pathlib import Path
    from training.export import version_folder
    from training.runs import Run
    from training.datasets import digits
    from training.experiments import EXPERIMENTS

    prove = version_folder.prove_parity

    def killed(*arguments, **options):
        prove(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    version_folder.prove_parity = killed
    settings = {settings!r}
    experiment = EXPERIMENTS["mnist_k_sparse"].with_preset("quick").with_settings(settings)
    Run(experiment, digits.load(), Path({run!r})).export(Path({models!r}))
"""


def test_kill_during_export_leaves_no_version_and_the_next_export_cleans_up(
    tiny_runs: dict[str, Run], tmp_path: Path
) -> None:
    run = tiny_runs["mnist_k_sparse"]
    settings = {
        key: ",".join(map(str, value)) if isinstance(value, list) else str(value)
        for key, value in run.experiment.settings().items()
    }
    script = textwrap.dedent(KILLED.format(settings=settings, run=str(run.folder), models=str(tmp_path)))
    child = subprocess.run([sys.executable, "-c", script], env={**os.environ}, capture_output=True, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    folder = tmp_path / "mnist_k_sparse"
    assert [entry.name.startswith(".tmp-") for entry in folder.iterdir()] == [True]
    run.export(tmp_path)
    assert [entry.name for entry in folder.iterdir()] == ["1"]


def test_a_variant_becomes_the_same_version_of_a_model_of_its_own(tmp_path: Path) -> None:
    version = tmp_path / "models" / "two" / "3"
    version.mkdir(parents=True)
    told = {"name": "two", "version": 3, "scores": {"iou": 0.5}, "parity": {}, "onnx_sha256": "", "family": "kept"}
    (version / "manifest.json").write_text(json.dumps(told))

    def published(iou: float) -> Path:
        file = tmp_path / "int8.onnx"
        file.write_bytes(b"eight bits")
        return version_folder.publish_variant(
            version, tmp_path / "models", "_int8", file, {"iou": iou}, parity.Parity(1.0, 0.25, (1,))
        )

    folder = published(0.4)
    assert folder == tmp_path / "models" / "two_int8" / "3"
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "model.onnx"]
    told = json.loads((folder / "manifest.json").read_text())
    assert told == {
        "name": "two_int8",
        "version": 3,
        "scores": {"iou": 0.4},
        "parity": {"tolerance": 1.0, "largest_difference": 0.25, "batches": [1], "excluded_rows": 0},
        "onnx_sha256": sha256_of(folder / "model.onnx"),
        "family": "kept",
    }
    before = (folder / "model.onnx").stat().st_mtime_ns
    assert published(0.4) == folder
    assert (folder / "model.onnx").stat().st_mtime_ns == before
    assert json.loads((published(0.3) / "manifest.json").read_text())["scores"] == {"iou": 0.3}
    assert [path.name for path in folder.parent.iterdir()] == ["3"]
