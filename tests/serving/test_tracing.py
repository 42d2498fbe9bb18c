"""Traces of a real server process, as an OpenTelemetry collector gets them."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from serving.client import Client, ServiceError
from serving.pb.open_inference import grpc_service_pb2, grpc_service_pb2_grpc
from serving.pb.sparsewalk.v1 import encoder_pb2, encoder_pb2_grpc

Start = Callable[..., Any]
PICTURE = np.full((20, 20, 3), 200, np.uint8)
ROW = np.zeros((1, 784), np.float32)
PHASES = ["decode", "queue", "inference", "encode"]


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.services: set[str] = set()
        self._lock = threading.Lock()

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        del context
        with self._lock:
            for resource in request.resource_spans:
                told = {each.key: each.value.string_value for each in resource.resource.attributes}
                self.services.add(told["service.name"])
                self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def within(self, parent: Span) -> list[Span]:
        return [
            span for span in self.spans if place(span)[0] == place(parent)[0] and span.parent_span_id == parent.span_id
        ]


def place(span: Any) -> tuple[bytes, bytes]:
    """Where a span, or a link to one, points to."""
    return span.trace_id, span.span_id


def attributes(span: Span) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        made = Collector()
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(made, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        made.endpoint = f"http://127.0.0.1:{port}"  # type: ignore[attr-defined]
        yield made
        server.stop(0).wait()


def traceparent(number: int, sampled: bool = True) -> tuple[bytes, bytes, str]:
    """A caller's trace and span, as bytes and as the header."""
    trace, span = bytes([number] * 16), bytes([number] * 8)
    return trace, span, f"00-{trace.hex()}-{span.hex()}-{sampled:02x}"


def encode(channel: grpc.Channel, model: str, header: str | None) -> Any:
    stub = encoder_pb2_grpc.EncoderServiceStub(channel)  # type: ignore[no-untyped-call]
    tensor = encoder_pb2.Tensor(dtype=encoder_pb2.DATA_TYPE_FP32, shape=ROW.shape, data=ROW.tobytes())
    request = encoder_pb2.EncodeRequest(
        model=encoder_pb2.ModelSpec(name=model), picture=encoder_pb2.Picture(tensor=tensor)
    )
    metadata = [] if header is None else [("traceparent", header)]
    return stub.Encode(request, timeout=20, metadata=metadata)


def infer_within(channel: grpc.Channel, model: str, microseconds: int) -> Any:
    """Asks with a limit that the server keeps, so that the caller is still there when it is over."""
    stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
    request = grpc_service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[ROW.tobytes()])
    request.inputs.add(name="image", datatype="FP32", shape=ROW.shape)
    request.parameters["timeout"].int64_param = microseconds
    return stub.ModelInfer(request, timeout=20)


def check_phases(collector: Collector, request: Span) -> Span:
    """Holds a request's phases to their order and to its own time; gives back that of the inference."""
    phases = sorted(collector.within(request), key=lambda span: PHASES.index(span.name))
    assert [span.name for span in phases] == PHASES
    times = [each for span in phases for each in (span.start_time_unix_nano, span.end_time_unix_nano)]
    assert times == sorted(times)
    assert request.start_time_unix_nano <= times[0]
    assert times[-1] <= request.end_time_unix_nano
    return phases[2]


@pytest.mark.parametrize("processes", [[], ["--workers", "2", "--engine-process", "true"]], ids=["one", "several"])
def test_a_batch_is_linked_to_each_of_its_requests(start: Start, collector: Any, processes: list[str]) -> None:
    # A run waits for six rows: nothing is left to chance, whichever process a caller gets to.
    limits = ["--max-batch-size", "6", "--max-queue-delay-microseconds", "20000000"]
    running = start(None, "--trace-endpoint", collector.endpoint, *limits, *processes)
    headers = [None, *(traceparent(number, sampled=number != 3)[2] for number in range(1, 6))]

    def ask(header: str | None) -> None:
        with grpc.insecure_channel(running.target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            encode(channel, "digits", header)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, headers))
    code, errors = running.stop()
    assert code == 0, errors

    requests = {span.trace_id: span for span in collector.named("Encode")}
    (batch,) = collector.named("batch")
    told = {"model": "digits", "version": "1", "batch.rows": 6, "batch.padding": 0, "batch.requests": 6}
    assert attributes(batch) == {f"sparsewalk.{name}": value for name, value in told.items()}
    assert not batch.parent_span_id
    assert batch.trace_id not in requests
    # All but the one whose caller did not want it traced; for the first one we decided.
    assert sorted(map(place, batch.links)) == sorted(map(place, requests.values()))
    assert {trace for trace in requests if trace[:1] * 16 == trace} == {traceparent(each)[0] for each in (1, 2, 4, 5)}
    assert len(requests) == 5
    for trace, request in requests.items():
        assert request.kind == Span.SPAN_KIND_SERVER
        assert request.parent_span_id == (trace[:8] if trace[:1] * 16 == trace else b"")
        assert [place(link) for link in check_phases(collector, request).links] == [place(batch)]
        told = attributes(request)
        assert (told["sparsewalk.model"], told["sparsewalk.version"], told["sparsewalk.rows"]) == ("digits", "1", 1)
        assert (told["rpc.system"], told["rpc.method"], told["rpc.grpc.status_code"]) == ("grpc", "Encode", 0)
    assert collector.services == {"sparsewalk"}


