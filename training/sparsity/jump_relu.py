"""A threshold for each latent that can be learned, although nothing has a gradient at a jump (JumpReLU).

Rajamanoharan et al., "Jumping Ahead: Improving Reconstruction Fidelity with JumpReLU Sparse Autoencoders",
arXiv 2407.14435. With H the Heaviside step, ε the bandwidth and K the rectangle kernel ``K(u) = 1[|u| < 1/2]``, the
pseudo-derivatives of the paper's equations 11 and 12 stand in for those that are zero almost everywhere::

    JumpReLU_θ(z) = z · H(z − θ)    ∂/∂θ := −(θ/ε) K((z − θ)/ε)    ∂/∂z = H(z − θ)
    H(z − θ)                        ∂/∂θ := −(1/ε) K((z − θ)/ε)    ∂/∂z = 0

Averaged over examples they estimate the derivatives of the expectation, in which the density of z at θ appears.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

Gradients = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def jump_relu(latents: tf.Tensor, threshold: tf.Tensor, bandwidth: float) -> tf.Tensor:
    """``z · H(z − θ)``: latents above their threshold pass unchanged.

    Args:
        latents: z, float [N, D].
        threshold: θ > 0, float [D].
        bandwidth: ε > 0, in units of z. Wider is less noisy and more biased.

    Returns:
        float [N, D].
    """

    def operator(z: tf.Tensor, theta: tf.Tensor) -> tuple[tf.Tensor, Gradients]:
        open_gate = tf.cast(z > theta, z.dtype)

        def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            to_theta = -(theta / bandwidth) * rectangle((z - theta) / bandwidth) * upstream
            return open_gate * upstream, tf.reduce_sum(to_theta, axis=0)

        return z * open_gate, gradients

    return tf.custom_gradient(operator)(latents, threshold)


def step(latents: tf.Tensor, threshold: tf.Tensor, bandwidth: float) -> tf.Tensor:
    """``H(z − θ)``, 1 for each active latent: summed over a row it is that example's L0.

    Args:
        latents: z, float [N, D].
        threshold: θ > 0, float [D].
        bandwidth: ε > 0, in units of z.

    Returns:
        float [N, D] of zeros and ones.
    """

    def operator(z: tf.Tensor, theta: tf.Tensor) -> tuple[tf.Tensor, Gradients]:
        def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            to_theta = -rectangle((z - theta) / bandwidth) / bandwidth * upstream
            return tf.zeros_like(z), tf.reduce_sum(to_theta, axis=0)

        return tf.cast(z > theta, z.dtype), gradients

    return tf.custom_gradient(operator)(latents, threshold)


def rectangle(u: tf.Tensor) -> tf.Tensor:
    """The kernel ``K(u) = 1[|u| < 1/2]``, of area 1."""
    return tf.cast(tf.abs(u) < 0.5, u.dtype)
