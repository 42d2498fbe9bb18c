import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.batcher import Batch, DynamicBatcher
from serving.call import PRIORITIES, Call
from serving.errors import (
    CancelledError,
    DeadlineError,
    InferenceError,
    InvalidInputError,
    OverloadedError,
    UnavailableError,
)
from serving.model_settings import Limits

Array = np.ndarray[Any, Any]


class Model:
    """Answers each row with its double; holds every run until it is told to go on."""

    def __init__(self) -> None:
        self.runs: list[Array] = []
        self.outputs: list[tuple[str, ...]] = []
        self.batches: list[Batch] = []
        self.threads: set[int] = set()
        self.started = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()

    def run(self, inputs: Mapping[str, Array], outputs: tuple[str, ...]) -> list[Array]:
        self.runs.append(inputs["x"])
        self.outputs.append(outputs)
        self.threads.add(threading.get_ident())
        self.started.release()
        assert self.gate.wait(10)
        return [inputs["x"] * 2 for _ in outputs]

    def hold(self) -> None:
        self.gate.clear()

    def go_on(self) -> None:
        self.gate.set()


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def make(model: Model) -> Iterator[Callable[..., DynamicBatcher]]:
    made: list[DynamicBatcher] = []

    def make_one(**changes: Any) -> DynamicBatcher:
        caller_runs, instances = changes.pop("caller_runs", False), changes.get("instances", 1)
        limits = Limits(**({"max_batch_size": 8, "max_queue_size": 4} | changes))
        batcher = DynamicBatcher(
            [model.run] * instances, name="m/1", limits=limits, caller_runs=caller_runs, on_batch=model.batches.append
        )
        batcher.start()
        made.append(batcher)
        return batcher

    yield make_one
    model.go_on()
    for each in made:
        each.close()


def rows(*values: float) -> dict[str, Array]:
    return {"x": np.array(values, np.float32).reshape(-1, 1)}


def busy(batcher: DynamicBatcher, model: Model) -> Any:
    """Occupies the model with one row; what is submitted next waits."""
    model.hold()
    ticket = batcher.submit(rows(-1), ("y",), Call())
    assert model.started.acquire(timeout=5)
    return ticket


def test_an_answered_request_leaves_nothing_behind() -> None:
    """Else its rows, and the model's memory they lie in, would stay until Python's collector comes by."""
    batcher = DynamicBatcher(
        [lambda inputs, _: [inputs["x"] * 2]],
        name="m/1",
        limits=Limits(8, 4),
        caller_runs=False,
        on_batch=lambda _: None,
    )
    batcher.start()
    gc.disable()
    try:
        image, call = np.ones((1, 4), np.float32), Call()
        asked = weakref.ref(image)
        ticket = batcher.submit({"x": image}, ("y",), call)
        answer = ticket.result()
        told = weakref.ref(answer.outputs["y"])
        del image, ticket, answer
        # the run thread may be about to let go
        end = time.monotonic() + 5
        while (asked() is not None or told() is not None) and time.monotonic() < end:
            time.sleep(0.001)
        assert (asked(), told()) == (None, None)
    finally:
        gc.enable()
        batcher.close()


def test_what_waits_is_joined_in_one_run(make: Callable[..., DynamicBatcher], model: Model) -> None:
    batcher = make()
    busy(batcher, model)
    tickets = [batcher.submit(rows(*values), ("y",), Call()) for values in ([1], [2, 3], [4])]
    model.go_on()
    answers = [ticket.result() for ticket in tickets]
    assert [answer.outputs["y"].ravel().tolist() for answer in answers] == [[2], [4, 6], [8]]
    assert [answer.batch_rows for answer in answers] == [4, 4, 4]
    assert len(model.runs) == 2


def test_a_run_never_holds_more_than_the_maximum(make: Callable[..., DynamicBatcher], model: Model) -> None:
    batcher = make(max_batch_size=4)
    busy(batcher, model)
    tickets = [batcher.submit(rows(*[1] * count), ("y",), Call()) for count in (3, 2, 2, 4)]
    model.go_on()
    for ticket in tickets:
        ticket.result()
    assert [len(run) for run in model.runs] == [1, 3, 4, 4]


def test_a_request_above_the_maximum_is_refused(make: Callable[..., DynamicBatcher]) -> None:
    for batcher in (make(max_batch_size=4), make(max_batch_size=4, caller_runs=True)):
        with pytest.raises(InvalidInputError, match=r"m/1 takes at most 4 rows in one request\. Received: 5"):
            batcher.infer(rows(1, 2, 3, 4, 5), ("y",), Call())


