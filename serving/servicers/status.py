"""How a request meets the engine, whatever the protocol: patience, limits, counting, and errors as gRPC statuses."""

import logging
import threading
import time
import uuid
from collections.abc import Callable
from typing import NoReturn, TypeVar

import grpc

from serving.call import Call
from serving.engine import Engine
from serving.errors import (
    CancelledError,
    DeadlineError,
    InferenceError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    RequestError,
    UnavailableError,
    quote,
)
from serving.metrics import Metrics

Answer = TypeVar("Answer")

_log = logging.getLogger(__name__)

# The one table from our errors to gRPC; an error not in it takes the row of its nearest ancestor.
# A full queue is RESOURCE_EXHAUSTED rather than UNAVAILABLE, which clients retry at once and so feed the overload.
STATUS: dict[type[RequestError], grpc.StatusCode] = {
    InvalidInputError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
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
        engine: names the models under which requests are counted.
        metrics: where they are counted.
        max_in_flight: most requests at once; one more is refused at once. The server has a few threads more than
            this, so that refusals and health checks are answered however busy it is.
    """

    def __init__(self, engine: Engine, metrics: Metrics, max_in_flight: int) -> None:
        self._engine = engine
        self._metrics = metrics
        self._max_in_flight = max_in_flight
        self._slots = threading.BoundedSemaphore(max_in_flight)
        self._open = 0
        self._ended = threading.Condition()

    def answer(
        self,
        method: str,
        model: tuple[str, int | None],
        context: grpc.ServicerContext,
        work: Callable[[Call], Answer],
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
            answer = self._admit(call, work)
        except Exception as error:
            self._end(method, model, context, error)
        self._count(method, model, grpc.StatusCode.OK)
        return answer

    def wait_idle(self, timeout: float) -> bool:
        """Waits until every request is answered, its answer sent.

        Args:
            timeout: seconds.

        Returns:
            Whether they all were in time.
        """
        with self._ended:
            return self._ended.wait_for(lambda: self._open == 0, timeout)

    def _open_call(self, context: grpc.ServicerContext) -> Call:
        remaining = context.time_remaining()
        call = Call(None if remaining is None else time.monotonic() + remaining)

        def on_end() -> None:
            call.cancel()
            with self._ended:
                self._open -= 1
                self._ended.notify_all()

        with self._ended:
            self._open += 1
        # gRPC calls back when the answer is sent, or the caller is gone; False: it is gone already.
        if not context.add_callback(on_end):
            on_end()
        return call

    def _admit(self, call: Call, work: Callable[[Call], Answer]) -> Answer:
        if not self._slots.acquire(blocking=False):
            raise OverloadedError(f"the server is busy with {self._max_in_flight} requests")
        try:
            with self._metrics.in_flight.track_inprogress():
                return work(call)
        finally:
            self._slots.release()

    def _end(
        self, method: str, model: tuple[str, int | None], context: grpc.ServicerContext, error: Exception
    ) -> NoReturn:
        status = status_of(error)
        self._count(method, model, status)
        if status is grpc.StatusCode.INTERNAL:
            # What went wrong inside is for us to read; the client gets what finds it again.
            request = uuid.uuid4().hex[:12]
            _log.error("request %s: %s of %s failed", request, method, quote(model[0]), exc_info=error)
            context.abort(status, f"internal error; request id {request}")
        _log.debug("%s of %s: %s: %s", method, quote(model[0]), status.name, error)
        context.abort(status, str(error))

    def _count(self, method: str, model: tuple[str, int | None], status: grpc.StatusCode) -> None:
        name, version = self._engine.identify(*model)
        self._metrics.count(name, version, method, status.name)
