"""Through a running service: the same masks, and a service that dies and comes back."""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
import numpy as np
import pytest

from serving.client import Client, Mask, ServiceError
from serving.video.errors import ExitCode, FaultError, InputError
from serving.video.service import ServiceEngine
from serving.video.tiles import Tiling
from tests.serving.conftest import RunningServer
from tests.serving.video.conftest import Run, arguments, write_video
from tests.serving.video.test_job import digests

Start = Callable[..., RunningServer]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("flags", [{}, {"smooth": 3}, {"tile": "32"}, {"tile": "32", "smooth": 3, "threshold": 0.4}])
def test_the_service_gives_the_same_masks(
    run: Run, video: Path, server: RunningServer, tmp_path: Path, flags: dict[str, object]
) -> None:
    local = run(video, output=tmp_path / "local", **flags)
    service = run(video, output=tmp_path / "service", target=server.target, **flags)
    assert service.code == ExitCode.DONE
    one, other = digests(local.output / "walk"), digests(service.output / "walk")
    assert one.pop("journal.json") != other.pop("journal.json")  # the service does not tell its model's digest
    assert one == other


def test_what_one_engine_began_the_other_may_end(run: Run, video: Path, server: RunningServer) -> None:
    whole = run(video).output / "walk"
    assert run(video, target=server.target, resume=True).outcomes[0].message == f"{whole}: was whole already"


def test_a_service_that_dies_and_comes_back_costs_nothing(run: Run, start: Start, models: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "walk.mp4", 300)
    local = run(video, output=tmp_path / "local").output
    port = free_port()
    first = start(models, "--grpc-port", str(port))
    shards = tmp_path / "out/.work/walk/shards"

    def kill_and_start_again() -> None:
        while len(list(shards.glob("[0-9]*"))) < 3:
            time.sleep(0.005)
        first.process.kill()
        time.sleep(0.5)
        start(models, "--grpc-port", str(port))

    killer = threading.Thread(target=kill_and_start_again)
    killer.start()
    done = run(video, target=f"127.0.0.1:{port}", retry_seconds=60)
    killer.join()
    assert done.code == ExitCode.DONE
    assert digests(done.output / "walk")["masks.rle.jsonl"] == digests(local / "walk")["masks.rle.jsonl"]


def test_a_service_that_stays_away_is_a_passing_fault_and_resume_goes_on(
    run: Run, start: Start, models: Path, tmp_path: Path
) -> None:
    video = write_video(tmp_path / "walk.mp4", 300)
    local = run(video, output=tmp_path / "local").output
    port = free_port()
    first = start(models, "--grpc-port", str(port))
    shards = tmp_path / "out/.work/walk/shards"

    def kill() -> None:
        while len(list(shards.glob("[0-9]*"))) < 3:
            time.sleep(0.005)
        first.process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    done = run(video, target=f"127.0.0.1:{port}", retry_seconds=1, timeout=2)
    killer.join()
    assert done.code == ExitCode.FAULT
    assert f"127.0.0.1:{port}: no answer for 1 s: UNAVAILABLE" in done.outcomes[0].message
    assert not (done.output / "walk").exists()
    assert run(video, resume=True).code == ExitCode.DONE
    assert digests(done.output / "walk")["masks.rle.jsonl"] == digests(local / "walk")["masks.rle.jsonl"]


def test_a_service_that_hangs_counts_as_lost(run: Run, start: Start, models: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "walk.mp4", 300)
    port = free_port()
    running = start(models, "--grpc-port", str(port))
    shards = tmp_path / "out/.work/walk/shards"

    def freeze() -> None:
        while len(list(shards.glob("[0-9]*"))) < 2:
            time.sleep(0.005)
        running.process.send_signal(signal.SIGSTOP)
        time.sleep(2.5)
        running.process.send_signal(signal.SIGCONT)

    freezer = threading.Thread(target=freeze)
    freezer.start()
    done = run(video, target=f"127.0.0.1:{port}", timeout=1, retry_seconds=60)
    freezer.join()
    assert done.code == ExitCode.DONE
    assert len(done.rows()) == 300


def open_engine(server: RunningServer, connect: Callable[[], Client], retry_seconds: float = 10) -> ServiceEngine:
    return ServiceEngine(
        connect,
        target=server.target,
        model="red",
        version=None,
        threshold=None,
        tiling=Tiling(),
        timeout=10,
        retry_seconds=retry_seconds,
        stop=threading.Event(),
    )


