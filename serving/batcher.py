"""The dynamic batcher: joins what waits for one model into one run, and sends each row home.

* No added delay: when the model is free it takes what is there, and nothing waits for company.
* Only requests with equal shapes and the same outputs share a run; the oldest request always goes first.
* A run never holds more than ``max_batch_size`` rows. A request with more is refused, not split: the caller knows
  best how to cut it, and its parts then compete fairly with everyone else's.
* The queue is bounded and refuses at once when full.
* A cancelled or expired request leaves the queue at once, and its slot is free; it never reaches the model.
* One run at a time. Runs happen on one thread of the batcher's, since CUDA keeps streams and memory per calling
  thread. Where that does not matter (``caller_runs``), a request that finds the model idle runs on its caller's
  thread instead: two thread switches cost more than a small encoder's whole run.

Left out on purpose: waiting for a fuller batch, padding to fixed sizes, priorities.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.call import Call
from serving.errors import (
    CancelledError,
    DeadlineError,
    InferenceError,
    InvalidInputError,
    OverloadedError,
    RequestError,
    UnavailableError,
)

Array = npt.NDArray[Any]
Run = Callable[[Mapping[str, Array], tuple[str, ...]], list[Array]]


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
    """A place in the queue; ``result()`` waits for the rows."""

    __slots__ = ("_batcher", "_done", "_outcome", "call", "inputs", "key", "rows", "submitted")

    def __init__(self, batcher: "DynamicBatcher", inputs: Mapping[str, Array], outputs: tuple[str, ...], call: Call):
        self._batcher = batcher
        self._done = threading.Event()
        self._outcome: Rows | Exception | None = None
        self.call = call
        self.inputs = inputs
        self.key = (outputs, tuple((name, array.dtype, array.shape[1:]) for name, array in inputs.items()))
        self.rows = _count_rows(inputs)
        self.submitted = time.monotonic()

    def result(self) -> Rows:
        """Waits for the rows, at most until the call's deadline.

        Raises:
            CancelledError: the caller went away.
            DeadlineError: the deadline passed; the model may still be busy with others or with this.
            UnavailableError: the batcher closed before the run.
            InferenceError: the run failed; the cause is attached.
        """
        if not self._done.wait(self.call.remaining()):
            self._batcher.withdraw(self)
        outcome = self._outcome
        if isinstance(outcome, Rows):
            return outcome
        if isinstance(outcome, RequestError):
            raise outcome
        raise self._batcher.failure() from outcome

    def settle(self, outcome: Rows | Exception) -> None:
        """Sets the outcome; the first one counts. Called with the batcher's lock held."""
        if self._outcome is None:
            self._outcome = outcome
            self._done.set()


