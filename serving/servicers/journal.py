"""What is told of each request beside its answer: an id, a line in the log, a trace."""

import logging
import re
import secrets
import time
from typing import Any

import grpc

from serving.call import Call
from serving.tracing import Span, Tracer

REQUEST_ID = "x-request-id"
_TRACEPARENT = "traceparent"
# The flags of a traceparent that can be found at the collector.
_SAMPLED = "-01"
# Visible characters, so that an id is one word of a log; and not too many, since it is sent back.
_USABLE_ID = re.compile(r"[\x21-\x7e]{1,128}")
_PHASES = ("decode", "queue", "inference", "postprocess", "total")

_log = logging.getLogger("serving.requests")


class Journal:
    """Notes requests.

    Args:
        level: at which a line is logged for each; None: no lines.
        tracer: where traces go; None: no traces.
    """

    def __init__(self, level: int | None = None, tracer: Tracer | None = None) -> None:
        self._level = level
        self._tracer = tracer

    def open(self, call: Call, context: grpc.ServicerContext) -> None:
        """Gives a call the id and the trace that its caller sent, or an id of its own; the caller is told the id."""
        for key, value in context.invocation_metadata() or ():
            if key == REQUEST_ID:
                call.request_id = value if isinstance(value, str) and _USABLE_ID.fullmatch(value) else ""
            elif key == _TRACEPARENT and self._tracer is not None and isinstance(value, str):
                call.trace = value
        if not call.request_id:
            call.request_id = secrets.token_hex(8)
        context.set_trailing_metadata(((REQUEST_ID, call.request_id),))

    def begin(self, method: str, call: Call) -> Span | None:
        """Begins the span of a request or a stream, within that of its caller, where there are traces."""
        if self._tracer is None:
            return None
        span = self._tracer.begin(method, call.trace)
        call.trace = span.context
        return span

    def end(
        self,
        span: Span | None,
        call: Call,
        method: str,
        model: tuple[str, str],
        status: grpc.StatusCode,
        started: float,
        error: str = "",
    ) -> None:
        """Notes how a request ended.

        Args:
            span: what ``begin`` gave.
            call: the request.
            method: the RPC's name.
            model: name and version, of those that there are.
            status: how it ended.
            started: when it began, by ``time.monotonic()``.
            error: what the caller was told, where it failed.
        """
        if span is not None:
            span.end(call, model, status.value[0], error)
        if self._level is not None and _log.isEnabledFor(self._level):
            _log.log(self._level, method, extra=_fields(call, model, status, started, error))

    def end_stream(self, span: Span | None, call: Call, status: grpc.StatusCode) -> None:
        """Notes how a stream ended; its requests have been noted one by one."""
        if span is not None:
            span.end(call, None, status.value[0])


def _fields(call: Call, model: tuple[str, str], status: grpc.StatusCode, started: float, error: str) -> dict[str, Any]:
    name, version = model
    fields: dict[str, Any] = {"request_id": call.request_id, "status": status.name, "model": name, "version": version}
    if call.trace is not None and call.trace.endswith(_SAMPLED):
        fields["trace_id"] = call.trace.split("-")[1]
    answered = call.answered
    if answered is None:
        fields["total_ms"] = _milliseconds(time.monotonic() - started)
    else:
        fields["rows"] = answered.rows
        fields |= {f"{phase}_ms": _milliseconds(getattr(answered.timings, phase)) for phase in _PHASES}
    if error:
        fields["error"] = error
    return fields


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1e3, 3)
