"""On a real Ray of this machine: the same results, and a killed worker loses nothing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.video.errors import ExitCode
from tests.serving.video.conftest import Ended, Run, arguments, write_video
from tests.serving.video.test_job import digests

# Starting Ray takes a good part of a minute on a busy machine.
pytestmark = pytest.mark.timeout(280)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    return [write_video(folder / "walk.mp4", 120), write_video(folder / "other.mp4", 60, size=(64, 64))]


def test_the_cluster_gives_the_same_and_a_killed_worker_loses_nothing(
    models: Path, run: Run, videos: list[Path], tmp_path: Path
) -> None:
    flags = {"outputs": "overlay,rle,parquet", "smooth": 3, "tile": "64"}
    local = run(*videos, output=tmp_path / "local", **flags).output
    process = subprocess.Popen(
        [sys.executable, "-m", "serving.video", *arguments(models, tmp_path, *videos, engine="ray", **flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    killed = 0
    while process.poll() is None and not killed:
        for worker in _workers(process.pid):
            os.kill(worker, signal.SIGKILL)
            killed += 1
        time.sleep(0.01)
    out, errors = process.communicate(timeout=240)
    assert killed
    assert process.returncode == ExitCode.DONE, errors
    assert out == f"{tmp_path}/out/walk: 120 frames\n{tmp_path}/out/other: 60 frames\n"
    for name in ("walk", "other"):
        assert digests(tmp_path / "out" / name) == digests(local / name)


def _workers(ancestor: int) -> Iterator[int]:
    """The processes of Ray, below a process of ours, that hold the model and are at work."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            if b"ray::MapWorker" in command and b"submit" in command and _descends(int(entry.name), ancestor):
                yield int(entry.name)
        except OSError:  # it is gone
            continue


def _descends(process: int, ancestor: int) -> bool:
    while process > 1:
        if process == ancestor:
            return True
        process = int((Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[1])
    return False


def test_what_the_cluster_refuses(command: Callable[..., Ended], video: Path) -> None:
    ended = command("rtsp://127.0.0.1:9/live", engine="ray")
    assert (ended.code, ended.err) == (3, "error: rtsp://127.0.0.1:9/live: a stream is read by --engine local\n")
    ended = command(video, engine="ray", model="blue")
    assert ended.code == 3
    assert "no model 'blue'" in ended.err
