"""Tensors in shared memory: regions on their own, and over the wire."""

import os
import struct
from collections.abc import Callable, Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from serving.errors import (
    AlreadyExistsError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    RequestError,
    TooManyRegionsError,
)
from serving.pb.open_inference import grpc_service_pb2 as pb
from serving.pb.open_inference import grpc_service_pb2_grpc as pb_grpc
from serving.shared_memory import Region, Regions

Code = grpc.StatusCode
Parameter = pb.InferParameter

ROWS = np.random.default_rng(0).random((3, 784), dtype=np.float32)


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    shared = SharedMemory(create=True, size=32768)
    yield shared
    shared.close()
    shared.unlink()


@pytest.fixture
def regions() -> Regions:
    return Regions(max_bytes=8192)


def resize(memory: SharedMemory, size: int) -> None:
    os.truncate(Path("/dev/shm") / memory.name, size)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class TestRegions:
    def test_bytes_are_read_and_written_where_they_are_said_to_be(self, regions: Regions, memory: SharedMemory) -> None:
        memory.buf[105:108] = b"abc"
        regions.register("a", f"/{memory.name}", 100, 50)
        part = regions.part("a", 5, 3)
        assert part.read() == b"abc"
        part.write("it", memoryview(b"xy"))
        assert bytes(memory.buf[104:109]) == b"\0xyc\0"
        (told,) = regions.registered("a")
        assert (told.name, told.key, told.offset, told.size) == ("a", f"/{memory.name}", 100, 50)

    def test_a_part_outlives_its_region_and_then_nothing_stays_open(
        self, regions: Regions, memory: SharedMemory
    ) -> None:
        before = descriptors()
        regions.register("a", memory.name, 0, 10)
        part = regions.part("a", 0, 10)
        regions.unregister("a")
        assert regions.registered("") == []
        assert part.read() == bytes(10)
        assert descriptors() == before + 1
        del part
        assert descriptors() == before

    def test_what_is_refused_leaves_nothing_open(self, regions: Regions, memory: SharedMemory) -> None:
        regions.register("a", memory.name, 0, 10)
        before = descriptors()
        for name, size in (("b", 32769), ("a", 10)):
            with pytest.raises(RequestError):
                regions.register(name, memory.name, 0, size)
        assert descriptors() == before

    def test_all_are_unregistered_by_the_empty_name(self, regions: Regions, memory: SharedMemory) -> None:
        for name in "abc":
            regions.register(name, memory.name, 0, 10)
        assert [each.name for each in regions.registered("")] == ["a", "b", "c"]
        regions.unregister("b")
        regions.unregister("none of this name")
        assert [each.name for each in regions.registered("")] == ["a", "c"]
        regions.unregister("")
        assert regions.registered("") == []

    def test_they_are_bounded(self, regions: Regions, memory: SharedMemory) -> None:
        for number in range(256):
            regions.register(str(number), memory.name, 0, 10)
        with pytest.raises(TooManyRegionsError, match="the server has 256 regions of shared memory registered"):
            regions.register("one more", memory.name, 0, 10)
        regions.unregister("7")
        regions.register("one more", memory.name, 0, 10)

    def test_memory_that_was_cut_off_is_an_error_of_the_request(self, regions: Regions, memory: SharedMemory) -> None:
        regions.register("a", memory.name, 0, 32768)
        resize(memory, 100)
        assert regions.part("a", 0, 100).read() == bytes(100)
        with pytest.raises(
            InvalidInputError, match=r"became shorter .*: 200 bytes from offset 0 .* Received: 100 bytes"
        ):
            regions.part("a", 0, 200).read()

    def test_a_full_system_is_an_error_of_the_request(self) -> None:
        region = Region("a", "/a", 0, 10, os.open("/dev/full", os.O_RDWR))
        with pytest.raises(InvalidInputError, match="the shared memory 'a': No space left on device"):
            region.write(0, memoryview(b"abc"))

    def test_a_tensor_is_no_larger_than_a_message(self, regions: Regions, memory: SharedMemory) -> None:
        regions.register("a", memory.name, 0, 32768)
        with pytest.raises(InvalidInputError, match=r"a tensor has at most 8192 bytes\. Received: 8193 bytes"):
            regions.part("a", 0, 8193)

    @pytest.mark.parametrize(
        ("name", "offset", "size", "kind", "message"),
        [
            ("", 0, 10, InvalidInputError, "a region of shared memory has a name. Received: none"),
            ("b", 0, 0, InvalidInputError, "has 32768 bytes. Received: 0 bytes from offset 0"),
            ("b", 0, 32769, InvalidInputError, "has 32768 bytes. Received: 32769 bytes from offset 0"),
            ("b", 32768, 1, InvalidInputError, "has 32768 bytes. Received: 1 bytes from offset 32768"),
            ("b", 2**64 - 1, 2**64 - 1, InvalidInputError, "from offset 18446744073709551615"),
            ("a", 0, 10, AlreadyExistsError, "shared memory is registered as 'a' already: unregister it first"),
        ],
    )
    def test_regions_that_cannot_be(
        self, regions: Regions, memory: SharedMemory, name: str, offset: int, size: int, kind: type, message: str
    ) -> None:
        regions.register("a", memory.name, 0, 10)
        with pytest.raises(kind) as caught:
            regions.register(name, memory.name, offset, size)
        assert message in str(caught.value)

    @pytest.mark.parametrize("key", ["", "/", "..", "/.", "../etc/passwd", "//x", "a/b", "a\0b"])
    def test_keys_that_are_none(self, regions: Regions, key: str) -> None:
        with pytest.raises(InvalidInputError, match="the key of shared memory is a name with or without one slash"):
            regions.register("a", key, 0, 10)

    def test_an_object_that_is_not_there(self, regions: Regions) -> None:
        with pytest.raises(
            NotFoundError, match="there is no shared memory '/nobody-made-this' on the server's machine"
        ):
            regions.register("a", "/nobody-made-this", 0, 10)
        with pytest.raises(ForbiddenError, match="cannot be used: File name too long"):
            regions.register("a", "x" * 300, 0, 10)

    @pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
    def test_what_is_no_shared_memory(self, regions: Regions, kind: str, tmp_path: Path) -> None:
        """None of them makes the server wait, or reach beyond /dev/shm."""
        path = Path("/dev/shm") / f"{tmp_path.parent.name}-{os.getpid()}-{kind}"
        (tmp_path / "secret").write_bytes(bytes(100))
        {"folder": path.mkdir, "link": lambda: path.symlink_to(tmp_path / "secret"), "pipe": lambda: os.mkfifo(path)}[
            kind
        ]()
        before = descriptors()
        try:
            with pytest.raises(ForbiddenError, match="cannot be used"):
                regions.register("a", path.name, 0, 10)
        finally:
            path.rmdir() if kind == "folder" else path.unlink()
        assert descriptors() == before


