"""The Open Inference Protocol over the wire: how a tensor can be wrong; the rest is in test_conformance.py."""

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from serving.pb.open_inference import grpc_service_pb2 as pb
from serving.pb.open_inference import grpc_service_pb2_grpc as pb_grpc

Stub = pb_grpc.GRPCInferenceServiceStub
Input = pb.ModelInferRequest.InferInputTensor
Contents = pb.InferTensorContents
Code = grpc.StatusCode

ROW = np.linspace(0, 1, 784, dtype=np.float32)


@pytest.fixture(scope="module")
def stub(server: Any) -> Iterator[Stub]:
    with grpc.insecure_channel(server.target, [("grpc.max_send_message_length", -1)]) as channel:
        yield Stub(channel)


def ask(*tensors: Input, model: str = "digits", raw: tuple[bytes, ...] = (), **fields: Any) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(model_name=model, inputs=tensors, raw_input_contents=raw, **fields)


def image(shape: tuple[int, ...] = (1, 784), datatype: str = "FP32", **contents: Any) -> Input:
    return Input(name="image", datatype=datatype, shape=shape, contents=Contents(**contents) if contents else None)


def test_values_come_typed_or_raw(stub: Stub) -> None:
    for request in (ask(image(fp32_contents=ROW)), ask(image(), raw=(ROW.tobytes(),))):
        answer = stub.ModelInfer(request, timeout=10)
        tensors = dict(zip([each.name for each in answer.outputs], answer.raw_output_contents, strict=True))
        np.testing.assert_allclose(np.frombuffer(tensors["reconstruction"], "<f4"), 1 - ROW, rtol=1e-6)
        assert [(each.datatype, list(each.shape)) for each in answer.outputs] == [("FP32", [1, 4]), ("FP32", [1, 784])]


def test_typed_bytes_of_pictures(stub: Stub) -> None:
    answer = stub.ModelInfer(
        ask(image((1, 16, 16, 3), "UINT8", uint_contents=[51] * 768), model="red_fixed"), timeout=10
    )
    np.testing.assert_allclose(np.frombuffer(answer.raw_output_contents[0], "<f4"), np.full(256, 0.2), rtol=1e-6)


