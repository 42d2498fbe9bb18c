"""Changes to which models are served: what can be ordered, and how an order is carried out, one at a time.

The same steps whether the models live in this process or in several: what ``Models`` reloads and unloads for one model
is then done in all of them or in none (``processes/fleet.py``).
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from serving.errors import LoadError, NotFoundError, RepositoryError, UnavailableError, quote
from serving.model_settings import VersionPolicy

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Override:
    """What a caller asked for in place of what a model's own settings say.

    Attributes:
        policy: None = that of its own settings.
        labels: label -> version; None = those of its own settings.
    """

    policy: VersionPolicy | None
    labels: Mapping[str, int] | None


# What ends every other override.
OWN_SETTINGS = Override(None, None)


@dataclass(frozen=True, slots=True)
class LoadModel:
    """Bring what is served of a model into line with its folder, and its settings there."""

    name: str


@dataclass(frozen=True, slots=True)
class UnloadModel:
    """Serve a model no longer."""

    name: str


@dataclass(frozen=True, slots=True)
class Configure:
    """Serve these models and no others."""

    wanted: Mapping[str, Override]


@dataclass(frozen=True, slots=True)
class Refresh:
    """Load what is new or changed, and unload what is gone; but what an order had unloaded stays so."""


Order = LoadModel | UnloadModel | Configure | Refresh


class Models(Protocol):
    """What an order is carried out on."""

    def found(self) -> list[str]:
        """The names in the repository's folder. Raises RepositoryError."""

    def served(self) -> list[str]:
        """The names of the models that are served; none while the models are not ready."""

    def reload(self, name: str, override: Override | None = None) -> None:
        """Loads what is new or changed of one model, and returns when callers get it.

        Args:
            name: of the model.
            override: kept until the model is unloaded, unless this reload fails; None = as before.

        Raises:
            LoadError: something of it is broken; what was served before still is.
        """

    def unload(self, name: str, why: str) -> None:
        """Serves a model no longer; returns when its requests are answered."""


class Changes:
    """Carries out orders, one at a time, and remembers what ``Refresh`` is not to undo.

    Args:
        models: what is changed.
    """

    def __init__(self, models: Models) -> None:
        self._models = models
        self._failed: dict[str, str] = {}
        self._unloaded: set[str] = set()
        # Those of the last ``Configure`` and what was loaded since; None: there was none.
        self._configured: set[str] | None = None
        self.lock = threading.Lock()

    def carry_out(self, order: Order) -> None:
        """Does what is ordered; returns when it is so for every caller.

        Raises:
            NotFoundError: a model named is not there; nothing changed.
            LoadError: a model is broken; what was served of it still is, and those before it have changed.
        """
        with self.lock:
            match order:
                case LoadModel(name):
                    self._check_found([name])
                    self._unloaded.discard(name)
                    if self._configured is not None:
                        self._configured.add(name)
                    self._models.reload(name, OWN_SETTINGS)
                case UnloadModel(name):
                    served = self._models.served()
                    if name not in served:
                        raise NotFoundError(f"no model {quote(name)}. Known: {', '.join(served)}")
                    self._unloaded.add(name)
                    self._models.unload(name, "unloaded")
                case Configure(wanted):
                    self._check_found(list(wanted))
                    for name, override in wanted.items():
                        self._models.reload(name, override)
                    self._configured, self._unloaded = set(wanted), set()
                    for name in set(self._models.served()) - set(wanted):
                        self._models.unload(name, "not in the configuration asked for")
                case Refresh():
                    self._refresh()

    def _check_found(self, names: list[str]) -> None:
        try:
            found = self._models.found()
        except RepositoryError as error:
            raise LoadError(str(error)) from error
        missing = [name for name in names if name not in found]
        if missing:
            raise NotFoundError(f"no model {quote(missing[0])} in the repository")

    def _refresh(self) -> None:
        """What is broken is logged once, and in the status."""
        try:
            found = self._models.found()
        except RepositoryError as error:
            _log.error("%s", error)
            return
        allowed = found if self._configured is None else [name for name in found if name in self._configured]
        for name in (name for name in allowed if name not in self._unloaded):
            try:
                self._models.reload(name)
                self._failed.pop(name, None)
            except UnavailableError:
                raise
            except Exception as error:  # the others are looked at all the same
                if self._failed.get(name) != str(error):
                    self._failed[name] = str(error)
                    _log.error("%s: %s", name, error, exc_info=None if isinstance(error, LoadError) else error)
        for name in set(self._models.served()) - set(found):
            self._models.unload(name, "its folder is gone")


def poll(refresh: Callable[[], None], seconds: float, stopping: threading.Event) -> None:
    """Refreshes every so many seconds until ``stopping`` is set, whatever one of the looks comes to."""
    while not stopping.wait(seconds):
        try:
            refresh()
        except UnavailableError as error:  # it is being closed, or nobody has the models at the moment
            _log.debug("poll: %s", error)
        except Exception:
            _log.exception("looking for models failed; the next time is in %g s", seconds)
