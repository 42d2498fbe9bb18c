"""What every process under the supervisor can be asked, whatever its role."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from serving.changes import Order
from serving.metrics import Families, Metrics
from serving.processes.assignment import Assignment
from serving.processes.link import Link
from serving.shelf import Shelf
from serving.tally import Snapshot


class Member(ABC):
    """A process under the supervisor.

    Attributes:
        stopping: set when it is to drain and end.
        hurried: set when it is to end at once.
    """

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.hurried = threading.Event()
        self.metrics: Metrics | None = None
        self.shelf: Shelf | None = None

    @abstractmethod
    def serve(self, supervisor: Link, assignment: Assignment) -> None:
        """Serves until ``stopping`` is set, and then drains.

        Raises:
            StartError: it cannot start.
            LinkLostError: the supervisor is gone.
        """

    def handlers(self) -> dict[str, Callable[..., Any]]:
        """What the supervisor may call."""
        return {
            "stop": self.stop,
            "hurry": self.hurried.set,
            "metrics": self.families,
            "statistics": self._statistics,
        }

    def stop(self) -> None:
        """Drains and ends; harmless when that is under way."""
        self.stopping.set()

    def families(self) -> Families:
        """All metrics of this process."""
        return self.metrics.families() if self.metrics is not None else []

    def _statistics(self, name: str, version: int) -> Snapshot | None:
        """What this process has done with a model; None when it does not serve it."""
        for servable in self.shelf.servables() if self.shelf is not None else ():
            if (servable.name, servable.version) == (name, version):
                return servable.statistics.snapshot()
        return None


def conduct_by(supervisor: Link) -> Callable[[Order], None]:
    """Has the supervisor carry out the orders of callers, in all processes or in none."""
    return lambda order: supervisor.ask("change", order)


def gather_by(supervisor: Link) -> Callable[[str, int], Snapshot]:
    """Has the supervisor add up what all processes have done with a model."""
    return lambda name, version: supervisor.ask("statistics", name, version)
