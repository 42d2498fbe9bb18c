import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.backend import CPU, Runtime
from serving.engine import Engine
from serving.errors import InvalidInputError, NotFoundError
from serving.intake import Filled
from serving.metrics import Metrics
from serving.model_settings import Limits
from serving.pb.tensorflow_serving import framework_pb2 as pb
from serving.repository import ModelRepository
from serving.servicers import tensor_protos


@pytest.fixture(scope="module")
def engine(models: Path) -> Iterator[Engine]:
    metrics = Metrics(version="0", runtime_version="0")
    repository = ModelRepository(models, Runtime(CPU, 1, required=True), Limits(8, 8), metrics)
    repository.load()
    yield Engine(repository, max_pixels=10_000, picture_slots=2)
    repository.close()


def proto(dtype: str, shape: tuple[int, ...], **values: Any) -> pb.TensorProto:
    sizes = pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=size) for size in shape])
    return pb.TensorProto(dtype=tensor_protos.CODES[dtype], tensor_shape=sizes, **values)


def spread(source: Any) -> Any:
    return source.spread() if isinstance(source, Filled) else source


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, [[0, 0, 0], [0, 0, 0]]),
        ({"float_val": [0.25]}, [[0.25, 0.25, 0.25], [0.25, 0.25, 0.25]]),
        ({"float_val": [1, 2]}, [[1, 2, 2], [2, 2, 2]]),
        ({"float_val": [1, 2, 3, 4, 5, 6]}, [[1, 2, 3], [4, 5, 6]]),
    ],
)
def test_the_last_value_goes_on_to_the_end_and_none_is_zero(values: Any, expected: Any) -> None:
    array = spread(tensor_protos.read("x", proto("FP32", (2, 3), **values)))
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, expected)


def test_halves_are_told_by_their_bits() -> None:
    read = tensor_protos.read("x", proto("FP16", (2,), half_val=[0x3C00]))
    np.testing.assert_array_equal(spread(read), np.ones(2, np.float16))


def test_more_values_than_the_shape_has_are_refused() -> None:
    with pytest.raises(
        InvalidInputError, match=r"x: FP32 \[2\] has at most 2 values in float_val.* Received: 3 values"
    ):
        tensor_protos.read("x", proto("FP32", (2,), float_val=[1, 2, 3]))


@pytest.mark.parametrize(
    ("model", "tensor", "message"),
    [
        ("nobody", proto("FP32", (2**26 // 784, 784), float_val=[0.5]), "no model 'nobody'"),
        ("digits", proto("FP64", (2**26 // 784, 784), double_val=[0.5]), r"is FP32 \[-1, 784\]. Received: FP64 \["),
        ("digits", proto("FP32", (2**40, 784), float_val=[0.5, 1]), "at most 8 rows in one request. Received: 1099511"),
        ("digits", proto("FP32", (2**40, 784)), "at most 8 rows in one request. Received: 1099511627776"),
        ("red", proto("UINT8", (1, 2**20, 2**20, 3), int_val=[9]), "at most 4194304 pixels in one request"),
    ],
)
def test_what_a_model_does_not_take_is_refused_before_it_takes_memory(
    engine: Engine, model: str, tensor: pb.TensorProto, message: str
) -> None:
    tracemalloc.start()
    try:
        with pytest.raises((InvalidInputError, NotFoundError), match=message):
            engine.infer(model, None, {"image": tensor_protos.read("image", tensor)})
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_what_it_takes_is_answered(engine: Engine) -> None:
    zeros = tensor_protos.read("image", proto("FP32", (2, 784)))
    answer = engine.infer("digits", None, {"image": zeros}, ["reconstruction"])
    np.testing.assert_array_equal(answer.outputs["reconstruction"], np.ones((2, 784)))
    white = tensor_protos.read("image", proto("UINT8", (1, 32, 32, 3), int_val=[255]))
    np.testing.assert_array_equal(engine.infer("red", None, {"image": white}).outputs["mask"], np.ones((1, 32, 32, 1)))
