"""Variants of exported segmentation models for some machines: ``<name>_int8`` for CPUs, ``<name>_fp16`` for GPUs.

A variant is a model of its own in the repository, asked by its name, with the version of the model it was made from. It
is kept where it holds :data:`KEEPS` of that model's IoU on the test split.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

from training.experiments.pedestrian import PedestrianExperiment
from training.export import half, quantised
from training.export.manifest import MODEL
from training.export.parity import Parity
from training.export.version_folder import publish_variant
from training.run_folder import RunError
from training.runs import Run

KEEPS = 0.99
"""Share of the float32 model's IoU that a variant must keep."""


def export_int8(run: Run, version: Path, models: Path) -> Path:
    """Writes the int8 variant of the exported ``version`` below ``models``; returns its folder.

    Raises:
        RunError: this is no segmentation model, or the variant keeps less than 99 % of its IoU on the test split.
    """
    experiment = _segmenting(run, "int8")

    def convert(target: Path) -> Path:
        quantised.quantise(version / MODEL, target, (experiment.asked(scene)[np.newaxis] for scene in run.data.train))
        return target

    return _export(run, version, models, quantised.SUFFIX, convert)


def export_fp16(run: Run, version: Path, models: Path) -> Path:
    """Writes the fp16 variant of the exported ``version`` below ``models``; returns its folder.

    It is scored, and compared with the float32 model, with every value rounded as on a GPU (:func:`half.rounded`).

    Raises:
        RunError: this is no segmentation model, its values exceed the range of halves, or the variant keeps less than
            99 % of its IoU on the test split.
    """
    _segmenting(run, "fp16")

    def convert(target: Path) -> bytes:
        half.halve(version / MODEL, target)
        return half.rounded(version / MODEL)

    return _export(run, version, models, half.SUFFIX, convert)


def _segmenting(run: Run, kind: str) -> PedestrianExperiment:
    if not isinstance(run.experiment, PedestrianExperiment):
        raise RunError(
            f"{run.experiment.name}: {kind} variants are made of segmentation models. "
            f"Received: family {run.experiment.family}"
        )
    return run.experiment


def _export(run: Run, version: Path, models: Path, suffix: str, convert: Callable[[Path], Path | bytes]) -> Path:
    """Publishes what ``convert`` writes into the file it is given, scored by the model that it returns."""
    kind = suffix.removeprefix("_")
    experiment = _segmenting(run, kind)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / MODEL
        exact, variant = (
            onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
            for model in (version / MODEL, convert(file))
        )
        pictures = experiment.parity_inputs(run.data)
        difference = float(
            np.max(
                [
                    np.abs(exact.run(["mask"], {"image": each})[0] - variant.run(["mask"], {"image": each})[0]).max()
                    for each in pictures[:, np.newaxis]
                ]
            )
        )
        if not np.isfinite(difference):
            raise RunError(
                f"{experiment.name}: all values of the {kind} variant must be finite. Received: a mask that differs by "
                f"{difference} from the float32 one. Does a layer exceed the range of {kind}?"
            )
        scores = experiment.score(lambda picture: variant.run(["mask"], {"image": picture})[0], run.data)
        least = KEEPS * run.scores()["iou_per_image"]
        if scores["iou_per_image"] < least:
            raise RunError(
                f"{experiment.name}: the {kind} variant must keep an IoU of {least:.4f}. "
                f"Received: {scores['iou_per_image']:.4f}"
            )
        # a pixel at an edge may change sides: the scores say whether it matters
        return publish_variant(version, models, suffix, file, scores, Parity(1.0, difference, (1,)))
