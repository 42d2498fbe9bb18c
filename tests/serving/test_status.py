import logging
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, NoReturn

import grpc
import pytest

from serving import errors
from serving.call import Call
from serving.errors import InvalidInputError, InvalidPictureError, OverloadedError, RequestError
from serving.metrics import Metrics
from serving.pb.sparsewalk.v1 import encoder_pb2 as native
from serving.servicers.status import STATUS, Reception, status_of

Code = grpc.StatusCode


class AbortError(Exception):
    pass


class Context:
    """What a servicer sees of an RPC."""

    def __init__(self, alive: bool = True, metadata: tuple[tuple[str, str | bytes], ...] = ()) -> None:
        self.alive = alive
        self.metadata = metadata
        self.trailing: tuple[tuple[str, str], ...] = ()
        self.status: tuple[grpc.StatusCode, str] | None = None

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self.metadata

    def set_trailing_metadata(self, trailing: tuple[tuple[str, str], ...]) -> None:
        self.trailing = trailing

    def time_remaining(self) -> float | None:
        return None

    def add_callback(self, callback: Any) -> bool:
        del callback
        return self.alive

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        self.status = code, details
        raise AbortError


class Shelf:
    def names(self, name: str, version: int | None) -> tuple[str, str]:
        return name, str(version)

    def failed(self, name: str, version: int | None, seconds: float) -> None:
        pass


@pytest.fixture
def reception() -> Reception:
    return Reception(Shelf(), Metrics(version="0", runtime_version="0"), max_in_flight=1)  # type: ignore[arg-type]


def answer(reception: Reception, error: Exception) -> tuple[grpc.StatusCode, str]:
    context = Context()

    def work(_: Call) -> None:
        raise error

    with pytest.raises(AbortError):
        reception.answer("Segment", ("m", 1), context, work)  # type: ignore[arg-type]
    assert context.status is not None
    return context.status


def test_every_request_error_has_a_status() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RequestError)]
    for kind in set(kinds) - {RequestError}:
        assert any(parent in STATUS for parent in kind.__mro__), kind


def test_an_answer_of_just_the_largest_size_is_sent() -> None:
    sent = native.Mask(data=bytes(100))
    for limit, status in ((sent.ByteSize(), None), (sent.ByteSize() - 1, Code.RESOURCE_EXHAUSTED)):
        context = Context()
        reception = Reception(
            Shelf(),  # type: ignore[arg-type]
            Metrics(version="0", runtime_version="0"),
            max_in_flight=1,
            max_message_bytes=limit,
        )
        with nullcontext() if status is None else pytest.raises(AbortError):
            assert reception.answer("Segment", ("m", 1), context, lambda _: sent) is sent  # type: ignore[arg-type]
        assert (context.status and context.status[0]) == status


def test_an_error_takes_the_row_of_its_nearest_ancestor() -> None:
    assert status_of(InvalidPictureError("x")) is Code.INVALID_ARGUMENT


def test_expected_errors_are_told_as_they_are(reception: Reception) -> None:
    assert answer(reception, InvalidInputError("too blue")) == (Code.INVALID_ARGUMENT, "too blue")


