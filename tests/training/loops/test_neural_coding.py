from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from training.encoders.neural_dictionary import NeuralDictionary, hard_threshold
from training.loops.neural_coding import DivergenceGuard, NeuralCoding, neural_update
from training.loops.neural_program import NeuralProgram
from training.loops.trainer import DivergenceError


def test_threshold_is_hard_and_two_sided() -> None:
    values = tf.constant([-2.0, -0.5, -0.4, 0.0, 0.4, 0.5, 2.0])
    np.testing.assert_array_equal(hard_threshold(values, 0.5), [-2, -0.5, 0, 0, 0, 0.5, 2])
    np.testing.assert_array_equal(hard_threshold(values, 0.5, two_sided=False), [0, 0, 0, 0, 0, 0.5, 2])


@pytest.mark.parametrize("rule", ["neural", "olshausen_field"])
def test_update_is_its_equation(rng: np.random.Generator, rule: str) -> None:
    a = rng.standard_normal((6, 5))
    a /= np.linalg.norm(a, axis=0)
    y = rng.standard_normal((8, 6))
    moved, codes, residual = neural_update(tf.constant(a), tf.constant(y), 0.7, 0.3, rule)
    expected = a.copy()
    for example in y:
        x = a.T @ example
        x[np.abs(x) < 0.7] = 0
        partner = np.sign(x) if rule == "neural" else x
        expected += 0.3 / len(y) * np.outer(example - a @ x, partner)
    np.testing.assert_allclose(moved, expected / np.linalg.norm(expected, axis=0), rtol=1e-12)
    np.testing.assert_allclose(y - codes.numpy() @ a.T, residual, rtol=1e-10, atol=1e-12)


def strokes(rng: np.random.Generator, count: int = 400) -> np.ndarray:
    """Non-negative examples made of two of eight patterns each."""
    patterns = (rng.random((8, 30)) < 0.3).astype(np.float32)
    chosen = np.array([rng.choice(8, 2, replace=False) for _ in range(count)])
    return patterns[chosen].sum(axis=1)


def batches_of(images: np.ndarray, size: int = 50):
    return lambda _: (tf.constant(images[start : start + size]) for start in range(0, len(images), size))


def test_threshold_follows_the_number_of_active_latents_aimed_at(rng: np.random.Generator) -> None:
    images = strokes(rng)
    model = NeuralDictionary(30, 16)
    program = NeuralCoding(model, images, batches_of(images), k=3, rate=0.1)
    for epoch in range(30):
        program.before_epoch(epoch)
        for batch in program.batches(epoch):
            scalars = program.step(batch)
    assert np.count_nonzero(model.encode(images)) / len(images) == pytest.approx(3, abs=0.6)
    np.testing.assert_allclose(np.linalg.norm(model.dictionary, axis=0), 1, rtol=1e-5)
    assert float(scalars["relative_residual"]) < 1


def test_the_graph_takes_raw_examples_and_does_the_mean_itself(rng: np.random.Generator) -> None:
    images = strokes(rng)
    model = NeuralDictionary(30, 16)
    NeuralCoding(model, images, batches_of(images), k=3)
    a, mean, cut = model.dictionary.numpy(), images.mean(axis=0), float(model.threshold.numpy())
    z = (images - mean) @ a
    x = np.where(np.abs(z) >= cut, z, 0)
    near = np.abs(np.abs(z) - cut).min(axis=1) < 1e-5
    np.testing.assert_allclose(model.encode(images)[~near], x[~near], atol=1e-5)
    np.testing.assert_allclose(model(images)[~near], (x @ a.T + mean)[~near], atol=1e-4)


