"""A page over HTTP or HTTPS, on threads of its own: for ``/metrics``.

The Prometheus client can serve its page with TLS too, but does the handshake where connections are accepted, so that
one client who connects and says nothing keeps all others out, and reads the certificate but once.
"""

import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

Application = Callable[..., Iterable[bytes]]

# For a handshake and a request of a few lines; who takes longer is let go.
_PATIENCE_SECONDS = 10.0


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  # the library's name
        """Nothing: whoever scrapes comes every few seconds."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, host: str, port: int, context: Callable[[], ssl.SSLContext] | None) -> None:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        self.address_family = family
        self._context = context
        super().__init__((str(address[0]), port), _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answers one request, on its own thread: the handshake comes first."""
        request.settimeout(_PATIENCE_SECONDS)
        try:
            if self._context is not None:
                request = self._context().wrap_socket(request, server_side=True)
            super().finish_request(request, client_address)
        except OSError:
            pass  # broken off, too slow, or not the TLS that is asked for: that is the client's business
        finally:
            # The one that TLS has taken over; what it was made of closes with it.
            self.shutdown_request(request)


def serve(
    application: Application, host: str, port: int, context: Callable[[], ssl.SSLContext] | None = None
) -> WSGIServer:
    """Serves a WSGI application until ``shutdown`` and ``server_close``.

    Args:
        application: what to serve.
        host: address to listen on.
        port: 0 takes any free one; the server returned says which (``server_port``).
        context: asked for the certificates of each connection; None: no TLS.

    Raises:
        OSError: the port is taken, or not ours to bind.
    """
    server = _Server(host, port, context)
    server.set_app(application)
    threading.Thread(target=server.serve_forever, name="page", daemon=True).start()
    return server
