"""Answers larger than a message may be: refused and counted by us, where gRPC would do so behind our back."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from serving.pb.open_inference import grpc_service_pb2 as oip
from serving.pb.open_inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from serving.pb.sparsewalk.v1 import encoder_pb2 as pb
from serving.pb.sparsewalk.v1 import encoder_pb2_grpc as pb_grpc
from tests.serving.test_metrics import page, value

LIMIT = 65536
REFUSED = re.compile(
    rf"an answer has at most {LIMIT} bytes \(--max-message-bytes\), and this one (\d+): ask for fewer rows or outputs,"
    " or for a mask in another format or at the model's size"
)


@pytest.fixture(scope="module")
def running(launch: Any, build: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    root: Path = tmp_path_factory.mktemp("answers")
    build(root, "red")
    server = launch(root, "--max-message-bytes", str(LIMIT))
    yield server
    code, errors = server.stop()
    assert code == 0, errors
    assert "Traceback" not in errors


@pytest.fixture
def channel(running: Any) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(running.target) as made:
        yield made


def segment(side: int, form: pb.MaskFormat = pb.MASK_FORMAT_PROBABILITIES, **changes: Any) -> pb.SegmentRequest:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(buffer, format="PNG")
    return pb.SegmentRequest(
        model=pb.ModelSpec(name="red"), picture=pb.Picture(encoded=buffer.getvalue()), format=form, **changes
    )


def test_an_answer_that_is_too_large_is_refused_and_counted(running: Any, channel: grpc.Channel) -> None:
    stub = pb_grpc.EncoderServiceStub(channel)  # type: ignore[no-untyped-call]
    with pytest.raises(grpc.RpcError) as caught:
        stub.Segment(segment(200), timeout=10, metadata=(("x-request-id", "mine"),))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    told = REFUSED.fullmatch(caught.value.details())
    assert told is not None, caught.value.details()
    assert 4 * 200 * 200 < int(told[1]) < 4 * 200 * 200 + 200
    assert ("x-request-id", "mine") in [tuple(each) for each in caught.value.trailing_metadata()]
    text, of = page(running.metrics_url), {"model": "red", "version": "1"}
    assert value(text, "sparsewalk_requests_total", method="Segment", code="RESOURCE_EXHAUSTED", **of) == 1
    assert value(text, "sparsewalk_requests_total", method="Segment", code="OK", **of) == 0
    assert value(text, "sparsewalk_refusals_total", reason="answer_too_large", **of) == 1
    # What the message says helps.
    stub.Segment(segment(200, pb.MASK_FORMAT_PNG), timeout=10)
    stub.Segment(segment(200, size=pb.MASK_SIZE_MODEL), timeout=10)


def test_a_stream_goes_on(channel: grpc.Channel) -> None:
    stub = pb_grpc.EncoderServiceStub(channel)  # type: ignore[no-untyped-call]
    frames = [pb.SegmentStreamRequest(frame=side, request=segment(side)) for side in (200, 20)]
    large, small = stub.SegmentStream(iter(frames), timeout=10)
    assert (large.frame, large.error.code) == (200, grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])
    assert REFUSED.fullmatch(large.error.message)
    assert (small.frame, small.response.mask.height) == (20, 20)


def test_rows_are_too_many_where_their_answer_is(channel: grpc.Channel) -> None:
    stub = GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]

    def ask(rows: int) -> Any:
        image = np.zeros((rows, 32, 32, 3), np.uint8)
        request = oip.ModelInferRequest(model_name="red", raw_input_contents=[image.tobytes()])
        request.inputs.add(name="image", datatype="UINT8", shape=image.shape)
        return stub.ModelInfer(request, timeout=10)

    # The mask takes 4 bytes a pixel, the image 3.
    with pytest.raises(grpc.RpcError) as caught:
        ask(16)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert REFUSED.fullmatch(caught.value.details())
    assert ask(15).outputs[0].shape == [15, 32, 32, 1]
