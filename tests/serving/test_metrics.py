import itertools
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.client import Client, ServiceError
from serving.metrics import Metrics
from serving.timings import Timings


def page(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        text: str = response.read().decode()
    return text


def value(text: str, name: str, **labels: str) -> float:
    """The value of one sample; 0 when there is none."""
    for line in text.splitlines():
        match = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
        if match and match[1] == name and dict(re.findall(r'(\w+)="([^"]*)"', match[2] or "")) == labels:
            return float(match[3])
    return 0.0


def test_each_phase_is_a_histogram_in_seconds(server: Any, client: Client) -> None:
    before = page(server.metrics_url)
    mask = client.segment(np.zeros((20, 20, 3), np.uint8), "red")
    after = page(server.metrics_url)
    labels = {"model": "red", "version": "2"}
    for phase in ("decode", "queue", "inference", "postprocess", "total"):
        grown = [
            value(after, f"sparsewalk_{phase}_seconds_{part}", **labels)
            - value(before, f"sparsewalk_{phase}_seconds_{part}", **labels)
            for part in ("count", "sum")
        ]
        # The response and the metrics show the same numbers.
        assert grown == [1, pytest.approx(getattr(mask.timings, phase), abs=1e-9)]


def test_requests_are_counted_by_outcome(server: Any, client: Client) -> None:
    def count(code: str, model: str = "digits", version: str = "1") -> float:
        labels = {"model": model, "version": version, "method": "Encode", "code": code}
        return value(page(server.metrics_url), "sparsewalk_requests_total", **labels)

    before = count("OK"), count("INVALID_ARGUMENT"), count("NOT_FOUND", "unknown", "unknown")
    client.encode(np.zeros(784, np.float32), "digits")
    for rows, model in ((np.zeros(3, np.float32), "digits"), (np.zeros(784, np.float32), "made up")):
        with pytest.raises(ServiceError):
            client.encode(rows, model)
    after = count("OK"), count("INVALID_ARGUMENT"), count("NOT_FOUND", "unknown", "unknown")
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1]


def test_names_that_clients_make_up_are_no_labels(server: Any, client: Client) -> None:
    for number in range(3):
        with pytest.raises(ServiceError):
            client.segment(b"x", f"made up {number}")
        with pytest.raises(ServiceError):
            client.segment(b"x", "red", version=1000 + number)
    text = page(server.metrics_url)
    assert "made up" not in text
    assert "1000" not in re.findall(r'version="(\w+)"', text)


def test_the_state_of_the_server_is_told(server: Any) -> None:
    text = page(server.metrics_url)
    digits = {"model": "digits", "version": "1"}
    assert value(text, "sparsewalk_model_ready", **digits) == 1
    assert 0 < value(text, "sparsewalk_model_load_seconds", **digits) < 10
    assert value(text, "sparsewalk_provider_info", **digits, provider="CPUExecutionProvider") == 1
    assert value(text, "sparsewalk_requests_in_flight") == 0
    assert value(text, "sparsewalk_batch_rows_count", **digits) >= 1
    assert value(text, "process_resident_memory_bytes") > 0
    assert "sparsewalk_build_info{" in text


def test_buckets_reach_from_100_microseconds_to_10_seconds(server: Any) -> None:
    bounds = re.findall(r'sparsewalk_total_seconds_bucket\{le="([^"]+)",model="digits"', page(server.metrics_url))
    numbers = [float(bound) for bound in bounds[:-1]]
    assert (numbers[0], numbers[-1], bounds[-1]) == (0.0001, 10.0, "+Inf")
    ratios = [b / a for a, b in itertools.pairwise(numbers)]
    assert max(ratios) <= 2


def test_the_page_passes_promtool(server: Any) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=page(server.metrics_url), capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_servers_in_one_process_do_not_share_metrics() -> None:
    first, second = (Metrics(version="0", runtime_version="0") for _ in range(2))
    for metrics in (first, second):
        metrics.model("m", 1).observe(Timings(0, 0, 0, 0, 0))


def test_only_one_module_knows_the_library() -> None:
    serving = Path(__file__).parents[2] / "serving"
    users = {path.name for path in serving.rglob("*.py") if "prometheus_client" in path.read_text()}
    assert users == {"metrics.py"}
