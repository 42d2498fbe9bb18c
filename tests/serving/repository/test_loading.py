"""What is loaded from a repository, and what is refused."""

import hashlib
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from serving.backend import OnnxBackend
from serving.call import Call
from serving.errors import (
    InvalidInputError,
    ManifestError,
    ModelError,
    NotFoundError,
    RepositoryError,
    UnavailableError,
)
from serving.model_settings import Limits
from serving.opening import Opener
from serving.servable import LoadedServable
from serving.shelf import State
from tests.serving.repository.asking import ROW, Build, Make, served, states


def test_the_newest_version_answers_by_default(tmp_path: Path, build: Build, make: Make) -> None:
    for version in (2, 10, 9):
        build(tmp_path, "digits", version)
    repository = make(tmp_path)
    repository.load()
    assert repository.get("digits").version == 10
    assert repository.get("digits", 2).version == 2
    assert [servable.version for servable in repository.servables()] == [2, 9, 10]


def test_hidden_folders_and_other_files_are_ignored(tmp_path: Path, build: Build, make: Make) -> None:
    folder = build(tmp_path, "digits")
    (tmp_path / ".tmp-red").mkdir()
    (tmp_path / "digits" / ".tmp-2").mkdir()
    (tmp_path / "README.md").write_text("notes")
    (folder / "saved_model.pb").write_bytes(b"not ours")
    (folder / "variables").mkdir()
    repository = make(tmp_path)
    repository.load()
    assert [servable.name for servable in repository.servables()] == ["digits"]


