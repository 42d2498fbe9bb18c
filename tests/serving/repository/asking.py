"""What tests ask of a repository, and tell it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from serving.repository import ModelRepository
from serving.shelf import State

Build = Callable[..., Path]
Make = Callable[..., ModelRepository]
ROW = np.zeros((1, 784), np.float32)


def served(repository: ModelRepository) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for servable in repository.servables():
        found.setdefault(servable.name, []).append(servable.version)
    return found


def states(repository: ModelRepository) -> dict[tuple[str, int], State]:
    return {(each.name, each.version): each.state for each in repository.statuses()}


def configure(root: Path, name: str, **told: Any) -> None:
    (root / name / "serving.json").write_text(json.dumps(told))


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
