"""``--workers``: several real processes on one port."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.client import Client
from serving.pb.open_inference import grpc_service_pb2 as pb
from serving.pb.open_inference import grpc_service_pb2_grpc as pb_grpc
from tests.serving.processes.service import ROW, answered, children, connect, infer, is_gone, page, until, value

Start = Callable[..., Any]
Fail = Callable[..., tuple[int, str, str]]
# Each channel is one connection, and the kernel gives each to any of the workers; all of them to one of two: 2 ** -19.
MANY = 20


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, build: Any) -> Path:
    root: Path = tmp_path_factory.mktemp("digits")
    build(root, "digits")
    return root


def test_every_worker_answers_and_all_are_counted(start: Start, digits: Path) -> None:
    running = start(digits, "--workers", "2")
    assert running.models == "digits/1"
    for _ in range(MANY):
        with grpc.insecure_channel(running.target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            # Nobody is ready before all are.
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            got = infer(pb_grpc.GRPCInferenceServiceStub(channel))
            np.testing.assert_allclose(got[0, 0], ROW.sum(), rtol=1e-5)
    text = page(running)
    labels = {"model": "digits", "version": "1"}
    assert answered(text) == MANY
    assert value(text, "sparsewalk_total_seconds_count", **labels) == MANY
    assert value(text, "sparsewalk_total_seconds_bucket", le="+Inf", **labels) == MANY
    assert value(text, "sparsewalk_batch_rows_sum", **labels) == MANY
    assert value(text, "sparsewalk_model_ready", **labels) == 1
    assert value(text, "sparsewalk_provider_info", **labels, provider="CPUExecutionProvider") == 1
    assert value(text, "sparsewalk_processes", role="worker") == 2
    with connect(running.target) as stub:
        (told,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name="digits"), timeout=10).model_stats
    assert (told.inference_count, told.inference_stats.success.count) == (MANY, MANY)
    # Both did some of it.
    ours = children(running.process.pid)
    assert sorted(ours) == ["worker 0", "worker 1"]
    code, errors = running.stop()
    assert code == 0, errors
    assert all(is_gone(pid) for pid in ours.values())
    # Each line tells which process it is from.
    for seat in ("worker-0", "worker-1"):
        assert re.search(rf"loaded digits/1 on CPUExecutionProvider .* seat={seat}\n", errors)


def test_names_of_metrics_are_those_of_one_process(start: Start, digits: Path, server: Any) -> None:
    several = start(digits, "--workers", "2")

    for each in (several, server):
        with connect(each.target) as stub:
            infer(stub)

    def families(text: str) -> set[str]:
        # a labelled counter has its time of creation once something was counted, which other tests may have caused
        return set(re.findall(r"^# TYPE (?!\S+_created )(\S+ \S+)$", text, re.MULTILINE))

    assert families(page(several)) - families(page(server)) == {
        "sparsewalk_processes gauge",
        "sparsewalk_process_restarts_total counter",
    }
    assert families(page(server)) <= families(page(several))


def test_a_worker_that_dies_is_replaced_while_the_others_serve(start: Start, digits: Path) -> None:
    running = start(digits, "--workers", "2")
    for _ in range(MANY):
        with connect(running.target) as stub:
            infer(stub)
    assert answered(page(running)) == MANY
    before = children(running.process.pid)
    os.kill(before["worker 0"], signal.SIGKILL)
    until(lambda: is_gone(before["worker 0"]))
    # What it had counted stays.
    assert answered(page(running)) == MANY
    with connect(running.target) as stub:
        infer(stub)
    until(lambda: value(page(running), "sparsewalk_processes", role="worker") == 2)
    after = children(running.process.pid)
    assert after["worker 1"] == before["worker 1"]
    assert after["worker 0"] != before["worker 0"]
    assert value(page(running), "sparsewalk_process_restarts_total", role="worker") == 1
    for _ in range(MANY):
        with connect(running.target) as stub:
            infer(stub)
    assert answered(page(running)) == 2 * MANY + 1
    # One that is asked to stop, however often, ends well and is replaced too.
    for _ in range(2):
        os.kill(after["worker 1"], signal.SIGTERM)
    until(lambda: value(page(running), "sparsewalk_process_restarts_total", role="worker") == 2)
    until(lambda: value(page(running), "sparsewalk_processes", role="worker") == 2)
    assert answered(page(running)) == 2 * MANY + 1
    # And when the supervisor is killed, its workers end.
    ours = children(running.process.pid)
    running.process.kill()
    until(lambda: all(is_gone(pid) for pid in ours.values()))


def test_a_worker_that_hangs_is_replaced_and_holds_up_no_change_for_ever(digits: Path) -> None:
    program = f"""
