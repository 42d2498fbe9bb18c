from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit

from tests.training.conftest import TINY
from training.datasets.digits import DigitData
from training.experiments import EXPERIMENTS
from training.experiments.autoencoder_family import Bernoulli, L1Activity, Variational, decoded_plane
from training.experiments.denoising import Denoising
from training.noise import EVALUATION, kept_values
from training.runs import Run

SMALL: Mapping[str, Any] = {
    "mnist_denoising": {"latents": "6"},
    "mnist_l1_activity": {"widths": "5", "l1": "0.01"},
    "mnist_undercomplete": {"widths": "6,3"},
    "mnist_variational": {"widths": "6"},
}


@pytest.fixture
def double_precision() -> Iterator[None]:
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def small(name: str) -> Any:
    return EXPERIMENTS[name].with_settings(SMALL[name])


def batch_for(experiment: Any, rng: np.random.Generator) -> Any:
    image = tf.constant(rng.random((4, 784)))
    if isinstance(experiment, Denoising):
        return image, tf.constant((rng.random((4, 784)) < 0.7).astype(float))
    if isinstance(experiment, Variational):
        return image, tf.constant(rng.standard_normal((4, 2)))
    return image


def crossentropy(x: np.ndarray, logits: np.ndarray) -> float:
    p = expit(logits)
    return float(np.mean(np.sum(-x * np.log(p) - (1 - x) * np.log(1 - p), axis=1)))


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_denoising_objective_is_that_of_the_source_and_its_gradients_by_hand_are_those_of_the_tape(
    rng: np.random.Generator, reduction: str
) -> None:
    experiment = small("mnist_denoising").with_settings({"reduction": reduction, "batch_size": "4"})
    model = experiment.build()
    model.encoder_bias.assign(rng.standard_normal(6))
    model.decoder_bias.assign(rng.standard_normal(784))
    image, kept = batch_for(experiment, rng)
    with tf.GradientTape() as tape:
        loss = experiment.objective(model, (image, kept))["loss"]
    by_tape = tape.gradient(loss, model.trainable_variables)
    scalars, by_hand = experiment.backward(model, (image, kept))

    W, b, c = (variable.numpy() for variable in (model.dictionary, model.encoder_bias, model.decoder_bias))
    rebuilt = expit(expit((image.numpy() * kept.numpy()) @ W + b) @ W.T + c)
    expected = np.sum((rebuilt - image.numpy()) ** 2) / (4 if reduction == "mean" else 1)
    assert float(loss) == pytest.approx(expected, rel=1e-12)
    assert float(scalars["loss"]) == pytest.approx(expected, rel=1e-12)
    for one, other in zip(by_tape, by_hand, strict=True):
        np.testing.assert_allclose(other, tf.convert_to_tensor(one), rtol=1e-9, atol=1e-13)


def test_denoising_by_hand_trains_as_the_tape_does(tmp_path: Path, digit_data: DigitData) -> None:
    weights = []
    for gradients in ("auto", "manual"):
        settings = {**TINY["mnist_denoising"], "gradients": gradients}
        run = Run(EXPERIMENTS["mnist_denoising"].with_settings(settings), digit_data, tmp_path / gradients)
        run.train()
        weights.append(run.model().get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_sum_over_the_batch_is_the_mean_at_a_rate_as_much_larger(rng: np.random.Generator) -> None:
    mean = small("mnist_denoising").with_settings({"batch_size": "4"})
    total = mean.with_settings({"reduction": "sum"})
    model = mean.build()
    image, kept = batch_for(mean, rng)
    batch = tf.cast(image, tf.float32), tf.cast(kept, tf.float32)
    one, other = mean.objective(model, batch), total.objective(model, batch)
    assert float(other["loss"]) == pytest.approx(4 * float(one["loss"]))
    assert float(other["squared_error"]) == float(one["squared_error"])


def test_blog_preset_is_the_program_of_the_source(rng: np.random.Generator) -> None:
    blog = EXPERIMENTS["mnist_denoising"].with_preset("blog")
    assert (blog.epochs, blog.batch_size, blog.learning_rate, blog.reduction) == (100, 128, 0.02, "sum")
    assert blog.warm_up == 0
    images = rng.random((300, 784)).astype(np.float32)
    given = [image.numpy() for image, _ in blog.noisy_batches(images, epoch=3)]
    np.testing.assert_array_equal(np.concatenate(given), images[:256])


def test_rate_rises_over_the_first_steps(digit_data: DigitData) -> None:
    experiment = small("mnist_denoising").with_settings({"warm_up": "10", "batch_size": "15"})
    program = experiment.program(experiment.build(), digit_data)
    optimizer = program.state["optimizer"]
    rates = [float(optimizer.learning_rate)]
    for batch in program.batches(0):
        program.step(batch)
        rates.append(float(optimizer.learning_rate))
    np.testing.assert_allclose(rates[:11], np.linspace(0.0256, 2.56, 11), rtol=1e-5)
    np.testing.assert_allclose(rates[11:], 2.56)


def test_noise_of_a_batch_depends_on_epoch_and_step_and_comes_again(rng: np.random.Generator) -> None:
    experiment = small("mnist_denoising").with_settings({"batch_size": "10"})
    images = rng.random((25, 784)).astype(np.float32)

    def masks(epoch: int) -> list[np.ndarray]:
        return [kept.numpy() for _, kept in experiment.noisy_batches(images, epoch)]

    assert [len(mask) for mask in masks(0)] == [10, 10, 5]
    for one, again in zip(masks(0), masks(0), strict=True):
        np.testing.assert_array_equal(one, again)
    first, second = masks(0)[:2]
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, masks(1)[0])


