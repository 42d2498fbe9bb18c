"""Download of data files into a cache: mirrors in order, resume, time-outs, checksums.

pooch gives the cache, the temporary file that is renamed into place, and the checksum; `ResumingDownloader` gives what
pooch leaves out: going on with a partial file. The cache is pooch's own folder for "sparsewalk", or the folder that
SPARSEWALK_CACHE names.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from socket import create_connection
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import pooch
import requests

from training.datasets.source import DATA_VARIABLE, DataError, DataUnavailable

logger = logging.getLogger("training.datasets")

CACHE_VARIABLE = "SPARSEWALK_CACHE"

CONNECT_SECONDS = 4.0
"""For name look-up and connection, all mirrors together: without a network we want to know soon."""
READ_SECONDS = 20.0
"""Longest silence of a server in the middle of a file."""
ATTEMPTS = 3
"""Attempts at one address that bring nothing; one that brings something is gone on with where it ended."""

_CHUNK = 1 << 16
_PROGRESS_SECONDS = 2.0


@dataclass(frozen=True)
class RemoteFile:
    """A file on the network.

    Attributes:
        name: Path below the cache folder, also the file's name in messages.
        addresses: Its mirrors, the preferred one first.
        checksum: "sha256:..." or "md5:..." of the file. None where its publisher names none: `accept` decides alone.
        accept: Where other files with the same content are as good: raises DataError for one that is not. None
            insists on the checksum.
    """

    name: str
    addresses: tuple[str, ...]
    checksum: str | None
    accept: Callable[[Path], None] | None = None


class ResumingDownloader:
    """A pooch downloader that goes on with a partial file (HTTP Range).

    What has arrived lies in `part` and survives the process; it becomes the output file only when whole.
    """

    def __init__(self, part: Path, read_seconds: float) -> None:
        self._part = part
        self._read_seconds = read_seconds

    def __call__(self, url: str, output_file: str, pooch_: object, check_only: bool = False) -> None:  # noqa: ARG002 - pooch's signature
        """Download `url` to `output_file`.

        Raises:
            requests.RequestException: When the server refuses, or the connection breaks `ATTEMPTS` times in a row
                and nothing comes in between.
        """
        failures = 0
        while True:
            before = self._size()
            try:
                self._continue(url)
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError, requests.Timeout) as error:
                if isinstance(error, requests.exceptions.SSLError):
                    raise
                failures = 0 if self._size() > before else failures + 1
                if failures == ATTEMPTS:
                    raise
                logger.info("%s: broken off at %d bytes, going on (%s)", self._part.name, self._size(), error)
            else:
                self._part.replace(output_file)
                return

    def _size(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _continue(self, url: str) -> None:
        have = self._size()
        # "identity": a transfer-encoded body could not be continued at a byte position.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=(CONNECT_SECONDS, self._read_seconds)) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                if response.headers.get("Content-Range") == f"bytes */{have}":
                    return  # the partial file was already whole
                self._part.unlink()
                raise requests.ConnectionError(f"{url}: the partial file is longer than the server's")
            response.raise_for_status()
            resumed = response.status_code == requests.codes.partial_content
            if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                self._part.unlink()
                raise requests.ConnectionError(f"{url}: the server continued at another byte than asked")
            total = int(response.headers.get("Content-Length", 0)) + (have if resumed else 0)
            with self._part.open("ab" if resumed else "wb") as file:
                _write(response.iter_content(_CHUNK), file, self._part.stem, total)
            if total > self._size():
                raise requests.ConnectionError(f"{url}: expected {total} bytes. Received: {self._size()}")


def cache_folder() -> Path:
    """The folder of downloaded files: SPARSEWALK_CACHE, or the system's cache folder of this user."""
    value = os.environ.get(CACHE_VARIABLE, "")
    return Path(value).expanduser() if value else Path(pooch.os_cache("sparsewalk"))


