"""The hand-written gradients against central differences and against the tape, in float64."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training.conftest import TINY
from training.datasets.digits import DigitData
from training.encoders.k_sparse import KSparseAutoencoder
from training.encoders.sigmoid_autoencoder import SigmoidAutoencoder
from training.experiments import EXPERIMENTS
from training.experiments.base import ExperimentError
from training.runs import Run

CASES = {
    "plain": ("mnist_plain", {}),
    "plain without biases": ("mnist_plain", {"biases": "false"}),
    "l2": ("mnist_l2", {}),
    "kl": ("mnist_kl", {}),
    "kl without biases": ("mnist_kl", {"biases": "false", "weight_decay": "0"}),
    "k-sparse": ("mnist_k_sparse", {}),
    "k-sparse with decay": ("mnist_k_sparse", {"weight_decay": "0.003"}),
    "k-sparse, one threshold": ("mnist_k_sparse", {"selection": "batch", "biases": "false"}),
}
PROGRAM = ("mnist_k_sparse", {"gradient_half": "decoder", "biases": "false"})
MOVING = ("mnist_kl", {"activation_average": "moving"})


def small(case: tuple[str, dict[str, str]], rng: np.random.Generator) -> tuple[Any, keras.Model, tf.Tensor]:
    """Experiment, float64 model with weights that are anything but symmetric, and a batch."""
    name, settings = case
    experiment = EXPERIMENTS[name].with_settings(settings)
    if name == "mnist_k_sparse":
        model: keras.Model = KSparseAutoencoder(
            9, 12, 4, biases=experiment.biases, init_scale=0.5, seed=1, dtype="float64"
        )
    else:
        model = SigmoidAutoencoder(9, 6, biases=experiment.biases, seed=1, dtype="float64")
    for variable in model.trainable_variables:
        variable.assign(0.5 * rng.standard_normal(variable.shape))
    return experiment, model, tf.constant(rng.random((7, 9)))


def by_tape(experiment: Any, model: keras.Model, image: tf.Tensor) -> tuple[float, list[np.ndarray]]:
    with tf.GradientTape() as tape:
        loss = experiment.objective(model, image)["loss"]
    return float(loss), [gradient.numpy() for gradient in tape.gradient(loss, model.trainable_variables)]


def by_hand(experiment: Any, model: keras.Model, image: tf.Tensor) -> tuple[float, list[np.ndarray]]:
    scalars, gradients = experiment.backward(model, image)
    return float(scalars["loss"]), [gradient.numpy() for gradient in gradients]


def relative(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


@pytest.mark.parametrize("case", [*CASES.values(), PROGRAM, MOVING], ids=[*CASES, "program", "moving"])
def test_by_hand_is_by_tape(case: tuple[str, dict[str, str]], rng: np.random.Generator) -> None:
    experiment, model, image = small(case, rng)
    taped_loss, taped = by_tape(experiment, model, image)
    if isinstance(model, SigmoidAutoencoder):
        model.mean_activation.assign(tf.zeros_like(model.mean_activation))  # the taped pass has moved it
    loss, gradients = by_hand(experiment, model, image)
    assert loss == pytest.approx(taped_loss, rel=1e-13)
    assert len(gradients) == len(model.trainable_variables)
    for gradient, expected in zip(gradients, taped, strict=True):
        assert gradient.dtype == np.float64
        assert relative(gradient, expected) < 1e-12


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_by_hand_is_the_central_difference(case: tuple[str, dict[str, str]], rng: np.random.Generator) -> None:
    experiment, model, image = small(case, rng)
    _, gradients = by_hand(experiment, model, image)
    h = 1e-5
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        start = variable.numpy()
        differences = np.zeros_like(start)
        for index in np.ndindex(start.shape):
            sides = []
            for sign in (1, -1):
                moved = start.copy()
                moved[index] += sign * h
                variable.assign(moved)
                sides.append(float(experiment.objective(model, image)["loss"]))
            differences[index] = (sides[0] - sides[1]) / (2 * h)
        variable.assign(start)
        assert relative(gradient, differences) < 1e-7


def test_the_program_leaves_half_of_the_gradient_out(rng: np.random.Generator) -> None:
    experiment, model, image = small(PROGRAM, rng)
    _, (half,) = by_hand(experiment, model, image)
    z = image.numpy() @ model.dictionary.numpy()
    a = np.where(z >= np.sort(z, axis=1)[:, -4, None], z, 0)
    np.testing.assert_allclose(half, (a @ model.dictionary.numpy().T - image).numpy().T @ a / 7, rtol=1e-10)
    whole = dataclasses.replace(experiment, gradient_half="both")
    assert relative(half, by_hand(whole, model, image)[1][0]) > 0.1


def test_a_moving_average_remembers(rng: np.random.Generator) -> None:
    experiment, model, image = small(MOVING, rng)
    by_hand(experiment, model, image)
    first = model.encode(image).numpy().mean(axis=0)
    np.testing.assert_allclose(model.mean_activation, first, rtol=1e-12)
    other = 1 - image
    by_hand(experiment, model, other)
    second = model.encode(other).numpy().mean(axis=0)
    np.testing.assert_allclose(model.mean_activation, 0.99 * first + 0.01 * second, rtol=1e-12)


@pytest.mark.parametrize("name", ["mnist_plain", "mnist_l2", "mnist_kl", "mnist_k_sparse"])
def test_both_ways_of_training_end_with_the_same_weights(tmp_path: Path, digit_data: DigitData, name: str) -> None:
    weights = {}
    for way in ("auto", "manual"):
        experiment = EXPERIMENTS[name].with_preset("quick").with_settings({**TINY[name], "gradients": way})
        run = Run(experiment, digit_data, tmp_path / way)
        run.train()
        weights[way] = run.model().get_weights()
    for auto, manual in zip(weights["auto"], weights["manual"], strict=True):
        # six steps of Adam in float32: the sign of a gradient near 0 decides over a whole step
        np.testing.assert_allclose(manual, auto, atol=2e-5)


def test_there_is_nothing_to_differentiate_in_the_neural_rule() -> None:
    with pytest.raises(ExperimentError, match=r"mnist_neural: .*gradients must be manual\. Received: 'auto'"):
        EXPERIMENTS["mnist_neural"].with_settings({"gradients": "auto"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gradient_half": "decoder"}, r"needs biases=false\. Received: biases=true"),
        ({"decay": "decoupled"}, r"needs bias_correction=constant\. Received: 'fading'"),
        ({"gradients": "numeric"}, r"one of auto, manual\. Received: 'numeric'"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        EXPERIMENTS["mnist_k_sparse"].with_settings(settings)
