"""Ways to ask a service of several processes, and to look at it from outside."""

import re
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from serving.pb.open_inference import grpc_service_pb2 as pb
from serving.pb.open_inference import grpc_service_pb2_grpc as pb_grpc

ROW = np.linspace(0, 1, 784, dtype=np.float32)[np.newaxis]


@contextmanager
def connect(target: str) -> Iterator[pb_grpc.GRPCInferenceServiceStub]:
    """A connection of its own, which is some worker's."""
    with grpc.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield pb_grpc.GRPCInferenceServiceStub(channel)


def infer(stub: pb_grpc.GRPCInferenceServiceStub, row: np.ndarray = ROW, model: str = "digits") -> np.ndarray:
    request = pb.ModelInferRequest(model_name=model, raw_input_contents=[row.tobytes()])
    request.inputs.add(name="image", datatype="FP32", shape=row.shape)
    request.outputs.add(name="encoding")
    answer = stub.ModelInfer(request, timeout=20)
    return np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(answer.outputs[0].shape)


def children(pid: int) -> dict[str, int]:
    """Seat -> process, of the supervisor's children."""
    listed = subprocess.run(
        ["ps", "--ppid", str(pid), "-o", "pid=,args="], capture_output=True, text=True, check=False
    ).stdout
    found = re.findall(r"^\s*(\d+) .*serving\.processes\.child (\w+ \d+)", listed, re.MULTILINE)
    return {seat: int(number) for number, seat in found}


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "did not come about in time"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def page(running: Any) -> str:
    with urllib.request.urlopen(running.metrics_url, timeout=10) as response:
        return str(response.read().decode())


def value(text: str, name: str, **labels: str) -> float:
    told = ",".join(f'{key}="{each}"' for key, each in sorted(labels.items()))
    match = re.search(rf"^{re.escape(name + ('{' + told + '}' if told else ''))} (\S+)$", text, re.MULTILINE)
    return float(match[1]) if match else 0.0


def answered(text: str) -> float:
    return value(text, "sparsewalk_requests_total", model="digits", version="1", method="ModelInfer", code="OK")
