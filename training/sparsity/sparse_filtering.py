"""Sparse filtering: features that are rarely active, equally often, with no reconstruction at all.

Ngiam, Koh, Chen, Bhaskar and Ng, "Sparse Filtering", NIPS 2011, section 3. With linear features F [N, H] (rows are
examples, columns features; the paper writes the transpose)::

    A = activation(F)               soft absolute √(F² + ε) in the paper
    B_ij = A_ij / ‖A_:j‖            each feature over the examples: every feature is as active as any other
    C_ij = B_ij / ‖B_i:‖            each example over the features: they compete for a fixed length
    J = Σ_ij C_ij                   the L1 norm on the unit sphere: few features carry an example

Where the activation is not negative, ``N <= J <= N √H``: one feature alone in each example, or all equal. Scaling a
column of F leaves J as it is (up to ε, and not with ELU, which is no homogeneous function).

The paper minimises J; here it is divided by N (``reduction="examples"``) so that a value does not depend on how many
examples there were. The source's program takes the mean over all entries, J / (N H) (``reduction="entries"``), and
ε = 1e-20, which leaves the kink of the absolute value at 0 unsmoothed and lets the norm of a silent feature fall to
1e-10 √N; the paper's ε is 1e-8.
"""

from __future__ import annotations

from typing import Literal

import tensorflow as tf

Activation = Literal["soft_absolute", "elu_abs", "elu_signed"]
Reduction = Literal["examples", "entries"]

EPSILON = 1e-8
"""Of the paper."""
PROGRAM_EPSILON = 1e-20
"""Of the source's program."""

_SMALLEST_SQUARE = 1e-30
"""Sums of squares below this count as this: signed ELU has no ε that would keep a norm from 0."""


def activated(features: tf.Tensor, activation: Activation = "soft_absolute", epsilon: float = EPSILON) -> tf.Tensor:
    """A of the features.

    ``soft_absolute`` is ``√(F² + ε)``; ``elu_abs`` is ``√(elu(F)² + ε)``, so that it too is a size and the bounds of J
    hold; ``elu_signed`` is ``elu(F)`` as the source's program has it: not a size, for its negative entries lower J,
    down to -N √H where all are negative. Report :func:`negative_share` beside it.

    Args:
        features: float [N, H], the linear features F.
        activation: which.
        epsilon: ε > 0; without effect on ``elu_signed``.

    Returns:
        float [N, H].

    Raises:
        ValueError: an unknown activation.
    """
    if activation == "soft_absolute":
        return tf.sqrt(tf.square(features) + epsilon)
    if activation == "elu_abs":
        return tf.sqrt(tf.square(tf.nn.elu(features)) + epsilon)
    if activation == "elu_signed":
        return tf.nn.elu(features)
    raise ValueError(f"activation must be soft_absolute, elu_abs or elu_signed. Received: {activation!r}")


def feature_norms(features: tf.Tensor, activation: Activation = "soft_absolute", epsilon: float = EPSILON) -> tf.Tensor:
    """``‖A_:j‖``, the L2 norm of each feature over the examples: float [H], > 0.

    Taken over the training examples and kept, it makes :func:`normalised` a function of each example alone.

    Args:
        features: float [N, H].
        activation: as in :func:`activated`.
        epsilon: likewise.
    """
    return _norm(activated(features, activation, epsilon), axis=0)[0]


def normalised(
    features: tf.Tensor,
    norms: tf.Tensor | None = None,
    activation: Activation = "soft_absolute",
    epsilon: float = EPSILON,
) -> tf.Tensor:
    """C, the features of each example on the unit sphere.

    Args:
        features: float [N, H].
        norms: float [H] of :func:`feature_norms`; by default those of these examples, as in training.
        activation: as in :func:`activated`.
        epsilon: likewise.

    Returns:
        float [N, H]; the L2 norm of each row is 1.
    """
    active = activated(features, activation, epsilon)
    balanced = active / (_norm(active, axis=0) if norms is None else norms)
    return balanced / _norm(balanced, axis=1)


