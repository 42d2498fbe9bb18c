from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.loops.fit import Autodiff
from training.loops.trainer import DivergenceError, train


def line_fit(learning_rate: float = 0.05, epochs_seen: list[int] | None = None) -> tuple[keras.Model, Autodiff]:
    """A linear model on data drawn from (seed, epoch), with an optimiser that has a memory."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, kernel_initializer="zeros")])

    def batches(epoch: int) -> Iterable[tuple[tf.Tensor, tf.Tensor]]:
        if epochs_seen is not None:
            epochs_seen.append(epoch)
        rng = np.random.default_rng([7, epoch])
        for _ in range(4):
            x = rng.standard_normal((8, 3)).astype(np.float32)
            yield tf.constant(x), tf.constant(x @ np.float32([[1], [-2], [0.5]]) + 3)

    def objective(batch: tuple[tf.Tensor, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        x, y = batch
        return {"loss": tf.reduce_mean(tf.square(model(x, training=True) - y))}

    return model, Autodiff(model, objective, keras.optimizers.Adam(learning_rate), batches)


def test_training_learns_and_writes_its_history(tmp_path: Path) -> None:
    model, program = line_fit()
    history = train(program, name="line", epochs=60, directory=tmp_path)
    assert history.epochs[-1]["loss"] < 0.01 * history.epochs[0]["loss"]
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 61))
    np.testing.assert_allclose(model.get_weights()[0].ravel(), [1, -2, 0.5], atol=0.1)
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_run_that_was_cut_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole, program = line_fit()
    train(program, name="line", epochs=7, directory=tmp_path / "whole")

    _, first = line_fit()
    train(first, name="line", epochs=7, directory=tmp_path / "cut", stop_after=3)
    seen: list[int] = []
    resumed, second = line_fit(epochs_seen=seen)
    history = train(second, name="line", epochs=7, directory=tmp_path / "cut")

    assert seen == [3, 4, 5, 6]
    assert [epoch["epoch"] for epoch in history.epochs] == [1, 2, 3, 4, 5, 6, 7]
    for one, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_epochs_after_the_last_checkpoint_are_run_again(tmp_path: Path) -> None:
    _, first = line_fit()
    train(first, name="line", epochs=9, directory=tmp_path, checkpoint_every=4, stop_after=6)
    seen: list[int] = []
    _, second = line_fit(epochs_seen=seen)
    history = train(second, name="line", epochs=9, directory=tmp_path, checkpoint_every=4)
    assert seen == [4, 5, 6, 7, 8]
    assert [epoch["epoch"] for epoch in history.epochs] == list(range(1, 10))


def test_divergence_is_told_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    _, good = line_fit()
    train(good, name="line", epochs=9, directory=tmp_path, stop_after=2)
    model, bad = line_fit()
    bad.before_epoch = lambda _: model.set_weights([np.full_like(w, np.inf) for w in model.get_weights()])
    with pytest.raises(DivergenceError, match=r"line: the loss of epoch 3 is (nan|inf).*learning_rate"):
        train(bad, name="line", epochs=9, directory=tmp_path)
    seen: list[int] = []
    _, again = line_fit(epochs_seen=seen)
    train(again, name="line", epochs=3, directory=tmp_path)
    assert seen == [2]


def test_no_batches_is_an_error_that_says_so(tmp_path: Path) -> None:
    model, _ = line_fit()
    empty = Autodiff(model, lambda _: {}, keras.optimizers.SGD(), lambda _: [])
    with pytest.raises(ValueError, match="epoch 1 has no batch"):
        train(empty, name="line", epochs=1, directory=tmp_path)


def test_validation_is_run_when_due_and_at_the_end(tmp_path: Path) -> None:
    _, program = line_fit()
    program._validate = lambda: {"iou": 0.5}
    history = train(program, name="line", epochs=5, directory=tmp_path, validate_every=2)
    assert [epoch["epoch"] for epoch in history.epochs if "validation_iou" in epoch] == [2, 4, 5]


KILLED = """
    import os, signal, sys
    sys.path.insert(0, {folder!r})
    import tensorflow as tf
    from pathlib import Path
    from test_trainer_program import line_fit
    from training.loops.trainer import train

    save = tf.train.CheckpointManager.save
    written = tf.train.Checkpoint.write

    def killed_save(self, checkpoint_number):
        if checkpoint_number == 3:
            # the data files are half there: what a kill in the middle of writing leaves
            path = Path(self.directory) / f"ckpt-{{checkpoint_number}}.data-00000-of-00001"
            path.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        return save(self, checkpoint_number=checkpoint_number)

    tf.train.CheckpointManager.save = killed_save
    train(line_fit()[1], name="line", epochs=6, directory=Path({directory!r}))
"""


def test_kill_in_the_middle_of_a_checkpoint_leaves_the_previous_one(tmp_path: Path) -> None:
    # the child imports this file under another name: pytest's own import machinery is not there
    code = tmp_path / "code"
    code.mkdir()
    (code / "test_trainer_program.py").write_text(Path(__file__).read_text())
    script = textwrap.dedent(KILLED.format(folder=str(code), directory=str(tmp_path / "run")))
    child = subprocess.run([sys.executable, "-c", script], env={**os.environ}, capture_output=True, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()

    seen: list[int] = []
    resumed, program = line_fit(epochs_seen=seen)
    train(program, name="line", epochs=6, directory=tmp_path / "run")
    assert seen == [2, 3, 4, 5]
    whole, uncut = line_fit()
    train(uncut, name="line", epochs=6, directory=tmp_path / "whole")
    for one, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
