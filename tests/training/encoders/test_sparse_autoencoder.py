from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.encoders.sparse_autoencoder import (
    BatchTopKAutoencoder,
    JumpReluAutoencoder,
    SparseAutoencoder,
    TopKAutoencoder,
)


def top_k() -> SparseAutoencoder:
    return TopKAutoencoder(visible=12, latents=20, k=5, seed=3)


def batch_top_k() -> SparseAutoencoder:
    return BatchTopKAutoencoder(visible=12, latents=20, k=5, seed=3)


def jump_relu() -> SparseAutoencoder:
    return JumpReluAutoencoder(visible=12, latents=20, bandwidth=0.1, initial_threshold=0.3, seed=3)


KINDS = [top_k, batch_top_k, jump_relu]


def shaken(model: SparseAutoencoder, rng: np.random.Generator) -> SparseAutoencoder:
    """``model`` with biases and thresholds that are not 0."""
    model.b_enc.assign(rng.standard_normal(20) * 0.1)
    model.b_dec.assign(rng.random(12) * 0.3)
    if isinstance(model, BatchTopKAutoencoder):
        model.threshold.assign(0.2)
    if isinstance(model, JumpReluAutoencoder):
        model.log_threshold.assign(np.log(rng.uniform(0.1, 0.4, 20)))
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_the_start_is_a_dictionary_of_unit_rows_with_the_encoder_as_its_transpose(kind) -> None:
    model = kind()
    np.testing.assert_allclose(np.linalg.norm(model.W_dec, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(model.W_enc, np.transpose(model.W_dec))
    np.testing.assert_array_equal(model.dictionary, np.transpose(model.W_dec))


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_its_equations(kind, rng: np.random.Generator) -> None:
    model = shaken(kind(), rng)
    x = rng.random((6, 12)).astype(np.float32)
    pre = (x - model.b_dec) @ model.W_enc.numpy() + model.b_enc
    if kind is top_k:
        z = np.where(pre >= np.sort(pre, axis=1)[:, -5, None], np.maximum(pre, 0), 0)
    elif kind is batch_top_k:
        z = np.where(pre > 0.2, pre, 0)
    else:
        z = np.where(pre > np.exp(model.log_threshold), pre, 0)
    assert 0 < np.count_nonzero(z) < z.size
    np.testing.assert_allclose(model.encode(x), z, atol=1e-6)
    np.testing.assert_allclose(model(x), z @ model.W_dec.numpy() + model.b_dec, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_an_example_does_not_depend_on_its_batch(kind, rng: np.random.Generator) -> None:
    model = shaken(kind(), rng)
    x = rng.random((9, 12)).astype(np.float32)
    whole = model(x).numpy()
    np.testing.assert_allclose(np.concatenate([model(row[None]) for row in x]), whole, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_biases_that_move_less_than_the_margin_change_no_set_of_active_latents(kind, rng: np.random.Generator) -> None:
    model = shaken(kind(), rng)
    x = rng.random((60, 12)).astype(np.float32)
    margin, active = model.margin(x).numpy(), model.encode(x).numpy() > 0
    shift = float(np.median(margin))
    model.b_enc.assign_add(shift * 0.49 * rng.choice([-1.0, 1.0], 20))
    after = model.encode(x).numpy() > 0
    far = margin > shift
    np.testing.assert_array_equal(after[far], active[far])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_stay_at_length_one_through_an_optimiser(kind, rng: np.random.Generator) -> None:
    model, optimizer = kind(), keras.optimizers.Adam(0.1)
    x = rng.random((8, 12)).astype(np.float32)
    for _ in range(3):
        with tf.GradientTape() as tape:
            latents = model.sparse_in_training(model.preactivations(x))
            loss = tf.reduce_mean(tf.square(x - model.decode(latents, training=True)))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        np.testing.assert_allclose(np.linalg.norm(model.W_dec, axis=1), 1, rtol=1e-5)


def test_idle_counts_examples_since_a_latent_fired() -> None:
    model = top_k()
    latents = np.zeros((7, 20), np.float32)
    latents[2, 4] = 1
    model.count_idle(latents)
    model.count_idle(np.zeros((3, 20), np.float32))
    expected = np.full(20, 10)
    expected[4] = 3
    np.testing.assert_array_equal(model.idle, expected)


def test_the_threshold_is_a_moving_average_of_the_smallest_value_kept(rng: np.random.Generator) -> None:
    model = BatchTopKAutoencoder(visible=12, latents=20, k=5, threshold_rate=0.25)
    expected = 0.0
    for count in range(4):
        pre = rng.standard_normal((8, 20)).astype(np.float32)
        kept = model.sparse_in_training(pre).numpy()
        smallest = kept[kept > 0].min()
        expected = smallest if count == 0 else 0.75 * expected + 0.25 * smallest
    assert float(model.threshold) == pytest.approx(expected, rel=1e-6)


def test_a_batch_in_which_nothing_fires_leaves_the_threshold_alone(rng: np.random.Generator) -> None:
    model = shaken(batch_top_k(), rng)
    model.sparse_in_training(tf.fill((3, 20), -1.0))
    assert float(model.threshold) == pytest.approx(0.2)


def test_jump_relu_counts_its_active_latents(rng: np.random.Generator) -> None:
    model = shaken(jump_relu(), rng)
    x = rng.random((6, 12)).astype(np.float32)
    expected = np.count_nonzero(model.encode(x), axis=1).mean()
    assert float(model.active(model.preactivations(x))) == pytest.approx(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_it_survives_keras_saving(kind, tmp_path, rng: np.random.Generator) -> None:
    model = shaken(kind(), rng)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    x = rng.random((6, 12)).astype(np.float32)
    np.testing.assert_array_equal(again.encode(x), model.encode(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TopKAutoencoder(12, 20, 0), "1..20"),
        (lambda: BatchTopKAutoencoder(12, 20, 21), r"1\.\.20 .*Received: 21"),
        (lambda: JumpReluAutoencoder(12, 20, bandwidth=0.0, initial_threshold=0.1), "bandwidth=0.0"),
    ],
)
def test_impossible_settings_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
