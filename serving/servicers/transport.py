"""How connections to the gRPC server come about: TLS, how many, how long, and what is asked of them while idle."""

from typing import Any

import grpc

from serving.security import Certificates, Pems
from serving.settings import Settings

# Of gRPC's core, documented in its include/grpc/impl/channel_arg_names.h.
Options = list[tuple[str, Any]]


def options(settings: Settings) -> Options:
    """The limits of connections, as gRPC's core takes them."""
    found: Options = [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.max_concurrent_streams", settings.max_concurrent_streams),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _milliseconds(settings.min_ping_interval_seconds)),
        # Without this, pings on a connection without requests are too many however rare.
        ("grpc.keepalive_permit_without_calls", 1),
    ]
    if settings.keepalive_seconds:
        found += [
            ("grpc.keepalive_time_ms", _milliseconds(settings.keepalive_seconds)),
            # What ends a connection that does not answer. The core has grpc.keepalive_timeout_ms for that too, but does
            # not start its clock (1.85: chttp2/transport/writing.cc, keepalive_ping_timeout_handle).
            ("grpc.http2.ping_timeout_ms", _milliseconds(settings.keepalive_timeout_seconds)),
        ]
    if settings.max_connection_age_seconds:
        found += [
            ("grpc.max_connection_age_ms", _milliseconds(settings.max_connection_age_seconds)),
            ("grpc.max_connection_age_grace_ms", _milliseconds(settings.max_connection_age_grace_seconds)),
        ]
    return found


def listen(server: grpc.Server, address: str, certificates: Certificates | None) -> int:
    """Has a server listen, with TLS where there are certificates.

    Args:
        server: not yet started.
        address: ``host:port``; port 0 takes any free one.
        certificates: in force; new ones are taken from the next handshake on.

    Returns:
        The port.

    Raises:
        RuntimeError: the address cannot be listened on.
    """
    if certificates is None:
        return server.add_insecure_port(address)

    shown = certificates.pems

    def renew() -> grpc.ServerCertificateConfiguration | None:
        """Asked at every handshake; None: as before."""
        nonlocal shown
        if certificates.pems is shown:
            return None
        shown = certificates.pems
        return _configuration(shown)

    credentials = grpc.dynamic_ssl_server_credentials(
        _configuration(shown),
        renew,  # type: ignore[arg-type]  # the stubs do not know of None
        require_client_authentication=shown.client_ca is not None,
    )
    return server.add_secure_port(address, credentials)


def _configuration(pems: Pems) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pems.key, pems.chain)], root_certificates=pems.client_ca)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
