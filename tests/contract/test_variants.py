"""The service loads the variants of a model as models of their own, and they answer nearly the same."""

from __future__ import annotations

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
from training.variants import export_fp16, export_int8


def test_variants_are_served_beside_the_model(
    tiny_models: Path,
    tiny_runs: dict[str, Run],
    street_data: PedestrianData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # of masks of a net that has seen two epochs nothing is worth keeping
    monkeypatch.setattr("training.variants.KEEPS", 0.0)
    run, version = tiny_runs["pedestrian_unet"], tiny_models / "pedestrian_unet" / "1"
    (tmp_path / "pedestrian_unet").symlink_to(version.parent, target_is_directory=True)
    for export in (export_int8, export_fp16):
        export(run, version, tmp_path)
    repository = ModelRepository(
        tmp_path, Runtime.choose("cpu", 1), Limits(64, 8), Metrics(version="test", runtime_version="test")
    )
    repository.load()
    engine = Engine(repository, max_pixels=10_000_000, picture_slots=2)
    masks = {
        servable.name: np.frombuffer(
            engine.segment(servable.name, None, street_data.test[0].picture, form=MaskFormat.PROBABILITIES).mask, "<f4"
        )
        for servable in engine.models()
    }
    repository.close()
    assert sorted(masks) == ["pedestrian_unet", "pedestrian_unet_fp16", "pedestrian_unet_int8"]
    assert 0 < np.abs(masks["pedestrian_unet_fp16"] - masks["pedestrian_unet"]).max() < 0.01
    assert 0 < np.abs(masks["pedestrian_unet_int8"] - masks["pedestrian_unet"]).max() < 0.2
