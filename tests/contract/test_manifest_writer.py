"""The writer's half of the manifest contract; ``test_manifest_reader.py`` is the service's half."""

from __future__ import annotations

import json
from pathlib import Path

from training.export.manifest import Description, TrainingRecord, write_manifest
from training.export.parity import Parity
from training.export.servable import Resizing, Tensor

GOLDEN = Path(__file__).with_name("manifest.golden.json")
AXES = ("batch", "height", "width", "channel")


def test_the_writer_writes_the_golden_file(tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())
    (tmp_path / "model.onnx").write_bytes(b"")
    description = Description(
        name="pedestrian_unet",
        family="segmentation",
        inputs=(Tensor("image", "UINT8", (-1, -1, -1, 3), AXES, (0.0, 255.0), "RGB"),),
        outputs=(Tensor("mask", "FP32", (-1, -1, -1, 1), AXES, (0.0, 1.0)),),
        resizing=Resizing("letterbox", 192, 192, 32, 127),
        default_threshold=0.5,
        training=TrainingRecord(
            experiment="pedestrian_unet",
            preset="quick",
            dataset="penn_fudan",
            data_source="real",
            seed=0,
            code_revision="0123456789abcdef0123456789abcdef01234567",
            date="2026-01-02T03:04:05+00:00",
            settings={"learning_rate": 0.002, "zoom": [0.5, 1.4]},
        ),
        scores={"iou_per_image": 0.65, "iou_pooled": 0.7},
        producers={"keras": "3.15.1", "onnx": "1.23.2", "tensorflow": "2.21.0", "tf2onnx": "1.17.0"},
    )
    write_manifest(tmp_path, description, 1, Parity(1e-5, 4.7e-7, (1, 7, 64)))
    written = json.loads((tmp_path / "manifest.json").read_text())
    empty_file = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert written == {**golden, "onnx_sha256": empty_file}
    assert list(written) == list(golden)
