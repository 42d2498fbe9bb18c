from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.optimize import minimize_scalar

from training.loops.redrawing import constant_loss, redraw
from training.losses.segmentation import binary_crossentropy, squared_error


def test_no_constant_answer_has_a_smaller_loss(rng: np.random.Generator) -> None:
    mask = tf.constant((rng.random((3, 8, 8, 1)) < 0.2).astype(np.float32))

    def loss(logit: float) -> float:
        logits = tf.fill(mask.shape, np.float32(logit))
        return float(binary_crossentropy(mask, logits) + squared_error(mask, logits))

    best = minimize_scalar(loss, bracket=(-3, 0))
    assert float(constant_loss(mask)) == pytest.approx(best.fun, rel=1e-5)


def dense(seed: int) -> keras.Model:
    return keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2, kernel_initializer=keras.initializers.RandomNormal(seed=seed))]
    )


def test_what_is_drawn_again_trains_as_if_it_were_new(rng: np.random.Generator) -> None:
    """The optimiser's moments, its average of the weights and its count of steps start anew; its rate stays."""
    rows = tf.constant(rng.random((5, 3)), tf.float32)

    def made() -> keras.optimizers.Optimizer:
        return keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.9)

    def steps(model: keras.Model, optimizer: keras.optimizers.Optimizer, count: int) -> None:
        for _ in range(count):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(model(rows) - 1))
            optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

    used, optimizer = dense(1), made()
    steps(used, optimizer, 7)
    redraw([used], [dense(2)], optimizer)
    fresh, other = dense(2), made()
    for model, its in ((used, optimizer), (fresh, other)):
        steps(model, its, 4)
        its.finalize_variable_values(model.trainable_variables)
    assert float(optimizer.learning_rate) == pytest.approx(0.05)
    for one, expected in zip(used.get_weights(), fresh.get_weights(), strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-6)
