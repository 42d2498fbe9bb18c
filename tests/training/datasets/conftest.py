import logging
import os
from pathlib import Path

import pytest


@pytest.fixture
def real_data() -> Path:
    """The folder with the real data, or a skip that says how to get one."""
    folder = Path(os.environ.get("SPARSEWALK_DATA", ""))
    if not os.environ.get("SPARSEWALK_DATA") or not folder.is_dir():
        pytest.skip("SPARSEWALK_DATA names no folder with the real data")
    return folder


@pytest.fixture
def no_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No real data, an empty cache, no network. Returns the cache folder."""
    monkeypatch.delenv("SPARSEWALK_DATA", raising=False)
    cache = tmp_path / "cache"
    monkeypatch.setenv("SPARSEWALK_CACHE", str(cache))
    # Nothing listens on port 1.
    monkeypatch.setattr("training.datasets.mnist.MIRRORS", ("http://127.0.0.1:1/",))
    monkeypatch.setattr("training.datasets.penn_fudan.ADDRESSES", ("http://127.0.0.1:1/PennFudanPed.zip",))
    return cache


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="training.datasets")
