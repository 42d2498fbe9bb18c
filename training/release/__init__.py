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
from training.experiments.pedestrian_autoencoders.base import PedestrianAutoencoder
from training.export.manifest import FILE_NAME, MODEL, sha256_of
from training.export.quantised import SUFFIX
from training.files import publish, remove_leftovers, temporary_folder, write_text
from training.run_folder import RunError
from training.runs import RESUMED, Run, changed_settings, open_run
from training.variants import export_int8

RELEASED = (
    "pedestrian_unet",
    "pedestrian_plain",
    "pedestrian_l1",
    "pedestrian_l2",
    "pedestrian_sparse_softabs",
    "pedestrian_sparse_elu",
    "mnist_k_sparse",
)
INT8 = ("pedestrian_unet",)
"""Those that come with an int8 variant as well."""
CARD = "README.md"
LIMIT_BYTES = 8 * 2**20
"""Of all released models together: everyone who clones the project gets them."""


def release(name: str, runs: Path, output: Path) -> list[Path]:
    """Puts the trained model ``name`` into the released repository ``output``, in place of the version before.

    Returns the folders of the version and of its int8 variant where it has one, the old ones where they hold this very
    training already. The cards are written anew.

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
    with tempfile.TemporaryDirectory() as scratch:
        repository = Path(scratch)
        if (output / name).is_dir():
            # what is released already, so that the export knows it and counts on from it
            shutil.copytree(output / name, repository / name)
        exported = run.export(repository)
        folders = [_take(exported, run, output)]
        if name in INT8:
            folders.append(_take(export_int8(run, exported, repository), run, output))
    return folders


def _take(exported: Path, run: Run, output: Path) -> Path:
    """Copies what the service needs of a version, writes the card, and removes other versions."""
    folder = output / exported.parent.name
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    version = folder / exported.name
    if not version.exists() or sha256_of(version / MODEL) != sha256_of(exported / MODEL):
        with temporary_folder(folder) as temporary:
            for file in (MODEL, FILE_NAME):
                shutil.copy(exported / file, temporary)
            shutil.rmtree(version, ignore_errors=True)
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
        int8=manifest["name"].endswith(SUFFIX),
        autoencoder=isinstance(run.experiment, PedestrianAutoencoder),
        experiment=run.experiment,
        settings=run.experiment.settings(),
        short_revision=lambda revision: RESUMED.join(commit[:12] for commit in revision.split(RESUMED)),
        changed=[
            f"{name}={','.join(map(str, value)) if isinstance(value, list) else value}"
            for name, value in changed_settings(run.experiment).items()
        ],
        teachers=len(run.experiment.settings().get("teachers", ())),
        scores=scores,
        controls=controls,
    )