def test_a_stream_has_a_span_and_its_messages_are_within(start: Start, collector: Any) -> None:
    running = start(None, "--trace-endpoint", collector.endpoint)
    with Client(running.target) as client:
        assert len(list(client.segment_stream([PICTURE, b"no picture", PICTURE], "red"))) == 3
    running.stop()
    spans = collector.named("SegmentStream")
    (stream,) = (span for span in spans if not span.parent_span_id)
    messages = collector.within(stream)
    assert len(spans) == 4
    assert sorted(attributes(span)["rpc.grpc.status_code"] for span in messages) == [0, 0, 3]
    assert len({attributes(span)["sparsewalk.request_id"] for span in spans}) == 1
    for message in messages:
        if attributes(message)["rpc.grpc.status_code"] == 0:
            check_phases(collector, message)
        # The caller's mistake is no fault of the server's.
        assert message.status.code == Status.STATUS_CODE_UNSET


def test_a_request_that_runs_out_of_time_is_a_fault(start: Start, collector: Any) -> None:
    running = start(None, "--trace-endpoint", collector.endpoint)
    with grpc.insecure_channel(running.target) as channel, pytest.raises(grpc.RpcError):
        infer_within(channel, "digits", microseconds=1)
    running.stop()
    (request,) = collector.named("ModelInfer")
    assert request.status.code == Status.STATUS_CODE_ERROR
    assert request.status.message == "the deadline passed before the answer was there"
    assert attributes(request)["rpc.grpc.status_code"] == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]


def test_nobody_is_traced_unless_a_caller_wants_it(start: Start, collector: Any) -> None:
    logs = ["--log-format", "json", "--request-log-level", "info"]
    running = start(None, "--trace-endpoint", collector.endpoint, "--trace-sample-ratio", "0", *logs)
    wanted, _, header = traceparent(7)
    with grpc.insecure_channel(running.target) as channel:
        for each in (
            None,
            header,
            traceparent(8, sampled=False)[2],
            "nonsense",
            "00-" + "0" * 32 + "-" + "0" * 16 + "-01",
        ):
            encode(channel, "digits", each)
    _, errors = running.stop()
    assert [span.trace_id for span in collector.named("Encode")] == [wanted]
    assert len(collector.named("batch")) == 1
    records = [record for line in errors.splitlines() if (record := json.loads(line))["logger"] == "serving.requests"]
    assert len(records) == 5
    assert [record["trace_id"] for record in records if "trace_id" in record] == [wanted.hex()]


def test_the_operators_variables_tell_of_the_service(
    start: Start, collector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "pedestrians-eu")
    running = start(None, "--trace-endpoint", collector.endpoint)
    with Client(running.target) as client:
        client.encode(ROW, "digits")
    running.stop()
    assert collector.services == {"pedestrians-eu"}


def test_a_collector_that_is_not_there_holds_nothing_up(start: Start) -> None:
    running = start(None, "--trace-endpoint", "http://127.0.0.1:1", "--grace-seconds", "2")
    with Client(running.target) as client:
        client.encode(ROW, "digits")
        with pytest.raises(ServiceError):
            client.encode(ROW, "nobody's")
    code, errors = running.stop()
    assert code == 0, errors
    assert "Traceback" not in errors


def test_without_the_extra_the_server_says_what_to_install(
    models: Path, tmp_path: Path, fail_to_start: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "opentelemetry.py").touch()  # in front of the installed one, and empty
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    code, out, errors = fail_to_start(models, "--trace-endpoint", "http://localhost:4317")
    assert (code, out) == (1, "")
    told = "error: --trace-endpoint needs OpenTelemetry: pip install 'sparsewalk[tracing]'. Received: "
    assert errors.splitlines()[-1].startswith(told)
