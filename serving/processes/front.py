"""A front: listens, decodes and resizes, and has the engine run the rows."""

import logging
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

from serving.metrics import Metrics
from serving.processes.arena import Arena
from serving.processes.assignment import Assignment
from serving.processes.link import Link, LinkLostError
from serving.processes.member import Member, conduct_by, gather_by
from serving.processes.messages import State
from serving.processes.remote import RemoteServable
from serving.processes.worker import serve_as_member
from serving.repository import Held
from serving.server import Repository
from serving.shelf import STARTING_OR_STOPPING, Model, Shelf, Status
from serving.tracing import Tracer

_log = logging.getLogger(__name__)


class FrontMember(Member):
    """See the head of the module."""

    def __init__(self) -> None:
        super().__init__()
        self._repository: RemoteRepository | None = None
        self._made = threading.Event()

    def handlers(self) -> dict[str, Callable[..., Any]]:
        """See ``Member.handlers``."""
        return {**super().handlers(), "attach": self._attach}

    def serve(self, supervisor: Link, assignment: Assignment) -> None:
        """See ``Member.serve``."""

        def open_repository(
            metrics: Metrics, on_change: Callable[[str, bool], None], tracer: Tracer | None
        ) -> tuple[Shelf, Repository]:
            del tracer  # the engine tells of the runs
            settings = assignment.settings
            repository = RemoteRepository(
                metrics,
                on_change,
                memory_bytes=settings.shared_memory_bytes,
                retire_seconds=settings.grace_seconds,
                supervisor=supervisor,
            )
            self.metrics, self.shelf, self._repository = metrics, repository, repository
            self._made.set()
            return repository, repository

        serve_as_member(self, supervisor, assignment, open_repository)

    def _attach(self, descriptors: list[int]) -> None:
        self._made.wait()
        assert self._repository is not None  # made by now
        self._repository.attach(socket.socket(fileno=descriptors[0]))


class RemoteRepository(Shelf):
    """The models of the engine process, as long as there is one.

    Args:
        metrics: of this process.
        on_change: told the name of a model and whether it is served now, whenever that may have changed.
        memory_bytes: shared with the engine.
        retire_seconds: time that requests of a version which is replaced get to finish.
        supervisor: carries out orders and adds up statistics.
    """

    def __init__(
        self,
        metrics: Metrics,
        on_change: Callable[[str, bool], None],
        *,
        memory_bytes: int,
        retire_seconds: float,
        supervisor: Link,
    ) -> None:
        super().__init__(conduct_by(supervisor), gather_by(supervisor))
        self._metrics = metrics
        self._on_change = on_change
        self._memory_bytes = memory_bytes
        self._retire_seconds = retire_seconds
        self._link: Link | None = None
        self._generation = 0
        self._open = False
        self._changed = threading.Condition()

    def attach(self, connection: socket.socket) -> None:
        """Takes an engine process, and serves what it does.

        Each gets memory of its own: one that we do not hear any more may still write to that of before.
        """
        arena = Arena(self._memory_bytes)
        link = Link(
            connection,
            "the engine process",
            handlers={"publish": lambda state: self._apply(link, arena, state)},
            on_lost=lambda: self._on_lost(link),
        )
        link.start()
        try:
            state = link.ask("hello", self._memory_bytes, descriptors=[arena.descriptor])
        except LinkLostError:
            return
        finally:
            arena.close()
        self._apply(link, arena, state)

    def load(
        self,
        stop: Callable[[], bool] = lambda: False,
        *,
        held: Mapping[str, Held] | None = None,
        gate: Callable[[], bool] = lambda: True,
    ) -> None:
        """Waits for the engine process; see ``ModelRepository.load``."""
        del held  # the engine's business
        with self._changed:
            while self._link is None:
                if stop():
                    return
                self._changed.wait(0.05)
        if not gate():
            return
        with self._changed:
            self._open = True
            self._ready = self._link is not None
            names = list(self._models)
        for name in names:
            self._on_change(name, self._ready)

    def statuses(self) -> list[Status]:
        """See ``Shelf.statuses``; the engine knows."""
        link = self._link
        try:
            statuses: list[Status] = link.ask("statuses") if link is not None else []
        except LinkLostError:
            return []
        return statuses

    def unloaded(self) -> list[str]:
        """See ``Shelf.unloaded``; the engine knows."""
        link = self._link
        try:
            names: list[str] = link.ask("unloaded") if link is not None else []
        except LinkLostError:
            return []
        return names

    def close(self, timeout: float | None = None) -> None:
        """Lets go of the engine process."""
        del timeout  # requests have ended by now
        with self._changed:
            self._open = self._ready = False
            self.unready = STARTING_OR_STOPPING
            link, self._link = self._link, None
        if link is not None:
            link.close()
            link.join(1.0)

    def _apply(self, link: Link, arena: Arena, state: State) -> None:
        """Serves what the engine does; returns when what it does no more is out of use here."""
        with self._changed:
            if link.lost or (link is self._link and state.generation <= self._generation):
                return
            before = {(each.name, each.version): each for each in self.servables()}
            models: dict[str, Model] = {}
            for name, (settings, entries) in state.models.items():
                versions = {}
                for version, entry in entries.items():
                    known = before.get((name, version))
                    if isinstance(known, RemoteServable) and known.link is link and known.number == entry.number:
                        versions[version] = known
                    else:
                        metrics = self._metrics.model(name, version)
                        versions[version] = RemoteServable(entry, link, arena, metrics)
                        metrics.loaded(entry.provider, entry.load_seconds)
                models[name] = Model(dict(versions), settings)
            gone = set(self._models) - set(models)
            self._models = models
            self._link, self._generation = link, state.generation
            self._ready = self._open
            self._changed.notify_all()
        for name in models:
            self._on_change(name, self._ready)
        for name in gone:
            self._on_change(name, False)
        serves = {(each.name, each.version): each for each in self.servables()}
        for key, servable in before.items():
            if serves.get(key) is not servable:
                servable.retire(self._retire_seconds)
                if key not in serves:
                    self._metrics.forget(*key)

    def _on_lost(self, link: Link) -> None:
        with self._changed:
            if link is not self._link:
                return
            self._link, self._ready = None, False
            self.unready = "the process that has the models is being started anew"
            servables = self.servables()
        _log.warning("the engine process is gone")
        for servable in servables:
            servable.metrics.closed()
            self._on_change(servable.name, False)
