"""A place in a model's queue, and what comes back to it."""

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.call import Call
from serving.errors import CancelledError, DeadlineError, RequestError

Array = npt.NDArray[Any]

_ARRIVALS = itertools.count()


@dataclass(frozen=True, slots=True)
class Rows:
    """What one request gets back.

    Attributes:
        outputs: name -> array [rows, ...], the request's own rows.
        queue_seconds: from submission to the start of the run.
        inference_seconds: the run that held these rows, joining included.
        batch_rows: rows in that run, other callers' included.
    """

    outputs: dict[str, Array]
    queue_seconds: float
    inference_seconds: float
    batch_rows: int


class Ticket:
    """A place in the queue; ``result()`` waits for the rows.

    Args:
        inputs: name -> array [rows, ...].
        outputs: names of those wanted.
        call: whose request it is.
        most: rows in a run of such inputs.
        withdraw: takes the ticket out of the queue.
        submitted: when it began to wait, by ``time.monotonic()``; now where None.
        settled: called once, with the batcher's lock held, when there is an outcome.

    Attributes:
        key: what must be equal for two tickets to share a run.
        most: see above.
        place: in the queue: by priority, then by arrival.
        submitted: when, by ``time.monotonic()``.
        outcome: the rows, or why there are none; None until it is settled.
    """

    __slots__ = (
        "__weakref__",
        "_done",
        "_settled",
        "_withdraw",
        "call",
        "inputs",
        "key",
        "most",
        "outcome",
        "place",
        "rows",
        "submitted",
    )

    def __init__(
        self,
        inputs: Mapping[str, Array],
        outputs: tuple[str, ...],
        call: Call,
        most: int,
        withdraw: "Callable[[Ticket], None]",
        submitted: float | None = None,
        settled: "Callable[[Ticket], None] | None" = None,
    ) -> None:
        self._withdraw = withdraw
        self._settled = settled
        self._done = threading.Event()
        self.outcome: Rows | RequestError | None = None
        self.call = call
        self.inputs = inputs
        self.most = most
        self.key = (outputs, tuple((name, array.dtype, array.shape[1:]) for name, array in inputs.items()))
        self.place = (call.priority, next(_ARRIVALS))
        self.rows = count_rows(inputs)
        self.submitted = time.monotonic() if submitted is None else submitted

    def result(self) -> Rows:
        """Waits for the rows, at most until the call's deadline.

        Raises:
            CancelledError: the caller went away.
            DeadlineError: the deadline passed; the model may still be busy with others or with this.
            UnavailableError: the batcher closed before the run.
            InferenceError: the run failed; the cause is attached.
        """
        if not self._done.wait(self.call.remaining()):
            self._withdraw(self)
        if isinstance(self.outcome, Rows):
            return self.outcome
        assert self.outcome is not None  # withdrawing settles
        raise self.outcome

    def settle(self, outcome: Rows | RequestError) -> None:
        """Sets the outcome; the first one counts. Called with the batcher's lock held."""
        if self.outcome is None:
            self.outcome = outcome
            self._done.set()
            if self._settled is not None:
                self._settled(self)

    def expire(self) -> None:
        """Settles a ticket whose caller went away or ran out of time."""
        if self.call.cancelled:
            self.settle(CancelledError("the caller cancelled the request"))
        else:
            self.settle(DeadlineError("the deadline passed before the answer was there"))


def count_rows(inputs: Mapping[str, Array]) -> int:
    """The rows of a request: the first axis of its inputs."""
    return int(next(iter(inputs.values())).shape[0])


def join(parts: Sequence[Mapping[str, Array]], padding: int) -> Mapping[str, Array]:
    """The rows of several requests in one, and so many copies of the first row behind them."""
    if len(parts) == 1 and not padding:
        return parts[0]
    joined = {}
    for name, first in parts[0].items():
        arrays = [part[name] for part in parts]
        if padding:
            arrays.append(np.broadcast_to(first[:1], (padding, *first.shape[1:])))
        joined[name] = np.concatenate(arrays)
    return joined
