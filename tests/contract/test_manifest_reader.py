"""The serving side of the contract: the reader takes the golden manifest, field by field, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest

from serving import manifest
from serving.errors import ManifestError

GOLDEN = Path(__file__).with_name("manifest.golden.json")


def test_reads_the_golden_manifest_whole() -> None:
    read = manifest.read(GOLDEN)
    assert json.loads(read.model_dump_json()) == json.loads(GOLDEN.read_text()) | {
        "training": json.loads(GOLDEN.read_text())["training"] | {"date": "2026-01-02T03:04:05Z"}
    }


def _paths(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every named field of the golden file; scores, settings and producers are free-form."""
    found: list[tuple[str | int, ...]] = []
    if isinstance(value, dict):
        for key, inner in value.items():
            found.append((*path, key))
            if key not in ("scores", "settings", "producers"):
                found += _paths(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            found += _paths(inner, (*path, index))
    return found


LATER = [("training", "settings")]
FIELDS = [path for path in _paths(json.loads(GOLDEN.read_text())) if path not in LATER]


def test_a_manifest_from_before_there_were_settings_is_read(tmp_path: Path) -> None:
    told = json.loads(GOLDEN.read_text())
    del told["training"]["settings"]
    (tmp_path / "manifest.json").write_text(json.dumps(told))
    assert manifest.read(tmp_path / "manifest.json").training.settings == {}


@pytest.mark.parametrize("path", FIELDS, ids=lambda path: ".".join(map(str, path)))
def test_every_field_is_needed(path: tuple[str | int, ...], tmp_path: Path) -> None:
    told = json.loads(GOLDEN.read_text())
    parent = told
    for part in path[:-1]:
        parent = parent[part]
    del parent[path[-1]]
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps(told))
    with pytest.raises(ManifestError) as caught:
        manifest.read(file)
    assert f"{'.'.join(map(str, path))}: Field required" in str(caught.value)
    assert str(file) in str(caught.value)


def test_an_unknown_field_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps(json.loads(GOLDEN.read_text()) | {"colour": "blue"}))
    with pytest.raises(ManifestError, match=r"colour: Extra inputs are not permitted\. Received: 'blue'"):
        manifest.read(file)
