from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from training.export.quantised import quantise


@pytest.fixture
def model(tmp_path: Path) -> Path:
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
    path = tmp_path / "model.onnx"
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 18)], ir_version=10), path)
    return path


def run(model: Path, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    mask: np.ndarray = session.run(["mask"], {"image": image})[0]
    return mask


def test_weights_are_in_eight_bits_and_answers_close_at_any_size(
    model: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    inputs = [rng.random((1, 3, 16, 16), np.float32) for _ in range(8)]
    quantise(model, tmp_path / "int8.onnx", inputs)
    weights = {each.name: each.data_type for each in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    assert {kind for name, kind in weights.items() if name.endswith("_quantized") and name.startswith("k")} == {
        onnx.TensorProto.INT8
    }
    for image in (inputs[0], rng.random((2, 3, 24, 40), np.float32)):
        exact, rounded = run(model, image), run(tmp_path / "int8.onnx", image)
        assert exact.shape == rounded.shape
        assert 0 < np.abs(exact - rounded).max() < 0.05
