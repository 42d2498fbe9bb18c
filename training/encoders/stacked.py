"""Sigmoid auto-encoders stacked on one another, with a classifier on top.

Bengio, Lamblin, Popovici and Larochelle, "Greedy Layer-Wise Training of Deep Networks", NIPS 2006: each layer is
trained to rebuild the latents of the one below it, then all are fine-tuned together with a classifier.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import keras
import tensorflow as tf
from keras import layers


@keras.saving.register_keras_serializable("sparsewalk")
class StackedAutoencoder(keras.Model):
    """Encoders one on another, their decoders unfolded in the opposite order, and a softmax on the last latents.

    Args:
        visible: values of one example, V.
        widths: latents of each layer; the last is D.
        classes: of the classifier.
        seed: of the initial weights, drawn from U(±√(6 / (inputs + outputs + 1))); biases start at 0.

    Attributes:
        encoders: one Dense layer (sigmoid) a level, from the bottom up.
        decoders: one Dense layer (sigmoid) a level, of the same numbering: ``decoders[i]`` undoes ``encoders[i]``.
        recogniser: :class:`keras.Sequential` of all encoders and the classifier; it gives logits.
        pretrained: a copy of it, not trained, to compare with: see :meth:`remember_pretrained`.
    """

    def __init__(
        self, visible: int, widths: Sequence[int], classes: int = 10, *, seed: int = 0, **options: object
    ) -> None:
        if not widths:
            raise ValueError("widths must hold one number of units or more. Received: none")
        super().__init__(**options)
        self.visible, self.widths, self.classes, self.seed = visible, tuple(widths), classes, seed
        # one seed for each kernel: the same seed everywhere would start layers of equal shape with equal weights
        seeds = iter(range(seed * 1000, seed * 1000 + 1000))

        def dense(inputs: int, units: int, activation: str, name: str) -> layers.Dense:
            limit = (6.0 / (inputs + units + 1)) ** 0.5
            kernel = keras.initializers.RandomUniform(-limit, limit, seed=next(seeds))
            layer = layers.Dense(units, activation, kernel_initializer=kernel, name=name)
            layer.build((None, inputs))
            return layer

        sizes = (visible, *self.widths)
        pairs = list(itertools.pairwise(sizes))
        self.encoders = [
            dense(below, above, "sigmoid", f"encoder_{level}") for level, (below, above) in enumerate(pairs)
        ]
        self.decoders = [
            dense(above, below, "sigmoid", f"decoder_{level}") for level, (below, above) in enumerate(pairs)
        ]
        self.classifier = dense(sizes[-1], classes, "linear", "classifier")
        self.recogniser = keras.Sequential([keras.Input((visible,)), *self.encoders, self.classifier])
        self.pretrained = keras.models.clone_model(self.recogniser)
        self.pretrained.trainable = False
        self.remember_pretrained()
        self.built = True

    @property
    def dictionary(self) -> tf.Variable:
        """Kernel of the first encoder [V, widths[0]]; column j is the picture that its unit j looks for."""
        return self.encoders[0].kernel

    def encode(self, image: tf.Tensor) -> tf.Tensor:
        """Latents of the last level of ``image`` [N, V]: float [N, D] in 0..1."""
        return self.encode_to(image, len(self.encoders))

    def encode_to(self, image: tf.Tensor, levels: int) -> tf.Tensor:
        """Latents of ``image`` [N, V] after the lowest ``levels`` encoders; with 0 the image itself."""
        for encoder in self.encoders[:levels]:
            image = encoder(image)
        return image

    def decode(self, encoding: tf.Tensor) -> tf.Tensor:
        """Reconstruction from latents [N, D] through all decoders: float [N, V] in 0..1."""
        for decoder in reversed(self.decoders):
            encoding = decoder(encoding)
        return encoding

    def call(self, image: tf.Tensor) -> tf.Tensor:
        """Reconstruction of ``image`` [N, V]: float [N, V] in 0..1."""
        return self.decode(self.encode(image))

    def classify(self, image: tf.Tensor) -> tf.Tensor:
        """Logits of the classes of ``image`` [N, V]: float [N, classes]."""
        return self.recogniser(image)

    def remember_pretrained(self) -> None:
        """Copies encoders and classifier, as they are now, to :attr:`pretrained`."""
        self.pretrained.set_weights(self.recogniser.get_weights())

    def get_config(self) -> dict[str, object]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "visible": self.visible,
            "widths": self.widths,
            "classes": self.classes,
            "seed": self.seed,
        }