def test_unequal_shapes_and_outputs_do_not_join(make: Callable[..., DynamicBatcher], model: Model) -> None:
    batcher = make()
    busy(batcher, model)
    narrow, wide = rows(1), {"x": np.ones((1, 2), np.float32)}
    tickets = [
        batcher.submit(narrow, ("y",), Call()),
        batcher.submit(wide, ("y",), Call()),
        batcher.submit(narrow, ("z",), Call()),
        batcher.submit(narrow, ("y",), Call()),
    ]
    model.go_on()
    for ticket in tickets:
        ticket.result()
    assert [(run.shape, names) for run, names in zip(model.runs[1:], model.outputs[1:], strict=True)] == [
        ((2, 1), ("y",)),
        ((1, 2), ("y",)),
        ((1, 1), ("z",)),
    ]


def test_a_full_queue_refuses_at_once(make: Callable[..., DynamicBatcher], model: Model) -> None:
    batcher = make(max_queue_size=2)
    busy(batcher, model)
    for _ in range(2):
        batcher.submit(rows(1), ("y",), Call())
    seconds = []
    for _ in range(10):  # the best of ten: others may use this machine too
        started = time.monotonic()
        with pytest.raises(OverloadedError, match=r"the queue of m/1 is full \(2 requests wait\)"):
            batcher.submit(rows(1), ("y",), Call())
        seconds.append(time.monotonic() - started)
    assert min(seconds) < 0.005
    assert batcher.depth == 2


def test_a_deadline_is_answered_while_the_model_is_busy(make: Callable[..., DynamicBatcher], model: Model) -> None:
    batcher = make(max_queue_size=1)
    busy(batcher, model)
    ticket = batcher.submit(rows(5), ("y",), Call(time.monotonic() + 0.05))
    with pytest.raises(DeadlineError):
        ticket.result()
    # Its slot is free while the model is still held, and it never reaches the model.
    behind = batcher.submit(rows(6), ("y",), Call())
    model.go_on()
    behind.result()
    assert [run.ravel().tolist() for run in model.runs] == [[-1], [6]]


def test_expired_work_never_reaches_the_model(make: Callable[..., DynamicBatcher], model: Model) -> None:
    batcher = make()
    busy(batcher, model)
    expired = batcher.submit(rows(5), ("y",), Call(time.monotonic() + 0.01))
    alive = batcher.submit(rows(6), ("y",), Call())
    time.sleep(0.02)
    model.go_on()
    assert alive.result().outputs["y"].tolist() == [[12]]
    with pytest.raises(DeadlineError):
        expired.result()
    assert [run.ravel().tolist() for run in model.runs] == [[-1], [6]]


def test_cancelling_frees_the_slot_and_wakes_the_caller(make: Callable[..., DynamicBatcher], model: Model) -> None:
    batcher = make(max_queue_size=1)
    busy(batcher, model)
    call = Call()
    ticket = batcher.submit(rows(5), ("y",), call)
    threading.Timer(0.02, call.cancel).start()
    with pytest.raises(CancelledError):
        ticket.result()
    assert batcher.depth == 0


def test_cancelling_one_leaves_its_mates_unharmed(make: Callable[..., DynamicBatcher], model: Model) -> None:
    """Cancelled while their common run is under way: where another server's batch hangs."""
    batcher = make()
    busy(batcher, model)
    calls = [Call() for _ in range(3)]
    tickets = [batcher.submit(rows(value), ("y",), call) for value, call in enumerate(calls)]
    model.go_on()
    model.gate.clear()
    assert model.started.acquire(timeout=5)
    calls[0].cancel()
    model.go_on()
    assert [ticket.result().outputs["y"].item() for ticket in tickets[1:]] == [2, 4]
    with pytest.raises(CancelledError):
        tickets[0].result()


def test_a_call_cancelled_before_it_is_submitted_does_not_run(
    make: Callable[..., DynamicBatcher], model: Model
) -> None:
    call = Call()
    call.cancel()
    for batcher in (make(), make(caller_runs=True)):
        with pytest.raises(CancelledError):
            batcher.infer(rows(1), ("y",), call)
    time.sleep(0.01)
    assert model.runs == []


