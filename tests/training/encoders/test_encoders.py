from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.encoders.k_sparse import KSparseAutoencoder
from training.encoders.unet import unet, with_quarter_head


def test_k_sparse_is_its_equations(rng: np.random.Generator) -> None:
    model = KSparseAutoencoder(visible=12, latents=20, k=5, alpha=2.0, init_scale=0.5, seed=3)
    model.encoder_bias.assign(rng.standard_normal(20))
    model.decoder_bias.assign(rng.standard_normal(12))
    x = rng.random((6, 12)).astype(np.float32)
    w, b, c = (variable.numpy() for variable in (model.dictionary, model.encoder_bias, model.decoder_bias))
    z = x @ w + b

    def kept(k: int) -> np.ndarray:
        cut = np.sort(z, axis=1)[:, -k, None]
        return np.where(z >= cut, z, 0)

    np.testing.assert_allclose(model(x), kept(5) @ w.T + c, atol=1e-5)
    np.testing.assert_allclose(model.encode(x), kept(10), atol=1e-5)


def test_k_sparse_with_alpha_one_reconstructs_from_its_own_encoding(rng: np.random.Generator) -> None:
    model = KSparseAutoencoder(visible=12, latents=20, k=5)
    x = rng.random((6, 12)).astype(np.float32)
    np.testing.assert_array_equal(model.decode(model.encode(x)), model(x))


@pytest.mark.parametrize(
    ("k", "alpha", "message"), [(0, 1.0, "1..20"), (21, 1.0, "1..20"), (15, 2.0, "alpha=2.0, k=15")]
)
def test_k_sparse_refuses_more_latents_than_there_are(k: int, alpha: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KSparseAutoencoder(visible=12, latents=20, k=k, alpha=alpha)


def test_k_sparse_survives_keras_saving(tmp_path, rng: np.random.Generator) -> None:
    model = KSparseAutoencoder(visible=12, latents=20, k=5, alpha=1.4)
    model.encoder_bias.assign(rng.standard_normal(20))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    x = rng.random((6, 12)).astype(np.float32)
    np.testing.assert_array_equal(again.encode(x), model.encode(x))


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (160, 32)])
def test_unet_takes_any_multiple_of_32(size: tuple[int, int]) -> None:
    model = unet(4, (8, 8, 8, 8), 8)
    assert model(tf.zeros((2, *size, 3), tf.uint8)).shape == (2, *size, 1)


def test_unet_is_small_enough() -> None:
    assert unet().count_params() <= 1_000_000


def test_unet_seed_decides_its_weights() -> None:
    one, same, other = (unet(4, (4, 8), 8, seed=seed).get_weights() for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[0], other[0])


def test_unet_layers_of_one_shape_start_differently() -> None:
    model = unet(8, (8, 8), 8)
    kernels = [w for w in model.get_weights() if w.shape == (3, 3, 8, 8)]
    assert len(kernels) >= 2
    assert not np.array_equal(kernels[0], kernels[1])


def test_the_quarter_head_is_beside_the_unet_and_not_in_it() -> None:
    model = unet(4, (8, 8), 8)
    before = len(model.weights)
    pair = with_quarter_head(model)
    picture = tf.random.stateless_uniform((2, 64, 96, 3), (1, 2), 0, 255, tf.int32)
    logits, quarter = pair(tf.cast(picture, tf.uint8))
    assert (logits.shape, quarter.shape) == ((2, 64, 96, 1), (2, 16, 24, 1))
    np.testing.assert_array_equal(logits, model(tf.cast(picture, tf.uint8)))
    assert (len(model.weights), len(pair.weights)) == (before, before + 2)
    assert all(any(weight is other for other in pair.weights) for weight in model.weights)