def test_a_label_that_is_none_is_refused(stub: Stub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(ask(image(fp32_contents=ROW), model_version="canary"), timeout=10)
    assert caught.value.code() is Code.NOT_FOUND
    assert caught.value.details() == "no version labelled 'canary' of model digits. Known labels: none"


parameter = pb.InferParameter
BAD: dict[str, tuple[pb.ModelInferRequest, str]] = {
    "no inputs": (ask(), "digits takes the inputs image. Received: none"),
    "an unknown input": (
        ask(Input(name="picture\n", datatype="FP32", shape=[1], contents=Contents(fp32_contents=[1]))),
        r"digits takes the inputs image. Received: 'picture\n'",
    ),
    "an input twice": (
        ask(image(fp32_contents=ROW), image(fp32_contents=ROW)),
        "each input comes once. Received: 'image', 'image'",
    ),
    "an output twice": (
        ask(
            image(fp32_contents=ROW),
            outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name="encoding") for _ in range(2)],
        ),
        "each output is asked for once",
    ),
    "an unknown output": (
        ask(image(fp32_contents=ROW), outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name="heat")]),
        "digits has no output 'heat'; it has encoding, reconstruction",
    ),
    "an output with a parameter": (
        ask(
            image(fp32_contents=ROW),
            outputs=[
                pb.ModelInferRequest.InferRequestedOutputTensor(
                    name="encoding", parameters={"classification": parameter(int64_param=3)}
                )
            ],
        ),
        "output 'encoding' is answered as it is, without parameters. Received: 'classification'",
    ),
    "an unknown datatype": (ask(image(datatype="FP8")), "the datatype is one of BOOL, "),
    "a datatype the model does not take": (
        ask(image((1, 2), "INT64", int64_contents=[1, 2])),
        "input 'image' of digits is FP32 [-1, 784]. Received: INT64 [1, 2]",
    ),
    "a shape the model does not take": (
        ask(image((1, 2), fp32_contents=[1, 1])),
        "is FP32 [-1, 784]. Received: FP32 [1, 2]",
    ),
    "no shape": (ask(image((), fp32_contents=[1])), "a shape has 1 to 8 sizes of at least 1. Received: []"),
    "a negative size": (ask(image((-1, 784), fp32_contents=ROW)), "sizes of at least 1. Received: [-1, 784]"),
    "an empty batch": (ask(image((0, 784))), "values of FP32 come in fp32_contents"),
    "an empty batch, raw": (ask(image((0, 784)), raw=(b"",)), "sizes of at least 1. Received: [0, 784]"),
    "too many axes": (ask(image((1,) * 9, fp32_contents=[1])), "a shape has 1 to 8 sizes"),
    "too few bytes": (ask(image(), raw=(bytes(3135),)), "FP32 [1, 784] has 3136 bytes. Received: 3135 bytes"),
    "too few values": (ask(image(fp32_contents=[1])), "FP32 [1, 784] has 784 values. Received: 1 values"),
    "an overflowing product": (ask(image((2**62, 2**62, 4)), raw=(b"1234",)), f"has {2**128} bytes. Received: 4 bytes"),
    "values in the wrong field": (
        ask(image(fp64_contents=ROW)),
        "values of FP32 come in fp32_contents, or all inputs in raw_input_contents. Received: fp64_contents",
    ),
    "values in two fields": (
        ask(image(fp64_contents=[1], fp32_contents=ROW)),
        "Received: fp32_contents, fp64_contents",
    ),
    "values both ways": (ask(image(fp32_contents=ROW), raw=(ROW.tobytes(),)), "Received: both"),
    "raw for some only": (
        ask(image(), raw=(ROW.tobytes(), b"")),
        "raw_input_contents holds all inputs or none: 1 of them. Received: 2",
    ),
    "FP16 typed": (ask(image(datatype="FP16")), "values of FP16 come in raw_input_contents only"),
    "a value that does not fit": (
        ask(image((1, 1), "UINT8", uint_contents=[256])),
        "a value of UINT8 lies in [0, 255]. Received: 256 to 256",
    ),
    "NaN": (ask(image(fp32_contents=[np.nan] * 784)), "all values finite. Received: 784 that are not"),
    "shared memory": (
        ask(
            Input(
                name="image",
                datatype="FP32",
                shape=[1, 784],
                parameters={"shared_memory_region": parameter(string_param="r")},
            )
        ),
        "this server takes no tensors in shared memory (--system-shared-memory false); send the values",
    ),
    "more rows than a batch": (
        ask(image((65, 784)), raw=(bytes(65 * 3136),)),
        "digits/1 takes at most 64 rows in one request. Received: 65",
    ),
    "pictures of a flat shape": (
        ask(image((1, 2), "BYTES", bytes_contents=[b"a", b"b"]), model="red"),
        "encoded pictures have the shape [rows] or [rows, 1]. Received: [1, 2]",
    ),
    "fewer pictures than said": (
        ask(image((2,), "BYTES", bytes_contents=[b"a"]), model="red"),
        "BYTES [2] has 2 elements. Received: 1 elements",
    ),
    "more pictures than a batch": (
        ask(image((65,), "BYTES", bytes_contents=[b"a"] * 65), model="red"),
        "red takes 1 to 64 pictures in one request. Received: 65",
    ),
    "no picture": (
        ask(image((1,), "BYTES", bytes_contents=[b"hello"]), model="red"),
        "a picture is JPEG, PNG, WebP or BMP. Received: 5 bytes",
    ),
    "an empty picture": (ask(image((1,), "BYTES", bytes_contents=[b""]), model="red"), "it is empty"),
    "a raw element cut short": (
        ask(image((1,), "BYTES"), model="red", raw=(b"\x05\0\0\0abc",)),
        "Received: element 0 that ends 2 bytes after the data",
    ),
    "a raw length cut short": (
        ask(image((1,), "BYTES"), model="red", raw=(b"\x05\0",)),
        "each element of BYTES has four bytes of length",
    ),
    "more raw elements than said": (
        ask(image((1,), "BYTES"), model="red", raw=(b"\0\0\0\0" * 9,)),
        "BYTES [1] has 1 elements. Received: 2 elements",
    ),
    "a timeout that is no integer": (
        ask(image(fp32_contents=ROW), parameters={"timeout": parameter(string_param="1")}),
        "the parameter timeout is an integer. Received: string_param",
    ),
    "a negative timeout": (
        ask(image(fp32_contents=ROW), parameters={"timeout": parameter(int64_param=-1)}),
        "the parameter timeout is a number of microseconds. Received: -1",
    ),
    "a priority out of range": (
        ask(image(fp32_contents=ROW), parameters={"priority": parameter(uint64_param=6)}),
        "the parameter priority is 1 to 5, or 0 for the usual one. Received: 6",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(stub: Stub, case: str) -> None:
    request, message = BAD[case]
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request, timeout=10)
    assert (caught.value.code(), message in caught.value.details()) == (Code.INVALID_ARGUMENT, True), (
        caught.value.details()
    )