@pytest.mark.parametrize("caller_runs", [False, True])
def test_a_failed_run_fails_its_callers_and_no_others(caller_runs: bool) -> None:
    def run(inputs: Mapping[str, Array], outputs: tuple[str, ...]) -> list[Array]:
        if (inputs["x"] < 0).any():
            raise ArithmeticError("negative")
        return [inputs["x"] for _ in outputs]

    batcher = DynamicBatcher([run], name="m/1", limits=Limits(4, 4), caller_runs=caller_runs, on_batch=lambda _: None)
    batcher.start()
    with pytest.raises(InferenceError, match="the run of m/1 failed") as caught:
        batcher.infer(rows(-1), ("y",), Call())
    assert isinstance(caught.value.__cause__, ArithmeticError)
    assert batcher.infer(rows(1), ("y",), Call()).outputs["y"].item() == 1
    batcher.close()


def test_a_model_that_loses_rows_is_caught() -> None:
    batcher = DynamicBatcher(
        [lambda inputs, _: [inputs["x"][:1]]],
        name="m/1",
        limits=Limits(4, 4),
        caller_runs=False,
        on_batch=lambda _: None,
    )
    batcher.start()
    with pytest.raises(InferenceError) as caught:
        batcher.infer(rows(1, 2), ("y",), Call())
    assert "output 'y' has 1 rows where 2 went in" in str(caught.value.__cause__)
    batcher.close()


def test_all_runs_come_from_one_thread(make: Callable[..., DynamicBatcher], model: Model) -> None:
    batcher = make(max_queue_size=100)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda value: batcher.infer(rows(value), ("y",), Call()), range(50)))
    assert len(model.threads) == 1
    assert threading.get_ident() not in model.threads


def test_an_idle_model_runs_on_its_caller_where_allowed(make: Callable[..., DynamicBatcher], model: Model) -> None:
    answer = make(caller_runs=True).infer(rows(1), ("y",), Call())
    assert model.threads == {threading.get_ident()}
    assert answer.queue_seconds == 0


def test_closing_runs_what_waits_and_refuses_the_rest(make: Callable[..., DynamicBatcher], model: Model) -> None:
    batcher = make()
    first = busy(batcher, model)
    waiting = batcher.submit(rows(3), ("y",), Call())
    threading.Timer(0.02, model.go_on).start()
    batcher.close()
    assert [first.result().outputs["y"].item(), waiting.result().outputs["y"].item()] == [-2, 6]
    with pytest.raises(UnavailableError, match="m/1 is shutting down"):
        batcher.submit(rows(1), ("y",), Call())


def test_closing_gives_up_after_its_time(make: Callable[..., DynamicBatcher], model: Model) -> None:
    batcher = make()
    busy(batcher, model)
    waiting = batcher.submit(rows(3), ("y",), Call())
    batcher.close(timeout=0.02)
    with pytest.raises(UnavailableError):
        waiting.result()


def test_timings_tell_waiting_from_running(make: Callable[..., DynamicBatcher], model: Model) -> None:
    batcher = make()
    busy(batcher, model)
    ticket = batcher.submit(rows(3), ("y",), Call())
    time.sleep(0.03)
    model.go_on()
    answer = ticket.result()
    assert answer.queue_seconds >= 0.03
    assert 0 < answer.inference_seconds < answer.queue_seconds


def test_runs_are_filled_up_to_an_allowed_size(make: Callable[..., DynamicBatcher], model: Model) -> None:
    batcher = make(allowed_batch_sizes=(1, 4))
    busy(batcher, model)
    tickets = [batcher.submit(rows(*values), ("y",), Call()) for values in ([1], [2, 3])]
    model.go_on()
    answers = [ticket.result().outputs["y"].ravel().tolist() for ticket in tickets]
    alone = batcher.infer(rows(*range(5)), ("y",), Call()).outputs["y"].ravel().tolist()
    assert (answers, alone) == ([[2], [4, 6]], [0, 2, 4, 6, 8])
    # What is filled in repeats a row of the batch; the largest size is always allowed.
    assert [run.ravel().tolist() for run in model.runs] == [[-1], [1, 2, 3, 1], [0, 1, 2, 3, 4, 0, 0, 0]]
    assert [(batch.rows, batch.padding) for batch in model.batches] == [(1, 0), (3, 1), (5, 3)]


