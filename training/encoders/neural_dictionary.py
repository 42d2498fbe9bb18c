"""The dictionary of the neural algorithm for sparse coding.

Arora, Ge, Ma, Moitra, "Simple, Efficient, and Neural Algorithms for Sparse Coding", COLT 2015, arXiv 1503.00778: for
``y = A x`` with k-sparse x whose entries have at least the magnitude C, ``x̂ = T_{C/2}(Aᵀ y)``; T keeps a value where
its magnitude reaches C/2 and makes it 0 elsewhere (hard and two-sided: neither soft nor rectified).

Digits are no such y: no entry is ±1, all pixels are positive, and the strokes overlap. No guarantee of the paper holds
for them. What is done about it here: the mean digit is taken off before encoding and put back by the decoder, and C
comes from the data (:mod:`training.loops.neural_coding`).
"""

from __future__ import annotations

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("sparsewalk")
class NeuralDictionary(keras.Model):
    """Tied and linear but for the hard threshold.

    Args:
        visible: values of one example, V (n in the paper).
        latents: number of columns D (m in the paper).
        two_sided: whether large negative values are kept too, as in the paper.
        seed: of the initial dictionary, uniform in ±√(6 / (V + D + 1)); training may start from data instead.
        dtype: of weights and computation.

    Attributes:
        dictionary: variable [V, D], A.
        mean: variable [V], taken off each input; not trained.
        threshold: scalar variable, C/2; not trained.
    """

    def __init__(self, visible: int, latents: int, *, two_sided: bool = True, seed: int = 0, **options: object) -> None:
        super().__init__(**options)
        self.visible, self.latents, self.two_sided, self.seed = visible, latents, two_sided, seed
        limit = (6 / (visible + latents + 1)) ** 0.5
        initial = keras.initializers.RandomUniform(-limit, limit, seed=seed)
        self.dictionary = self.add_weight(shape=(visible, latents), initializer=initial, name="dictionary")
        self.mean = self.add_weight(shape=(visible,), initializer="zeros", trainable=False, name="mean")
        self.threshold = self.add_weight(shape=(), initializer="zeros", trainable=False, name="threshold")
        self.built = True

    def encode(self, image: tf.Tensor) -> tf.Tensor:
        """``T_{C/2}((y − ȳ) A)`` of ``image`` [N, V]: float [N, D]."""
        return hard_threshold(tf.matmul(image - self.mean, self.dictionary), self.threshold, two_sided=self.two_sided)

    def margin(self, image: tf.Tensor) -> tf.Tensor:
        """How far the correlations of each ``image`` [N, V] are from another set of active latents: float [N]."""
        correlations = tf.matmul(image - self.mean, self.dictionary)
        compared = tf.abs(correlations) if self.two_sided else correlations
        return tf.reduce_min(tf.abs(compared - self.threshold), axis=1)

    def decode(self, encoding: tf.Tensor) -> tf.Tensor:
        """``x Aᵀ + ȳ`` from latents [N, D]: float [N, V]."""
        return tf.matmul(encoding, self.dictionary, transpose_b=True) + self.mean

    def call(self, image: tf.Tensor) -> tf.Tensor:
        """Reconstruction of ``image`` [N, V]: float [N, V]."""
        return self.decode(self.encode(image))

    def get_config(self) -> dict[str, object]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "visible": self.visible,
            "latents": self.latents,
            "two_sided": self.two_sided,
            "seed": self.seed,
        }


def hard_threshold(values: tf.Tensor, threshold: tf.Tensor | float, *, two_sided: bool = True) -> tf.Tensor:
    """``T_θ(v)``: v where ``|v| >= θ`` (``v >= θ`` if one-sided), 0 elsewhere.

    Args:
        values: float tensor of any shape.
        threshold: θ, float scalar of the same type.
        two_sided: whether the magnitude is compared.
    """
    kept = (tf.abs(values) if two_sided else values) >= threshold
    return tf.where(kept, values, tf.zeros_like(values))
