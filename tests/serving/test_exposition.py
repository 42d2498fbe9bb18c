"""The page behind /metrics: nobody keeps others out, and what is no TLS is let go without a word."""

import http.client
import socket
import ssl
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import trustme

from serving import exposition


def page(environ: Any, start_response: Callable[..., Any]) -> Iterable[bytes]:
    del environ
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"sparsewalk"]


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's, and one that trusts it."""
    ca = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    ca.issue_cert("127.0.0.1").configure_cert(server)
    ca.configure_trust(client)
    return server, client


@pytest.fixture(params=[False, True], ids=["http", "https"])
def served(
    request: Any, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> Iterator[tuple[str, ssl.SSLContext | None]]:
    secure: bool = request.param
    server = exposition.serve(page, "127.0.0.1", 0, (lambda: contexts[0]) if secure else None)
    yield f"http{'s' * secure}://127.0.0.1:{server.server_port}/", contexts[1] if secure else None
    server.shutdown()
    server.server_close()


def read(served: tuple[str, ssl.SSLContext | None]) -> bytes:
    url, context = served
    with urllib.request.urlopen(url, timeout=5, context=context) as answer:
        body: bytes = answer.read()
    return body


def test_it_is_served(served: tuple[str, ssl.SSLContext | None]) -> None:
    assert read(served) == b"sparsewalk"


def test_one_who_says_nothing_keeps_nobody_out(served: tuple[str, ssl.SSLContext | None]) -> None:
    port = int(served[0].rpartition(":")[2].strip("/"))
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
    assert read(served) == b"sparsewalk"
    for each in silent:
        each.close()


def test_what_is_not_asked_for_is_let_go_without_a_word(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], capfd: pytest.CaptureFixture[str]
) -> None:
    server = exposition.serve(page, "127.0.0.1", 0, lambda: contexts[0])
    with pytest.raises((http.client.BadStatusLine, ConnectionError)):
        plain = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=5)
        plain.request("GET", "/")
        plain.getresponse()
    plain.close()
    assert read((f"https://127.0.0.1:{server.server_port}/", contexts[1])) == b"sparsewalk"
    server.shutdown()
    server.server_close()
    assert capfd.readouterr() == ("", "")


def test_a_taken_port_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="Address already in use"):
        exposition.serve(page, "127.0.0.1", taken.getsockname()[1])
