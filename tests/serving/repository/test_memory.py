"""What versions that are gone leave behind."""

import gc
import json
import shutil
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.backend import OnnxBackend
from serving.call import Call
from serving.changes import Override
from serving.model_settings import Limits, VersionPolicy
from tests.serving.repository.asking import ROW, Build, Make, resident, served

RELEASED = Path(__file__).parents[3] / "deploy" / "models"


def test_versions_that_are_gone_keep_no_session(
    tmp_path: Path, build: Build, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By reference counts alone: the server takes from Python's collector what is loaded at its start."""
    sessions: weakref.WeakSet[OnnxBackend] = weakref.WeakSet()

    class Recorded(OnnxBackend):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            sessions.add(self)

    monkeypatch.setattr("serving.servable.OnnxBackend", Recorded)
    gc.disable()
    try:
        build(tmp_path, "digits", 1)
        repository = make(tmp_path, "latest:1")
        repository.load()
        for version in (2, 3, 4):
            with repository.use("digits") as servable:
                servable.infer({"image": ROW}, ("encoding",), Call())
            del servable
            build(tmp_path, "digits", version)
            repository.refresh()
            assert served(repository) == {"digits": [version]}
            assert len(sessions) == 1
        repository.unload_model("digits")
        assert not sessions
    finally:
        gc.enable()


def test_the_memory_of_versions_that_are_gone_goes_back(tmp_path: Path, make: Make) -> None:
    """With the released U-Net: its sessions leave blocks of many sizes behind, which the C library would keep."""

    def add(version: int) -> None:
        aside = tmp_path / "pedestrian_unet" / f".tmp-{version}"
        shutil.copytree(max(RELEASED.glob("pedestrian_unet/[0-9]*")), aside)
        told = json.loads((aside / "manifest.json").read_text()) | {"version": version}
        (aside / "manifest.json").write_text(json.dumps(told))
        aside.rename(aside.parent / str(version))

    add(1)
    repository = make(tmp_path, "latest:1", limits=Limits(1, 8))
    repository.load()

    def ask() -> None:
        with repository.use("pedestrian_unet") as servable:
            servable.infer({"image": np.zeros((1, 224, 224, 3), np.uint8)}, ("mask",), Call())

    # threads as in the server: each has an arena of the C library's of its own
    with ThreadPoolExecutor(1) as poll, ThreadPoolExecutor(3) as callers:
        for version in range(2, 14):
            for asked in [callers.submit(ask) for _ in range(6)]:
                asked.result()
            add(version)
            poll.submit(repository.refresh).result()
            if version == 3:
                before = resident()
    assert resident() - before < 15 * 2**20


@pytest.mark.parametrize("leak", [False, True])
def test_no_request_fails_over_a_hundred_reloads(leak: bool, tmp_path: Path, build: Build, make: Make) -> None:
    """Two versions taking turns under load: memory stays flat over the second half, and a leak would be seen."""
    leaked = []
    build(tmp_path, "digits", 1)
    build(tmp_path, "digits", 2)
    repository = make(tmp_path, "specific:1", limits=Limits(8, 64))
    repository.load()
    done = threading.Event()
    counts: list[int] = []

    def ask() -> None:
        count = 0
        while not done.is_set():
            with repository.use("digits") as servable:
                rows = servable.infer({"image": ROW}, ("encoding",), Call(time.monotonic() + 10))
            assert rows.outputs["encoding"][0, 3] == 1
            count += 1
        counts.append(count)

    with ThreadPoolExecutor(3) as pool:
        askers = [pool.submit(ask) for _ in range(3)]
        try:
            for number in range(100):
                repository.configure({"digits": Override(VersionPolicy("specific", versions=(1 + number % 2,)), {})})
                if leak:
                    leaked.append(b"x" * 2**20)
                if number == 50:
                    before = resident()
        finally:
            done.set()
        for asker in askers:
            asker.result()
    assert min(counts) > 100
    assert (resident() - before > 20 * 2**20) == leak
