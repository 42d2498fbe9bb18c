"""Certificates and tokens: read and checked before the server starts, and read anew when their files change.

No protocol in here. What cannot be used keeps the server from starting; once it runs, what cannot be used is logged
and what was read before stays in force, so that a half-written file neither opens nor closes the door.
"""

import hashlib
import hmac
import logging
import re
import ssl
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.errors import SecurityError

# How often files are looked at, at most: a handshake or a request asks the file system no more than this.
LOOK_SECONDS = 1.0
# As RFC 6750 writes them, and too long to be guessed.
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]{16,}=*")
_BEARER = "bearer "

_log = logging.getLogger(__name__)


class Watch:
    """Notices that files are not those that were there before.

    Args:
        paths: the files; links are followed, as Kubernetes changes a mounted secret by a link.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._lock = threading.Lock()
        self._next = time.monotonic() + LOOK_SECONDS
        self._stamps = self._read_stamps()

    def changed(self) -> bool:
        """Whether something changed since this last said so; for one of the threads that ask, once a change."""
        if time.monotonic() < self._next:
            return False
        with self._lock:
            if time.monotonic() < self._next:
                return False
            self._next = time.monotonic() + LOOK_SECONDS
            before, self._stamps = self._stamps, self._read_stamps()
            return before != self._stamps

    def _read_stamps(self) -> list[tuple[int, int, int] | None]:
        stamps: list[tuple[int, int, int] | None] = []
        for path in self._paths:
            try:
                status = path.stat()
                stamps.append((status.st_mtime_ns, status.st_size, status.st_ino))
            except OSError:
                stamps.append(None)
        return stamps


@dataclass(frozen=True, slots=True)
class Pems:
    """What TLS needs, as the files hold it (PEM); ``client_ca`` is None where clients show no certificate."""

    chain: bytes
    key: bytes
    client_ca: bytes | None


class Certificates:
    """The server's certificate, its key, and who may vouch for clients.

    Args:
        chain: file with the certificate, and those between it and its authority.
        key: file with its private key, not encrypted.
        client_ca: file with the authorities of client certificates; None: clients show none.

    Raises:
        SecurityError: a file is missing, is not what it should be, or the key is not that of the certificate.
    """

    def __init__(self, chain: Path, key: Path, client_ca: Path | None) -> None:
        self._chain, self._key, self._client_ca = chain, key, client_ca
        self._watch = Watch([path for path in (chain, key, client_ca) if path])
        self._context, self._pems = self._read()

    @property
    def pems(self) -> Pems:
        """Those in force; the same object until there are new ones."""
        self._renew()
        return self._pems

    @property
    def context(self) -> ssl.SSLContext:
        """The same, for servers of the standard library."""
        self._renew()
        return self._context

    def _renew(self) -> None:
        if not self._watch.changed():
            return
        try:
            self._context, self._pems = self._read()
        except SecurityError as error:
            _log.error("the certificate is not renewed, the one before stays: %s", error)
        else:
            _log.info("the certificate is renewed from %s", self._chain)

    def _read(self) -> tuple[ssl.SSLContext, Pems]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # It tells what is wrong with the files; gRPC takes them as they are and then refuses every handshake.
        load_pair(context, self._chain, self._key)
        if self._client_ca is not None:
            load_authorities(context, self._client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        client_ca = None if self._client_ca is None else self._client_ca.read_bytes()
        return context, Pems(self._chain.read_bytes(), self._key.read_bytes(), client_ca)


class Tokens:
    """The bearer tokens that are let in.

    Args:
        path: file with one a line; several, so that a new one can be handed out before the old one goes. Empty lines
            and lines that begin with ``#`` are skipped.

    Raises:
        SecurityError: the file cannot be read, has no token, or one that is too short or not as tokens are written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._watch = Watch([path])
        self._digests = self._read()

    def admit(self, authorization: str | bytes | None) -> bool:
        """Whether the value of an ``authorization`` header is ``Bearer`` and one of the tokens.

        Takes as long for every token: digests are compared, in constant time, with all there are.
        """
        if self._watch.changed():
            self._renew()
        if not isinstance(authorization, str) or authorization[: len(_BEARER)].lower() != _BEARER:
            return False
        digest = _digest(authorization[len(_BEARER) :])
        admitted = False
        for known in self._digests:
            admitted |= hmac.compare_digest(digest, known)
        return admitted

    def _renew(self) -> None:
        try:
            self._digests = self._read()
        except SecurityError as error:
            _log.error("the tokens are not renewed, those before stay: %s", error)
        else:
            _log.info("the tokens are renewed from %s: %d of them", self._path, len(self._digests))

    def _read(self) -> list[bytes]:
        return [_digest(token) for token in read_tokens(self._path)]


def read_tokens(path: Path) -> list[str]:
    """The tokens of a file, at least one.

    Raises:
        SecurityError: see ``Tokens``. The message tells the line's number, never what it holds.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise _unreadable("token file", path, error) from None
    tokens = []
    for number, line in enumerate(lines, 1):
        token = line.decode("ascii", "replace").strip()
        if not token or token.startswith("#"):
            continue
        if not _TOKEN.fullmatch(token):
            raise SecurityError(
                f"the token file {path}: a token is at least 16 of the characters A-Z a-z 0-9 - . _ ~ + / and ends in"
                f" any = (RFC 6750). Received: something else in line {number}, of {len(token)} characters"
            )
        tokens.append(token)
    if not tokens:
        raise SecurityError(f"the token file {path} has at least one token. Received: none")
    return tokens


def load_pair(context: ssl.SSLContext, chain: Path, key: Path) -> None:
    """Gives a context a certificate and its key.

    Raises:
        SecurityError: they cannot be read, or are not a certificate and its key.
    """

    def refuse_password() -> str:
        raise SecurityError(f"the key {key} is encrypted, and there is nobody to ask for its password")

    for what, path in (("certificate", chain), ("key", key)):
        try:
            path.open("rb").close()  # OpenSSL does not tell which of the two it could not read
        except OSError as error:
            raise _unreadable(what, path, error) from None
    try:
        context.load_cert_chain(chain, key, password=refuse_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise SecurityError(f"the key {key} is not that of the certificate {chain}") from None
        raise SecurityError(
            f"{chain} and {key} are PEM files of a certificate and of its key. Received: {error.reason or error}"
        ) from None


def load_authorities(context: ssl.SSLContext, path: Path) -> None:
    """Gives a context those who may vouch for the other side.

    Raises:
        SecurityError: the file cannot be read, or holds no certificates.
    """
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise SecurityError(f"{path} is a PEM file of certificates. Received: {error.reason or error}") from None
    except OSError as error:
        raise _unreadable("file of authorities", path, error) from None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _unreadable(what: str, path: Path, error: OSError) -> SecurityError:
    return SecurityError(f"the {what} {path} cannot be read: {error.strerror}")
