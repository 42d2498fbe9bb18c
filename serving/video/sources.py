"""What the job reads: the inputs named on the command line, in a fixed order, and the part of them that is ours."""

import glob
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from serving.video.errors import InputError

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_ADDRESS = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_WEB = ("http://", "https://")
# Playlists of pieces; who writes the pieces may still be at it.
_PLAYLISTS = (".m3u8", ".mpd")
_CREDENTIALS = re.compile(r"//[^/@]*@")
_INDEX = "JOB_COMPLETION_INDEX"


class Kind(Enum):
    """How an input is read: a stream but once, as it comes; the others again, from anywhere."""

    VIDEO = "video"
    FOLDER = "folder"
    STREAM = "stream"


@dataclass(frozen=True, slots=True)
class Source:
    """One input.

    Attributes:
        kind: how it is read.
        address: path or URL.
        name: of its results; unlike that of any other input.
        size: bytes of a video behind http(s), once its server has been asked; see ``opening.settle``.
    """

    kind: Kind
    address: str
    name: str
    size: int | None = None


def natural(text: str) -> list[tuple[int, int, str]]:
    """Sorts frame2 before frame10: runs of digits count as numbers, everything else letter by letter."""
    parts = re.split(r"([0-9]+)", text)
    return [(0, int(part), part) if part.isdecimal() and part.isascii() else (1, 0, part) for part in parts]


def find(patterns: Iterable[str]) -> list[Source]:
    """The inputs, in the order given; a glob's in natural order.

    A path that is not there is an input as well, which then fails on its own: in an Indexed Job every pod must find the
    same inputs, and the others go on without it.

    Args:
        patterns: paths, globs, addresses, or ``@FILE`` with one of them a line (empty lines and those with # are left
            out).

    Raises:
        InputError: a list cannot be read, or a glob matches nothing.
    """
    addresses: list[str] = []
    for pattern in _lines(patterns):
        # Path.exists would raise where the path may not be looked at.
        if has_scheme(pattern) or os.path.exists(pattern) or not glob.has_magic(pattern):  # noqa: PTH110
            addresses.append(pattern)
            continue
        # Path.glob starts from a folder, and patterns may be absolute.
        matches = sorted(glob.glob(pattern, recursive=True), key=natural)  # noqa: PTH207
        if not matches:
            raise InputError(f"{pattern}: matches nothing")
        addresses += matches
    names = _names(addresses)
    return [Source(_kind(address), address, name) for address, name in zip(addresses, names, strict=True)]


def part(sources: list[Source], count: int, environment: Mapping[str, str]) -> list[Source]:
    """The inputs of this pod of a Kubernetes Indexed Job; all of them outside of one.

    Args:
        sources: all inputs, alike in every pod.
        count: pods (``completions``); 0: pod n takes the n-th input and no other.
        environment: holds ``JOB_COMPLETION_INDEX`` inside of an Indexed Job.

    Raises:
        InputError: the index is no number, or not below ``count``.
    """
    told = environment.get(_INDEX)
    if told is None:
        return sources
    if not (told.isascii() and told.isdecimal()) or (count and int(told) >= count):
        below = f" below --job-count {count}" if count else ""
        raise InputError(f"{_INDEX} is a number{below}. Received: {told!r}")
    index = int(told)
    return sources[index::count] if count else sources[index : index + 1]


def public(address: str) -> str:
    """An address without the password in it, for files and messages."""
    return _CREDENTIALS.sub("//", address) if has_scheme(address) else address


def has_scheme(address: str) -> bool:
    """Whether it is a URL, not a path."""
    return _ADDRESS.match(address) is not None


def is_web(address: str) -> bool:
    """Whether a web server gives it."""
    return address.lower().startswith(_WEB)


def _lines(patterns: Iterable[str]) -> Iterable[str]:
    for pattern in patterns:
        if not pattern.startswith("@"):
            yield pattern
            continue
        try:
            text = Path(pattern[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{pattern[1:]}: the list of inputs cannot be read: {error}") from error
        lines = (line.strip() for line in text.splitlines())
        yield from (line for line in lines if line and not line.startswith("#"))


def _kind(address: str) -> Kind:
    if is_web(address):
        path = address.split("?")[0].split("#")[0].lower()
        return Kind.STREAM if path.endswith(_PLAYLISTS) else Kind.VIDEO
    if has_scheme(address) and not address.lower().startswith("file://"):
        return Kind.STREAM
    return Kind.FOLDER if os.path.isdir(address) else Kind.VIDEO  # noqa: PTH112


def _names(addresses: list[str]) -> list[str]:
    """Short names for folders; where two would be alike they get numbers."""
    names: list[str] = []
    taken: set[str] = set()
    for address in addresses:
        # Neither do credentials and parameters become names of folders.
        bare = public(address).split("?")[0] if has_scheme(address) else address
        path = Path(_ADDRESS.sub("", bare))
        stem = path.name if os.path.isdir(address) else path.stem  # noqa: PTH112
        stem = re.sub(r"[^\w.-]+", "_", stem).strip("._") or "input"
        name, number = stem, 2
        while name.casefold() in taken:
            name, number = f"{stem}-{number}", number + 1
        taken.add(name.casefold())
        names.append(name)
    return names
