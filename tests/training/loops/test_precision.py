from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from training.encoders.unet import unet
from training.loops.precision import computing_in


@pytest.fixture
def picture() -> tf.Tensor:
    return tf.constant(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)), tf.uint8)


def test_products_are_in_16_bits_inside_and_in_32_outside(picture: tf.Tensor) -> None:
    model = unet(4, (8, 8), 8)
    before = model(picture).numpy()
    convolution = model.get_layer("up1_2_conv")
    features = tf.random.stateless_normal((1, 8, 8, 8), (1, 2))
    with computing_in(model, "mixed_bfloat16"):
        assert convolution(features).dtype == tf.bfloat16
        inside = tf.cast(model(picture), tf.float32).numpy()
    assert convolution(features).dtype == tf.float32
    np.testing.assert_array_equal(model(picture), before)
    # bfloat16 has 8 significant bits
    assert 0 < np.abs(inside - before).max() < 0.1 * np.abs(before).max()


def test_weights_and_their_gradients_are_in_32_bits(picture: tf.Tensor) -> None:
    model = unet(4, (8, 8), 8)
    with computing_in(model, "mixed_bfloat16"), tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(tf.cast(model(picture, training=True), tf.float32)))
    gradients = tape.gradient(loss, model.trainable_variables)
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}
    assert {gradient.dtype for gradient in gradients} == {tf.float32}
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(picture, training=True)))
    exact = tape.gradient(loss, model.trainable_variables)
    one, other = (np.concatenate([each.numpy().ravel() for each in part]) for part in (gradients, exact))
    assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) > 0.95


def test_the_precision_is_back_after_an_error(picture: tf.Tensor) -> None:
    model = unet(4, (8, 8), 8)
    with pytest.raises(RuntimeError), computing_in(model, "mixed_bfloat16"):
        raise RuntimeError
    assert model(picture).dtype == tf.float32
