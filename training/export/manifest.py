"""The manifest of a model version: all that the service knows about a model.

The service has a reader of its own; ``tests/contract/manifest.golden.json`` holds the two together.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from training.export.parity import Parity
from training.export.servable import Family, Resizing, Tensor
from training.files import write_json

SCHEMA_VERSION = 1
FILE_NAME = "manifest.json"
MODEL = "model.onnx"


@dataclass(frozen=True)
class TrainingRecord:
    """Where a model comes from.

    Attributes:
        experiment: its name.
        preset: "quick", "full" or "blog".
        dataset: the data set's name.
        data_source: "real", or "embedded" for the stand-ins used without network.
        seed: of weights, order and augmentation.
        code_revision: git commit, with "-dirty" where the working tree differed; "unknown" outside git. "A, resumed
            with B" where the run was cut and went on with other code.
        date: ISO 8601 with time zone, of the end of training.
        settings: those in which the training differs from its preset, but for the seed and for files and folders of the
            machine it ran on; plain JSON values. Manifests from before there was this field lack it.
    """

    experiment: str
    preset: str
    dataset: str
    data_source: Literal["real", "embedded"]
    seed: int
    code_revision: str
    date: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Description:
    """What is known of a model version before its files are written; see the golden file for every field."""

    name: str
    family: Family
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    resizing: Resizing
    default_threshold: float | None
    training: TrainingRecord
    scores: dict[str, float]
    producers: dict[str, str]

    def is_of(self, folder: Path) -> bool:
        """Whether the version in ``folder`` has this description and an undamaged ONNX file."""
        try:
            present = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
            intact = present["onnx_sha256"] == sha256_of(folder / MODEL)
            described = json.loads(json.dumps(dataclasses.asdict(self)))
            if "settings" not in present["training"]:
                del described["training"]["settings"]
        except (OSError, ValueError, KeyError):
            return False
        return bool(intact and all(present.get(key) == value for key, value in described.items()))


def write_manifest(folder: Path, description: Description, version: int, parity: Parity) -> None:
    """Writes ``folder/manifest.json`` for the ``model.onnx`` in ``folder``."""
    described = dataclasses.asdict(description)
    producers = described.pop("producers")
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "name": described.pop("name"),
        "version": version,
        **described,
        "parity": dataclasses.asdict(parity),
        "onnx_sha256": sha256_of(folder / MODEL),
        "producers": producers,
    }
    write_json(folder / FILE_NAME, manifest)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
