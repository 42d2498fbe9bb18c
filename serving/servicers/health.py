"""``grpc.health.v1.Health``: gRPC's own, as it is safe to run, with the method that it leaves out."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2

# Callers who may watch at once; one more is answered when one of them has left.
_WATCHERS = 64


class Health(health.HealthServicer):  # type: ignore[misc]  # ships no type information
    """The state of each service and model.

    Watchers have threads of their own. The other way that the library has, one who leaves while a state changes stops
    the whole server: news are sent under a lock, and the thread that would tell that they are sent waits for it
    (grpc/grpc#43403).
    """

    def __init__(self) -> None:
        super().__init__(
            experimental_non_blocking=False,
            experimental_thread_pool=ThreadPoolExecutor(_WATCHERS, thread_name_prefix="watch"),
        )
        self._states: dict[str, Any] = {}

    def set(self, service: str, status: Any) -> None:
        """Sets the state of a service or model, and tells its watchers."""
        super().set(service, status)
        self._states[service] = status

    def enter_graceful_shutdown(self) -> None:
        """NOT_SERVING from now on, whatever is set."""
        super().enter_graceful_shutdown()
        self._states = dict.fromkeys(self._states, health_pb2.HealthCheckResponse.NOT_SERVING)

    def List(  # noqa: N802
        self, request: health_pb2.HealthListRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthListResponse:
        """Every state."""
        del request, context
        states = dict(self._states)
        return health_pb2.HealthListResponse(
            statuses={name: health_pb2.HealthCheckResponse(status=state) for name, state in states.items()}
        )
