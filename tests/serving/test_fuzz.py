"""A slice of ``make fuzz``, and what it would find."""

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.pb.open_inference import grpc_service_pb2 as oip
from serving.pb.open_inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from tests.serving.fuzz import __main__ as fuzz
from tests.serving.fuzz.messages import Fuzzer, methods


def test_messages_that_no_client_would_send_get_a_status(tmp_path: Path) -> None:
    result = fuzz.run(tmp_path, 3000, seed=1)
    assert result.findings == []
    assert result.sent >= 3000
    # It is no fuzz if all of it is refused for the same thing, or nothing ever gets as far as a model.
    assert len(result.statuses) >= 5
    assert result.statuses["OK"] > 300


def test_the_same_seed_sends_the_same() -> None:
    one, same, other = (Fuzzer(seed) for seed in (3, 3, 4))
    drawn = [[fuzzer.draw() for _ in range(50)] for fuzzer in (one, same, other)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_every_method_of_every_service_has_its_turn() -> None:
    fuzzer = Fuzzer(0)
    counts = Counter(fuzzer.draw()[0].path for _ in range(3000))
    assert set(counts) == {method.path for method in methods()}
    assert min(counts.values()) > 50


def test_watchers_who_leave_while_states_change_do_not_stop_the_server(
    tmp_path: Path, build: Any, start: Callable[..., Any]
) -> None:
    """The library's own way has a deadlock there, found by the fuzzer: nothing was answered any more."""
    build(tmp_path, "digits")
    running = start(tmp_path)
    done = threading.Event()

    def come_and_go() -> None:
        while not done.is_set():
            watch = stub.Watch(health_pb2.HealthCheckRequest(service="digits"), timeout=10)
            next(watch)
            watch.cancel()

    with grpc.insecure_channel(running.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        repository = GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
        watchers = [threading.Thread(target=come_and_go) for _ in range(4)]
        for watcher in watchers:
            watcher.start()
        try:
            for _ in range(150):
                repository.RepositoryModelUnload(oip.RepositoryModelUnloadRequest(model_name="digits"), timeout=10)
                repository.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name="digits"), timeout=10)
        finally:
            done.set()
            for watcher in watchers:
                watcher.join()
        listed = stub.List(health_pb2.HealthListRequest(), timeout=10).statuses
        assert listed["digits"].status == listed[""].status == health_pb2.HealthCheckResponse.SERVING
    assert running.stop()[0] == 0


def test_bytes_that_are_no_message_are_refused_and_nothing_of_them_stays(
    tmp_path: Path, build: Any, start: Callable[..., Any]
) -> None:
    """The library's own way loses each such call: the connection refuses all others in the end, the stop hangs."""
    build(tmp_path, "digits")
    # Longer than the patience of stop() below.
    running = start(tmp_path, "--grace-seconds", "60", "--max-concurrent-streams", "100")
    noise = b"\xff\xff"
    with grpc.insecure_channel(running.target) as channel:
        for method in methods():
            for _ in range(20):
                if method.client_streams:
                    # As to a request that asks for nothing.
                    assert len(list(channel.stream_stream(method.path)(iter([noise]), timeout=10))) == 1
                    continue
                kind = channel.unary_stream if method.server_streams else channel.unary_unary
                with pytest.raises(grpc.RpcError) as refused:
                    list(kind(method.path)(noise, timeout=10))
                assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
                assert refused.value.details() == "the bytes of the request are not its message"
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert running.stop()[0] == 0