def test_a_folder_with_no_models_name_is_left_out_and_told_of_once(
    tmp_path: Path, build: Build, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Ext4 keeps one on every volume, and root alone may read it."""
    build(tmp_path, "digits")
    (tmp_path / "lost+found").mkdir(mode=0o000)
    repository = make(tmp_path)
    repository.load()
    repository.refresh()
    assert served(repository) == {"digits": [1]}
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"{tmp_path / 'lost+found'} is left out: no model can have that name"
    ]


def test_unknown_names_and_versions_name_the_known_ones(tmp_path: Path, build: Build, make: Make) -> None:
    build(tmp_path, "digits", 1)
    build(tmp_path, "digits", 3)
    build(tmp_path, "red")
    repository = make(tmp_path)
    repository.load()
    with pytest.raises(NotFoundError, match=r"no model 'dgits'\. Known: digits, red"):
        repository.get("dgits")
    with pytest.raises(NotFoundError, match=r"no version 2 of model digits\. Known: 1, 3"):
        repository.get("digits", 2)
    with pytest.raises(InvalidInputError, match=r"names no model\. Known: digits, red"):
        repository.get("")


def test_what_a_client_calls_a_model_cannot_break_a_log_line(tmp_path: Path, build: Build, make: Make) -> None:
    build(tmp_path, "digits")
    repository = make(tmp_path)
    repository.load()
    with pytest.raises(NotFoundError) as caught:
        repository.get("a\nforged line " + "x" * 10_000)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_before_loading_nothing_is_ready(tmp_path: Path, make: Make) -> None:
    with pytest.raises(UnavailableError):
        make(tmp_path).get("digits")


def test_who_asks_while_models_load_is_counted_and_told_so(tmp_path: Path, build: Build, make: Make) -> None:
    build(tmp_path, "digits")
    repository = make(tmp_path)
    asked: list[tuple[str, str]] = []

    def ask() -> bool:
        with pytest.raises(UnavailableError, match="not ready"):
            repository.get("digits")
        asked.append(repository.names("digits", None))
        return False

    repository.load(ask)
    assert set(asked) == {("digits", "unknown")}
    assert repository.names("digits", None) == ("digits", "1")


def test_loading_can_be_interrupted(tmp_path: Path, build: Build, make: Make) -> None:
    build(tmp_path, "digits")
    repository = make(tmp_path)
    repository.load(stop=lambda: True)
    assert not repository.ready


def test_closing_ends_readiness(tmp_path: Path, build: Build, make: Make) -> None:
    build(tmp_path, "digits")
    repository = make(tmp_path)
    repository.load()
    repository.close()
    with pytest.raises(UnavailableError):
        repository.get("digits")


def test_closing_ends_a_load_with_the_run_that_it_is_at(
    tmp_path: Path, build: Build, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many batch sizes are still to be warmed, and whatever time the rest of this one takes."""
    build(tmp_path, "digits")
    repository = make(tmp_path, limits=Limits(8, 8, (1, 2, 4)))
    repository.load()
    build(tmp_path, "halves")
    sizes: set[int] = set()
    begun, go_on = threading.Event(), threading.Event()
    run = OnnxBackend.run

    def wait_and_run(self: OnnxBackend, inputs: Any, outputs: Any) -> Any:
        sizes.add(len(next(iter(inputs.values()))))
        begun.set()
        assert go_on.wait(10)
        return run(self, inputs, outputs)

    monkeypatch.setattr(OnnxBackend, "run", wait_and_run)
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(repository.load_model, "halves")
        assert begun.wait(10)
        repository.close(0.0)
        go_on.set()
        with pytest.raises(UnavailableError, match="halves/1 is not loaded: the server is stopping"):
            loading.result(10)
    assert sizes == {1}
    assert states(repository)["halves", 1] is State.UNAVAILABLE


def test_a_first_load_ends_between_two_runs(
    tmp_path: Path, build: Build, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: set[int] = set()
    run = OnnxBackend.run

    def note_and_run(self: OnnxBackend, inputs: Any, outputs: Any) -> Any:
        sizes.add(len(next(iter(inputs.values()))))
        return run(self, inputs, outputs)

    monkeypatch.setattr(OnnxBackend, "run", note_and_run)
    build(tmp_path, "digits")
    repository = make(tmp_path, limits=Limits(8, 8, (1, 2, 4)))
    repository.load(lambda: 2 in sizes)
    assert sizes == {1, 2}
    assert not repository.ready


def test_what_is_loaded_when_the_next_version_fails_oddly_is_closed(
    tmp_path: Path, build: Build, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path, "digits")
    repository = make(tmp_path)
    repository.load()
    build(tmp_path, "digits", 2)
    build(tmp_path, "digits", 3)
    opened: list[LoadedServable] = []
    really_open = Opener.open

    def fail_with_the_second(self: Opener, folder: Path, limits: Limits, stop: Callable[[], bool]) -> LoadedServable:
        if opened:
            raise MemoryError
        opened.append(really_open(self, folder, limits, stop))
        return opened[0]

    monkeypatch.setattr(Opener, "open", fail_with_the_second)
    with pytest.raises(MemoryError):
        repository.load_model("digits")
    assert served(repository) == {"digits": [1]}
    with pytest.raises(UnavailableError, match="digits/2 is shutting down"):
        opened[0].infer({"image": ROW}, ("encoding",), Call())


def test_an_empty_repository_is_an_error(tmp_path: Path, make: Make) -> None:
    with pytest.raises(RepositoryError, match="the model repository is empty"):
        make(tmp_path).load()


def test_a_repository_that_is_no_folder_is_an_error(tmp_path: Path, make: Make) -> None:
    with pytest.raises(RepositoryError, match="nowhere: the model repository is no folder"):
        make(tmp_path / "nowhere").load()


def test_a_model_without_a_version_is_an_error(tmp_path: Path, make: Make) -> None:
    (tmp_path / "digits").mkdir()
    with pytest.raises(RepositoryError, match="digits: the model has no version folder"):
        make(tmp_path).load()


@pytest.mark.parametrize("name", ["0", "01", "-1", "1.0", "latest", "\u0661"])
def test_a_version_that_is_no_positive_integer_is_an_error(name: str, tmp_path: Path, make: Make) -> None:
    (tmp_path / "digits" / name).mkdir(parents=True)
    with pytest.raises(RepositoryError, match="a version folder is named by a positive integer"):
        make(tmp_path).load()


def test_a_manifest_in_the_wrong_folder_is_an_error(tmp_path: Path, build: Build, make: Make) -> None:
    build(tmp_path, "digits").rename(tmp_path / "digits" / "2")
    with pytest.raises(ManifestError, match=r"version: the folder says 2\. Received: 1"):
        make(tmp_path).load()


def test_a_model_in_the_wrong_folder_is_an_error(tmp_path: Path, build: Build, make: Make) -> None:
    build(tmp_path, "digits")
    (tmp_path / "digits").rename(tmp_path / "letters")
    with pytest.raises(ManifestError, match=r"name: the folder says letters\. Received: digits"):
        make(tmp_path).load()


def test_a_model_that_does_not_run_is_an_error(tmp_path: Path, build: Build, make: Make) -> None:
    """Right names and types, but a step inside that no input can pass."""
    folder = build(tmp_path, "red")
    model = onnx.load(folder / "model.onnx")
    model.graph.node[-1].output[0] = "slice"
    model.graph.node.extend(
        [
            helper.make_node("Reshape", ["slice", "impossible"], ["wrong"]),
            helper.make_node("Shape", ["slice"], ["possible"]),
            helper.make_node("Reshape", ["wrong", "possible"], ["mask"]),
        ]
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array([7, 7, 7, 1]), "impossible"))
    data = model.SerializeToString()
    (folder / "model.onnx").write_bytes(data)
    told = json.loads((folder / "manifest.json").read_text()) | {"onnx_sha256": hashlib.sha256(data).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(told))
    with pytest.raises(ModelError, match=r"red/1: the warm-up run failed: .*Reshape"):
        make(tmp_path).load()
