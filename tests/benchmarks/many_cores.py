"""What ``--workers``, ``--request-core`` and ``--engine-process`` bring on this machine, each beside one plain process.

Usage::

    python tests/benchmarks/many_cores.py --models models [--rounds 5] [--seconds 1.5] [--before FOLDER]

The servers stand side by side and are asked in turns, so that whatever else the machine does falls on all of them; the
figures are medians over the rounds. A bare synchronous grpcio handler around the same session stands among them. The
callers are processes of their own, each caller with a connection of its own, and take their part of the same cores.
``--before`` adds one process of another checkout.
"""

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import grpc
import numpy as np

from serving.pb.sparsewalk.v1 import encoder_pb2 as pb

CALLERS, CALLING_PROCESSES = 16, 2
BARE = "bare grpcio handler"
# Seconds of each request, and of all.
Counted = tuple[list[float], float]
# Requests per second, the server's computing seconds per request, and the median seconds of a request.
Measured = tuple[float, float, float]
WAYS = {
    "1 process": ["--workers", "1"],
    "1 process, request core": ["--request-core", "0"],
    "2 workers": ["--workers", "2"],
    "2 workers, request cores": ["--workers", "2", "--request-core", "0"],
    "engine, 1 front": ["--engine-process", "true"],
    "engine, 2 fronts": ["--engine-process", "true", "--workers", "2"],
}


@dataclass(frozen=True)
class Work:
    name: str
    method: str
    message: bytes
    callers: int


def works() -> list[Work]:
    noise = np.random.default_rng(0)
    picture = cv2.GaussianBlur(noise.integers(0, 256, (480, 640, 3), dtype=np.uint8), (0, 0), 5)
    jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
    row = noise.random((1, 784), dtype=np.float32)
    tensor = pb.Tensor(dtype=pb.DATA_TYPE_FP32, shape=row.shape, data=row.tobytes())
    encode = pb.EncodeRequest(model=pb.ModelSpec(name="mnist_k_sparse"), picture=pb.Picture(tensor=tensor))
    segment = pb.SegmentRequest(model=pb.ModelSpec(name="pedestrian_unet"), picture=pb.Picture(encoded=jpeg))
    return [
        Work("segment a JPEG of 640 x 480", "Segment", segment.SerializeToString(), CALLERS),
        Work("encode one digit", "Encode", encode.SerializeToString(), CALLERS),
        Work("encode one digit, four callers", "Encode", encode.SerializeToString(), 4),
        Work("encode one digit, one caller", "Encode", encode.SerializeToString(), 1),
    ]


def call(target: str, work: Work, callers: int, seconds: float, counts: "multiprocessing.Queue[Counted]") -> None:
    """A closed loop of so many callers, each with a connection of its own."""
    taken: list[float] = []
    began = threading.Barrier(callers + 1)

    def loop() -> None:
        with grpc.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            ask = channel.unary_unary(f"/sparsewalk.v1.EncoderService/{work.method}")
            ask(work.message)
            began.wait()
            end = time.perf_counter() + seconds
            while (started := time.perf_counter()) < end:
                ask(work.message)
                taken.append(time.perf_counter() - started)

    threads = [threading.Thread(target=loop) for _ in range(callers)]
    for thread in threads:
        thread.start()
    began.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    counts.put((taken, time.perf_counter() - started))


def processes_of(pid: int) -> list[int]:
    children = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True, check=False)
    return [pid, *map(int, children.stdout.split())]


def computing(pids: list[int]) -> float:
    """Seconds that processes have computed."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def measure(target: str, pids: list[int], work: Work, seconds: float) -> Measured:
    """One turn of all callers."""
    spawn = multiprocessing.get_context("spawn")
    counts: multiprocessing.Queue[Counted] = spawn.Queue()
    share = max(1, work.callers // CALLING_PROCESSES)
    callers = [
        spawn.Process(target=call, args=(target, work, share, seconds, counts))
        for _ in range(min(CALLING_PROCESSES, work.callers))
    ]
    before = computing(pids)
    for caller in callers:
        caller.start()
    counted = [counts.get() for _ in callers]
    for caller in callers:
        caller.join()
    taken = [each for own, _ in counted for each in own]
    rate = sum(len(own) / elapsed for own, elapsed in counted)
    return rate, (computing(pids) - before) / (len(taken) + work.callers), statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models"), help="has mnist_k_sparse and pedestrian_unet")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--before", type=Path, help="another checkout, of which one process is asked too")
    arguments = parser.parse_args()
    models = str(arguments.models.absolute())
    plain = ["-m", "serving", "--model-repository", models, "--provider", "cpu", "--grpc-port", "0"]
    plain += ["--metrics-port", "0", "--log-level", "warning"]
    commands = {name: (plain + flags, Path.cwd()) for name, flags in WAYS.items()}
    if arguments.before:
        commands = {"1 process": commands.pop("1 process"), "before": (plain, arguments.before), **commands}
    commands[BARE] = ([str(Path(__file__).parent / "serving" / "systems.py"), "bare", models], Path.cwd())
    servers = {}
    for name, (command, folder) in commands.items():
        process = subprocess.Popen(
            # the bare handler stops when its input ends
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        servers[name] = (process, line.split()[1].removeprefix("grpc="), processes_of(process.pid))
    results: dict[tuple[str, str], list[Measured]] = {}
    try:
        for _ in range(arguments.rounds):
            for work in works():
                for name, (_, target, pids) in servers.items():
                    if name == BARE and work.method != "Encode":
                        continue
                    results.setdefault((work.name, name), []).append(measure(target, pids, work, arguments.seconds))
    finally:
        for process, _, _ in servers.values():
            process.terminate()
            process.wait()
    print(f"{os.cpu_count()} cores, {CALLERS} callers on as many connections, medians of {arguments.rounds} rounds")
    for work in works():
        print(f"\n{work.name}")
        print(
            f"{'':25} {'requests/s':>10} {'ratio':>6} {'spread':>13} {'/ bare':>7} {'server ms':>10} {'median ms':>10}"
        )
        for name in servers:
            if (work.name, name) not in results:
                continue
            rounds = results[work.name, name]
            rate, cost, latency = (statistics.median(column) for column in zip(*rounds, strict=True))
            ratios = beside(rounds, results[work.name, "1 process"])
            bare = results.get((work.name, BARE))
            to_bare = f"{statistics.median(beside(rounds, bare)):7.2f}" if bare else f"{'':7}"
            print(
                f"{name:25} {rate:10.0f} {statistics.median(ratios):6.2f} {ratios[0]:6.2f}-{ratios[-1]:.2f}"
                f" {to_bare} {cost * 1e3:10.2f} {latency * 1e3:10.2f}"
            )


def beside(rounds: list[Measured], others: list[Measured]) -> list[float]:
    """The ratios of requests per second, each round beside the other's of the same round, the smallest first."""
    return sorted(one[0] / other[0] for one, other in zip(rounds, others, strict=True))


if __name__ == "__main__":
    main()
