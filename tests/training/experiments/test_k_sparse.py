"""Where the k-sparse auto-encoder starts."""

import numpy as np
import pytest
import tensorflow as tf

from training.datasets.digits import DigitData
from training.experiments import EXPERIMENTS
from training.experiments.base import ExperimentError
from training.experiments.sparse_coding.strokes import NORM, WINDOW, stroke_dictionary


def test_strokes_are_parts_of_digits(digit_data: DigitData) -> None:
    dictionary = stroke_dictionary(digit_data.train_images, 50, seed=1)
    assert dictionary.shape == (784, 50)
    assert dictionary.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(dictionary, axis=0), NORM, rtol=1e-5)
    rows, columns = np.mgrid[:28, :28]
    for column in dictionary.T:
        energy = np.square(column).reshape(28, 28)
        middle = [(energy * places).sum() / energy.sum() for places in (rows, columns)]
        far = (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2 > (3 * WINDOW) ** 2
        assert energy[far].sum() < 0.01 * energy.sum()


def test_strokes_are_drawn_from_the_seed(digit_data: DigitData) -> None:
    one, again, other = (stroke_dictionary(digit_data.train_images, 20, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)


def test_blank_pictures_and_few_of_them_do_no_harm() -> None:
    images = np.zeros((3, 784), np.float32)
    assert not stroke_dictionary(images, 10, seed=0).any()
    images[0, 400] = 0.25  # no ink, but a brightest pixel
    assert np.isfinite(stroke_dictionary(images, 10, seed=0)).all()


def test_the_mean_digit_activates_nothing_at_the_start(digit_data: DigitData) -> None:
    experiment = EXPERIMENTS["mnist_k_sparse"].with_settings(
        {"start": "strokes", "latents": "64", "k": "8", "k_start": "16"}
    )
    model = experiment.build()
    experiment.program(model, digit_data)
    mean = digit_data.train_images.mean(axis=0, keepdims=True)
    np.testing.assert_allclose(model.activations(tf.constant(mean)), 0, atol=1e-5)
    np.testing.assert_allclose(model(tf.constant(mean)), mean, atol=1e-5)


def test_noise_is_the_paper_s_start(digit_data: DigitData) -> None:
    experiment = EXPERIMENTS["mnist_k_sparse"]
    model = experiment.build()
    experiment.program(model, digit_data)
    assert model.dictionary.numpy().std() == pytest.approx(0.01, rel=0.01)
    assert not model.decoder_bias.numpy().any()


def test_strokes_need_biases() -> None:
    with pytest.raises(ExperimentError, match=r"start=strokes .* needs biases=true\. Received: biases=false"):
        EXPERIMENTS["mnist_k_sparse"].with_settings({"start": "strokes", "biases": "false"})