Stub = pb_grpc.GRPCInferenceServiceStub


@pytest.fixture(scope="module")
def stub(launch: Callable[..., Any], models: Path) -> Iterator[Stub]:
    server = launch(models, "--system-shared-memory", "true")
    with grpc.insecure_channel(server.target) as channel:
        yield Stub(channel)
    code, errors = server.stop()
    assert code == 0, errors


@pytest.fixture
def region(stub: Stub, memory: SharedMemory) -> Iterator[str]:
    stub.SystemSharedMemoryRegister(
        pb.SystemSharedMemoryRegisterRequest(name="r", key=memory.name, byte_size=memory.size), timeout=10
    )
    yield "r"
    stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(name="r"), timeout=10)


def place(size: int, offset: int | None = None, region: str = "r") -> dict[str, Parameter]:
    where = {
        "shared_memory_region": Parameter(string_param=region),
        "shared_memory_byte_size": Parameter(int64_param=size),
    }
    return where if offset is None else where | {"shared_memory_offset": Parameter(int64_param=offset)}


def ask(where: dict[str, Parameter], to: dict[str, Parameter] | None = None, **changes: Any) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="digits", **changes)
    request.inputs.add(name="image", datatype="FP32", shape=[3, 784], parameters=where)
    request.outputs.add(name="reconstruction", parameters=to or {})
    request.outputs.add(name="encoding")
    return request


