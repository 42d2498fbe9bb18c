"""Whether two trainings that differ in their seed find the same dictionary.

The columns of two dictionaries are matched one to one so that the sum of the absolute cosines is largest (the
Hungarian method); without learned structure in common the matched cosines are those of random directions, which is
why the match of untrained dictionaries belongs beside every figure. Paulo and Belrose, arXiv 2501.16615, find that
modern sparse auto-encoders share well under half of their features between seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Floats = NDArray[np.float32]

SHARED = 0.7
"""Absolute cosine from which two columns count as the same feature."""


@dataclass(frozen=True)
class Match:
    """How alike two dictionaries are.

    Attributes:
        mean_cosine: mean of the matched absolute cosines, 0..1.
        shared: share of the matched pairs whose absolute cosine is 0.7 or more, 0..1.
    """

    mean_cosine: float
    shared: float


def match_dictionaries(one: Floats, other: Floats) -> Match:
    """Matches the columns of two dictionaries [V, D] of the same size; a column of zeros has cosine 0 with all.

    Raises:
        ValueError: the shapes differ.
    """
    if one.shape != other.shape:
        raise ValueError(f"both dictionaries must have the same shape. Received: {one.shape} and {other.shape}")
    units = [columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-12) for columns in (one, other)]
    cosines = np.abs(units[0].T @ units[1])
    matched = cosines[linear_sum_assignment(cosines, maximize=True)]
    return Match(mean_cosine=float(matched.mean()), shared=float(np.mean(matched >= SHARED)))
