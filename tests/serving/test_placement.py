"""Threads that speak gRPC stay on a core, and everything else uses all."""

import errno
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.client import Client
from serving.errors import StartError
from serving.placement import Placement

CORES = sorted(os.sched_getaffinity(0))
several_cores = pytest.mark.skipif(len(CORES) < 2, reason="needs two cores: on one, every thread is at home")


def affinity_of_a_new_thread() -> set[int]:
    found: list[set[int]] = []
    thread = threading.Thread(target=lambda: found.append(os.sched_getaffinity(0)))
    thread.start()
    thread.join()
    return found[0]


@several_cores
class TestPlacement:
    def test_threads_started_at_home_stay_there(self) -> None:
        with Placement(1).home():
            assert os.sched_getaffinity(0) == {CORES[1]}
            assert affinity_of_a_new_thread() == {CORES[1]}
        assert os.sched_getaffinity(0) == set(CORES)

    def test_work_goes_everywhere_and_home_again(self) -> None:
        placement = Placement(0)
        with placement.home():
            with placement.everywhere():
                assert affinity_of_a_new_thread() == set(CORES)
            assert os.sched_getaffinity(0) == {CORES[0]}

    def test_a_thread_that_was_never_at_home_is_not_sent_there(self) -> None:
        with Placement(0).everywhere():
            pass
        assert os.sched_getaffinity(0) == set(CORES)

    def test_an_error_leaves_the_thread_as_it_was(self) -> None:
        with pytest.raises(ValueError, match="mine"), Placement(0).home():
            raise ValueError("mine")
        assert os.sched_getaffinity(0) == set(CORES)

    def test_cores_that_were_taken_away_do_not_end_the_work(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

        placement, done = Placement(0), []
        monkeypatch.setattr(os, "sched_setaffinity", refuse)
        with placement.everywhere():
            done.append("work")
        assert done == ["work"]

    def test_nothing_moves_without_a_core(self) -> None:
        placement = Placement(None)
        with placement.home(), placement.everywhere():
            assert os.sched_getaffinity(0) == set(CORES)
        assert placement.core_after(3) is None


def test_workers_take_one_core_after_the_other() -> None:
    last = len(CORES) - 1
    assert [Placement(last).core_after(number) for number in (0, 1)] == [last, 0]


def test_a_core_that_is_not_there() -> None:
    with pytest.raises(
        StartError, match=rf"--request-core: .* {len(CORES)} cores, 0 to {len(CORES) - 1}\. Received: 999"
    ):
        Placement(999)


def test_a_server_on_a_core_that_is_not_there(models: Path, fail_to_start: Callable[..., tuple[int, str, str]]) -> None:
    for flags in ((), ("--workers", "2")):
        code, _, errors = fail_to_start(models, "--request-core", "999", *flags)
        assert code == 1
        assert "Received: 999" in errors


def cores_of_threads(pid: int) -> list[set[int]]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(ProcessLookupError):  # it ended meanwhile
            found.append(os.sched_getaffinity(int(task.name)))
    return found


@several_cores
@pytest.mark.parametrize("flags", [(), ("--workers", "1", "--engine-process", "true")])
def test_a_server_at_home_answers_alike(models: Path, start: Callable[..., Any], flags: tuple[str, ...]) -> None:
    running = start(models, "--request-core", "1", "--threads", "2", *flags)
    rows = np.linspace(0, 1, 3 * 784, dtype=np.float32).reshape(3, 784)
    with Client(running.target) as client:
        encoding = client.encode(rows, model="digits").array
        np.testing.assert_allclose(encoding[:, 0], rows.sum(axis=1), rtol=1e-5)
        pid = running.process.pid
        children = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        found = [cores for each in (pid, *children) for cores in cores_of_threads(each)]
    # those that speak gRPC, and those that compute
    assert {CORES[1]} in found
    assert set(CORES) in found
    assert all(cores in ({CORES[1]}, set(CORES)) for cores in found)
    assert running.stop()[0] == 0
