import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from training.datasets import download
from training.datasets.download import RemoteFile, fetch
from training.datasets.source import DataError, DataUnavailable

CONTENT = bytes(range(256)) * 2000
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
CHUNK = 1 << 16  # what is written at once
DEAD = "http://127.0.0.1:1/file.bin"


@dataclass
class Mirror:
    """A server on the loopback interface and how it behaves."""

    content: bytes = CONTENT
    ranges: bool = True
    break_after: list[int] = field(default_factory=list)
    """Bytes after which the first, second, ... answer breaks off."""
    silent: bool = False
    status: int = 200
    asked: list[str | None] = field(default_factory=list)
    """The Range header of each request."""
    address: str = ""


class _Handler(BaseHTTPRequestHandler):
    mirror: Mirror

    def do_GET(self) -> None:
        mirror = self.mirror
        mirror.asked.append(self.headers.get("Range"))
        if mirror.silent:
            time.sleep(4)
            return
        if mirror.status != 200:
            self.send_error(mirror.status)
            return
        start = int(mirror.asked[-1].removeprefix("bytes=").rstrip("-")) if mirror.ranges and mirror.asked[-1] else 0
        if start >= len(mirror.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(mirror.content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(mirror.content) - 1}/{len(mirror.content)}")
        body = mirror.content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = mirror.break_after.pop(0) if mirror.break_after else None
        self.wfile.write(body[:cut])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SPARSEWALK_CACHE", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    mirror = Mirror()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"mirror": mirror}))
    server.daemon_threads = True
    mirror.address = f"http://127.0.0.1:{server.server_port}/file.bin"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield mirror
    server.shutdown()
    server.server_close()
    thread.join()


def _file(*addresses: str, **options: object) -> RemoteFile:
    return RemoteFile("sub/file.bin", addresses, SHA256, **options)  # type: ignore[arg-type]


def test_a_file_is_downloaded_into_the_cache(cache: Path, mirror: Mirror) -> None:
    path = fetch(_file(mirror.address))
    assert path == cache / "sub/file.bin"
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


def test_a_cached_file_is_not_downloaded_again(mirror: Mirror) -> None:
    fetch(_file(mirror.address))
    fetch(_file(mirror.address))
    assert len(mirror.asked) == 1


def test_a_broken_cached_file_is_downloaded_again(mirror: Mirror, caplog: pytest.LogCaptureFixture) -> None:
    fetch(_file(mirror.address)).write_bytes(b"rotten")
    assert fetch(_file(mirror.address)).read_bytes() == CONTENT
    assert "removed, to be downloaded again" in caplog.text


def test_a_broken_connection_is_taken_up_where_it_ended(mirror: Mirror) -> None:
    mirror.break_after = [3 * CHUNK, 2 * CHUNK]
    assert fetch(_file(mirror.address)).read_bytes() == CONTENT
    assert mirror.asked == [None, f"bytes={3 * CHUNK}-", f"bytes={5 * CHUNK}-"]


def test_a_later_process_goes_on_with_the_partial_file(cache: Path, mirror: Mirror) -> None:
    (cache / "sub").mkdir()
    (cache / "sub/file.bin.part").write_bytes(CONTENT[:123_456])
    assert fetch(_file(mirror.address)).read_bytes() == CONTENT
    assert mirror.asked == ["bytes=123456-"]


def test_an_interrupted_download_leaves_its_partial_file(cache: Path, mirror: Mirror) -> None:
    mirror.break_after = [3 * CHUNK, 0, 0, 0]
    with pytest.raises(DataUnavailable):
        fetch(_file(mirror.address))
    assert (cache / "sub/file.bin.part").read_bytes() == CONTENT[: 3 * CHUNK]
    assert not (cache / "sub/file.bin").exists()


def test_a_server_that_cannot_resume_starts_over(mirror: Mirror) -> None:
    mirror.ranges, mirror.break_after = False, [3 * CHUNK]
    assert fetch(_file(mirror.address)).read_bytes() == CONTENT


def test_a_partial_file_that_was_whole_is_used(cache: Path, mirror: Mirror) -> None:
    (cache / "sub").mkdir()
    (cache / "sub/file.bin.part").write_bytes(CONTENT)
    assert fetch(_file(mirror.address)).read_bytes() == CONTENT


def test_a_partial_file_that_is_too_long_is_thrown_away(cache: Path, mirror: Mirror) -> None:
    (cache / "sub").mkdir()
    (cache / "sub/file.bin.part").write_bytes(CONTENT + b"x")
    assert fetch(_file(mirror.address)).read_bytes() == CONTENT


def test_a_wrong_checksum_removes_the_file(cache: Path, mirror: Mirror) -> None:
    mirror.content = b"a page of the hotel's network"
    got = hashlib.sha256(mirror.content).hexdigest()
    with pytest.raises(
        DataUnavailable, match=rf"file.bin: expected sha256 {SHA256[7:]}. Received: {got} \(file removed"
    ):
        fetch(_file(mirror.address))
    assert list((cache / "sub").iterdir()) == []


def test_a_file_with_other_bytes_is_accepted_for_its_content(mirror: Mirror) -> None:
    mirror.content = b"repacked"
    assert fetch(_file(mirror.address, accept=Path.stat)).read_bytes() == b"repacked"


def test_a_file_with_wrong_content_is_not_accepted(cache: Path, mirror: Mirror) -> None:
    def accept(path: Path) -> None:
        raise DataError(f"{path.name}: expected 170 pictures")

    mirror.content = b"something else"
    with pytest.raises(DataUnavailable, match=r"expected 170 pictures \(file removed\)"):
        fetch(_file(mirror.address, accept=accept))
    assert not (cache / "sub/file.bin").exists()


def test_a_dead_mirror_is_passed_over(mirror: Mirror) -> None:
    assert fetch(_file(DEAD, mirror.address)).read_bytes() == CONTENT


def test_a_refusing_mirror_is_passed_over(mirror: Mirror) -> None:
    mirror.status = 403
    with pytest.raises(DataUnavailable, match=r"403 Client Error.*127.0.0.1:1/file.bin: no connection"):
        fetch(_file(mirror.address, DEAD))


def test_a_silent_server_is_given_up(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror.silent = True
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    start = time.monotonic()
    with pytest.raises(DataUnavailable, match="Read timed out"):
        fetch(_file(mirror.address), read_seconds=0.2)
    assert time.monotonic() - start < 3.5


def test_without_a_network_the_answer_is_quick() -> None:
    start = time.monotonic()
    # RFC 6761: no name under .invalid exists.
    with pytest.raises(DataUnavailable, match=r"mirror-one.invalid.*no connection.*mirror-two.invalid"):
        fetch(_file("http://mirror-one.invalid/f", "http://mirror-two.invalid/f"), connect_seconds=1.0)
    assert time.monotonic() - start < 3.0


def test_a_name_look_up_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def look_up(address: tuple[str, int], timeout: float) -> None:
        release.wait(5)
        raise OSError(f"no {address} within {timeout}")

    monkeypatch.setattr(download, "create_connection", look_up)
    start = time.monotonic()
    try:
        with pytest.raises(DataUnavailable, match=r"no connection within 0\.2 s"):
            fetch(_file("http://hangs.example/f", "http://hangs-too.example/f"), connect_seconds=0.2)
        assert time.monotonic() - start < 2.0
    finally:
        release.set()


def test_a_certificate_problem_is_explained(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise requests.exceptions.SSLError("CERTIFICATE_VERIFY_FAILED")

    monkeypatch.setattr(requests, "get", refuse)
    with pytest.raises(DataUnavailable, match=r"CERTIFICATE_VERIFY_FAILED.*intermediate.*never switched off"):
        fetch(_file(mirror.address))


def test_a_cache_that_cannot_be_made_is_named(cache: Path, mirror: Mirror) -> None:
    (cache / "sub").write_text("a file where the folder should be")
    with pytest.raises(DataUnavailable, match=r"the cache folder .*sub cannot be made"):
        fetch(_file(mirror.address))


def test_the_cache_is_the_user_s_unless_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPARSEWALK_CACHE", str(tmp_path))
    assert download.cache_folder() == tmp_path
    monkeypatch.delenv("SPARSEWALK_CACHE")
    assert download.cache_folder().name == "sparsewalk"


def test_without_a_checksum_the_content_decides(cache: Path, mirror: Mirror) -> None:
    def accept(path: Path) -> None:
        if path.read_bytes() != CONTENT:
            raise DataError(f"{path} is not whole")

    file = RemoteFile("sub/file.bin", (mirror.address,), None, accept)
    (cache / "sub").mkdir()
    (cache / "sub/file.bin").write_bytes(b"rotten")
    assert fetch(file).read_bytes() == CONTENT
    mirror.content = CONTENT[:-1]
    (cache / "sub/file.bin").unlink()
    with pytest.raises(DataUnavailable, match=r"is not whole \(file removed\)"):
        fetch(file)
    assert not (cache / "sub/file.bin").exists()
    mirror.content = CONTENT
    with pytest.raises(ValueError, match="a checksum or a check of the content"):
        fetch(RemoteFile("sub/file.bin", (mirror.address,), None))
