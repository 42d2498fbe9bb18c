from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.encoders.convolutional import ConvolutionalAutoencoder, Repeat2x
from training.encoders.dense import DenseAutoencoder
from training.encoders.sparse_filtering import SparseFilteringEncoder
from training.encoders.tied_sigmoid import TiedSigmoidAutoencoder
from training.encoders.variational import VariationalAutoencoder, reparameterised

MODELS: dict[str, Callable[..., keras.Model]] = {
    "tied_sigmoid": lambda **options: TiedSigmoidAutoencoder(784, 12, **options),
    "dense": lambda **options: DenseAutoencoder(784, (16, 12), **options),
    "convolutional": lambda **options: ConvolutionalAutoencoder((4, 3, 2), **options),
    "variational": lambda **options: VariationalAutoencoder(784, 2, (12,), **options),
    "sparse_filtering": lambda **options: SparseFilteringEncoder(784, 12, **options),
}


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray:
    return rng.random((9, 784)).astype(np.float32)


@pytest.mark.parametrize("name", MODELS)
def test_inference_knows_no_noise_and_no_neighbours(name: str, images: np.ndarray) -> None:
    model = MODELS[name]()
    for function in (model.encode, lambda image: model(image, training=False)):
        whole = np.asarray(function(images))
        assert len(whole) == 9
        np.testing.assert_array_equal(whole, function(images))
        np.testing.assert_allclose(np.asarray(function(images[4:5])), whole[4:5], atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_models_survive_keras_saving(name: str, images: np.ndarray, tmp_path: Path) -> None:
    model = MODELS[name](seed=5)
    model.set_weights([weight + np.float32(0.01) for weight in model.get_weights()])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.encode(images), model.encode(images))
    np.testing.assert_array_equal(again(images), model(images))


@pytest.mark.parametrize("name", MODELS)
def test_seed_decides_the_weights(name: str) -> None:
    one, same, other = (MODELS[name](seed=seed).get_weights() for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", ["dense", "convolutional", "variational"])
def test_no_two_layers_start_with_the_same_numbers(name: str) -> None:
    kernels = [weight.ravel()[:6] for weight in MODELS[name]().get_weights() if weight.ndim > 1]
    scaled = [kernel / np.abs(kernel).max() for kernel in kernels]
    assert all(not np.allclose(a, b) for i, a in enumerate(scaled) for b in scaled[:i])


@pytest.mark.parametrize("name", ["tied_sigmoid", "dense", "variational", "sparse_filtering"])
def test_dictionary_has_a_picture_in_each_column(name: str) -> None:
    dictionary = MODELS[name]().dictionary.numpy()
    assert dictionary.shape[0] == 784


def test_convolutional_latents_are_four_by_four_places_with_the_channels_of_a_place_together() -> None:
    model = ConvolutionalAutoencoder((4, 3, 2), seed=1)
    image = np.zeros((1, 28, 28), np.float32)
    image[0, :6, :6] = 1  # the top left corner
    blank, corner = (model.encode(picture.reshape(1, 784)).numpy() for picture in (np.zeros_like(image), image))
    assert blank.shape == (1, 32)
    changed = np.abs(corner - blank).reshape(4, 4, 2).sum(axis=2) > 1e-6
    assert changed[0, 0]
    assert not changed[2:, :].any()
    assert not changed[:, 2:].any()


def test_repeating_is_repeating(rng: np.random.Generator) -> None:
    image = rng.random((2, 3, 5, 4)).astype(np.float32)
    np.testing.assert_array_equal(Repeat2x()(image), image.repeat(2, axis=1).repeat(2, axis=2))


def test_drawn_latents_have_the_mean_and_the_variance_they_should(rng: np.random.Generator) -> None:
    noise = rng.standard_normal((200_000, 2))
    mean, log_variance = np.array([[1.0, -2.0]]), np.array([[0.5, -1.0]])
    drawn = reparameterised(tf.constant(mean), tf.constant(log_variance), tf.constant(noise)).numpy()
    np.testing.assert_allclose(drawn.mean(axis=0), mean[0], atol=0.02)
    np.testing.assert_allclose(drawn.var(axis=0), np.exp(log_variance[0]), rtol=0.02)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DenseAutoencoder(784, ()), "widths must hold one number"),
        (lambda: VariationalAutoencoder(784, 2, ()), "widths must hold one number"),
        (lambda: ConvolutionalAutoencoder((8, 4)), r"three numbers.*Received: \(8, 4\)"),
    ],
)
def test_architectures_without_their_layers_are_refused(build: Callable[[], keras.Model], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
