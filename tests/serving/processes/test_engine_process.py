"""``--engine-process``: fronts that listen, and one process with the models, over shared memory."""

import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.client import Client, ServiceError
from serving.pb.open_inference import grpc_service_pb2 as pb
from serving.pb.open_inference import grpc_service_pb2_grpc as pb_grpc
from tests.serving.processes import service

Start = Callable[..., Any]
ENGINE = ("--engine-process", "true")
FRONTS = (*ENGINE, "--workers", "3")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, build: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("models")
    for name in ("digits", "halves", "red", "red_fixed", "slow"):
        build(folder, name)
    return folder


@pytest.fixture(scope="module")
def running(root: Path, launch: Any) -> Iterator[Any]:
    """One service for all tests that leave it as it was."""
    each = launch(root, *FRONTS, "--max-batch-size", "16", "--shared-memory-bytes", str(4 << 20))
    yield each
    code, errors = each.stop()
    assert code == 0, errors
    assert "Traceback" not in errors


def fronts(target: str, count: int) -> list[grpc.Channel]:
    return [grpc.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)]) for _ in range(count)]


def test_the_engine_has_the_models_and_the_fronts_none(running: Any) -> None:
    seats = service.children(running.process.pid)
    assert sorted(seats) == ["engine 0", "front 0", "front 1", "front 2"]
    assert running.models == "digits/1,halves/1,red/1,red_fixed/1,slow/1"


def test_each_caller_gets_its_own_rows_over_any_front(running: Any) -> None:
    """Models, sizes, deadlines and cancellations mixed; what is answered is right, bit for bit."""
    channels = fronts(running.target, 6)
    outcomes: list[str] = []

    def ask(seed: int) -> None:
        dice = random.Random(seed)
        values = np.random.default_rng(seed)
        stub = pb_grpc.GRPCInferenceServiceStub(channels[seed % len(channels)])
        for _ in range(40):
            rows = dice.randint(1, 16)
            if dice.random() < 0.3:
                name, image = "red_fixed", values.integers(0, 256, (rows, 16, 16, 3)).astype(np.uint8)
                expected = image[..., :1] / np.float32(255)
                wanted, datatype = "mask", "UINT8"
            else:
                # Values that floating point adds exactly, in whatever order.
                name, image = dice.choice(["digits", "halves"]), values.integers(0, 2, (rows, 784)).astype(np.float32)
                datatype = "FP32"
                if name == "digits":
                    wanted, expected = (
                        "encoding",
                        np.stack([image.sum(1), image[:, 0], image[:, -1], 1 - image[:, 0]], 1),
                    )
                else:
                    wanted, expected = "reconstruction", np.tile(image[:, :4], 196)
            request = pb.ModelInferRequest(model_name=name, raw_input_contents=[image.tobytes()])
            request.inputs.add(name="image", datatype=datatype, shape=image.shape)
            request.outputs.add(name=wanted)
            patience = dice.choice([20, 20, 20, 0.003])
            call = stub.ModelInfer.future(request, timeout=patience)
            if dice.random() < 0.2:
                time.sleep(dice.random() * 0.002)
                call.cancel()
            try:
                answer = call.result()
            except grpc.FutureCancelledError:
                outcomes.append("CANCELLED")
                continue
            except grpc.RpcError as error:
                outcomes.append(f"{error.code().name} within {patience} s")
                continue
            got = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(answer.outputs[0].shape)
            np.testing.assert_array_equal(got, expected.astype(np.float32))
            outcomes.append("OK")

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(ask, range(12)))
    for channel in channels:
        channel.close()
    assert len(outcomes) == 480
    assert set(outcomes) <= {"OK", "CANCELLED", "DEADLINE_EXCEEDED within 0.003 s"}
    assert outcomes.count("OK") > 200
    assert outcomes.count("CANCELLED") > 10


def test_pictures_are_segmented_as_by_one_process(running: Any, server: Any) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (97, 151, 3)).astype(np.uint8)
    with Client(running.target) as client, Client(server.target) as other:
        one, two = client.segment(picture, "red"), other.segment(picture, "red", version=1)
        np.testing.assert_array_equal(one.array, two.array)
        assert one.timings.queue > 0
        codes = client.encode(np.eye(3, 784, dtype=np.float32), "halves").array
        np.testing.assert_array_equal(client.decode(codes, "halves").array, np.tile(codes, 196))


def status(client: Client, rows: np.ndarray, model: str) -> tuple[str, str]:
    try:
        client.encode(rows, model)
    except ServiceError as error:
        return error.code.name, str(error)
    return "OK", ""


def test_refusals_are_those_of_one_process(running: Any) -> None:
    with Client(running.target) as client:
        code, message = status(client, np.zeros((17, 784), np.float32), "digits")
        assert code == "INVALID_ARGUMENT"
        assert "digits/1 takes at most 16 rows in one request. Received: 17" in message
        assert status(client, np.zeros((1, 784), np.float32), "nothing")[0] == "NOT_FOUND"
        assert status(client, np.full((1, 784), np.nan, np.float32), "digits")[0] == "INVALID_ARGUMENT"
        code, message = status(client, np.zeros((1, 3), np.float32), "digits")
        assert code == "INVALID_ARGUMENT"


