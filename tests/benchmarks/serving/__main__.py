"""Our server beside raw ONNX Runtime and a bare synchronous grpcio handler, over each protocol and the stream.

``python tests/benchmarks/serving --models models`` prints a table; ``--json`` and ``--plot`` write files.

Every system runs in a process of its own and stays up. The measurements take turns: each round asks every system at
each number of callers for a while, so that what else the machine does falls on all of them. Shown are medians over the
rounds, with the smallest and largest. The callers are one more process on the same cores, whose work is part of the
latency and of the throughput, but not of the CPU time, which is that of the measured process alone.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import limits
import numpy as np
import onnxruntime
import report
import scenarios

from serving.pb.open_inference import grpc_service_pb2 as oip
from serving.pb.open_inference import grpc_service_pb2_grpc as oip_grpc

HERE = Path(__file__).parent


@dataclass
class Peer:
    """A process that is measured."""

    process: subprocess.Popen[str]
    target: str = ""

    def cpu_seconds(self) -> float:
        """What it has used so far, user and system, all threads."""
        return time.clock_gettime(~self.process.pid << 3 | 2)


@dataclass
class Bench:
    """The processes: what is measured, and who asks."""

    raw: Peer
    bare: Peer
    server: Peer
    load: subprocess.Popen[str]

    def measure(self, scenario: scenarios.Scenario, system: str, callers: int, seconds: float) -> dict[str, float]:
        """One turn."""
        peer = {scenarios.RAW: self.raw, scenarios.BARE: self.bare}.get(system, self.server)
        before, started = peer.cpu_seconds(), time.perf_counter()
        if system == scenarios.RAW:
            told = _ask(self.raw.process, {"scenario": scenario.name, "callers": callers, "seconds": seconds})
            latencies = told
        else:
            ask = scenario.asks[system]
            command = {"target": peer.target, "method": ask.method, "stream": ask.stream, "callers": callers}
            command |= {"request": base64.b64encode(ask.request).decode(), "seconds": seconds}
            told = _ask(self.load, command)
            latencies = told["latencies"]
            scenario.check(system, base64.b64decode(told["answer"]))
        elapsed, used = time.perf_counter() - started, peer.cpu_seconds() - before
        return {
            "rows_per_second": len(latencies) * scenario.rows / elapsed,
            "p50_seconds": float(np.percentile(latencies, 50)),
            "p99_seconds": float(np.percentile(latencies, 99)),
            "cpu_seconds": used / len(latencies),
        }


def _ask(process: subprocess.Popen[str], command: dict[str, Any]) -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(command) + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def _spawn(*command: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline()


def start(models: Path, rows: list[int], flags: list[str]) -> Bench:
    """Starts everything and waits until it is ready."""
    raw, _ = _spawn(str(HERE / "systems.py"), "raw", str(models), "--rows", *map(str, rows))
    bare, ready = _spawn(str(HERE / "systems.py"), "bare", str(models))
    server, line = _spawn(*limits.COMMAND, "--model-repository", str(models), *flags)
    load = subprocess.Popen(
        [sys.executable, str(HERE / "load.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    target = line.split("grpc=")[1].split()[0]
    return Bench(Peer(raw), Peer(bare, ready.split()[1]), Peer(server, target), load)


def main() -> None:
    """Measures and tells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models"), help="has mnist_k_sparse and pedestrian_unet")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.7, help="of one turn")
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument(
        "--rows",
        type=int,
        nargs="+",
        default=[1, 64],
        help="in one request for an encoding; more than 64 need --server-flags=--max-batch-size=ROWS",
    )
    parser.add_argument("--scenario", default="", help="only those whose name holds this")
    parser.add_argument("--server-flags", default="", help="more flags of our server, in one string")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--no-limits", action="store_true", help="leave out start, memory and refusal")
    arguments = parser.parse_args()
    memory = scenarios.Memory(16 * 2**20)
    built = scenarios.build(arguments.models, 0, arguments.rows, memory)
    chosen = [each for each in built if arguments.scenario in each.name]
    bench = start(arguments.models, arguments.rows, ["--system-shared-memory=true", *arguments.server_flags.split()])
    with grpc.insecure_channel(bench.server.target) as channel:
        oip_grpc.GRPCInferenceServiceStub(channel).SystemSharedMemoryRegister(
            oip.SystemSharedMemoryRegisterRequest(name=memory.region, key=memory.key, byte_size=memory.size), timeout=10
        )
    cells = [
        (scenario, system, callers)
        for scenario in chosen
        for system in scenarios.SYSTEMS
        for callers in arguments.callers
        if system == scenarios.RAW or system in scenario.asks
    ]
    found: dict[tuple[str, str, int], list[dict[str, float]]] = {}
    order = random.Random(0)
    try:
        for scenario, system, callers in cells:
            bench.measure(scenario, system, callers, 0.1)
        for _ in range(arguments.rounds):
            order.shuffle(cells)
            for scenario, system, callers in cells:
                turn = bench.measure(scenario, system, callers, arguments.seconds)
                found.setdefault((scenario.name, system, callers), []).append(turn)
    finally:
        for process in (bench.raw.process, bench.bare.process, bench.server.process, bench.load):
            process.terminate()
            process.wait()
        memory.close()
    result = report.summarise(found, [each.name for each in chosen], arguments.callers)
    result["command"] = f"python tests/benchmarks/serving {' '.join(sys.argv[1:])}".strip()
    result["machine"] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.system(),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "grpcio": grpc.__version__,
    }
    if not arguments.no_limits:
        result["limits"] = limits.measure(arguments.models)
    print(report.table(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.plot:
        report.plot(result, arguments.plot)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
