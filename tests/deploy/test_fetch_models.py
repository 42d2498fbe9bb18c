"""deploy/image/fetch_models.py: models as one archive, whole and checked or not at all."""

import io
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.deploy.conftest import DEPLOY

PROGRAM = DEPLOY / "image" / "fetch_models.py"
MANIFEST, MODEL = "digits/1/manifest.json", "digits/1/model.onnx"

Run = Callable[..., tuple[int, str, str]]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  # the library's name
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An address and the folder that is there."""
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "fetched"


@pytest.fixture
def run(target: Path) -> Run:
    """Exit code, stdout and stderr, for a URL and a digest."""

    def start(url: str, digest: str) -> tuple[int, str, str]:
        command = [sys.executable, "-I", PROGRAM, url, digest, target]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, done.stdout, done.stderr

    return start


def tar(members: dict[str, bytes], *extra: tarfile.TarInfo) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for entry in extra:
            archive.addfile(entry)
    return written.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return written.getvalue()


def digest_of(content: bytes) -> str:
    return sha256(content).hexdigest()


GOOD = {MANIFEST: b"{}", MODEL: b"\x01"}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".sha256"
    }


@pytest.mark.parametrize("pack", [tar, zipped])
def test_the_archive_is_unpacked(pack: Callable[..., bytes], served: tuple[str, Path], run: Run, target: Path) -> None:
    url, folder = served
    archive = pack(GOOD)
    (folder / "models").write_bytes(archive)
    code, out, errors = run(f"{url}/models", digest_of(archive))
    assert (code, errors) == (0, "")
    assert out == f"fetched: digits/1 (SHA-256 {digest_of(archive)})\n"
    assert contents(target / "models") == GOOD
    assert [path.name for path in target.iterdir()] == ["models"]


def test_the_same_archive_is_not_fetched_again(served: tuple[str, Path], run: Run) -> None:
    url, folder = served
    archive = tar(GOOD)
    (folder / "models").write_bytes(archive)
    run(f"{url}/models", digest_of(archive))
    (folder / "models").unlink()
    code, out, _ = run(f"{url}/models", digest_of(archive))
    assert code == 0
    assert out.startswith("already there: digits/1 ")


def test_another_archive_takes_its_place_whole(served: tuple[str, Path], run: Run, target: Path) -> None:
    url, folder = served
    newer = {"red/3/manifest.json": b"{}", "red/3/model.onnx": b"\x02"}
    for archive in (tar(GOOD), tar(newer)):
        (folder / "models").write_bytes(archive)
        assert run(f"{url}/models", digest_of(archive))[0] == 0
    assert contents(target / "models") == newer


@pytest.mark.parametrize(
    ("archive", "complaint"),
    [
        (b"no archive", "not an archive that can be unpacked"),
        (tar(GOOD)[:-40], "not an archive that can be unpacked"),
        (tar({"somewhere.txt": b""}), "no <name>/<version>/manifest.json in the archive"),
        (tar({**GOOD, "../outside": b""}), "outside the destination"),
        (tar({**GOOD, "/outside": b"", "digits/../../../outside": b""}), "outside the destination"),
    ],
    ids=["text", "cut", "empty", "parent", "absolute"],
)
def test_what_is_no_repository_is_refused_and_what_was_there_stays(
    archive: bytes, complaint: str, served: tuple[str, Path], run: Run, target: Path
) -> None:
    url, folder = served
    good = tar(GOOD)
    (folder / "before").write_bytes(good)
    (folder / "models").write_bytes(archive)
    assert run(f"{url}/before", digest_of(good))[0] == 0
    code, out, errors = run(f"{url}/models", digest_of(archive))
    assert (code, out) == (1, "")
    assert complaint in errors
    assert len(errors.splitlines()) == 1
    assert contents(target / "models") == GOOD
    assert [path.name for path in target.iterdir()] == ["models"]
    assert not (target.parent / "outside").exists()


def test_links_that_lead_out_and_devices_are_refused(served: tuple[str, Path], run: Run, target: Path) -> None:
    url, folder = served
    link, device = tarfile.TarInfo("digits/1/out"), tarfile.TarInfo("digits/1/null")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    device.type = tarfile.CHRTYPE
    for entry in (link, device):
        archive = tar(GOOD, entry)
        (folder / "models").write_bytes(archive)
        assert run(f"{url}/models", digest_of(archive))[0] == 1
        assert not (target / "models").exists()


def test_another_file_than_expected_is_refused(served: tuple[str, Path], run: Run, target: Path) -> None:
    url, folder = served
    archive = tar(GOOD)
    (folder / "models").write_bytes(archive)
    code, _, errors = run(f"{url}/models", "0" * 64)
    assert code == 1
    expected = f"expected SHA-256 {'0' * 64}. Received: {digest_of(archive)} ({len(archive)} bytes)"
    assert expected in errors
    assert not (target / "models").exists()


def test_an_address_that_does_not_answer_is_named(served: tuple[str, Path], run: Run) -> None:
    url, _ = served
    code, _, errors = run(f"{url}/nothing", "0" * 64)
    assert code == 1
    assert errors.startswith(f"fetch_models: {url}/nothing: ")


@pytest.mark.parametrize(
    ("url", "digest", "code", "complaint"),
    [
        ("ftp://somewhere/models", "0" * 64, 1, "expected an address with http, https or file. Received: ftp:"),
        ("http://127.0.0.1:1/models", "abc", 2, "SHA256 in 64 hexadecimal digits"),
    ],
)
def test_wrong_usage_is_told(url: str, digest: str, code: int, complaint: str, run: Run) -> None:
    found, _, errors = run(url, digest)
    assert found == code
    assert complaint in errors