from pathlib import Path
from serving.processes import supervisor
from serving.settings import Settings
supervisor._LOOK_SECONDS, supervisor._ANSWER_SECONDS, supervisor._SILENCE_SECONDS = 0.2, 1.0, 4.0
supervisor.run(Settings(model_repository=Path({str(digits)!r}), grpc_port=0, metrics_port=0, provider="cpu", workers=2))
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running, ExitStack() as opened:
        assert running.stdout is not None
        ready = re.match(r"ready grpc=(\S+)", running.stdout.readline())
        assert ready is not None
        stubs = [opened.enter_context(connect(ready[1])) for _ in range(MANY)]
        for stub in stubs:
            infer(stub)
        before = children(running.pid)
        os.kill(before["worker 0"], signal.SIGSTOP)

        def answers(stub: Any) -> bool:
            try:
                return bool(stub.ServerLive(pb.ServerLiveRequest(), timeout=0.5).live)
            except grpc.RpcError:
                return False

        (stub, *_) = [stub for stub in stubs if answers(stub)]
        assert stub.ModelStatistics(pb.ModelStatisticsRequest(name="digits"), timeout=20).model_stats
        stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="digits"), timeout=30)
        until(lambda: is_gone(before["worker 0"]))
        until(lambda: children(running.pid).get("worker 0", before["worker 0"]) != before["worker 0"])
        running.terminate()
        assert running.wait(30) == 0


def test_a_load_that_is_answered_holds_for_every_worker(start: Start, tmp_path: Path, build: Any) -> None:
    build(tmp_path, "digits", 1)
    running = start(tmp_path, "--workers", "3", "--version-policy", "latest:1")

    def versions() -> set[str]:
        found = set()
        for _ in range(MANY):
            with connect(running.target) as stub:
                metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name="digits"), timeout=10)
                infer(stub)
                found.add(",".join(metadata.versions))
        return found

    assert versions() == {"1"}
    # Copied, and nobody was told: the version is not served, and not by one that takes another's place either.
    folder = build(tmp_path, "digits", 2)
    os.kill(children(running.process.pid)["worker 1"], signal.SIGKILL)
    until(lambda: value(page(running), "sparsewalk_process_restarts_total", role="worker") == 1)
    until(lambda: value(page(running), "sparsewalk_processes", role="worker") == 3)
    assert versions() == {"1"}
    with connect(running.target) as stub:
        stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="digits"), timeout=20)
    assert versions() == {"2"}
    # A broken one changes nothing anywhere, and all say why.
    shutil.copytree(folder, tmp_path / "digits" / "3")
    with connect(running.target) as stub, pytest.raises(grpc.RpcError) as caught:
        stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="digits"), timeout=20)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "version: the folder says 3. Received: 2" in caught.value.details()
    assert versions() == {"2"}
    with connect(running.target) as stub:
        stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="digits"), timeout=20)
    for _ in range(MANY):
        with connect(running.target) as stub, pytest.raises(grpc.RpcError) as caught:
            infer(stub)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert running.stop()[0] == 0


