"""The tied auto-encoder of sigmoid units.

Vincent, Larochelle, Bengio and Manzagol, "Extracting and Composing Robust Features with Denoising Autoencoders",
ICML 2008, equations 1 to 3 with W' = Wᵀ: ``h = σ(x W + b)``, ``x̂ = σ(h Wᵀ + c)``.
"""

from __future__ import annotations

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("sparsewalk")
class TiedSigmoidAutoencoder(keras.Model):
    """Sigmoid latents and a sigmoid reconstruction through the transpose of the same matrix.

    There is no noise in here: a denoising auto-encoder is this model, trained to rebuild what its input was before
    it was corrupted.

    Args:
        visible: values of one example, V.
        latents: number of latents D.
        seed: of the initial weights, drawn from U(±4 √(6 / (V + D))), the range for sigmoid units in Glorot and
            Bengio, AISTATS 2010. Biases start at 0.

    Attributes:
        dictionary: variable [V, D]; column j is the picture that latent j stands for.
    """

    def __init__(self, visible: int, latents: int, *, seed: int = 0, **options: object) -> None:
        super().__init__(**options)
        self.visible, self.latents, self.seed = visible, latents, seed
        limit = 4.0 * (6.0 / (visible + latents)) ** 0.5
        initial = keras.initializers.RandomUniform(-limit, limit, seed=seed)
        self.dictionary = self.add_weight(shape=(visible, latents), initializer=initial, name="dictionary")
        self.encoder_bias = self.add_weight(shape=(latents,), initializer="zeros", name="encoder_bias")
        self.decoder_bias = self.add_weight(shape=(visible,), initializer="zeros", name="decoder_bias")
        self.built = True

    def encode(self, image: tf.Tensor) -> tf.Tensor:
        """Latents of ``image`` [N, V]: float [N, D] in 0..1."""
        return tf.sigmoid(tf.matmul(image, self.dictionary) + self.encoder_bias)

    def decode(self, encoding: tf.Tensor) -> tf.Tensor:
        """Reconstruction from latents [N, D]: float [N, V] in 0..1."""
        return tf.sigmoid(tf.matmul(encoding, self.dictionary, transpose_b=True) + self.decoder_bias)

    def call(self, image: tf.Tensor) -> tf.Tensor:
        """Reconstruction of ``image`` [N, V]: float [N, V] in 0..1."""
        return self.decode(self.encode(image))

    def get_config(self) -> dict[str, object]:
        """The constructor's arguments."""
        return {**super().get_config(), "visible": self.visible, "latents": self.latents, "seed": self.seed}
