"""Synthetic street scenes (being written)."""

from training.datasets.pedestrians import PedestrianData


def load(seed: int = 0, train: int = 85, test: int = 85) -> PedestrianData:
    """Load."""
    raise NotImplementedError(seed, train, test)