def test_files_that_are_overwritten_in_place_come_to_all_when_one_worker_is_replaced(
    start: Start, tmp_path: Path, build: Any
) -> None:
    folder = build(tmp_path, "digits", scores={"probe_error": 0.5})
    running = start(tmp_path, "--workers", "2")
    shutil.rmtree(folder)
    build(tmp_path, "digits", scores={"probe_error": 0.25})
    os.kill(children(running.process.pid)["worker 1"], signal.SIGKILL)
    until(lambda: value(page(running), "sparsewalk_processes", role="worker") == 1)
    until(lambda: value(page(running), "sparsewalk_processes", role="worker") == 2)

    def scores() -> set[float]:
        found = set()
        for _ in range(MANY):
            with Client(running.target) as client:
                found.add(client.models()[0].scores["probe_error"])
        return found

    until(lambda: scores() == {0.25})


def test_polling_reaches_every_worker(start: Start, tmp_path: Path, build: Any) -> None:
    build(tmp_path, "digits")
    running = start(tmp_path, "--workers", "2", "--poll-seconds", "0.1")
    build(tmp_path, "halves")

    def known() -> set[bool]:
        found = set()
        for _ in range(MANY):
            with connect(running.target) as stub:
                found.add(stub.ModelReady(pb.ModelReadyRequest(name="halves"), timeout=10).ready)
        return found

    until(lambda: known() == {True})


def test_sigterm_finishes_what_is_under_way_everywhere(start: Start, tmp_path: Path, build: Any) -> None:
    build(tmp_path, "slow")
    running = start(tmp_path, "--workers", "2")
    under_way = threading.Barrier(9)

    def ask(_: int) -> str:
        with connect(running.target) as stub:
            stub.ServerLive(pb.ServerLiveRequest(), timeout=10)
            under_way.wait()
            try:
                infer(stub, model="slow")
            except grpc.RpcError as error:
                return str(error.code().name)
        return "OK"

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask, number) for number in range(8)]
        under_way.wait()
        time.sleep(0.15)
        code, errors = running.stop()
        results = [each.result() for each in asking]
    assert results == ["OK"] * 8
    assert code == 0, errors
    assert "Traceback" not in errors


class TestStartFails:
    def test_a_broken_model_is_told_once(self, tmp_path: Path, build: Any, fail_to_start: Fail) -> None:
        (build(tmp_path, "digits") / "model.onnx").unlink()
        code, out, errors = fail_to_start(tmp_path, "--workers", "2")
        assert (code, out) == (1, "")
        assert [line for line in errors.splitlines() if line.startswith("error: ")] == [
            f"error: {tmp_path}/digits/1/model.onnx: cannot be read: No such file or directory"
        ]

    def test_the_port_is_taken(self, digits: Path, start: Start, fail_to_start: Fail) -> None:
        """By one that shares its port with its own workers: strangers do not join them."""
        running = start(digits, "--workers", "2")
        for workers in ("1", "2"):
            code, out, errors = fail_to_start(digits, "--workers", workers, "--grpc-port", str(running.port))
            assert (code, out) == (1, "")
            assert f"--grpc-port: cannot listen on 127.0.0.1:{running.port}" in errors
        port = running.metrics_url.rpartition(":")[2].partition("/")[0]
        code, _, errors = fail_to_start(digits, "--workers", "2", "--metrics-port", port)
        assert code == 1
        assert f"error: --metrics-port: cannot listen on 127.0.0.1:{port}" in errors

    def test_a_worker_that_never_comes_up_is_given_up(self, tmp_path: Path, digits: Path) -> None:
        """Python itself ends in each of them, before a line of ours runs."""
        (tmp_path / "sitecustomize.py").write_text(
            "import os, sys\nif 'serving.processes.child' in sys.orig_argv:\n    os._exit(3)\n"
        )
        program = f"""
import sys
from pathlib import Path
from serving.errors import ProcessError
from serving.processes import supervisor
from serving.settings import Settings
supervisor._FIRST_PAUSE = 0.01
settings = Settings(model_repository=Path({str(digits)!r}), grpc_port=0, metrics_port=0, provider="cpu", workers=2)
try:
    supervisor.run(settings)
except ProcessError as error:
    print(error)
"""
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )
        assert re.fullmatch(r"worker \d ended 5 times in a row, the last with exit code 3\n", done.stdout)
