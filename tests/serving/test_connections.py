"""The limits of connections, kept by gRPC's core: a real server process and stock clients."""

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.client import Client
from serving.pb.sparsewalk.v1 import encoder_pb2, encoder_pb2_grpc

Start = Callable[..., Any]
Greet = Callable[[Any], socket.socket]
ROW = np.zeros((1, 784), np.float32)
# A client's HTTP/2 preface and its empty settings.
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
PING, GOAWAY = 6, 7


def frames(connection: socket.socket) -> Iterator[tuple[int, int, bytes]]:
    """Type, flags and payload of what an HTTP/2 server sends, until it closes."""
    data = b""
    while True:
        while len(data) < 9 or len(data) < 9 + int.from_bytes(data[:3]):
            try:
                more = connection.recv(65536)
            except ConnectionError:
                return
            if not more:
                return
            data += more
        length = int.from_bytes(data[:3])
        yield data[3], data[4], data[9 : 9 + length]
        data = data[9 + length :]


@pytest.fixture
def greet() -> Iterator[Callable[[Any], socket.socket]]:
    """Connects to a server as an HTTP/2 client does."""
    opened: list[socket.socket] = []

    def greet_one(running: Any) -> socket.socket:
        opened.append(socket.create_connection(("127.0.0.1", running.port), timeout=10))
        opened[-1].sendall(HELLO)
        return opened[-1]

    yield greet_one
    for each in opened:
        each.close()


def test_connections_are_bounded_and_make_room_again(start: Start, greet: Greet) -> None:
    running = start(None, "--max-connections", "3")
    first, second, third, fourth = (greet(running) for _ in range(4))
    assert [next(frames(each), None) is not None for each in (first, second, third)] == [True] * 3
    assert next(frames(fourth), None) is None
    for each in (first, second, third, fourth):
        each.close()
    with grpc.insecure_channel(running.target) as channel:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10, wait_for_ready=True)


def test_more_requests_than_streams_wait_at_their_sender(start: Start, tmp_path: Path, build: Any) -> None:
    """Nothing is refused: the client knows the limit from the connection's settings."""
    build(tmp_path, "slow")
    running = start(tmp_path, "--max-concurrent-streams", "2", "--max-in-flight", "2", "--max-batch-size", "1")
    with Client(running.target) as client, ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: client.encode(ROW, "slow"), range(6)))
    assert len(answers) == 6


def test_a_client_that_says_nothing_is_asked_and_then_let_go(start: Start, greet: Greet) -> None:
    running = start(None, "--keepalive-seconds", "0.5", "--keepalive-timeout-seconds", "0.5")
    told = [(kind, payload) for kind, _, payload in frames(greet(running))]
    assert [kind for kind, _ in told[-2:]] == [PING, GOAWAY]
    assert b"ping_timeout" in told[-1][1]


def test_a_client_that_asks_too_often_is_told_so(start: Start, greet: Greet) -> None:
    running = start(None, "--min-ping-interval-seconds", "60")
    connection = greet(running)
    ping = bytes([0, 0, 8, PING, 0, 0, 0, 0, 0]) + bytes(8)
    connection.sendall(ping * 10)
    goodbyes = [payload for kind, _, payload in frames(connection) if kind == GOAWAY]
    assert goodbyes
    assert b"too_many_pings" in goodbyes[0]


def local_ports(port: int) -> set[int]:
    """The ports of this machine that are connected to one of its ports."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/self/net", table).read_text().splitlines()[1:]:
            _, local, remote, *_ = line.split()
            if int(remote.rpartition(":")[2], 16) == port:
                found.add(int(local.rpartition(":")[2], 16))
    return found


def test_an_old_connection_is_replaced_without_a_failed_request(start: Start) -> None:
    """A stock client as it comes: each request is answered, over one connection after the other."""
    running = start(None, "--max-connection-age-seconds", "0.4", "--max-connection-age-grace-seconds", "10")
    seen: set[int] = set()
    end = time.monotonic() + 20
    with grpc.insecure_channel(running.target) as channel:
        stub = encoder_pb2_grpc.EncoderServiceStub(channel)  # type: ignore[no-untyped-call]
        while len(seen) < 4:
            assert time.monotonic() < end
            stub.ListModels(encoder_pb2.ListModelsRequest(), timeout=10)
            seen |= local_ports(running.port)


def test_a_request_outlives_its_connections_age(start: Start, tmp_path: Path, build: Any) -> None:
    build(tmp_path, "slow")
    running = start(tmp_path, "--max-connection-age-seconds", "0.2", "--max-batch-size", "1")
    with Client(running.target) as client, ThreadPoolExecutor(8) as pool:
        # The last of them waits for several times the age.
        assert len(list(pool.map(lambda _: client.encode(ROW, "slow"), range(8)))) == 8


@pytest.mark.parametrize("flag", ["--max-connections", "--max-concurrent-streams"])
def test_none_at_all_is_refused(flag: str, models: Path, fail_to_start: Callable[..., tuple[int, str, str]]) -> None:
    code, _, errors = fail_to_start(models, flag, "0")
    assert code == 2
    assert f"{flag}: Input should be greater than 0. Received: '0'" in errors
