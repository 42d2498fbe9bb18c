import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from serving.call import Call
from serving.servicers.streams import Stream


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


def double(request: int, call: Call) -> int:
    del call
    return request * 2


def test_answers_come_in_the_order_of_the_requests(pool: ThreadPoolExecutor) -> None:
    def later_ones_are_faster(request: int, call: Call) -> int:
        time.sleep(0.02 if request % 4 == 0 else 0)
        return double(request, call)

    stream = Stream(iter(range(40)), later_ones_are_faster, pool, 8, None)
    assert list(stream.answers()) == [2 * number for number in range(40)]


@pytest.mark.parametrize("window", [1, 3])
def test_no_more_than_the_window_is_read_ahead(window: int, pool: ThreadPoolExecutor) -> None:
    """Whoever does not take the answers is sent for no more requests."""
    read: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            read.append(len(read))
            yield len(read)

    answers = Stream(endless(), double, pool, window, None).answers()
    for taken in range(1, 6):
        next(answers)
        time.sleep(0.02)
        # The window, one that is read and waits for it, and those that were taken; the last of them not yet let go.
        assert taken <= len(read) <= taken + window
    answers.close()  # type: ignore[attr-defined]
    assert len(read) <= 5 + window + 1


def test_draining_answers_what_is_read_and_ends(pool: ThreadPoolExecutor) -> None:
    never = threading.Event()

    def three_and_no_more() -> Iterator[int]:
        yield from range(3)
        never.wait(10)

    stream = Stream(three_and_no_more(), double, pool, 8, None)
    answers = stream.answers()
    found = [next(answers)]
    time.sleep(0.05)
    stream.drain()
    assert found + list(answers) == [0, 2, 4]
    assert stream.drained
    never.set()


def test_a_stream_that_has_ended_is_not_drained(pool: ThreadPoolExecutor) -> None:
    stream = Stream(iter(range(3)), double, pool, 8, None)
    assert list(stream.answers()) == [0, 2, 4]
    stream.drain()
    assert not stream.drained


def test_cancelling_drops_what_is_under_way(pool: ThreadPoolExecutor) -> None:
    calls: list[Call] = []
    begun = threading.Event()

    def wait(request: int, call: Call) -> int:
        calls.append(call)
        gone = threading.Event()
        call.watch(gone.set)
        begun.set()
        assert gone.wait(10)
        return request

    stream = Stream(iter(range(2)), wait, pool, 8, None)
    threading.Thread(target=lambda: (begun.wait(10), stream.cancel())).start()
    list(stream.answers())
    assert all(call.cancelled for call in calls)


def test_requests_that_break_off_end_the_stream(pool: ThreadPoolExecutor) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise RuntimeError("the caller is gone")

    assert list(Stream(broken(), double, pool, 8, None).answers()) in ([], [2])


def test_each_request_has_the_deadline_of_the_call(pool: ThreadPoolExecutor) -> None:
    deadlines: list[Any] = []

    def note(request: int, call: Call) -> int:
        deadlines.append(call.deadline)
        return request

    list(Stream(iter([1]), note, pool, 8, 12.5).answers())
    assert deadlines == [12.5]
