"""Which cores a thread may use: those that speak gRPC stay on one, computing is done on all.

Python's lock goes from thread to thread several times in a request. Within a core that is a function call of the
scheduler's; between cores the next thread must first be woken up on its own one, and that takes longer than a small
encoder's whole run. Linux keeps affinities for each thread, and a new thread has those of the one that started it.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

from serving.errors import StartError


class Placement:
    """One core for threads that talk, and all of them for work.

    Args:
        core: for those that talk, counted from 0 among the cores this process may use; None: every thread goes
            anywhere, and both methods do nothing.

    Raises:
        StartError: there is no such core, or the system has no affinity for threads.
    """

    def __init__(self, core: int | None = None) -> None:
        self._core = core
        self._home: set[int] | None = None
        self._everywhere: set[int] = set()
        if core is None:
            return
        if not hasattr(os, "sched_setaffinity"):
            raise StartError("--request-core: this system cannot keep threads on a core; Linux can")
        self._everywhere = os.sched_getaffinity(0)
        cores = sorted(self._everywhere)
        if core >= len(cores):
            raise StartError(
                f"--request-core: this process may use {len(cores)} cores, 0 to {len(cores) - 1}. Received: {core}"
            )
        self._home = {cores[core]}

    def core_after(self, count: int) -> int | None:
        """The core that is so many further on, the first following the last; None where there is none."""
        return None if self._core is None else (self._core + count) % len(self._everywhere)

    def home(self) -> AbstractContextManager[None]:
        """Keeps the calling thread on the one core, and for good those that it starts meanwhile."""
        return nullcontext() if self._home is None else _moved(self._home)

    def everywhere(self) -> AbstractContextManager[None]:
        """Lets the calling thread, and for good those that it starts meanwhile, use all cores."""
        return nullcontext() if self._home is None else _moved(self._everywhere)


ANYWHERE = Placement()


@contextmanager
def _moved(cores: set[int]) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    _move(cores)
    try:
        yield
    finally:
        _move(before)


def _move(cores: set[int]) -> None:
    # A container's cores may be exchanged while it runs. Where a thread is then matters less than that it answers.
    with suppress(OSError):
        os.sched_setaffinity(0, cores)
