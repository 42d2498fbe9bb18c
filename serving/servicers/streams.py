"""Many requests over one call: read ahead within a window, worked on at once, answered in order."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from serving.call import Call

Answer = TypeVar("Answer")

_PATIENCE_SECONDS = 0.5


class Stream(Generic[Answer]):
    """The requests of one call.

    Args:
        requests: as they come; reading one more may wait for ever.
        answer: one request's answer; it does not raise.
        pool: does the work.
        window: most requests read and not yet answered.
        deadline: of the call, and so of each request; None = never.
    """

    def __init__(
        self,
        requests: Iterator[Any],
        answer: Callable[[Any, Call], Answer],
        pool: ThreadPoolExecutor,
        window: int,
        deadline: float | None,
    ) -> None:
        self._requests = requests
        self._answer = answer
        self._pool = pool
        self._deadline = deadline
        self._window = threading.Semaphore(window)
        # In the order of the requests; None ends it.
        self._pending: SimpleQueue[Future[Answer] | None] = SimpleQueue()
        self._calls: set[Call] = set()
        self._lock = threading.Lock()
        self._over = False
        self.drained = False

    def answers(self) -> Iterator[Answer]:
        """The answers, in order, until the requests end or the stream is drained."""
        # On a thread of its own: reading blocks, and only that holds the sender back.
        threading.Thread(target=self._read, name="stream-reader", daemon=True).start()
        try:
            while (future := self._pending.get()) is not None:
                yield future.result()
                self._window.release()
        finally:
            self.cancel()

    def drain(self) -> None:
        """Takes no more requests; those that are read are still answered."""
        with self._lock:
            if not self._over:
                self._over = self.drained = True
                self._pending.put(None)

    def cancel(self) -> None:
        """Drops what is under way: nobody reads the answers any more."""
        with self._lock:
            if not self._over:
                self._over = True
                self._pending.put(None)
            calls = list(self._calls)
        for call in calls:
            call.cancel()

    def _read(self) -> None:
        try:
            for request in self._requests:
                while not self._window.acquire(timeout=_PATIENCE_SECONDS):
                    if self._over:
                        return
                if not self._begin(request):
                    return
        except Exception:
            # gRPC raises a bare Exception when the caller is gone; whatever it is, no more requests come.
            self.cancel()
        with self._lock:
            if not self._over:
                self._over = True
                self._pending.put(None)

    def _begin(self, request: Any) -> bool:
        call = Call(self._deadline)
        with self._lock:
            if self._over:
                return False
            self._calls.add(call)
            self._pending.put(self._pool.submit(self._work, request, call))
            return True

    def _work(self, request: Any, call: Call) -> Answer:
        try:
            return self._answer(request, call)
        finally:
            with self._lock:
                self._calls.discard(call)