class DynamicBatcher:
    """Joins requests for one model.

    Args:
        run: maps (name -> array [rows, ...], output names) to the outputs in that order; never called twice at once.
        name: of the model, for messages and the thread.
        max_batch_size: most rows in one run.
        max_queue_size: most requests waiting; those in the run under way do not count.
        caller_runs: whether ``run`` may be called on any thread, and so on that of a caller who finds the model idle.
        on_batch: told the number of rows before each run.
    """

    def __init__(
        self,
        run: Run,
        *,
        name: str,
        max_batch_size: int,
        max_queue_size: int,
        caller_runs: bool,
        on_batch: Callable[[int], None],
    ) -> None:
        self.name = name
        self.max_batch_size = max_batch_size
        self.max_queue_size = max_queue_size
        self._run = run
        self._caller_runs = caller_runs
        self._on_batch = on_batch
        self._waiting: deque[Ticket] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._busy = False
        self._closing = False
        self._thread = threading.Thread(target=self._work, name=f"run-{name}", daemon=True)

    def start(self) -> None:
        """Starts the run thread."""
        self._thread.start()

    @property
    def depth(self) -> int:
        """Requests that wait now."""
        return len(self._waiting)

    def infer(self, inputs: Mapping[str, Array], outputs: tuple[str, ...], call: Call) -> Rows:
        """Runs one request and waits for its rows: ``submit`` and ``result`` in one, with the short cut when idle.

        Args:
            inputs: name -> array [rows, ...]; the same, positive number of rows in each.
            outputs: names of the outputs wanted.
            call: whose request it is.

        Raises:
            RequestError: see ``submit`` and ``Ticket.result``.
        """
        if not (self._caller_runs and self._seize()):
            return self.submit(inputs, outputs, call).result()
        try:
            call.check()
            rows = _count_rows(inputs)
            self._check_rows(rows)
            started = time.monotonic()
            try:
                results = self._compute(inputs, outputs, rows)
            except Exception as error:
                raise self.failure() from error
            return Rows(dict(zip(outputs, results, strict=True)), 0.0, time.monotonic() - started, rows)
        finally:
            self._yield()

    def submit(self, inputs: Mapping[str, Array], outputs: tuple[str, ...], call: Call) -> Ticket:
        """Queues one request.

        Args:
            inputs: name -> array [rows, ...]; the same, positive number of rows in each.
            outputs: names of the outputs wanted.
            call: whose request it is.

        Raises:
            InvalidInputError: more rows than ``max_batch_size``.
            OverloadedError: the queue is full.
            UnavailableError: the batcher is closed.
        """
        ticket = Ticket(self, inputs, outputs, call)
        self._check_rows(ticket.rows)
        with self._changed:
            if self._closing:
                raise UnavailableError(f"{self.name} is shutting down")
            if len(self._waiting) >= self.max_queue_size:
                raise OverloadedError(f"the queue of {self.name} is full ({self.max_queue_size} requests wait)")
            self._waiting.append(ticket)
            self._changed.notify()
        call.watch(lambda: self.withdraw(ticket))
        return ticket

    def withdraw(self, ticket: Ticket) -> None:
        """Ends a ticket whose caller went away or ran out of time, and frees its slot. Harmless when it has ended."""
        with self._changed:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            ticket.settle(_end_of(ticket.call))

    def close(self, timeout: float | None = None) -> None:
        """Takes no more requests, runs those that wait, and ends the run thread.

        Args:
            timeout: seconds for that; afterwards those still waiting get an UnavailableError.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)
        with self._changed:
            while self._waiting:
                self._waiting.popleft().settle(UnavailableError(f"{self.name} is shutting down"))

    def failure(self) -> InferenceError:
        """What callers are told when a run fails; the cause is attached by who raises it."""
        return InferenceError(f"the run of {self.name} failed")

    def _check_rows(self, rows: int) -> None:
        if rows > self.max_batch_size:
            raise InvalidInputError(
                f"{self.name} takes at most {self.max_batch_size} rows in one request. Received: {rows}"
            )

    def _seize(self) -> bool:
        """Takes the model for the calling thread if it is idle and no one waits."""
        with self._changed:
            if self._busy or self._waiting or self._closing:
                return False
            self._busy = True
            return True

    def _yield(self) -> None:
        """Gives the model back, to those who came meanwhile if there are any."""
        with self._changed:
            self._busy = False
            if self._waiting or self._closing:
                self._changed.notify()

    def _work(self) -> None:
        while batch := self._next_batch():
            try:
                self._execute(batch)
            finally:
                self._yield()

    def _next_batch(self) -> list[Ticket]:
        """Waits for work; an empty list means that the batcher is closed and drained."""
        with self._changed:
            while True:
                if not self._busy:
                    batch = self._gather()
                    if batch:
                        self._busy = True
                        return batch
                    if self._closing:
                        return []
                self._changed.wait()

    def _gather(self) -> list[Ticket]:
        """Takes the oldest live ticket and its equals, as far as they fit; drops the dead. The lock is held."""
        batch: list[Ticket] = []
        rest: deque[Ticket] = deque()
        rows, full = 0, False
        for ticket in self._waiting:
            if ticket.call.over:
                ticket.settle(_end_of(ticket.call))
            elif full or (batch and ticket.key != batch[0].key):
                rest.append(ticket)
            elif rows + ticket.rows > self.max_batch_size:
                # Equals stay in order: a smaller one behind does not overtake.
                full = True
                rest.append(ticket)
            else:
                batch.append(ticket)
                rows += ticket.rows
        self._waiting = rest
        return batch

    def _execute(self, batch: list[Ticket]) -> None:
        started = time.monotonic()
        names = batch[0].key[0]
        rows = sum(ticket.rows for ticket in batch)
        try:
            results = self._compute(_join(batch), names, rows)
        except Exception as error:
            with self._changed:
                for ticket in batch:
                    ticket.settle(error)
            return
        elapsed = time.monotonic() - started
        with self._changed:
            start = 0
            for ticket in batch:
                own = slice(start, start + ticket.rows)
                start = own.stop
                outputs = {name: array[own] for name, array in zip(names, results, strict=True)}
                ticket.settle(Rows(outputs, started - ticket.submitted, elapsed, rows))

    def _compute(self, inputs: Mapping[str, Array], names: tuple[str, ...], rows: int) -> list[Array]:
        self._on_batch(rows)
        results = self._run(inputs, names)
        for name, array in zip(names, results, strict=True):
            if array.shape[0] != rows:
                raise ValueError(f"output {name!r} has {array.shape[0]} rows where {rows} went in")
        return results


def _count_rows(inputs: Mapping[str, Array]) -> int:
    return int(next(iter(inputs.values())).shape[0])


def _join(batch: list[Ticket]) -> Mapping[str, Array]:
    if len(batch) == 1:
        return batch[0].inputs
    return {name: np.concatenate([ticket.inputs[name] for ticket in batch]) for name in batch[0].inputs}


def _end_of(call: Call) -> RequestError:
    if call.cancelled:
        return CancelledError("the caller cancelled the request")
    return DeadlineError("the deadline passed before the answer was there")
