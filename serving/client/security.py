"""How a client makes sure whom it talks to, and says who it is."""

import ssl
from pathlib import Path
from typing import Any

import grpc

from serving.errors import SecurityError
from serving.security import Watch, load_authorities, load_pair, read_tokens


class Security:
    """TLS and a token, for ``Client`` and ``AsyncClient``.

    Args:
        tls: whether to speak TLS; the next three imply it.
        ca: PEM file with the authorities that may vouch for the server; None: those that gRPC knows, the web's.
        certificate: PEM file with the client's own certificate chain, for servers that want one (mTLS).
        key: PEM file with its private key.
        server_name: the name in the server's certificate, where it is not that of the address: behind a forwarded port.
        token: bearer token. Without TLS it can be read on the way.
        token_file: file with it, in place of ``token``; the first one in it counts. Read anew when it changes.

    Raises:
        SecurityError: a file cannot be read or is not what it should be, or settings do not go together.
    """

    def __init__(
        self,
        *,
        tls: bool = False,
        ca: str | Path | None = None,
        certificate: str | Path | None = None,
        key: str | Path | None = None,
        server_name: str | None = None,
        token: str | None = None,
        token_file: str | Path | None = None,
    ) -> None:
        if (certificate is None) != (key is None):
            raise SecurityError("a client certificate and its key come together. Received: one without the other")
        if token is not None and token_file is not None:
            raise SecurityError("the token comes by itself or in a file. Received: both")
        self._ca = None if ca is None else Path(ca)
        self._pair = None if certificate is None or key is None else (Path(certificate), Path(key))
        self._server_name = server_name
        self._tls = tls or ca is not None or self._pair is not None
        # They say what is wrong with a file; gRPC would only say, later, that it cannot connect.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self._ca is not None:
            load_authorities(context, self._ca)
        if self._pair is not None:
            load_pair(context, *self._pair)
        self._token_file = None if token_file is None else Path(token_file)
        self._watch = Watch([self._token_file] if self._token_file else [])
        self._token = read_tokens(self._token_file)[0] if self._token_file else token

    def credentials(self) -> grpc.ChannelCredentials | None:
        """For a channel; None for one without TLS."""
        if not self._tls:
            return None
        return grpc.ssl_channel_credentials(
            root_certificates=self._ca.read_bytes() if self._ca else None,
            certificate_chain=self._pair[0].read_bytes() if self._pair else None,
            private_key=self._pair[1].read_bytes() if self._pair else None,
        )

    def options(self) -> list[tuple[str, Any]]:
        """For a channel."""
        return [("grpc.ssl_target_name_override", self._server_name)] if self._server_name else []

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes along with every request.

        Raises:
            SecurityError: the token file has changed and cannot be used.
        """
        if self._token_file and self._watch.changed():
            self._token = read_tokens(self._token_file)[0]
        return () if self._token is None else (("authorization", f"Bearer {self._token}"),)
