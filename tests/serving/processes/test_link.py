"""The link between processes: calls both ways, errors, descriptors, and the end of the other side."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from serving.errors import LoadError
from serving.processes.link import Link, LinkLostError, PeerError

Pair = Callable[..., tuple[Link, Link]]


@pytest.fixture
def pair() -> Iterator[Pair]:
    links: list[Link] = []

    def connect(**options: Any) -> tuple[Link, Link]:
        ours, theirs = socket.socketpair()
        links.extend((Link(ours, "them"), Link(theirs, "us", **options)))
        for link in links:
            link.start()
        return links[0], links[1]

    yield connect
    for link in links:
        link.close()
        link.join(5)


def test_an_answer_comes_back(pair: Pair) -> None:
    link, _ = pair(handlers={"add": lambda a, b: a + b})
    assert link.ask("add", 2, 3) == 5


def test_a_message_may_be_large(pair: Pair) -> None:
    link, _ = pair(handlers={"double": lambda data: data * 2})
    assert link.ask("double", b"x" * 10_000_000) == b"x" * 20_000_000


def test_calls_may_cross_and_call_back(pair: Pair) -> None:
    link, other = pair(handlers={"outer": lambda: other.ask("inner") + 1})
    link.handle({"inner": lambda: 41})
    calls = [link.call("outer") for _ in range(20)]
    assert [call.result(5) for call in calls] == [42] * 20


def test_our_errors_come_as_they_are(pair: Pair) -> None:
    def fail() -> None:
        raise LoadError("digits is broken")

    link, _ = pair(handlers={"load": fail})
    with pytest.raises(LoadError, match="digits is broken"):
        link.ask("load")


def test_other_errors_come_as_text_and_are_logged(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    link, _ = pair(handlers={"divide": lambda: 1 // 0})
    with pytest.raises(PeerError, match="ZeroDivisionError"):
        link.ask("divide")
    with pytest.raises(PeerError, match="KeyError: 'unheard of'"):
        link.ask("unheard of")
    assert "ZeroDivisionError" in caplog.text


def test_quick_calls_keep_their_order_and_may_be_answered_later(pair: Pair) -> None:
    later: list[Callable[[Any], None]] = []
    link, _ = pair(quick={"wait": lambda reply: later.append(reply), "count": lambda reply: reply(len(later))})
    first = link.call("wait")
    assert link.ask("count") == 1
    assert not first.done()
    later[0](LoadError("no"))
    with pytest.raises(LoadError, match="no"):
        first.result(5)


def test_descriptors_travel_with_their_call(pair: Pair) -> None:
    def read(name: str, descriptors: list[int]) -> str:
        with os.fdopen(descriptors[0], "rb") as file:
            return f"{name} {file.read().decode()}"

    link, _ = pair(handlers={"read": read, "nothing": lambda: None})
    for number in range(3):
        ours, theirs = os.pipe()
        with os.fdopen(theirs, "wb") as file:
            file.write(b"%d" % number)
        link.tell("nothing")
        assert link.ask("read", "file", descriptors=[ours]) == f"file {number}"
        os.close(ours)


def test_who_waits_is_told_when_the_other_end_is_gone(pair: Pair) -> None:
    lost, held = threading.Event(), threading.Event()
    link, other = pair(handlers={"hang": held.wait}, on_lost=lost.set)
    call = link.call("hang")
    other.close()
    with pytest.raises(LinkLostError, match="them is gone"):
        call.result(5)
    with pytest.raises(LinkLostError):
        link.ask("hang")
    link.tell("hang")  # nobody hears it
    assert lost.wait(5)
    held.set()


def test_an_answer_that_does_not_come_in_time_harms_nobody(pair: Pair) -> None:
    held = threading.Event()
    link, _ = pair(handlers={"hang": held.wait, "add": lambda a, b: a + b})
    with pytest.raises(TimeoutError):
        link.ask("hang", timeout=0.01)
    held.set()
    assert link.ask("add", 1, 1) == 2