def test_rows_come_from_memory_and_answers_go_there(stub: Stub, memory: SharedMemory, region: str) -> None:
    memory.buf[: ROWS.nbytes] = ROWS.tobytes()
    answer = stub.ModelInfer(ask(place(ROWS.nbytes), place(20000, 10000)), timeout=10)
    found = np.frombuffer(memory.buf, np.float32, ROWS.size, 10000).reshape(ROWS.shape).copy()
    np.testing.assert_allclose(found, 1 - ROWS, rtol=1e-6)
    reconstruction, encoding = answer.outputs
    assert (reconstruction.name, list(reconstruction.shape)) == ("reconstruction", [3, 784])
    assert reconstruction.parameters["shared_memory_region"].string_param == region
    assert reconstruction.parameters["shared_memory_offset"].int64_param == 10000
    assert reconstruction.parameters["shared_memory_byte_size"].int64_param == ROWS.nbytes
    assert not encoding.parameters
    assert answer.raw_output_contents[0] == b""
    sums = np.frombuffer(answer.raw_output_contents[1], np.float32).reshape(3, 4)[:, 0]
    np.testing.assert_allclose(sums, ROWS.sum(axis=1), rtol=1e-5)


def test_a_stream_takes_them_too(stub: Stub, memory: SharedMemory, region: str) -> None:
    del region
    memory.buf[: ROWS.nbytes] = ROWS.tobytes()
    requests = [ask(place(ROWS.nbytes)), ask(place(ROWS.nbytes, region="none")), ask(place(ROWS.nbytes))]
    first, second, third = stub.ModelStreamInfer(iter(requests), timeout=10)
    assert second.error_message == "[NOT_FOUND] no shared memory is registered as 'none'"
    for each in (first, third):
        found = np.frombuffer(each.infer_response.raw_output_contents[0], np.float32).reshape(ROWS.shape)
        np.testing.assert_allclose(found, 1 - ROWS, rtol=1e-6)


def test_pictures_come_from_memory(stub: Stub, memory: SharedMemory, region: str) -> None:
    import cv2

    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:, :, 2] = 51  # red comes last in OpenCV
    data = cv2.imencode(".png", picture)[1].tobytes()
    raw = struct.pack("<I", len(data)) + data
    memory.buf[50 : 50 + len(raw)] = raw
    request = pb.ModelInferRequest(model_name="red")
    request.inputs.add(name="image", datatype="BYTES", shape=[1], parameters=place(len(raw), 50, region))
    answer = stub.ModelInfer(request, timeout=10)
    np.testing.assert_allclose(np.frombuffer(answer.raw_output_contents[0], np.float32), 0.2, rtol=1e-6)


def test_regions_are_told(stub: Stub, memory: SharedMemory, region: str) -> None:
    told = stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest(), timeout=10).regions
    assert list(told) == [region]
    assert (told["r"].key, told["r"].offset, told["r"].byte_size) == (memory.name, 0, memory.size)
    with pytest.raises(grpc.RpcError) as caught:
        stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest(name="q"), timeout=10)
    assert caught.value.code() is Code.NOT_FOUND


def test_the_extension_is_told(stub: Stub, server: Any) -> None:
    assert "system_shared_memory" in stub.ServerMetadata(pb.ServerMetadataRequest(), timeout=10).extensions
    with grpc.insecure_channel(server.target) as channel:
        told = Stub(channel).ServerMetadata(pb.ServerMetadataRequest(), timeout=10).extensions
    assert "system_shared_memory" not in told