def test_columns_unused_for_an_epoch_are_replaced_by_examples(
    rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    images = strokes(rng)
    images[:, 0] = 0
    model = NeuralDictionary(30, 16)
    program = NeuralCoding(model, images, batches_of(images), k=3, rate=0.1)
    useless = np.zeros(30)
    useless[0] = 1
    model.dictionary.assign(np.column_stack([useless, model.dictionary.numpy()[:, 1:]]))
    program.before_epoch(0)
    for batch in program.batches(0):
        program.step(batch)
    np.testing.assert_array_equal(model.dictionary.numpy()[:, 0], useless)
    with caplog.at_level(logging.INFO):
        program.before_epoch(1)
    assert "replaced 1 columns unused" in caplog.text
    column = model.dictionary.numpy()[:, 0]
    centred = images - images.mean(axis=0)
    assert np.max(centred @ column / np.linalg.norm(centred, axis=1)) == pytest.approx(1, abs=1e-5)


def test_a_growing_residual_is_told_as_too_large_a_step() -> None:
    guard = DivergenceGuard("mnist_neural", 1.0)
    for _ in range(40):
        guard.check(0.5)
    with pytest.raises(DivergenceError, match=r"mnist_neural: .*The step is too large: eta is 1 m/k"):
        for _ in range(40):
            guard.check(0.9)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_told_at_once(value: float) -> None:
    with pytest.raises(DivergenceError, match="Received"):
        DivergenceGuard("x", 0.3).check(value)


def test_a_falling_residual_is_fine() -> None:
    guard = DivergenceGuard("x", 0.3)
    for step in range(100):
        guard.check(1 / (1 + step))


def test_a_resumed_run_is_stopped_where_an_unbroken_one_is(rng: np.random.Generator, tmp_path: Path) -> None:
    images = np.eye(30, dtype=np.float32)
    unbroken, resumed = (NeuralCoding(NeuralDictionary(30, 30), images, batches_of(images), k=1) for _ in range(2))
    for batch in unbroken.batches(0):
        unbroken.step(batch)
    path = tf.train.Checkpoint(**unbroken.state).write(str(tmp_path / "checkpoint"))
    tf.train.Checkpoint(**resumed.state).read(path).assert_consumed()
    # far above the threshold: every column takes part in every example, and the dictionary is thrown about
    noise = tf.constant(10 * rng.standard_normal((50, 30)).astype(np.float32))
    messages = []
    for program in (unbroken, resumed):
        with pytest.raises(DivergenceError, match="over that of the first step") as stopped:
            for _ in range(20):
                program.step(noise)
        messages.append(str(stopped.value))
    assert messages[0] == messages[1]


def test_a_step_above_half_is_warned_of(rng: np.random.Generator, caplog: pytest.LogCaptureFixture) -> None:
    images = strokes(rng)
    with caplog.at_level(logging.WARNING):
        NeuralCoding(NeuralDictionary(30, 16), images, batches_of(images), k=3, rate=0.5, name="x")
        assert not caplog.text
        NeuralCoding(NeuralDictionary(30, 16), images, batches_of(images), k=3, rate=0.6, name="x")
    assert "x: eta of 0.6 m/k; above 0.5 m/k" in caplog.text


def test_a_k_that_is_no_sparsity_is_refused(rng: np.random.Generator) -> None:
    images = strokes(rng)
    with pytest.raises(ValueError, match=r"between 0 and 16 \(the latents\)\. Received: 16"):
        NeuralCoding(NeuralDictionary(30, 16), images, batches_of(images), k=16)


def test_the_program_of_the_source_is_its_formula(rng: np.random.Generator) -> None:
    images = strokes(rng)[:10]
    model = NeuralDictionary(30, 16, two_sided=False, seed=3)
    a = model.dictionary.numpy().astype(np.float64)
    program = NeuralProgram(model, batches_of(images, 10), learning_rate=0.01, weight_growth=0.003, batch_size=10)
    program.step(tf.constant(images))
    z = images @ a
    cut = np.sort(z, axis=1)[:, -5:].mean()
    x = np.where(z >= cut, z, 0)
    update = np.outer((images - x @ a.T).sum(axis=0), np.sign(x).sum(axis=0)) + 0.003 * a
    # the first step of Adam with corrections of 1 − β is α g / (|g| + ε), here upwards
    np.testing.assert_allclose(model.dictionary - a, 0.01 * update / (np.abs(update) + 1e-8), rtol=1e-4)
    assert float(model.threshold.numpy()) == pytest.approx(cut, rel=1e-5)
