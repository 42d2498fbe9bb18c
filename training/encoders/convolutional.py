"""The convolutional auto-encoder of 28x28 pictures.

After the Keras blog, "Building Autoencoders in Keras" (2016): 3x3 convolutions, rectified, with max pooling 28 → 14 →
7 → 4 on the way down and nearest-neighbour upsampling 4 → 8 → 16 → 28 on the way up, where one unpadded convolution
makes 14 of 16.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf
from keras import layers

SIDE = 28
CODE_SIDE = 4


@keras.saving.register_keras_serializable("sparsewalk")
class Repeat2x(layers.Layer):
    """Each pixel of float [N, H, W, C] as a square of four.

    Four copies of the channels, laid out as a square: one DepthToSpace node in ONNX. TensorFlow's nearest-neighbour
    resizing becomes a Resize with a rounding mode that is deprecated, and of which ONNX Runtime warns at every load.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns float [N, 2H, 2W, C]."""
        return tf.nn.depth_to_space(tf.concat([inputs] * 4, axis=-1), 2)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Doubles height and width."""
        batch, height, width, channels = input_shape
        return batch, height and height * 2, width and width * 2, channels


@keras.saving.register_keras_serializable("sparsewalk")
class ConvolutionalAutoencoder(keras.Model):
    """A convolutional auto-encoder whose latents are a map of 4x4 places, handed out as one row.

    Args:
        channels: of the three levels on the way down; the last gives D = 4 · 4 · channels latents.
        seed: of the initial weights (Glorot uniform; biases 0).
    """

    def __init__(self, channels: Sequence[int] = (16, 8, 8), *, seed: int = 0, **options: object) -> None:
        if len(channels) != 3:
            raise ValueError(f"channels must hold three numbers, one for each pooling. Received: {tuple(channels)}")
        super().__init__(**options)
        self.channels, self.seed = tuple(channels), seed
        # one seed for each kernel: the same seed everywhere would start layers of equal shape with equal weights
        seeds = iter(range(seed * 1000, seed * 1000 + 1000))

        def conv(width: int, activation: str = "relu", padding: str = "same") -> layers.Conv2D:
            kernel = keras.initializers.GlorotUniform(seed=next(seeds))
            return layers.Conv2D(width, 3, activation=activation, padding=padding, kernel_initializer=kernel)

        first, second, code = self.channels
        down = [keras.Input((SIDE * SIDE,)), layers.Reshape((SIDE, SIDE, 1))]
        for width in (first, second, code):
            down += [conv(width), layers.MaxPooling2D(padding="same")]
        up = [keras.Input((CODE_SIDE * CODE_SIDE * code,)), layers.Reshape((CODE_SIDE, CODE_SIDE, code))]
        for width, padding in ((code, "same"), (second, "same"), (first, "valid")):
            up += [conv(width, padding=padding), Repeat2x()]
        self.encoder = keras.Sequential([*down, layers.Flatten()], name="encoder")
        self.decoder = keras.Sequential([*up, conv(1, "linear"), layers.Flatten()], name="decoder")
        self.built = True

    def encode(self, image: tf.Tensor) -> tf.Tensor:
        """Latents of ``image`` [N, 784]: float [N, D], >= 0, the channels of one place beside each other."""
        return self.encoder(image)

    def decode_logits(self, encoding: tf.Tensor) -> tf.Tensor:
        """Logits of the reconstruction from latents [N, D]: float [N, 784]."""
        return self.decoder(encoding)

    def call(self, image: tf.Tensor) -> tf.Tensor:
        """Reconstruction of ``image`` [N, 784]: float [N, 784] in 0..1."""
        return tf.sigmoid(self.decode_logits(self.encode(image)))

    def get_config(self) -> dict[str, object]:
        """The constructor's arguments."""
        return {**super().get_config(), "channels": self.channels, "seed": self.seed}
