"""Digit data: its shape, and the embedded stand-in for MNIST made of scikit-learn's real handwritten digits.

The 1,797 digits of 8x8 pixels are the test part of E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten
Digits" (UCI Machine Learning Repository, 1998), and come with scikit-learn.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

from training.datasets.source import DataSource

SIDE = 28
TRAIN_COUNT = 1437
"""Four fifths of the 1,797; the split is drawn once with a fixed seed."""

_SPLIT_SEED = 20


@dataclass(frozen=True, eq=False)
class DigitData:
    """Handwritten digits with their fixed split.

    Attributes:
        name: "mnist" or "digits".
        source: "real" or "embedded".
        train_images: float32 [N, 784], 0 (paper) .. 1 (ink), rows of 28x28.
        train_labels: int64 [N], 0..9.
        test_images: float32 [M, 784], 0..1.
        test_labels: int64 [M], 0..9.
        location: of data of one's own, such that it can be loaded again; "" for the named data sets.
        fingerprint: of the files of data of one's own, which tells whether they are still the same; "" likewise.
    """

    name: str
    source: DataSource
    train_images: npt.NDArray[np.float32]
    train_labels: npt.NDArray[np.int64]
    test_images: npt.NDArray[np.float32]
    test_labels: npt.NDArray[np.int64]
    location: str = ""
    fingerprint: str = ""

    @property
    def labelled(self) -> bool:
        """Whether there are at least two classes, without which no probe can be fitted."""
        return len(np.unique(self.train_labels)) > 1


def load() -> DigitData:
    """Load the embedded digits, enlarged to MNIST's 28x28.

    Returns:
        1,437 train and 360 test digits.
    """
    digits = load_digits()
    small = np.asarray(digits.images, dtype=np.float32) / 16.0
    labels = np.asarray(digits.target, dtype=np.int64)
    images = np.stack([cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for picture in small])
    flat = np.clip(images, 0.0, 1.0).reshape(len(images), SIDE * SIDE)  # bicubic overshoots by a few per cent
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(flat))
    train, test = order[:TRAIN_COUNT], order[TRAIN_COUNT:]
    return DigitData("digits", "embedded", flat[train], labels[train], flat[test], labels[test])
