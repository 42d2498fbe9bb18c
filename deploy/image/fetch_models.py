"""Fetches a model repository as one archive, checks it, and puts it in place; for an init container.

``fetch_models.py URL SHA256 FOLDER``: the archive (.tar, .tar.gz, .tar.xz or .zip; by http, https or file) holds
``<name>/<version>/{manifest.json, model.onnx}``. FOLDER's ``models`` appears whole or not at all; where the same
archive has been fetched before, nothing is done. Exit codes: 0 there, 1 not there (one line on stderr), 2 wrong usage.

Only Python's own library, so that any image with Python can run it.
"""

import hashlib
import re
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

CHUNK = 2**20
TIMEOUT_SECONDS = 60
MAX_BYTES = 8 * 2**30
MARK = ".sha256"


class FetchError(Exception):
    """The models are not there; the message says why."""


def download(url: str, digest: str, target: Path) -> None:
    """Writes the archive to ``target`` and checks its SHA-256.

    Raises:
        FetchError: it cannot be had, is larger than 8 GiB, or is another file than expected.
    """
    if urlsplit(url).scheme not in ("http", "https", "file"):
        raise FetchError(f"expected an address with http, https or file. Received: {url}")
    hashed, size = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as source, target.open("wb") as file:
            while chunk := source.read(CHUNK):
                size += len(chunk)
                if size > MAX_BYTES:
                    raise FetchError(f"{url}: larger than {MAX_BYTES} bytes")
                hashed.update(chunk)
                file.write(chunk)
    except OSError as error:  # urllib's errors, time-outs and a full disk alike
        raise FetchError(f"{url}: {getattr(error, 'reason', None) or error}") from error
    if hashed.hexdigest() != digest:
        raise FetchError(f"{url}: expected SHA-256 {digest}. Received: {hashed.hexdigest()} ({size} bytes)")


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks into ``folder``; members that would leave it, links out of it and devices are refused.

    Raises:
        FetchError: no archive, a broken one, or one with such members.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                zipped.extractall(folder)  # leaves out absolute paths and ".." by itself
        else:
            with tarfile.open(archive) as tarred:
                tarred.extractall(folder, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise FetchError(f"not an archive that can be unpacked: {' '.join(str(error).split())}") from error
    if not any(folder.glob("*/*/manifest.json")):
        raise FetchError("no <name>/<version>/manifest.json in the archive")


def fetch(url: str, digest: str, folder: Path) -> bool:
    """Has ``folder/models`` hold what the archive holds; False when it did already.

    Raises:
        FetchError: see above; what was there before is untouched.
    """
    models = folder / "models"
    mark = models / MARK
    if mark.is_file() and mark.read_text() == digest:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as aside:
        archive, fresh = Path(aside, "archive"), Path(aside, "models")
        download(url, digest, archive)
        fresh.mkdir()
        unpack(archive, fresh)
        archive.unlink()
        (fresh / MARK).write_text(digest)
        if models.exists():
            models.rename(Path(aside, "old"))
        fresh.rename(models)
    return True


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    if len(arguments) != 3 or not re.fullmatch(r"[0-9a-f]{64}", arguments[1].lower()):
        print("usage: fetch_models.py URL SHA256 FOLDER (SHA256 in 64 hexadecimal digits)", file=sys.stderr)
        return 2
    url, digest, folder = arguments[0], arguments[1].lower(), Path(arguments[2])
    try:
        new = fetch(url, digest, folder)
    except (FetchError, OSError) as error:
        print(f"fetch_models: {error}", file=sys.stderr)
        return 1
    names = sorted(str(path.parent.relative_to(folder / "models")) for path in folder.glob("models/*/*/manifest.json"))
    print(f"{'fetched' if new else 'already there'}: {', '.join(names)} (SHA-256 {digest})")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
