"""Two workers on loopback train what one does; two replicas count what one does."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from tests.training.conftest import TINY
from training.distribution import DistributionError, make_strategy

SETTINGS = {**TINY["mnist_k_sparse"], "epochs": "2", "batch_size": "101"}


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def command(runs: Path, strategy: str) -> list[str]:
    settings = [f"--set={key}={value}" for key, value in SETTINGS.items()]
    options = ["--data=embedded", f"--runs={runs}", f"--strategy={strategy}"]
    return [sys.executable, "-m", "training", "train", "mnist_k_sparse", *options, *settings]


def weights(runs: Path) -> list[np.ndarray]:
    with np.load(runs / "mnist_k_sparse" / "weights.npz") as archive:
        return [archive[key] for key in archive.files]


def test_two_workers_end_with_the_weights_of_one(tmp_path: Path) -> None:
    subprocess.run(command(tmp_path / "one", "none"), capture_output=True, check=True)

    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    workers = [
        subprocess.Popen(
            command(tmp_path / "two", "multi_worker"),
            env={
                **os.environ,
                "TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    outputs = [worker.communicate(timeout=120) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs

    # the sums of gradients are added up in another order
    for one, two in zip(weights(tmp_path / "one"), weights(tmp_path / "two"), strict=True):
        np.testing.assert_allclose(one, two, atol=2e-4)
    # only the chief scores and writes
    assert "probe_error" in outputs[0][0]
    assert "probe_error" not in outputs[1][0]
    history = (tmp_path / "two" / "mnist_k_sparse" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in history] == [1, 2]


TWO_REPLICAS = """
import numpy as np, tensorflow as tf
from training.distribution import shares
from training.encoders.sparse_autoencoder import TopKAutoencoder

cpu, = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model = TopKAutoencoder(4, 3, 1)
# the first latent fires on an example of the first replica, the second on one of the second, the third on none
latents = tf.constant([[1.0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 2, 0], [0, 0, 0]])
for _ in range(2):
    parts, _ = shares(strategy, latents)
    strategy.run(tf.function(model.count_idle), args=(parts,))
    latents = tf.concat([latents[:3] * 0, latents[3:]], axis=0)
print(*model.idle.numpy())
"""


def test_idle_latents_are_counted_over_all_replicas() -> None:
    result = subprocess.run([sys.executable, "-c", TWO_REPLICAS], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["5", "0", "10"]


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(DistributionError, match=r"none, mirrored or multi_worker\. Received: 'tpu'"):
        make_strategy("tpu")


@pytest.mark.parametrize(
    "config",
    [
        "",
        "{",
        '{"cluster": {"worker": ["a:1"]}}',
        '{"cluster": {"worker": []}, "task": {"type": "worker", "index": 0}}',
    ],
)
def test_multi_worker_without_its_configuration_says_what_it_needs(
    config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(DistributionError, match=f"needs TF_CONFIG with 'cluster'.*Received: {re.escape(repr(config))}"):
        make_strategy("multi_worker")
