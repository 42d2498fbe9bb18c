"""How a request meets the engine, whatever the protocol: patience, limits, counting, and errors as gRPC statuses."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, TypeVar

import grpc

from serving.call import Call
from serving.errors import (
    INTERNAL,
    AlreadyExistsError,
    AnswerTooLargeError,
    CancelledError,
    DeadlineError,
    ForbiddenError,
    InferenceError,
    InvalidInputError,
    LoadError,
    NotFoundError,
    OverloadedError,
    RequestError,
    TooManyRequestsError,
    TooManyStreamsError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
    quote,
)
from serving.metrics import UNKNOWN, Metrics
from serving.servicers.journal import Journal
from serving.servicers.streams import Stream
from serving.shelf import Shelf, Version

Answer = TypeVar("Answer")
Request = TypeVar("Request")

# Name and version of a model, as the client wrote them.
Asked = tuple[str, Version]

_OK = grpc.StatusCode.OK
_STOPPING = "the server is stopping"
# The stop waits for so many looks in a row without anybody, at most so long. More than one: this process may get little
# of its cores.
_LOOKS, _LOOK_SECONDS, _SETTLE_SECONDS = 5, 0.02, 0.5
_HOLD_SECONDS = 1.0

_log = logging.getLogger(__name__)

# The one table from our errors to gRPC; an error not in it takes the row of its nearest ancestor.
# A full queue is RESOURCE_EXHAUSTED rather than UNAVAILABLE, which clients retry at once and so feed the overload.
STATUS: dict[type[RequestError], grpc.StatusCode] = {
    InvalidInputError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    ForbiddenError: grpc.StatusCode.PERMISSION_DENIED,
    UnsupportedError: grpc.StatusCode.UNIMPLEMENTED,
    LoadError: grpc.StatusCode.FAILED_PRECONDITION,
    OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    AnswerTooLargeError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
    CancelledError: grpc.StatusCode.CANCELLED,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
    InferenceError: grpc.StatusCode.INTERNAL,
}


def status_of(error: BaseException) -> grpc.StatusCode:
    """The gRPC status of an error; INTERNAL for one that the table does not know."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), grpc.StatusCode.INTERNAL)


