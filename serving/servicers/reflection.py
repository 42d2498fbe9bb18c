"""gRPC's server reflection, for tools such as grpcurl, as far as a few of them need it at once."""

from collections.abc import Iterable, Iterator
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection

from serving.servicers.places import Places

SERVICE_NAME: str = reflection.SERVICE_NAME
# Streams at once. Each holds a thread of the server's for as long as its caller keeps it open, whether he asks or not.
STREAMS = 16


class Reflection(reflection.ReflectionServicer):  # type: ignore[misc]  # ships no type information
    """Tells what the services are.

    Args:
        services: their full names.
    """

    def __init__(self, services: Iterable[str]) -> None:
        super().__init__(services)
        self._places = Places(STREAMS, "open reflection streams")

    def ServerReflectionInfo(  # noqa: N802
        self, request_iterator: Iterator[Any], context: grpc.ServicerContext
    ) -> Iterator[Any]:
        """Answers the requests of one stream.

        Raises:
            TooManyStreamsError: as many are open as may be.
        """
        self._places.take(context)
        answers: Iterator[Any] = super().ServerReflectionInfo(request_iterator, context)
        return answers