BYTES = ROWS.nbytes
BAD: dict[str, tuple[pb.ModelInferRequest, Code, str]] = {
    "an unknown region": (
        ask(place(BYTES, region="q\n")),
        Code.NOT_FOUND,
        r"no shared memory is registered as 'q\n'",
    ),
    "beyond its end": (
        ask(place(BYTES, 32768 - BYTES + 1)),
        Code.INVALID_ARGUMENT,
        f"'r' has 32768 bytes. Received: {BYTES} bytes from offset {32768 - BYTES + 1}",
    ),
    "before its beginning": (ask(place(BYTES, -1)), Code.INVALID_ARGUMENT, f"{BYTES} bytes from offset -1"),
    "of no size": (ask(place(0)), Code.INVALID_ARGUMENT, "Received: 0 bytes from offset 0"),
    "fewer bytes than the shape": (
        ask(place(BYTES - 4)),
        Code.INVALID_ARGUMENT,
        f"FP32 [3, 784] has {BYTES} bytes. Received: {BYTES - 4} bytes",
    ),
    "no size told": (
        ask({"shared_memory_region": Parameter(string_param="r")}),
        Code.INVALID_ARGUMENT,
        "input 'image': a place in shared memory has the parameter shared_memory_byte_size. Received: none",
    ),
    "no region told": (
        ask({"shared_memory_offset": Parameter(int64_param=0)}),
        Code.INVALID_ARGUMENT,
        "input 'image': a place in shared memory has the parameter shared_memory_region. Received: none",
    ),
    "a region that is no text": (
        ask({"shared_memory_region": Parameter(int64_param=1)}),
        Code.INVALID_ARGUMENT,
        "the parameter shared_memory_region is a text. Received: int64_param",
    ),
    "a size that is no integer": (
        ask(place(BYTES) | {"shared_memory_byte_size": Parameter(string_param="1")}),
        Code.INVALID_ARGUMENT,
        "the parameter shared_memory_byte_size is an integer. Received: string_param",
    ),
    "values as well": (
        ask(place(BYTES), raw_input_contents=[ROWS.tobytes()]),
        Code.INVALID_ARGUMENT,
        "raw_input_contents holds all inputs that are not in shared memory, or none: 0 of them. Received: 1",
    ),
    "no room for the answer": (
        ask(place(BYTES), place(BYTES - 1, 10000)),
        Code.INVALID_ARGUMENT,
        f"output 'reconstruction' has {BYTES} bytes. Received: {BYTES - 1} bytes of shared memory for it",
    ),
    "an unknown region for the answer": (ask(place(BYTES), place(BYTES, region="q")), Code.NOT_FOUND, "as 'q'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_places(stub: Stub, region: str, case: str) -> None:
    del region
    request, code, message = BAD[case]
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request, timeout=10)
    assert (caught.value.code(), message in caught.value.details()) == (code, True), caught.value.details()


def test_a_caller_who_takes_the_memory_away_does_not_harm_the_server(
    stub: Stub, memory: SharedMemory, region: str
) -> None:
    """With a mapping this would be SIGBUS."""
    del region
    resize(memory, 0)
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(ask(place(BYTES)), timeout=10)
    assert caught.value.code() is Code.INVALID_ARGUMENT
    assert "'r' became shorter after it was registered" in caught.value.details()
    assert stub.ServerLive(pb.ServerLiveRequest(), timeout=10).live


def test_a_name_is_registered_once(stub: Stub, memory: SharedMemory, region: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.SystemSharedMemoryRegister(
            pb.SystemSharedMemoryRegisterRequest(name=region, key=memory.name, byte_size=1), timeout=10
        )
    assert caught.value.code() is Code.ALREADY_EXISTS


def test_there_is_no_cuda_memory_to_register_and_none_to_forget(stub: Stub) -> None:
    """Triton's clients unregister it before they register system shared memory, and after."""
    stub.CudaSharedMemoryUnregister(pb.CudaSharedMemoryUnregisterRequest(), timeout=10)
    assert not stub.CudaSharedMemoryStatus(pb.CudaSharedMemoryStatusRequest(), timeout=10).regions
    for call, code, message in (
        (
            lambda: stub.CudaSharedMemoryRegister(pb.CudaSharedMemoryRegisterRequest(name="r"), timeout=10),
            Code.UNIMPLEMENTED,
            "this server takes tensors in system shared memory, not in CUDA's",
        ),
        (
            lambda: stub.CudaSharedMemoryStatus(pb.CudaSharedMemoryStatusRequest(name="r"), timeout=10),
            Code.NOT_FOUND,
            "no CUDA memory is registered as 'r'",
        ),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert (caught.value.code(), caught.value.details()) == (code, message)


def test_it_is_off_unless_asked_for(server: Any, memory: SharedMemory) -> None:
    with grpc.insecure_channel(server.target) as channel:
        off = Stub(channel)
        for call in (
            lambda: off.SystemSharedMemoryRegister(
                pb.SystemSharedMemoryRegisterRequest(name="r", key=memory.name, byte_size=1), timeout=10
            ),
            lambda: off.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest(), timeout=10),
            lambda: off.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(), timeout=10),
            lambda: off.CudaSharedMemoryRegister(pb.CudaSharedMemoryRegisterRequest(name="r"), timeout=10),
            lambda: off.CudaSharedMemoryStatus(pb.CudaSharedMemoryStatusRequest(), timeout=10),
            lambda: off.CudaSharedMemoryUnregister(pb.CudaSharedMemoryUnregisterRequest(), timeout=10),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call()
            assert caught.value.code() is Code.PERMISSION_DENIED
            assert "--system-shared-memory false" in caught.value.details()


def test_several_workers_have_none(models: Path, fail_to_start: Callable[..., tuple[int, str, str]]) -> None:
    code, _, errors = fail_to_start(models, "--system-shared-memory", "true", "--workers", "2")
    assert code == 2
    assert "--system-shared-memory needs --workers 1. Received: 2" in errors
