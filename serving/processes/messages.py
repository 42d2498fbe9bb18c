"""What fronts and the engine say to each other."""

from collections.abc import Mapping
from dataclasses import dataclass

from serving.manifest import Manifest
from serving.model_settings import Limits, ModelSettings


@dataclass(frozen=True, slots=True)
class Entry:
    """One servable of the engine's, as the fronts know it.

    Attributes:
        number: by which requests name it; of one engine process, never used again.
        load_seconds: that loading took there.
    """

    number: int
    manifest: Manifest
    limits: Limits
    fingerprint: str
    provider: str
    decodes: tuple[str, ...]
    load_seconds: float


@dataclass(frozen=True, slots=True)
class State:
    """All that is served: name -> (settings, version -> entry). A later state has a greater generation."""

    generation: int
    models: Mapping[str, tuple[ModelSettings, Mapping[int, Entry]]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where an array lies in shared memory."""

    name: str
    offset: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request; the rows lie where the front wanted them.

    Attributes:
        queue_seconds, inference_seconds, batch_rows: see ``ticket.Rows``.
        batch: see ``Call``.
    """

    queue_seconds: float
    inference_seconds: float
    batch_rows: int
    batch: str | None
