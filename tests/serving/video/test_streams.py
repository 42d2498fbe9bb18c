"""From the network, with FFmpeg's own protocols at the other end."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

from serving.video.errors import ExitCode
from serving.video.streams import StreamReader
from tests.serving.video.conftest import Run, frames_of

# FFmpeg has no RTSP server, but its RTSP reader can wait for a sender; what then travels is the same.
LISTENS = ["--input-option", "rtsp_flags=listen", "--input-option", "listen_timeout=20"]
SENDER = Path(__file__).with_name("sender.py")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def sending(address: str, form: str, frames: int, *options: str) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, str(SENDER), address, form, str(frames), *options])
    yield
    process.wait(30)


def test_rtsp(run: Run) -> None:
    address = f"rtsp://127.0.0.1:{free_port()}/live"
    with sending(address, "rtsp", 40, "rtsp_transport=tcp"):
        done = run(address, *LISTENS, outputs="overlay,rle,parquet", retry_seconds=1)
    rows = done.rows("live")
    assert 30 <= len(rows) <= 40
    # Such a short stream ends before its sender has told the time; then the moment of arrival counts.
    times = [row["time"] for row in rows]
    assert times == sorted(set(times))
    assert all(row["count"] == 1 for row in rows)
    assert len(frames_of(done.output / "live" / "overlay.mp4")) == len(rows)


def test_a_transport_stream_over_tcp_to_its_end(run: Run) -> None:
    port = free_port()
    with sending(f"tcp://127.0.0.1:{port}", "mpegts", 20):
        done = run(f"tcp://127.0.0.1:{port}/?listen=1", end=1.0)
    assert done.code == ExitCode.DONE
    rows = done.rows(done.outcomes[0].name)
    assert [row["frame"] for row in rows] == list(range(10))
    assert [row["time"] for row in rows] == pytest.approx([number / 10 for number in range(10)], abs=0.02)


def test_nobody_there(run: Run) -> None:
    port = free_port()
    done = run(f"rtsp://me:secret@127.0.0.1:{port}/live", retry_seconds=0, timeout=1)
    assert done.code == ExitCode.FAULT
    assert done.outcomes[0].message.startswith(f"rtsp://127.0.0.1:{port}/live: cannot be reached: Connection refused")


def test_an_interrupted_recording_is_whole_as_far_as_it_goes(run: Run) -> None:
    address = f"tcp://127.0.0.1:{free_port()}/live?listen=1"
    real = StreamReader.frames

    def breaks(self: StreamReader, after: None = None) -> Iterator[object]:
        for number, frame in enumerate(real(self, after)):
            if number == 20:
                raise RuntimeError("the machine fails")
            yield frame

    with sending(address.split("/live")[0], "mpegts", 40), mock.patch.object(StreamReader, "frames", breaks):
        assert run(address).code == ExitCode.BUG
    done = run(address, resume=True)
    assert done.code == ExitCode.PARTIAL
    assert done.outcomes[0].notes == (("the recording was interrupted", 1),)
    assert len(done.rows("live")) == 16
