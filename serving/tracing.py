"""Traces by OpenTelemetry, through batching. The only module that knows the library, and imports it only when asked.

    Encode                     the request: in the trace of its caller's traceparent, or in one of its own
    ├── decode                 bytes -> model input
    ├── queue                  waiting for the model
    ├── inference              the run that held it; linked to its batch
    └── encode                 model output -> answer
    batch                      one run, in a trace of its own; linked to each request whose rows it held

A stream has a span too, and each of its messages is a request within it. Spans of phases are made when the request
ends, from the timings that its response, log and metrics show: until then a traced request only carries a string, the
W3C traceparent of its span, which also is what travels between processes.
"""

import os
import re
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from serving.call import Call
from serving.errors import MissingExtraError

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_SAMPLED = 1
# By OpenTelemetry's conventions for gRPC, these are the server's fault: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED,
# INTERNAL, UNAVAILABLE and DATA_LOSS.
_FAULTS = {2, 4, 12, 13, 14, 15}


class Tracer:
    """Sends spans to a collector, from a thread of its own.

    Args:
        endpoint: of the collector, ``http://host:port`` or ``https://host:port`` (OTLP over gRPC). Its headers and
            certificates come from the ``OTEL_EXPORTER_OTLP_*`` variables, what is to be told of this service from
            ``OTEL_RESOURCE_ATTRIBUTES`` and ``OTEL_SERVICE_NAME``.
        ratio: share of requests traced, in [0, 1], where their caller did not decide it.
        version: of Sparsewalk.

    Raises:
        MissingExtraError: OpenTelemetry is not installed.
    """

    def __init__(self, endpoint: str, ratio: float, version: str) -> None:
        try:
            from opentelemetry import context, trace
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import OTELResourceDetector, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, TraceIdRatioBased
        except ImportError as error:
            raise MissingExtraError(
                "--trace-endpoint needs OpenTelemetry: pip install 'sparsewalk[tracing]'. Received:"
                f" no module {error.name}"
            ) from None
        self._api = trace
        self._no_parent = context.Context()
        ours: dict[str, Any] = {"service.name": "sparsewalk", "service.version": version, "process.pid": os.getpid()}
        resource = Resource.create(ours).merge(OTELResourceDetector().detect())
        self._exporter: Any = OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"))
        self._processor: Any = BatchSpanProcessor(self._exporter)  # its methods have no types
        # Of batches those are told that held a request which is: nobody else decides on them.
        self._requests, self._batches = (
            self._make(TracerProvider(resource=resource, sampler=sampler, shutdown_on_exit=False), version)
            for sampler in (ParentBased(TraceIdRatioBased(ratio)), ALWAYS_ON)
        )
        # From time.monotonic(), by which we measure, to the nanoseconds since 1970 that spans have.
        self._origin = time.time_ns() - time.monotonic_ns()

    def begin(self, method: str, parent: str | None) -> "Span":
        """Begins the span of a request or a stream.

        Args:
            method: the RPC's name.
            parent: W3C traceparent of what it is part of, as it came; one that is none is as good as None.
        """
        api = self._api
        found = self._read(parent)
        within = self._no_parent if found is None else api.set_span_in_context(api.NonRecordingSpan(found))
        started = time.monotonic()
        span = self._requests.start_span(
            method, within, api.SpanKind.SERVER, {"rpc.system": "grpc", "rpc.method": method}, (), self._time(started)
        )
        return Span(self, span, _write(span.get_span_context()), started)

    def ran(
        self, calls: Sequence[Call], model: str, version: int, rows: int, padding: int, started: float, ended: float
    ) -> None:
        """Tells of one run, and those calls that are traced of which run they were part.

        Args:
            calls: whose rows the run held.
            model: its name.
            version: its number.
            rows: those of the callers.
            padding: rows filled in.
            started: by ``time.monotonic()``, as ``ended``.
            ended: when the outputs were there.
        """
        traced = [(call, context) for call in calls if (context := self._read(call.trace)) and context.trace_flags & 1]
        if not traced:
            return
        attributes = {
            **_of_model(model, str(version)),
            "sparsewalk.batch.rows": rows,
            "sparsewalk.batch.padding": padding,
            "sparsewalk.batch.requests": len(calls),
        }
        links = [self._api.Link(context) for _, context in traced]
        batch = self._span(self._batches, "batch", self._no_parent, attributes, links, started, ended)
        for call, _ in traced:
            call.batch = batch

    def end(
        self, span: Any, started: float, call: Call, model: tuple[str, str] | None, status: int, error: str
    ) -> None:
        """Ends a span of ``begin``; see ``Span.end``."""
        if not span.is_recording():
            return
        ended = time.monotonic()
        span.set_attributes({"rpc.grpc.status_code": status, "sparsewalk.request_id": call.request_id})
        if model is not None:
            span.set_attributes(_of_model(*model))
        if status in _FAULTS:
            span.set_status(self._api.StatusCode.ERROR, error)
        if call.answered is not None:
            _, _, rows, timings = call.answered
            span.set_attribute("sparsewalk.rows", rows)
            within = self._api.set_span_in_context(span, self._no_parent)
            decoded = started + timings.decode
            taken = decoded + timings.queue
            batch = self._read(call.batch)
            links = [] if batch is None else [self._api.Link(batch)]
            self._span(self._requests, "decode", within, {}, [], started, decoded)
            self._span(self._requests, "queue", within, {}, [], decoded, taken)
            self._span(self._requests, "inference", within, {}, links, taken, taken + timings.inference)
            # To the end: what the engine had ready is made into a message there.
            answer = started + timings.total - timings.postprocess
            self._span(self._requests, "encode", within, {}, [], min(answer, ended), ended)
        span.end(self._time(ended))

    def close(self, seconds: float) -> None:
        """Sends what is left, at most for so many seconds."""
        # It sends what is left, but knows no limit that holds while the collector is away.
        closing = threading.Thread(target=self._processor.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(seconds)
        if closing.is_alive():
            # A call that still tries to connect while the interpreter ends can keep the process from ending.
            self._exporter.shutdown(timeout_millis=0)
            closing.join(1.0)

    def _make(self, provider: Any, version: str) -> Any:
        provider.add_span_processor(self._processor)
        return provider.get_tracer("sparsewalk", version)

    def _span(
        self, tracer: Any, name: str, within: Any, attributes: Any, links: Any, started: float, ended: float
    ) -> str:
        span = tracer.start_span(
            name, within, self._api.SpanKind.INTERNAL, attributes, links, start_time=self._time(started)
        )
        span.end(self._time(ended))
        return _write(span.get_span_context())

    def _read(self, traceparent: str | None) -> "SpanContext | None":
        match = _TRACEPARENT.fullmatch(traceparent or "")
        if match is None:
            return None
        trace, span, flags = (int(part, 16) for part in match.groups())
        found = self._api.SpanContext(trace, span, is_remote=True, trace_flags=self._api.TraceFlags(flags & _SAMPLED))
        return found if found.is_valid else None

    def _time(self, seconds: float) -> int:
        return self._origin + round(seconds * 1e9)


class Span:
    """A request's or a stream's, from its begin to its end.

    Attributes:
        context: its W3C traceparent.
    """

    __slots__ = ("_span", "_started", "_tracer", "context")

    def __init__(self, tracer: Tracer, span: Any, context: str, started: float) -> None:
        self._tracer = tracer
        self._span = span
        self._started = started
        self.context = context

    def end(self, call: Call, model: tuple[str, str] | None, status: int, error: str = "") -> None:
        """Ends it, and tells of its phases.

        Args:
            call: the request.
            model: name and version, of those that there are; None for a stream.
            status: the number of the gRPC status.
            error: what the caller was told, where it failed.
        """
        self._tracer.end(self._span, self._started, call, model, status, error)


def _of_model(name: str, version: str) -> dict[str, Any]:
    return {"sparsewalk.model": name, "sparsewalk.version": version}


def _write(context: "SpanContext") -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & _SAMPLED:02x}"
