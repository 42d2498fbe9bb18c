"""The sigmoid auto-encoder with untied weights.

Ng, "Sparse autoencoder", CS294A lecture notes, section 2: ``a = σ(x W₁ + b₁)``, ``x̂ = σ(a W₂ + b₂)``.
"""

from __future__ import annotations

from typing import Literal

import keras
import tensorflow as tf

Initial = Literal["uniform", "normal"]


@keras.saving.register_keras_serializable("sparsewalk")
class SigmoidAutoencoder(keras.Model):
    """Sigmoid latents and a sigmoid reconstruction.

    Args:
        visible: values of one example, V.
        latents: number of latents D.
        biases: whether b₁ and b₂ are trained; they stay 0 otherwise.
        initial: ``uniform`` draws both matrices from ±√(6 / (V + D + 1)) (Ng's notes), ``normal`` from N(0, 0.05²).
        seed: of the initial weights.
        dtype: of weights and computation.

    Attributes:
        encoder: variable [V, D], W₁.
        encoder_bias: variable [D], b₁.
        decoder: variable [D, V], W₂.
        decoder_bias: variable [V], b₂.
        mean_activation: variable [D], a moving average of a that a penalty may keep; not trained.
    """

    def __init__(
        self,
        visible: int,
        latents: int,
        *,
        biases: bool = True,
        initial: Initial = "uniform",
        seed: int = 0,
        **options: object,
    ) -> None:
        super().__init__(**options)
        self.visible, self.latents, self.biases, self.initial, self.seed = visible, latents, biases, initial, seed
        self.encoder = self._matrix("encoder", (visible, latents), seed)
        self.encoder_bias = self.add_weight(
            shape=(latents,), initializer="zeros", trainable=biases, name="encoder_bias"
        )
        self.decoder = self._matrix("decoder", (latents, visible), seed + 1)
        self.decoder_bias = self.add_weight(
            shape=(visible,), initializer="zeros", trainable=biases, name="decoder_bias"
        )
        self.mean_activation = self.add_weight(
            shape=(latents,), initializer="zeros", trainable=False, name="mean_activation"
        )
        self.built = True

    @property
    def dictionary(self) -> tf.Tensor:
        """W₁ [V, D]; column j is, up to its norm, the picture that excites latent j most."""
        return tf.convert_to_tensor(self.encoder)

    def encode(self, image: tf.Tensor) -> tf.Tensor:
        """Latents of ``image`` [N, V]: float [N, D] in 0..1."""
        return tf.sigmoid(tf.matmul(image, self.encoder) + self.encoder_bias)

    def decode(self, encoding: tf.Tensor) -> tf.Tensor:
        """Reconstruction from latents [N, D]: float [N, V] in 0..1."""
        return tf.sigmoid(tf.matmul(encoding, self.decoder) + self.decoder_bias)

    def call(self, image: tf.Tensor) -> tf.Tensor:
        """Reconstruction of ``image`` [N, V]: float [N, V] in 0..1."""
        return self.decode(self.encode(image))

    def get_config(self) -> dict[str, object]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "visible": self.visible,
            "latents": self.latents,
            "biases": self.biases,
            "initial": self.initial,
            "seed": self.seed,
        }

    def _matrix(self, name: str, shape: tuple[int, int], seed: int) -> keras.Variable:
        limit = (6 / (self.visible + self.latents + 1)) ** 0.5
        initializer = (
            keras.initializers.RandomNormal(stddev=0.05, seed=seed)
            if self.initial == "normal"
            else keras.initializers.RandomUniform(-limit, limit, seed=seed)
        )
        return self.add_weight(shape=shape, initializer=initializer, name=name)
