"""A small U-Net for any picture size.

Ronneberger, Fischer and Brox, "U-Net", arXiv 1505.04597, with padded convolutions, batch normalisation and bilinear
upsampling in place of transposed convolutions (no checkerboard, fewer parameters). A strided first convolution halves
the resolution before the first level: for the same arithmetic the network sees twice the height and width, which on
Penn-Fudan is worth more than a mask at full resolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf
from keras import layers

NORM_MOMENTUM = 0.9
"""Of the running statistics of batch normalisation, for trainings of some hundred steps."""


@keras.saving.register_keras_serializable("sparsewalk")
class Upsample2x(layers.Layer):
    """Bilinear upsampling by two of float [N, H, W, C], half-pixel centres: one Resize node in ONNX."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns float [N, 2H, 2W, C]."""
        return tf.image.resize(inputs, tf.shape(inputs)[1:3] * 2)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Doubles height and width."""
        batch, height, width, channels = input_shape
        return batch, height and height * 2, width and width * 2, channels


def unet(
    stem: int = 16, widths: Sequence[int] = (24, 48, 64, 96), bottleneck: int = 96, *, seed: int = 0
) -> keras.Model:
    """Builds the U-Net.

    Args:
        stem: channels of the strided first convolution.
        widths: channels of each resolution on the way down; each level halves height and width.
        bottleneck: channels at the lowest resolution.
        seed: of the initial weights.

    Returns:
        A model from ``image`` uint8 [N, H, W, 3] (RGB; H and W multiples of ``2 ** (1 + len(widths))``) to logits float
        [N, H, W, 1]. The scaling to -1..1 is part of the model.
    """
    seeds = kernel_seeds(seed)
    image = keras.Input((None, None, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="scale")(image)
    x = _conv(x, stem, "stem", seeds, strides=2)
    skips = []
    for level, width in enumerate(widths, start=1):
        x = _block(x, width, f"down{level}", seeds)
        skips.append(x)
        x = layers.MaxPooling2D(name=f"pool{level}")(x)
    x = _block(x, bottleneck, "bottleneck", seeds)
    return keras.Model(image, way_up(x, skips, widths, seeds), name="unet")


def way_up(x: tf.Tensor, skips: Sequence[tf.Tensor], widths: Sequence[int], seeds: Iterator[int]) -> tf.Tensor:
    """The decoder: from the lowest resolution to logits at the picture's size.

    Args:
        x: float [N, h, w, C] at the lowest resolution.
        skips: what the encoder had at each level, the highest resolution, half of the picture's, first.
        widths: channels of each level, in the same order.
        seeds: of the kernels to come.

    Returns:
        Logits float [N, H, W, 1].
    """
    for level in range(len(widths), 0, -1):
        x = Upsample2x(name=f"up{level}_resize")(x)
        x = layers.Concatenate(name=f"up{level}_skip")([x, skips[level - 1]])
        x = _block(x, widths[level - 1], f"up{level}", seeds)
    kernel = keras.initializers.GlorotUniform(seed=next(seeds))
    logits = layers.Conv2D(1, 1, kernel_initializer=kernel, name="half_logits")(x)
    return Upsample2x(name="logits")(logits)


def kernel_seeds(seed: int) -> Iterator[int]:
    """One seed for each kernel: the same seed everywhere would start layers of equal shape with equal weights."""
    return iter(range(seed * 1000, seed * 1000 + 1000))


def _conv(x: tf.Tensor, width: int, name: str, seeds: Iterator[int], strides: int = 1) -> tf.Tensor:
    kernel = keras.initializers.HeNormal(seed=next(seeds))
    x = layers.Conv2D(
        width, 3, strides, padding="same", use_bias=False, kernel_initializer=kernel, name=f"{name}_conv"
    )(x)
    x = layers.BatchNormalization(momentum=NORM_MOMENTUM, name=f"{name}_norm")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def _block(x: tf.Tensor, width: int, name: str, seeds: Iterator[int]) -> tf.Tensor:
    return _conv(_conv(x, width, f"{name}_1", seeds), width, f"{name}_2", seeds)


def with_quarter_head(model: keras.Model, *, seed: int = 0) -> keras.Model:
    """The same net, its layers shared, with a second output for training: logits at a quarter of the resolution.

    Deep supervision as in Lee et al., "Deeply-Supervised Nets", arXiv 1409.5185: the levels below learn what a person
    is without the last one in between. The head is no part of ``model``, and so of nothing that is exported.

    Args:
        model: whose logits are from :func:`way_up`, with at least two levels.
        seed: of the head's weights.

    Returns:
        A model from ``image`` [N, H, W, 3] to logits float [N, H, W, 1] and float [N, H/4, W/4, 1].
    """
    head = layers.Conv2D(1, 1, kernel_initializer=keras.initializers.GlorotUniform(seed=seed), name="quarter_logits")
    return keras.Model(model.input, [model.output, head(model.get_layer("up2_2_relu").output)], name=model.name)
