"""``python tests/serving/fuzz``: sends messages that no client would send, to every method of a real server.

Each gets a status in time: an answer, or a refusal that is the caller's fault. Anything else is a finding: a server
that ends, hangs or grows, an exception of ours that reaches the caller as UNKNOWN, an internal error, a traceback in
the log. The same seed sends the same messages, whose findings are printed with what sends them again.
"""

import argparse
import json
import re
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import grpc

sys.path.insert(0, str(Path(__file__).parents[3]))

from serving.pb.open_inference import grpc_service_pb2 as oip
from tests.serving.conftest import launch, write_model
from tests.serving.fuzz.messages import KEY, MODELS, REGION, REGION_BYTES, Fuzzer, Method

_SECONDS = 20.0
# The caller's own patience with answers that never end.
_GLIMPSE = 0.05
# What an answer may be: a refusal is the caller's fault.
_DESERVED = {
    "OK",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "FAILED_PRECONDITION",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "UNIMPLEMENTED",
}
_THREADS = 8
_ENOUGH = 20
_GROWTH_MEBIBYTES = 64.0


@dataclass
class Result:
    """What came of it."""

    seed: int
    sent: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    mebibytes: list[float] = field(default_factory=list)


def run(root: Path, count: int, seed: int) -> Result:
    """Sends ``count`` messages to a server of its own.

    Args:
        root: an empty folder for the models.
        count: messages, each of a stream counted.
        seed: of the messages.
    """
    for name in MODELS:
        write_model(root, name)
    flags = ("--log-level", "warning", "--max-message-bytes", str(4 * 2**20), "--system-shared-memory", "true")
    memory = SharedMemory(KEY, create=True, size=REGION_BYTES)
    # Each of a server's many threads may have an arena of its own, which keeps some of a large picture's memory for its
    # next one: with as many as glibc likes, that looks like a leak for a hundred thousand messages.
    running = launch(root, *flags, MALLOC_ARENA_MAX="2")
    result, started = Result(seed), time.monotonic()
    try:
        with grpc.insecure_channel(running.target) as channel, ThreadPoolExecutor(_THREADS) as pool:
            fuzzer = Fuzzer(seed)
            _restore(channel, result)
            while result.sent < count:
                drawn = [fuzzer.draw() for _ in range(200)]
                for (method, messages), (status, complaint) in zip(
                    drawn, pool.map(lambda each: _send(channel, *each), drawn), strict=True
                ):
                    result.sent += len(messages)
                    result.statuses[status] += 1
                    if complaint:
                        sent = " ".join(message.hex()[:400] for message in messages)
                        result.findings.append(f"{method.path}: {status}: {complaint}; sent {sent}")
                _restore(channel, result)
                # A server that hangs answers nothing any more, each time after all of a caller's patience.
                if running.process.poll() is not None or len(result.findings) > _ENOUGH:
                    break
                result.mebibytes.append(_resident(running.process.pid))
        code, errors = running.stop()
        if code != 0:
            result.findings.append(f"the server ended with {code}")
        if "Traceback" in errors:
            result.findings.append(f"the log has a traceback: {errors[errors.index('Traceback') - 300 :][:3000]}")
    finally:
        running.process.kill()
        memory.close()
        memory.unlink()
    # Over the first fifth caches fill and arenas grow.
    steady = result.mebibytes[len(result.mebibytes) // 5 :]
    if steady and steady[-1] - steady[0] > _GROWTH_MEBIBYTES:
        result.findings.append(f"the server grew from {steady[0]:.0f} to {steady[-1]:.0f} MiB")
    result.seconds = time.monotonic() - started
    return result


def _send(channel: grpc.Channel, method: Method, messages: list[bytes]) -> tuple[str, str]:
    """Sends and waits; returns the status, and what is wrong with it if anything is."""
    patience = _GLIMPSE if method.endless else _SECONDS
    started = time.monotonic()
    try:
        if method.client_streams:
            for _ in channel.stream_stream(method.path)(iter(messages), timeout=patience):
                pass
        elif method.server_streams:
            for _ in channel.unary_stream(method.path)(messages[0], timeout=patience):
                pass
        else:
            channel.unary_unary(method.path)(messages[0], timeout=patience)
    except grpc.RpcError as error:
        return error.code().name, _judge(method, error, time.monotonic() - started)
    return "OK", ""


def _judge(method: Method, error: Any, seconds: float) -> str:
    status, told = error.code().name, error.details() or ""
    if status in _DESERVED:
        return ""
    # A deadline that the message itself set, or that of somebody who watches what never ends.
    if status == "DEADLINE_EXCEEDED" and (method.endless or seconds < _SECONDS / 2):
        return ""
    # The model went away while the message was under way; it is put back below.
    if status == "UNAVAILABLE" and "is shutting down" in told:
        return ""
    return f"{told} after {seconds:.1f} s"


def _restore(channel: grpc.Channel, result: Result) -> None:
    """Puts back what a message may have taken away: models, and the region of shared memory."""
    load = channel.unary_unary("/inference.GRPCInferenceService/RepositoryModelLoad")
    for name in MODELS:
        try:
            load(oip.RepositoryModelLoadRequest(model_name=name).SerializeToString(), timeout=_SECONDS)
        except grpc.RpcError as error:
            result.findings.append(f"{name} cannot be loaded any more: {error.code().name}: {error.details()}")
    service = "/inference.GRPCInferenceService/SystemSharedMemory"
    channel.unary_unary(f"{service}Unregister")(b"", timeout=_SECONDS)
    region = oip.SystemSharedMemoryRegisterRequest(name=REGION, key=KEY, byte_size=REGION_BYTES)
    channel.unary_unary(f"{service}Register")(region.SerializeToString(), timeout=_SECONDS)


def _resident(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def main() -> int:
    """Sends, tells, and returns 1 when there is a finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder), arguments.messages, arguments.seed)
    print(f"seed {result.seed}: {result.sent} messages in {result.seconds:.0f} s")
    print(json.dumps(dict(result.statuses.most_common()), indent=2))
    told = ", ".join(f"{each:.0f}" for each in result.mebibytes[:: max(1, len(result.mebibytes) // 10)])
    print(f"resident MiB over time: {told}")
    for finding in result.findings:
        print(f"finding: {finding}")
    print(f"{len(result.findings)} findings")
    return bool(result.findings)


if __name__ == "__main__":
    sys.exit(main())
