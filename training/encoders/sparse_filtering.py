"""Sparse filtering as an encoder of its own.

Ngiam, Koh, Chen, Bhaskar and Ng, "Sparse Filtering", NIPS 2011; the equations are in
:mod:`training.sparsity.sparse_filtering`. The method has no decoder.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from training.sparsity.sparse_filtering import normalised


@keras.saving.register_keras_serializable("sparsewalk")
class SparseFilteringEncoder(keras.Model):
    """Linear filters, soft absolute, the norms of the training examples, unit length.

    The mean of each picture is removed first. Training divides each feature by its norm over the batch, which is the
    whole training set; :meth:`encode` divides by :attr:`norms`, kept from it, so that the latents of an example do
    not depend on those beside it.

    Args:
        visible: values of one example, V.
        latents: number of features H.
        seed: of the initial filters, drawn from N(0, 1).

    Attributes:
        dictionary: variable [V, H]; column j is the filter of feature j.
        norms: variable [H], not trained by gradients: the norm of each feature over the training examples.
        decoder: variable [H, V], not trained by gradients: the linear least-squares fit of the training examples to
            their latents. It shows what the latents still know of a picture and is no part of the method.
        decoder_bias: variable [V], of the same fit.
    """

    def __init__(self, visible: int, latents: int, *, seed: int = 0, **options: object) -> None:
        super().__init__(**options)
        self.visible, self.latents, self.seed = visible, latents, seed
        initial = keras.initializers.RandomNormal(stddev=1.0, seed=seed)
        self.dictionary = self.add_weight(shape=(visible, latents), initializer=initial, name="dictionary")
        self.norms = self.add_weight(shape=(latents,), initializer="ones", trainable=False, name="norms")
        self.decoder = self.add_weight(shape=(latents, visible), initializer="zeros", trainable=False, name="decoder")
        self.decoder_bias = self.add_weight(shape=(visible,), initializer="zeros", trainable=False, name="decoder_bias")
        self.built = True

    def encode(self, image: tf.Tensor) -> tf.Tensor:
        """Latents of ``image`` [N, V]: float [N, H], > 0, each row of length 1."""
        return normalised(tf.matmul(centred(image), self.dictionary), tf.convert_to_tensor(self.norms))

    def call(self, image: tf.Tensor) -> tf.Tensor:
        """Reconstruction of ``image`` [N, V] by the linear fit: float [N, V]."""
        return tf.matmul(self.encode(image), self.decoder) + self.decoder_bias

    def get_config(self) -> dict[str, object]:
        """The constructor's arguments."""
        return {**super().get_config(), "visible": self.visible, "latents": self.latents, "seed": self.seed}


def centred(image: tf.Tensor) -> tf.Tensor:
    """Each row of ``image`` [N, V] without its mean."""
    return image - tf.reduce_mean(image, axis=-1, keepdims=True)
