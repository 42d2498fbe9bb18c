"""The callers: a closed loop, in a process of its own. Requests are bytes, so that what is measured is the server.

Each caller is a thread with a blocking call. Through a stream the callers are the requests under way on one stream.
Commands come on stdin, one JSON a line; the latencies in seconds, and the last answer in base64, go to stdout.
"""

from __future__ import annotations

import base64
import json
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import grpc

_OPTIONS = [("grpc.max_receive_message_length", 2**26), ("grpc.max_send_message_length", 2**26)]
_TIMEOUT = 60.0


def unary(call: Any, request: bytes, callers: int, seconds: float) -> tuple[list[float], bytes]:
    """Each caller asks again as soon as it has its answer."""
    latencies: list[list[float]] = [[] for _ in range(callers)]
    answers: list[bytes] = []
    end = time.perf_counter() + seconds

    def ask(own: list[float]) -> None:
        answer, before = b"", time.perf_counter()
        while before < end:
            answer = call(request, timeout=_TIMEOUT)
            after = time.perf_counter()
            own.append(after - before)
            before = after
        answers.append(answer)

    threads = [threading.Thread(target=ask, args=(own,)) for own in latencies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [each for own in latencies for each in own], answers[-1]


def stream(call: Any, request: bytes, callers: int, seconds: float) -> tuple[list[float], bytes]:
    """One stream with as many requests under way as there are callers."""
    latencies: list[float] = []
    sent: deque[float] = deque()
    free = threading.Semaphore(callers)
    end = time.perf_counter() + seconds

    def requests() -> Iterator[bytes]:
        while True:
            free.acquire()
            before = time.perf_counter()
            if before >= end:
                return
            sent.append(before)
            yield request

    last: deque[bytes] = deque(maxlen=1)
    for answer in call(requests(), timeout=_TIMEOUT):
        latencies.append(time.perf_counter() - sent.popleft())
        last.append(answer)
        free.release()
    return latencies, last[0]


def main() -> None:
    """Serves commands until stdin ends."""
    channels: dict[str, grpc.Channel] = {}
    for line in sys.stdin:
        command = json.loads(line)
        target, method = command["target"], command["method"]
        channel = channels.setdefault(target, grpc.insecure_channel(target, _OPTIONS))
        call = (channel.stream_stream if command["stream"] else channel.unary_unary)(method)
        work = stream if command["stream"] else unary
        request = base64.b64decode(command["request"])
        latencies, answer = work(call, request, command["callers"], command["seconds"])
        print(json.dumps({"latencies": latencies, "answer": base64.b64encode(answer).decode()}), flush=True)


if __name__ == "__main__":
    main()
