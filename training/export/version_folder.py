"""The model version folder ``models/<name>/<version>/``: it appears whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import onnx
import onnxruntime
import tensorflow as tf
import tf2onnx
from numpy.typing import NDArray

from training.export.manifest import FILE_NAME, MODEL, Description, TrainingRecord, sha256_of, write_manifest
from training.export.onnx import write_onnx
from training.export.parity import Parity, prove_parity
from training.export.saved_model import write_saved_model
from training.export.servable import Servable
from training.files import publish, remove_leftovers, temporary_folder, write_json

# What deploy/jobs/withdraw renames a version to: <prefix><version>.
WITHDRAWN_PREFIX = ".withdrawn-"

logger = logging.getLogger(__name__)


def export_version(
    servable: Servable,
    parity_inputs: NDArray[Any],
    *,
    name: str,
    models: Path,
    training: TrainingRecord,
    scores: dict[str, float],
    extra_files: Callable[[Path], object] | None = None,
) -> Path:
    """Writes the next version of ``name`` and returns its folder.

    Everything is written and checked in a temporary folder beside the others, which is renamed as the last act.
    Where the newest version came from the same training and offers the same, it is kept and returned. The number of a
    version that was withdrawn is not used again: it would mean two models.

    Args:
        servable: the trained model.
        parity_inputs: real inputs [N, ...] on which the three forms are compared.
        name: of the model.
        models: the model repository.
        training: where the model comes from.
        scores: on the test split.
        extra_files: writes into the folder what this kind of model has beside the three forms.

    Raises:
        ParityError: the three forms differ; nothing is left behind.
    """
    folder = models / name
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in remove_leftovers(folder):
        logger.warning("%s: removed %s, left by an export that was cut", name, leftover)
    versions = _versions(folder)
    description = Description(
        name=name,
        family=servable.family,
        inputs=(servable.input,),
        outputs=servable.outputs,
        resizing=servable.resizing,
        default_threshold=servable.default_threshold,
        training=training,
        scores=scores,
        producers=_producers(),
    )
    if versions and description.is_of(folder / str(versions[-1])):
        logger.info("%s: version %d holds this model already", name, versions[-1])
        return folder / str(versions[-1])

    version = max(versions + _versions(folder, WITHDRAWN_PREFIX), default=0) + 1
    function = servable.function()
    with temporary_folder(folder) as temporary:
        write_saved_model(servable, function, temporary)
        write_onnx(servable, function, temporary / "model.onnx", name=name)
        parity = prove_parity(servable, temporary, parity_inputs, name=name)
        if extra_files is not None:
            extra_files(temporary)
        write_manifest(temporary, description, version, parity)
        publish(temporary, folder / str(version))
    logger.info("%s: exported version %d, largest difference %.2g", name, version, parity.largest_difference)
    return folder / str(version)


def publish_variant(
    version: Path, models: Path, suffix: str, model: Path, scores: dict[str, float], parity: Parity
) -> Path:
    """Puts a variant of an exported model into the repository ``models`` as the same version of ``<name><suffix>``.

    A version that is there already is replaced where it differs.

    Args:
        version: the exported float32 version; its manifest is taken over but for name, scores, parity and hash.
        models: the model repository.
        suffix: of the variant's name.
        model: its ONNX file; moved away.
        scores: of the variant on the test split.
        parity: beside the float32 one.

    Returns:
        The variant's folder, with the ONNX file and the manifest.
    """
    manifest: dict[str, Any] = json.loads((version / FILE_NAME).read_text(encoding="utf-8"))
    manifest |= {
        "name": manifest["name"] + suffix,
        "scores": scores,
        "parity": dataclasses.asdict(parity),
        "onnx_sha256": sha256_of(model),
    }
    folder = models / str(manifest["name"])
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    target = folder / version.name
    with temporary_folder(folder) as temporary:
        shutil.move(model, temporary / MODEL)
        write_json(temporary / FILE_NAME, manifest)
        if target.exists():
            if json.loads((target / FILE_NAME).read_text(encoding="utf-8")) == json.loads(json.dumps(manifest)):
                return target
            shutil.rmtree(target)
        publish(temporary, target)
    return target


def _versions(folder: Path, prefix: str = "") -> list[int]:
    """The versions in a model's folder, rising."""
    names = [entry.name.removeprefix(prefix) for entry in folder.iterdir() if entry.name.startswith(prefix)]
    return sorted(int(name) for name in names if name.isdecimal())


def _producers() -> dict[str, str]:
    modules = (keras, onnx, onnxruntime, tf, tf2onnx)
    names = ("keras", "onnx", "onnxruntime", "tensorflow", "tf2onnx")
    return {name: module.__version__ for name, module in zip(names, modules, strict=True)}
