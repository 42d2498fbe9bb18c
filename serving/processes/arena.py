"""Memory that a front shares with the engine: rows go there and back without being copied through a pipe.

It has no name: a descriptor passed from one process to the other is all there is of it. So it takes nothing of
``/dev/shm``, which containers keep small, and is gone when the last of the two is, however that ended.

The front hands out the room, for what it sends and for what it will get; the engine reads and writes where it is told.
"""

import bisect
import fcntl
import math
import mmap
import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.errors import OverloadedError

Array = npt.NDArray[Any]

# Of a cache line, so that two requests never share one.
_ALIGNMENT = 64


class Mapping:
    """Shared memory, mapped into this process.

    Args:
        descriptor: of the memory; may be closed afterwards.
        size: in bytes.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self.size = size
        self._map = mmap.mmap(descriptor, size)

    def array(self, offset: int, dtype: npt.DTypeLike, shape: Sequence[int]) -> Array:
        """The array that lies there; it shares the memory and keeps it mapped.

        Its ``base`` is an array too, which lives as long as any array that is made from this one.

        Raises:
            ValueError: it would lie outside.
        """
        return np.frombuffer(self._map, dtype, math.prod(shape), offset).reshape(shape)


class Arena(Mapping):
    """New shared memory, and who has which part of it.

    Args:
        size: in bytes; real memory is taken only when it is written to.
    """

    def __init__(self, size: int) -> None:
        self.descriptor = os.memfd_create("sparsewalk-rows", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.descriptor, size)
        # Whoever maps it may rely on its size.
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        super().__init__(self.descriptor, size)
        # What is free, as [start, end), in rising order, never touching.
        self._free = [(0, size)]
        self._taken: dict[int, int] = {}
        self._lock = threading.Lock()

    def reserve(self, size: int) -> int:
        """Takes room, the first that fits, so that as little memory as possible is ever touched.

        Returns:
            Its offset.

        Raises:
            OverloadedError: there is none.
        """
        size = max(1, -(-size // _ALIGNMENT)) * _ALIGNMENT
        with self._lock:
            for place, (start, end) in enumerate(self._free):
                if end - start >= size:
                    self._free[place : place + 1] = [(start + size, end)] if end - start > size else []
                    self._taken[start] = start + size
                    return start
        raise OverloadedError(
            f"the memory shared with the engine process has no room for {size} bytes;"
            f" --shared-memory-bytes is {self.size}"
        )

    def release(self, offset: int) -> None:
        """Gives room back."""
        with self._lock:
            start, end = offset, self._taken.pop(offset)
            place = bisect.bisect(self._free, (start, end))
            if place < len(self._free) and self._free[place][0] == end:
                end = self._free.pop(place)[1]
            if place and self._free[place - 1][1] == start:
                place -= 1
                start = self._free.pop(place)[0]
            self._free.insert(place, (start, end))

    @property
    def in_use(self) -> int:
        """Bytes that are taken now."""
        with self._lock:
            return sum(end - start for start, end in self._taken.items())

    def close(self) -> None:
        """Closes the descriptor; the memory stays while arrays in it do."""
        os.close(self.descriptor)
