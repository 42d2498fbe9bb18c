"""One caller's patience: a deadline, a priority and whether it went away. No protocol in it.

The servicers make one per request; the engine and the batcher ask it before they spend time.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

from serving.errors import CancelledError, DeadlineError
from serving.timings import Timings

# The usual priority; 1 goes first, PRIORITIES last.
USUAL, PRIORITIES = 3, 5

# A caller without a deadline may be given one in the far future, which locks cannot wait for.
_YEAR = 365.0 * 24 * 3600


class Answered(NamedTuple):
    """Who answered a request, with how many rows, and how long each phase took."""

    model: str
    version: int
    rows: int
    timings: Timings


class Call:
    """A request under way.

    Args:
        deadline: the ``time.monotonic()`` after which no one reads the answer; None = never.
        priority: 1 (first) to ``PRIORITIES``.

    Attributes:
        request_id: under which logs have it.
        trace: W3C traceparent of its span, which is what travels between processes; None where there are no traces.
        batch: the same of the run that it was part of, told when it has run; None where it is not traced.
        answered: set by the engine when it has an answer.
    """

    __slots__ = ("_cancelled", "_waker", "answered", "batch", "deadline", "priority", "request_id", "trace")

    def __init__(self, deadline: float | None = None, priority: int = USUAL) -> None:
        self.deadline = deadline
        self.priority = priority
        self._cancelled = False
        self._waker: Callable[[], None] | None = None
        self.request_id = ""
        self.trace: str | None = None
        self.batch: str | None = None
        self.answered: Answered | None = None

    @property
    def cancelled(self) -> bool:
        """Whether the caller went away."""
        return self._cancelled

    @property
    def over(self) -> bool:
        """Whether work for this call is wasted: cancelled, or past its deadline."""
        return self._cancelled or (self.deadline is not None and time.monotonic() >= self.deadline)

    def remaining(self) -> float | None:
        """Seconds until the deadline, from 0 to a year; None without one."""
        return None if self.deadline is None else min(max(0.0, self.deadline - time.monotonic()), _YEAR)

    def narrow(self, seconds: float) -> None:
        """Brings the deadline forward to so many seconds from now; one that is earlier stays."""
        end = time.monotonic() + seconds
        if self.deadline is None or end < self.deadline:
            self.deadline = end

    def check(self) -> None:
        """Raises what ended this call, if anything did.

        Raises:
            CancelledError: the caller went away.
            DeadlineError: the deadline passed.
        """
        if self._cancelled:
            raise CancelledError("the caller cancelled the request")
        if self.over:
            raise DeadlineError("the deadline passed before the answer was there")

    def cancel(self) -> None:
        """Marks the caller as gone and wakes who waits on its behalf. Any thread, any number of times."""
        # Written before the waker is read, as watch() does the reverse: one of the two always sees the other.
        self._cancelled = True
        waker = self._waker
        if waker is not None:
            waker()

    def watch(self, waker: Callable[[], None]) -> None:
        """Has ``waker`` called on cancellation (at once if that was before). It must stand being called twice."""
        self._waker = waker
        if self._cancelled:
            waker()
