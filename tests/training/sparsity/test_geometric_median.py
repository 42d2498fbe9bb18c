from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from training.sparsity.geometric_median import geometric_median


def test_it_is_the_minimum_that_a_general_optimiser_finds(rng: np.random.Generator) -> None:
    points = rng.gamma(1.0, size=(60, 4))
    summed = lambda m: np.linalg.norm(points - m, axis=1).sum()  # noqa: E731
    found = minimize(summed, points.mean(axis=0), method="BFGS", options={"gtol": 1e-9}).x
    np.testing.assert_allclose(geometric_median(points.astype(np.float32), tolerance=1e-8), found, atol=1e-4)


def test_on_a_line_it_is_the_middle_point_whatever_the_outlier() -> None:
    points = np.array([[0.0], [1.0], [2.0], [3.0], [1e4]], np.float32)
    assert geometric_median(points, iterations=2000, tolerance=1e-9) == pytest.approx(2, abs=0.05)


def test_equal_points_are_their_own_median() -> None:
    np.testing.assert_array_equal(geometric_median(np.full((5, 3), 0.5, np.float32)), np.full(3, 0.5))
