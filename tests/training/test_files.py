from __future__ import annotations

import os
from pathlib import Path

import pytest

from training.files import publish, remove_leftovers, temporary_folder, write_json, write_text, written_whole


def test_a_failing_writer_leaves_the_previous_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "scores.json"
    write_text(target, "before")
    with pytest.raises(OSError, match="No space left"), written_whole(target) as temporary:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


def test_json_refuses_nan_rather_than_writing_what_no_parser_reads(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "scores.json", {"iou": float("nan")})
    assert not (tmp_path / "scores.json").exists()


def test_an_unpublished_folder_is_removed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), temporary_folder(tmp_path) as temporary:
        (temporary / "model.onnx").write_bytes(b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_publishing_over_a_folder_with_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.onnx").write_bytes(b"old")
    with pytest.raises(OSError, match="not empty"), temporary_folder(tmp_path) as temporary:
        (temporary / "model.onnx").write_bytes(b"new")
        publish(temporary, tmp_path / "1")
    assert (tmp_path / "1" / "model.onnx").read_bytes() == b"old"


def test_leftovers_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    dead = tmp_path / ".tmp-4194999-folder"  # above the largest process number of Linux
    dead.mkdir()
    (dead / "file").touch()
    living = tmp_path / f".tmp-{os.getpid()}-folder"
    living.mkdir()
    (tmp_path / "1").mkdir()
    assert remove_leftovers(tmp_path) == [dead]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([living.name, "1"])
