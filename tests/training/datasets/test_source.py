from pathlib import Path

import pytest

from training.datasets import mnist, penn_fudan
from training.datasets.source import DataError, DataUnavailable, choose, find


def _absent() -> str:
    raise DataUnavailable("tried everywhere")


def _broken() -> str:
    raise DataError("broken")


def test_real_data_comes_first() -> None:
    assert choose("X", "auto", lambda: "real", lambda: "embedded") == "real"


def test_embedded_never_looks_for_real_data() -> None:
    assert choose("X", "embedded", _broken, lambda: "embedded") == "embedded"


def test_auto_falls_back_loudly(caplog: pytest.LogCaptureFixture) -> None:
    assert choose("X", "auto", _absent, lambda: "embedded") == "embedded"
    warning = next(record for record in caplog.records if record.levelname == "WARNING")
    assert "FALLING BACK" in warning.getMessage()
    assert "tried everywhere" in warning.getMessage()


def test_real_never_falls_back() -> None:
    with pytest.raises(DataUnavailable, match="tried everywhere"):
        choose("X", "real", _absent, lambda: "embedded")


def test_auto_does_not_hide_broken_data() -> None:
    with pytest.raises(DataError, match="broken"):
        choose("X", "auto", _broken, lambda: "embedded")


def test_unknown_policy_names_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"auto, real, embedded. Received: 'maybe'"):
        choose("X", "maybe", lambda: 1, lambda: 2)  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_data")
def test_find_without_the_variable_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    assert find("PennFudanPed.zip") is None
    assert not caplog.records


def test_find_says_that_the_folder_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SPARSEWALK_DATA", str(tmp_path / "nowhere"))
    assert find("PennFudanPed.zip") is None
    assert "names no folder" in caplog.text


def test_find_says_that_the_file_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SPARSEWALK_DATA", str(tmp_path))
    assert find("PennFudanPed.zip", expected=False) is None
    assert not caplog.records
    assert find("PennFudanPed.zip") is None
    assert "has no file PennFudanPed.zip" in caplog.text


@pytest.mark.usefixtures("no_data")
@pytest.mark.parametrize("load", [mnist.load, penn_fudan.load])
def test_real_without_data_says_what_was_tried(load: object) -> None:
    with pytest.raises(DataUnavailable, match=r"Tried: http://127.0.0.1:1/.*SPARSEWALK_DATA"):
        load("real")  # type: ignore[operator]


@pytest.mark.usefixtures("no_data")
def test_auto_with_an_empty_folder_warns_and_falls_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SPARSEWALK_DATA", str(tmp_path))
    assert mnist.load("auto").source == "embedded"
    assert "has no file mnist/" in caplog.text
    assert "FALLING BACK" in caplog.text
