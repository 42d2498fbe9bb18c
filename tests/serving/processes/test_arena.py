"""Shared memory: room is handed out once, and comes back when the last array in it is gone."""

import gc
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import OverloadedError
from serving.processes.arena import Arena, Mapping
from serving.processes.remote import _Room

SIZE = 1 << 16


@given(st.lists(st.one_of(st.integers(0, 9000), st.just(None)), max_size=60), st.randoms(use_true_random=False))
def test_no_two_share_room_and_all_of_it_comes_back(steps: list[int | None], random: object) -> None:
    """A number reserves so many bytes, None gives back one of those held."""
    arena = Arena(SIZE)
    held: dict[int, int] = {}
    for step in steps:
        if step is None:
            if held:
                offset = random.choice(sorted(held))  # type: ignore[attr-defined]
                del held[offset]
                arena.release(offset)
            continue
        try:
            offset = arena.reserve(step)
        except OverloadedError:
            continue
        assert offset + step <= SIZE
        assert all(offset + step <= other or other + size <= offset for other, size in held.items())
        held[offset] = step
    for offset in held:
        arena.release(offset)
    assert arena.in_use == 0
    assert arena.reserve(SIZE) == 0
    arena.close()


def test_a_full_arena_says_how_large_it_is() -> None:
    arena = Arena(SIZE)
    arena.reserve(SIZE - 64)
    with pytest.raises(OverloadedError, match=r"no room for 128 bytes; --shared-memory-bytes is 65536"):
        arena.reserve(65)
    assert arena.reserve(64) == SIZE - 64
    arena.close()


def test_two_mappings_see_the_same_and_neither_leaves_a_file() -> None:
    before = set(Path("/dev/shm").iterdir())
    arena = Arena(SIZE)
    other = Mapping(arena.descriptor, SIZE)
    arena.close()
    arena.array(128, "<f4", (2, 3))[:] = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(other.array(128, "<f4", (6,)), np.arange(6))
    with pytest.raises(ValueError, match="buffer"):
        other.array(SIZE - 4, "<f4", (2,))
    assert set(Path("/dev/shm").iterdir()) == before


def test_its_size_is_fixed() -> None:
    arena = Arena(SIZE)
    for size in (0, 2 * SIZE):
        with pytest.raises(PermissionError):
            os.ftruncate(arena.descriptor, size)
    arena.close()


def test_memory_is_taken_only_when_it_is_written_to() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    before = resident()
    arena = Arena(1 << 30)
    arena.array(0, "u1", (1 << 16,))[:] = 1
    assert resident() - before < 1 << 24
    arena.close()


def test_room_is_free_when_the_last_view_of_an_answer_is_gone() -> None:
    arena = Arena(SIZE)
    with _Room(arena) as room:
        room.lay_down("image", np.ones((4, 4), np.float32))
        place = room.make_way("mask", "<f4", (2, 8, 8, 1))
        room.lend()
    room.end_inputs()
    array = room.hand_out(place)
    array[:] = 7
    view = array[1, :, :, 0].T[2:]
    del array
    gc.collect()
    assert arena.in_use == 2 * 64 * 4
    assert (view == 7).all()
    del view
    gc.collect()
    assert arena.in_use == 0
    arena.close()


def test_room_that_was_never_lent_comes_back() -> None:
    arena = Arena(SIZE)
    with pytest.raises(OverloadedError), _Room(arena) as room:
        room.lay_down("image", np.ones(1000, np.float32))
        room.make_way("mask", "<f4", (SIZE,))
    assert arena.in_use == 0
    arena.close()
