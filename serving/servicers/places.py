"""How many streams may be open that no request to a model is under way on."""

import threading

import grpc

from serving.errors import TooManyStreamsError


class Places:
    """Counts the open streams of one kind.

    Args:
        number: most at once.
        what: they are, for the message to who finds no place.
    """

    def __init__(self, number: int, what: str) -> None:
        self._number = number
        self._what = what
        self._taken = 0
        self._lock = threading.Lock()

    def take(self, context: grpc.ServicerContext) -> None:
        """Takes a place, until the stream of this context ends.

        Raises:
            TooManyStreamsError: all are taken.
        """
        with self._lock:
            if self._taken == self._number:
                raise TooManyStreamsError(f"the server has {self._number} {self._what}")
            self._taken += 1
        if not context.add_callback(self._give_back):  # it has ended already
            self._give_back()

    def _give_back(self) -> None:
        with self._lock:
            self._taken -= 1
