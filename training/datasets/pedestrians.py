"""The shape of pedestrian data, whoever made it: a picture and which pixel belongs to which person."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from training.datasets.source import DataSource

FOLDS = 3
"""Parts of the training scenes, each of which can be held out."""
PRETRAINED = "_pretrained"
"""At the end of a data set's name where a model has seen more than it, and is scored on the same scenes."""


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
        name: "penn_fudan" or "streets"; with "_fold_0" and so on where a third of the training scenes is held out.
        source: "real" or "embedded".
        train: The scenes to learn from.
        test: The scenes to score on; no name is in both.
        location: Of data of one's own, such that it can be loaded again; "" for the named data sets.
        fingerprint: Of the files of data of one's own, which tells whether they are still the same; "" likewise.
    """

    name: str
    source: DataSource
    train: tuple[PedestrianScene, ...]
    test: tuple[PedestrianScene, ...]
    location: str = ""
    fingerprint: str = ""


def held_out(data: PedestrianData, fold: int) -> PedestrianData:
    """The training scenes alone, a third of them as the test part: for choices that must not see the test scenes.

    Args:
        data: With its own split; its test scenes are not used.
        fold: Which third, 0..FOLDS-1; together the thirds are all training scenes, in a drawn order that is always the
            same.

    Raises:
        ValueError: No such fold.
    """
    if not 0 <= fold < FOLDS:
        raise ValueError(f"Expected a fold in 0..{FOLDS - 1}. Received: {fold}")
    order = np.random.default_rng(5).permutation(len(data.train))
    parts = np.array_split(order, FOLDS)
    rest = np.concatenate([part for number, part in enumerate(parts) if number != fold])
    return replace(
        data,
        # in manifest, card and report: these are no scores on the test scenes
        name=f"{data.name}_fold_{fold}",
        train=tuple(data.train[index] for index in rest),
        test=tuple(data.train[index] for index in parts[fold]),
    )
