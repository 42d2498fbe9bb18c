import gc
import hashlib
import json
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from serving.backend import CPU, OnnxBackend, Runtime
from serving.call import Call
from serving.changes import Override
from serving.errors import (
    InvalidInputError,
    LoadError,
    ManifestError,
    ModelError,
    NotFoundError,
    RepositoryError,
    UnavailableError,
)
from serving.metrics import Metrics
from serving.model_settings import Limits, VersionPolicy
from serving.repository import ModelRepository
from serving.shelf import State

Build = Callable[..., Path]
Make = Callable[..., ModelRepository]
ROW = np.zeros((1, 784), np.float32)
RELEASED = Path(__file__).parents[2] / "deploy" / "models"


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
    assert asked == [("digits", "unknown")]
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


def served(repository: ModelRepository) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for servable in repository.servables():
        found.setdefault(servable.name, []).append(servable.version)
    return found


def states(repository: ModelRepository) -> dict[tuple[str, int], State]:
    return {(each.name, each.version): each.state for each in repository.statuses()}


def configure(root: Path, name: str, **told: Any) -> None:
    (root / name / "serving.json").write_text(json.dumps(told))


class TestPolicy:
    @pytest.mark.parametrize(
        ("policy", "versions"),
        [
            ("all", [1, 2, 10]),
            ("latest:1", [10]),
            ("latest:2", [2, 10]),
            ("latest:9", [1, 2, 10]),
            ("specific:1,3", [1]),
        ],
    )
    @pytest.mark.parametrize("own", [False, True])
    def test_it_chooses_the_versions(
        self, policy: str, versions: list[int], own: bool, tmp_path: Path, build: Build, make: Make
    ) -> None:
        for version in (1, 2, 10):
            build(tmp_path, "digits", version)
        if own:
            configure(tmp_path, "digits", version_policy=policy)
        repository = make(tmp_path, "all" if own else policy)
        repository.load()
        assert served(repository) == {"digits": versions}

    def test_one_that_chooses_nothing_is_an_error(self, tmp_path: Path, build: Build, make: Make) -> None:
        build(tmp_path, "digits")
        with pytest.raises(RepositoryError, match="digits: the version policy chooses none of the versions 1"):
            make(tmp_path, "specific:7").load()


class TestLabels:
    def test_a_label_names_a_version(self, tmp_path: Path, build: Build, make: Make) -> None:
        build(tmp_path, "digits", 1)
        build(tmp_path, "digits", 2)
        configure(tmp_path, "digits", labels={"stable": 1, "canary": 2})
        repository = make(tmp_path)
        repository.load()
        assert [repository.get("digits", label).version for label in ("stable", "canary")] == [1, 2]
        assert repository.labels("digits", 2) == ["canary"]
        assert repository.names("digits", "stable") == ("digits", "1")
        with pytest.raises(
            NotFoundError, match=r"no version labelled 'old' of model digits. Known labels: canary, stable"
        ):
            repository.get("digits", "old")

    def test_a_label_moves_without_a_reload(self, tmp_path: Path, build: Build, make: Make) -> None:
        build(tmp_path, "digits", 1)
        build(tmp_path, "digits", 2)
        configure(tmp_path, "digits", labels={"stable": 1})
        repository = make(tmp_path)
        repository.load()
        before = repository.servables()
        configure(tmp_path, "digits", labels={"stable": 2})
        repository.load_model("digits")
        assert repository.get("digits", "stable").version == 2
        assert repository.servables() == before

    def test_a_label_of_a_version_that_is_not_served_is_an_error(
        self, tmp_path: Path, build: Build, make: Make
    ) -> None:
        build(tmp_path, "digits", 1)
        configure(tmp_path, "digits", labels={"stable": 7})
        with pytest.raises(
            RepositoryError, match=r"the label 'stable' names version 7, which is not served. Served: 1"
        ):
            make(tmp_path).load()


