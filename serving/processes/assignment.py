"""What a process is to be; the supervisor tells it when it starts."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from serving.repository import Held
from serving.settings import Settings


class Role(Enum):
    """What one of the processes does."""

    WORKER = "worker"  # all of it: listens, and has its own models
    ENGINE = "engine"  # has the models
    FRONT = "front"  # listens, decodes pictures, and asks the engine


@dataclass(frozen=True, slots=True, order=True)
class Seat:
    """A place that is always to be filled by a process: its role, and which of them it is."""

    role: Role
    number: int

    def __str__(self) -> str:
        return f"{self.role.value} {self.number}"


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a process needs to begin.

    Attributes:
        settings: the real port and its own number of threads in them.
        held: what the others serve, for one that takes the place of another; None at the start.
        first: whether it is one of those that the service starts with.
    """

    settings: Settings
    held: Mapping[str, Held] | None
    first: bool
