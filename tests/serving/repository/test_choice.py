"""Which versions are served, under which labels and limits."""

from pathlib import Path
from typing import Any

import pytest

from serving.backend import OnnxBackend
from serving.changes import Override
from serving.errors import LoadError, NotFoundError, RepositoryError
from serving.model_settings import Limits, VersionPolicy
from tests.serving.repository.asking import Build, Make, configure, served


class TestPolicy:
    @pytest.mark.parametrize(
        ("policy", "versions"),
        [
            ("all", [1, 2, 10]),
            ("latest:1", [10]),
            ("latest:2", [2, 10]),
            ("latest:9", [1, 2, 10]),
            ("specific:10,1", [1, 10]),
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

    def test_one_that_asks_for_what_is_not_there_is_an_error(self, tmp_path: Path, build: Build, make: Make) -> None:
        for version in (1, 3):
            build(tmp_path, "digits", version)
        with pytest.raises(
            RepositoryError, match=r"digits: the version policy asks for 2, 7, not among the versions 1, 3"
        ):
            make(tmp_path, "specific:2,3,7").load()

    def test_one_that_a_caller_sets_and_cannot_be_kept_changes_nothing(
        self, tmp_path: Path, build: Build, make: Make
    ) -> None:
        for version in (1, 3):
            build(tmp_path, "digits", version)
        repository = make(tmp_path, "latest:1")
        repository.load()
        for versions, complaint in (
            ((1, 7), "asks for 7, not among the versions 1, 3"),
            ((), "chooses none of the versions 1, 3"),
        ):
            with pytest.raises(LoadError, match=complaint):
                repository.configure({"digits": Override(VersionPolicy("specific", versions), {})})
            repository.refresh()
            assert served(repository) == {"digits": [3]}


class TestOverride:
    """A configuration that a caller sends stands until the model is loaded or unloaded by call."""

    @pytest.mark.parametrize("unloaded", [False, True])
    def test_it_ends_with_the_next_load(self, unloaded: bool, tmp_path: Path, build: Build, make: Make) -> None:
        build(tmp_path, "digits", 1)
        build(tmp_path, "digits", 2)
        repository = make(tmp_path)
        repository.load()
        repository.configure({"digits": Override(VersionPolicy.parse("specific:1"), {"stable": 1})})
        configure(tmp_path, "digits", labels={"canary": 2})
        repository.refresh()
        assert served(repository) == {"digits": [1]}
        assert repository.get("digits", "stable").version == 1
        if unloaded:
            repository.unload_model("digits")
        repository.load_model("digits")
        assert served(repository) == {"digits": [1, 2]}
        assert repository.settings("digits").labels == {"canary": 2}
        repository.refresh()
        assert repository.settings("digits").labels == {"canary": 2}


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
        max_run_pixels=5000,
        allowed_batch_sizes=[1, 2, 9],
        max_queue_delay_microseconds=500,
        instances=2,
    )
    repository = make(tmp_path)
    repository.load()
    limits = repository.get("digits").limits
    assert limits == Limits(4, 8, (1, 2, 9), 0.0005, 2, 5000)
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