def test_a_short_timeout_is_kept(stub: Stub) -> None:
    request = ask(image(fp32_contents=ROW), parameters={"timeout": parameter(int64_param=1)})
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request, timeout=10)
    assert caught.value.code() is Code.DEADLINE_EXCEEDED


def test_callers_without_a_deadline_wait_in_the_queue_too(stub: Stub) -> None:
    """GRPC gives them one in a future so far away that no lock can wait for it."""
    requests = [ask(image(fp32_contents=ROW)) for _ in range(64)]
    assert not any(answer.error_message for answer in stub.ModelStreamInfer(iter(requests)))
    late = {"timeout": parameter(int64_param=2**63 - 1)}
    answers = [stub.ModelInfer.future(ask(image(fp32_contents=ROW), parameters=late)) for _ in range(16)]
    assert all(answer.result(10).outputs for answer in answers)


def test_a_stream_answers_in_order_and_outlives_refusals(stub: Stub) -> None:
    requests = [
        ask(image((1 + number % 3, 784)), raw=(bytes(3136 * (1 + number % 3)),), id=str(number)) for number in range(50)
    ]
    requests[7].model_name = "blue"
    answers = list(stub.ModelStreamInfer(iter(requests), timeout=30))
    assert [answer.infer_response.id for answer in answers] == [str(number) for number in range(50)]
    assert [number for number, answer in enumerate(answers) if answer.error_message] == [7]
    assert answers[7].error_message.startswith("[NOT_FOUND] no model 'blue'")
    assert [answer.infer_response.outputs[0].shape[0] for answer in answers[:7]] == [1, 2, 3, 1, 2, 3, 1]


def test_models_are_not_to_be_loaded_with_files_of_the_callers(stub: Stub) -> None:
    request = pb.RepositoryModelLoadRequest(
        model_name="red", parameters={"config": pb.ModelRepositoryParameter(string_param="{}")}
    )
    with pytest.raises(grpc.RpcError) as caught:
        stub.RepositoryModelLoad(request, timeout=10)
    assert caught.value.code() is Code.INVALID_ARGUMENT
    assert "without parameters. Received: 'config'" in caught.value.details()


def test_the_operator_may_keep_callers_from_loading(start: Any) -> None:
    with grpc.insecure_channel(start(None, "--model-control", "false").target) as channel:
        for method, request in (
            (Stub(channel).RepositoryModelLoad, pb.RepositoryModelLoadRequest(model_name="red")),
            (Stub(channel).RepositoryModelUnload, pb.RepositoryModelUnloadRequest(model_name="red")),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                method(request, timeout=10)
            assert caught.value.code() is Code.PERMISSION_DENIED
