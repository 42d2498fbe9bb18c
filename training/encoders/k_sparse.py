"""The k-sparse auto-encoder.

Makhzani and Frey, "k-Sparse Autoencoders", arXiv 1312.5663: ``z = Wᵀx + b``, keep the k largest entries,
``x̂ = W z + b'``; linear units, tied weights.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from training.sparsity.top_k import top_k, top_k_margin


@keras.saving.register_keras_serializable("sparsewalk")
class KSparseAutoencoder(keras.Model):
    """A tied, linear auto-encoder that keeps the k largest latents of each example.

    Args:
        visible: values of one example, V.
        latents: number of latents D.
        k: latents kept in a forward pass, 1..D. Training may lower :attr:`k` step by step from a larger value, so
            that no latent starves early.
        alpha: :meth:`encode` keeps ``round(alpha * k)`` latents; the paper finds 1..3 best for classification. The
            reconstruction always uses k.
        biases: whether b and b' are trained; they stay 0 otherwise.
        init_scale: standard deviation of the initial dictionary (0.01 in the paper); 0 draws it uniformly from
            ±√(6 / (V + D + 1)) as the source's program does.
        seed: of the initial dictionary.
        dtype: of weights and computation.

    Attributes:
        dictionary: variable [V, D]; column j is the picture that latent j stands for.
        k: int32 variable, see above.
    """

    def __init__(
        self,
        visible: int,
        latents: int,
        k: int,
        *,
        alpha: float = 1.0,
        biases: bool = True,
        init_scale: float = 0.01,
        seed: int = 0,
        **options: object,
    ) -> None:
        if not 1 <= k <= latents:
            raise ValueError(f"k must lie in 1..{latents} (the number of latents). Received: {k}")
        if not 1 <= round(alpha * k) <= latents:
            raise ValueError(f"alpha * k must lie in 1..{latents}. Received: alpha={alpha}, k={k}")
        super().__init__(**options)
        self.visible, self.latents, self.alpha, self.biases = visible, latents, alpha, biases
        self.init_scale, self.seed, self.final_k = init_scale, seed, k
        limit = (6 / (visible + latents + 1)) ** 0.5
        initial = (
            keras.initializers.RandomNormal(stddev=init_scale, seed=seed)
            if init_scale
            else keras.initializers.RandomUniform(-limit, limit, seed=seed)
        )
        self.dictionary = self.add_weight(shape=(visible, latents), initializer=initial, name="dictionary")
        self.encoder_bias = self.add_weight(
            shape=(latents,), initializer="zeros", trainable=biases, name="encoder_bias"
        )
        self.decoder_bias = self.add_weight(
            shape=(visible,), initializer="zeros", trainable=biases, name="decoder_bias"
        )
        self.k = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(k), dtype="int32", trainable=False, name="k"
        )
        self.built = True

    def encode(self, image: tf.Tensor) -> tf.Tensor:
        """Latents of ``image`` [N, V]: float [N, D], at most ``round(alpha * k)`` of a row are not 0."""
        return top_k(self.activations(image), self._coded())

    def margin(self, image: tf.Tensor) -> tf.Tensor:
        """How far each ``image`` [N, V] is from another set of active latents, of code or reconstruction: float [N]."""
        activations, k = self.activations(image), tf.convert_to_tensor(self.k)
        return tf.minimum(top_k_margin(activations, k), top_k_margin(activations, self._coded()))

    def decode(self, encoding: tf.Tensor) -> tf.Tensor:
        """Reconstruction from latents [N, D]: float [N, V]."""
        return tf.matmul(encoding, self.dictionary, transpose_b=True) + self.decoder_bias

    def call(self, image: tf.Tensor) -> tf.Tensor:
        """Reconstruction of ``image`` [N, V] through its k largest latents: float [N, V]."""
        return self.decode(top_k(self.activations(image), tf.convert_to_tensor(self.k)))

    def activations(self, image: tf.Tensor) -> tf.Tensor:
        """``z = x W + b`` of ``image`` [N, V] before any selection: float [N, D]."""
        return tf.matmul(image, self.dictionary) + self.encoder_bias

    def _coded(self) -> tf.Tensor:
        return tf.cast(tf.round(self.alpha * tf.cast(self.k, tf.float32)), tf.int32)

    def get_config(self) -> dict[str, object]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "visible": self.visible,
            "latents": self.latents,
            "k": self.final_k,
            "alpha": self.alpha,
            "biases": self.biases,
            "init_scale": self.init_scale,
            "seed": self.seed,
        }