class SlowClient(Client):
    """Begins a stream when it is closed already."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.closed = threading.Event()

    def close(self) -> None:
        super().close()
        self.closed.set()

    def segment_stream(self, *arguments: Any, **options: Any) -> Iterator[Mask | ServiceError]:
        assert self.closed.wait(10)
        return super().segment_stream(*arguments, **options)


class CancelledClient(SlowClient):
    """Ends its stream as gRPC does when the channel is closed under it."""

    def segment_stream(self, *arguments: Any, **options: Any) -> Iterator[Mask | ServiceError]:
        del arguments, options
        assert self.closed.wait(10)
        raise ServiceError(grpc.StatusCode.CANCELLED, "Channel closed!")


@pytest.mark.parametrize("client", [SlowClient, CancelledClient])
def test_an_engine_that_is_closed_ends_quietly(
    server: RunningServer, client: type[Client], caplog: pytest.LogCaptureFixture
) -> None:
    engine = open_engine(server, lambda: client(server.target))
    engine.close()  # a thread that fails fails the test
    assert not caplog.records


def test_a_line_that_breaks_while_nothing_is_owed_is_opened_again(server: RunningServer) -> None:
    """As a proxy closes it when a camera is silent for long."""
    calls: list[object] = []
    again = threading.Event()

    class IdleClient(Client):
        def segment_stream(self, *arguments: Any, **options: Any) -> Iterator[Mask | ServiceError]:
            calls.append(self)
            if len(calls) == 1:
                raise ServiceError(grpc.StatusCode.UNAVAILABLE, "idle")
            again.set()
            return super().segment_stream(*arguments, **options)

    engine = open_engine(server, lambda: IdleClient(server.target), retry_seconds=0)
    assert again.wait(20)
    red = np.full((8, 16, 3), (255, 0, 0), np.uint8)
    assert engine.submit(red).mask().all()
    engine.close()


def test_nobody_there(run: Run, video: Path) -> None:
    port = free_port()
    with pytest.raises(FaultError, match=rf"127.0.0.1:{port}: no answer for 0 s: UNAVAILABLE"):
        run(video, target=f"127.0.0.1:{port}", retry_seconds=0)


def test_a_stop_ends_the_waiting_for_a_service_that_is_away(
    run: Run, start: Start, models: Path, tmp_path: Path
) -> None:
    video = write_video(tmp_path / "walk.mp4", 300)
    local = run(video, output=tmp_path / "local").output
    running = start(models)
    shards = tmp_path / "out/.work/walk/shards"
    stop = threading.Event()

    def kill_and_stop() -> None:
        while len(list(shards.glob("[0-9]*"))) < 2:
            time.sleep(0.005)
        running.process.kill()
        running.process.wait()
        stop.set()

    killer = threading.Thread(target=kill_and_stop)
    killer.start()
    done = run(video, target=running.target, retry_seconds=3600, stop=stop)
    killer.join()
    assert (done.code, done.outcomes[0].message) == (ExitCode.STOPPED, "stopped by a signal; run again with --resume")
    assert run(video, resume=True).code == ExitCode.DONE
    assert digests(done.output / "walk")["masks.rle.jsonl"] == digests(local / "walk")["masks.rle.jsonl"]


def test_a_signal_ends_the_waiting_for_a_service_that_never_came(models: Path, video: Path, tmp_path: Path) -> None:
    flags = {"target": f"127.0.0.1:{free_port()}", "retry_seconds": 3600}
    process = subprocess.Popen(
        [sys.executable, "-m", "serving.video", *arguments(models, tmp_path, video, **flags)],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline().endswith("; trying again\n")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == ExitCode.STOPPED
    assert errors.splitlines()[-1] == "error: stopped by a signal; run again with --resume"
    assert "Traceback" not in errors


def test_unknown_to_the_service(run: Run, video: Path, server: RunningServer) -> None:
    with pytest.raises(InputError, match=r"no model 'blue'. Known: digits, red, red_fixed"):
        run(video, target=server.target, model="blue")
    with pytest.raises(InputError, match=r"no version 9 of model red. Known: 1, 2"):
        run(video, target=server.target, model_version=9)
    with pytest.raises(InputError, match="digits has no masks: its family is mnist"):
        run(video, target=server.target, model="digits")


@pytest.mark.parametrize(
    ("height", "refusal"),
    [
        (1000, "INVALID_ARGUMENT: a picture has at most 1000000 pixels"),
        (1400, "RESOURCE_EXHAUSTED: SERVER: Received message larger than max ("),
    ],
)
@pytest.mark.parametrize("parallel", [1, 3])
def test_a_refusal_by_the_service_ends_that_input_alone(
    run: Run, video: Path, tmp_path: Path, server: RunningServer, parallel: int, height: int, refusal: str
) -> None:
    big = write_video(tmp_path / "big.mp4", 3, size=(height, 1100), codec="mpeg4")
    other = write_video(tmp_path / "other.mp4", 5)
    done = run(big, video, other, target=server.target, start=0.1, parallel=parallel)
    assert [outcome.code for outcome in done.outcomes] == [ExitCode.BAD_INPUT, ExitCode.DONE, ExitCode.DONE]
    assert done.outcomes[0].message.startswith(f"{big}: frame 1: {server.target}: {refusal}")
    assert len(done.rows("walk")) == 39


def test_a_frame_too_large_for_a_message_is_named_and_goes_in_tiles(
    run: Run, video: Path, server: RunningServer
) -> None:
    with mock.patch("serving.video.service.DEFAULT_MAX_MESSAGE_BYTES", 10_000):
        done = run(video, target=server.target)
        assert done.code == ExitCode.BAD_INPUT
        assert done.outcomes[0].message.startswith(f"{video}: frame 0: a picture of at most 10000 bytes goes through")
        assert run(video, target=server.target, tile="32").code == ExitCode.DONE


def test_a_token(run: Run, start: Start, models: Path, video: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("token-of-today-0123456789\n")
    tokens.chmod(0o600)
    guarded = start(models, "--token-file", str(tokens))
    with pytest.raises(InputError, match="UNAUTHENTICATED: this server wants a token"):
        run(video, target=guarded.target)
    assert run(video, target=guarded.target, token_file=tokens).code == ExitCode.DONE
    with pytest.raises(InputError, match="nowhere"):
        run(video, target=guarded.target, token_file=tmp_path / "nowhere")
