"""A link between two of our processes: either side calls the other, over a socket pair that only they have.

Messages are pickled: both ends are our own code, and nobody else can reach the pair. File descriptors travel with the
call that names them. When one end is gone, however it went, the other is told, and whoever waits for an answer gets
``LinkLostError``.
"""

import itertools
import logging
import pickle
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from serving.errors import ServingError

# Length of the message and the number of descriptors that came with it.
_HEADER = struct.Struct("!IB")
_CHUNK, _MOST_DESCRIPTORS = 1 << 16, 4
_CALL, _ANSWER = range(2)

Reply = Callable[[Any], None]

_log = logging.getLogger(__name__)


class LinkLostError(ServingError):
    """The process at the other end is gone."""


class PeerError(ServingError):
    """A call failed at the other end for a reason that is not one of our errors; the message is its traceback's end."""


class Link:
    """One end.

    Args:
        connection: a connected stream socket of the Unix domain; it is the link's from now on.
        name: of the other end, for messages and the thread.
        handlers: what the other end may call, by name. Each call runs on a thread of its own, so that it may take long
            and call back; what it returns or raises is the answer. File descriptors that came with a call are a list,
            its last argument, and the handler's to close.
        quick: likewise, but run on the link's one thread, in order; they must not wait. The first argument takes the
            answer (an exception is an error), now or later, from any thread.
        on_lost: called once, when the other end is gone or this one is closed, after those who waited were told.
    """

    def __init__(
        self,
        connection: socket.socket,
        name: str,
        *,
        handlers: Mapping[str, Callable[..., Any]] | None = None,
        quick: Mapping[str, Callable[..., None]] | None = None,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self._socket = connection
        self._handlers = dict(handlers or {})
        self._quick = dict(quick or {})
        self._on_lost = on_lost
        self._numbers = itertools.count()
        self._waiting: dict[int, Reply] = {}
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._lost = False
        self._descriptors: deque[int] = deque()
        self._reader = threading.Thread(target=self._read, name=f"link-{name}", daemon=True)

    @property
    def lost(self) -> bool:
        """Whether the other end is gone."""
        return self._lost

    def handle(
        self, handlers: Mapping[str, Callable[..., Any]], quick: Mapping[str, Callable[..., None]] | None = None
    ) -> None:
        """Adds to what the other end may call."""
        self._handlers.update(handlers)
        self._quick.update(quick or {})

    def start(self) -> None:
        """Begins to take calls and answers."""
        self._reader.start()

    def ask(self, what: str, *arguments: Any, descriptors: Sequence[int] = (), timeout: float | None = None) -> Any:
        """Calls the other end and waits for its answer.

        Args:
            what: name of the handler.
            arguments: anything that can be pickled.
            descriptors: open files that the other end gets too; they stay open here.
            timeout: seconds; None = as long as it takes.

        Raises:
            LinkLostError: the other end is gone.
            TimeoutError: no answer in time.
            ServingError: whatever the handler raised.
        """
        return self.call(what, *arguments, descriptors=descriptors).result(timeout)

    def call(self, what: str, *arguments: Any, descriptors: Sequence[int] = ()) -> "Future[Any]":
        """Like ``ask``, but does not wait."""
        answer: Future[Any] = Future()

        def settle(outcome: Any) -> None:
            if isinstance(outcome, BaseException):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)

        self.begin(settle, what, *arguments, descriptors=descriptors)
        return answer

    def begin(self, settle: Reply, what: str, *arguments: Any, descriptors: Sequence[int] = ()) -> int:
        """Calls the other end; ``settle`` gets the answer, or the exception, exactly once, on the link's thread.

        Returns:
            The number of the call.
        """
        number = next(self._numbers)
        with self._lock:
            lost = self._lost
            if not lost:
                self._waiting[number] = settle
        if lost:
            settle(LinkLostError(f"{self.name} is gone"))
        else:
            self._send((_CALL, number, what, arguments), descriptors)
        return number

    def tell(self, what: str, *arguments: Any, descriptors: Sequence[int] = ()) -> None:
        """Calls the other end without waiting; nothing happens when it is gone."""
        self._send((_CALL, None, what, arguments), descriptors)

    def close(self) -> None:
        """Hangs up; the other end is told, and so is this one."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:  # it is gone already
            return

    def join(self, timeout: float | None = None) -> None:
        """Waits until the link is lost and everybody was told."""
        self._reader.join(timeout)

    def _send(self, message: tuple[Any, ...], descriptors: Sequence[int] = ()) -> None:
        body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        data = _HEADER.pack(len(body), len(descriptors)) + body
        try:
            with self._sending:
                if descriptors:
                    # They travel with the first byte; the rest follows.
                    sent = socket.send_fds(self._socket, [data[:1]], list(descriptors))
                    data = data[sent:]
                self._socket.sendall(data)
        except OSError:
            # The reader finds out too, and tells everybody.
            self.close()

    def _read(self) -> None:
        try:
            self._take_messages()
        except OSError as error:
            _log.debug("link to %s: %s", self.name, error)
        except Exception:
            _log.exception("link to %s: a message that cannot be read, or its handler failed", self.name)
        with self._lock:
            self._lost = True
            waiting, self._waiting = self._waiting, {}
        for settle in waiting.values():
            settle(LinkLostError(f"{self.name} is gone"))
        self._on_lost()
        with self._sending:
            self._socket.close()

    def _take_messages(self) -> None:
        buffer = bytearray()
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._socket, _CHUNK, _MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
            if not data:
                return
            self._descriptors.extend(descriptors)
            buffer += data
            start = 0
            while len(buffer) - start >= _HEADER.size:
                length, count = _HEADER.unpack_from(buffer, start)
                end = start + _HEADER.size + length
                if len(buffer) < end:
                    break
                message = pickle.loads(memoryview(buffer)[start + _HEADER.size : end])
                start = end
                self._take(message, [self._descriptors.popleft() for _ in range(count)])
            del buffer[:start]

    def _take(self, message: tuple[Any, ...], descriptors: list[int]) -> None:
        kind, number, *rest = message
        if kind != _CALL:
            with self._lock:
                settle = self._waiting.pop(number)
            settle(rest[0])
            return
        what, arguments = rest

        def reply(outcome: Any) -> None:
            if number is not None:
                self._send((_ANSWER, number, _portable(outcome) if isinstance(outcome, BaseException) else outcome))

        if what in self._quick:
            self._quick[what](reply, *arguments)
            return
        arguments = (*arguments, *([descriptors] if descriptors else []))
        threading.Thread(target=self._answer, args=(what, arguments, reply), name=f"call-{what}", daemon=True).start()

    def _answer(self, what: str, arguments: tuple[Any, ...], reply: Reply) -> None:
        try:
            reply(self._handlers[what](*arguments))
        except Exception as error:
            if not isinstance(error, ServingError):
                _log.exception("%s of %s failed", what, self.name)
            reply(error)


def _portable(error: BaseException) -> ServingError:
    """An error that the other end can read: ours as they are, others as text."""
    if isinstance(error, ServingError):
        return error
    return PeerError(f"{type(error).__name__}: {error}")
