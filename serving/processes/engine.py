"""The engine: has the models, and runs the rows that the fronts lay down in memory they share with it.

Requests of all fronts meet in the same batchers, so that a run holds what came over any of them. A front is told what
is served when it connects and whenever that changes; what is replaced is closed when every front has let go of it.

Each request is answered exactly once, with its rows written where the front wants them or with an error; only then
does the front use that room again. One that is cancelled is answered at once, even while its run goes on: the run may
then read what another request has laid there, but nobody reads what comes of it, and its mates have rows of their own.
"""

import gc
import itertools
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

import numpy as np

from serving import assembly
from serving.call import Call
from serving.errors import InferenceError, RequestError, ServingError, UnavailableError
from serving.processes.arena import Mapping
from serving.processes.assignment import Assignment
from serving.processes.link import Link, LinkLostError, Reply
from serving.processes.member import Member, conduct_by
from serving.processes.messages import Answer, Entry, Place, State
from serving.processes.models import ChangedFromOutside
from serving.repository import ModelRepository
from serving.servable import LoadedServable
from serving.ticket import Rows, Ticket

# Beyond the time that requests get.
_MARGIN_SECONDS = 5.0

_log = logging.getLogger(__name__)


class EngineMember(Member):
    """See the head of the module."""

    def __init__(self) -> None:
        super().__init__()
        self._engine: Engine | None = None
        self._made = threading.Event()

    def handlers(self) -> dict[str, Callable[..., Any]]:
        """See ``Member.handlers``."""
        return {**super().handlers(), "attach": self._attach}

    def serve(self, supervisor: Link, assignment: Assignment) -> None:
        """See ``Member.serve``."""
        settings = assignment.settings
        self.metrics = assembly.make_metrics()
        tracer = assembly.make_tracer(settings)
        engine = self._engine = Engine(settings.grace_seconds)
        self.shelf = repository = assembly.make_repository(
            settings, self.metrics, on_change=lambda *_: engine.publish(), conduct=conduct_by(supervisor), tracer=tracer
        )
        engine.repository = repository
        supervisor.handle(ChangedFromOutside(repository).handlers())
        self._made.set()

        def gate() -> bool:
            engine.loaded.set()
            return bool(supervisor.ask("loaded"))

        try:
            repository.load(self.stopping.is_set, held=assignment.held, gate=gate)
            # as serving/server.py does, and for the same reason
            gc.freeze()
            supervisor.tell("serving")
            self.stopping.wait()
            # The supervisor waits for the fronts before it stops us; if it is gone, we do.
            engine.wait_until_left(settings.grace_seconds, self.hurried)
        finally:
            repository.close(1.0)
            if tracer is not None:
                tracer.close(1.0)
        supervisor.ask("farewell", self.families())

    def _attach(self, name: str, descriptors: list[int]) -> None:
        self._made.wait()
        assert self._engine is not None  # made by now
        self._engine.attach(name, socket.socket(fileno=descriptors[0]))


class Engine:
    """The fronts, and what they know.

    Args:
        retire_seconds: time that a front gets to let go of what is replaced.

    Attributes:
        repository: the models; set once, before anything else.
        loaded: set when there is something to tell the fronts.
    """

    repository: ModelRepository

    def __init__(self, retire_seconds: float) -> None:
        self._patience = retire_seconds + _MARGIN_SECONDS
        self.loaded = threading.Event()
        self._fronts: set[Front] = set()
        self._changed = threading.Condition()
        self._generation = 0
        self._numbers = itertools.count()
        # By number; those that are replaced stay until every front has let go of them.
        self._servables: dict[int, LoadedServable] = {}
        self._entries: dict[LoadedServable, Entry] = {}

    def attach(self, name: str, connection: socket.socket) -> None:
        """Takes in a front."""
        front = Front(name, connection, self)
        with self._changed:
            self._fronts.add(front)
        front.link.start()

    def leave(self, front: "Front") -> None:
        """A front is gone."""
        with self._changed:
            self._fronts.discard(front)
            self._changed.notify_all()

    def wait_until_left(self, timeout: float, hurried: threading.Event) -> None:
        """Waits until no front is left, at most for ``timeout`` seconds or until ``hurried`` is set."""
        end = time.monotonic() + timeout
        with self._changed:
            while self._fronts and time.monotonic() < end and not hurried.is_set():
                self._changed.wait(0.05)

    def state(self) -> State:
        """What is served now."""
        with self._changed:
            self._generation += 1
            models: dict[str, tuple[Any, dict[int, Entry]]] = {}
            for servable in self.repository.servables():
                assert isinstance(servable, LoadedServable)  # of its own repository
                settings = self.repository.settings(servable.name)
                models.setdefault(servable.name, (settings, {}))[1][servable.version] = self._enter(servable)
            return State(self._generation, models)

    def publish(self) -> None:
        """Tells every front what is served; returns when all have let go of what is not any more."""
        if not self.loaded.is_set():
            return
        state = self.state()
        with self._changed:
            calls = [front.link.call("publish", state) for front in self._fronts if front.greeted]
        end = time.monotonic() + self._patience
        for call in calls:
            try:
                call.result(max(0.0, end - time.monotonic()))
            except LinkLostError:
                continue
            except TimeoutError:
                # It is told when it wakes up; what it then still asks of the old is answered UNAVAILABLE.
                _log.error("a front did not take what is served within %.0f s", self._patience)
            except ServingError as error:
                _log.error("a front did not take what is served: %s", error)
        served = {entry.number for _, versions in state.models.values() for entry in versions.values()}
        with self._changed:
            for number in set(self._servables) - served:
                del self._entries[self._servables.pop(number)]

    def servable(self, number: int) -> LoadedServable:
        """The one of that number, entered.

        Raises:
            UnavailableError: it is closed.
        """
        servable = self._servables.get(number)
        if servable is None or not servable.enter():
            raise UnavailableError("the model is shutting down")
        return servable

    def _enter(self, servable: LoadedServable) -> Entry:
        if servable not in self._entries:
            number = next(self._numbers)
            self._servables[number] = servable
            self._entries[servable] = Entry(
                number,
                servable.manifest,
                servable.limits,
                servable.fingerprint,
                servable.provider,
                servable.decodes,
                servable.load_seconds,
            )
        return self._entries[servable]


