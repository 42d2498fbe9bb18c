"""One process of the supervisor's: how it is started, what is known of it, and how it ends."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from serving.errors import StartError
from serving.metrics import Families
from serving.processes.assignment import Role, Seat
from serving.processes.link import Link

# From the end of its link to the end of the process.
_END_SECONDS = 5.0


class Process:
    """A child process.

    Args:
        seat: what it is to be.
        handlers: what it may ask.
        assigned_first: whether it is one of those that the service starts with.
        on_loaded: called when it waits to be admitted.
        on_serving: called when callers get to it; after it was admitted.
        on_end: called when it is gone, or as good as.

    Attributes:
        link: to it.
        admitted_at: when it was let serve, by ``time.monotonic()``; None before that.
        heard_at: when it was let serve or last answered, likewise.
        failure: why it cannot start, if it could tell.
        last_metrics: what it had measured when it ended, if it could tell.
        settled: set when it has loaded or ended.
        loaded: whether it has, and lives.
        serving: whether callers get to it.
        ended: whether it is gone.
    """

    def __init__(
        self,
        seat: Seat,
        handlers: dict[str, Callable[..., Any]],
        *,
        assigned_first: bool,
        on_loaded: Callable[[], None],
        on_serving: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        self.seat = seat
        self.assigned_first = assigned_first
        self.admitted_at: float | None = None
        self.heard_at = 0.0
        self.failure: StartError | None = None
        self.last_metrics: Families | None = None
        self.settled = threading.Event()
        self.loaded = False
        self.serving = False
        self.ended = False
        self._on_loaded = on_loaded
        self._on_serving = on_serving
        self._on_end = on_end
        self._admitted = threading.Event()
        self._may_open = False
        ours, theirs = socket.socketpair()
        with theirs:
            self._popen = subprocess.Popen(
                [
                    *(sys.executable, "-m", "serving.processes.child"),
                    *(seat.role.value, str(seat.number), str(theirs.fileno())),
                ],
                stdin=subprocess.DEVNULL,
                # Stdout is for the supervisor's ready line.
                stdout=sys.stderr.fileno(),
                pass_fds=[theirs.fileno()],
                # A terminal's interrupt is for the supervisor, which tells its children.
                start_new_session=True,
            )
        own: dict[str, Callable[..., Any]] = {
            "loaded": self._wait_for_admission,
            "serving": self._note_serving,
            "failed": self._note_failure,
            "farewell": self._note_metrics,
        }
        self.link = Link(ours, str(self), handlers={**handlers, **own}, on_lost=self._on_lost)

    def __str__(self) -> str:
        return f"{self.seat} (process {self._popen.pid})"

    @property
    def ready(self) -> bool:
        """Whether it serves."""
        return self.admitted_at is not None and not self.ended

    def start(self) -> None:
        """Begins to answer it."""
        self.link.start()

    def attach(self, other: "Process") -> None:
        """Gives a front and the engine a link to each other; nothing happens for other pairs."""
        for front, engine in ((self, other), (other, self)):
            if (front.seat.role, engine.seat.role) == (Role.FRONT, Role.ENGINE):
                one, two = socket.socketpair()
                with one, two:
                    front.link.tell("attach", descriptors=[one.fileno()])
                    engine.link.tell("attach", str(front.seat), descriptors=[two.fileno()])

    def ask(self, what: str, *arguments: Any) -> "Future[Any]":
        """As ``Link.call``, and notes when it answers."""
        call = self.link.call(what, *arguments)
        call.add_done_callback(self._note_answer)
        return call

    def admit(self) -> None:
        """Lets it serve."""
        self.heard_at = self.admitted_at = time.monotonic()
        self._may_open = True
        self._admitted.set()

    def stop(self) -> None:
        """Has it drain and end."""
        self._admitted.set()
        self.link.tell("stop")

    def kill(self) -> None:
        """Ends it at once."""
        self._popen.kill()
        self._popen.wait()

    def wait(self) -> int:
        """The exit code, or the signal as a negative number; one that lingers without a link is killed."""
        try:
            return self._popen.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._popen.wait()

    def _wait_for_admission(self) -> bool:
        self.loaded = True
        self.settled.set()
        self._on_loaded()
        self._admitted.wait()
        return self._may_open

    def _note_answer(self, call: "Future[Any]") -> None:
        del call
        self.heard_at = time.monotonic()

    def _note_serving(self) -> None:
        self.serving = True
        self._on_serving()

    def _note_failure(self, error: StartError) -> None:
        self.failure = error

    def _note_metrics(self, families: Families) -> None:
        self.last_metrics = families

    def _on_lost(self) -> None:
        self.loaded = False
        self.serving = False
        self.ended = True
        self.settled.set()
        self._admitted.set()
        self._on_end()
