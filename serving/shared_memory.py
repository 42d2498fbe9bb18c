"""POSIX shared memory of callers on this machine, so that their tensors need not travel through gRPC.

What NVIDIA Triton calls system shared memory: a caller makes an object (``shm_open``), registers a part of it here
under a name, and from then on says where in it the values of a tensor lie or are to be put.

Here it is read and written as a file, not mapped. Whoever made the object may shrink it at any time, and ``/dev/shm``
may be full: with a mapping either would end the server (SIGBUS), so they are errors of one request. And what was
checked is what is used, since the values are copied once before anything looks at them.
"""

import os
import stat
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path

from serving.errors import (
    AlreadyExistsError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    TooManyRegionsError,
    quote,
)

# Where Linux keeps what shm_open makes.
_FOLDER = Path("/dev/shm")
# Each holds a descriptor.
_MOST_REGIONS = 256


class Region:
    """A registered part of a shared memory object.

    Its descriptor is closed when the last who uses it is done, so that a region can be unregistered at any time.

    Args:
        name: under which requests speak of it.
        key: of the object, as ``shm_open`` takes it.
        offset: of the part, in bytes.
        size: of the part, in bytes.
        descriptor: of the object; this owns it from here on.
    """

    def __init__(self, name: str, key: str, offset: int, size: int, descriptor: int) -> None:
        self.name = name
        self.key = key
        self.offset = offset
        self.size = size
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of it.

        Raises:
            InvalidInputError: the object has become shorter since it was registered.
        """
        data = os.pread(self._descriptor, size, self.offset + offset)
        if len(data) < size:
            raise InvalidInputError(
                f"the shared memory {quote(self.name)} became shorter after it was registered:"
                f" {size} bytes from offset {offset} were to be read. Received: {len(data)} bytes"
            )
        return data

    def write(self, offset: int, data: memoryview) -> None:
        """Puts bytes into it.

        Raises:
            InvalidInputError: the system has no room for them.
        """
        try:
            written = os.pwrite(self._descriptor, data, self.offset + offset)
        except OSError as error:
            raise InvalidInputError(f"the shared memory {quote(self.name)}: {error.strerror}") from error
        if written < data.nbytes:
            raise InvalidInputError(
                f"the shared memory {quote(self.name)}: there was room for {written} of {data.nbytes} bytes"
            )


@dataclass(frozen=True)
class Part:
    """Where the values of one tensor lie, or are to be put.

    Attributes:
        region: that it is in.
        offset: in the region, in bytes.
        size: in bytes.
    """

    region: Region
    offset: int
    size: int

    def read(self) -> bytes:
        """All of it.

        Raises:
            InvalidInputError: see ``Region.read``.
        """
        return self.region.read(self.offset, self.size)

    def write(self, what: str, data: memoryview) -> None:
        """Puts bytes at its beginning.

        Args:
            what: they are, for messages.
            data: contiguous.

        Raises:
            InvalidInputError: there are more than it holds, or see ``Region.write``.
        """
        if data.nbytes > self.size:
            raise InvalidInputError(
                f"{what} has {data.nbytes} bytes. Received: {self.size} bytes of shared memory for it"
            )
        self.region.write(self.offset, data)


class Regions:
    """The regions that callers have registered. For any thread.

    Args:
        max_bytes: most bytes of one tensor.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._regions: dict[str, Region] = {}
        self._lock = threading.Lock()

    def register(self, name: str, key: str, offset: int, size: int) -> None:
        """Makes a part of a shared memory object known under a name.

        Args:
            name: not empty, and not in use.
            key: of the object, with or without its leading slash.
            offset: of the part, in bytes.
            size: of the part, in bytes.

        Raises:
            InvalidInputError: there is no name, the key is none, or the object does not reach so far.
            AlreadyExistsError: the name is in use.
            NotFoundError: there is no such object.
            ForbiddenError: the server may not read and write it, or it is no shared memory.
            TooManyRegionsError: as many are registered as may be.
        """
        if not name:
            raise InvalidInputError("a region of shared memory has a name. Received: none")
        descriptor = _open(key)
        region = Region(name, key, offset, size, descriptor)
        length = os.fstat(descriptor).st_size
        if offset < 0 or size < 1 or offset + size > length:
            raise InvalidInputError(
                f"the shared memory {quote(key)} has {length} bytes. Received: {size} bytes from offset {offset}"
            )
        with self._lock:
            if name in self._regions:
                raise AlreadyExistsError(f"shared memory is registered as {quote(name)} already: unregister it first")
            if len(self._regions) >= _MOST_REGIONS:
                raise TooManyRegionsError(f"the server has {_MOST_REGIONS} regions of shared memory registered")
            self._regions[name] = region

    def unregister(self, name: str) -> None:
        """Forgets a region; one that is not there is no error. Requests under way finish with it.

        Args:
            name: of the region; empty for all.
        """
        with self._lock:
            if name:
                self._regions.pop(name, None)
            else:
                self._regions.clear()

    def registered(self, name: str) -> list[Region]:
        """The region of a name; all in the order of their registration where the name is empty.

        Raises:
            NotFoundError: there is none of that name.
        """
        if name:
            return [self._get(name)]
        with self._lock:
            return list(self._regions.values())

    def part(self, name: str, offset: int, size: int) -> Part:
        """A part of a region.

        Args:
            name: of the region.
            offset: in the region, in bytes.
            size: in bytes.

        Raises:
            InvalidInputError: it does not lie within, or is larger than one tensor may be.
            NotFoundError: there is no such region.
        """
        region = self._get(name)
        if offset < 0 or size < 1 or offset + size > region.size:
            raise InvalidInputError(
                f"the shared memory {quote(name)} has {region.size} bytes. Received: {size} bytes from offset {offset}"
            )
        if size > self._max_bytes:
            raise InvalidInputError(f"a tensor has at most {self._max_bytes} bytes. Received: {size} bytes")
        return Part(region, offset, size)

    def _get(self, name: str) -> Region:
        region = self._regions.get(name)
        if region is None:
            raise NotFoundError(f"no shared memory is registered as {quote(name)}")
        return region


def _open(key: str) -> int:
    """A descriptor of the object of a key."""
    base = key.removeprefix("/")
    if not base or "/" in base or "\0" in base or base in (".", ".."):
        raise InvalidInputError(
            f"the key of shared memory is a name with or without one slash before it. Received: {quote(key)}"
        )
    what = f"the shared memory {quote(key)}"
    try:
        # Nothing here may wait, as opening a pipe would, or lead elsewhere, as a link would.
        descriptor = os.open(_FOLDER / base, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotFoundError(f"there is no shared memory {quote(key)} on the server's machine") from None
    except OSError as error:
        raise ForbiddenError(f"{what} cannot be used: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ForbiddenError(f"{what} cannot be used: it is no shared memory")
    return descriptor