def test_the_first_priority_goes_first_and_equals_keep_their_order(
    make: Callable[..., DynamicBatcher], model: Model
) -> None:
    batcher = make(max_batch_size=1, max_queue_size=10)
    busy(batcher, model)
    wanted = [(3, 30), (5, 50), (1, 10), (3, 31), (1, 11), (2, 20)]
    tickets = [batcher.submit(rows(value), ("y",), Call(priority=priority)) for priority, value in wanted]
    model.go_on()
    for ticket in tickets:
        ticket.result()
    assert [int(run.item()) for run in model.runs] == [-1, 10, 11, 20, 30, 31, 50]


class TestDelay:
    def test_the_first_in_line_waits_for_company(self, make: Callable[..., DynamicBatcher], model: Model) -> None:
        batcher = make(max_queue_delay=0.2, caller_runs=True)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda value: batcher.infer(rows(value), ("y",), Call()), range(2)))
        assert [len(run) for run in model.runs] == [2]

    def test_but_not_longer_than_the_delay(self, make: Callable[..., DynamicBatcher]) -> None:
        answer = make(max_queue_delay=0.05).infer(rows(1), ("y",), Call())
        assert 0.05 <= answer.queue_seconds < 1

    def test_a_full_batch_does_not_wait(self, make: Callable[..., DynamicBatcher]) -> None:
        answer = make(max_queue_delay=60.0, max_batch_size=2).infer(rows(1, 2), ("y",), Call())
        assert answer.queue_seconds < 10

    def test_closing_does_not_wait(self, make: Callable[..., DynamicBatcher]) -> None:
        batcher = make(max_queue_delay=60.0)
        ticket = batcher.submit(rows(1), ("y",), Call())
        batcher.close(10)
        assert ticket.result().queue_seconds < 10

    def test_a_deadline_within_the_delay_is_kept(self, make: Callable[..., DynamicBatcher], model: Model) -> None:
        with pytest.raises(DeadlineError):
            make(max_queue_delay=60.0).infer(rows(1), ("y",), Call(time.monotonic() + 0.02))
        assert model.runs == []


@pytest.mark.parametrize("caller_runs", [False, True])
def test_instances_run_at_once(caller_runs: bool, make: Callable[..., DynamicBatcher], model: Model) -> None:
    batcher = make(instances=3, max_batch_size=1, caller_runs=caller_runs)
    model.hold()
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(batcher.infer, rows(value), ("y",), Call()) for value in range(4)]
        for _ in range(3):
            assert model.started.acquire(timeout=5)
        assert not model.started.acquire(timeout=0.02)
        model.go_on()
        assert [answer.result().outputs["y"].item() for answer in answers] == [0, 2, 4, 6]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 5),
            st.sampled_from([1, 2]),
            st.sampled_from(["answer", "cancel", "expire"]),
            st.integers(1, PRIORITIES),
        ),
        min_size=1,
        max_size=40,
    ),
    st.builds(
        Limits,
        max_batch_size=st.integers(5, 9),
        max_queue_size=st.just(100),
        allowed_batch_sizes=st.sampled_from([(), (1,), (2, 4)]),
        max_queue_delay=st.sampled_from([0.0, 0.0005]),
        instances=st.integers(1, 3),
    ),
    st.booleans(),
)
def test_rows_go_home(requests: list[tuple[int, int, str, int]], limits: Limits, caller_runs: bool) -> None:
    """Random sizes, shapes, cancels, deadlines and priorities at once: an answer is exactly the caller's own rows."""
    seen: list[int] = []

    def run(inputs: Mapping[str, Array], outputs: tuple[str, ...]) -> list[Array]:
        seen.append(len(inputs["x"]))
        return [inputs["x"] + 0.5 for _ in outputs]

    batcher = DynamicBatcher(
        [run] * limits.instances, name="m/1", limits=limits, caller_runs=caller_runs, on_batch=lambda _: None
    )
    batcher.start()

    def ask(number: int) -> None:
        count, width, fate, priority = requests[number]
        own = (number * 1000 + np.arange(count * width, dtype=np.float64)).reshape(count, width)
        call = Call(time.monotonic() + (0.0005 if fate == "expire" else 30), priority)
        if fate == "cancel":
            threading.Timer(0.0005, call.cancel).start()
        try:
            answer = batcher.infer({"x": own}, ("y",), call)
        except (CancelledError, DeadlineError):
            assert fate != "answer"
            return
        np.testing.assert_array_equal(answer.outputs["y"], own + 0.5)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(len(requests))))
    batcher.close()
    assert batcher.depth == 0
    assert max(seen, default=0) <= limits.max_batch_size
    assert set(seen) <= set(limits.batch_sizes() or seen)
