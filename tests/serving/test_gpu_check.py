"""The check of a GPU, as far as it goes without one: what it tries, says and writes, and how it ends."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serving.backend import CPU, CUDA, TENSORRT, Runtime
from serving.gpu_check.report import Report
from serving.gpu_check.trials import Timing, Trial, Way, difference, dry_ways, try_model, ways

Build = Callable[..., Path]
DRY = dry_ways(1)[0]


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "serving.gpu_check", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_a_dry_run_goes_all_the_way_and_says_what_it_is(tmp_path: Path, build: Build) -> None:
    build(tmp_path / "models", "digits")
    build(tmp_path / "models", "red")
    flags = ["--model-repository", str(tmp_path / "models"), "--output", str(tmp_path / "out"), "--seconds", "0.01"]
    done = check(*flags, "--dry", "--batch-sizes", "4,1")
    assert done.returncode == 0, done.stderr
    assert "Dry run on the CPU: this proves nothing about a GPU." in done.stdout
    assert "2 of 2 passed." in done.stdout
    assert (tmp_path / "out" / "gpu_check.txt").read_text() in done.stdout
    told = json.loads((tmp_path / "out" / "gpu_check.json").read_text())
    assert (told["dry"], told["passed"]) == (True, True)
    assert [(trial["model"], trial["provider"]) for trial in told["trials"]] == [("digits/1", CPU), ("red/1", CPU)]
    for trial in told["trials"]:
        assert [timing["rows"] for timing in trial["timings"]] == [1, 4]
        assert all(timing["difference"] == 0 < timing["median_seconds"] for timing in trial["timings"])
    assert not list((tmp_path / "out").glob(".*"))


def test_without_a_gpu_it_says_so_with_an_exit_code_of_its_own(tmp_path: Path) -> None:
    from serving.backend import count_gpus

    if count_gpus():
        pytest.fail("this machine has a GPU: run `python -m serving.gpu_check` on it")
    done = check("--output", str(tmp_path / "out"))
    assert done.returncode == 3
    assert "no NVIDIA GPU is visible here: nothing was checked" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--batch-sizes", "1,0"], 2, "batch sizes are positive"),
        (["--batch-sizes", "many"], 2, "batch sizes are positive"),
        (["--models", "nothing"], 1, "no model 'nothing'. Known: digits"),
    ],
)
def test_wrong_usage_is_named(flags: list[str], code: int, message: str, tmp_path: Path, build: Build) -> None:
    build(tmp_path, "digits")
    done = check("--model-repository", str(tmp_path), "--dry", *flags)
    assert done.returncode == code
    assert message in " ".join(done.stderr.replace("│", " ").split())


def test_a_way_that_is_not_in_use_after_all_fails(tmp_path: Path, build: Build) -> None:
    """A GPU whose libraries are missing: ONNX Runtime would go on on the CPU."""
    way = Way("cuda", Runtime(CUDA, 1, required=True), True, 1e-3)
    trial = try_model(build(tmp_path, "digits"), way, [1], seconds=0.0, threads=1, memory=lambda: None)
    assert not trial.passed
    assert f"{CUDA} was asked for, but ONNX Runtime runs it on {CPU}" in trial.error


def test_memory_is_told_at_each_moment(tmp_path: Path, build: Build) -> None:
    told = iter(range(1, 100))
    trial = try_model(build(tmp_path, "digits"), DRY, [1], seconds=0.0, threads=1, memory=lambda: next(told) * 2**20)
    assert trial.memory_bytes == {
        "opened": 1 * 2**20,
        "timed": 2 * 2**20,
        "200 more runs": 3 * 2**20,
        "4 more threads": 4 * 2**20,
    }
    text = Report("a GPU", False, {}, [trial]).to_text()
    assert "opened 1, timed 2 (+1), 200 more runs 3 (+1), 4 more threads 4 (+1)" in text


def test_what_differs_too_much_fails_and_is_told() -> None:
    trials = [
        Trial("m/1", "cuda", CUDA, "", 1e-3, [Timing(1, difference, 0.001, 0.002, 1000.0)], {})
        for difference in (1e-3, 2e-3)
    ]
    report = Report("a GPU", False, {"onnxruntime": "1"}, trials)
    assert [trial.passed for trial in trials] == [True, False]
    assert not report.passed
    assert "FAILED m/1 cuda: differs from the CPU by 2.00e-03, more than 0.001" in report.to_text()
    assert [trial["passed"] for trial in json.loads(report.to_json())["trials"]] == [True, False]


def test_a_variant_may_differ_by_its_own_rounding(tmp_path: Path, build: Build) -> None:
    """An fp16 model whose manifest says that rounding moves it by 0.03 cannot be held to a thousandth."""
    way = Way("cuda", Runtime(CPU, 1, required=True), True, 1e-3)
    parity = {"tolerance": 1.0, "largest_difference": 0.03, "batches": [1], "excluded_rows": 0}
    folders = (build(tmp_path, "digits"), build(tmp_path, "digits", 2, parity=parity))
    trials = [try_model(each, way, [1], seconds=0.0, threads=1, memory=lambda: None) for each in folders]
    assert [trial.tolerance for trial in trials] == [1e-3, 0.06]


def test_nothing_tried_is_nothing_proved() -> None:
    assert not Report("a GPU", False, {}, []).passed


def test_differences_are_absolute_up_to_one_and_relative_beyond() -> None:
    assert difference(np.array([0.5]), np.array([0.25])) == 0.25
    assert difference(np.array([110.0]), np.array([100.0])) == pytest.approx(0.1)
    assert difference(np.array([np.nan]), np.array([0.0])) == float("inf")


def test_the_ways_cover_what_the_service_offers() -> None:
    found = {way.name: way.runtime for way in ways(2, tensorrt=True)}
    assert all(runtime.required and runtime.threads == 2 for runtime in found.values())
    assert {runtime.provider for runtime in found.values()} == {CUDA, TENSORRT}
    assert found["cuda graphs"].acceleration.graphs
    assert {runtime.acceleration.precision for runtime in found.values()} == {"fp32", "tf32", "fp16"}
    assert {way.runtime.provider for way in ways(2, tensorrt=False)} == {CUDA}
