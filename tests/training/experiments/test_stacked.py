from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit
from scipy.stats import entropy

from tests.training.conftest import TINY
from training.datasets.digits import DigitData
from training.encoders.stacked import StackedAutoencoder
from training.experiments import EXPERIMENTS
from training.experiments.base import ExperimentError
from training.experiments.stacked import Stacked
from training.runs import Run

STAGES = ("layer_1", "layer_2", "classifier", "fine_tuning", "decoders")


@pytest.fixture
def double_precision() -> Iterator[None]:
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def tiny() -> Stacked:
    experiment: Stacked = EXPERIMENTS["mnist_stacked"].with_settings(TINY["mnist_stacked"])
    return experiment


def oracle_layer_cost(model: StackedAutoencoder, level: int, image: np.ndarray, experiment: Stacked) -> float:
    """The cost of one level in NumPy, from the layers' weights."""
    for encoder in model.encoders[:level]:
        kernel, bias = encoder.get_weights()
        image = expit(image @ kernel + bias)
    (W1, b1), (W2, b2) = model.encoders[level].get_weights(), model.decoders[level].get_weights()
    a = expit(image @ W1 + b1)
    rebuilt = expit(a @ W2 + b2)
    divergence = sum(entropy([0.1, 0.9], [share, 1 - share]) for share in a.mean(axis=0))
    error = np.mean(np.sum((rebuilt - image) ** 2, axis=1)) / 2
    return float(error + experiment.weight_decay / 2 * (np.sum(W1**2) + np.sum(W2**2)) + 3.0 * divergence)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("level", [0, 1])
def test_layer_cost_is_that_of_the_notes(rng: np.random.Generator, level: int) -> None:
    experiment = tiny()
    model = experiment.build()
    image = rng.random((7, 784))
    value = float(experiment.layer_objective(model, level, tf.constant(image))["loss"])
    assert value == pytest.approx(oracle_layer_cost(model, level, image, experiment), rel=1e-12)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("level", [0, 1])
def test_gradient_of_a_layer_agrees_with_its_hand_derived_form(rng: np.random.Generator, level: int) -> None:
    experiment = tiny()
    model = experiment.build()
    image = tf.constant(rng.random((7, 784)))
    encoder, decoder = model.encoders[level], model.decoders[level]
    with tf.GradientTape() as tape:
        loss = experiment.layer_objective(model, level, image)["loss"]
    by_tape = tape.gradient(loss, [encoder.kernel, encoder.bias, decoder.kernel, decoder.bias])

    x = model.encode_to(image, level).numpy()
    (W1, b1), (W2, b2) = encoder.get_weights(), decoder.get_weights()
    a = expit(x @ W1 + b1)
    rebuilt = expit(a @ W2 + b2)
    delta3 = (rebuilt - x) * rebuilt * (1 - rebuilt)
    share = a.mean(axis=0)
    delta2 = (delta3 @ W2.T + 3.0 * (-0.1 / share + 0.9 / (1 - share))) * a * (1 - a)
    by_hand = (x.T @ delta2 / 7 + 3e-3 * W1, delta2.mean(axis=0), a.T @ delta3 / 7 + 3e-3 * W2, delta3.mean(axis=0))
    for one, other in zip(by_tape, by_hand, strict=True):
        np.testing.assert_allclose(tf.convert_to_tensor(one), other, rtol=1e-9, atol=1e-13)


def test_each_stage_trains_its_own_weights_alone(digit_data: DigitData) -> None:
    experiment = tiny()
    model = experiment.build()
    parts = {
        "encoder 1": model.encoders[0], "encoder 2": model.encoders[1], "decoder 1": model.decoders[0],
        "decoder 2": model.decoders[1], "softmax": model.classifier,
    }  # fmt: skip
    expected = {
        "layer_1": {"encoder 1", "decoder 1"},
        "layer_2": {"encoder 2", "decoder 2"},
        "classifier": {"softmax"},
        "fine_tuning": {"encoder 1", "encoder 2", "softmax"},
        "decoders": {"decoder 1", "decoder 2"},
    }
    program = experiment.program(model, digit_data)
    for epoch, stage in enumerate(STAGES):
        before = {name: layer.get_weights() for name, layer in parts.items()}
        program.before_epoch(epoch)
        for batch in program.batches(epoch):
            program.step(batch)
        changed = {name for name, layer in parts.items() if not np.array_equal(layer.get_weights()[0], before[name][0])}
        assert changed == expected[stage], stage


def test_pretrained_copy_is_taken_between_classifier_and_fine_tuning(digit_data: DigitData) -> None:
    experiment = tiny()
    model = experiment.build()
    program = experiment.program(model, digit_data)
    for epoch in range(3):
        program.before_epoch(epoch)
        for batch in program.batches(epoch):
            program.step(batch)
    before = model.recogniser.get_weights()
    program.before_epoch(3)
    for batch in program.batches(3):
        program.step(batch)
    for kept, then, now in zip(model.pretrained.get_weights(), before, model.recogniser.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, then)
        assert not np.array_equal(kept, now)


@pytest.mark.parametrize("cut", [1, 3, 4])
def test_a_run_that_was_cut_at_a_border_of_stages_ends_with_the_same_weights(
    tmp_path: Path, digit_data: DigitData, cut: int
) -> None:
    whole, resumed = (Run(tiny(), digit_data, tmp_path / place) for place in ("whole", "resumed"))
    whole.train()
    resumed.train(stop_after=cut)
    resumed.train()
    for one, other in zip(whole.model().get_weights(), resumed.model().get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_reconstruction_goes_through_the_decoders_in_opposite_order(rng: np.random.Generator) -> None:
    model = StackedAutoencoder(9, (6, 4, 3), classes=2, seed=2)
    values = image = rng.random((5, 9)).astype(np.float32)
    for layer in (*model.encoders, *reversed(model.decoders)):
        kernel, bias = layer.get_weights()
        values = expit(values @ kernel + bias)
    np.testing.assert_allclose(model(image), values, atol=1e-6)
    np.testing.assert_allclose(model.decode(model.encode(image)), values, atol=1e-6)
    kernel, bias = model.classifier.get_weights()
    np.testing.assert_allclose(model.classify(image), model.encode(image) @ kernel + bias, atol=1e-6)


def test_model_survives_keras_saving(rng: np.random.Generator, tmp_path: Path) -> None:
    model = StackedAutoencoder(9, (6, 4), classes=2)
    model.set_weights([weight + np.float32(0.01) * index for index, weight in enumerate(model.get_weights())])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    image = rng.random((5, 9)).astype(np.float32)
    for function in ("encode", "__call__", "classify", "pretrained"):
        np.testing.assert_array_equal(getattr(again, function)(image), getattr(model, function)(image))


def test_epochs_that_are_not_the_sum_over_the_stages_are_refused() -> None:
    with pytest.raises(ExperimentError, match=r"classifier_epochs \+ .* = 100\. Received: 7"):
        EXPERIMENTS["mnist_stacked"].with_settings({"epochs": "7"})


@pytest.mark.parametrize(("label", "highest"), [(0, 0), (10, 10)])
def test_digits_without_classes_or_with_too_many_are_refused(digit_data: DigitData, label: int, highest: int) -> None:
    labels = np.full_like(digit_data.train_labels, label)
    if label:
        labels[0] = 0
    data = dataclasses.replace(digit_data, train_labels=labels)
    with pytest.raises(ExperimentError, match=rf"labelled 0\.\.9 .*Received: labels up to {highest}"):
        tiny().program(tiny().build(), data)


def test_a_stack_without_a_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="widths must hold one number"):
        StackedAutoencoder(9, ())
