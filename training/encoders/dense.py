"""Fully connected auto-encoders with fewer latents than pixels."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf
from keras import layers


@keras.saving.register_keras_serializable("sparsewalk")
class DenseAutoencoder(keras.Model):
    """Rectified layers down to the latents and, untied, back up to pixel logits.

    With ``widths=(32,)`` this is the simple auto-encoder of the Keras blog ("Building Autoencoders in Keras", 2016),
    with ``widths=(128, 64, 32)`` its deep one.

    Args:
        visible: values of one example, V.
        widths: units of each layer on the way down; the last is the number of latents D. The way up mirrors it.
        seed: of the initial weights (Glorot uniform; biases 0).
    """

    def __init__(self, visible: int, widths: Sequence[int], *, seed: int = 0, **options: object) -> None:
        if not widths:
            raise ValueError("widths must hold one number of units or more. Received: none")
        super().__init__(**options)
        self.visible, self.widths, self.seed = visible, tuple(widths), seed
        down, up = self.widths, (*self.widths[-2::-1], visible)
        self.encoder = dense_stack(visible, down, ["relu"] * len(down), seed=seed * 1000, name="encoder")
        activations = ["relu"] * (len(up) - 1) + ["linear"]
        self.decoder = dense_stack(down[-1], up, activations, seed=seed * 1000 + 500, name="decoder")
        self.built = True

    @property
    def dictionary(self) -> tf.Variable:
        """Kernel of the first layer [V, widths[0]]; column j is the picture that its unit j looks for."""
        return self.encoder.layers[0].kernel

    def encode(self, image: tf.Tensor) -> tf.Tensor:
        """Latents of ``image`` [N, V]: float [N, D], >= 0."""
        return self.encoder(image)

    def decode_logits(self, encoding: tf.Tensor) -> tf.Tensor:
        """Logits of the reconstruction from latents [N, D]: float [N, V]."""
        return self.decoder(encoding)

    def call(self, image: tf.Tensor) -> tf.Tensor:
        """Reconstruction of ``image`` [N, V]: float [N, V] in 0..1."""
        return tf.sigmoid(self.decode_logits(self.encode(image)))

    def get_config(self) -> dict[str, object]:
        """The constructor's arguments."""
        return {**super().get_config(), "visible": self.visible, "widths": self.widths, "seed": self.seed}


def dense_stack(inputs: int, widths: Sequence[int], activations: Sequence[str], *, seed: int, name: str) -> keras.Model:
    """Dense layers one after another, Glorot uniform, biases 0, the kernel of layer i drawn with ``seed + i``.

    Args:
        inputs: values of one example.
        widths: units of each layer.
        activations: of each layer.
        seed: of the first kernel.
        name: of the model and, with the number of the layer, of its layers.
    """
    stack = keras.Sequential([keras.Input((inputs,))], name=name)
    for index, (width, activation) in enumerate(zip(widths, activations, strict=True)):
        kernel = keras.initializers.GlorotUniform(seed=seed + index)
        stack.add(layers.Dense(width, activation, kernel_initializer=kernel, name=f"{name}_{index + 1}"))
    return stack
