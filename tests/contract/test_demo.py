"""The demo's last step, on small models: a real server process, asked through the real client."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.runs import Run
from training.samples import write_samples


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, tiny_runs: dict[str, Run], tiny_models: Path) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo")
    for name in ("pedestrian_unet", "mnist_k_sparse"):
        write_samples(tiny_runs[name], folder / "samples", count=3)
    command = [sys.executable, "-m", "serving.demo", "--models", str(tiny_models)]
    command += ["--samples", str(folder / "samples"), "--output", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_it_prints_the_paths_it_wrote(demo: tuple[Path, str]) -> None:
    folder, output = demo
    for name in ("pedestrians", "digits", "metrics.txt", "index.html"):
        assert str(folder / name) in output
        assert (folder / name).exists()


def test_every_picture_of_the_page_is_there(demo: tuple[Path, str]) -> None:
    folder, _ = demo
    page = (folder / "index.html").read_text()
    sources = re.findall(r'<img src="([^"]+)"', page)
    assert len(sources) == 6
    for source in sources:
        Image.open(folder / source).verify()


def test_the_page_says_that_the_data_are_stand_ins(demo: tuple[Path, str]) -> None:
    page = (demo[0] / "index.html").read_text()
    assert page.count("trained and asked on the embedded stand-in") == 2
    assert "sparsewalk_requests_total{" in page


def test_the_kept_metrics_count_the_demo_s_requests(demo: tuple[Path, str]) -> None:
    metrics = (demo[0] / "metrics.txt").read_text()
    assert re.search(r'sparsewalk_requests_total\{[^}]*method="Segment"[^}]*\} 3\.0', metrics)
    assert re.search(r'sparsewalk_requests_total\{[^}]*method="Encode"[^}]*\} 3\.0', metrics)


def test_a_panel_is_picture_truth_mask_and_overlay(demo: tuple[Path, str]) -> None:
    folder, _ = demo
    panel_path = next((folder / "pedestrians").iterdir())
    picture = np.asarray(Image.open(folder / "samples" / "pedestrian_unet" / panel_path.name))
    height, width, _ = picture.shape
    panel = np.asarray(Image.open(panel_path))
    assert panel.shape == (height, 4 * width + 3 * 8, 3)
    np.testing.assert_array_equal(panel[:, :width], picture)


def test_without_samples_it_says_what_is_missing(tmp_path: Path, tiny_models: Path) -> None:
    command = [sys.executable, "-m", "serving.demo", "--models", str(tiny_models), "--samples", str(tmp_path)]
    done = subprocess.run([*command, "--output", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("Run: python -m training samples")
    assert "Traceback" not in done.stderr


def test_a_server_that_does_not_start_is_told(tmp_path: Path, tiny_runs: dict[str, Run]) -> None:
    write_samples(tiny_runs["mnist_k_sparse"], tmp_path / "samples", count=1)
    command = [sys.executable, "-m", "serving.demo", "--models", str(tmp_path / "none")]
    command += ["--samples", str(tmp_path / "samples"), "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the server did not start" in done.stderr