def fetch(file: RemoteFile, *, connect_seconds: float = CONNECT_SECONDS, read_seconds: float = READ_SECONDS) -> Path:
    """Find a file in the cache, or download it into the cache.

    Args:
        file: What to fetch.
        connect_seconds: For finding out which mirrors can be reached, all together.
        read_seconds: Longest silence of a server in the middle of the file.

    Returns:
        The file in the cache, its checksum (or content) verified.

    Raises:
        DataUnavailable: When no mirror gave the file; says for each one why.
    """
    target = cache_folder() / file.name
    if target.exists():
        try:
            _verify(target, file)
        except DataError as error:
            logger.warning("%s; removed, to be downloaded again", error)
            target.unlink()
        else:
            return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataUnavailable(f"{file.name}: the cache folder {target.parent} cannot be made: {error}") from error
    tried: list[str] = []
    reached = _reachable(file.addresses, connect_seconds)
    for address in file.addresses:
        problem = reached[address]
        if problem is None:
            logger.info("%s: downloading from %s", file.name, address)
            problem = _download(address, target, file, read_seconds)
            if problem is None:
                return target
        logger.info("%s: %s: %s", file.name, address, problem)
        tried.append(f"{address}: {problem}")
    hint = f"Download it by other means and put it at {file.name} in a folder that {DATA_VARIABLE} names."
    raise DataUnavailable(f"{file.name} could not be downloaded. Tried: {'; '.join(tried)}. {hint}")


def _verify(path: Path, file: RemoteFile) -> None:
    if file.checksum is None:
        if file.accept is None:
            raise ValueError(f"{file.name}: expected a checksum or a check of the content. Received: neither")
        file.accept(path)
        return
    algorithm, _, expected = file.checksum.partition(":")
    got = pooch.file_hash(str(path), alg=algorithm)
    if got == expected:
        return
    if file.accept is None:
        raise DataError(f"{path}: expected {algorithm} {expected}. Received: {got}")
    file.accept(path)
    logger.info("%s: %s is %s instead of %s, but the content is whole", path, algorithm, got, expected)


def _download(address: str, target: Path, file: RemoteFile, read_seconds: float) -> str | None:
    """Try one mirror. Returns None on success, else what went wrong; a partial file stays, a wrong one does not."""
    downloader = ResumingDownloader(target.with_name(target.name + ".part"), read_seconds)
    pooch.get_logger().setLevel("WARNING")  # it would report the checksum as if we did not know it
    try:
        # The checksum is ours to verify: a file that `accept` takes may have another one.
        pooch.retrieve(address, known_hash=None, fname=target.name, path=str(target.parent), downloader=downloader)
        _verify(target, file)
    except requests.exceptions.SSLError as error:
        return _explain_tls(urlsplit(address).hostname, error)
    except (requests.RequestException, OSError) as error:
        return str(error)
    except DataError as error:
        target.unlink(missing_ok=True)
        return f"{error} (file removed)"
    return None


def _explain_tls(host: str | None, error: Exception) -> str:
    return (
        f"the TLS certificate of {host} could not be verified ({error}). Some servers, www.cis.upenn.edu among them, "
        "leave out an intermediate certificate: name a bundle that has it in REQUESTS_CA_BUNDLE. Verification is never "
        "switched off"
    )


def _write(chunks: Iterable[bytes], file: BinaryIO, name: str, total: int) -> None:
    last = time.monotonic()
    for chunk in chunks:
        file.write(chunk)
        if time.monotonic() - last > _PROGRESS_SECONDS:
            last = time.monotonic()
            share = f" ({file.tell() / total:.0%} of {total / 1e6:.1f} MB)" if total else ""
            logger.info("%s: %.1f MB%s", name, file.tell() / 1e6, share)


def _reachable(addresses: tuple[str, ...], seconds: float) -> dict[str, str | None]:
    """For each address what keeps its server from being reached, None where nothing does.

    requests has a time-out for each of a name's network addresses but none for looking the name up, so a machine
    without a network could wait for minutes. Here all servers are tried at once, in threads left behind when the
    time is up.
    """
    problems: dict[str, str | None] = dict.fromkeys(addresses, f"no connection within {seconds:g} s")
    threads = [threading.Thread(target=_probe, args=(a, seconds, problems), daemon=True) for a in addresses]
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(problems)


def _probe(address: str, seconds: float, problems: dict[str, str | None]) -> None:
    proxy: Any = requests.utils.select_proxy(address, requests.utils.get_environ_proxies(address))
    parts = urlsplit(str(proxy) if proxy else address)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        create_connection((parts.hostname or "", port), timeout=seconds).close()
    except (OSError, ValueError) as error:
        problems[address] = f"no connection ({error})"
    else:
        problems[address] = None