def test_unknown_errors_are_logged_whole_and_told_with_a_fixed_text(
    reception: Reception, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        code, text = answer(reception, KeyError("secret"))
    assert code is Code.INTERNAL
    assert text.startswith("internal error; request id ")
    assert "secret" not in text
    assert text.rpartition(" ")[2] in caplog.text
    assert "KeyError: 'secret'" in caplog.text


def test_one_request_too_many_is_refused_and_the_slot_comes_back(reception: Reception) -> None:
    inner = Context()

    def ask_again(_: Call) -> str:
        with pytest.raises(AbortError):
            reception.answer("Segment", ("m", 1), inner, lambda _: None)  # type: ignore[arg-type]
        return "done"

    for _ in range(2):
        assert reception.answer("Segment", ("m", 1), Context(), ask_again) == "done"  # type: ignore[arg-type]
    assert inner.status == (Code.RESOURCE_EXHAUSTED, "the server is busy with 1 requests")
    assert status_of(OverloadedError("")) is Code.RESOURCE_EXHAUSTED


def test_a_call_that_ended_before_it_began_is_cancelled(reception: Reception) -> None:
    seen: list[bool] = []
    reception.answer("Segment", ("m", 1), Context(alive=False), lambda call: seen.append(call.cancelled))  # type: ignore[arg-type]
    assert seen == [True]


def test_while_the_server_drains_new_requests_are_refused_and_told_when_it_stops(reception: Reception) -> None:
    contexts = [Context() for _ in range(8)]

    def ask(context: Context) -> None:
        with pytest.raises(AbortError):
            reception.answer("Segment", ("m", 1), context, lambda _: None)  # type: ignore[arg-type]

    reception.drain()
    # More than may be in flight: who is refused takes nobody's place.
    with ThreadPoolExecutor(len(contexts)) as pool:
        asking = [pool.submit(ask, context) for context in contexts]
        reception.settle()
        assert not any(each.done() for each in asking)
        reception.dismiss()
        for each in asking:
            each.result()
    assert {context.status for context in contexts} == {(Code.UNAVAILABLE, "the server is stopping")}


def test_what_a_stream_had_read_before_the_drain_is_answered(reception: Reception) -> None:
    read = threading.Event()

    def requests() -> Iterator[int]:
        yield 1
        read.set()
        threading.Event().wait(5)

    def prepare(request: int) -> tuple[tuple[str, int], Callable[[Call], int]]:
        def work(_: Call) -> int:
            # The drain begins while the request is on its way.
            return request

        read.wait()
        reception.drain()
        reception.dismiss()
        return ("m", 1), work

    def refuse(request: int, status: grpc.StatusCode, text: str) -> int:
        raise AssertionError((request, status, text))

    context = Context()
    answers = reception.stream("S", context, requests(), prepare, refuse)  # type: ignore[arg-type]
    assert next(answers) == 1
    with pytest.raises(AbortError):
        next(answers)
    assert context.status == (Code.UNAVAILABLE, "the server is stopping")


def test_who_has_little_time_is_refused_within_it(reception: Reception) -> None:
    context = Context()
    context.time_remaining = lambda: 0.01  # type: ignore[method-assign]
    reception.drain()
    with pytest.raises(AbortError):
        reception.answer("Segment", ("m", 1), context, lambda _: None)  # type: ignore[arg-type]
    assert context.status == (Code.UNAVAILABLE, "the server is stopping")


@pytest.mark.parametrize("sent", ["7f3a", "a/b:c#1", "x" * 128])
def test_the_callers_request_id_is_sent_back(reception: Reception, sent: str) -> None:
    context = Context(metadata=(("user-agent", "test"), ("x-request-id", sent)))
    seen: list[str] = []
    reception.answer("Segment", ("m", 1), context, lambda call: seen.append(call.request_id))  # type: ignore[arg-type]
    assert seen == [sent]
    assert context.trailing == (("x-request-id", sent),)


@pytest.mark.parametrize("sent", [None, "", "two words", "two\nlines", "x" * 129, b"bytes", "\N{SNOWMAN}"])
def test_otherwise_it_gets_one_of_its_own(reception: Reception, sent: str | bytes | None) -> None:
    def ask() -> str:
        context = Context(metadata=() if sent is None else (("x-request-id", sent),))
        reception.answer("Segment", ("m", 1), context, lambda _: None)  # type: ignore[arg-type]
        return context.trailing[0][1]

    first, second = ask(), ask()
    assert re.fullmatch(r"[0-9a-f]{16}", first)
    assert first != second


def test_an_internal_error_is_found_by_the_callers_id(reception: Reception, caplog: pytest.LogCaptureFixture) -> None:
    context = Context(metadata=(("x-request-id", "mine"),))

    def fail(_: Call) -> None:
        raise KeyError("secret")

    with pytest.raises(AbortError):
        reception.answer("Segment", ("m", 1), context, fail)  # type: ignore[arg-type]
    assert context.status == (Code.INTERNAL, "internal error; request id mine")
    assert "request mine: Segment of 'm' failed" in caplog.text
