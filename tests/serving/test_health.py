"""Streams that no model works for: health watchers and reflection, many of them, and what they leave of the server."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from serving.pb.open_inference import grpc_service_pb2 as oip
from serving.pb.open_inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from serving.servicers import health, reflection

Start = Callable[..., Any]
States = health_pb2.HealthCheckResponse
WATCHERS = 150


def threads(running: Any) -> int:
    found = re.search(r"^Threads:\s+(\d+)$", Path(f"/proc/{running.process.pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def test_as_many_may_watch_as_may_connect_and_none_holds_a_thread(start: Start, build: Any, tmp_path: Path) -> None:
    build(tmp_path, "digits")
    build(tmp_path, "red")
    running = start(tmp_path, "--max-connections", str(WATCHERS), "--max-in-flight", "4")
    before = threads(running)
    with grpc.insecure_channel(running.target) as channel:
        stub, repository = health_pb2_grpc.HealthStub(channel), GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
        request = health_pb2.HealthCheckRequest(service="digits")
        watches = [stub.Watch(request, timeout=30) for _ in range(WATCHERS)]
        assert [next(watch).status for watch in watches] == [States.SERVING] * WATCHERS
        assert threads(running) - before < WATCHERS

        one_more = stub.Watch(request, timeout=30)
        with pytest.raises(grpc.RpcError) as refused:
            next(one_more)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refused.value.details() == f"the server has {WATCHERS} health watchers"

        repository.RepositoryModelUnload(oip.RepositoryModelUnloadRequest(model_name="digits"), timeout=10)
        assert [next(watch).status for watch in watches] == [States.NOT_SERVING] * WATCHERS
        watches.pop().cancel()
        wait_until(lambda: answers(stub.Watch(request, timeout=30)))
    assert running.stop()[0] == 0


def test_watchers_who_take_nothing_do_not_keep_news_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_PATIENCE_SECONDS", 0.05)
    servicer = health.Health(watchers=100)

    class Context:
        def __init__(self) -> None:
            self.cancelled = threading.Event()

        def cancel(self) -> None:
            self.cancelled.set()

        def add_callback(self, callback: Callable[[], None]) -> bool:
            del callback
            return True

    stuck = [Context() for _ in range(3 * health._COURIERS)]
    for context in stuck:
        servicer.Watch(health_pb2.HealthCheckRequest(), context, lambda _, it=context: it.cancelled.wait(10))  # type: ignore[arg-type, misc]
    news: list[int] = []
    told = threading.Event()

    def send(response: States) -> None:
        news.append(response.status)
        told.set()

    sound = Context()
    servicer.Watch(health_pb2.HealthCheckRequest(), sound, send)  # type: ignore[arg-type]
    assert told.wait(10)
    assert news == [States.SERVICE_UNKNOWN]
    assert all(context.cancelled.is_set() for context in stuck[: health._COURIERS])
    assert not sound.cancelled.is_set()


def test_open_reflection_streams_are_few_and_leave_room_for_all_others(start: Start) -> None:
    running = start(None, "--max-in-flight", "1")
    over = threading.Event()

    def silent() -> Iterator[Any]:
        over.wait(30)
        yield from ()

    with grpc.insecure_channel(running.target) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        streams = [stub.ServerReflectionInfo(silent(), timeout=30) for _ in range(3 * reflection.STREAMS)]
        checked = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert checked.status == States.SERVING
        wait_until(lambda: sum(not stream.is_active() for stream in streams) == 2 * reflection.STREAMS)
        refused = [stream for stream in streams if not stream.is_active()]
        assert {stream.code() for stream in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert {stream.details() for stream in refused} == {
            f"the server has {reflection.STREAMS} open reflection streams"
        }
        over.set()
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        wait_until(lambda: answers(stub.ServerReflectionInfo(iter([request]), timeout=10)))
    assert running.stop()[0] == 0


def answers(stream: Any) -> bool:
    """Whether a stream gets an answer rather than a refusal."""
    try:
        return next(stream) is not None
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # noqa: PT017
        return False


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)
