"""Does a sparse coder find the dictionary that the data were made of?

``y = A* x*`` with a random A* of unit columns and k-sparse codes of ±1: the one setting in which the truth is known. A
dictionary can be recovered up to the order and the sign of its columns alone, so both are sorted out before anything is
compared (Hungarian method on ``|⟨a_i, a*_j⟩|``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class SparseModel:
    """Data of a known dictionary.

    Attributes:
        dictionary: A*, float [n, m], unit columns.
        k: entries of a code that are not 0.
    """

    dictionary: Doubles
    k: int

    def sample(self, count: int, rng: np.random.Generator) -> tuple[Doubles, Doubles]:
        """``count`` examples y [count, n] and their codes x [count, m] of ±1 at k places each."""
        latents = self.dictionary.shape[1]
        places = np.argpartition(rng.random((count, latents)), self.k - 1, axis=1)[:, : self.k]
        codes = np.zeros((count, latents))
        np.put_along_axis(codes, places, rng.choice([-1.0, 1.0], (count, self.k)), axis=1)
        return codes @ self.dictionary.T, codes


def random_model(n: int, m: int, k: int, rng: np.random.Generator, *, orthonormal: bool = False) -> SparseModel:
    """A model with a random dictionary.

    Args:
        n: values of an example.
        m: columns.
        k: entries of a code that are not 0, 1..m.
        rng: random numbers.
        orthonormal: columns at right angles, for which m must not exceed n.

    Raises:
        ValueError: k or m out of range.
    """
    if not 1 <= k <= m:
        raise ValueError(f"k must lie in 1..{m} (the columns). Received: {k}")
    if orthonormal and m > n:
        raise ValueError(f"{n} values hold at most {n} orthonormal columns. Received: {m}")
    dictionary = rng.standard_normal((n, m))
    if orthonormal:
        dictionary = np.linalg.qr(dictionary)[0]
    return SparseModel(dictionary / np.linalg.norm(dictionary, axis=0), k)


def near_start(truth: Doubles, distance: float, rng: np.random.Generator) -> Doubles:
    """Columns at ``distance`` from the true ones, then normalised: the near start that the theory asks for."""
    noise = rng.standard_normal(truth.shape)
    moved = truth + distance * noise / np.linalg.norm(noise, axis=0)
    unit: Doubles = moved / np.linalg.norm(moved, axis=0)
    return unit


@dataclass(frozen=True)
class Matching:
    """Which learned column stands for which true one.

    Attributes:
        columns: int [M], the learned column of each true column.
        signs: float [M], 1 or -1: by what that column is multiplied.
        cosines: float [M], ``|⟨a, a*⟩|`` of the pairs, 0..1.
    """

    columns: NDArray[np.intp]
    signs: Doubles
    cosines: Doubles


def match_columns(dictionary: NDArray[np.floating], truth: Doubles) -> Matching:
    """The pairing of columns with the largest sum of ``|⟨a, a*⟩|`` (Hungarian method).

    Args:
        dictionary: learned, float [n, D] with D at least M; of any length, a column of zeros matches nothing.
        truth: float [n, M], unit columns.

    Raises:
        ValueError: there are fewer learned columns than true ones.
    """
    if dictionary.shape[1] < truth.shape[1]:
        raise ValueError(
            f"expected at least as many learned columns as true ones ({truth.shape[1]}). "
            f"Received: {dictionary.shape[1]}"
        )
    cosines = truth.T @ _unit(dictionary)
    _, columns = linear_sum_assignment(-np.abs(cosines))
    matched = cosines[np.arange(len(columns)), columns]
    return Matching(columns, np.where(matched < 0, -1.0, 1.0), np.abs(matched))


@dataclass(frozen=True)
class Recovery:
    """How much of a known dictionary was found.

    Attributes:
        mean_error: mean over true columns of ``‖a − a*‖ = √(2 − 2 |cos|)``, 0..√2.
        max_error: the largest of them.
        mean_cosine: mean of ``|cos|`` of the pairs.
        support_precision: share of active latents, over all examples, that are truly active.
        support_recall: share of truly active entries that are active latents.
        mcc: mean correlation coefficient: mean over true columns of ``|Pearson correlation|`` between the latent and
            the true code over the examples; 0 for a latent that never changes.
    """

    mean_error: float
    max_error: float
    mean_cosine: float
    support_precision: float
    support_recall: float
    mcc: float


def score_recovery(
    dictionary: NDArray[np.floating],
    encode: Callable[[Doubles], NDArray[np.floating]],
    model: SparseModel,
    *,
    examples: int = 2000,
    seed: int = 1,
) -> Recovery:
    """Compares what any sparse coder has learned with the truth.

    Args:
        dictionary: learned columns, float [n, D] of any length.
        encode: from examples [N, n] to latents [N, D].
        model: the truth.
        examples: fresh ones, on which supports and codes are compared.
        seed: of these.

    Raises:
        ValueError: fewer learned columns than true ones.
    """
    matching = match_columns(dictionary, model.dictionary)
    errors = np.sqrt(np.maximum(2 - 2 * matching.cosines, 0))
    inputs, codes = model.sample(examples, np.random.default_rng(seed))
    latents = np.asarray(encode(inputs), np.float64)
    # a latent without a partner is active in vain
    active, matched = latents != 0, latents[:, matching.columns] * matching.signs
    hits = int(np.count_nonzero((matched != 0) & (codes != 0)))
    return Recovery(
        mean_error=float(errors.mean()),
        max_error=float(errors.max()),
        mean_cosine=float(matching.cosines.mean()),
        support_precision=hits / max(int(np.count_nonzero(active)), 1),
        support_recall=hits / int(np.count_nonzero(codes)),
        mcc=_mean_correlation(matched, codes),
    )


def _mean_correlation(one: Doubles, other: Doubles) -> float:
    one, other = one - one.mean(axis=0), other - other.mean(axis=0)
    norms = np.linalg.norm(one, axis=0) * np.linalg.norm(other, axis=0)
    products = np.sum(one * other, axis=0)
    return float(np.mean(np.abs(np.divide(products, norms, out=np.zeros_like(products), where=norms > 0))))


def _unit(columns: NDArray[np.floating]) -> Doubles:
    norms = np.linalg.norm(columns, axis=0)
    unit: Doubles = columns / np.where(norms > 0, norms, 1)
    return unit
