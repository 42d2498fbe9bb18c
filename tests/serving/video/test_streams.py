"""From the network, with FFmpeg's own protocols at the other end."""

import itertools
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

from serving.video.errors import ExitCode
from serving.video.streams import StreamReader
from tests.serving.video.conftest import Run, frames_of
from tests.serving.video.sender import send

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


def test_a_line_that_is_lost_is_found_again_and_time_went_on(run: Run, tmp_path: Path) -> None:
    send(str(tmp_path / "walk.ts"), "mpegts", 12, {})
    stream = (tmp_path / "walk.ts").read_bytes()
    away = 2.0  # longer than what was sent lasts
    with socket.create_server(("127.0.0.1", 0)) as camera:

        def serve() -> None:
            line, _ = camera.accept()
            line.sendall(stream)
            time.sleep(away)
            # Closed with a reset, as when the camera's power fails and it is on again: not the stream's end.
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            line.close()
            line, _ = camera.accept()
            line.sendall(stream)
            line.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        # Without it FFmpeg waits for more than is sent before it tells what there is.
        quick = ["--input-option", "analyzeduration=100000"]
        done = run(f"tcp://127.0.0.1:{camera.getsockname()[1]}/live", *quick, retry_seconds=20)
        thread.join(30)
    assert done.code == ExitCode.PARTIAL
    assert done.outcomes[0].notes == (("the line was lost and found again", 1),)
    rows = done.rows("live")
    assert [row["frame"] for row in rows] == list(range(len(rows)))
    # A decoder holds a few frames back when the line breaks.
    assert 18 <= len(rows) <= 24
    times = [row["time"] for row in rows]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    lost = gaps.index(max(gaps))
    assert [gap for number, gap in enumerate(gaps) if number != lost] == pytest.approx(
        [0.1] * (len(gaps) - 1), abs=0.02
    )
    # The second line counts on from when it was opened, by the clock on the wall, which ran since the first frame.
    assert away - 1 < times[lost + 1] < away + 20
    assert len(rows) - lost - 1 == 12


def test_nobody_there(run: Run) -> None:
    port = free_port()
    done = run(f"rtsp://me:secret@127.0.0.1:{port}/live", retry_seconds=0, timeout=1)
    assert done.code == ExitCode.FAULT
    assert done.outcomes[0].message.startswith(f"rtsp://127.0.0.1:{port}/live: cannot be reached: Connection refused")


def test_a_stop_ends_the_waiting_for_a_stream(run: Run) -> None:
    stop = threading.Event()
    real = StreamReader._open

    def tries(self: StreamReader) -> object:
        stop.set()
        return real(self)

    with mock.patch.object(StreamReader, "_open", tries):
        done = run(f"rtsp://127.0.0.1:{free_port()}/live", retry_seconds=3600, stop=stop)
    assert done.code == ExitCode.STOPPED
    assert done.outcomes[0].message.endswith("/live: stopped by a signal before it was reached")


def test_a_stop_ends_a_recording_whose_line_is_lost(run: Run, tmp_path: Path) -> None:
    send(str(tmp_path / "walk.ts"), "mpegts", 12, {})
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as camera:

        def serve() -> None:
            line, _ = camera.accept()
            camera.close()  # nobody finds it again
            line.sendall((tmp_path / "walk.ts").read_bytes())
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            time.sleep(1)
            line.close()
            threading.Timer(0.1, stop.set).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        quick = ["--input-option", "analyzeduration=100000"]
        done = run(f"tcp://127.0.0.1:{camera.getsockname()[1]}/live", *quick, retry_seconds=3600, stop=stop)
        thread.join(30)
    assert done.code == ExitCode.PARTIAL
    assert done.outcomes[0].notes == (("the line was lost and not found again before a signal ended the recording", 1),)
    assert 6 <= len(done.rows("live")) <= 12


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
