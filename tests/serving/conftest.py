"""Tiny models whose answers are known exactly, and real server processes that serve them.

``red``        segmentation, letterbox to 32 x 64 with multiples of 32; mask = red / 255
``red_fixed``  segmentation, stretch to 16 x 16, fixed size; mask = red / 255, encoding = mean of each channel / 255
``digits``     mnist; encoding = [sum of the row, first pixel, last pixel, 1 - first pixel], reconstruction = 1 - row
``halves``     mnist; encoding = the first four pixels, reconstruction = the encoding repeated 196 times
``slow``       mnist; like digits, but a run takes a good part of a second
"""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving.client import Client

GOLDEN = Path(__file__).parents[1] / "contract" / "manifest.golden.json"

_READY = re.compile(r"^ready grpc=(\S+) metrics=(\S+) models=(\S+)$")


def _model(nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: dict[str, np.ndarray]) -> bytes:
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "test", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def segmentation_onnx(size: tuple[int | str, int | str], with_encoding: bool) -> bytes:
    height, width = size
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["floats", "white"], ["scaled"]),
        helper.make_node("Slice", ["scaled", "zero", "one", "last"], ["mask"]),
    ]
    outputs = [helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["n", height, width, 1])]
    constants = {
        "white": np.float32(255.0),
        "zero": np.array([0]),
        "one": np.array([1]),
        "last": np.array([3]),
    }
    if with_encoding:
        nodes.append(helper.make_node("ReduceMean", ["scaled", "plane"], ["encoding"], keepdims=0))
        outputs.append(helper.make_tensor_value_info("encoding", TensorProto.FLOAT, ["n", 3]))
        constants["plane"] = np.array([1, 2])
    inputs = [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", height, width, 3])]
    return _model(nodes, inputs, outputs, {name: np.asarray(array) for name, array in constants.items()})


def mnist_onnx(rounds: int = 0) -> bytes:
    """``rounds`` products with a large identity matrix come first: they change nothing and take time."""
    weights = np.zeros((784, 4), np.float32)
    weights[:, 0], weights[0, 1], weights[783, 2], weights[0, 3] = 1, 1, 1, -1
    constants = {"weights": weights, "bias": np.array([0, 0, 0, 1], np.float32), "one": np.float32(1)}
    nodes, row = [], "image"
    if rounds:
        body = helper.make_graph(
            [
                helper.make_node("MatMul", ["carried", "identity"], ["product"]),
                helper.make_node("Identity", ["again"], ["still"]),
            ],
            "body",
            [
                helper.make_tensor_value_info("i", TensorProto.INT64, []),
                helper.make_tensor_value_info("again", TensorProto.BOOL, []),
                helper.make_tensor_value_info("carried", TensorProto.FLOAT, ["n", 784]),
            ],
            [
                helper.make_tensor_value_info("still", TensorProto.BOOL, []),
                helper.make_tensor_value_info("product", TensorProto.FLOAT, ["n", 784]),
            ],
        )
        constants |= {"identity": np.eye(784, dtype=np.float32), "rounds": np.array(rounds), "yes": np.array(True)}
        nodes.append(helper.make_node("Loop", ["rounds", "yes", "image"], ["row"], body=body))
        row = "row"
    nodes += [
        helper.make_node("MatMul", [row, "weights"], ["product_"]),
        helper.make_node("Add", ["product_", "bias"], ["encoding"]),
        helper.make_node("Sub", ["one", row], ["reconstruction"]),
    ]
    return _model(
        nodes,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 784])],
        [
            helper.make_tensor_value_info("encoding", TensorProto.FLOAT, ["n", 4]),
            helper.make_tensor_value_info("reconstruction", TensorProto.FLOAT, ["n", 784]),
        ],
        {name: np.asarray(array) for name, array in constants.items()},
    )


def halves_onnx() -> bytes:
    """A model whose decoder follows from the encoding alone, so that it can be cut there."""
    spread = np.tile(np.eye(4, dtype=np.float32), 196)
    return _model(
        [
            helper.make_node("MatMul", ["image", "first"], ["code"]),
            helper.make_node("Identity", ["code"], ["encoding"]),
            helper.make_node("MatMul", ["code", "spread"], ["reconstruction"]),
        ],
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 784])],
        [
            helper.make_tensor_value_info("encoding", TensorProto.FLOAT, ["n", 4]),
            helper.make_tensor_value_info("reconstruction", TensorProto.FLOAT, ["n", 784]),
        ],
        {"first": np.eye(784, 4, dtype=np.float32), "spread": spread},
    )


def tensor_spec(
    name: str, dtype: str, shape: list[int], axes: list[str], high: float | None = 1.0, order: str | None = None
) -> dict[str, Any]:
    value_range = None if high is None else [0.0, high]
    return {
        "name": name,
        "dtype": dtype,
        "shape": shape,
        "axes": axes,
        "value_range": value_range,
        "channel_order": order,
    }


_PLANE = ["batch", "height", "width", "channel"]
_ENCODING = ["batch", "latent"]


