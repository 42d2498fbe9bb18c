from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.loops.staged import Stage, Staged
from training.loops.trainer import train


def two_stages(ended: list[str] | None = None, first: int = 3, second: int = 4) -> tuple[keras.Model, Staged]:
    """A linear map [3] -> [2] -> [1]: its first layer alone, then both; data are drawn from (seed, epoch)."""
    inputs = keras.Input((3,))
    seeds = (keras.initializers.RandomNormal(seed=seed) for seed in (1, 2))
    hidden = keras.layers.Dense(2, kernel_initializer=next(seeds))(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1, kernel_initializer=next(seeds))(hidden))
    encoder = keras.Model(inputs, hidden)

    def batches(epoch: int) -> Iterable[tf.Tensor]:
        rng = np.random.default_rng([7, epoch])
        for _ in range(3):
            yield tf.constant(rng.standard_normal((8, 3)).astype(np.float32))

    def alone(x: tf.Tensor) -> Mapping[str, tf.Tensor]:
        return {"loss": tf.reduce_mean(tf.square(encoder(x) - x[:, :2])), "alone": tf.constant(1.0)}

    def whole(x: tf.Tensor) -> Mapping[str, tf.Tensor]:
        return {"loss": tf.reduce_mean(tf.square(model(x) - tf.reduce_sum(x, axis=1, keepdims=True)))}

    def stage(name: str, epochs: int, objective, rate: float, variables) -> Stage:
        return Stage(
            name, epochs, objective, keras.optimizers.Adam(rate), variables, batches,
            at_end=lambda: ended.append(name) if ended is not None else None,
        )  # fmt: skip

    program = Staged(
        model,
        (
            stage("alone", first, alone, 1e-3, encoder.trainable_variables),
            stage("whole", second, whole, 1e-2, model.trainable_variables),
        ),
    )
    return model, program


def test_each_stage_has_its_epochs_its_variables_and_its_end(tmp_path: Path) -> None:
    ended: list[str] = []
    model, program = two_stages(ended)
    before = model.get_weights()
    history = train(program, name="two", epochs=7, directory=tmp_path, stop_after=3)
    after = model.get_weights()
    assert [("alone" in epoch) for epoch in history.epochs] == [True] * 3
    assert not np.array_equal(before[0], after[0])
    assert np.array_equal(before[2], after[2])
    assert ended == ["alone"]
    history = train(program, name="two", epochs=7, directory=tmp_path)
    assert [("alone" in epoch) for epoch in history.epochs] == [True] * 3 + [False] * 4
    assert not np.array_equal(after[2], model.get_weights()[2])
    assert ended == ["alone", "whole"]
    assert program.epochs == 7


@pytest.mark.parametrize("cut", [2, 3, 5])
def test_a_run_cut_before_at_or_after_the_border_ends_with_the_same_weights(tmp_path: Path, cut: int) -> None:
    whole, program = two_stages()
    train(program, name="two", epochs=7, directory=tmp_path / "whole")
    train(two_stages()[1], name="two", epochs=7, directory=tmp_path / "cut", stop_after=cut)
    resumed, second = two_stages()
    train(second, name="two", epochs=7, directory=tmp_path / "cut")
    for one, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_second_stage_starts_with_an_optimiser_of_its_own(tmp_path: Path) -> None:
    _, program = two_stages()
    train(program, name="two", epochs=7, directory=tmp_path, stop_after=4)
    first, second = (program.state[f"optimizer_{name}"] for name in ("alone", "whole"))
    assert (int(first.iterations), int(second.iterations)) == (9, 3)


def test_the_end_of_a_stage_comes_after_its_last_step() -> None:
    ended: list[str] = []
    _, program = two_stages(ended)
    program.before_epoch(2)
    for batch in program.batches(2):
        assert ended == []
        program.step(batch)
    assert ended == ["alone"]


def test_stages_that_make_no_sense_are_refused() -> None:
    model, _ = two_stages()
    with pytest.raises(ValueError, match="at least one"):
        Staged(model, ())
    with pytest.raises(ValueError, match=r"stage 'alone' must have at least 1 epoch\. Received: 0"):
        two_stages(first=0)
    with pytest.raises(ValueError, match=r"there are 7 epochs in 2 stages\. Received: epoch 8"):
        two_stages()[1].before_epoch(7)
