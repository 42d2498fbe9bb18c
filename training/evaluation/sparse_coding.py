"""How well latents describe their inputs, and how sparsely.

"Explained variance" is the pooled form, ``1 − Σ‖x − x̂‖² / Σ‖x − x̄‖²`` with x̄ the mean of the evaluated inputs
(SAELens reports this one; the mean of per-example ratios differs).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

STRONGEST = 50
"""Examples on which a latent is strongest, among which its class purity is counted."""
LEAST = 10
"""Examples on which a latent must be active for its purity to count: among fewer, purity is luck."""
TINY = 1e-12


@dataclass(frozen=True)
class ReconstructionScores:
    """How far reconstructions are from their inputs.

    Attributes:
        squared_error: mean over examples of ``‖x − x̂‖²``.
        mse: the same for one value of an example.
        explained_variance: pooled; at most 1, negative when worse than the mean.
        cosine: mean over examples of the cosine between x and x̂, −1..1.
        l2_ratio: mean over examples of ``‖x̂‖ / ‖x‖``; below 1 where reconstructions are too faint.
    """

    squared_error: float
    mse: float
    explained_variance: float
    cosine: float
    l2_ratio: float


def score_reconstruction(inputs: Floats, reconstruction: Floats) -> ReconstructionScores:
    """Compares ``reconstruction`` [N, V] with ``inputs`` [N, V]."""
    residual = np.sum(np.square(inputs - reconstruction, dtype=np.float64))
    variance = np.sum(np.square(inputs - inputs.mean(axis=0), dtype=np.float64))
    lengths, rebuilt_lengths = (
        np.sqrt(np.sum(np.square(rows, dtype=np.float64), axis=1)) for rows in (inputs, reconstruction)
    )
    products = np.sum(np.multiply(inputs, reconstruction, dtype=np.float64), axis=1)
    return ReconstructionScores(
        squared_error=float(residual / len(inputs)),
        mse=float(residual / inputs.size),
        explained_variance=float(1 - residual / variance),
        cosine=float(np.mean(products / np.maximum(lengths * rebuilt_lengths, TINY))),
        l2_ratio=float(np.mean(rebuilt_lengths / np.maximum(lengths, TINY))),
    )


@dataclass(frozen=True)
class SparsityScores:
    """How sparse latents are.

    Attributes:
        l0: mean number of latents of an example that are not 0.
        dead_share: share of latents that are 0 on every example of the reference set, 0..1.
        hoyer: mean over examples of ``(√D − ‖z‖₁/‖z‖₂) / (√D − 1)``: 0 for equal entries, 1 for a single one (Hoyer,
            JMLR 2004). Examples without any active latent count as 1.
    """

    l0: float
    dead_share: float
    hoyer: float


def score_sparsity(latents: Floats, fired: NDArray[np.bool_]) -> SparsityScores:
    """Sparsity of ``latents`` [N, D].

    Args:
        latents: float [N, D] of the evaluated examples.
        fired: bool [D], whether a latent was ever active on the reference set (the training examples).
    """
    size = latents.shape[1]
    l1 = np.abs(latents).sum(axis=1, dtype=np.float64)
    l2 = np.sqrt(np.square(latents, dtype=np.float64).sum(axis=1))
    ratio = np.divide(l1, l2, out=np.ones_like(l1), where=l2 > 0)
    return SparsityScores(
        l0=float(np.count_nonzero(latents, axis=1).mean()),
        dead_share=float(1 - fired.mean()),
        hoyer=float(np.mean((np.sqrt(size) - ratio) / (np.sqrt(size) - 1))),
    )


@dataclass(frozen=True)
class FiringScores:
    """How often latents fire.

    Attributes:
        latents_below_1e_5: number of latents that fire on less than one example in 100,000.
        latents_below_1e_6: likewise in a million. With fewer examples than that both count latents that never fire.
        firing_median: firing frequency of the median latent, 0..1; its base-10 logarithm is the middle of the
            histogram that tools show.
    """

    latents_below_1e_5: float
    latents_below_1e_6: float
    firing_median: float


def firing_frequency(latents: Floats) -> NDArray[np.float64]:
    """Share of the examples [N, D] on which each latent is not 0: float [D] in 0..1."""
    frequency: NDArray[np.float64] = np.count_nonzero(latents, axis=0) / len(latents)
    return frequency


def score_firing(frequency: NDArray[np.float64]) -> FiringScores:
    """Counts of a firing frequency [D]."""
    return FiringScores(
        latents_below_1e_5=float(np.count_nonzero(frequency < 1e-5)),
        latents_below_1e_6=float(np.count_nonzero(frequency < 1e-6)),
        firing_median=float(np.median(frequency)),
    )


def class_purity(latents: Floats, labels: NDArray[np.int64]) -> float:
    """How much single latents stand for single classes: a proxy of monosemanticity.

    For each latent the share of the most frequent class among the (at most) 50 examples on which it is strongest and
    not 0; the mean of that over the latents that are active on 10 examples or more. Of latents that are negative,
    too, as those of a two-sided threshold, each side counts as a latent of its own. Ten equal classes and a latent that
    knows nothing of them give about 0.2, the largest of ten noisy shares.

    Args:
        latents: float [N, D].
        labels: int [N], from 0.

    Returns:
        0..1; 0 where no latent is active often enough.
    """
    if latents.min() < 0:
        latents = np.concatenate([np.maximum(latents, 0), np.maximum(-latents, 0)], axis=1)
    by_latent = np.ascontiguousarray(latents.T)
    top = min(STRONGEST, len(labels))
    strongest = np.argpartition(by_latent, len(labels) - top, axis=1)[:, len(labels) - top :]
    active = np.take_along_axis(by_latent, strongest, axis=1) != 0
    classes = np.stack([np.sum((labels[strongest] == label) & active, axis=1) for label in range(labels.max() + 1)])
    counted = active.sum(axis=1)
    shares = classes.max(axis=0)[counted >= LEAST] / counted[counted >= LEAST]
    return float(shares.mean()) if shares.size else 0.0
