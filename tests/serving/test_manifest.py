import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving import manifest
from serving.errors import ManifestError

GOLDEN = Path(__file__).parents[1] / "contract" / "manifest.golden.json"


def _set(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(told: dict[str, Any]) -> None:
        parent: Any = told
        for part in path[:-1]:
            parent = parent[part]
        parent[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (_set("schema_version", to=2), "schema_version: Input should be 1. Received: 2"),
        (_set("version", to=0), "version: Input should be greater than 0. Received: 0"),
        (_set("version", to="1"), "version: Input should be a valid integer. Received: '1'"),
        (_set("name", to="../up"), "name: String should match pattern"),
        (_set("family", to="audio"), "family: Input should be 'segmentation' or 'mnist'. Received: 'audio'"),
        (_set("inputs", to=[]), "inputs: Tuple should have at least 1 item"),
        (
            _set("inputs", 0, "dtype", to="INT64"),
            "inputs.0.dtype: Input should be 'UINT8' or 'FP32'. Received: 'INT64'",
        ),
        (_set("inputs", 0, "dtype", to="FP32"), "the image of family segmentation is UINT8 RGB of rank 4, not FP32"),
        (_set("inputs", 0, "name", to="picture"), "inputs holds one tensor named 'image', not ['picture']"),
        (_set("inputs", 0, "shape", to=[1, -1, -1, 3]), "shape starts with a free batch axis"),
        (_set("inputs", 0, "shape", to=[-1, 96, 96, 3]), "resizing makes [192, 192, 3] of a picture"),
        (_set("inputs", 0, "axes", to=["batch"]), "axes name each axis of the shape"),
        (_set("inputs", 0, "value_range", to=[1.0, 1.0]), "value_range is [low, high] with low < high"),
        (_set("outputs", 0, "name", to="heat"), "family segmentation has an output named 'mask'"),
        (_set("outputs", 0, "name", to="image"), "each tensor has its own name"),
        (_set("resizing", "rule", to="crop"), "resizing.rule: Input should be 'letterbox' or 'stretch'"),
        (_set("resizing", "height", to=100), "100 x 192 is not made of multiples of 32"),
        (_set("resizing", "pad_value", to=256), "resizing.pad_value: Input should be less than or equal to 255"),
        (_set("default_threshold", to=1.5), "default_threshold: Input should be less than or equal to 1"),
        (_set("default_threshold", to=None), "default_threshold is a number for segmentation"),
        (_set("onnx_sha256", to="abc"), "onnx_sha256: String should match pattern"),
        (_set("training", "data_source", to="made up"), "training.data_source: Input should be 'real' or 'embedded'"),
        (_set("training", "date", to="2026-01-02T03:04:05"), "training.date: Input should have timezone info"),
    ],
)
def test_a_broken_rule_is_named(change: Callable[[dict[str, Any]], None], complaint: str, tmp_path: Path) -> None:
    told = json.loads(GOLDEN.read_text())
    change(told)
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps(told))
    with pytest.raises(ManifestError, match=re.escape(complaint)) as caught:
        manifest.read(file)
    assert str(caught.value).startswith(str(file))


def test_text_that_is_no_json_is_named(tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    file.write_text(GOLDEN.read_text()[:100])
    with pytest.raises(ManifestError, match="Invalid JSON"):
        manifest.read(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"manifest\.json: cannot be read: No such file"):
        manifest.read(tmp_path / "manifest.json")


def test_dtypes_are_little_endian() -> None:
    read = manifest.read(GOLDEN)
    assert read.image.numpy_dtype == np.dtype("u1")
    assert read.outputs[0].numpy_dtype == np.dtype("<f4")
