from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.loops.lbfgs import Lbfgs
from training.loops.trainer import DivergenceError, train

TARGET = np.linspace(-1, 1, 12).reshape(3, 4)
SCALES = np.logspace(0, 2, 12).reshape(3, 4)


def valley(called: list[int] | None = None, iterations: int = 3) -> tuple[keras.Model, Lbfgs]:
    """A narrow quadratic valley whose floor is the mean of the data plus ``TARGET``."""
    model = keras.Model()
    model.place = model.add_weight(shape=(3, 4), initializer="zeros", name="place")
    model.built = True

    def value_and_gradient(place: tf.Tensor, data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        away = place - TARGET - tf.reduce_mean(data)
        return tf.reduce_sum(SCALES * tf.square(away)) / 2, SCALES * away

    def at_end(data: tf.Tensor) -> None:
        if called is not None:
            called.append(len(data))

    return model, Lbfgs(model, model.place, value_and_gradient, np.float32([[1], [3]]), iterations, at_end)


def test_minimum_is_found(tmp_path: Path) -> None:
    called: list[int] = []
    model, program = valley(called, iterations=40)
    history = train(program, name="valley", epochs=3, directory=tmp_path)
    np.testing.assert_allclose(model.place.numpy(), TARGET + 2, atol=1e-6)
    assert history.epochs[-1]["loss"] < 1e-9
    assert called == [2, 2, 2]


def test_an_epoch_has_the_iterations_it_was_given() -> None:
    _, program = valley(iterations=5)
    (batch,) = program.batches(0)
    assert 5 < float(program.step(batch)["evaluations"]) <= 15


def test_search_is_in_double_precision() -> None:
    _, program = valley()
    (batch,) = program.batches(0)
    assert batch.dtype == tf.float64
    assert program.step(batch)["loss"].dtype == tf.float64


def test_a_run_that_was_cut_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole, program = valley()
    train(program, name="valley", epochs=4, directory=tmp_path / "whole")
    train(valley()[1], name="valley", epochs=4, directory=tmp_path / "cut", stop_after=2)
    resumed, again = valley()
    train(again, name="valley", epochs=4, directory=tmp_path / "cut")
    np.testing.assert_array_equal(whole.place.numpy(), resumed.place.numpy())


def test_an_objective_that_is_no_number_ends_the_epoch(tmp_path: Path) -> None:
    model, _ = valley()
    broken = Lbfgs(
        model, model.place, lambda place, _: (tf.constant(np.nan, tf.float64), place), np.zeros((2, 1), np.float32), 3,
        lambda _: None,
    )  # fmt: skip
    with pytest.raises(DivergenceError, match="valley: the loss of epoch 1 is nan"):
        train(broken, name="valley", epochs=1, directory=tmp_path)
