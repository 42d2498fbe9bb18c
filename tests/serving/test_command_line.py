"""``python -m serving.client`` against a real server."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from serving.client.__main__ import app
from serving.client.files import stems, write

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(server: Any) -> Run:
    def invoke(*arguments: str | Path) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, [*map(str, arguments), "--target", server.target])
        return result.exit_code, result.stdout, result.stderr

    return invoke


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    array = np.zeros((40, 60, 3), np.uint8)
    array[:, :30, 0] = 255
    Image.fromarray(array).save(tmp_path / "street.png")
    return tmp_path / "street.png"


def open_picture(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.asarray(image)


def test_segment_writes_the_files_asked_for(run: Run, picture: Path, tmp_path: Path) -> None:
    formats = [part for form in ("overlay", "mask", "npy", "json") for part in ("--format", form)]
    out = tmp_path / "out"
    code, text, errors = run("segment", picture, "--model", "red", "--output", out, *formats)
    assert (code, errors) == (0, "")
    assert sorted(path.name for path in out.iterdir()) == [
        "street.json",
        "street.mask.png",
        "street.npy",
        "street.overlay.png",
    ]
    mask = np.load(out / "street.npy")
    assert mask.shape == (40, 60)
    np.testing.assert_array_equal(open_picture(out / "street.mask.png"), mask * 255)
    assert open_picture(out / "street.overlay.png").shape == (40, 60, 3)
    told = json.loads((out / "street.json").read_text())
    assert (told["model"], told["version"], told["height"], told["width"]) == ("red", 2, 40, 60)
    assert "60 x 40" in text
    assert "red/2" in text


def test_encode_and_reconstruct(run: Run, picture: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.ones((2, 784), np.float32))
    code, text, _ = run("encode", picture, tmp_path / "rows.npy", "--model", "digits", "--output", tmp_path)
    assert code == 0
    assert np.load(tmp_path / "rows.encoding.npy").shape == (2, 4)
    assert np.load(tmp_path / "street.encoding.npy").shape == (1, 4)
    assert "4 values" in text
    code, _, _ = run("reconstruct", tmp_path / "rows.npy", "--model", "digits", "--output", tmp_path)
    assert code == 0
    assert open_picture(tmp_path / "rows.reconstruction.png").shape == (28, 56)
    code, _, _ = run("encode", picture, "--model", "digits", "--output", tmp_path, "--format", "json")
    assert code == 0
    assert len(json.loads((tmp_path / "street.encoding.json").read_text())["encoding"][0]) == 4


def test_models_as_a_table_or_json(run: Run) -> None:
    code, text, _ = run("models")
    assert code == 0
    lines = text.splitlines()
    assert lines[0].split()[:3] == ["model", "version", "family"]
    assert lines[1].split()[:3] == ["digits", "1", "mnist"]
    assert "probe_error=0.03" in lines[1]
    code, text, _ = run("models", "--format", "json")
    assert [model["name"] for model in json.loads(text)] == ["digits", "red", "red", "red_fixed"]


def test_a_refusal_is_one_line_and_exit_1(run: Run, picture: Path, tmp_path: Path) -> None:
    code, text, errors = run("segment", picture, "--model", "blue", "--output", tmp_path / "out")
    assert (code, text) == (1, "")
    assert errors == f"error: {picture}: NOT_FOUND: no model 'blue'. Known: digits, red, red_fixed\n"
    assert not (tmp_path / "out").exists()


def test_what_fails_is_named_and_what_was_done_is_told(run: Run, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"no picture")
    out = tmp_path / "out"
    code, text, errors = run("segment", picture, tmp_path / "film.mp4", "--model", "red", "--output", out)
    assert code == 1
    assert errors.startswith(f"error: {tmp_path / 'film.mp4'}: INVALID_ARGUMENT: a picture is JPEG")
    assert len(errors.splitlines()) == 1
    assert text.splitlines()[1].startswith(str(picture))
    assert text.splitlines()[1].endswith(str(out / "street.overlay.png"))
    code, text, errors = run("segment", picture, tmp_path, "--model", "red", "--output", out)
    assert (code, errors) == (1, f"error: {tmp_path}: Is a directory\n")
    assert len(text.splitlines()) == 2
    np.save(tmp_path / "rows.npy", np.array([None]))
    code, text, errors = run("encode", picture, tmp_path / "rows.npy", "--model", "digits", "--output", out)
    assert (code, errors.partition("rows.npy")[0]) == (1, f"error: {tmp_path}/")
    assert text.splitlines()[1].endswith(str(out / "street.encoding.npy"))


def test_results_of_the_same_name_are_kept_apart(run: Run, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    other = tmp_path / "b" / "street.bmp"
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(other)
    out = tmp_path / "out"
    code, text, _ = run("segment", picture, other, "--model", "red", "--output", out, "--format", "npy")
    assert code == 0
    assert np.load(out / "street.npy").shape == (40, 60)
    assert np.load(out / "street-2.npy").shape == (20, 30)
    assert [line.split()[-1] for line in text.splitlines()[1:]] == [str(out / "street.npy"), str(out / "street-2.npy")]
    code, _, _ = run("encode", picture, other, "--model", "digits", "--output", out)
    assert code == 0
    assert {path.name for path in out.glob("*.encoding.npy")} == {"street.encoding.npy", "street-2.encoding.npy"}


def test_numbers_meet_no_other_name() -> None:
    names = ["a/x.jpg", "a/X.png", "b/x-2.jpg", "b/x.png", "y"]
    assert stems([Path(name) for name in names]) == ["x", "X-2", "x-2-2", "x-3", "y"]


def test_a_missing_picture_is_wrong_usage(run: Run) -> None:
    code, _, errors = run("segment", "nowhere.jpg")
    assert code == 2
    assert "nowhere.jpg" in errors


def test_help_works_without_a_server() -> None:
    result = CliRunner().invoke(app, ["segment", "--help"])
    assert result.exit_code == 0
    for flag in ("--target", "--output", "--format", "--threshold", "--model"):
        assert flag in result.stdout


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a" / "file", b"old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdopen", full)
    with pytest.raises(OSError, match="No space left"):
        write(file, b"new")
    assert file.read_bytes() == b"old"
    assert [path.name for path in file.parent.iterdir()] == ["file"]