def negative_share(
    features: tf.Tensor, activation: Activation = "soft_absolute", epsilon: float = EPSILON
) -> tf.Tensor:
    """Share of the entries of A below 0, float scalar in 0..1: above 0 only with ``elu_signed``."""
    active = activated(features, activation, epsilon)
    return tf.reduce_mean(tf.cast(active < 0, active.dtype))


def sparse_filtering(
    features: tf.Tensor,
    activation: Activation = "soft_absolute",
    epsilon: float = EPSILON,
    reduction: Reduction = "examples",
) -> tf.Tensor:
    """The objective J / N, or J / (N H).

    Args:
        features: float [N, H], the linear features F of at least a few dozen examples: they are normalised over
            these.
        activation: as in :func:`activated`.
        epsilon: likewise.
        reduction: ``examples`` divides J by N, ``entries`` by N H.

    Returns:
        float scalar; with ``examples`` in 1..√H where the activation is not negative.
    """
    return tf.reduce_sum(normalised(features, None, activation, epsilon)) / _divisor(features, reduction)


def sparse_filtering_with_gradient(
    features: tf.Tensor,
    activation: Activation = "soft_absolute",
    epsilon: float = EPSILON,
    reduction: Reduction = "examples",
) -> tuple[tf.Tensor, tf.Tensor]:
    """The objective and its gradient by the features, derived by hand: no tape is needed.

    A vector q = a / ‖a‖ with gradient δ hands ``(δ − q ⟨δ, q⟩) / ‖a‖`` back to a. With 1 for each entry of C, this is
    done once along the rows and once along the columns; then ∂A/∂F is multiplied: F / A for the soft absolute.

    Args:
        features: float [N, H].
        activation: as in :func:`activated`.
        epsilon: likewise.
        reduction: as in :func:`sparse_filtering`.

    Returns:
        The float scalar of :func:`sparse_filtering` and its gradient float [N, H]. For F = X W, multiply by Xᵀ.
    """
    active = activated(features, activation, epsilon)
    column_norms = _norm(active, axis=0)
    balanced = active / column_norms
    row_norms = _norm(balanced, axis=1)
    sphere = balanced / row_norms
    by_sphere = tf.fill(tf.shape(sphere), 1.0 / _divisor(features, reduction))
    by_balanced = _through_normalisation(by_sphere, sphere, row_norms, axis=1)
    by_active = _through_normalisation(by_balanced, balanced, column_norms, axis=0)
    return tf.reduce_sum(sphere) / _divisor(features, reduction), by_active * _slope(features, active, activation)


def _norm(values: tf.Tensor, axis: int) -> tf.Tensor:
    square = tf.reduce_sum(tf.square(values), axis=axis, keepdims=True)
    return tf.sqrt(tf.maximum(square, _SMALLEST_SQUARE))


def _divisor(features: tf.Tensor, reduction: Reduction) -> tf.Tensor:
    if reduction not in ("examples", "entries"):
        raise ValueError(f"reduction must be examples or entries. Received: {reduction!r}")
    shape = tf.shape(features)
    return tf.cast(shape[0] if reduction == "examples" else shape[0] * shape[1], features.dtype)


def _through_normalisation(gradient: tf.Tensor, unit: tf.Tensor, norm: tf.Tensor, axis: int) -> tf.Tensor:
    return (gradient - unit * tf.reduce_sum(gradient * unit, axis=axis, keepdims=True)) / norm


def _slope(features: tf.Tensor, active: tf.Tensor, activation: Activation) -> tf.Tensor:
    if activation == "soft_absolute":
        return features / active
    elu_slope = tf.where(features > 0, tf.ones_like(features), tf.exp(tf.minimum(features, 0.0)))
    return elu_slope if activation == "elu_signed" else elu_slope * tf.nn.elu(features) / active
