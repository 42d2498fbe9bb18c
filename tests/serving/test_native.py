"""The native protocol over the wire, with the stock generated stubs: good input and every row of bad input."""

import io
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from PIL import Image
from pycocotools import mask as coco

from serving.pb.sparsewalk.v1 import encoder_pb2 as pb
from serving.pb.sparsewalk.v1 import encoder_pb2_grpc as pb_grpc

Array = np.ndarray[Any, Any]
Code = grpc.StatusCode


@pytest.fixture(scope="module")
def channel(server: Any) -> Iterator[grpc.Channel]:
    # Larger than the server's limit, so that it is the server that refuses.
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(server.target, options) as connected:
        yield connected


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> pb_grpc.EncoderServiceStub:
    return pb_grpc.EncoderServiceStub(channel)


def half_red(height: int = 32, width: int = 64) -> Array:
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:, : width // 2, 0] = 204
    return picture


def file_of(picture: Array | Image.Image, form: str = "PNG", **options: Any) -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def encoded(data: bytes) -> pb.Picture:
    return pb.Picture(encoded=data)


def tensor(array: Array, **changes: Any) -> pb.Picture:
    dtype = pb.DATA_TYPE_UINT8 if array.dtype == np.uint8 else pb.DATA_TYPE_FP32
    fields = {"dtype": dtype, "shape": array.shape, "data": array.tobytes()} | changes
    return pb.Picture(tensor=pb.Tensor(**fields))


def model(name: str, version: int | None = None) -> pb.ModelSpec:
    return pb.ModelSpec(name=name, version=version)


def ask_mask(picture: pb.Picture, name: str = "red", **fields: Any) -> pb.SegmentRequest:
    return pb.SegmentRequest(model=model(name), picture=picture, **fields)


