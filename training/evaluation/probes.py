"""Linear probes: how linearly separable the classes are in a representation, and the controls beside them."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]

FEATURE_NORM = 10.0
"""Root mean square norm to which the features are scaled, so that one L2 strength suits every representation."""
L2 = 1e-4
"""Strength of the penalty ``L2/2 ‖W‖²`` beside the mean cross-entropy."""
ITERATIONS = 150
SPARSE_BELOW = 0.25
"""Share of entries that are not 0 below which features are handed on as a sparse matrix."""


def probe_error(train: Floats, train_labels: Labels, test: Floats, test_labels: Labels) -> float:
    """Share of wrong test predictions of a softmax regression on frozen features, 0..1.

    The features are scaled by one number so that the root mean square norm of a training row is 10; L-BFGS runs at
    most 150 iterations, which is part of the protocol: some representations are better before convergence.

    Args:
        train: float [N, D].
        train_labels: int [N].
        test: float [M, D].
        test_labels: int [M].
    """
    scale = FEATURE_NORM / max(float(np.sqrt(np.mean(np.sum(np.square(train, dtype=np.float64), axis=1)))), 1e-12)
    model = LogisticRegression(C=1 / (L2 * len(train)), max_iter=ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(_features(train, scale), train_labels)
    return float(np.mean(model.predict(_features(test, scale)) != test_labels))


def _features(rows: Floats, scale: float) -> Floats | csr_matrix:
    scaled = rows * np.float32(scale)
    # sparse latents are fitted some ten times faster as a sparse matrix, with the same result
    sparse = np.count_nonzero(scaled) < SPARSE_BELOW * scaled.size
    return csr_matrix(scaled) if sparse else scaled


def pca_codes(train: Floats, test: Floats, components: int) -> tuple[Floats, Floats, Floats]:
    """Codes of the first principal components of ``train`` and the reconstruction of ``test`` from them.

    Returns:
        train codes [N, components], test codes [M, components], test reconstruction [M, V].
    """
    # exact, and with many more examples than values ten times as fast as the randomised solver
    pca = PCA(components, svd_solver="covariance_eigh").fit(train)
    codes = pca.transform(test)
    return pca.transform(train), codes, pca.inverse_transform(codes).astype(np.float32)


def random_dictionary_codes(inputs: Floats, latents: int, k: int, seed: int) -> Floats:
    """The k largest of ``latents`` random projections of each row: what sparsity does without learning.

    Args:
        inputs: float [N, V].
        latents: number of unit-length random directions D.
        k: entries kept in a row.
        seed: of the directions.

    Returns:
        float [N, D].
    """
    directions = np.random.default_rng(seed).standard_normal((inputs.shape[1], latents)).astype(np.float32)
    codes = inputs @ (directions / np.linalg.norm(directions, axis=0))
    cut = np.partition(codes, latents - k, axis=1)[:, latents - k, None]
    return np.where(codes >= cut, codes, np.float32(0))
