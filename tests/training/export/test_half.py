from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from training.export.half import halve, rounded


def written(path: Path, nodes: Sequence[onnx.NodeProto], **weights: np.ndarray) -> Path:
    """A model from ``image`` uint8 [N, H, W, 3] to ``mask`` float, of four axes."""
    axes = ["batch", "height", "width", "channel"]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [*axes[:3], 3])],
        [helper.make_tensor_value_info("mask", TensorProto.FLOAT, [f"{axis}_out" for axis in axes])],
        [numpy_helper.from_array(weight, name) for name, weight in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """Two convolutions, a maximum, and two resizings whose unused inputs share an empty tensor, as tf2onnx has it."""
    rng = np.random.default_rng(0)
    node = helper.make_node
    return written(
        tmp_path / "net.onnx",
        [
            node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            node("Mul", ["pixels", "scale"], ["scaled"]),
            node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
            node("Conv", ["planes", "k0"], ["hidden"], pads=[1, 1, 1, 1]),
            node("Max", ["hidden", "zero"], ["positive"]),
            node("Shape", ["positive"], ["size"]),
            node("Mul", ["size", "double"], ["large"]),
            node("Resize", ["positive", "empty", "empty", "large"], ["upsampled"], mode="linear"),
            node("Conv", ["upsampled", "k1"], ["logits"], pads=[1, 1, 1, 1]),
            node("Mul", ["size", "single"], ["size_out"]),
            node("Resize", ["logits", "empty", "empty", "size_out"], ["resized"], mode="linear"),
            node("Transpose", ["resized"], ["places"], perm=[0, 2, 3, 1]),
            node("Sigmoid", ["places"], ["mask"]),
        ],
        scale=np.float32(1 / 127.5),
        zero=np.float32(0),
        empty=np.zeros(0, np.float32),
        double=np.array([1, 1, 2, 2]),
        single=np.array([1, 1, 1, 1]),
        k0=rng.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32),
        k1=rng.normal(0, 0.3, (8, 8, 3, 3)).astype(np.float32),
    )


def run(model: Path | bytes, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    mask: np.ndarray = session.run(["mask"], {"image": image})[0]
    return mask


def test_weights_and_products_are_in_sixteen_bits_inputs_and_outputs_as_before(net: Path, tmp_path: Path) -> None:
    halve(net, tmp_path / "fp16.onnx")
    halved = onnx.load(tmp_path / "fp16.onnx")
    kinds = {weight.name: weight.data_type for weight in halved.graph.initializer}
    assert (kinds["k0"], kinds["k1"]) == (TensorProto.FLOAT16, TensorProto.FLOAT16)
    assert "empty" not in kinds
    inferred = onnx.shape_inference.infer_shapes(halved, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.value_info}
    convolved = [node.output[0] for node in halved.graph.node if node.op_type in ("Conv", "Resize")]
    assert len(convolved) == 4
    assert {types[name] for name in convolved} == {TensorProto.FLOAT16}
    ends = [*halved.graph.input, *halved.graph.output]
    assert [(end.name, end.type.tensor_type.elem_type) for end in ends] == [
        ("image", TensorProto.UINT8),
        ("mask", TensorProto.FLOAT),
    ]


def test_answers_are_close_at_any_size(net: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    halve(net, tmp_path / "fp16.onnx")
    for shape in ((1, 16, 16, 3), (2, 24, 40, 3)):
        image = rng.integers(0, 256, shape, np.uint8)
        exact, half = run(net, image), run(tmp_path / "fp16.onnx", image)
        assert (exact.shape, exact.dtype) == (half.shape, half.dtype)
        assert 0 < np.abs(exact - half).max() < 0.01


def test_what_is_measured_is_the_file_computed_node_by_node_in_halves(
    net: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    halve(net, tmp_path / "fp16.onnx")
    image = rng.integers(0, 256, (1, 24, 32, 3), np.uint8)
    (reference,) = ReferenceEvaluator(onnx.load(tmp_path / "fp16.onnx")).run(["mask"], {"image": image})
    step = 2.0**-11  # of halves between 0.5 and 1
    assert np.abs(run(rounded(net), image) - reference).max() <= step
    # float32, and the file as a CPU computes it, lie further off
    for other in (net, tmp_path / "fp16.onnx"):
        assert np.abs(run(other, image) - reference).max() > step


def test_every_result_is_rounded_before_the_next_node(tmp_path: Path) -> None:
    # halves above 2048 lie 2 apart, so that an odd number is lost between the two nodes
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["pixels", "many"], ["sum"]),
        helper.make_node("Sub", ["sum", "many"], ["mask"]),
    ]
    model = written(tmp_path / "sum.onnx", nodes, many=np.float32(2048))
    image = np.array([0, 1, 2, 3, 5, 6], np.uint8).reshape(1, 1, 2, 3)
    assert run(model, image).ravel().tolist() == [0, 1, 2, 3, 5, 6]
    assert run(rounded(model), image).ravel().tolist() == [0, 0, 2, 4, 4, 6]


def test_what_exceeds_the_range_of_halves_shows(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels", "pixels"], ["square"]),
        helper.make_node("Mul", ["square", "weight"], ["mask"]),
    ]
    image = np.array([1, 2, 3, 200, 255, 0], np.uint8).reshape(1, 1, 2, 3)
    model = written(tmp_path / "square.onnx", nodes, weight=np.float32(2))
    assert np.isfinite(run(rounded(model), image)).ravel().tolist() == [True, True, True, False, False, True]
    model = written(tmp_path / "large.onnx", nodes, weight=np.float32(1e5))
    assert not np.isfinite(run(rounded(model), image)).any()
