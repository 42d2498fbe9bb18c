"""Histograms that cost a request no more than an append: values are sorted into their buckets many at a time.

A request has several values to note. Sorting each in where it comes up takes a tenth of a small encoder's whole answer;
a few hundred at once are a handful of array operations. Whoever reads sorts in what is left, and so misses nothing.
"""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Of a value that there is not, in a row of others.
NOTHING = float("nan")

_MANY = 256


@dataclass(frozen=True, slots=True)
class Bin:
    """One histogram, read.

    Attributes:
        counts: of the values up to each bound, and of all.
        total: the sum of the values.
    """

    counts: list[int]
    total: float


class Bins:
    """Several histograms that are filled together, from any thread.

    Args:
        bounds: of each histogram: the upper bounds of its buckets, rising, each within its bucket.
    """

    def __init__(self, bounds: Sequence[Sequence[float]]) -> None:
        self._bounds = [np.array(each) for each in bounds]
        self._counts = [np.zeros(len(each) + 1, np.int64) for each in bounds]
        self._totals = [0.0] * len(bounds)
        self._rows: deque[tuple[float, ...]] = deque()
        self._lock = threading.Lock()

    def add(self, row: tuple[float, ...]) -> None:
        """Notes a value for each histogram, or ``NOTHING``."""
        self._rows.append(row)
        if len(self._rows) >= _MANY:
            self._sort_in()

    def read(self) -> list[Bin]:
        """Each histogram as it is now."""
        self._sort_in()
        with self._lock:
            return [
                Bin(np.cumsum(counts).tolist(), total) for counts, total in zip(self._counts, self._totals, strict=True)
            ]

    def _sort_in(self) -> None:
        with self._lock:
            rows = [self._rows.popleft() for _ in range(len(self._rows))]
            if not rows:
                return
            for number, column in enumerate(np.array(rows).T):
                values = column[~np.isnan(column)]
                places = np.searchsorted(self._bounds[number], values)
                self._counts[number] += np.bincount(places, minlength=len(self._counts[number]))
                self._totals[number] += float(values.sum())
