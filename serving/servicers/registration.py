"""Registering services so that bytes that are no message do not harm the server, and errors of ours get their status.

gRPC answers such bytes with INTERNAL and then loses the call (grpcio 1.85, ``_server.py``: whoever waits for the
request finds none and sends a second status, which is never sent): a thousand of them use up the streams that a
connection may have, and the server's stop waits for them for ever. So reading never fails here. A call with one request
is refused as any other whose input is at fault. Where requests are streamed, one that cannot be read counts as an empty
one, which the method refuses as it does any that asks for nothing, and the stream goes on.
"""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from serving.errors import InvalidInputError, RequestError

_UNREADABLE = object()

# Method, its context and the error: ends a call.
TurnAway = Callable[[str, grpc.ServicerContext, RequestError], NoReturn]


class Registrar:
    """Takes the place of a server for the functions that gRPC generates for adding services to one.

    Args:
        server: gets them.
        turn_away: ends a call whose request cannot be read, or for which a method raises ``RequestError``.
    """

    def __init__(self, server: grpc.Server, turn_away: TurnAway) -> None:
        self._server = server
        self._turn_away = turn_away

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Nothing: what comes with it, and is the same, comes by name below."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Adds the methods of a service."""
        sound = {name: self._sound(f"/{service}/{name}", handler) for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, sound),))
        self._server.add_registered_method_handlers(service, sound)

    def _sound(self, method: str, handler: Any) -> Any:
        read, write = handler.request_deserializer, handler.response_serializer
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._guarded(method, handler.stream_stream), _or_else(read, lambda: read(b"")), write
            )
        lenient = _or_else(read, lambda: _UNREADABLE)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(self._guarded(method, handler.unary_stream), lenient, write)
        return grpc.unary_unary_rpc_method_handler(self._guarded(method, handler.unary_unary), lenient, write)

    def _guarded(self, method: str, behaviour: Callable[..., Any]) -> Any:
        def answer(request: Any, context: grpc.ServicerContext, *send: Callable[[Any], None]) -> Any:
            try:
                if request is _UNREADABLE:
                    raise InvalidInputError("the bytes of the request are not its message")
                return behaviour(request, context, *send)
            except RequestError as error:
                self._turn_away(method, context, error)

        # How gRPC is told to pass what sends: see health.py.
        answer.experimental_non_blocking = getattr(  # type: ignore[attr-defined]
            behaviour, "experimental_non_blocking", False
        )
        return answer


def _or_else(read: Callable[[bytes], Any], otherwise: Callable[[], Any]) -> Callable[[bytes], Any]:
    def lenient(data: bytes) -> Any:
        try:
            return read(data)
        except DecodeError:
            return otherwise()

    return lenient
