"""The penalty that keeps each latent active for a given share of the examples.

Ng, "Sparse autoencoder", CS294A lecture notes, section 3: ``Σ_j KL(ρ ‖ ρ̂_j)`` with
``KL(ρ ‖ ρ̂) = ρ log(ρ / ρ̂) + (1 − ρ) log((1 − ρ) / (1 − ρ̂))``, ρ̂_j the mean activation of latent j, for sigmoid
latents.
"""

from __future__ import annotations

import tensorflow as tf

CLIP = 1e-6
"""ρ̂ is kept this far from 0 and 1, where the penalty is infinite; beyond it the gradient is 0."""


def kl_sparsity(mean_activation: tf.Tensor, target: float) -> tf.Tensor:
    """``Σ_j KL(ρ ‖ ρ̂_j)``.

    Args:
        mean_activation: float [D], ρ̂ in 0..1: over the batch, or a moving average of it.
        target: ρ, above 0 and below 1.

    Returns:
        float scalar, >= 0, in nats; 0 where every ρ̂_j is ρ.

    Raises:
        ValueError: a target outside of 0..1.
    """
    if not 0 < target < 1:
        raise ValueError(f"target must lie between 0 and 1. Received: {target}")
    active = tf.clip_by_value(mean_activation, CLIP, 1 - CLIP)
    on, off = target * tf.math.log(target / active), (1 - target) * tf.math.log((1 - target) / (1 - active))
    return tf.reduce_sum(on + off)


def kl_slope(mean_activation: tf.Tensor, target: float) -> tf.Tensor:
    """``∂/∂ρ̂_j KL(ρ ‖ ρ̂_j) = −ρ/ρ̂_j + (1 − ρ)/(1 − ρ̂_j)``, written out: float [D].

    Args:
        mean_activation: float [D], ρ̂ in 0..1; where it lies beyond the clip the slope is 0.
        target: ρ, above 0 and below 1.
    """
    active = tf.clip_by_value(mean_activation, CLIP, 1 - CLIP)
    slope = (1 - target) / (1 - active) - target / active
    return tf.where(active == mean_activation, slope, tf.zeros_like(slope))
