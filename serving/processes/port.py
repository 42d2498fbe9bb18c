"""The one gRPC port of several processes."""

import socket

from serving import assembly
from serving.errors import PortError


class SharedPort:
    """Holds a port without listening on it, so that those who share it can come and go, and nobody else can.

    Args:
        host: address to listen on.
        port: 0 takes any free one.

    Attributes:
        number: of the port.

    Raises:
        PortError: it is taken, or not ours to bind.
    """

    def __init__(self, host: str, port: int) -> None:
        try:
            family, kind, protocol, _, where = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            self._socket = socket.socket(family, kind, protocol)
            try:
                # As a server would, after one that ended a moment ago ...
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self._socket.bind(where)
                # ... but nobody else while we hold it, and ours only now: from the start, we would join strangers.
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            except OSError:
                self._socket.close()
                raise
        except OSError as error:
            raise PortError(
                f"--grpc-port: cannot listen on {assembly.address(host, port)}: {error.strerror}; is the port taken?"
            ) from error
        self.number: int = self._socket.getsockname()[1]

    def close(self) -> None:
        """Lets go of the port."""
        self._socket.close()
