"""One model version of the engine process, as a front asks it."""

import itertools
import math
import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.backend import ENCODING
from serving.call import Call
from serving.errors import CancelledError, DeadlineError, InferenceError, RequestError, UnavailableError
from serving.manifest import TensorSpec
from serving.metrics import ModelMetrics
from serving.processes.arena import Arena
from serving.processes.link import Link, LinkLostError
from serving.processes.messages import Answer, Entry, Place
from serving.servable import Servable
from serving.ticket import Array, Rows

_KEYS = itertools.count()


class RemoteServable(Servable):
    """One model version of the engine process.

    Args:
        entry: what it is.
        link: to the engine process.
        arena: the memory shared with it.
        metrics: where its requests are noted.
    """

    def __init__(self, entry: Entry, link: Link, arena: Arena, metrics: ModelMetrics) -> None:
        super().__init__(entry.manifest, entry.limits, metrics, entry.fingerprint, entry.provider, entry.decodes)
        self.number = entry.number
        self.link = link
        self._arena = arena

    def infer(self, inputs: Mapping[str, Array], outputs: tuple[str, ...], call: Call) -> Rows:
        """See ``Servable.infer``."""
        call.check()
        with _Room(self._arena) as room:
            taken = [room.lay_down(name, array) for name, array in inputs.items()]
            wanted = [room.make_way(name, *self._form(name, inputs)) for name in outputs]
            key = next(_KEYS)
            pending = _Pending(room)
            # From here on the room is the engine's until it answers.
            room.lend()
            self.link.begin(
                pending.settle,
                "infer",
                key,
                self.number,
                taken,
                wanted,
                call.deadline,
                call.priority,
                time.monotonic(),
                call.trace,
            )
            call.watch(lambda: self.link.tell("cancel", key))
            answer = pending.wait(call)
            if answer is None:
                self.link.tell("cancel", key)
                raise DeadlineError("the deadline passed before the answer was there")
            call.batch = answer.batch
            arrays = {place.name: room.hand_out(place) for place in wanted}
            return Rows(arrays, answer.queue_seconds, answer.inference_seconds, answer.batch_rows)

    def close(self, timeout: float | None = None) -> None:
        """Nothing: the engine closes what it has."""
        del timeout

    def _form(self, name: str, inputs: Mapping[str, Array]) -> tuple[npt.DTypeLike, tuple[int, ...]]:
        """An output's dtype and shape: where its spec leaves a size free, that of the input's axis of the same name."""
        spec = self.manifest.output(name)
        assert spec is not None  # asked before
        sizes: dict[str, int] = {}
        for given, array in inputs.items():
            sizes |= dict(zip(self._spec_of(given).axes, array.shape, strict=True))
        try:
            shape = tuple(sizes[axis] if size == -1 else size for axis, size in zip(spec.axes, spec.shape, strict=True))
        except KeyError as error:
            raise InferenceError(
                f"output {name!r} of {self.name} has a free axis {error} that no input has, so that no room can be"
                " kept for it: serve this model without --engine-process"
            ) from None
        return spec.numpy_dtype, shape

    def _spec_of(self, given: str) -> TensorSpec:
        spec = self.manifest.output(ENCODING) if given == ENCODING else self.manifest.image
        assert spec is not None  # asked before
        return spec


class _Room:
    """The shared memory of one request, given back when it is done with, whoever that is.

    Three hold it in turn: the caller while it lays down its rows, the engine until it has answered, and the arrays of
    the answer until the last of them is gone.
    """

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._inputs: list[int] = []
        self._outputs: list[int] = []
        self._lent = False

    def __enter__(self) -> "_Room":
        return self

    def __exit__(self, *_: object) -> None:
        if not self._lent:
            self.end()

    def lay_down(self, name: str, array: Array) -> Place:
        """Copies an input into shared memory."""
        offset = self._arena.reserve(array.nbytes)
        self._inputs.append(offset)
        np.copyto(self._arena.array(offset, array.dtype, array.shape), array)
        return Place(name, offset, array.dtype.str, array.shape)

    def make_way(self, name: str, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> Place:
        """Keeps room for an output."""
        kind = np.dtype(dtype)
        offset = self._arena.reserve(math.prod(shape) * kind.itemsize)
        self._outputs.append(offset)
        return Place(name, offset, kind.str, shape)

    def lend(self) -> None:
        """The engine has it now; see ``_Pending`` for how it comes back."""
        self._lent = True

    def hand_out(self, place: Place) -> Array:
        """An output, as an array that lies in shared memory; the room is free when it and its views are gone."""
        array = self._arena.array(place.offset, place.dtype, place.shape)
        self._outputs.remove(place.offset)
        weakref.finalize(array.base, self._arena.release, place.offset).atexit = False
        return array

    def end_inputs(self) -> None:
        """The engine has read them."""
        while self._inputs:
            self._arena.release(self._inputs.pop())

    def end(self) -> None:
        """Gives back what was not handed out."""
        self.end_inputs()
        while self._outputs:
            self._arena.release(self._outputs.pop())


class _Pending:
    """A request that the engine has; exactly one of the answer and the caller's patience decides."""

    def __init__(self, room: _Room) -> None:
        self._room = room
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._outcome: Any = None
        self._abandoned = False

    def settle(self, outcome: Any) -> None:
        """The engine's answer, on the link's thread."""
        with self._lock:
            self._outcome = outcome
            if self._abandoned or not isinstance(outcome, Answer):
                self._room.end()
            else:
                self._room.end_inputs()
        self._done.set()

    def wait(self, call: Call) -> Answer | None:
        """Waits for the answer; None when the deadline came first.

        Raises:
            RequestError: what the engine said, or UnavailableError when it is gone.
        """
        if not self._done.wait(call.remaining()):
            with self._lock:
                self._abandoned = self._outcome is None
            if self._abandoned:
                return None
        outcome = self._outcome
        if isinstance(outcome, Answer):
            return outcome
        if isinstance(outcome, LinkLostError):
            raise UnavailableError("the process that has the models ended while it had this request")
        if isinstance(outcome, DeadlineError | CancelledError):
            # Said by whoever noticed first; the caller's own word counts.
            call.check()
        if isinstance(outcome, RequestError):
            raise outcome
        raise InferenceError("the engine process failed") from outcome
