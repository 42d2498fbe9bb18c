"""Test examples as files: what one shows a service, with the truth beside it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.datasets.digits import DigitData
from training.datasets.pedestrians import PedestrianData
from training.files import write_json, written_whole
from training.runs import Run

INDEX = "samples.json"


def write_samples(run: Run, folder: Path, count: int) -> Path:
    """Writes ``count`` test examples of a run's data into ``folder/<experiment>/``.

    Pedestrian pictures are ``<name>.png`` with their truth as ``<name>.mask.png`` (0 or 255); digits are 28x28 grey
    ``<index>.png``. ``samples.json`` lists them with label or truth, data set and source.

    Args:
        run: whose data; evenly spread over its test split.
        folder: gets one folder for the experiment.
        count: how many, at least 1.

    Returns:
        The folder written.
    """
    target = folder / run.experiment.name
    if isinstance(run.data, PedestrianData):
        samples = _pedestrians(run.data, target, count)
    else:
        samples = _digits(run.data, target, count)
    write_json(
        target / INDEX,
        {
            "experiment": run.experiment.name,
            "family": run.experiment.family,
            "dataset": run.data.name,
            "data_source": run.data.source,
            "samples": samples,
        },
    )
    return target


def _pedestrians(data: PedestrianData, folder: Path, count: int) -> list[dict[str, Any]]:
    samples = []
    for index in _spread(len(data.test), count):
        scene = data.test[index]
        _write_png(folder / f"{scene.name}.png", scene.picture)
        _write_png(folder / f"{scene.name}.mask.png", np.where(scene.mask, np.uint8(255), np.uint8(0)))
        samples.append({"picture": f"{scene.name}.png", "truth": f"{scene.name}.mask.png"})
    return samples


def _digits(data: DigitData, folder: Path, count: int) -> list[dict[str, Any]]:
    samples = []
    for index in _spread(len(data.test_images), count):
        picture = np.round(data.test_images[index].reshape(28, 28) * 255).astype(np.uint8)
        _write_png(folder / f"{index}.png", picture)
        samples.append({"picture": f"{index}.png", "label": int(data.test_labels[index])})
    return samples


def _spread(available: int, count: int) -> list[int]:
    return sorted(set(np.linspace(0, available - 1, min(count, available)).round().astype(int).tolist()))


def _write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    with written_whole(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
