"""Dictionaries that start as strokes: parts of training digits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.datasets.digits import SIDE

WINDOW = 4.0
"""Standard deviation in pixels of the window through which a digit is seen."""
NORM = 0.3
"""Length of a column. Noise of deviation 0.01 has 0.28."""
INK = 0.5
"""Grey value from which a pixel is ink."""


def stroke_dictionary(images: NDArray[np.float32], columns: int, seed: int) -> NDArray[np.float32]:
    """Columns that each show a part of a training digit.

    That is the digit without the mean one, seen through a Gaussian window about one of its pixels of ink: the patches
    of Coates, Lee and Ng, "An Analysis of Single-Layer Networks in Unsupervised Feature Learning" (AISTATS 2011), whose
    dictionaries of patches served nearly as well as learned ones, for pictures whose parts have places of their own.

    Args:
        images: grey values 0..1, float [N, 784].
        columns: D.
        seed: of what is drawn.

    Returns:
        float32 [784, D], columns of length :data:`NORM`; where a digit has no ink, its brightest pixel serves.
    """
    rng = np.random.default_rng(seed)
    mean = images.mean(axis=0)
    rows, places = np.mgrid[:SIDE, :SIDE]
    dictionary = np.empty((SIDE * SIDE, columns), np.float32)
    for column, index in enumerate(rng.choice(len(images), columns, replace=len(images) < columns)):
        digit = images[index]
        ink = np.flatnonzero(digit > INK)
        pixel = int(rng.choice(ink)) if len(ink) else int(digit.argmax())
        row, place = divmod(pixel, SIDE)
        window = np.exp(-((rows - row) ** 2 + (places - place) ** 2) / (2 * WINDOW**2)).ravel()
        part = (digit - mean) * window
        dictionary[:, column] = NORM * part / max(float(np.linalg.norm(part)), np.finfo(np.float32).tiny)
    return dictionary
