"""What a run folder holds for others than its own run: the configuration, and the trained variables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from training.files import written_whole

CONFIG = "config.json"
WEIGHTS = "weights.npz"
FINGERPRINT = "data_fingerprint"
"""In the configuration of a run on data of one's own: that of the files."""


class RunError(Exception):
    """A run folder that is missing, unfinished or of another configuration."""


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run.

    Raises:
        RunError: there is none, or it is no JSON.
    """
    path = folder / CONFIG
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} does not exist; expected the configuration of a run. Train it first.") from None
    except ValueError as error:
        raise RunError(f"{path} must be JSON. Received: {error}") from error
    return config


def save_weights(model: keras.Model, folder: Path) -> None:
    """Writes the variables of ``model`` into the run ``folder``, which is complete with them."""
    weights: list[NDArray[Any]] = model.get_weights()
    # numbered, because two layers may own variables of the same name
    arrays = {f"{index:04d}": array for index, array in enumerate(weights)}
    with written_whole(folder / WEIGHTS) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load_weights(model: keras.Model, folder: Path) -> None:
    """Sets the variables of ``model`` to those of the run in ``folder``.

    Raises:
        RunError: its training has not ended.
    """
    try:
        with np.load(folder / WEIGHTS) as archive:
            model.set_weights([archive[key] for key in archive.files])
    except FileNotFoundError:
        raise RunError(f"{folder} holds no complete training; expected {WEIGHTS}. Train it to its end first.") from None
