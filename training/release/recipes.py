"""How released models are trained: with ``full``, and those that learn from others after these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training with ``full`` on real data.

    Attributes:
        folder: within the runs folder, of the runs that it is one of.
        settings: those in which it differs from the preset, as ``--set`` takes them.
        start: the folder of the training whose weights it starts from; "" for new ones.
        teachers: the folders of the trainings it learns from.
    """

    folder: str = "."
    settings: Mapping[str, str] = field(default_factory=dict)
    start: str = ""
    teachers: tuple[str, ...] = ()

    def settings_in(self, runs: Path) -> list[str]:
        """All of its settings, as ``--set`` takes them."""
        found = dict(self.settings)
        if self.start:
            found["start"] = str(runs / self.start)
        if self.teachers:
            found["teachers"] = ",".join(str(runs / teacher) for teacher in self.teachers)
        return [f"{name}={value}" for name, value in found.items()]


_STUDENT = {
    "distillation": "1",
    "mixing": "0.8",
    "zoom": "0.8,1.4",
    "settling": "0.3",
    "learning_rate": "0.0015",
    "weight_decay": "0.02",
    "epochs": "300",
}
_SEEDS = tuple(f"teachers/{seed}" for seed in range(3))

RECIPES: Mapping[str, tuple[Training, ...]] = {
    # Why: training/RESULTS.md, pedestrian_unet.
    "pedestrian_unet": (
        *(Training(folder=folder, settings={"seed": str(seed)}) for seed, folder in enumerate(_SEEDS)),
        Training(settings=_STUDENT, start=_SEEDS[0], teachers=_SEEDS),
    ),
}


def trainings(name: str) -> tuple[Training, ...]:
    """What is to be trained for the released model ``name``, in this order; the last one is the model."""
    return RECIPES.get(name, (Training(),))
