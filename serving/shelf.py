"""What is served now, for those who ask; ``repository.py`` changes it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum

from serving.changes import Configure, LoadModel, Order, Override, Refresh, UnloadModel
from serving.errors import InvalidInputError, NotFoundError, RequestError, UnavailableError, quote
from serving.metrics import UNKNOWN
from serving.model_settings import ModelSettings
from serving.servable import Servable
from serving.tally import Snapshot

STARTING_OR_STOPPING = "the server is starting or stopping"

# The sums of one model version over all processes.
Gather = Callable[[str, int], Snapshot]

# A version's number, its label, or None for the newest.
Version = int | str | None


class State(Enum):
    """Of one model version."""

    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class Status:
    """What has become of one model version.

    Attributes:
        reason: why it is not served, or what is wrong with its files.
        broken: whether something is.
    """

    name: str
    version: int
    state: State
    reason: str = ""
    broken: bool = False


@dataclass(frozen=True, slots=True)
class Model:
    """What is served of one model. Never changed, only replaced, so that readers need no lock."""

    versions: Mapping[int, Servable]
    settings: ModelSettings


class Shelf:
    """The models that are served. Any thread may ask; who changes them replaces whole entries.

    Args:
        conduct: carries out what callers order.
        gather: adds up what several processes have done with a model; where None, there is just this one.
    """

    def __init__(self, conduct: Callable[[Order], None], gather: Gather | None = None) -> None:
        self._conduct = conduct
        self._gather = gather
        self._models: dict[str, Model] = {}
        self._statuses: dict[tuple[str, int], Status] = {}
        self._ready = False
        # Why, while it is not.
        self.unready = STARTING_OR_STOPPING

    @property
    def ready(self) -> bool:
        """Whether every model is loaded, warm and open."""
        return self._ready

    def load_model(self, name: str) -> None:
        """Brings what is served of a model into line with its folder; returns when callers get the new.

        Raises:
            NotFoundError: no such model.
            LoadError: something of it is broken; what was served before still is.
        """
        self._conduct(LoadModel(name))

    def unload_model(self, name: str) -> None:
        """Serves a model no longer; returns when its requests are answered.

        Raises:
            NotFoundError: it is not served.
        """
        self._conduct(UnloadModel(name))

    def configure(self, wanted: Mapping[str, Override]) -> None:
        """Serves these models and no others, with these policies and labels.

        Raises:
            NotFoundError: one of them is not in the repository; nothing changed.
            LoadError: one of them is broken; those before it have changed.
        """
        self._conduct(Configure(wanted))

    def refresh(self) -> None:
        """Loads what is new or changed, and unloads what is gone; what is broken is logged once, and in the status."""
        self._conduct(Refresh())

    def served(self) -> list[str]:
        """The names of the models that are served; none while they are not ready."""
        return sorted(self._models) if self._ready else []

    @contextmanager
    def use(self, name: str, version: Version = None) -> Iterator[Servable]:
        """Holds one servable, which is not closed before it is let go; without a version the newest.

        Raises:
            InvalidInputError: no name.
            NotFoundError: no such model, version or label; the message names the known ones.
            UnavailableError: models are still loading, or closed.
        """
        servable = self.get(name, version)
        while not servable.enter():  # it was replaced between the two
            servable = self.get(name, version)
        try:
            yield servable
        finally:
            servable.leave()

    def get(self, name: str, version: Version = None) -> Servable:
        """One servable, to read what it is; to run it, see ``use``.

        Raises:
            RequestError: as in ``use``.
        """
        if not self._ready:
            raise UnavailableError(f"the models are not ready: {self.unready}")
        if not name:
            raise InvalidInputError(f"the request names no model. Known: {', '.join(sorted(self._models))}")
        model = self._models.get(name)
        if model is None:
            raise NotFoundError(f"no model {quote(name)}. Known: {', '.join(sorted(self._models))}")
        if version is None:
            return model.versions[max(model.versions)]
        if isinstance(version, str):
            if version not in model.settings.labels:
                known = ", ".join(sorted(model.settings.labels)) or "none"
                raise NotFoundError(f"no version labelled {quote(version)} of model {name}. Known labels: {known}")
            version = model.settings.labels[version]
        if version not in model.versions:
            known = ", ".join(map(str, sorted(model.versions)))
            raise NotFoundError(f"no version {version} of model {name}. Known: {known}")
        return model.versions[version]

    def names(self, name: str, version: Version) -> tuple[str, str]:
        """The labels under which a request is counted: only what exists, whatever the client wrote."""
        model = self._models.get(name)
        if model is None:
            return UNKNOWN, UNKNOWN
        if isinstance(version, str):
            version = model.settings.labels.get(version, 0)
        number = max(model.versions, default=0) if version is None else version
        return name, str(number) if number in model.versions else UNKNOWN

    def failed(self, name: str, version: Version, seconds: float) -> None:
        """Counts a request that was refused or failed, if it was for something that is served."""
        with suppress(RequestError):
            self.get(name, version).statistics.failed(seconds)

    def servables(self) -> list[Servable]:
        """All servables, by name and version."""
        return [
            model.versions[version] for _, model in sorted(self._models.items()) for version in sorted(model.versions)
        ]

    def snapshot(self, servable: Servable) -> Snapshot:
        """What a model version has done since it was loaded, in every process that serves it."""
        if self._gather is None:
            return servable.statistics.snapshot()
        return self._gather(servable.name, servable.version)

    def settings(self, name: str) -> ModelSettings:
        """How a model that is served is served.

        Raises:
            NotFoundError: no such model.
        """
        if name not in self._models:
            raise NotFoundError(f"no model {quote(name)}. Known: {', '.join(sorted(self._models))}")
        return self._models[name].settings

    def labels(self, name: str, version: int) -> list[str]:
        """The labels that name a version, sorted."""
        model = self._models.get(name)
        return sorted(label for label, named in model.settings.labels.items() if named == version) if model else []

    def unloaded(self) -> list[str]:
        """The models in the repository of which no version was ever to be served, sorted."""
        return []

    def statuses(self) -> list[Status]:
        """What has become of each model version that was ever to be served, by name and version.

        Those whose folder is gone are left out while the model has others.
        """
        statuses = dict(self._statuses)
        return [statuses[key] for key in sorted(statuses)]
