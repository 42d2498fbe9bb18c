"""The modern sparse auto-encoders: one linear encoder and decoder, three ways to make the latents sparse.

With the array names that sparse auto-encoder tools use::

    pre = (x − b_dec) W_enc + b_enc        z = sparse(pre)        x̂ = z W_dec + b_dec

Rows of ``W_dec`` have length 1, ``W_enc`` starts as its transpose, and ``b_dec``, subtracted before the encoder, is the
b_pre of Gao et al., "Scaling and evaluating sparse autoencoders", arXiv 2406.04093 (equation 1 and appendix A.1).
"""

from __future__ import annotations

import math

import keras
import numpy as np
import tensorflow as tf

from training.sparsity.batch_top_k import above, batch_top_k, smallest_kept
from training.sparsity.jump_relu import jump_relu, step
from training.sparsity.top_k import top_k, top_k_margin
from training.sparsity.unit_norm import tangent


class SparseAutoencoder(keras.Model):
    """What the three share; a kind states how its latents become sparse.

    Args:
        visible: values of one example, V.
        latents: number of latents D.
        seed: of the initial dictionary.

    Attributes:
        W_enc: variable [V, D].
        b_enc: variable [D].
        W_dec: variable [D, V]; the optimiser brings its rows back to length 1.
        b_dec: variable [V].
        idle: int64 variable [D], training examples since each latent last fired. It lies beside the weights so that
            a resumed run still knows its dead latents.
    """

    def __init__(self, visible: int, latents: int, *, seed: int = 0, **options: object) -> None:
        super().__init__(**options)
        self.visible, self.latents, self.seed = visible, latents, seed
        rows = np.random.default_rng(seed).standard_normal((latents, visible)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        self.W_enc = self.add_weight(shape=(visible, latents), initializer="zeros", name="W_enc")
        self.b_enc = self.add_weight(shape=(latents,), initializer="zeros", name="b_enc")
        unit_rows = keras.constraints.UnitNorm(axis=1)
        self.W_dec = self.add_weight(shape=(latents, visible), initializer="zeros", constraint=unit_rows, name="W_dec")
        self.b_dec = self.add_weight(shape=(visible,), initializer="zeros", name="b_dec")
        # spread over replicas, all count the same: any one's value is that of all
        self.idle = self.add_weight(
            shape=(latents,),
            initializer="zeros",
            dtype="int64",
            trainable=False,
            aggregation="only_first_replica",
            name="idle",
        )
        self.W_enc.assign(rows.T)
        self.W_dec.assign(rows)
        self.built = True

    @property
    def dictionary(self) -> tf.Tensor:
        """Float [V, D]; column j is the picture that latent j stands for."""
        return tf.transpose(self.W_dec)

    def preactivations(self, image: tf.Tensor) -> tf.Tensor:
        """What the encoder sees before sparsity of ``image`` [N, V]: float [N, D]."""
        return tf.matmul(image - self.b_dec, self.W_enc) + self.b_enc

    def sparse(self, preactivations: tf.Tensor) -> tf.Tensor:
        """Latents of an example, from its own preactivations [N, D] alone: float [N, D], >= 0."""
        raise NotImplementedError

    def sparse_in_training(self, preactivations: tf.Tensor) -> tf.Tensor:
        """Latents as training makes them; the same as :meth:`sparse` where a kind says nothing else."""
        return self.sparse(preactivations)

    def encode(self, image: tf.Tensor) -> tf.Tensor:
        """Latents of ``image`` [N, V]: float [N, D], >= 0."""
        return self.sparse(self.preactivations(image))

    def margin(self, image: tf.Tensor) -> tf.Tensor:
        """How far the preactivations of each ``image`` [N, V] are from another set of active latents: float [N]."""
        preactivations = self.preactivations(image)
        return tf.reduce_min(tf.abs(preactivations - self.threshold), axis=1)

    def decode(self, encoding: tf.Tensor, *, training: bool = False) -> tf.Tensor:
        """Reconstruction from latents [N, D]: float [N, V]. In training the rows' lengths get no gradient."""
        rows = tangent(tf.convert_to_tensor(self.W_dec)) if training else self.W_dec
        return tf.matmul(encoding, rows) + self.b_dec

    def call(self, image: tf.Tensor) -> tf.Tensor:
        """Reconstruction of ``image`` [N, V]: float [N, V]."""
        return self.decode(self.encode(image))

    def count_idle(self, latents: tf.Tensor) -> None:
        """Brings :attr:`idle` up to date with the latents [N, D] of a training batch, or of a replica's share."""
        firings = tf.math.count_nonzero(latents > 0, axis=0)
        examples = tf.shape(latents, tf.int64)[0]
        replicas = tf.distribute.get_replica_context()
        if replicas is not None and replicas.num_replicas_in_sync > 1:
            firings, examples = replicas.all_reduce(tf.distribute.ReduceOp.SUM, [firings, examples])
        idle = tf.convert_to_tensor(self.idle)
        self.idle.assign(tf.where(firings > 0, tf.zeros_like(idle), idle + examples))

    def get_config(self) -> dict[str, object]:
        """The constructor's arguments."""
        return {**super().get_config(), "visible": self.visible, "latents": self.latents, "seed": self.seed}


@keras.saving.register_keras_serializable("sparsewalk")
class TopKAutoencoder(SparseAutoencoder):
    """``z = TopK(ReLU(pre))``: the k largest of each example (arXiv 2406.04093, equation 1).

    Args:
        visible: values of one example, V.
        latents: number of latents D.
        k: latents kept, 1..D.
        seed: of the initial dictionary.
    """

    def __init__(self, visible: int, latents: int, k: int, *, seed: int = 0, **options: object) -> None:
        _require_k(k, latents)
        super().__init__(visible, latents, seed=seed, **options)
        self.k = k

    def sparse(self, preactivations: tf.Tensor) -> tf.Tensor:
        """The k largest of each row, where they are positive."""
        return tf.nn.relu(top_k(preactivations, self.k))

    def margin(self, image: tf.Tensor) -> tf.Tensor:
        """How far the preactivations of each ``image`` [N, V] are from another set of active latents: float [N]."""
        return top_k_margin(self.preactivations(image), self.k)

    def get_config(self) -> dict[str, object]:
        """The constructor's arguments."""
        return {**super().get_config(), "k": self.k}


@keras.saving.register_keras_serializable("sparsewalk")
class BatchTopKAutoencoder(SparseAutoencoder):
    """The k·N largest of a batch in training, a fixed threshold in inference (arXiv 2412.06410, equations 3 and 4).

    Args:
        visible: values of one example, V.
        latents: number of latents D.
        k: latents kept of an example on average, 1..D.
        threshold_rate: weight of the newest batch in the moving average of the threshold, 0..1.
        seed: of the initial dictionary.

    Attributes:
        threshold: variable, scalar: the moving average of the smallest value kept; 0 before training.
    """

    def __init__(
        self,
        visible: int,
        latents: int,
        k: int,
        *,
        threshold_rate: float = 0.01,
        seed: int = 0,
        **options: object,
    ) -> None:
        _require_k(k, latents)
        super().__init__(visible, latents, seed=seed, **options)
        self.k, self.threshold_rate = k, threshold_rate
        self.threshold = self.add_weight(
            shape=(), initializer="zeros", trainable=False, aggregation="mean", name="threshold"
        )

    def sparse(self, preactivations: tf.Tensor) -> tf.Tensor:
        """What exceeds the threshold; no example depends on the others."""
        return above(tf.nn.relu(preactivations), self.threshold)

    def sparse_in_training(self, preactivations: tf.Tensor) -> tf.Tensor:
        """The ``k * N`` largest of the batch, where they are positive. Moves the threshold."""
        latents = tf.nn.relu(batch_top_k(preactivations, self.k))
        threshold, smallest = tf.convert_to_tensor(self.threshold), smallest_kept(latents)
        # the first batch sets it; an average with the 0 from before training would lag for hundreds of steps
        rate = tf.where(threshold > 0, self.threshold_rate, 1.0)
        moved = threshold + rate * (smallest - threshold)
        self.threshold.assign(tf.where(smallest < smallest.dtype.max, moved, threshold))
        return latents

    def get_config(self) -> dict[str, object]:
        """The constructor's arguments."""
        return {**super().get_config(), "k": self.k, "threshold_rate": self.threshold_rate}


@keras.saving.register_keras_serializable("sparsewalk")
class JumpReluAutoencoder(SparseAutoencoder):
    """``z = pre · H(pre − θ)`` with a learned threshold for each latent (arXiv 2407.14435, equation 3).

    Args:
        visible: values of one example, V.
        latents: number of latents D.
        bandwidth: of the straight-through estimate, > 0.
        initial_threshold: > 0.
        seed: of the initial dictionary.

    Attributes:
        log_threshold: variable [D]; its exponential is the threshold, which so stays positive.
    """

    def __init__(
        self,
        visible: int,
        latents: int,
        *,
        bandwidth: float,
        initial_threshold: float,
        seed: int = 0,
        **options: object,
    ) -> None:
        if not (bandwidth > 0 and initial_threshold > 0):
            raise ValueError(
                "bandwidth and initial_threshold must be positive. "
                f"Received: bandwidth={bandwidth}, initial_threshold={initial_threshold}"
            )
        super().__init__(visible, latents, seed=seed, **options)
        self.bandwidth, self.initial_threshold = bandwidth, initial_threshold
        initial = keras.initializers.Constant(math.log(initial_threshold))
        self.log_threshold = self.add_weight(shape=(latents,), initializer=initial, name="log_threshold")

    @property
    def threshold(self) -> tf.Tensor:
        """θ, float [D], > 0."""
        return tf.exp(self.log_threshold)

    def sparse(self, preactivations: tf.Tensor) -> tf.Tensor:
        """What exceeds its latent's threshold."""
        return above(preactivations, self.threshold)

    def sparse_in_training(self, preactivations: tf.Tensor) -> tf.Tensor:
        """The same values, with the pseudo-derivative for the threshold."""
        return jump_relu(preactivations, self.threshold, self.bandwidth)

    def active(self, preactivations: tf.Tensor) -> tf.Tensor:
        """Mean number of active latents of an example, with the pseudo-derivative for the threshold: float scalar."""
        return tf.reduce_mean(tf.reduce_sum(step(preactivations, self.threshold, self.bandwidth), axis=1))

    def get_config(self) -> dict[str, object]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "bandwidth": self.bandwidth,
            "initial_threshold": self.initial_threshold,
        }


def _require_k(k: int, latents: int) -> None:
    if not 1 <= k <= latents:
        raise ValueError(f"k must lie in 1..{latents} (the number of latents). Received: {k}")
