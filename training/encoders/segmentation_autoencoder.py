"""The segmentation auto-encoder of the source: 96x96 pictures through nine numbers, with skips, without a bias.

::

    image 96x96x3
    E1 conv3x3  3->4    96  pool 48         skip s1 (96x96x4)
    E2 conv3x3  4->8    48  pool 24         skip s2 (48x48x8)
    E3 conv3x3  8->16   24  pool 12         skip s3 (24x24x16)
    E4 conv3x3 16->8    12  pool 6x6x8 = 288
    B  dense 288->9, reshaped to 3x3x1
    D0 bilinear 6,  convT1x1 1->3
    D1 bicubic 12,  convT1x1 3->3, conv1x1 3->3
    D2 bilinear 24 ++ s3, convT3x3 19->3, conv3x3 3->3
    D3 bilinear 48 ++ s2, convT3x3 11->3, conv3x3 3->3
    D4 bicubic 96  ++ s1, convT3x3  7->3, conv3x3 3->1 (logits)

Every convolution but the last ends in ELU. Weights are drawn from N(0, 0.05²), those of B from N(0, ``code_stddev``²).
The pools are learned mixtures of largest and mean value, see :class:`MixedPooling`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from numpy.typing import NDArray

SIDE = 96
"""Pixels; height and width of the picture."""
CODE = 9
"""Numbers in the bottleneck."""
STDDEV = 0.05

Interpolation = Literal["bilinear", "bicubic"]


def interpolation_matrix(size: int, method: Interpolation) -> NDArray[np.float64]:
    """The matrix [2 size, size] that enlarges a line of pixels twofold, with half-pixel centres.

    Row i weights the pixels j by a kernel of their distance ``|(i + ½) / 2 - ½ - j|``; what falls outside the line
    is left out and the rest scaled to the sum 1. ``bilinear`` is the triangle ``1 - t``; ``bicubic`` the kernel of
    Keys, IEEE Trans. ASSP 29 (1981), equation 15 (a = -½).

    Args:
        size: pixels before, at least 1.
        method: the kernel.
    """
    t = np.abs((np.arange(2 * size)[:, np.newaxis] + 0.5) / 2 - 0.5 - np.arange(size))
    if method == "bilinear":
        weights = np.maximum(0.0, 1.0 - t)
    else:
        near, far = (1.5 * t - 2.5) * t**2 + 1.0, ((-0.5 * t + 2.5) * t - 4.0) * t + 2.0
        weights = np.where(t <= 1.0, near, np.where(t < 2.0, far, 0.0))
    matrix: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return matrix


@keras.saving.register_keras_serializable("sparsewalk")
class Enlarge2x(layers.Layer):
    """Twofold enlargement of float [N, H, W, C], H and W fixed: as :func:`interpolation_matrix` along both axes.

    In float32 this is one Resize node in TensorFlow and ONNX alike (half-pixel centres, cubic coefficient -½, outside
    excluded; a test compares both with the matrix). TensorFlow's resize works in float32 whatever it is given, so a
    float64 network, which gradient tests need, multiplies by the matrix itself.

    Args:
        method: the kernel.
    """

    def __init__(self, method: Interpolation, **options: Any) -> None:
        super().__init__(**options)
        self.method = method

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns float [N, 2H, 2W, C] of the dtype of ``inputs``."""
        height, width = inputs.shape[1:3]
        if self.compute_dtype == "float32":
            return tf.image.resize(inputs, (2 * height, 2 * width), method=self.method)
        rows, columns = (
            tf.constant(interpolation_matrix(side, self.method), self.compute_dtype) for side in (height, width)
        )
        return tf.einsum("ih,nhwc,jw->nijc", rows, inputs, columns)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Doubles height and width."""
        batch, height, width, channels = input_shape
        return batch, height and height * 2, width and width * 2, channels

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "method": self.method}


@keras.saving.register_keras_serializable("sparsewalk")
class MixedPooling(layers.Layer):
    """Pooling 2x2 by a learned mixture: ``w · one + (1 − w) · other`` of largest and mean value, w one scalar.

    w starts near 0 (N(0, 0.05²)), so that ``other`` counts at first, and is free to leave 0..1.

    Args:
        first: which of the two is ``one``; the source alternates from level to level.
        seed: of w.
    """

    def __init__(self, first: Literal["max", "mean"], *, seed: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.first, self.seed = first, seed

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Makes w."""
        del input_shape
        self.mix = self.add_weight(
            shape=(), initializer=keras.initializers.RandomNormal(stddev=STDDEV, seed=self.seed), name="mix"
        )

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns float [N, H/2, W/2, C] of float [N, H, W, C]."""
        largest, mean = tf.nn.max_pool2d(inputs, 2, 2, "VALID"), tf.nn.avg_pool2d(inputs, 2, 2, "VALID")
        one, other = (largest, mean) if self.first == "max" else (mean, largest)
        return self.mix * one + (1.0 - self.mix) * other

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Halves height and width."""
        batch, height, width, channels = input_shape
        return batch, height and height // 2, width and width // 2, channels

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "first": self.first, "seed": self.seed}


