"""The point whose summed distance to all examples is smallest: where sparse auto-encoders start their input bias."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import norm

Floats = NDArray[np.float32]


def geometric_median(points: Floats, *, tolerance: float = 1e-5, iterations: int = 200) -> Floats:
    """``argmin_m Σ_i ‖x_i − m‖`` by Weiszfeld's iteration (Tohoku Mathematical Journal 43, 1937).

    Each step is the mean of the points weighted by the inverse of their distance. Unlike the mean it does not follow
    a few far examples (Gao et al., arXiv 2406.04093, appendix A.1, start b_pre here).

    Args:
        points: float [N, V], N >= 1.
        tolerance: ends the iteration when a step is shorter than this share of the points' spread.
        iterations: at most so many steps.

    Returns:
        float32 [V].
    """
    median = points.mean(axis=0, dtype=np.float64)
    spread = float(np.sqrt(np.mean(np.sum(np.square(points - median), axis=1))))
    for _ in range(iterations):
        # a point that sits on the estimate has infinite weight; this much keeps the step defined
        weights = 1 / np.maximum(norm(points - median, axis=1), 1e-12 + 1e-9 * spread)
        following = weights @ points / weights.sum()
        moved = float(norm(following - median))
        median = following
        if moved <= tolerance * spread:
            break
    found: Floats = median.astype(np.float32)
    return found
