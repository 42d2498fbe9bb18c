from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.backend import CPU, Runtime
from serving.metrics import Metrics
from serving.model_settings import Limits, VersionPolicy
from serving.repository import ModelRepository
from tests.serving.repository.asking import Make


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[ModelRepository] = []

    def make_one(root: Path, policy: str = "all", **options: Any) -> ModelRepository:
        metrics = Metrics(version="0", runtime_version="0")
        runtime = Runtime(CPU, 1, required=True)
        limits = options.pop("limits", Limits(8, 8))
        made.append(ModelRepository(root, runtime, limits, metrics, policy=VersionPolicy.parse(policy), **options))
        return made[-1]

    yield make_one
    for each in made:
        each.close()