@pytest.mark.parametrize(
    ("told", "complaint"),
    [
        ({"version_policy": "newest"}, "serving.json: version_policy: String should match pattern"),
        ({"labels": {"1": 1}}, "serving.json: labels.1.*String should match pattern"),
        ({"max_batch_size": 0}, "serving.json: max_batch_size: Input should be greater than 0. Received: '0'"),
        ({"batch": 1}, "serving.json: batch: Extra inputs are not permitted"),
    ],
)
def test_a_broken_serving_json_is_named(
    told: dict[str, Any], complaint: str, tmp_path: Path, build: Build, make: Make
) -> None:
    build(tmp_path, "digits")
    configure(tmp_path, "digits", **told)
    with pytest.raises(RepositoryError, match=complaint):
        make(tmp_path).load()


def test_a_models_own_limits_count(tmp_path: Path, build: Build, make: Make) -> None:
    build(tmp_path, "digits")
    configure(
        tmp_path,
        "digits",
        max_batch_size=4,
        allowed_batch_sizes=[1, 2, 9],
        max_queue_delay_microseconds=500,
        instances=2,
    )
    repository = make(tmp_path)
    repository.load()
    limits = repository.get("digits").limits
    assert limits == Limits(4, 8, (1, 2, 9), 0.0005, 2)
    assert limits.batch_sizes() == (1, 2, 4)