def test_a_request_without_room_is_refused_and_the_next_is_not(running: Any) -> None:
    picture = np.zeros((1, 1024, 1024, 3), np.uint8)
    request = pb.ModelInferRequest(model_name="red", raw_input_contents=[picture.tobytes()])
    request.inputs.add(name="image", datatype="UINT8", shape=picture.shape)
    with service.connect(running.target) as stub:
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request, timeout=20)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "--shared-memory-bytes is 4194304" in caught.value.details()
        service.infer(stub)


def test_the_deadline_is_kept_while_the_model_is_busy(running: Any) -> None:
    with Client(running.target) as client, ThreadPoolExecutor(4) as pool:
        busy = [pool.submit(status, client, np.zeros((16, 784), np.float32), "slow") for _ in range(3)]
        time.sleep(0.1)
        started = time.monotonic()
        with Client(running.target, timeout=0.1) as impatient:
            assert status(impatient, np.zeros((1, 784), np.float32), "slow")[0] == "DEADLINE_EXCEEDED"
        assert time.monotonic() - started < 1
        assert [each.result()[0] for each in busy] == ["OK"] * 3


def test_what_comes_over_several_fronts_shares_a_run(running: Any) -> None:
    def told() -> Any:
        with service.connect(running.target) as stub:
            return stub.ModelStatistics(pb.ModelStatisticsRequest(name="slow"), timeout=10).model_stats[0]

    before = told()
    channels = fronts(running.target, 9)
    row = np.zeros((1, 784), np.float32)
    with ThreadPoolExecutor(9) as pool:
        list(pool.map(lambda each: service.infer(pb_grpc.GRPCInferenceServiceStub(each), row, "slow"), channels))
    for channel in channels:
        channel.close()
    after = told()
    assert after.inference_count - before.inference_count == 9
    assert after.inference_stats.success.count - before.inference_stats.success.count == 9
    assert after.execution_count - before.execution_count < 9
    labels = {"model": "slow", "version": "1"}
    text = service.page(running)
    assert service.value(text, "sparsewalk_batch_rows_sum", **labels) == after.inference_count
    assert service.value(text, "sparsewalk_model_ready", **labels) == 1
    assert service.value(text, "sparsewalk_provider_info", **labels, provider="CPUExecutionProvider") == 1
    assert service.value(text, "sparsewalk_processes", role="front") == 3


def shared_files() -> set[Path]:
    return set(Path("/dev/shm").iterdir())


def test_a_front_that_dies_takes_its_requests_with_it(start: Start, root: Path) -> None:
    """The queue is one for all fronts, and refuses over each; the requests of a front that dies leave it."""
    each = start(root, *ENGINE, "--workers", "2", "--max-queue-size", "4", "--max-batch-size", "64")
    channels = fronts(each.target, 12)
    rows = np.zeros((64, 784), np.float32)  # a whole batch: one request a run, and a run takes its time
    with ThreadPoolExecutor(12) as pool:
        asking = [pool.submit(service.infer, pb_grpc.GRPCInferenceServiceStub(one), rows, "slow") for one in channels]
        service.until(lambda: sum(one.done() for one in asking) >= 7)  # refused: one runs, four wait
        seats = service.children(each.process.pid)
        for seat in ("front 0", "front 1"):
            os.kill(seats[seat], signal.SIGKILL)
        codes = [error.code().name if (error := one.exception()) else "OK" for one in asking]
    assert set(codes) <= {"OK", "UNAVAILABLE", "RESOURCE_EXHAUSTED"}
    assert "UNAVAILABLE" in codes
    # One runs, four wait.
    assert codes.count("RESOURCE_EXHAUSTED") >= 5
    for channel in channels:
        channel.close()
    # Only then their ends have been noticed.
    service.until(lambda: service.value(service.page(each), "sparsewalk_process_restarts_total", role="front") == 2)
    service.until(lambda: service.value(service.page(each), "sparsewalk_processes", role="front") == 2)
    text = service.page(each)
    assert service.value(text, "sparsewalk_queue_depth", model="slow", version="1") == 0
    assert service.children(each.process.pid)["engine 0"] == seats["engine 0"]
    with service.connect(each.target) as stub:
        service.infer(stub)


