"""What training exports, the service loads, and both give the same answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serving.backend import Runtime
from serving.engine import Engine
from serving.imaging import MaskFormat
from serving.metrics import Metrics
from serving.repository import Limits, ModelRepository
from training.datasets.pedestrians import PedestrianData
from training.runs import Run


@pytest.fixture(scope="module")
def engine(tiny_models: Path) -> Iterator[Engine]:
    repository = ModelRepository(
        tiny_models, Runtime.choose("cpu", 1), Limits(64, 8), Metrics(version="test", runtime_version="test")
    )
    repository.load()
    yield Engine(repository, max_pixels=10_000_000, picture_slots=2)
    repository.close()


def test_every_exported_experiment_is_served(engine: Engine, tiny_runs: dict[str, Run]) -> None:
    assert sorted(servable.name for servable in engine.models()) == sorted(tiny_runs)


def test_a_mask_from_the_service_is_the_mask_that_was_scored(
    engine: Engine, tiny_runs: dict[str, Run], street_data: PedestrianData
) -> None:
    for name, run in tiny_runs.items():
        if run.experiment.family != "segmentation":
            continue
        model = run.model()
        for scene in street_data.test[:3]:
            expected = run.experiment.predict(model, scene)
            answer = engine.segment(name, None, scene.picture, form=MaskFormat.PROBABILITIES)
            served = np.frombuffer(answer.mask, "<f4").reshape(expected.shape)
            np.testing.assert_allclose(served, expected, atol=1e-5)


def test_encodings_and_reconstructions_are_the_trained_models(engine: Engine, tiny_runs: dict[str, Run]) -> None:
    for name, run in tiny_runs.items():
        if run.experiment.family != "mnist":
            continue
        rows, model = run.data.test_images[:5], run.model()
        np.testing.assert_allclose(engine.encode(name, None, rows).outputs["encoding"], model.encode(rows), atol=1e-5)
        served = engine.reconstruct(name, None, rows).outputs["reconstruction"]
        np.testing.assert_allclose(served, model(rows), atol=1e-5)
