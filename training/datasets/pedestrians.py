"""The shape of pedestrian data, whoever made it: a picture and which pixel belongs to which person."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.datasets.source import DataSource


@dataclass(frozen=True, eq=False)
class PedestrianScene:
    """One picture with its persons.

    Attributes:
        name: The picture's name, unique in its data set.
        picture: uint8 [H, W, 3], RGB, 0..255.
        instances: uint8 or uint16 [H, W]: 0 is background, 1..n the persons; only visible pixels are labelled.
    """

    name: str
    picture: npt.NDArray[np.uint8]
    instances: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """Bool [H, W]: the pixels that belong to any person."""
        return self.instances > 0


@dataclass(frozen=True, eq=False)
class PedestrianData:
    """A pedestrian data set with its fixed split.

    Attributes:
        name: "penn_fudan" or "streets".
        source: "real" or "embedded".
        train: The scenes to learn from.
        test: The scenes to score on; no name is in both.
        location: Of data of one's own, such that it can be loaded again; "" for the named data sets.
    """

    name: str
    source: DataSource
    train: tuple[PedestrianScene, ...]
    test: tuple[PedestrianScene, ...]
    location: str = ""
