"""Training by gradients written out by hand: no tape, each formula as on paper.

For a batch x [N, V] and latents a [N, D], with δ the derivative by what goes into an activation function::

    x̂ = g(a W₂ + b₂)    δ₃ = (x̂ − x) ⊙ g′                      ∇W₂ = aᵀ δ₃ / N + λ W₂    ∇b₂ = Σ δ₃ / N
    a = f(x W₁ + b₁)    δ₂ = (δ₃ W₂ᵀ + ∂Ω/∂a) ⊙ f′             ∇W₁ = xᵀ δ₂ / N + λ W₁    ∇b₁ = Σ δ₂ / N

    tied, W₁ = W and W₂ = Wᵀ:                                  ∇W = (xᵀ δ₂ + δ₃ᵀ a) / N + λ W

(Ng, CS294A lecture notes, sections 2 and 3, for rows as examples). The functions here return objective and gradients;
tests hold them to central differences and to ``tf.GradientTape`` of the same objective.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from training.sparsity.kl import kl_slope, kl_sparsity

Backward = Callable[[Any], tuple[Mapping[str, tf.Tensor], Sequence[tf.Tensor]]]


class Manual:
    """The :class:`~training.loops.trainer.Program` of gradients that somebody wrote down.

    Args:
        model: the trained model.
        backward: from a batch to scalars (``loss`` among them) and the gradients of ``model.trainable_variables``, in
            their order.
        optimizer: a Keras optimiser of its own for this program.
        batches: from an epoch (from 0) to its batches.
        before_epoch: called with the epoch (from 0) before its first step.
    """

    def __init__(
        self,
        model: keras.Model,
        backward: Backward,
        optimizer: keras.optimizers.Optimizer,
        batches: Callable[[int], Iterable[Any]],
        *,
        before_epoch: Callable[[int], None] | None = None,
    ) -> None:
        self._model = model
        self._backward = backward
        self._optimizer = optimizer
        self._batches = batches
        self._before_epoch = before_epoch
        optimizer.build(model.trainable_variables)
        self._graph_step = tf.function(self._update, reduce_retracing=True)

    @property
    def state(self) -> Mapping[str, Any]:
        """Model and optimiser."""
        return {"model": self._model, "optimizer": self._optimizer}

    def batches(self, epoch: int) -> Iterable[Any]:
        """The batches of ``epoch``."""
        return self._batches(epoch)

    def before_epoch(self, epoch: int) -> None:
        """Runs the hook given to the constructor."""
        if self._before_epoch is not None:
            self._before_epoch(epoch)

    def step(self, batch: Any) -> Mapping[str, tf.Tensor]:
        """One gradient step on ``batch``."""
        scalars: Mapping[str, tf.Tensor] = self._graph_step(batch)
        return scalars

    def validate(self) -> Mapping[str, float]:
        """Nothing is validated."""
        return {}

    def _update(self, batch: Any) -> Mapping[str, tf.Tensor]:
        scalars, gradients = self._backward(batch)
        self._optimizer.apply(gradients, self._model.trainable_variables)
        return scalars


class SigmoidGradients(NamedTuple):
    """Gradients of the sigmoid auto-encoder.

    Attributes:
        loss: float scalar.
        encoder: float [V, D], ∇W₁.
        encoder_bias: float [D], ∇b₁.
        decoder: float [D, V], ∇W₂.
        decoder_bias: float [V], ∇b₂.
        mean_activation: float [D], the batch's ρ̂.
    """

    loss: tf.Tensor
    encoder: tf.Tensor
    encoder_bias: tf.Tensor
    decoder: tf.Tensor
    decoder_bias: tf.Tensor
    mean_activation: tf.Tensor


def sigmoid_gradients(
    image: tf.Tensor,
    encoder: tf.Tensor,
    encoder_bias: tf.Tensor,
    decoder: tf.Tensor,
    decoder_bias: tf.Tensor,
    *,
    weight_decay: float = 0.0,
    sparsity_weight: float = 0.0,
    target_activation: float = 0.1,
    moving_activation: Callable[[tf.Tensor], tf.Tensor] | None = None,
) -> SigmoidGradients:
    """``J = 1/(2N) Σ ‖x̂ − x‖² + λ/2 (‖W₁‖² + ‖W₂‖²) + β Σ_j KL(ρ ‖ ρ̂_j)``; no decay on biases.

    ``f′ = a (1 − a)``, ``g′ = x̂ (1 − x̂)``, ``∂Ω/∂a_j = β (−ρ/ρ̂_j + (1 − ρ)/(1 − ρ̂_j))`` for each example.

    Args:
        image: x, float [N, V].
        encoder: W₁, float [V, D].
        encoder_bias: b₁, float [D].
        decoder: W₂, float [D, V].
        decoder_bias: b₂, float [V].
        weight_decay: λ.
        sparsity_weight: β.
        target_activation: ρ.
        moving_activation: from the batch's ρ̂ to the one in the penalty, which still has the batch's derivative; the
            batch's own by default.
    """
    count = tf.cast(tf.shape(image)[0], image.dtype)
    a = tf.sigmoid(tf.matmul(image, encoder) + encoder_bias)
    rebuilt = tf.sigmoid(tf.matmul(a, decoder) + decoder_bias)
    residual = rebuilt - image
    batch_activation = tf.reduce_mean(a, axis=0)

    loss = 0.5 * tf.reduce_sum(tf.square(residual)) / count
    delta_3 = residual * rebuilt * (1 - rebuilt)
    passed = tf.matmul(delta_3, decoder, transpose_b=True)
    if sparsity_weight:
        activation = batch_activation if moving_activation is None else moving_activation(batch_activation)
        loss += sparsity_weight * kl_sparsity(activation, target_activation)
        passed += sparsity_weight * kl_slope(activation, target_activation)
    delta_2 = passed * a * (1 - a)

    encoder_gradient = tf.matmul(image, delta_2, transpose_a=True) / count
    decoder_gradient = tf.matmul(a, delta_3, transpose_a=True) / count
    if weight_decay:
        loss += 0.5 * weight_decay * (tf.reduce_sum(tf.square(encoder)) + tf.reduce_sum(tf.square(decoder)))
        encoder_gradient += weight_decay * encoder
        decoder_gradient += weight_decay * decoder
    return SigmoidGradients(
        loss,
        encoder_gradient,
        tf.reduce_mean(delta_2, axis=0),
        decoder_gradient,
        tf.reduce_mean(delta_3, axis=0),
        batch_activation,
    )


class TiedGradients(NamedTuple):
    """Gradients of an auto-encoder whose decoder is the transpose of its encoder.

    Attributes:
        loss: float scalar.
        dictionary: float [V, D], ∇W.
        encoder_bias: float [D], ∇b.
        decoder_bias: float [V], ∇b′.
    """

    loss: tf.Tensor
    dictionary: tf.Tensor
    encoder_bias: tf.Tensor
    decoder_bias: tf.Tensor


def selected_gradients(
    image: tf.Tensor,
    dictionary: tf.Tensor,
    encoder_bias: tf.Tensor,
    decoder_bias: tf.Tensor,
    select: Callable[[tf.Tensor], tf.Tensor],
    *,
    weight_decay: float = 0.0,
    decoder_half_only: bool = False,
) -> TiedGradients:
    """``J = 1/(2N) Σ ‖x̂ − x‖² + λ/2 ‖W‖²`` with ``a = select(x W + b)`` and ``x̂ = a Wᵀ + b′``.

    ``δ₃ = x̂ − x``; ``δ₂ = δ₃ W`` where a is not 0 and 0 elsewhere: straight through what was kept, nothing to the
    selection. ``∇W = (xᵀ δ₂ + δ₃ᵀ a) / N + λ W``.

    Args:
        image: x, float [N, V].
        dictionary: W, float [V, D].
        encoder_bias: b, float [D].
        decoder_bias: b′, float [V].
        select: from z [N, D] to z with the entries that are not kept at 0.
        weight_decay: λ.
        decoder_half_only: leave δ₂ out, as the source's program does: neither W nor b hears from the encoder.
    """
    count = tf.cast(tf.shape(image)[0], image.dtype)
    a = select(tf.matmul(image, dictionary) + encoder_bias)
    delta_3 = tf.matmul(a, dictionary, transpose_b=True) + decoder_bias - image
    loss = 0.5 * tf.reduce_sum(tf.square(delta_3)) / count
    delta_3 /= count
    if decoder_half_only:
        gradient = tf.matmul(delta_3, a, transpose_a=True)
        bias_gradient = tf.zeros_like(a[0])
    else:
        passed = tf.matmul(delta_3, dictionary)
        delta_2 = tf.where(a != 0, passed, tf.zeros_like(passed))
        # xᵀ δ₂ + δ₃ᵀ a as one product of twice the depth: faster than two of them and a sum
        gradient = tf.matmul(tf.concat([image, delta_3], 0), tf.concat([delta_2, a], 0), transpose_a=True)
        bias_gradient = tf.reduce_sum(delta_2, axis=0)
    if weight_decay:
        loss += 0.5 * weight_decay * tf.reduce_sum(tf.square(dictionary))
        gradient += weight_decay * dictionary
    return TiedGradients(loss, gradient, bias_gradient, tf.reduce_sum(delta_3, axis=0))


def denoising_gradients(
    image: tf.Tensor,
    corrupted: tf.Tensor,
    dictionary: tf.Tensor,
    encoder_bias: tf.Tensor,
    decoder_bias: tf.Tensor,
) -> TiedGradients:
    """``J = 1/N Σ ‖x̂ − x‖²`` with ``h = σ(x̃ W + b)`` and ``x̂ = σ(h Wᵀ + b′)``: tied, rebuilt from a corrupted x̃.

    ``δ₃ = 2 (x̂ − x) x̂ (1 − x̂)``, ``δ₂ = (δ₃ W) h (1 − h)``, ``∇W = (x̃ᵀ δ₂ + δ₃ᵀ h) / N``.

    Args:
        image: x, float [N, V].
        corrupted: x̃, float [N, V].
        dictionary: W, float [V, D].
        encoder_bias: b, float [D].
        decoder_bias: b′, float [V].
    """
    count = tf.cast(tf.shape(image)[0], image.dtype)
    h = tf.sigmoid(tf.matmul(corrupted, dictionary) + encoder_bias)
    rebuilt = tf.sigmoid(tf.matmul(h, dictionary, transpose_b=True) + decoder_bias)
    residual = rebuilt - image
    loss = tf.reduce_sum(tf.square(residual)) / count
    delta_3 = 2 / count * residual * rebuilt * (1 - rebuilt)
    delta_2 = tf.matmul(delta_3, dictionary) * h * (1 - h)
    gradient = tf.matmul(tf.concat([corrupted, delta_3], 0), tf.concat([delta_2, h], 0), transpose_a=True)
    return TiedGradients(loss, gradient, tf.reduce_sum(delta_2, axis=0), tf.reduce_sum(delta_3, axis=0))
