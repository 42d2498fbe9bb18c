"""Negative log-likelihoods of pictures in 0..1 and of labels, in nats."""

from __future__ import annotations

import tensorflow as tf


def bernoulli_crossentropy(inputs: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Mean over the batch of ``−Σ_v x_v log p_v + (1 − x_v) log(1 − p_v)`` with ``p = sigmoid(logits)``.

    The values of an example are summed, so that this is the reconstruction term of a variational bound; Keras'
    ``binary_crossentropy`` is this number divided by V. For grey values x its least value is not 0 but the entropy of
    the pixels: report squared errors beside it. Computed from logits: a float32 sigmoid that rounds to exactly 0 or 1
    has no gradient.

    Args:
        inputs: float [N, V], x in 0..1.
        logits: float [N, V].

    Returns:
        float scalar, >= 0, in nats for one example.
    """
    nats = tf.nn.sigmoid_cross_entropy_with_logits(labels=inputs, logits=logits)
    return tf.reduce_mean(tf.reduce_sum(nats, axis=-1))


def gaussian_kl(mean: tf.Tensor, log_variance: tf.Tensor) -> tf.Tensor:
    """Mean over the batch of ``KL(N(μ, σ²) ‖ N(0, I)) = −½ Σ_j (1 + log σ_j² − μ_j² − σ_j²)``.

    Kingma and Welling, arXiv 1312.6114, appendix B. The second argument is log σ², here and where z is drawn with
    ``σ = exp(½ log σ²)``; a well-known program uses one number as log σ in one place and as log σ² in the other.

    Args:
        mean: float [N, D], μ.
        log_variance: float [N, D], log σ².

    Returns:
        float scalar, >= 0, in nats for one example.
    """
    terms = 1.0 + log_variance - tf.square(mean) - tf.exp(log_variance)
    return -0.5 * tf.reduce_mean(tf.reduce_sum(terms, axis=-1))


def softmax_crossentropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Mean over the batch of ``−log softmax(logits)[label]``.

    Args:
        labels: int [N], 0..C-1.
        logits: float [N, C].

    Returns:
        float scalar, >= 0, in nats for one example.
    """
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
