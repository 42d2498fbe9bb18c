"""The log of a real server process: a line for each request, for people or as JSON."""

import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from serving.client import Client, ServiceError
from serving.logs import TextFormatter
from serving.pb.sparsewalk.v1 import encoder_pb2, encoder_pb2_grpc

Start = Callable[..., Any]
PICTURE = np.full((20, 20, 3), 200, np.uint8)
ROWS = np.zeros((3, 784), np.float32)
PHASES = ("decode_ms", "queue_ms", "inference_ms", "postprocess_ms", "total_ms")
TOKEN = "token-of-today-0123456789"


def ask(stub: Any, request_id: str, model: str = "digits", **options: Any) -> Any:
    tensor = encoder_pb2.Tensor(dtype=encoder_pb2.DATA_TYPE_FP32, shape=ROWS.shape, data=ROWS.tobytes())
    request = encoder_pb2.EncodeRequest(
        model=encoder_pb2.ModelSpec(name=model), picture=encoder_pb2.Picture(tensor=tensor)
    )
    metadata = [("x-request-id", request_id), ("authorization", f"Bearer {TOKEN}")]
    return stub.Encode.with_call(request, timeout=10, metadata=metadata, **options)


@pytest.fixture
def stub() -> Iterator[Callable[[Any], Any]]:
    channels: list[grpc.Channel] = []

    def connect(running: Any) -> Any:
        channels.append(grpc.insecure_channel(running.target))
        return encoder_pb2_grpc.EncoderServiceStub(channels[-1])  # type: ignore[no-untyped-call]

    yield connect
    for channel in channels:
        channel.close()


def test_each_request_is_one_json_object(start: Start, stub: Callable[[Any], Any], tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(TOKEN)
    flags = ["--log-format", "json", "--request-log-level", "info", "--token-file", str(tmp_path / "tokens")]
    running = start(None, *flags)
    service = stub(running)
    _, call = ask(service, "first")
    assert ("x-request-id", "first") in [tuple(each) for each in call.trailing_metadata()]
    with pytest.raises(grpc.RpcError):
        ask(service, "second", "a model of nobody's")
    with Client(running.target) as client, pytest.raises(ServiceError) as caught:
        client.segment(PICTURE, "red")
    code, errors = running.stop()
    assert code == 0
    records = [json.loads(line) for line in errors.splitlines()]
    assert all({"time", "level", "logger", "message"} <= set(record) for record in records)
    assert records[0]["settings"]["log_format"] == "json"

    answered, unknown, refused = (record for record in records if record["logger"] == "serving.requests")
    assert all(answered[phase] >= 0 for phase in PHASES)
    assert answered["total_ms"] >= answered["inference_ms"] > 0
    told = {key: answered[key] for key in ("message", "level", "request_id", "status", "model", "version", "rows")}
    assert told == {
        "message": "Encode",
        "level": "INFO",
        "request_id": "first",
        "status": "OK",
        "model": "digits",
        "version": "1",
        "rows": 3,
    }
    assert (unknown["request_id"], unknown["status"], unknown["model"]) == ("second", "NOT_FOUND", "unknown")
    assert unknown["error"].startswith('no model "a model of nobody\'s". Known: digits')
    assert "rows" not in unknown
    assert (refused["message"], refused["status"]) == ("Segment", "UNAUTHENTICATED")
    assert refused["request_id"] == caught.value.request_id
    assert TOKEN not in errors
    assert "127.0.0.1:" not in "".join(map(str, (answered, unknown, refused)))


def test_the_same_for_people_and_for_each_message_of_a_stream(start: Start) -> None:
    running = start(None, "--request-log-level", "warning")
    with Client(running.target) as client:
        masks = list(client.segment_stream([PICTURE, b"no picture", PICTURE], "red"))
    assert isinstance(masks[1], ServiceError)
    _, errors = running.stop()
    lines = [line for line in errors.splitlines() if " WARNING serving.requests: " in line]
    assert len(lines) == 3
    pattern = (
        r"\S+ \S+ WARNING serving\.requests: SegmentStream request_id=([0-9a-f]{16}) status=OK model=red version=2"
        r" rows=1 decode_ms=[\d.]+ queue_ms=[\d.]+ inference_ms=[\d.]+ postprocess_ms=[\d.]+ total_ms=[\d.]+"
    )
    matches = [re.fullmatch(pattern, line) for line in lines]
    assert len({match[1] for match in matches if match}) == 1  # of the one stream
    failed = next(line for line, match in zip(lines, matches, strict=True) if not match)
    assert " status=INVALID_ARGUMENT model=red version=2 total_ms=" in failed
    assert " error=" in failed


@pytest.mark.parametrize("level", ["off", "debug"])
def test_none_is_logged_below_the_level(start: Start, level: str) -> None:
    running = start(None, "--request-log-level", level)
    with Client(running.target) as client:
        client.encode(ROWS, "digits")
    assert "serving.requests" not in running.stop()[1]


def test_what_keeps_the_server_from_starting_is_json_too(tmp_path: Path, fail_to_start: Any) -> None:
    code, _, errors = fail_to_start(tmp_path, "--log-format", "json")
    last = json.loads(errors.splitlines()[-1])
    assert (code, last["level"]) == (1, "ERROR")
    assert last["message"].startswith(f"{tmp_path}: the model repository is empty")


def test_a_traceback_follows_the_fields() -> None:
    try:
        raise KeyError("x")
    except KeyError:
        record = logging.LogRecord("serving", logging.ERROR, "", 0, "failed", (), sys.exc_info())
    record.rows = 3
    lines = TextFormatter().format(record).splitlines()
    assert lines[0].endswith(" ERROR serving: failed rows=3")
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == "KeyError: 'x'"