class Reception:
    """Takes requests in, for every servicer.

    Args:
        shelf: names the models under which requests are counted.
        metrics: where they are counted.
        max_in_flight: most requests at once, and most open streams; one more is refused at once. The server has a few
            threads more than this, so that refusals and health checks are answered however busy it is.
        window: most requests of one stream under way at once. Further ones are not read, and so held back at their
            sender by the connection's flow control.
        journal: where they are noted one by one; None: nowhere.
        max_message_bytes: of the largest answer that gRPC sends; None: any.
    """

    def __init__(
        self,
        shelf: Shelf,
        metrics: Metrics,
        max_in_flight: int,
        window: int = 16,
        journal: Journal | None = None,
        max_message_bytes: int | None = None,
    ) -> None:
        self._journal = journal or Journal()
        self._shelf = shelf
        self._metrics = metrics
        self._max_in_flight = max_in_flight
        self._max_message_bytes = max_message_bytes
        self._window = window
        self._in_flight = 0
        self._pool = ThreadPoolExecutor(max_in_flight, thread_name_prefix="stream")
        self._open = 0
        self._came = 0
        self._streams: set[Stream[Any]] = set()
        self._leaving = False
        self._draining = False
        self._dismissed = threading.Event()
        # The lock on its own, for those who need not wait: taking it through the condition costs more.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        metrics.watch_in_flight(lambda: self._in_flight)

    def answer(
        self, method: str, model: Asked, context: grpc.ServicerContext, work: Callable[[Call], Answer]
    ) -> Answer:
        """Does the work of one request, or ends it with a status.

        Args:
            method: the RPC's name, for the counter.
            model: name and version asked for, as the client wrote them.
            context: of the RPC.
            work: what to do; it gets the caller's patience.
        """
        call = self._open_call(context)
        try:
            return self._attempt(method, model, call, work, new=True)
        except _RefusedError as refusal:
            context.abort(refusal.status, refusal.text)

    def stream(
        self,
        method: str,
        context: grpc.ServicerContext,
        requests: Iterator[Request],
        prepare: Callable[[Request], tuple[Asked, Callable[[Call], Answer]]],
        refuse: Callable[[Request, grpc.StatusCode, str], Answer],
    ) -> Iterator[Answer]:
        """Answers the requests of a stream, in order, several of them under way at once.

        Args:
            method: the RPC's name, for the counter.
            context: of the RPC.
            requests: as they come.
            prepare: gives the model asked for, and the work, of one request.
            refuse: the answer to a request that fails; the stream goes on.
        """
        ended = self._open_call(context)

        def one(request: Request, call: Call) -> Answer:
            call.request_id, call.trace = ended.request_id, ended.trace
            try:
                model, work = prepare(request)
                return self._attempt(method, model, call, work, new=False)
            except _RefusedError as refusal:
                return refuse(request, refusal.status, refusal.text)

        stream = Stream(requests, one, self._pool, self._window, ended.deadline)
        with self._changed:
            full = len(self._streams) >= self._max_in_flight
            if not full:
                self._streams.add(stream)
            if self._draining:
                stream.drain()
        if full:
            error = TooManyStreamsError(f"the server has {self._max_in_flight} open streams")
            self._metrics.count(UNKNOWN, UNKNOWN, method, status_of(error).name)
            self._metrics.refused(UNKNOWN, UNKNOWN, error.reason)
            status = status_of(error)
            self._journal.end(None, ended, method, (UNKNOWN, UNKNOWN), status, time.monotonic(), str(error))
            context.abort(status, str(error))
        span = self._journal.begin(method, ended)
        ended.watch(stream.cancel)
        try:
            yield from stream.answers()
        finally:
            with self._changed:
                self._streams.discard(stream)
            status = grpc.StatusCode.UNAVAILABLE if stream.drained else grpc.StatusCode.OK
            self._journal.end_stream(span, ended, grpc.StatusCode.CANCELLED if ended.cancelled else status)
        if stream.drained:
            self._hold(ended)
            context.abort(status, _STOPPING)

    def turn_away(self, method: str, context: grpc.ServicerContext, error: RequestError) -> NoReturn:
        """Ends a call that was not let in.

        Args:
            method: ``/service/Method``, one that there is.
            context: of the RPC.
            error: why.
        """
        call, name, status = Call(), method.rpartition("/")[2], status_of(error)
        self._journal.open(call, context)
        call.trace = None  # strangers do not decide what is traced
        self._journal.end(None, call, name, (UNKNOWN, UNKNOWN), status, time.monotonic(), str(error))
        self._metrics.count(UNKNOWN, UNKNOWN, name, status.name)
        self._metrics.refused(UNKNOWN, UNKNOWN, error.reason)
        context.abort(status, str(error))

    @property
    def leaving(self) -> bool:
        """Whether callers are to go elsewhere, though they are still answered."""
        return self._leaving

    def leave(self) -> None:
        """Has callers go elsewhere, as far as they ask."""
        self._leaving = True

    def drain(self) -> None:
        """Refuses new requests, and ends every stream as soon as those that it has read are answered.

        Who is refused is told so only after ``dismiss``: he may try again at once, and gRPC cancels whatever comes just
        as it is stopped.
        """
        with self._changed:
            self._draining = True
            for stream in self._streams:
                stream.drain()

    def settle(self) -> None:
        """Waits after ``drain`` until nobody comes or is answered any more, at most half a second."""
        end, looks = time.monotonic() + _SETTLE_SECONDS, 0
        while looks < _LOOKS and time.monotonic() < end:
            came = self._came
            time.sleep(_LOOK_SECONDS)
            looks = 0 if self._in_flight or self._came != came else looks + 1

    def dismiss(self) -> None:
        """Lets those go who were refused; called when gRPC is stopping."""
        self._dismissed.set()

    def wait_idle(self, timeout: float) -> bool:
        """Waits until every request is answered, its answer sent; returns whether that was within so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._open == 0, timeout)

    def close(self) -> None:
        """Ends the threads of the streams."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _open_call(self, context: grpc.ServicerContext) -> Call:
        remaining = context.time_remaining()
        call = Call(None if remaining is None else time.monotonic() + remaining)

        def on_end() -> None:
            call.cancel()
            with self._lock:
                self._open -= 1
                if not self._open:
                    self._changed.notify_all()

        with self._lock:
            self._open += 1
            self._came += 1
        self._journal.open(call, context)
        # gRPC calls back when the answer is sent, or the caller is gone; False: it is gone already.
        if not context.add_callback(on_end):
            on_end()
        return call

    def _attempt(self, method: str, model: Asked, call: Call, work: Callable[[Call], Answer], *, new: bool) -> Answer:
        """Does the work of one request and counts it.

        Args:
            method: see ``answer``, as for the next three.
            model: name and version.
            call: of the request.
            work: what to do.
            new: whether it may be refused because the server stops; one that a stream has read may not.

        Raises:
            _RefusedError: whatever went wrong, as the caller is told.
        """
        started = time.monotonic()
        span = self._journal.begin(method, call)
        try:
            answer = self._admit(call, work, new)
        except Exception as error:
            status = status_of(error)
            names = self._count(method, model, status)
            self._metrics.refused(*names, error.reason if isinstance(error, RequestError) else INTERNAL)
            self._shelf.failed(*model, time.monotonic() - started)
            told = _tell(method, model, call, status, error)
            self._journal.end(span, call, method, names, status, started, told)
            raise _RefusedError(status, told) from None
        self._journal.end(span, call, method, self._count(method, model, _OK), _OK, started)
        return answer

    def _admit(self, call: Call, work: Callable[[Call], Answer], new: bool) -> Answer:
        if new and self._draining:
            self._hold(call)
            raise UnavailableError(_STOPPING)
        with self._lock:
            if self._in_flight >= self._max_in_flight:
                raise TooManyRequestsError(f"the server is busy with {self._max_in_flight} requests")
            self._in_flight += 1
        try:
            answer = work(call)
            self._check_size(answer)
            return answer
        finally:
            with self._lock:
                self._in_flight -= 1

    def _check_size(self, answer: Any) -> None:
        """Refuses what gRPC would not send: it would say so to the caller alone, and in its own words."""
        most = self._max_message_bytes
        if most is not None and (size := answer.ByteSize()) > most:
            raise AnswerTooLargeError(
                f"an answer has at most {most} bytes (--max-message-bytes), and this one {size}: ask for fewer rows or"
                " outputs, or for a mask in another format or at the model's size"
            )

    def _hold(self, call: Call) -> None:
        """See ``drain``; whoever is in a hurry is told in time."""
        left = _HOLD_SECONDS if call.deadline is None else (call.deadline - time.monotonic()) / 2
        self._dismissed.wait(min(_HOLD_SECONDS, left))

    def _count(self, method: str, model: Asked, status: grpc.StatusCode) -> tuple[str, str]:
        """Counts one answer; returns the labels of model and version."""
        name, version = self._shelf.names(*model)
        self._metrics.count(name, version, method, status.name)
        return name, version


class _RefusedError(Exception):
    """One request's end: what the caller is told."""

    def __init__(self, status: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def _tell(method: str, model: Asked, call: Call, status: grpc.StatusCode, error: Exception) -> str:
    if status is grpc.StatusCode.INTERNAL:
        # What went wrong inside is for us to read; the client gets what finds it again.
        _log.error("request %s: %s of %s failed", call.request_id, method, quote(model[0]), exc_info=error)
        return f"internal error; request id {call.request_id}"
    return str(error)
