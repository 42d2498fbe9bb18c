"""What lies in ``deploy/models`` is whole, small, and as good as its cards say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from serving.backend import Runtime
from serving.engine import Engine
from serving.imaging import MaskFormat
from serving.metrics import Metrics
from serving.repository import Limits, ModelRepository
from training.datasets import mnist, penn_fudan
from training.datasets.source import DataError
from training.evaluation.segmentation import score_masks
from training.export.quantised import SUFFIX
from training.release import CARD, INT8, LIMIT_BYTES, RELEASED

REPOSITORY = Path(__file__).parents[2] / "deploy" / "models"
TOLERANCE = 0.005

NAMES = sorted(path.name for path in REPOSITORY.iterdir() if path.is_dir())


def version(name: str) -> Path:
    (folder,) = [path for path in (REPOSITORY / name).iterdir() if path.is_dir()]
    return folder


def manifest(name: str) -> dict[str, Any]:
    described: dict[str, Any] = json.loads((version(name) / "manifest.json").read_text())
    return described


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    repository = ModelRepository(
        REPOSITORY, Runtime.choose("cpu", 1), Limits(64, 8), Metrics(version="test", runtime_version="test")
    )
    repository.load()
    yield Engine(repository, max_pixels=10_000_000, picture_slots=2)
    repository.close()


def test_all_are_there_and_all_together_are_small(engine: Engine) -> None:
    assert set(NAMES) == {*RELEASED, *(name + SUFFIX for name in INT8)}
    assert sorted(servable.name for servable in engine.models()) == NAMES
    assert sum(path.stat().st_size for path in REPOSITORY.rglob("*") if path.is_file()) <= LIMIT_BYTES


@pytest.mark.parametrize("name", NAMES)
def test_a_version_is_two_files_that_belong_together(name: str) -> None:
    folder = version(name)
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "model.onnx"]
    told = manifest(name)
    assert (told["name"], str(told["version"])) == (name, folder.name)
    assert told["onnx_sha256"] == hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    assert (told["training"]["preset"], told["training"]["data_source"]) == ("full", "real")
    assert not told["training"]["code_revision"].endswith("-dirty")


@pytest.mark.parametrize("name", NAMES)
def test_a_card_has_the_numbers_of_its_manifest(name: str) -> None:
    card, told = (REPOSITORY / name / CARD).read_text(), manifest(name)
    assert f"# {name}, version {told['version']}\n" in card
    assert told["onnx_sha256"] in card
    assert ("brings the mask back" in card) == (told["family"] == "segmentation")
    for score, value in told["scores"].items():
        assert f"| {score.removeprefix('control_')} | {value:.4f} |" in card


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("pedestrian_")])
def test_the_service_scores_what_the_card_says(engine: Engine, name: str) -> None:
    try:
        scenes = penn_fudan.load("real").test
    except DataError as error:
        pytest.skip(f"needs the real Penn-Fudan pictures: {error}")
    masks = []
    for scene in scenes:
        answer = engine.segment(name, None, scene.picture, form=MaskFormat.PROBABILITIES)
        probabilities = np.frombuffer(answer.mask, "<f4").reshape(scene.mask.shape)
        masks.append(probabilities >= manifest(name)["default_threshold"])
    scores, told = score_masks([scene.mask for scene in scenes], masks), manifest(name)["scores"]
    for score in ("iou_per_image", "iou_pooled", "dice_per_image", "precision", "recall", "boundary_f"):
        assert getattr(scores, score) == pytest.approx(told[score], abs=TOLERANCE), score


@pytest.mark.parametrize("name", INT8)
def test_eight_bits_keep_99_per_cent_of_the_iou_in_a_third_of_the_size(name: str) -> None:
    one, other = (manifest(each)["scores"]["iou_per_image"] for each in (name, name + SUFFIX))
    assert other >= 0.99 * one
    sizes = [(version(each) / "model.onnx").stat().st_size for each in (name, name + SUFFIX)]
    assert sizes[1] < sizes[0] / 3


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("mnist_")])
def test_digits_are_rebuilt_as_the_card_says(name: str) -> None:
    try:
        images = mnist.load("real").test_images
    except DataError as error:
        pytest.skip(f"needs the real MNIST: {error}")
    session = onnxruntime.InferenceSession(version(name) / "model.onnx", providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape[1:]
    rebuilt = np.concatenate(
        [
            session.run(["reconstruction"], {session.get_inputs()[0].name: part.reshape(-1, *shape)})[0].reshape(
                len(part), -1
            )
            for part in np.array_split(images.reshape(len(images), -1), 10)
        ]
    )
    truth = images.reshape(len(images), -1)
    explained = 1 - np.square(rebuilt - truth).sum() / np.square(truth - truth.mean(axis=0)).sum()
    assert explained == pytest.approx(manifest(name)["scores"]["explained_variance"], abs=TOLERANCE)