class Front:
    """One front, as the engine sees it.

    Args:
        name: of it.
        connection: to it.
        engine: knows the servables.

    Attributes:
        link: to it.
        greeted: whether it was told what is served, and so is to be told of changes.
    """

    def __init__(self, name: str, connection: socket.socket, engine: Engine) -> None:
        self.greeted = False
        self._engine = engine
        self._memory: Mapping | None = None
        self._calls: dict[int, Call] = {}
        self._settled: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.link = Link(
            connection,
            name,
            handlers={
                "hello": self._hello,
                "statuses": engine.repository.statuses,
                "unloaded": engine.repository.unloaded,
            },
            quick={"infer": self._infer, "cancel": self._cancel},
            on_lost=self._on_lost,
        )
        # Rows are written on a thread of their own: the model's next run does not wait for that.
        threading.Thread(target=self._answer, name=f"answers-{name}", daemon=True).start()

    def _hello(self, size: int, descriptors: list[int]) -> State:
        self._memory = Mapping(descriptors[0], size)
        os.close(descriptors[0])
        self._engine.loaded.wait()
        # Told of changes from now on; one between the two lines reaches it twice, and the greater generation counts.
        self.greeted = True
        return self._engine.state()

    def _infer(
        self,
        reply: Reply,
        key: int,
        number: int,
        inputs: Sequence[Place],
        outputs: Sequence[Place],
        deadline: float | None,
        priority: int,
        submitted: float,
        trace: str | None,
    ) -> None:
        try:
            arrays = {place.name: self._array(place) for place in inputs}
            servable = self._engine.servable(number)
        except (UnavailableError, ValueError) as error:
            reply(error)
            return
        call = Call(deadline, priority)
        call.trace = trace

        def settled(ticket: Ticket) -> None:
            # A lock of the batcher's is held here.
            self._settled.put(lambda: self._finish(reply, key, servable, outputs, ticket))

        self._calls[key] = call
        try:
            servable.submit(arrays, tuple(place.name for place in outputs), call, submitted, settled)
        except RequestError as error:
            del self._calls[key]
            servable.leave()
            reply(error)

    def _cancel(self, reply: Reply, key: int) -> None:
        del reply  # nobody waits for one
        call = self._calls.get(key)
        if call is not None:
            call.cancel()

    def _answer(self) -> None:
        while finish := self._settled.get():
            finish()

    def _finish(
        self,
        reply: Reply,
        key: int,
        servable: LoadedServable,
        outputs: Sequence[Place],
        ticket: Ticket,
    ) -> None:
        outcome = ticket.outcome
        try:
            self._calls.pop(key, None)
            if isinstance(outcome, Rows):
                for place in outputs:
                    rows = outcome.outputs[place.name]
                    if rows.shape != place.shape:
                        raise InferenceError(
                            f"output {place.name!r} of {servable.name} has the shape {list(rows.shape)} where its"
                            f" manifest makes {list(place.shape)} of the input's"
                        )
                    np.copyto(self._array(place), rows)
                reply(Answer(outcome.queue_seconds, outcome.inference_seconds, outcome.batch_rows, ticket.call.batch))
                return
            if isinstance(outcome, InferenceError):
                # The front logs which request it was; why is known only here.
                _log.error("%s", outcome, exc_info=outcome.__cause__)
            reply(outcome)
        except Exception as error:
            _log.exception("the rows of %s could not be handed back", servable.name)
            reply(error)
        finally:
            servable.leave()

    def _array(self, place: Place) -> Any:
        assert self._memory is not None  # came with hello, before any request
        return self._memory.array(place.offset, place.dtype, place.shape)

    def _on_lost(self) -> None:
        """Frees whatever the front had under way: nobody reads the answers."""
        for call in list(self._calls.values()):
            call.cancel()
        self._settled.put(None)
        self._engine.leave(self)
