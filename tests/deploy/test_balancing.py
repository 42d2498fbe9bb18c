"""What the headless Service is for: one name, several pods, requests to each of them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serving.client import Client
from tests.serving.conftest import RunningServer, launch, write_model
from tests.serving.test_metrics import page, value

ROW = np.zeros((1, 784), np.float32)


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[list[RunningServer]]:
    write_model(tmp_path, "digits")
    running = [launch(tmp_path) for _ in range(2)]
    yield running
    for each in running:
        if each.process.poll() is None:
            each.process.kill()
        each.process.communicate()


def test_requests_go_to_each_pod_and_a_pod_that_goes_costs_none(pods: list[RunningServer]) -> None:
    name = "ipv4:" + ",".join(pod.target for pod in pods)
    with Client(name) as client:
        for _ in range(40):
            client.encode(ROW, "digits")
        counts = [answered(pod) for pod in pods]
        assert sum(counts) == 40
        assert min(counts) >= 10
        assert pods[0].stop()[0] == 0
        for _ in range(20):
            client.encode(ROW, "digits")
        assert answered(pods[1]) == counts[1] + 20


def answered(pod: RunningServer) -> int:
    labels = {"model": "digits", "version": "1", "method": "Encode", "code": "OK"}
    return int(value(page(pod.metrics_url), "sparsewalk_requests_total", **labels))
