"""The manifest of a model version: all that the service knows about a model.

The service has a reader of its own; ``tests/contract/manifest.golden.json`` holds the two together.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from training.export.parity import Parity
from training.export.servable import Family, Resizing, Tensor
from training.files import write_json

SCHEMA_VERSION = 1
FILE_NAME = "manifest.json"


@dataclass(frozen=True)
class TrainingRecord:
    """Where a model comes from.

    Attributes:
        experiment: its name.
        preset: "quick", "full" or "blog".
        dataset: the data set's name.
        data_source: "real", or "embedded" for the stand-ins used without network.
        seed: of weights, order and augmentation.
        code_revision: git commit, with "-dirty" where the working tree differed; "unknown" outside git.
        date: ISO 8601 with time zone, of the end of training.
    """

    experiment: str
    preset: str
    dataset: str
    data_source: Literal["real", "embedded"]
    seed: int
    code_revision: str
    date: str


@dataclass(frozen=True)
class Manifest:
    """One model version; see the golden file for an example of every field."""

    name: str
    version: int
    family: Family
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    resizing: Resizing
    default_threshold: float | None
    training: TrainingRecord
    scores: dict[str, float]
    parity: Parity
    onnx_sha256: str
    producers: dict[str, str]
    schema_version: int = SCHEMA_VERSION

    def as_json(self) -> dict[str, Any]:
        """Plain values in the order of the golden file."""
        values = dataclasses.asdict(self)
        return {"schema_version": values.pop("schema_version"), **values}

    def write(self, folder: Path) -> None:
        """Writes ``folder/manifest.json``."""
        write_json(folder / FILE_NAME, self.as_json())


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