def manifest(name: str, version: int, model: bytes) -> dict[str, Any]:
    """The golden manifest, changed to fit one of the test models."""
    told = json.loads(GOLDEN.read_text())
    told |= {"name": name, "version": version, "onnx_sha256": hashlib.sha256(model).hexdigest()}
    if name == "red":
        told["resizing"] |= {"height": 32, "width": 64}
    elif name == "red_fixed":
        told["resizing"] = {"rule": "stretch", "height": 16, "width": 16, "multiple_of": 1, "pad_value": 0}
        told["inputs"] = [tensor_spec("image", "UINT8", [-1, 16, 16, 3], _PLANE, 255.0, "RGB")]
        told["outputs"] = [
            tensor_spec("mask", "FP32", [-1, 16, 16, 1], _PLANE),
            tensor_spec("encoding", "FP32", [-1, 3], _ENCODING, None),
        ]
    else:
        told |= {"family": "mnist", "default_threshold": None}
        told["resizing"] = {"rule": "stretch", "height": 28, "width": 28, "multiple_of": 1, "pad_value": 0}
        told["inputs"] = [tensor_spec("image", "FP32", [-1, 784], ["batch", "pixel"], 1.0, "GRAY")]
        told["outputs"] = [
            tensor_spec("encoding", "FP32", [-1, 4], _ENCODING, None),
            tensor_spec("reconstruction", "FP32", [-1, 784], ["batch", "pixel"]),
        ]
    return told


def onnx_of(name: str) -> bytes:
    builders: dict[str, Callable[[], bytes]] = {
        "red": lambda: segmentation_onnx(("h", "w"), with_encoding=False),
        "red_fixed": lambda: segmentation_onnx((16, 16), with_encoding=True),
        "digits": mnist_onnx,
        "halves": halves_onnx,
        "slow": lambda: mnist_onnx(rounds=1500),
    }
    return builders[name]()


def write_model(root: Path, name: str, version: int = 1, **changes: Any) -> Path:
    """Writes one version folder; ``changes`` overwrite fields of its manifest. Returns the folder."""
    model = onnx_of(name)
    folder = root / name / str(version)
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model)
    (folder / "manifest.json").write_text(json.dumps(manifest(name, version, model) | changes))
    return folder


@dataclass
class RunningServer:
    process: subprocess.Popen[str]
    target: str
    metrics_url: str
    models: str
    ready_seconds: float

    @property
    def port(self) -> int:
        return int(self.target.rpartition(":")[2])

    def stop(self) -> tuple[int, str]:
        """SIGTERM; returns exit code and stderr."""
        self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=30)
        return self.process.returncode, errors


def command(root: Path, *flags: str) -> list[str]:
    ports = [] if "--grpc-port" in flags else ["--grpc-port", "0"]
    ports += [] if "--metrics-port" in flags else ["--metrics-port", "0"]
    return [sys.executable, "-m", "serving", "--model-repository", str(root), "--provider", "cpu", *ports, *flags]


def environment() -> dict[str, str]:
    """That of this process, less our own variables."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SPARSEWALK_")}


def launch(root: Path, *flags: str, **variables: str) -> RunningServer:
    """Starts a server with such flags, and environment variables beside those of this process."""
    started = time.monotonic()
    process = subprocess.Popen(
        command(root, *flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment() | variables,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    seconds = time.monotonic() - started
    match = _READY.match(line.strip())
    if match is None:
        process.kill()
        raise AssertionError(f"no ready line but {line!r}; stderr: {process.communicate()[1]}")
    return RunningServer(process, match[1], match[2], match[3], seconds)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with ``red`` versions 1 and 2, ``red_fixed`` and ``digits``."""
    root = tmp_path_factory.mktemp("models")
    write_model(root, "red", 1)
    write_model(root, "red", 2, default_threshold=0.25)
    write_model(root, "red_fixed")
    write_model(root, "digits", scores={"probe_error": 0.03})
    (root / ".tmp-red-3").mkdir()
    (root / "red" / ".tmp-3").mkdir()
    return root


@pytest.fixture(scope="session")
def server(models: Path) -> Iterator[RunningServer]:
    """One server for all tests that leave it as it was."""
    running = launch(models, "--max-pixels", "1000000", "--max-message-bytes", str(4 * 2**20))
    yield running
    code, errors = running.stop()
    assert code == 0, errors


@pytest.fixture
def start(models: Path) -> Iterator[Callable[..., RunningServer]]:
    """Starts servers of one's own; those that still run at the end are killed."""
    running: list[RunningServer] = []

    def start_one(root: Path | None = None, *flags: str) -> RunningServer:
        running.append(launch(root or models, *flags))
        return running[-1]

    yield start_one
    for each in running:
        if each.process.poll() is None:
            each.process.kill()
        each.process.communicate()


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.target) as connected:
        yield connected


@pytest.fixture(scope="session")
def build() -> Callable[..., Path]:
    """``build(root, name, version=1, **manifest_changes)`` writes one version folder."""
    return write_model


@pytest.fixture(scope="session", name="launch")
def launch_fixture() -> Callable[..., RunningServer]:
    """Starts a server, for fixtures of a wider scope than a test's; they stop it."""
    return launch


@pytest.fixture(scope="session")
def fail_to_start() -> Callable[..., tuple[int, str, str]]:
    """Runs a server that should not start: exit code, stdout, stderr."""

    def run(root: Path, *flags: str) -> tuple[int, str, str]:
        done = subprocess.run(command(root, *flags), capture_output=True, text=True, timeout=30, env=environment())
        return done.returncode, done.stdout, done.stderr

    return run
