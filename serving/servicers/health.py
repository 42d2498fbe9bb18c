"""``grpc.health.v1.Health``: the states of the server, its services and its models.

gRPC's clients hold one Watch for each connection where client-side health checking is on, so there may be as many
watchers as connections. gRPC's own servicer has each of them hold a thread; or else it sends news under a lock that the
thread which would tell that they are sent may be waiting for, which stops the whole server (grpc/grpc#43403). Here a
watcher holds nothing while nothing changes, and nothing is sent under a lock.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.servicers.places import Places

# Threads that carry news to watchers. To send waits until gRPC has sent, which takes microseconds.
_COURIERS = 16
# A watcher who does not let anything be sent to him for so long (a process that is stopped, say) is let go, so that he
# does not keep news from others.
_PATIENCE_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class _Watcher:
    """One open Watch: what it asks for, and how to answer it.

    Attributes:
        told: the state sent last; None: none yet.
        busy: whether a courier is on his way.
    """

    service: str
    context: grpc.ServicerContext
    send: Callable[[health_pb2.HealthCheckResponse], None]
    told: Any = None
    busy: bool = False


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # ships no type information
    """The state of each service and model.

    Args:
        watchers: most at once.
    """

    def __init__(self, watchers: int) -> None:
        self._places = Places(watchers, "health watchers")
        self._couriers = ThreadPoolExecutor(_COURIERS, thread_name_prefix="health")
        self._states: dict[str, Any] = {}
        self._stopping = False
        self._watchers: set[_Watcher] = set()
        self._lock = threading.Lock()

    def set(self, service: str, status: Any) -> None:
        """Sets the state of a service or model, and has its watchers told."""
        with self._lock:
            if not self._stopping:
                self._states[service] = status
                self._send_couriers()

    def enter_graceful_shutdown(self) -> None:
        """NOT_SERVING from now on, whatever is set."""
        with self._lock:
            self._stopping = True
            self._states = dict.fromkeys(self._states, health_pb2.HealthCheckResponse.NOT_SERVING)
            self._send_couriers()

    def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """One state."""
        with self._lock:
            state = self._states.get(request.service)
        if state is None:
            context.set_code(grpc.StatusCode.NOT_FOUND)
        return health_pb2.HealthCheckResponse(status=state)

    def List(  # noqa: N802
        self, request: health_pb2.HealthListRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthListResponse:
        """Every state."""
        del request, context
        with self._lock:
            states = dict(self._states)
        return health_pb2.HealthListResponse(
            statuses={name: health_pb2.HealthCheckResponse(status=state) for name, state in states.items()}
        )

    def Watch(  # noqa: N802
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.ServicerContext,
        send: Callable[[health_pb2.HealthCheckResponse], None],
    ) -> None:
        """One state, and each that it changes to.

        Args:
            request: names it.
            context: of the stream, which stays open when this returns.
            send: sends over it.

        Raises:
            TooManyStreamsError: there are as many watchers as may be.
        """
        self._places.take(context)
        watcher = _Watcher(request.service, context, send)
        with self._lock:
            self._watchers.add(watcher)
            self._send_couriers()
        if not context.add_callback(lambda: self._leave(watcher)):  # he is gone already
            self._leave(watcher)

    # How gRPC is told to leave the stream open, and to pass what sends over it.
    Watch.experimental_non_blocking = True  # type: ignore[attr-defined]

    def _leave(self, watcher: _Watcher) -> None:
        with self._lock:
            self._watchers.discard(watcher)

    def _state(self, watcher: _Watcher) -> Any:
        return self._states.get(watcher.service, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)

    def _send_couriers(self) -> None:
        """To those for whom there is news; with the lock held."""
        for watcher in self._watchers:
            if not watcher.busy and watcher.told != self._state(watcher):
                watcher.busy = True
                self._couriers.submit(self._tell, watcher)

    def _tell(self, watcher: _Watcher) -> None:
        """Sends a watcher the state as it is, until he has that."""
        while True:
            with self._lock:
                state = self._state(watcher)
                watcher.busy = watcher.told != state and watcher in self._watchers
                if not watcher.busy:
                    return
                watcher.told = state
            impatience = threading.Timer(_PATIENCE_SECONDS, watcher.context.cancel)
            impatience.daemon = True
            impatience.start()
            try:
                watcher.send(health_pb2.HealthCheckResponse(status=state))
            finally:
                impatience.cancel()