def test_corrupted_digits_of_the_scores_are_the_same_for_every_seed(digit_data: DigitData) -> None:
    one, other = (small("mnist_denoising").with_settings({"seed": seed}) for seed in ("1", "2"))
    images = digit_data.test_images
    np.testing.assert_array_equal(one.corrupted(images), other.corrupted(images))
    mask = kept_values(images.shape, 0.7, EVALUATION).numpy()
    np.testing.assert_array_equal(one.corrupted(images), images * mask)


@pytest.mark.usefixtures("double_precision")
def test_l1_objective_is_crossentropy_of_a_pixel_plus_activity_of_an_example(rng: np.random.Generator) -> None:
    experiment: L1Activity = small("mnist_l1_activity")
    model = experiment.build()
    x = batch_for(experiment, rng)
    (W1, b1), (W2, b2) = (layer.get_weights() for layer in (model.encoder.layers[0], model.decoder.layers[0]))
    a = np.maximum(x.numpy() @ W1 + b1, 0)
    expected = crossentropy(x.numpy(), a @ W2 + b2) / 784 + 0.01 * np.abs(a).sum() / 4
    assert float(experiment.objective(model, x)["loss"]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.usefixtures("double_precision")
def test_deep_objective_goes_down_and_up_through_every_layer(rng: np.random.Generator) -> None:
    experiment: Bernoulli = small("mnist_undercomplete")
    model = experiment.build()
    x = batch_for(experiment, rng)
    values = x.numpy()
    kernels = [layer.get_weights() for layer in (*model.encoder.layers, *model.decoder.layers)]
    assert [kernel.shape for kernel, _ in kernels] == [(784, 6), (6, 3), (3, 6), (6, 784)]
    for kernel, bias in kernels[:-1]:
        values = np.maximum(values @ kernel + bias, 0)
    expected = crossentropy(x.numpy(), values @ kernels[-1][0] + kernels[-1][1]) / 784
    assert float(experiment.objective(model, x)["loss"]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.usefixtures("double_precision")
def test_variational_objective_is_the_bound_with_one_log_variance(rng: np.random.Generator) -> None:
    experiment: Variational = small("mnist_variational")
    model = experiment.build()
    image, noise = batch_for(experiment, rng)
    x, epsilon = image.numpy(), noise.numpy()
    hidden, heads = (layer.get_weights() for layer in model.encoder.layers)
    both = np.tanh(x @ hidden[0] + hidden[1]) @ heads[0] + heads[1]
    mean, log_variance = both[:, :2], both[:, 2:]
    sigma = np.sqrt(np.exp(log_variance))
    up, out = (layer.get_weights() for layer in model.decoder.layers)
    logits = np.tanh((mean + sigma * epsilon) @ up[0] + up[1]) @ out[0] + out[1]
    kl = np.mean(np.sum(-np.log(sigma) + (sigma**2 + mean**2 - 1) / 2, axis=1))
    scalars = experiment.objective(model, (image, noise))
    assert float(scalars["kl_nats"]) == pytest.approx(kl, rel=1e-10)
    assert float(scalars["reconstruction_nats"]) == pytest.approx(crossentropy(x, logits), rel=1e-12)
    assert float(scalars["loss"]) == pytest.approx(crossentropy(x, logits) + kl, rel=1e-12)
    np.testing.assert_allclose(model.encode(image), mean, rtol=1e-12)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", ["mnist_denoising", "mnist_l1_activity", "mnist_variational"])
def test_gradient_along_random_directions_agrees_with_central_differences(rng: np.random.Generator, name: str) -> None:
    experiment = small(name)
    model = experiment.build()
    batch = batch_for(experiment, rng)
    variables = model.trainable_variables
    with tf.GradientTape() as tape:
        loss = experiment.objective(model, batch)["loss"]
    gradients = [tf.convert_to_tensor(gradient).numpy() for gradient in tape.gradient(loss, variables)]
    start = [variable.numpy() for variable in variables]
    # small enough that none of the few rectified units crosses its kink on the way
    h = 1e-6
    for _ in range(3):
        direction = [rng.standard_normal(value.shape) for value in start]
        numeric = 0.0
        for sign in (1, -1):
            for variable, value, step in zip(variables, start, direction, strict=True):
                variable.assign(value + sign * h * step)
            numeric += sign * float(experiment.objective(model, batch)["loss"]) / (2 * h)
        slope = sum(float(np.sum(one * other)) for one, other in zip(gradients, direction, strict=True))
        assert numeric == pytest.approx(slope, rel=1e-7)


@pytest.mark.parametrize("name", ["mnist_denoising", "mnist_variational"])
def test_noisy_training_that_was_cut_ends_with_the_same_weights(
    tmp_path: Path, digit_data: DigitData, name: str
) -> None:
    experiment = EXPERIMENTS[name].with_settings({**TINY[name], "epochs": "3"})
    whole, cut = (Run(experiment, digit_data, tmp_path / place) for place in ("whole", "cut"))
    whole.train()
    cut.train(stop_after=2)
    cut.train()
    for one, other in zip(whole.model().get_weights(), cut.model().get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_decoded_plane_grows_to_the_right_and_upwards() -> None:
    model = small("mnist_variational").build()
    plane = decoded_plane(model)
    assert plane.shape == (15, 15, 784)
    quantile = 1.6448536
    corners = {(0, 0): (-1, 1), (0, 14): (1, 1), (14, 0): (-1, -1), (14, 14): (1, -1), (7, 7): (0, 0)}
    for (row, column), signs in corners.items():
        code = tf.constant([signs], tf.float32) * quantile
        np.testing.assert_allclose(plane[row, column], tf.sigmoid(model.decode_logits(code))[0], atol=1e-5)
