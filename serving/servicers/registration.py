"""Registering services so that bytes that are no message do not harm the server.

gRPC answers them with INTERNAL, which suits a call with one request. Of a call with many it then sends the status
twice and may never see it end (grpcio 1.85, ``_server.py``: the reader of the requests aborts, and the handler, which
finds no more of them, ends normally): every such call would stay open, and the server's stop wait for it for ever. So
where requests are streamed, one that cannot be read counts as an empty one, which the method refuses as it does any
other that asks for nothing, and the stream goes on.
"""

from collections.abc import Callable, Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError


class Registrar:
    """Takes the place of a server for the functions that gRPC generates for adding services to one.

    Args:
        server: gets them.
    """

    def __init__(self, server: grpc.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Nothing: what comes with it, and is the same, comes by name below."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Adds the methods of a service."""
        sound = {name: _sound(handler) for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, sound),))
        self._server.add_registered_method_handlers(service, sound)


def _sound(handler: Any) -> Any:
    if not handler.request_streaming:
        return handler
    read = handler.request_deserializer
    return grpc.stream_stream_rpc_method_handler(handler.stream_stream, _or_empty(read), handler.response_serializer)


def _or_empty(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def lenient(data: bytes) -> Any:
        try:
            return read(data)
        except DecodeError:
            return read(b"")

    return lenient
