"""Videos behind http, from a web server that loses the line, is away, or knows no length."""

import itertools
import re
import shutil
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock

import pytest

from serving.video.errors import ExitCode
from serving.video.streams import StreamReader
from tests.serving.video.conftest import Run, frames_of, write_video
from tests.serving.video.test_job import digests


class Web:
    """A web server of one video.

    Attributes:
        path: of the video that it gives.
        ranges: whether it gives any part that is asked for.
        length: whether it says how long the video is.
        cuts: after how many bytes the next answers break off; then they are whole.
        pause: bytes behind which it waits for ``go``; 0: it does not.
        asked: the ranges that were asked for.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ranges = self.length = True
        self.cuts: list[int] = []
        self.pause = 0
        self.go = threading.Event()
        self.asked: list[str] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/films/{path.name}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        if not request.path.endswith(self.path.name):
            request.send_error(404)
            return
        asked = request.headers.get("Range", "")
        self.asked.append(asked)
        data = self.path.read_bytes()
        part = re.match(r"bytes=(\d+)-", asked) if self.ranges else None
        first = int(part[1]) if part else 0
        request.send_response(206 if part else 200)
        if part:
            request.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        if self.length:
            request.send_header("Content-Length", str(len(data) - first))
        request.end_headers()
        body = data[first:][: self.cuts.pop(0) if self.cuts else None]
        try:
            request.wfile.write(body[: self.pause or None])
            if self.pause:
                self.go.wait(30)
                request.wfile.write(body[self.pause :])
        except OSError:
            pass  # the reader has seen enough


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 frames in a container that is read from the front to the end."""
    return write_video(tmp_path_factory.mktemp("web") / "walk.mkv", 100, sound="aac")


@pytest.fixture
def web(film: Path) -> Iterator[Web]:
    web = Web(film)
    yield web
    web.go.set()
    web.server.shutdown()
    web.server.server_close()


def results(output: Path) -> dict[str, str]:
    files = digests(output / "walk")
    del files["journal.json"]  # names the address
    return files


def test_it_is_the_video_that_it_is_on_disk_with_its_sound(run: Run, web: Web, film: Path, tmp_path: Path) -> None:
    local = run(film, outputs="overlay,rle,parquet", output=tmp_path / "local")
    done = run(web.address, outputs="overlay,rle,parquet")
    assert done.code == ExitCode.DONE
    assert results(done.output) == results(local.output)
    assert len(frames_of(done.output / "walk" / "overlay.mp4")) == 100


def test_a_line_that_is_lost_is_opened_again_where_it_broke_off(run: Run, web: Web, film: Path, tmp_path: Path) -> None:
    half = film.stat().st_size // 2
    web.cuts = [half] * 3
    done = run(web.address)
    assert (done.code, done.outcomes[0].notes) == (ExitCode.DONE, ())
    assert f"bytes={half}-" in web.asked
    assert results(done.output) == results(run(film, output=tmp_path / "local").output)


def test_a_line_that_stays_lost_is_a_passing_fault_and_resume_goes_on(
    run: Run, web: Web, film: Path, tmp_path: Path
) -> None:
    # Without ranges FFmpeg cannot go on where it was.
    web.ranges = False
    web.cuts = [2**30, 2**30, film.stat().st_size // 2]
    done = run(web.address)
    assert done.code == ExitCode.FAULT
    message = f"{web.address}: cannot be read on: Input/output error; run again with --resume"
    assert done.outcomes[0].message == message
    assert list((done.output / ".work/walk/shards").glob("[0-9]*"))
    done = run(web.address, resume=True)
    assert (done.code, done.outcomes[0].notes) == (ExitCode.DONE, ())
    assert results(done.output) == results(run(film, output=tmp_path / "local").output)


def stopped_once_begun(web: Web, folder: Path) -> threading.Event:
    """Set when a shard of the job is there to go on with; the server then gives the rest."""
    stop = threading.Event()

    def end() -> None:
        while not list((folder / "out/.work/walk/shards").glob("[0-9]*")):
            time.sleep(0.002)
        stop.set()
        web.go.set()

    threading.Thread(target=end, daemon=True).start()
    return stop


def test_a_signal_stops_it_unfinished_and_resume_goes_on(run: Run, web: Web, film: Path, tmp_path: Path) -> None:
    web.pause = film.stat().st_size * 3 // 4
    done = run(web.address, stop=stopped_once_begun(web, tmp_path))
    assert done.code == ExitCode.STOPPED
    done = run(web.address, resume=True)
    assert (done.code, done.outcomes[0].notes) == (ExitCode.DONE, ())
    assert results(done.output) == results(run(film, output=tmp_path / "local").output)


def test_another_video_at_the_same_address_is_not_mixed_in(run: Run, web: Web, film: Path, tmp_path: Path) -> None:
    run(web.address)
    web.path = write_video(tmp_path / film.name, 10)
    message = run(web.address, resume=True).outcomes[0].message
    sizes = (film.stat().st_size, web.path.stat().st_size)
    assert "input was '{0} ({1} bytes)', now it is '{0} ({2} bytes)'".format(web.address, *sizes) in message


def test_what_is_not_there_is_at_fault_and_a_server_that_is_away_is_not(run: Run, web: Web) -> None:
    done = run(f"{web.address}.old", retry_seconds=0)
    assert done.code == ExitCode.BAD_INPUT
    assert done.outcomes[0].message == f"{web.address}.old: cannot be read: Server returned 404 Not Found"
    web.server.server_close()
    done = run(web.address, retry_seconds=0)
    assert done.code == ExitCode.FAULT
    assert "cannot be read on: Connection refused" in done.outcomes[0].message


def test_without_a_length_it_is_live_and_a_signal_ends_a_partial_recording(run: Run, web: Web, tmp_path: Path) -> None:
    web.path = shutil.copyfile(write_video(tmp_path / "walk.ts", 100), tmp_path / "walk.mkv")
    web.ranges = web.length = False
    web.pause = web.path.stat().st_size * 3 // 4
    done = run(web.address, stop=stopped_once_begun(web, tmp_path), outputs="parquet,summary")
    notes = (("the recording was stopped by a signal", 1),)
    assert (done.code, done.outcomes[0].notes) == (ExitCode.PARTIAL, notes)
    assert 8 <= len(done.rows()) < 100
    assert notes[0][0] in (done.output / "walk" / "summary.html").read_text()
    # Its past cannot be read again: what there is stays, and is still a part.
    again = run(web.address, resume=True, outputs="parquet,summary")
    assert (again.code, again.outcomes[0].notes) == (ExitCode.PARTIAL, notes)
    assert again.outcomes[0].message == f"{done.output}/walk: was finished, but not whole already"


def test_a_recording_of_which_nothing_was_finished_begins_anew(run: Run, web: Web, tmp_path: Path) -> None:
    web.path = shutil.copyfile(write_video(tmp_path / "walk.ts", 100), tmp_path / "walk.mkv")
    web.ranges = web.length = False
    real = StreamReader.frames

    def breaks(self: StreamReader, after: None = None) -> Iterator[object]:
        yield from itertools.islice(real(self, after), 3)
        raise RuntimeError("the machine fails")

    with mock.patch.object(StreamReader, "frames", breaks):
        assert run(web.address).code == ExitCode.BUG
    with mock.patch.object(StreamReader, "frames", lambda self, after=None: itertools.islice(real(self, after), 20)):
        done = run(web.address, resume=True)
    assert (done.code, len(done.rows())) == (ExitCode.DONE, 20)
