"""What is measured once for a server: start, memory, and how fast a full queue says no."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from serving.client import Client, ServiceError

COMMAND = ("-m", "serving", "--grpc-port", "0", "--metrics-port", "0", "--provider", "cpu", "--log-level", "warning")


def measure(models: Path, runs: int = 5) -> dict[str, Any]:
    """All of it; seconds and MiB."""
    starts, idle = [], []
    for _ in range(runs):
        process, _, seconds = _start(models)
        starts.append(seconds)
        idle.append(resident(process.pid))
        _stop(process)
    return {
        "start_seconds": _summary(starts),
        "idle_mebibytes": _summary(idle),
        "after_burst_mebibytes": burst(models),
        "refusal_seconds": refusals(models),
    }


def burst(models: Path) -> dict[str, float]:
    """Memory right after 16 callers sent 400 pictures of many sizes, and a few seconds later."""
    process, target, _ = _start(models)
    rng = np.random.default_rng(0)
    with Client(target) as client:

        def ask(number: int) -> None:
            for size in np.random.default_rng(number).integers(100, 1200, (25, 2)):
                client.segment(rng.integers(0, 256, (*size, 3), np.uint8))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        at_once = resident(process.pid)
        time.sleep(5)
        later = resident(process.pid)
    peak = _status(process.pid, "VmHWM")
    _stop(process)
    return {"peak": peak, "at once": at_once, "5 s later": later}


def refusals(models: Path) -> dict[str, Any]:
    """How long a caller waits for the refusal of a full queue, while the model is busy with large pictures."""
    process, target, _ = _start(models, "--max-queue-size", "1", "--max-batch-size", "1")
    large = np.zeros((1, 1024, 1024, 3), np.uint8)
    done = threading.Event()
    with Client(target) as client:

        def keep_busy() -> None:
            while not done.is_set():
                try:
                    client.segment(large[0])
                except ServiceError as error:
                    if error.code is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                        raise
                    time.sleep(0.01)

        busy = [threading.Thread(target=keep_busy) for _ in range(4)]
        for thread in busy:
            thread.start()
        time.sleep(0.3)
        refused, small = [], np.zeros((64, 64, 3), np.uint8)
        for _ in range(400):
            before = time.perf_counter()
            try:
                client.segment(small)
            except ServiceError as error:
                if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
                    refused.append(time.perf_counter() - before)
        done.set()
        for thread in busy:
            thread.join()
    _stop(process)
    return {**_summary(refused), "p99": float(np.percentile(refused, 99)), "count": len(refused)}


def resident(pid: int) -> float:
    """MiB of a process in memory now."""
    return _status(pid, "VmRSS")


def _status(pid: int, name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def _start(models: Path, *flags: str) -> tuple[subprocess.Popen[str], str, float]:
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *COMMAND, "--model-repository", str(models), *flags], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    return process, line.split("grpc=")[1].split()[0], time.perf_counter() - started


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    if process.wait(30):
        raise RuntimeError(f"the server ended with {process.returncode}")


def _summary(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}