def test_every_allowed_batch_size_is_run_before_ready(
    tmp_path: Path, build: Build, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    run = OnnxBackend.run

    def spy(self: OnnxBackend, inputs: Any, outputs: Any) -> Any:
        sizes.append(len(next(iter(inputs.values()))))
        return run(self, inputs, outputs)

    monkeypatch.setattr(OnnxBackend, "run", spy)
    build(tmp_path, "digits")
    make(tmp_path, limits=Limits(8, 8, (1, 4))).load()
    assert set(sizes) == {1, 4, 8}


class TestReload:
    @pytest.fixture
    def repository(self, tmp_path: Path, build: Build, make: Make) -> ModelRepository:
        build(tmp_path, "digits", 1)
        repository = make(tmp_path, "latest:1")
        repository.load()
        return repository

    def test_a_newer_version_takes_over(self, repository: ModelRepository, tmp_path: Path, build: Build) -> None:
        build(tmp_path, "digits", 2)
        repository.load_model("digits")
        assert served(repository) == {"digits": [2]}
        assert states(repository) == {("digits", 1): State.UNAVAILABLE, ("digits", 2): State.READY}
        assert repository.statuses()[0].reason == "not wanted by the version policy"

    def test_what_has_not_changed_is_not_loaded_again(self, repository: ModelRepository) -> None:
        before = repository.get("digits")
        repository.load_model("digits")
        assert repository.get("digits") is before

    def test_a_changed_version_is_replaced(self, repository: ModelRepository, tmp_path: Path, build: Build) -> None:
        shutil.rmtree(tmp_path / "digits" / "1")
        build(tmp_path, "digits", 1, scores={"probe_error": 0.5})
        repository.load_model("digits")
        assert repository.get("digits").manifest.scores == {"probe_error": 0.5}
        assert states(repository) == {("digits", 1): State.READY}

    def test_the_old_version_stays_when_the_new_is_broken(
        self, repository: ModelRepository, tmp_path: Path, build: Build
    ) -> None:
        file = build(tmp_path, "digits", 2) / "model.onnx"
        whole = file.read_bytes()
        file.write_bytes(whole[:100])
        with pytest.raises(LoadError, match=r"digits/2/model.onnx: not the file its manifest speaks of"):
            repository.load_model("digits")
        assert served(repository) == {"digits": [1]}
        assert states(repository) == {("digits", 1): State.READY, ("digits", 2): State.UNAVAILABLE}
        assert "not the file its manifest speaks of" in repository.statuses()[1].reason
        # Once the copy is whole, it is served.
        file.write_bytes(whole)
        repository.load_model("digits")
        assert served(repository) == {"digits": [2]}

    def test_a_folder_that_is_half_copied_is_never_served(
        self, repository: ModelRepository, tmp_path: Path, build: Build
    ) -> None:
        """Whichever file comes first, and wherever the copy stands."""
        whole = build(tmp_path / "elsewhere", "digits", 2)
        for first, second in (("manifest.json", "model.onnx"), ("model.onnx", "manifest.json")):
            folder = tmp_path / "digits" / "2"
            folder.mkdir()
            repository.refresh()
            for name, share in ((first, 2), (first, 1), (second, 2)):
                data = (whole / name).read_bytes()
                (folder / name).write_bytes(data[: len(data) // share])
                repository.refresh()
                assert served(repository) == {"digits": [1]}
            shutil.rmtree(folder)
        shutil.copytree(whole, tmp_path / "digits" / "2")
        repository.refresh()
        assert served(repository) == {"digits": [2]}

    def test_a_broken_label_keeps_the_old_ones(self, repository: ModelRepository, tmp_path: Path, build: Build) -> None:
        build(tmp_path, "digits", 2)
        configure(tmp_path, "digits", labels={"stable": 1}, version_policy="latest:1")
        with pytest.raises(LoadError, match=r"the label 'stable' names version 1, which is not served. Served: 2"):
            repository.load_model("digits")
        assert repository.get("digits", 1).version == 1

    def test_requests_under_way_finish_on_what_they_began_with(
        self, repository: ModelRepository, tmp_path: Path, build: Build
    ) -> None:
        build(tmp_path, "digits", 2)
        with repository.use("digits") as held:
            reload = threading.Thread(target=repository.load_model, args=("digits",))
            reload.start()
            while repository.get("digits") is held:
                time.sleep(0.001)
            assert states(repository)["digits", 1] is State.UNLOADING
            assert held.infer({"image": ROW}, ("encoding",), Call()).outputs["encoding"].shape == (1, 4)
            assert reload.is_alive()
        reload.join(10)
        assert states(repository)["digits", 1] is State.UNAVAILABLE
        with pytest.raises(UnavailableError, match="digits/1 is shutting down"):
            held.infer({"image": ROW}, ("encoding",), Call(time.monotonic() + 5))

    def test_unloading_and_loading(self, repository: ModelRepository) -> None:
        repository.unload_model("digits")
        assert served(repository) == {}
        assert repository.statuses()[0].reason == "unloaded"
        with pytest.raises(NotFoundError):
            repository.get("digits")
        with pytest.raises(NotFoundError):
            repository.unload_model("digits")
        repository.load_model("digits")
        assert served(repository) == {"digits": [1]}
        with pytest.raises(NotFoundError, match=r"no model '../digits' in the repository"):
            repository.load_model("../digits")

    def test_refreshing_follows_the_folder(self, repository: ModelRepository, tmp_path: Path, build: Build) -> None:
        build(tmp_path, "red", 1)
        repository.refresh()
        assert served(repository) == {"digits": [1], "red": [1]}
        shutil.rmtree(tmp_path / "red")
        repository.refresh()
        assert served(repository) == {"digits": [1]}

    def test_what_is_broken_is_logged_once(
        self, repository: ModelRepository, tmp_path: Path, build: Build, caplog: pytest.LogCaptureFixture
    ) -> None:
        (build(tmp_path, "red", 1) / "manifest.json").unlink()
        for _ in range(3):
            repository.refresh()
        assert caplog.text.count("red/1/manifest.json: cannot be read") == 1

    def test_those_who_watch_are_told(self, tmp_path: Path, build: Build, make: Make) -> None:
        build(tmp_path, "digits")
        told: list[tuple[str, bool]] = []
        repository = make(tmp_path, on_change=lambda name, served: told.append((name, served)))
        repository.load()
        repository.unload_model("digits")
        assert told == [("digits", True), ("digits", False)]


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


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
