from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from typer.testing import CliRunner

from training.__main__ import app
from training.datasets import mall
from training.datasets.mall import MallData
from training.datasets.source import DataUnavailable
from training.mall_study import study
from training.run_folder import RunError
from training.runs import Run


@pytest.fixture
def video(tmp_path: Path) -> MallData:
    """Six frames of noise with a head or two, 80x120."""
    rng = np.random.default_rng(0)
    frames = np.empty((1, 6), dtype=object)
    path = tmp_path / "mall.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(6):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (80, 120, 3), dtype=np.uint8)).save(buffer, format="JPEG")
            archive.writestr(f"m/frames/seq_{index + 1:06d}.jpg", buffer.getvalue())
            inner = np.empty((1, 1), dtype=[("loc", object)])
            inner["loc"][0, 0] = rng.uniform(0, 80, (1 + index % 2, 2))
            frames[0, index] = inner
        for name, variables in {
            "mall_gt.mat": {"frame": frames, "count": np.array([[1], [2]] * 3, np.uint8)},
            "perspective_roi.mat": {"pMapN": np.ones((80, 120))},
        }.items():
            buffer = io.BytesIO()
            scipy.io.savemat(buffer, variables)
            archive.writestr(f"m/{name}", buffer.getvalue())
    return mall.read_archive(path)


def test_study_writes_films_stills_and_scores(tmp_path: Path, video: MallData, tiny_runs: dict[str, Run]) -> None:
    names = ["pedestrian_plain", "pedestrian_unet"]
    folder = tmp_path / "out"
    scores = study([tiny_runs[name] for name in names], video, folder)
    assert list(scores) == names
    written = json.loads((folder / "scores.json").read_text())
    assert list(written["models"]) == names
    assert written["models"][names[0]]["red_share"] == scores[names[0]].red_share
    assert (written["frames"], written["heads_per_frame"]) == (6, 1.5)
    assert (folder / "red_share.png").exists()
    for name in names:
        found = {path.name for path in (folder / name).iterdir()}
        assert found == {"mall.gif", "mall.mp4", "frames.json", *(f"frame_{n:06d}.png" for n in range(1, 7))}
        assert len(json.loads((folder / name / "frames.json").read_text())) == 6
        with Image.open(folder / name / "frame_000001.png") as still:
            assert still.size == (120, 80)


def test_a_model_without_masks_is_refused(tmp_path: Path, video: MallData, tiny_runs: dict[str, Run]) -> None:
    with pytest.raises(RunError, match=r"takes segmentation models\. Received: mnist_k_sparse"):
        study([tiny_runs["mnist_k_sparse"]], video, tmp_path / "out")


def test_without_the_video_the_command_says_what_is_missing(
    tmp_path: Path, tiny_runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.__main__.open_run", lambda name, _: tiny_runs[name])
    monkeypatch.setenv("SPARSEWALK_DATA", "")
    result = CliRunner().invoke(app, ["mall", "pedestrian_plain", f"--output={tmp_path}"])
    assert isinstance(result.exception, DataUnavailable)
    assert "mall_dataset_first500.zip" in str(result.exception)
