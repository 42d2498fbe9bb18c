from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from training.loops.optimizers import FusedAdam, ProgramAdam


def test_fused_adam_is_that_of_keras(rng: np.random.Generator) -> None:
    start = rng.standard_normal((5, 3))
    one, other = (keras.Variable(start, dtype="float32") for _ in range(2))
    fused, plain = FusedAdam(0.01), keras.optimizers.Adam(0.01)
    for _ in range(20):
        gradient = tf.constant(rng.standard_normal((5, 3)), "float32")
        fused.apply([gradient], [one])
        plain.apply([gradient], [other])
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_fused_adam_is_its_formula_in_float64(rng: np.random.Generator) -> None:
    w = rng.standard_normal(4)
    variable = keras.Variable(w, dtype="float64")
    optimizer = FusedAdam(0.25)  # exact in the float32 in which Keras keeps rates
    m = v = np.zeros(4)
    for step in range(1, 31):
        g = rng.standard_normal(4)
        optimizer.apply([tf.constant(g)], [variable])
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w = w - 0.25 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step) * m / (np.sqrt(v) + 1e-7)
    np.testing.assert_allclose(variable, w, rtol=1e-11)


def test_program_adam_is_its_formula(rng: np.random.Generator) -> None:
    w = rng.standard_normal(4)
    variable = keras.Variable(w, dtype="float64")
    optimizer = ProgramAdam(0.01, decoupled_decay=0.003)
    m = v = np.zeros(4)
    for _ in range(30):
        g = rng.standard_normal(4)
        optimizer.apply([tf.constant(g)], [variable])
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w = w - 0.01 * (m / 0.1) / (np.sqrt(v / 0.001) + 1e-8) - 0.003 * w
    np.testing.assert_allclose(variable, w, rtol=1e-6)
