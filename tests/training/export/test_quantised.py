from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from training.export.manifest import sha256_of
from training.export.parity import Parity
from training.export.quantised import publish_quantised, quantise


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A convolution of three channels to eight to one."""
    rng = np.random.default_rng(0)
    kernels = [rng.normal(0, 0.3, shape).astype(np.float32) for shape in ((8, 3, 3, 3), (1, 8, 3, 3))]
    make = onnx.helper
    graph = make.make_graph(
        [
            make.make_node("Conv", ["image", "k0"], ["hidden"], pads=[1, 1, 1, 1]),
            make.make_node("Relu", ["hidden"], ["positive"]),
            make.make_node("Conv", ["positive", "k1"], ["logits"], pads=[1, 1, 1, 1]),
            make.make_node("Sigmoid", ["logits"], ["mask"]),
        ],
        "two",
        [make.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [make.make_tensor_value_info("mask", onnx.TensorProto.FLOAT, ["batch", 1, "height", "width"])],
        [onnx.numpy_helper.from_array(kernel, f"k{number}") for number, kernel in enumerate(kernels)],
    )
    folder = tmp_path / "models" / "two" / "3"
    folder.mkdir(parents=True)
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    told = {"name": "two", "version": 3, "scores": {"iou": 0.5}, "parity": {}, "onnx_sha256": "", "family": "kept"}
    (folder / "manifest.json").write_text(json.dumps(told))
    return folder


def run(model: Path, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    mask: np.ndarray = session.run(["mask"], {"image": image})[0]
    return mask


def test_weights_are_in_eight_bits_and_answers_close_at_any_size(
    version: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    inputs = [rng.random((1, 3, 16, 16), np.float32) for _ in range(8)]
    quantise(version / "model.onnx", tmp_path / "int8.onnx", inputs)
    weights = {each.name: each.data_type for each in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    assert {kind for name, kind in weights.items() if name.endswith("_quantized") and name.startswith("k")} == {
        onnx.TensorProto.INT8
    }
    for image in (inputs[0], rng.random((2, 3, 24, 40), np.float32)):
        exact, rounded = run(version / "model.onnx", image), run(tmp_path / "int8.onnx", image)
        assert exact.shape == rounded.shape
        assert 0 < np.abs(exact - rounded).max() < 0.05


def test_it_becomes_the_same_version_of_a_model_of_its_own(version: Path, tmp_path: Path) -> None:
    def published(iou: float) -> Path:
        file = tmp_path / "int8.onnx"
        file.write_bytes(b"eight bits")
        return publish_quantised(version, tmp_path / "models", file, {"iou": iou}, Parity(1.0, 0.25, (1,)))

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
