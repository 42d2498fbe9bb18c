"""Versions that come and go while the others answer."""

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.backend import CPU, Runtime
from serving.call import Call
from serving.changes import Override, poll
from serving.errors import LoadError, NotFoundError, UnavailableError
from serving.metrics import Metrics
from serving.model_settings import Limits, VersionPolicy
from serving.repository import ModelRepository, Plan
from serving.shelf import State
from tests.serving.repository.asking import ROW, Build, Make, configure, served, states


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

    def test_a_folder_that_goes_while_others_are_looked_at_ends_no_poll(
        self,
        repository: ModelRepository,
        tmp_path: Path,
        build: Build,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Nor does anything else that may happen to one model."""
        for name in ("halves", "red"):
            build(tmp_path, name)
        prepare = ModelRepository.prepare
        trouble: dict[str, Callable[[], object]] = {
            "halves": lambda: shutil.rmtree(tmp_path / "halves"),
            "red": lambda: 1 / 0,
        }

        def prepare_in_trouble(self: ModelRepository, name: str, override: Override | None = None) -> Plan:
            if name in trouble:
                trouble.pop(name)()
            return prepare(self, name, override)

        monkeypatch.setattr(ModelRepository, "prepare", prepare_in_trouble)
        build(tmp_path, "digits", 2)
        stopping, rounds = threading.Event(), iter(range(3))

        def refresh() -> None:
            if next(rounds) == 2:
                stopping.set()
            repository.refresh()

        poll(refresh, 0.001, stopping)
        assert served(repository) == {"digits": [2], "red": [1]}
        assert "halves: cannot be read: No such file or directory" in caplog.text
        assert "ZeroDivisionError" in caplog.text

    def test_a_folder_that_cannot_be_read_now_is_looked_at_again(
        self, repository: ModelRepository, tmp_path: Path, build: Build, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As it is on a network's file system that is away for a while."""
        build(tmp_path, "red")
        is_dir = Path.is_dir

        def stale(_: Path) -> bool:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

        monkeypatch.setattr(Path, "is_dir", stale)
        repository.refresh()
        with pytest.raises(LoadError, match="cannot be read: Stale file handle"):
            repository.load_model("red")
        assert served(repository) == {"digits": [1]}
        monkeypatch.setattr(Path, "is_dir", is_dir)
        repository.refresh()
        assert served(repository) == {"digits": [1], "red": [1]}

    def test_polling_survives_whatever_looking_comes_to(self, caplog: pytest.LogCaptureFixture) -> None:
        stopping = threading.Event()
        coming = [KeyError("odd"), OSError("away"), UnavailableError("closing")]

        def refresh() -> None:
            error = coming.pop()
            if not coming:
                stopping.set()
            raise error

        poll(refresh, 0.001, stopping)
        assert coming == []
        assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [OSError, KeyError]

    def test_refreshing_leaves_what_an_order_unloaded(
        self, repository: ModelRepository, tmp_path: Path, build: Build
    ) -> None:
        build(tmp_path, "red")
        repository.unload_model("digits")
        repository.refresh()
        assert served(repository) == {"red": [1]}
        repository.load_model("digits")
        build(tmp_path, "digits", 2)
        repository.refresh()
        assert served(repository) == {"digits": [2], "red": [1]}

    def test_refreshing_keeps_to_the_last_configuration_and_what_was_loaded_since(
        self, repository: ModelRepository, tmp_path: Path, build: Build
    ) -> None:
        build(tmp_path, "red")
        repository.configure({"red": Override(None, {})})
        # Neither what was served before nor what comes later.
        build(tmp_path, "halves")
        repository.refresh()
        assert served(repository) == {"red": [1]}
        repository.load_model("halves")
        repository.refresh()
        assert served(repository) == {"halves": [1], "red": [1]}
        repository.unload_model("red")
        repository.configure({"red": Override(None, {}), "digits": Override(None, {})})
        repository.refresh()
        assert served(repository) == {"digits": [1], "red": [1]}

    def test_versions_that_come_and_go_leave_nothing_on_the_page_of_metrics(self, tmp_path: Path, build: Build) -> None:
        """Nor in the index, when their folders are gone."""
        metrics = Metrics(version="0", runtime_version="0")
        repository = ModelRepository(
            tmp_path, Runtime(CPU, 1, required=True), Limits(8, 8), metrics, policy=VersionPolicy.parse("latest:1")
        )

        def told_of() -> dict[str, set[str]]:
            """Version -> names of what the page tells of it."""
            found: dict[str, set[str]] = {}
            for family in metrics.families():
                for sample in family.samples:
                    if "version" in sample.labels and "model" in sample.labels:
                        found.setdefault(sample.labels["version"], set()).add(family.name)
            return found

        build(tmp_path, "digits", 1)
        repository.load()
        for version in (1, 2, 3):
            name = str(version)
            repository.get("digits").infer({"image": ROW}, ("encoding",), Call())
            metrics.count("digits", name, "Encode", "OK")
            metrics.refused("digits", name, "invalid_input")
            assert len(told_of()[name]) > 10
            build(tmp_path, "digits", version + 1)
            repository.load_model("digits")
            # Its folder is there: the index tells of it, and the page that it is not ready.
            assert told_of()[name] == {"sparsewalk_model_ready"}
            shutil.rmtree(tmp_path / "digits" / name)
        (tmp_path / "digits" / "5").mkdir()
        with pytest.raises(LoadError):
            repository.load_model("digits")
        (tmp_path / "digits" / "5").rmdir()
        repository.refresh()
        assert list(states(repository)) == [("digits", 4)]
        assert set(told_of()) == {"4"}
        # Of a model of which nothing is left, both tell on.
        shutil.rmtree(tmp_path / "digits")
        build(tmp_path, "red")
        repository.refresh()
        assert states(repository)["digits", 4] is State.UNAVAILABLE
        assert told_of()["4"] == {"sparsewalk_model_ready"}
        repository.close()

    def test_those_who_watch_are_told(self, tmp_path: Path, build: Build, make: Make) -> None:
        build(tmp_path, "digits")
        told: list[tuple[str, bool]] = []
        repository = make(tmp_path, on_change=lambda name, served: told.append((name, served)))
        repository.load()
        repository.unload_model("digits")
        assert told == [("digits", True), ("digits", False)]
