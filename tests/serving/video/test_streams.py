"""From the network, with FFmpeg's own protocols at the other end."""

import socket
import threading
import time
from fractions import Fraction
from unittest import mock

import av

from serving.video.errors import ExitCode
from serving.video.streams import StreamReader
from tests.serving.video.conftest import HEIGHT, WIDTH, Run, frames_of, scene


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def send(address: str, form: str, frames: int, options: dict[str, str], first: int = 0) -> None:
    """Sends so many frames, ten a second by their time stamps, as fast as they are taken."""
    end = time.monotonic() + 30
    while True:
        try:
            container = av.open(address, "w", format=form, options=options)
            stream = container.add_stream("libx264", rate=10)
            stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
            stream.codec_context.time_base = Fraction(1, 10)
            stream.codec_context.gop_size = 5
            stream.options = {"crf": "10", "preset": "ultrafast", "tune": "zerolatency"}
            container.start_encoding()
            break
        except (OSError, av.FFmpegError):
            # Nobody listens yet.
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
    for number in range(first, first + frames):
        frame = av.VideoFrame.from_ndarray(scene(number), format="rgb24")
        frame.pts, frame.time_base = number - first, Fraction(1, 10)
        container.mux(stream.encode(frame))
        time.sleep(0.01)
    container.mux(stream.encode())
    container.close()


def test_rtsp(run: Run) -> None:
    address = f"rtsp://127.0.0.1:{free_port()}/live"
    # FFmpeg has no RTSP server, but its RTSP reader can wait for a sender; the protocol is the same.
    sender = threading.Thread(target=send, args=(address, "rtsp", 40, {"rtsp_transport": "tcp"}))
    sender.start()
    done = run(address, input_option="rtsp_flags=listen", outputs="overlay,rle,parquet", retry_seconds=1)
    sender.join()
    rows = done.rows("live")
    assert 30 <= len(rows) <= 40
    assert [round(row["time"], 2) for row in rows] == [number / 10 for number in range(len(rows))]
    assert len(frames_of(done.output / "live" / "overlay.mp4")) == len(rows)


def test_a_lost_line_is_opened_again(run: Run) -> None:
    port = free_port()

    def send_twice() -> None:
        for first in (0, 15):
            send(f"tcp://127.0.0.1:{port}", "mpegts", 15, {}, first)

    sender = threading.Thread(target=send_twice)
    sender.start()
    done = run(f"tcp://127.0.0.1:{port}?listen=1", outputs="rle,parquet", timeout=1, retry_seconds=2)
    sender.join()
    assert done.outcomes[0].code in (ExitCode.DONE, ExitCode.PARTIAL)
    times = [row["time"] for row in done.rows("127.0.0.1")]
    assert times == sorted(set(times))


def test_nobody_there(run: Run) -> None:
    port = free_port()
    done = run(f"rtsp://me:secret@127.0.0.1:{port}/live", retry_seconds=0, timeout=1)
    assert done.code == ExitCode.FAULT
    assert done.outcomes[0].message.startswith(f"rtsp://127.0.0.1:{port}/live: cannot be reached: Connection refused")


def test_an_interrupted_recording_is_whole_as_far_as_it_goes(run: Run) -> None:
    address = f"rtsp://127.0.0.1:{free_port()}/live"
    sender = threading.Thread(target=send, args=(address, "rtsp", 40, {"rtsp_transport": "tcp"}))
    sender.start()
    real = StreamReader.frames

    def breaks(self: StreamReader, after: None = None) -> object:
        for number, frame in enumerate(real(self, after)):
            if number == 20:
                raise RuntimeError("the machine fails")
            yield frame

    with mock.patch.object(StreamReader, "frames", breaks):
        assert run(address, input_option="rtsp_flags=listen").code == ExitCode.BUG
    done = run(address, input_option="rtsp_flags=listen", resume=True)
    sender.join()
    assert done.code == ExitCode.PARTIAL
    assert done.outcomes[0].notes == (("the recording was interrupted", 1),)
    assert len(done.rows("live")) == 16
