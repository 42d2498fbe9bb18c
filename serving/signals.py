"""Signals that are acted on, on a thread of their own, whatever the main thread is at.

A handler of Python's runs when the main thread comes back to Python. One that begins to wait for a lock just as the
signal comes never does, and the signal is lost until the next; and a handler that sets an event which the main thread
is waiting for may wait for itself. What the C handler writes to a socket is neither lost nor in anybody's way.
"""

import signal
import socket
import threading
from collections.abc import Callable, Iterable


def watch(numbers: Iterable[signal.Signals], act: Callable[[signal.Signals], None]) -> None:
    """Calls ``act`` for each of these signals from now on; called from the main thread, once a process."""
    wanted = frozenset(numbers)
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    for number in wanted:
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(writer.fileno())

    def listen(_: socket.socket) -> None:
        while received := reader.recv(16):
            for number in received:
                # Others in the process may have handlers of their own; their signals are written here as well.
                if number in wanted:
                    act(signal.Signals(number))

    # It keeps the other end open as long as the process lives.
    threading.Thread(target=listen, args=(writer,), name="signals", daemon=True).start()
