"""The variational auto-encoder with a Gaussian posterior and Bernoulli pixels.

Kingma and Welling, "Auto-Encoding Variational Bayes", arXiv 1312.6114, appendix C: ``q(z|x) = N(μ(x), diag σ²(x))``,
``p(z) = N(0, I)``, ``p(x|z) = Bernoulli(sigmoid(f(z)))``, μ, log σ² and f multilayer perceptrons.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from training.encoders.dense import dense_stack


@keras.saving.register_keras_serializable("sparsewalk")
class VariationalAutoencoder(keras.Model):
    """Encodes a picture as a distribution over latents; what is handed out is the mean of it.

    Args:
        visible: values of one example, V.
        latents: number of latents D; 2 can be drawn as a map.
        widths: units of the hidden layers (tanh) of the encoder; the decoder mirrors them.
        seed: of the initial weights (Glorot uniform; biases 0).
    """

    def __init__(
        self, visible: int, latents: int = 2, widths: Sequence[int] = (500,), *, seed: int = 0, **options: object
    ) -> None:
        if not widths:
            raise ValueError("widths must hold one number of units or more. Received: none")
        super().__init__(**options)
        self.visible, self.latents, self.widths, self.seed = visible, latents, tuple(widths), seed
        hidden = ["tanh"] * len(self.widths)
        # mean and log-variance are the two halves of one layer
        self.encoder = dense_stack(
            visible, (*self.widths, 2 * latents), [*hidden, "linear"], seed=seed * 1000, name="encoder"
        )
        self.decoder = dense_stack(
            latents, (*self.widths[::-1], visible), [*hidden, "linear"], seed=seed * 1000 + 500, name="decoder"
        )
        self.built = True

    @property
    def dictionary(self) -> tf.Variable:
        """Kernel of the first layer [V, widths[0]]; column j is the picture that its unit j looks for."""
        return self.encoder.layers[0].kernel

    def posterior(self, image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and log-variance ``log σ²`` of the latents of ``image`` [N, V]: two float [N, D]."""
        mean, log_variance = tf.split(self.encoder(image), 2, axis=-1)
        return mean, log_variance

    def encode(self, image: tf.Tensor) -> tf.Tensor:
        """Mean of the latents of ``image`` [N, V]: float [N, D]."""
        return self.posterior(image)[0]

    def decode_logits(self, encoding: tf.Tensor) -> tf.Tensor:
        """Logits of the reconstruction from latents [N, D]: float [N, V]."""
        return self.decoder(encoding)

    def call(self, image: tf.Tensor) -> tf.Tensor:
        """Reconstruction of ``image`` [N, V] from the mean of its latents: float [N, V] in 0..1."""
        return tf.sigmoid(self.decode_logits(self.encode(image)))

    def get_config(self) -> dict[str, object]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "visible": self.visible,
            "latents": self.latents,
            "widths": self.widths,
            "seed": self.seed,
        }


def reparameterised(mean: tf.Tensor, log_variance: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
    """``z = μ + exp(½ log σ²) ε``: latents drawn so that gradients reach mean and log-variance.

    Args:
        mean: float [N, D].
        log_variance: float [N, D], log σ².
        noise: float [N, D], ε drawn from N(0, I).

    Returns:
        float [N, D].
    """
    return mean + tf.exp(0.5 * log_variance) * noise
