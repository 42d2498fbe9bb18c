"""The models that come with the project: ``deploy/models/<name>/<version>/`` and a card beside each.

Of a model version only what the service needs is released, ``model.onnx`` and ``manifest.json``. The cards follow
Mitchell et al., "Model Cards for Model Reporting", arXiv 1810.03993; their numbers are the manifest's.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import jinja2

from training.experiments.base import FULL
from training.export.manifest import FILE_NAME, MODEL
from training.files import publish, remove_leftovers, temporary_folder, write_text
from training.runs import Run, RunError, open_run

RELEASED = (
    "pedestrian_unet",
    "pedestrian_plain",
    "pedestrian_l1",
    "pedestrian_l2",
    "pedestrian_sparse_softabs",
    "pedestrian_sparse_elu",
    "mnist_kl",
    "mnist_k_sparse",
    "mnist_convolutional",
)
CARD = "README.md"
LIMIT_BYTES = 8 * 2**20
"""Of all released models together: everyone who clones the project gets them."""


def release(name: str, runs: Path, output: Path) -> Path:
    """Puts the trained model ``name`` into the released repository ``output``, in place of the version before.

    Returns the version's folder, the old one where it holds this very training already. The card is written anew.

    Raises:
        RunError: it was not trained with ``full`` on real data, or is not complete.
        ParityError: its exported forms differ.
    """
    run = open_run(name, runs)
    if (run.experiment.preset, run.data.source) != (FULL, "real"):
        raise RunError(
            f"{name}: what is released is trained with the preset full on real data. "
            f"Received: {run.experiment.preset} on {run.data.source} data in {run.folder}"
        )
    folder = output / name
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    with tempfile.TemporaryDirectory() as scratch:
        # with what is released already, so that the export knows it and counts on from it
        repository = Path(scratch)
        shutil.copytree(folder, repository / name)
        exported = run.export(repository)
        version = folder / exported.name
        if not version.exists():
            with temporary_folder(folder) as temporary:
                for file in (MODEL, FILE_NAME):
                    shutil.copy(exported / file, temporary)
                publish(temporary, version)
    for other in folder.iterdir():
        if other.name.isdecimal() and other != version:
            shutil.rmtree(other)
    write_text(folder / CARD, card(run, json.loads((version / FILE_NAME).read_text(encoding="utf-8"))))
    return version


def card(run: Run, manifest: dict[str, Any]) -> str:
    """The model card, Markdown."""
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("training.release", "."),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    scores = {name: value for name, value in manifest["scores"].items() if not name.startswith("control_")}
    controls = {
        name.removeprefix("control_"): value
        for name, value in manifest["scores"].items()
        if name.startswith("control_")
    }
    return templates.get_template("card.md.j2").render(
        manifest=manifest,
        experiment=run.experiment,
        settings=run.experiment.settings(),
        scores=scores,
        controls=controls,
    )