def test_when_the_engine_dies_requests_are_told_and_the_next_one_takes_over(start: Start, root: Path) -> None:
    each = start(root, *ENGINE, "--workers", "2")
    states = health_pb2.HealthCheckResponse
    before = service.children(each.process.pid)
    rows = np.zeros((64, 784), np.float32)  # a run of them takes long enough for all four to arrive
    with service.connect(each.target) as stub, ThreadPoolExecutor(4) as pool:
        service.infer(stub)
        with grpc.insecure_channel(each.target) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
            assert next(watch).status == states.SERVING
            asking = [pool.submit(service.infer, stub, rows, "slow") for _ in range(4)]
            service.until(lambda: service.value(service.page(each), "sparsewalk_requests_in_flight") == 4)
            os.kill(before["engine 0"], signal.SIGKILL)
            codes = [one.exception() for one in asking]
            assert [error.code() if isinstance(error, grpc.RpcError) else error for error in codes] == [
                grpc.StatusCode.UNAVAILABLE
            ] * 4
            changes = (state for state, _ in itertools.groupby(told.status for told in watch))
            assert [next(changes), next(changes)] == [states.NOT_SERVING, states.SERVING]
            watch.cancel()
        # Over the same connection: the fronts stayed.
        service.until(lambda: stub.ModelReady(pb.ModelReadyRequest(name="digits"), timeout=10).ready)
        service.infer(stub)
    after = service.children(each.process.pid)
    assert after["engine 0"] != before["engine 0"]
    assert {seat: pid for seat, pid in after.items() if seat != "engine 0"} == {
        seat: pid for seat, pid in before.items() if seat != "engine 0"
    }
    assert each.stop()[0] == 0


def test_nothing_is_left_of_what_is_killed(start: Start, root: Path) -> None:
    before = shared_files()
    each = start(root, *ENGINE)
    with service.connect(each.target) as stub:
        service.infer(stub)
    for seat in ("engine 0", "front 0"):
        os.kill(service.children(each.process.pid)[seat], signal.SIGKILL)
        role = seat.split()[0]
        service.until(
            lambda role=role: (
                service.value(service.page(each), "sparsewalk_process_restarts_total", role=role) == 1
                and service.value(service.page(each), "sparsewalk_processes", role=role) == 1
            )
        )
        assert shared_files() == before
    seats = service.children(each.process.pid)
    each.process.kill()
    service.until(lambda: all(service.is_gone(pid) for pid in seats.values()))
    assert shared_files() == before


def test_models_come_and_go_without_a_failed_request(start: Start, tmp_path: Path, build: Any) -> None:
    build(tmp_path, "digits", 1)
    build(tmp_path, "halves", 1)
    each = start(tmp_path, *ENGINE, "--workers", "2", "--version-policy", "latest:1")
    done = threading.Event()

    def ask(channel: grpc.Channel) -> int:
        stub, count = pb_grpc.GRPCInferenceServiceStub(channel), 0
        while not done.is_set():
            assert service.infer(stub)[0, 3] == 1
            count += 1
        return count

    channels = fronts(each.target, 4)
    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, channel) for channel in channels]
        try:
            for version in range(2, 7):
                build(tmp_path, "digits", version)
                with service.connect(each.target) as stub:
                    stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="digits"), timeout=20)
                for channel in channels:
                    metadata = pb_grpc.GRPCInferenceServiceStub(channel).ModelMetadata(
                        pb.ModelMetadataRequest(name="digits"), timeout=10
                    )
                    assert list(metadata.versions) == [str(version)]
        finally:
            done.set()
        assert min(one.result() for one in asking) > 5
    with service.connect(each.target) as stub:
        stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="halves"), timeout=20)
        index = {
            (model.name, model.version): (model.state, model.reason)
            for model in stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=10).models
        }
    assert index["halves", "1"] == ("UNAVAILABLE", "unloaded")
    assert index["digits", "6"] == ("READY", "")
    for channel in channels:
        assert not pb_grpc.GRPCInferenceServiceStub(channel).ModelReady(pb.ModelReadyRequest(name="halves")).ready
        channel.close()
    # An engine that takes another's place serves what that one did.
    os.kill(service.children(each.process.pid)["engine 0"], signal.SIGKILL)
    service.until(lambda: service.value(service.page(each), "sparsewalk_process_restarts_total", role="engine") == 1)
    service.until(lambda: service.value(service.page(each), "sparsewalk_processes", role="engine") == 1)
    with service.connect(each.target) as stub:
        service.until(lambda: stub.ModelReady(pb.ModelReadyRequest(name="digits"), timeout=10).ready)
        assert not stub.ModelReady(pb.ModelReadyRequest(name="halves"), timeout=10).ready
        service.infer(stub)
    assert each.stop()[0] == 0


def test_sigterm_finishes_what_is_under_way(start: Start, root: Path) -> None:
    each = start(root, *ENGINE, "--workers", "2")
    channels = fronts(each.target, 8)
    for channel in channels:
        grpc.channel_ready_future(channel).result(10)
    row = np.zeros((1, 784), np.float32)
    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(service.infer, pb_grpc.GRPCInferenceServiceStub(one), row, "slow") for one in channels]
        time.sleep(0.2)
        code, errors = each.stop()
        assert [one.exception() for one in asking] == [None] * 8
    for channel in channels:
        channel.close()
    assert code == 0, errors
    assert "Traceback" not in errors
