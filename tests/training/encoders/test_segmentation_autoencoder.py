from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.encoders.segmentation_autoencoder import (
    Enlarge2x,
    MixedPooling,
    SegmentationAutoencoder,
    interpolation_matrix,
)
from training.losses.segmentation import binary_crossentropy, squared_error
from training.sparsity.sparse_filtering import activated, feature_norms, normalised


def autoencoder(seed: int = 0, dtype: str = "float32", code_stddev: float = 0.05) -> SegmentationAutoencoder:
    return SegmentationAutoencoder(activated, normalised, code_stddev=code_stddev, seed=seed, dtype=dtype)


def pictures(rng: np.random.Generator, count: int = 2) -> np.ndarray:
    return rng.integers(0, 256, (count, 96, 96, 3), dtype=np.uint8)


KERNELS = [
    # E1 to E4 as [3, 3, in, out]; transposed ones as [k, k, out, in]
    *[(3, 3, 3, 4), (3, 3, 4, 8), (3, 3, 8, 16), (3, 3, 16, 8)],
    *[(1, 1, 3, 1), (1, 1, 3, 3), (1, 1, 3, 3)],
    *[(3, 3, 3, 19), (3, 3, 3, 3), (3, 3, 3, 11), (3, 3, 3, 3), (3, 3, 3, 7), (3, 3, 3, 1)],
]


def test_weights_are_those_of_the_source_and_none_is_a_bias() -> None:
    model = autoencoder()
    assert [tuple(kernel.shape) for kernel in model.convolution_kernels()] == KERNELS
    others = [tuple(w.shape) for w in model.trainable_variables if tuple(w.shape) not in KERNELS]
    assert sorted(others) == [(), (), (), (), (288, 9)]
    assert [w.path.rpartition("/")[2] for w in model.non_trainable_variables] == ["feature_norms"]


def test_initial_weights_have_the_stated_spread_and_no_two_kernels_are_equal() -> None:
    model = autoencoder(code_stddev=1.0)
    kernels = np.concatenate([kernel.numpy().ravel() for kernel in model.convolution_kernels()])
    assert kernels.std() == pytest.approx(0.05, rel=0.05)
    assert model.encoder.get_layer("bottleneck").kernel.numpy().std() == pytest.approx(1.0, rel=0.05)
    equal_shapes = [kernel.numpy() for kernel in model.convolution_kernels() if tuple(kernel.shape) == (3, 3, 3, 3)]
    assert not np.array_equal(*equal_shapes)
    same, other = autoencoder(code_stddev=1.0), autoencoder(seed=1, code_stddev=1.0)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), same.get_weights(), strict=True))
    assert not np.array_equal(model.convolution_kernels()[0], other.convolution_kernels()[0])


def test_pools_alternate_in_which_of_the_two_is_learned() -> None:
    model = autoencoder()
    assert [model.encoder.get_layer(f"e{level}_pool").first for level in (1, 2, 3, 4)] == ["max", "mean"] * 2


@pytest.mark.parametrize(("first", "mix"), [("max", 0.0), ("max", 1.0), ("max", 0.3), ("mean", 0.3), ("mean", -0.5)])
def test_mixed_pooling_is_its_equation(rng: np.random.Generator, first: str, mix: float) -> None:
    x = rng.standard_normal((2, 6, 4, 3)).astype(np.float32)
    layer = MixedPooling(first)
    layer.build(x.shape)
    layer.mix.assign(mix)
    blocks = x.reshape(2, 3, 2, 2, 2, 3)
    largest, mean = blocks.max(axis=(2, 4)), blocks.mean(axis=(2, 4))
    one, other = (largest, mean) if first == "max" else (mean, largest)
    np.testing.assert_allclose(layer(x), mix * one + (1 - mix) * other, atol=1e-6)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [3, 6, 12, 48])
def test_enlargement_in_float32_and_in_float64_are_the_same_matrix(
    rng: np.random.Generator, method: str, size: int
) -> None:
    x = rng.standard_normal((2, size, size, 3))
    matrix = interpolation_matrix(size, method)
    expected = np.einsum("ih,nhwc,jw->nijc", matrix, x, matrix)
    np.testing.assert_allclose(Enlarge2x(method)(x.astype(np.float32)), expected, atol=2e-6)
    np.testing.assert_allclose(Enlarge2x(method, dtype="float64")(x), expected, atol=1e-14)


def test_interpolation_keeps_constants_and_bilinear_quarters() -> None:
    for method in ("bilinear", "bicubic"):
        np.testing.assert_allclose(interpolation_matrix(7, method).sum(axis=1), 1.0, rtol=1e-14)
    np.testing.assert_allclose(interpolation_matrix(2, "bilinear"), [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])


def test_bicubic_reproduces_parabolas_inside() -> None:
    # Keys' kernel with a = -1/2 is of third order: exact for polynomials of degree two
    x = np.arange(12.0)
    at = (np.arange(24) + 0.5) / 2 - 0.5
    np.testing.assert_allclose((interpolation_matrix(12, "bicubic") @ x**2)[4:-4], at[4:-4] ** 2, atol=1e-12)


def test_output_is_logits_of_the_pictures_size_and_the_code_is_nine_numbers(rng: np.random.Generator) -> None:
    model, image = autoencoder(), pictures(rng)
    assert model(image).shape == (2, 96, 96, 1)
    assert model.features(image).shape == model.encode(image).shape == (2, 9)
    code, logits = model.encode_and_segment(image)
    np.testing.assert_array_equal(code, model.encode(image))
    np.testing.assert_array_equal(logits, model(image))


def test_scaling_to_the_unit_interval_is_in_the_graph() -> None:
    model = autoencoder()
    first = model.encoder.get_layer("e1_conv")
    white = tf.fill((1, 96, 96, 3), tf.constant(255, tf.uint8))
    seen = keras.Model(model.encoder.inputs, first.output)(white)[0, 48, 48]
    np.testing.assert_allclose(seen, tf.nn.elu(tf.reduce_sum(first.kernel, axis=(0, 1, 2))), atol=1e-6)


def test_a_kept_norm_makes_each_code_its_pictures_own(rng: np.random.Generator) -> None:
    model, image = autoencoder(code_stddev=1.0), pictures(rng, 5)
    model.keep_norms(feature_norms(model.features(image)))
    np.testing.assert_allclose(model.encode(image), normalised(model.features(image)), rtol=1e-5)
    np.testing.assert_allclose(model.encode(image[2:3]), model.encode(image)[2:3], rtol=1e-4)


def test_gradient_of_the_objective_agrees_with_central_differences(rng: np.random.Generator) -> None:
    model = autoencoder(dtype="float64", code_stddev=0.5)
    image = pictures(rng)
    mask = rng.integers(0, 2, (2, 96, 96, 1)).astype(float)

    def objective() -> tf.Tensor:
        logits = model(image)
        return binary_crossentropy(mask, logits) + squared_error(mask, logits)

    with tf.GradientTape() as tape:
        value = objective()
    variables = model.trainable_variables
    gradient = tape.gradient(value, variables)
    # along one direction for each variable; max pooling has kinks, which a step of 1e-6 does not meet
    for variable, slope in zip(variables, gradient, strict=True):
        direction, start, h = rng.standard_normal(variable.shape), variable.numpy(), 1e-6
        values = []
        for sign in (1, -1):
            variable.assign(start + sign * h * direction)
            values.append(float(objective()))
        variable.assign(start)
        numeric = (values[0] - values[1]) / (2 * h)
        assert float(tf.reduce_sum(slope * direction)) == pytest.approx(numeric, rel=1e-6, abs=1e-9), variable.path