class SegmentationAutoencoder(keras.Model):
    """From ``image`` uint8 [N, 96, 96, 3] to logits float [N, 96, 96, 1], by way of nine numbers.

    Args:
        forward: from the linear features F [N, 9] of the bottleneck to what the decoder is given, float [N, 9].
        code: from F and :attr:`feature_norms` to the encoding, float [N, 9].
        code_stddev: standard deviation of the bottleneck's initial weights.
        seed: of the initial weights.
        dtype: of weights and arithmetic; "float64" for gradient tests.

    Attributes:
        encoder: from an image to F and the skips.
        decoder: from the bottleneck's output and the skips to logits.
        feature_norms: variable [9], set by :meth:`keep_norms`; 1 until then.
    """

    def __init__(
        self,
        forward: Callable[[tf.Tensor], tf.Tensor],
        code: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        *,
        code_stddev: float = STDDEV,
        seed: int = 0,
        dtype: Literal["float32", "float64"] = "float32",
    ) -> None:
        super().__init__(name="segmentation_autoencoder", dtype=dtype)
        # one seed for each weight: the same seed everywhere would start layers of equal shape with equal weights
        seeds = iter(range(seed * 1000, seed * 1000 + 1000))
        self.forward, self.code = forward, code
        self.encoder = _encoder(seeds, code_stddev, dtype)
        self.decoder = _decoder(seeds, dtype)
        self.feature_norms = self.add_weight(
            shape=(CODE,), initializer="ones", dtype=dtype, trainable=False, name="feature_norms"
        )
        self.built = True

    def features(self, image: tf.Tensor) -> tf.Tensor:
        """The linear features F of uint8 [N, 96, 96, 3]: float [N, 9]."""
        return self.encoder(image)[0]

    def encode(self, image: tf.Tensor) -> tf.Tensor:
        """The encoding of uint8 [N, 96, 96, 3]: float [N, 9], each example on its own."""
        return self.code(self.features(image), tf.convert_to_tensor(self.feature_norms))

    def call(self, image: tf.Tensor) -> tf.Tensor:
        """Logits of uint8 [N, 96, 96, 3]: float [N, 96, 96, 1]."""
        features, *skips = self.encoder(image)
        return self.decoder([self.forward(features), *skips])

    def encode_and_segment(self, image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """:meth:`encode` and :meth:`call` with one pass through the encoder."""
        features, *skips = self.encoder(image)
        code = self.code(features, tf.convert_to_tensor(self.feature_norms))
        return code, self.decoder([self.forward(features), *skips])

    def keep_norms(self, norms: tf.Tensor) -> None:
        """Keeps the features' norms over the training pictures, float [9], > 0."""
        self.feature_norms.assign(norms)

    def convolution_kernels(self) -> list[Any]:
        """The kernels of all convolutions, transposed ones included; not the bottleneck, not the pools' scalars."""
        convolutions = (layers.Conv2D, layers.Conv2DTranspose)
        return [
            layer.kernel
            for part in (self.encoder, self.decoder)
            for layer in part.layers
            if isinstance(layer, convolutions)
        ]


def _encoder(seeds: Iterator[int], code_stddev: float, dtype: str) -> keras.Model:
    image = keras.Input((SIDE, SIDE, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 255, dtype=dtype, name="scale")(image)
    skips = []
    for level, width in enumerate((4, 8, 16, 8), start=1):
        x = _convolution(layers.Conv2D, width, 3, f"e{level}_conv", seeds, dtype)(x)
        skips.append(x)
        first: Literal["max", "mean"] = "max" if level % 2 else "mean"
        x = MixedPooling(first, seed=next(seeds), dtype=dtype, name=f"e{level}_pool")(x)
    x = layers.Flatten(dtype=dtype, name="flat")(x)
    initial = keras.initializers.RandomNormal(stddev=code_stddev, seed=next(seeds))
    features = layers.Dense(CODE, use_bias=False, kernel_initializer=initial, dtype=dtype, name="bottleneck")(x)
    return keras.Model(image, [features, *skips[:3]], name="encoder")


def _decoder(seeds: Iterator[int], dtype: str) -> keras.Model:
    code = keras.Input((CODE,), dtype=dtype, name="code")
    skips = [
        keras.Input((SIDE >> level, SIDE >> level, width), dtype=dtype, name=f"s{level + 1}")
        for level, width in enumerate((4, 8, 16))
    ]
    x = layers.Reshape((3, 3, 1), dtype=dtype, name="d0_grid")(code)
    x = Enlarge2x("bilinear", dtype=dtype, name="d0_resize")(x)
    x = _convolution(layers.Conv2DTranspose, 3, 1, "d0_transposed", seeds, dtype)(x)
    methods: tuple[Interpolation, ...] = ("bicubic", "bilinear", "bilinear", "bicubic")
    for level, method in enumerate(methods, start=1):
        x = Enlarge2x(method, dtype=dtype, name=f"d{level}_resize")(x)
        if level > 1:
            x = layers.Concatenate(dtype=dtype, name=f"d{level}_skip")([x, skips[4 - level]])
        size, last = 1 if level == 1 else 3, level == 4
        x = _convolution(layers.Conv2DTranspose, 3, size, f"d{level}_transposed", seeds, dtype)(x)
        name = "logits" if last else f"d{level}_conv"
        x = _convolution(layers.Conv2D, 1 if last else 3, size, name, seeds, dtype, None if last else "elu")(x)
    return keras.Model([code, *skips], x, name="decoder")


def _convolution(
    kind: Any, width: int, size: int, name: str, seeds: Iterator[int], dtype: str, activation: str | None = "elu"
) -> Any:
    initial = keras.initializers.RandomNormal(stddev=STDDEV, seed=next(seeds))
    return kind(
        width,
        size,
        padding="same",
        use_bias=False,
        activation=activation,
        kernel_initializer=initial,
        dtype=dtype,
        name=name,
    )
