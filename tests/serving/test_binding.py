"""Runs with bound buffers, on the CPU: the same path as on a GPU, less the GPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving import manifest
from serving.backend import CPU, Acceleration, OnnxBackend, Runtime
from serving.backend.binding import BoundRun

Build = Callable[..., Path]


@pytest.fixture
def opened(tmp_path: Path, build: Build) -> Callable[[str], OnnxBackend]:
    def open_one(name: str) -> OnnxBackend:
        folder = build(tmp_path, name)
        runtime = Runtime(CPU, 1, required=True, acceleration=Acceleration())
        return OnnxBackend(folder, manifest.read(folder / "manifest.json"), runtime)

    return open_one


def bind(backend: OnnxBackend, image: np.ndarray, graph_id: int | None = None) -> BoundRun:
    return BoundRun(backend._session, {"image": image}, device="cpu", device_id=0, graph_id=graph_id, severity=4)


@pytest.mark.parametrize("graph_id", [None, 1])
def test_a_bound_run_gives_what_a_plain_one_does(opened: Any, graph_id: int | None) -> None:
    backend = opened("red_fixed")
    noise = np.random.default_rng(1)
    first = noise.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    bound = bind(backend, first, graph_id)
    for image in (first, 255 - first, noise.integers(0, 256, first.shape, dtype=np.uint8)):
        for outputs in (("mask", "encoding"), ("encoding",), ("encoding", "mask")):
            expected = backend.run({"image": image}, outputs)
            for one, other in zip(bound.run({"image": image}, outputs), expected, strict=True):
                np.testing.assert_array_equal(one, other)


def test_an_answer_is_not_overwritten_by_the_next_run(opened: Any) -> None:
    backend = opened("digits")
    row = np.zeros((1, 784), np.float32)
    bound = bind(backend, row)
    (kept,) = bound.run({"image": row}, ("reconstruction",))
    bound.run({"image": row + 1}, ("reconstruction",))
    np.testing.assert_array_equal(kept, 1 - row)


def test_rows_that_are_not_contiguous_are_bound_too(opened: Any) -> None:
    backend = opened("digits")
    rows = np.random.default_rng(2).random((784, 8), dtype=np.float32).T
    (mirrored,) = bind(backend, np.zeros((8, 784), np.float32)).run({"image": rows}, ("reconstruction",))
    np.testing.assert_array_equal(mirrored, 1 - rows)


@pytest.mark.parametrize("rows", [1, 3])
def test_another_shape_is_an_error_and_never_a_wrong_answer(opened: Any, rows: int) -> None:
    bound = bind(opened("digits"), np.zeros((2, 784), np.float32))
    with pytest.raises(Exception, match=r"(?i)size|shape|dimension"):
        bound.run({"image": np.zeros((rows, 784), np.float32)}, ("encoding",))


def test_only_fixed_shapes_are_bound_and_each_once(opened: Any) -> None:
    """The allowed batch sizes with pictures of the model's size, for the whole model and its halves."""
    backend = opened("halves")
    assert backend._bound == {}
    backend._fix_shapes((1, 4))
    assert len(backend._bound) == 6
    assert set(backend._bound.values()) == {None}
    noise = np.random.default_rng(3)
    for rows in (4, 3, 1, 4, 7, 1):
        image = noise.random((rows, 784), dtype=np.float32)
        np.testing.assert_array_equal(backend.run({"image": image}, ("encoding",))[0], image[:, :4])
        np.testing.assert_allclose(
            backend.run({"image": image}, ("encoding", "reconstruction"))[1], np.tile(image[:, :4], 196), rtol=1e-6
        )
        code = noise.random((rows, 4), dtype=np.float32)
        np.testing.assert_allclose(
            backend.run({"encoding": code}, ("reconstruction",))[0], np.tile(code, 196), rtol=1e-6
        )
    assert len(backend._bound) == 6
    assert None not in backend._bound.values()


def test_pictures_of_another_size_are_run_without_buffers(opened: Any) -> None:
    backend = opened("red")
    backend._fix_shapes((1,))
    (key,) = backend._bound
    assert key[1] == (1, 32, 64, 3)
    other = np.full((1, 64, 64, 3), 51, np.uint8)
    np.testing.assert_allclose(backend.run({"image": other}, ("mask",))[0], 0.2, rtol=1e-6)
    assert backend._bound[key] is None
