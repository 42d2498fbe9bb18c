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
from serving.gpu import Gpus
from serving.metrics import Metrics
from serving.timings import Timings
from tests.serving.test_gpu import Library


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


def rendered(metrics: Metrics) -> str:
    lines = []
    for family in metrics.families():
        for sample in family.samples:
            labels = ",".join(f'{name}="{text}"' for name, text in sample.labels.items())
            lines.append(f"{sample.name}{{{labels}}} {sample.value}")
    return "\n".join(lines)


GOLDEN = Path(__file__).with_name("metrics.golden.txt")


def test_names_types_labels_and_help_are_frozen() -> None:
    """Dashboards and alerts hang on them. A change is a change of the golden file, and so is seen."""
    metrics = Metrics(version="0", runtime_version="0", gpus=Gpus(Library()))
    metrics.watch_in_flight(lambda: 0)
    metrics.watch_states(lambda: [("m", 1, "READY")], ["READY"])
    model = metrics.model("m", 1)
    model.loaded("CPUExecutionProvider", 0.1)
    model.warmed_up(0.1)
    model.watch_queue(lambda: 0)
    model.observe(Timings(0, 0, 0, 0, 0))
    model.observe_batch(1, 1, 8)
    metrics.count("m", "1", "Encode", "OK")
    metrics.refused("m", "1", "queue_full")
    told = []
    for family in metrics.families():
        labels = sorted({name for sample in family.samples for name in sample.labels} - {"le"})
        told.append(f"{family.name} | {family.type} | {','.join(labels)} | {family.documentation}\n")
    assert "".join(told) == GOLDEN.read_text()


def test_gpus_are_told_where_there_are_any() -> None:
    text = rendered(Metrics(version="0", runtime_version="0", gpus=Gpus(Library())))
    first, second = ({"gpu": str(number), "uuid": f"GPU-{number}"} for number in range(2))
    assert value(text, "sparsewalk_gpu_utilization_ratio", **first) == 0.4
    assert value(text, "sparsewalk_gpu_power_watts", **first) == 250.5
    assert value(text, "sparsewalk_gpu_memory_used_bytes", **second) == 3 * 2**30
    assert not re.search(r'sparsewalk_gpu_power_watts\{gpu="1"', text)


def test_without_a_gpu_nothing_is_told_of_one(server: Any) -> None:
    if Gpus.find() is None:
        assert "sparsewalk_gpu" not in page(server.metrics_url)


def test_each_refusal_has_one_reason(server: Any, client: Client) -> None:
    def count() -> dict[tuple[str, str], float]:
        found = re.findall(
            r'sparsewalk_refusals_total\{model="(\w+)",reason="(\w+)",version="\w+"\} (\S+)', page(server.metrics_url)
        )
        return {(model, reason): float(number) for model, reason, number in found}

    before = count()
    for data, model in ((b"no picture", "red"), (b"x", "made up")):
        with pytest.raises(ServiceError):
            client.segment(data, model)
    with pytest.raises(ServiceError):
        client.encode(np.zeros(3, np.float32), "digits")
    after = count()
    grown = {key: number - before.get(key, 0) for key, number in after.items() if number != before.get(key, 0)}
    assert grown == {("red", "invalid_picture"): 1, ("unknown", "not_found"): 1, ("digits", "invalid_input"): 1}


def test_batches_tell_how_full_they_were(server: Any, client: Client) -> None:
    labels = {"model": "digits", "version": "1"}

    def figure(name: str) -> float:
        return value(page(server.metrics_url), name, **labels)

    names = ("sparsewalk_batch_fill_ratio_sum", "sparsewalk_batch_rows_sum")
    before = [figure(name) for name in names]
    client.encode(np.zeros((16, 784), np.float32), "digits")
    # Of 64 that there may be.
    assert [figure(name) - was for name, was in zip(names, before, strict=True)] == [0.25, 16]


def test_the_state_of_each_version_is_told(server: Any) -> None:
    text = page(server.metrics_url)
    for state, expected in (("READY", 1), ("LOADING", 0), ("UNLOADING", 0), ("UNAVAILABLE", 0)):
        assert f'sparsewalk_model_state{{model="red",state="{state}",version="2"}} {expected}.0' in text
    digits = {"model": "digits", "version": "1"}
    warm_up, load = (value(text, f"sparsewalk_model_{name}_seconds", **digits) for name in ("warm_up", "load"))
    assert 0 < warm_up < load


def test_servers_in_one_process_do_not_share_metrics() -> None:
    first, second = (Metrics(version="0", runtime_version="0") for _ in range(2))
    for metrics in (first, second):
        metrics.model("m", 1).observe(Timings(0, 0, 0, 0, 0))
        assert value(rendered(metrics), "sparsewalk_total_seconds_count", model="m", version="1") == 1


def test_only_one_module_knows_the_library() -> None:
    serving = Path(__file__).parents[2] / "serving"
    users = {path.name for path in serving.rglob("*.py") if "prometheus_client" in path.read_text()}
    assert users == {"metrics.py"}
