"""How well latents describe their inputs, and how sparsely.

"Explained variance" is the pooled form, ``1 − Σ‖x − x̂‖² / Σ‖x − x̄‖²`` with x̄ the mean of the evaluated inputs
(SAELens reports this one; the mean of per-example ratios differs).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ReconstructionScores:
    """How far reconstructions are from their inputs.

    Attributes:
        squared_error: mean over examples of ``‖x − x̂‖²``.
        mse: the same for one value of an example.
        explained_variance: pooled; at most 1, negative when worse than the mean.
    """

    squared_error: float
    mse: float
    explained_variance: float


def score_reconstruction(inputs: Floats, reconstruction: Floats) -> ReconstructionScores:
    """Compares ``reconstruction`` [N, V] with ``inputs`` [N, V]."""
    residual = np.sum(np.square(inputs - reconstruction, dtype=np.float64))
    variance = np.sum(np.square(inputs - inputs.mean(axis=0), dtype=np.float64))
    return ReconstructionScores(
        squared_error=float(residual / len(inputs)),
        mse=float(residual / inputs.size),
        explained_variance=float(1 - residual / variance),
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
