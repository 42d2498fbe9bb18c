"""The model repository: ``<root>/<name>/<version>/`` with ``manifest.json`` and ``model.onnx`` -> servables.

Which versions of a model are served is its policy's business (``model_settings.py``). At start it is all or nothing: a
broken version keeps the server from starting, and the message says which file. Afterwards a model can be loaded anew
at any time (see ``changes.py`` for what can be ordered), and nobody who asks notices:

* What is new is loaded and warm before it takes over; what it replaces finishes its requests before it closes.
* When a new version is broken, those that were served stay, and the status says why.
* A folder that is half copied is never served: its manifest is missing, or names another SHA-256 than that of the
  half-copied file. Exporters that write aside and rename never show one. Names that begin with a dot are ignored.
* A change has two steps, ``prepare`` and ``commit`` or ``discard``, so that several processes can make it in all of
  them or in none.

Who uses a servable holds it (``use``), so that it is not closed under him.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from serving import memory, model_settings
from serving.backend import Runtime
from serving.changes import Changes, Order, Override
from serving.errors import LoadError, RepositoryError, StartError, UnavailableError
from serving.folders import find_models, find_versions, fingerprint, is_gone
from serving.metrics import Metrics
from serving.model_settings import Limits, ModelSettings, VersionPolicy
from serving.opening import Opener
from serving.servable import Servable
from serving.shelf import Gather, Model, Shelf, State, Status
from serving.tracing import Tracer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Held:
    """What is served of one model, so that it can be compared with, and loaded again in, another process.

    Attributes:
        versions: version -> fingerprint of its files.
        settings: limits, policy and labels in force.
        override: what a caller asked for in place of the model's own settings.
    """

    versions: Mapping[int, str]
    settings: ModelSettings
    override: Override | None


@dataclass(slots=True)
class Plan:
    """A change of one model that is loaded and warm, and not yet seen by any caller.

    Attributes:
        versions: what will be served.
        fresh: those of them that were loaded for it, and maybe others.
        outcome: what will be held.
        complaints: what is broken of the model.
    """

    name: str
    versions: dict[int, Servable]
    fresh: dict[int, Servable]
    outcome: Held
    complaints: list[str]


class ModelRepository(Shelf):
    """The models of one folder.

    Args:
        root: the folder.
        runtime: provider and threads of each session.
        limits: of each model, where its ``serving.json`` says nothing else.
        metrics: where loads and runs are noted.
        policy: which versions are served, likewise.
        retire_seconds: time that requests of a version which is replaced get to finish.
        on_change: told the name of a model and whether it is served now, whenever that may have changed.
        conduct, gather: see ``Shelf``; without them, this process is the only one.
        tracer: where runs of traced requests are told of; None: no traces.
    """

    def __init__(
        self,
        root: Path,
        runtime: Runtime,
        limits: Limits,
        metrics: Metrics,
        *,
        policy: VersionPolicy = VersionPolicy(),  # noqa: B008  # it never changes
        retire_seconds: float = 30.0,
        on_change: Callable[[str, bool], None] = lambda name, served: None,  # noqa: ARG005
        conduct: Callable[[Order], None] | None = None,
        gather: Gather | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        super().__init__(conduct or Changes(self).carry_out, gather)
        self._root = root
        self._limits = limits
        self._policy = policy
        self._metrics = metrics
        self._opener = Opener(runtime, metrics, tracer)
        self._retire_seconds = retire_seconds
        self._on_change = on_change
        self._overrides: dict[str, Override] = {}
        # The fresh servables of a plan that is neither committed nor discarded.
        self._pending: dict[int, Servable] = {}
        # One step of a change at a time.
        self._changing = threading.Lock()
        self._closing = threading.Event()

    def load(
        self,
        stop: Callable[[], bool] = lambda: False,
        *,
        held: Mapping[str, Held] | None = None,
        gate: Callable[[], bool] = lambda: True,
    ) -> None:
        """Loads and warms what is to be served of every model.

        Args:
            stop: asked between two versions, and between two runs of a warm-up; when it says yes, loading ends early
                and the repository is not ready.
            held: what another process serves, to be the same; None = what the folder and the policies say.
            gate: called when all is loaded; the repository is ready when it returns, unless it says no.

        Raises:
            StartError: there is no model, or one of them is broken.
        """
        with self._changing:
            for name in find_models(self._root):
                if held is not None and name not in held:
                    continue
                override = held[name].override if held is not None else None
                if override is not None:
                    self._overrides[name] = override
                settings = self._read_settings(name, override)
                versions: dict[int, Servable] = {}
                # On the shelf from the start, so that what is loaded is closed whatever comes; nobody is ready yet.
                self._models[name] = Model(versions, settings)
                there = set(held[name].versions) & set(find_versions(self._root / name)) if held is not None else ()
                for version in sorted(there) or self._choose(name, settings):
                    if stop():
                        return
                    try:
                        versions[version] = self._load_version(name, version, settings.limits, stop)
                    except UnavailableError:
                        return
                    self._note(name, version, State.READY)
                settings.check_labels(name, versions)
            if not gate():
                return
            self._ready = True
        for name in self._models:
            self._on_change(name, True)

    def found(self) -> list[str]:
        """See ``changes.Models``."""
        return find_models(self._root)

    def unloaded(self) -> list[str]:
        """See ``Shelf.unloaded``; none while the folder cannot be read."""
        try:
            found = self.found()
        except RepositoryError:
            return []
        known = {name for name, _ in list(self._statuses)}
        return [name for name in found if name not in known]

    def reload(self, name: str, override: Override | None = None) -> None:
        """See ``changes.Models``."""
        plan = self.prepare(name, override)
        self.commit(plan)
        if plan.complaints:
            raise LoadError("; ".join(plan.complaints))

    def unload(self, name: str, why: str) -> None:
        """See ``changes.Models``."""
        with self._changing:
            if name not in self._models:
                return
            model = self._models.pop(name)
            self._overrides.pop(name, None)
            self._on_change(name, False)
            for servable in model.versions.values():
                self._retire(servable, why)

    def held(self) -> dict[str, Held]:
        """What is served of each model."""
        return {
            name: _held(model.versions, model.settings, self._overrides.get(name))
            for name, model in self._models.items()
        }

    def prepare(self, name: str, override: Override | None = None) -> Plan:
        """Loads and warms what is new or changed of a model. Nobody sees it before ``commit``.

        Args:
            name: of the model.
            override: kept until the model is unloaded, if nothing is broken; None = as before.

        Raises:
            LoadError: nothing of it can be served as asked for.
            UnavailableError: the repository is not open.
        """
        with self._changing:
            if not self._ready:
                raise UnavailableError(f"the models are not ready: {self.unready}")
            return self._prepare(name, override or self._overrides.get(name))

    def commit(self, plan: Plan) -> None:
        """Lets callers have what was prepared; returns when what it replaces has finished its requests."""
        with self._changing:
            self._pending = {}
            before = dict(self._models[plan.name].versions) if plan.name in self._models else {}
            if not self._ready:  # closed between the two steps
                plan.versions = before
            elif plan.versions:
                if plan.outcome.override is not None:
                    self._overrides[plan.name] = plan.outcome.override
                self._models[plan.name] = Model(plan.versions, plan.outcome.settings)
                for version in plan.fresh:
                    self._note(plan.name, version, State.READY)
                self._on_change(plan.name, True)
            for version, servable in [*before.items(), *plan.fresh.items()]:
                if plan.versions.get(version) is not servable:
                    why = "replaced" if version in plan.versions else "not wanted by the version policy"
                    self._retire(servable, why)
            self._forget_gone(plan.name)

    def discard(self, plan: Plan) -> None:
        """Drops what was prepared; what is served stays as it is."""
        with self._changing:
            self._pending = {}
            for servable in plan.fresh.values():
                self._retire(servable, "another process did not load it")

    def close(self, timeout: float | None = None) -> None:
        """Closes every servable; each gets what is left of ``timeout`` seconds to finish what waits."""
        self._ready = False
        self._closing.set()
        end = None if timeout is None else time.monotonic() + timeout
        # A load under way ends with the run that it is at; where that takes longer, it finds that nobody is ready.
        alone = self._changing.acquire(timeout=-1 if timeout is None else timeout)
        for servable in [*self.servables(), *self._pending.values()]:
            servable.close(None if end is None else max(0.0, end - time.monotonic()))
            servable.metrics.closed()
        if alone:
            self._changing.release()

    def _prepare(self, name: str, override: Override | None) -> Plan:
        """See the head of the module. The lock is held, as below."""
        old = self._models.get(name)
        before: dict[int, Servable] = dict(old.versions) if old else {}
        fresh: dict[int, Servable] = {}
        try:
            settings = self._read_settings(name, override)
            wanted = self._choose(name, settings)
        except StartError as error:
            raise LoadError(str(error)) from error
        complaints = []
        for version in wanted:
            current = before.get(version)
            try:
                if current is None or self._has_changed(current, settings.limits):
                    fresh[version] = self._load_version(name, version, settings.limits, self._closing.is_set)
            except StartError as error:
                complaints.append(str(error))
            except BaseException:
                for servable in fresh.values():
                    self._retire(servable, "what came with it was not loaded")
                raise
        # What the policy no longer wants stays while something that it wants is broken.
        kept = before if complaints else {version: before[version] for version in wanted if version in before}
        versions = {**kept, **fresh}
        try:
            settings.check_labels(name, versions)
        except RepositoryError as error:
            complaints.append(str(error))
            if old is None:
                versions = {}
            else:
                settings = ModelSettings(settings.limits, settings.policy, old.settings.labels)
                versions = {**before, **fresh}
        self._pending = fresh
        outcome = _held(versions, settings, self._overrides.get(name) if complaints else override)
        return Plan(name, versions, fresh, outcome, complaints)

    def _retire(self, servable: Servable, why: str) -> None:
        key = (servable.name, servable.version)
        replaced = self._serves(servable.name, servable.version)
        if not replaced:
            self._note(*key, State.UNLOADING, why)
        servable.retire(self._retire_seconds)
        memory.give_back()
        if not replaced:
            servable.metrics.closed()
            self._metrics.drop(*key)
            self._note(*key, State.UNAVAILABLE, why)
        _log.info("closed %s/%d: %s", *key, why)

    def _forget_gone(self, name: str) -> None:
        """Tells no more of versions whose folder is gone, unless no version is left: that somebody may want to know."""
        for (model, version), status in list(self._statuses.items()):
            gone = model == name in self._models and status.state is State.UNAVAILABLE
            if gone and is_gone(self._root / name / str(version)):
                del self._statuses[name, version]
                self._metrics.forget(name, version)

    def _serves(self, name: str, version: int) -> bool:
        return name in self._models and version in self._models[name].versions

    def _note(self, name: str, version: int, state: State, reason: str = "", *, broken: bool = False) -> None:
        self._statuses[name, version] = Status(name, version, state, reason, broken)

    def _read_settings(self, name: str, override: Override | None) -> ModelSettings:
        settings = model_settings.read(self._root / name, self._limits, self._policy)
        if override is None:
            return settings
        labels = settings.labels if override.labels is None else dict(override.labels)
        return ModelSettings(settings.limits, override.policy or settings.policy, labels)

    def _choose(self, name: str, settings: ModelSettings) -> list[int]:
        folder = self._root / name
        return settings.policy.choose(folder, find_versions(folder))

    def _has_changed(self, servable: Servable, limits: Limits) -> bool:
        folder = self._root / servable.name / str(servable.version)
        return servable.limits != limits or servable.fingerprint != fingerprint(folder)

    def _load_version(self, name: str, version: int, limits: Limits, stop: Callable[[], bool]) -> Servable:
        serves = self._serves(name, version)
        if not serves:
            self._note(name, version, State.LOADING)
        try:
            return self._opener.open(self._root / name / str(version), limits, stop)
        except Exception as error:
            # The old one of the same number goes on; its status tells what is wrong with the new.
            if not serves:
                self._metrics.drop(name, version)
            self._note(name, version, State.READY if serves else State.UNAVAILABLE, str(error), broken=True)
            raise


def _held(versions: Mapping[int, Servable], settings: ModelSettings, override: Override | None) -> Held:
    return Held({version: servable.fingerprint for version, servable in versions.items()}, settings, override)