class TestSegment:
    def test_answers_who_and_what_and_how_long(self, stub: pb_grpc.EncoderServiceStub) -> None:
        answer = stub.Segment(ask_mask(encoded(file_of(half_red())), threshold=0.5), timeout=10)
        assert (answer.model.name, answer.model.version) == ("red", 2)
        assert (answer.mask.height, answer.mask.width, answer.mask.format) == (32, 64, pb.MASK_FORMAT_PNG)
        assert (answer.threshold, answer.foreground_fraction) == (0.5, 0.5)
        np.testing.assert_array_equal(
            np.asarray(Image.open(io.BytesIO(answer.mask.data))), (half_red()[:, :, 0] > 0) * 255
        )
        timings = answer.timings
        phases = (timings.decode_seconds, timings.inference_seconds, timings.postprocess_seconds)
        assert min(phases) > 0
        assert sum(phases) + timings.queue_seconds <= timings.total_seconds

    def test_a_tensor_and_a_file_give_the_same_mask(self, stub: pb_grpc.EncoderServiceStub) -> None:
        picture = np.random.default_rng(0).integers(0, 256, (77, 55, 3), dtype=np.uint8)
        answers = [stub.Segment(ask_mask(each), timeout=10) for each in (tensor(picture), encoded(file_of(picture)))]
        assert answers[0].mask == answers[1].mask

    @pytest.mark.parametrize(
        "form", [pb.MASK_FORMAT_COCO_RLE, pb.MASK_FORMAT_PACKED_BITS, pb.MASK_FORMAT_PROBABILITIES]
    )
    def test_every_format(self, stub: pb_grpc.EncoderServiceStub, form: pb.MaskFormat) -> None:
        mask = stub.Segment(ask_mask(tensor(half_red()), format=form, threshold=0.5), timeout=10).mask
        assert mask.format == form
        if form == pb.MASK_FORMAT_COCO_RLE:
            found: Array = coco.decode({"size": [32, 64], "counts": mask.data})
        elif form == pb.MASK_FORMAT_PACKED_BITS:
            found = np.unpackbits(np.frombuffer(mask.data, np.uint8).reshape(32, 8), axis=1)
        else:
            found = np.frombuffer(mask.data, "<f4").reshape(32, 64) >= 0.5
        np.testing.assert_array_equal(found, half_red()[:, :, 0] > 0)

    def test_the_models_size(self, stub: pb_grpc.EncoderServiceStub) -> None:
        mask = stub.Segment(ask_mask(tensor(half_red(10, 10)), size=pb.MASK_SIZE_MODEL), timeout=10).mask
        assert (mask.height, mask.width) == (32, 64)

    def test_a_version_can_be_asked_for(self, stub: pb_grpc.EncoderServiceStub) -> None:
        request = pb.SegmentRequest(model=model("red", 1), picture=tensor(half_red()))
        answer = stub.Segment(request, timeout=10)
        assert (answer.model.version, answer.threshold) == (1, 0.5)

    @pytest.mark.parametrize(
        "data",
        [
            file_of(np.full((8, 8), 255, np.uint8)),
            file_of(np.full((8, 8), 65535, np.uint16)),
            file_of(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG"),
            file_of(Image.new("RGBA", (8, 8), (0, 0, 0, 0))),
            file_of(Image.new("P", (8, 8))),
            file_of(np.full((8, 8, 3), 255, np.uint8), "WEBP"),
            file_of(np.full((8, 8, 3), 255, np.uint8), "BMP"),
        ],
        ids=["grey", "16 bit", "CMYK", "alpha", "palette", "WebP", "BMP"],
    )
    def test_unusual_pictures_are_handled(self, stub: pb_grpc.EncoderServiceStub, data: bytes) -> None:
        answer = stub.Segment(ask_mask(encoded(data)), timeout=10)
        assert (answer.mask.height, answer.mask.width) == (8, 8)

    def test_a_turned_picture_gets_an_upright_mask(self, stub: pb_grpc.EncoderServiceStub) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        answer = stub.Segment(ask_mask(encoded(file_of(half_red(), exif=exif)), threshold=0.5), timeout=10)
        assert (answer.mask.height, answer.mask.width) == (64, 32)
        mask = np.asarray(Image.open(io.BytesIO(answer.mask.data)))
        assert (mask[:30] == 255).all()
        assert (mask[34:] == 0).all()


class TestEncodeAndReconstruct:
    def test_answers_for_rows(self, stub: pb_grpc.EncoderServiceStub) -> None:
        rows = np.random.default_rng(0).random((3, 784), dtype=np.float32)
        coded = stub.Encode(pb.EncodeRequest(model=model("digits"), picture=tensor(rows)), timeout=10)
        rebuilt = stub.Reconstruct(pb.ReconstructRequest(model=model("digits"), picture=tensor(rows)), timeout=10)
        encoding = np.frombuffer(coded.encoding.data, "<f4").reshape(tuple(coded.encoding.shape))
        reconstruction = np.frombuffer(rebuilt.reconstruction.data, "<f4").reshape(tuple(rebuilt.reconstruction.shape))
        np.testing.assert_allclose(encoding[:, 0], rows.sum(axis=1), rtol=1e-5)
        np.testing.assert_allclose(reconstruction, 1 - rows, rtol=1e-6)
        assert coded.encoding.dtype == rebuilt.reconstruction.dtype == pb.DATA_TYPE_FP32
        assert (coded.model.name, rebuilt.model.version) == ("digits", 1)
        assert coded.timings.total_seconds > 0

    def test_a_picture_is_one_row(self, stub: pb_grpc.EncoderServiceStub) -> None:
        white = encoded(file_of(np.full((50, 50, 3), 255, np.uint8)))
        answer = stub.Encode(pb.EncodeRequest(model=model("digits"), picture=white), timeout=10)
        np.testing.assert_allclose(np.frombuffer(answer.encoding.data, "<f4"), [784, 1, 1, 0], rtol=1e-5)


def test_models_are_listed_with_their_papers(stub: pb_grpc.EncoderServiceStub) -> None:
    found = {(info.name, info.version): info for info in stub.ListModels(pb.ListModelsRequest(), timeout=10).models}
    assert list(found) == [("digits", 1), ("red", 1), ("red", 2), ("red_fixed", 1)]
    digits, red = found["digits", 1], found["red", 2]
    assert (digits.family, digits.ready, digits.provider) == ("mnist", True, "CPUExecutionProvider")
    assert dict(digits.scores) == {"probe_error": 0.03}
    assert not digits.HasField("default_threshold")
    assert [(spec.name, spec.dtype, list(spec.shape)) for spec in red.inputs] == [("image", "UINT8", [-1, -1, -1, 3])]
    assert red.default_threshold == 0.25
    assert red.data_source == "real"


ZEROS = np.zeros((1, 784), np.float32)
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def encode(picture: pb.Picture, name: str = "digits") -> pb.EncodeRequest:
    return pb.EncodeRequest(model=model(name), picture=picture)


BAD_INPUT: dict[str, tuple[Any, grpc.StatusCode, str]] = {
    "unknown model": (
        ask_mask(tensor(NOISE), "blue"),
        Code.NOT_FOUND,
        "no model 'blue'. Known: digits, red, red_fixed",
    ),
    "unknown version": (
        pb.SegmentRequest(model=model("red", 7), picture=tensor(NOISE)),
        Code.NOT_FOUND,
        "no version 7 of model red. Known: 1, 2",
    ),
    "version 0": (
        pb.SegmentRequest(model=model("red", 0), picture=tensor(NOISE)),
        Code.NOT_FOUND,
        "no version 0 of model red",
    ),
    "nothing at all": (pb.SegmentRequest(), Code.INVALID_ARGUMENT, "the request holds no picture"),
    "no model": (
        pb.SegmentRequest(picture=tensor(NOISE)),
        Code.INVALID_ARGUMENT,
        "the request names no model. Known: digits, red, red_fixed",
    ),
    "no picture": (
        pb.SegmentRequest(model=model("red")),
        Code.INVALID_ARGUMENT,
        "the request holds no picture: set encoded or tensor",
    ),
    "empty picture": (ask_mask(encoded(b"")), Code.INVALID_ARGUMENT, "the request holds no picture: it is empty"),
    "empty tensor": (ask_mask(pb.Picture(tensor=pb.Tensor())), Code.INVALID_ARGUMENT, "dtype is UINT8 (1) or FP32 (2)"),
    "no picture at all": (
        ask_mask(encoded(b"hello")),
        Code.INVALID_ARGUMENT,
        "a picture is JPEG, PNG, WebP or BMP. Received: 5 bytes that begin with b'hello'",
    ),
    "truncated JPEG": (
        ask_mask(encoded(file_of(NOISE, "JPEG")[:-900])),
        Code.INVALID_ARGUMENT,
        "the JPEG picture is truncated or broken",
    ),
    "truncated PNG": (
        ask_mask(encoded(file_of(NOISE)[:-900])),
        Code.INVALID_ARGUMENT,
        "the PNG picture is truncated or broken",
    ),
    "too many pixels in a file": (
        ask_mask(encoded(file_of(np.zeros((1001, 1000, 3), np.uint8)))),
        Code.INVALID_ARGUMENT,
        "a picture has at most 1000000 pixels. Received: 1000 x 1001 = 1001000",
    ),
    "too many pixels in a tensor": (
        ask_mask(tensor(np.zeros((1001, 1000, 3), np.uint8))),
        Code.INVALID_ARGUMENT,
        "a picture has at most 1000000 pixels. Received: 1001 x 1000",
    ),
    "unknown dtype": (ask_mask(tensor(NOISE, dtype=9)), Code.INVALID_ARGUMENT, "UINT8 (1) or FP32 (2). Received: 9"),
    "wrong dtype for a picture": (
        ask_mask(tensor(np.zeros((8, 8, 3), np.float32))),
        Code.INVALID_ARGUMENT,
        "a picture is uint8 [height, width, 3]. Received: FP32 [8, 8, 3]",
    ),
    "wrong dtype for rows": (
        encode(tensor(np.zeros((1, 784), np.uint8))),
        Code.INVALID_ARGUMENT,
        "input 'image' of digits is FP32 [-1, 784]. Received: UINT8 [1, 784]",
    ),
    "wrong shape": (
        encode(tensor(np.zeros((1, 100), np.float32))),
        Code.INVALID_ARGUMENT,
        "input 'image' of digits is FP32 [-1, 784]. Received: FP32 [1, 100]",
    ),
    "wrong byte count": (
        encode(tensor(ZEROS, data=bytes(3135))),
        Code.INVALID_ARGUMENT,
        "a tensor float32 [1, 784] has 3136 bytes. Received: 3135 bytes",
    ),
    "negative size": (
        encode(tensor(ZEROS, shape=[-1, 784])),
        Code.INVALID_ARGUMENT,
        "sizes of at least 1. Received: [-1, 784]",
    ),
    "empty batch": (
        encode(tensor(ZEROS, shape=[0, 784], data=b"")),
        Code.INVALID_ARGUMENT,
        "sizes of at least 1. Received: [0, 784]",
    ),
    "sizes whose product overflows": (
        encode(tensor(ZEROS, shape=[2**62, 2**62, 4])),
        Code.INVALID_ARGUMENT,
        f"has {2**128} bytes. Received: 3136 bytes",
    ),
    "NaN": (
        encode(tensor(np.full((1, 784), np.nan, np.float32))),
        Code.INVALID_ARGUMENT,
        "all values finite. Received: 784 that are not, the first nan",
    ),
    "infinity": (
        encode(tensor(np.full((1, 784), np.inf, np.float32))),
        Code.INVALID_ARGUMENT,
        "all values finite. Received: 784 that are not, the first inf",
    ),
    "values out of range": (
        encode(tensor(np.full((1, 784), 2, np.float32))),
        Code.INVALID_ARGUMENT,
        "with values in [0, 1]. Received: 2 to 2",
    ),
    "more rows than a batch": (
        encode(tensor(np.zeros((65, 784), np.float32))),
        Code.INVALID_ARGUMENT,
        "digits/1 takes at most 64 rows in one request. Received: 65",
    ),
    "threshold below 0": (
        ask_mask(tensor(NOISE), threshold=-0.5),
        Code.INVALID_ARGUMENT,
        "the threshold lies in [0, 1]. Received: -0.5",
    ),
    "threshold above 1": (
        ask_mask(tensor(NOISE), threshold=1.5),
        Code.INVALID_ARGUMENT,
        "the threshold lies in [0, 1]. Received: 1.5",
    ),
    "threshold not a number": (
        ask_mask(tensor(NOISE), threshold=float("nan")),
        Code.INVALID_ARGUMENT,
        "the threshold lies in [0, 1]. Received: nan",
    ),
    "unknown mask format": (
        ask_mask(tensor(NOISE), format=9),
        Code.INVALID_ARGUMENT,
        "the mask format is one of 0 to 4. Received: 9",
    ),
    "unknown mask size": (
        ask_mask(tensor(NOISE), size=9),
        Code.INVALID_ARGUMENT,
        "the mask size is one of 0 to 2. Received: 9",
    ),
    "a mask of a model without": (
        ask_mask(tensor(NOISE), "digits"),
        Code.INVALID_ARGUMENT,
        "digits has no output 'mask'; it has encoding, reconstruction",
    ),
    "an encoding of a model without": (
        encode(tensor(NOISE), "red"),
        Code.INVALID_ARGUMENT,
        "red has no output 'encoding'; it has mask",
    ),
    "an unknown label": (
        pb.SegmentRequest(model=pb.ModelSpec(name="red", label="canary"), picture=tensor(NOISE)),
        Code.NOT_FOUND,
        "no version labelled 'canary' of model red. Known labels: none",
    ),
    "an unknown encoding form": (
        pb.EncodeRequest(model=model("digits"), picture=tensor(ZEROS), form=9),
        Code.INVALID_ARGUMENT,
        "the encoding form is one of 0 to 2. Received: 9",
    ),
    "an unknown priority": (
        ask_mask(tensor(NOISE), priority=6),
        Code.INVALID_ARGUMENT,
        "the priority is 1 to 5, or 0 for the usual one. Received: 6",
    ),
    "nothing to reconstruct": (
        pb.ReconstructRequest(model=model("digits")),
        Code.INVALID_ARGUMENT,
        "the request holds no picture",
    ),
    "an encoding for a model that cannot be cut": (
        pb.ReconstructRequest(model=model("digits"), encoding=tensor(np.zeros((1, 4), np.float32)).tensor),
        Code.INVALID_ARGUMENT,
        "digits cannot start from an encoding: its decoder needs the picture too",
    ),
    "sparse rows that do not fit together": (
        pb.ReconstructRequest(model=model("digits"), sparse=pb.SparseRows(width=4, row_starts=[0, 9])),
        Code.INVALID_ARGUMENT,
        "row_starts rises from 0 to the number of values, 0",
    ),
    "a message over the limit": (
        ask_mask(encoded(bytes(4 * 2**20))),
        Code.RESOURCE_EXHAUSTED,
        "Received message larger than max",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input(stub: pb_grpc.EncoderServiceStub, case: str) -> None:
    request, code, message = BAD_INPUT[case]
    method = getattr(stub, type(request).__name__.removesuffix("Request"))
    with pytest.raises(grpc.RpcError) as caught:
        method(request, timeout=10)
    assert (caught.value.code(), message in caught.value.details()) == (code, True), caught.value.details()


def test_bytes_that_are_no_message_get_a_status(channel: grpc.Channel) -> None:
    raw = channel.unary_unary("/sparsewalk.v1.EncoderService/Segment")
    with pytest.raises(grpc.RpcError) as caught:
        raw(b"\xff\xff\xff", timeout=10)
    assert caught.value.code() is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("service", ["", "sparsewalk.v1.EncoderService", "red", "digits"])
def test_health_by_service_and_model(channel: grpc.Channel, service: str) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_lists_and_describes_the_services(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert sorted(database.get_services()) == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
        "sparsewalk.v1.EncoderService",
        "tensorflow.serving.ModelService",
        "tensorflow.serving.PredictionService",
    ]
    described = database.FindFileContainingSymbol("sparsewalk.v1.EncoderService")
    methods = [method.name for method in described.service[0].method]
    assert methods == ["Segment", "SegmentStream", "Encode", "Reconstruct", "ListModels"]
