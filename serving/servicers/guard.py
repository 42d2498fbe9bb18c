"""Lets in who has a token; everybody else is answered UNAUTHENTICATED before his message is read."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf import descriptor_pool

from serving.errors import RequestError, SecurityError, UnauthenticatedError
from serving.security import Tokens

# Generic in the stubs only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Continuation = Callable[[grpc.HandlerCallDetails], Handler]

_HEADER = "authorization"


class Guard(grpc.ServerInterceptor):
    """Asks every call for a token.

    Args:
        tokens: those that are let in.
        free: full names of services, or ``service/Method``, for which none is needed.
        services: full names of the server's services, which protobuf's default pool knows.
        refuse: ends a call of a method (``/service/Method``) with an error.

    Raises:
        SecurityError: ``free`` names something that is not there.
    """

    def __init__(
        self,
        tokens: Tokens,
        free: Sequence[str],
        services: Sequence[str],
        refuse: Callable[[str, grpc.ServicerContext, RequestError], NoReturn],
    ) -> None:
        for name in free:
            service, slash, method = name.partition("/")
            if service not in services:
                raise SecurityError(f"--token-free: the services are {', '.join(sorted(services))}. Received: {name!r}")
            methods = descriptor_pool.Default().FindServiceByName(service).methods_by_name
            if slash and method not in methods:
                raise SecurityError(
                    f"--token-free: the methods of {service} are {', '.join(sorted(methods))}. Received: {name!r}"
                )
        self._tokens = tokens
        self._free = frozenset(f"/{name}" for name in free)
        self._refuse = refuse

    def intercept_service(self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        """The method's handler, or one that refuses."""
        handler = continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method in self._free or method.rpartition("/")[0] in self._free:
            return handler
        sent = [value for key, value in handler_call_details.invocation_metadata or () if key == _HEADER]
        if len(sent) == 1 and self._tokens.admit(sent[0]):
            return handler
        error = UnauthenticatedError(
            "this server wants a token: send the metadata 'authorization: Bearer TOKEN'. Received:"
            f" {'one it does not know' if sent else 'none'}"
        )

        def refuse(requests: Iterator[Any], context: grpc.ServicerContext) -> NoReturn:
            del requests  # whatever was sent stays unread
            self._refuse(method, context, error)

        # Whatever kind the method is of: only of a stream's handler gRPC does not read the first message beforehand.
        return grpc.stream_stream_rpc_method_handler(refuse)
