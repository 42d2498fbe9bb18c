"""Models cut in two at their encoding: the halves give what the whole gives, and are not made where they could not."""

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving import graph

Array = np.ndarray[Any, Any]
RANDOM = np.random.default_rng(0)
IN, CODE, OUT = (RANDOM.normal(size=shape).astype(np.float32) for shape in ((6, 3), (3, 3), (3, 6)))
ROWS = RANDOM.normal(size=(4, 6)).astype(np.float32)


def build(nodes: list[Any], outputs: dict[str, int], **constants: Array) -> bytes:
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 6])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width]) for name, width in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def plain(*extra: Any) -> bytes:
    """Image -> relu(image IN) = code, exported as ``encoding`` by an Identity; code OUT = reconstruction."""
    nodes = [
        helper.make_node("MatMul", ["image", "w_in"], ["product"]),
        helper.make_node("Relu", ["product"], ["code"]),
        helper.make_node("Identity", ["code"], ["encoding"]),
        helper.make_node("MatMul", ["code", "w_out"], ["reconstruction"]),
        *extra,
    ]
    return build(nodes, {"encoding": 3, "reconstruction": 6}, w_in=IN, w_out=OUT)


def run(model: bytes, **inputs: Array) -> dict[str, Array]:
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def weights(model: bytes) -> list[str]:
    return [each.name for each in onnx.load_from_string(model).graph.initializer]


def test_the_halves_give_what_the_whole_gives() -> None:
    whole = run(plain(), image=ROWS)
    encoder = graph.encoder_half(plain(), "encoding")
    decoder = graph.decoder_half(plain(), "encoding")
    assert encoder is not None
    assert decoder is not None
    half, outputs = decoder
    found = run(encoder, image=ROWS)
    assert (list(found), outputs) == (["encoding"], ["reconstruction"])
    np.testing.assert_array_equal(found["encoding"], whole["encoding"])
    np.testing.assert_array_equal(run(half, encoding=whole["encoding"])["reconstruction"], whole["reconstruction"])
    # Each half has only the weights that it needs.
    assert (weights(encoder), weights(half)) == (["w_in"], ["w_out"])


def test_an_encoding_that_is_used_under_its_own_name() -> None:
    nodes = [
        helper.make_node("MatMul", ["image", "w_in"], ["encoding"]),
        helper.make_node("MatMul", ["encoding", "w_out"], ["reconstruction"]),
    ]
    model = build(nodes, {"encoding": 3, "reconstruction": 6}, w_in=IN, w_out=OUT)
    decoder = graph.decoder_half(model, "encoding")
    assert decoder is not None
    np.testing.assert_array_equal(run(decoder[0], encoding=ROWS[:, :3])["reconstruction"], ROWS[:, :3] @ OUT)


def test_a_decoder_that_looks_at_the_picture_is_none() -> None:
    nodes = [
        helper.make_node("MatMul", ["image", "w_in"], ["encoding"]),
        helper.make_node("MatMul", ["encoding", "w_out"], ["rough"]),
        helper.make_node("Add", ["rough", "image"], ["reconstruction"]),
    ]
    model = build(nodes, {"encoding": 3, "reconstruction": 6}, w_in=IN, w_out=OUT)
    assert graph.decoder_half(model, "encoding") is None
    assert graph.encoder_half(model, "encoding") is not None


def test_a_decoder_that_looks_at_what_the_encoding_was_made_from_is_none() -> None:
    nodes = [
        helper.make_node("MatMul", ["image", "w_in"], ["before"]),
        helper.make_node("Relu", ["before"], ["encoding"]),
        helper.make_node("MatMul", ["before", "w_out"], ["reconstruction"]),
    ]
    assert (
        graph.decoder_half(build(nodes, {"encoding": 3, "reconstruction": 6}, w_in=IN, w_out=OUT), "encoding") is None
    )


def test_an_output_that_does_not_follow_from_the_encoding_is_left_out() -> None:
    """A constant would follow from anything, and an output of the picture from nothing that is there."""
    nodes = [
        helper.make_node("MatMul", ["image", "w_in"], ["encoding"]),
        helper.make_node("MatMul", ["encoding", "w_out"], ["reconstruction"]),
        helper.make_node("Relu", ["image"], ["picture"]),
    ]
    model = build(nodes, {"encoding": 3, "reconstruction": 6, "picture": 6}, w_in=IN, w_out=OUT)
    decoder = graph.decoder_half(model, "encoding")
    assert decoder is not None
    assert decoder[1] == ["reconstruction"]


def test_a_model_that_is_all_encoder_is_not_cut() -> None:
    nodes = [helper.make_node("MatMul", ["image", "w_in"], ["encoding"])]
    assert graph.encoder_half(build(nodes, {"encoding": 3}, w_in=IN), "encoding") is None


@pytest.mark.parametrize("inner", ["code", "image"])
def test_bodies_of_loops_see_what_is_around_them(inner: str) -> None:
    """The body of a Loop takes values from outside without naming them as inputs."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["carried", "w_code"], ["product"]),
            helper.make_node("Add", ["product", "outer"], ["sum"]),
            helper.make_node("Identity", ["again"], ["still"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, ["n", 3]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["n", 3]),
        ],
    )
    source = helper.make_node("Slice", [inner, "zero", "three", "axis"], ["outer"])
    nodes = [
        helper.make_node("MatMul", ["image", "w_in"], ["code"]),
        helper.make_node("Identity", ["code"], ["encoding"]),
        source,
        helper.make_node("Loop", ["two", "yes", "code"], ["looped"], body=body),
        helper.make_node("MatMul", ["looped", "w_out"], ["reconstruction"]),
    ]
    constants = {
        "zero": np.array([0]),
        "three": np.array([3]),
        "axis": np.array([1]),
        "two": np.array(2),
        "yes": np.array(True),
    }
    outputs = {"encoding": 3, "reconstruction": 6}
    model = build(nodes, outputs, w_in=IN, w_code=CODE, w_out=OUT, **constants)
    whole, decoder = run(model, image=ROWS), graph.decoder_half(model, "encoding")
    if inner == "image":
        assert decoder is None
        return
    assert decoder is not None
    np.testing.assert_allclose(
        run(decoder[0], encoding=whole["encoding"])["reconstruction"], whole["reconstruction"], rtol=1e-6
    )
