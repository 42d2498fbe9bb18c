"""The model repository: ``<root>/<name>/<version>/`` with ``manifest.json`` and ``model.onnx`` -> servables.

Which versions of a model are served is its policy's business (``model_settings.py``). At start it is all or nothing: a
broken version keeps the server from starting, and the message says which file. Afterwards a model can be loaded anew
at any time (``load_model``, ``configure``, ``refresh``), and nobody who asks notices:

* What is new is loaded and warm before it takes over; what it replaces finishes its requests before it closes.
* When a new version is broken, those that were served stay, and the status says why.
* A folder that is half copied is never served: its manifest is missing, or names another SHA-256 than that of the
  half-copied file. Exporters that write aside and rename never show one. Names that begin with a dot are ignored.

Who uses a servable holds it (``use``), so that it is not closed under him.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from serving import manifest as manifests
from serving import model_settings
from serving.backend import Runtime
from serving.errors import LoadError, ManifestError, NotFoundError, RepositoryError, StartError, quote
from serving.folders import find_models, find_versions, fingerprint
from serving.metrics import Metrics
from serving.model_settings import Limits, ModelSettings, VersionPolicy
from serving.servable import Servable
from serving.shelf import Model, Shelf, State, Status

_log = logging.getLogger(__name__)


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
    ) -> None:
        super().__init__()
        self._root = root
        self._runtime = runtime
        self._limits = limits
        self._policy = policy
        self._metrics = metrics
        self._retire_seconds = retire_seconds
        self._on_change = on_change
        self._overrides: dict[str, tuple[VersionPolicy | None, Mapping[str, int]]] = {}
        self._failed: dict[str, str] = {}
        # One change at a time.
        self._changing = threading.Lock()

    def load(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Loads and warms what is to be served of every model.

        Args:
            stop: asked between two versions; when it says yes, loading ends early and the repository is not ready.

        Raises:
            StartError: there is no model, or one of them is broken.
        """
        with self._changing:
            for name in find_models(self._root):
                settings = self._read_settings(name)
                versions: dict[int, Servable] = {}
                # On the shelf from the start, so that what is loaded is closed whatever comes; nobody is ready yet.
                self._models[name] = Model(versions, settings)
                for version in self._choose(name, settings):
                    if stop():
                        return
                    versions[version] = self._load_version(name, version, settings.limits)
                _check_labels(name, settings, versions)
            self._ready = True
        for name in self._models:
            self._on_change(name, True)

    def load_model(self, name: str) -> None:
        """Brings what is served of a model into line with its folder; returns when callers get the new.

        Raises:
            NotFoundError: no such model.
            LoadError: something of it is broken; what was served before still is.
        """
        with self._changing:
            if name not in find_models(self._root):
                raise NotFoundError(f"no model {quote(name)} in the repository")
            self._reload(name)

    def unload_model(self, name: str) -> None:
        """Serves a model no longer; returns when its requests are answered.

        Raises:
            NotFoundError: it is not served.
        """
        with self._changing:
            if name not in self._models:
                raise NotFoundError(f"no model {quote(name)}. Known: {', '.join(sorted(self._models))}")
            self._unload(name, "unloaded")

    def configure(self, wanted: Mapping[str, tuple[VersionPolicy | None, Mapping[str, int]]]) -> None:
        """Serves these models and no others, with these policies (None: as before) and labels.

        Raises:
            NotFoundError: one of them is not in the repository; nothing changed.
            LoadError: one of them is broken; those before it have changed.
        """
        with self._changing:
            missing = [name for name in wanted if name not in find_models(self._root)]
            if missing:
                raise NotFoundError(f"no model {quote(missing[0])} in the repository")
            for name, override in wanted.items():
                before = self._overrides.get(name)
                self._overrides[name] = override
                try:
                    self._reload(name)
                except LoadError:
                    self._overrides.pop(name)
                    if before is not None:
                        self._overrides[name] = before
                    raise
            for name in [name for name in self._models if name not in wanted]:
                self._unload(name, "not in the configuration asked for")

    def refresh(self) -> None:
        """Loads what is new or changed, and unloads what is gone; what is broken is logged once, and in the status."""
        with self._changing:
            if not self._ready:
                return
            try:
                names = find_models(self._root)
            except RepositoryError as error:
                _log.error("%s", error)
                return
            for name in names:
                try:
                    self._reload(name)
                    self._failed.pop(name, None)
                except LoadError as error:
                    if self._failed.get(name) != str(error):
                        self._failed[name] = str(error)
                        _log.error("%s", error)
            for name in [name for name in self._models if name not in names]:
                self._unload(name, "its folder is gone")

    def close(self, timeout: float | None = None) -> None:
        """Closes every servable; each gets what is left of ``timeout`` seconds to finish what waits."""
        self._ready = False
        end = None if timeout is None else time.monotonic() + timeout
        with self._changing:
            for servable in self.servables():
                servable.close(None if end is None else max(0.0, end - time.monotonic()))
                servable.metrics.closed()

    def _reload(self, name: str) -> None:
        """Loads, swaps, retires; see the head of the module. The lock is held, as below."""
        old = self._models.get(name)
        before: dict[int, Servable] = dict(old.versions) if old else {}
        fresh: dict[int, Servable] = {}
        try:
            settings = self._read_settings(name)
            wanted = self._choose(name, settings)
        except StartError as error:
            raise LoadError(str(error)) from error
        complaints = []
        for version in wanted:
            current = before.get(version)
            try:
                if current is None or self._has_changed(current, settings.limits):
                    fresh[version] = self._load_version(name, version, settings.limits)
            except StartError as error:
                complaints.append(str(error))
        # What the policy no longer wants stays while something that it wants is broken.
        kept = before if complaints else {version: before[version] for version in wanted if version in before}
        versions = {**kept, **fresh}
        try:
            _check_labels(name, settings, versions)
        except RepositoryError as error:
            complaints.append(str(error))
            if old is None:
                versions = {}
            else:
                settings = ModelSettings(settings.limits, settings.policy, old.settings.labels)
                versions = {**before, **fresh}
        if versions:
            self._models[name] = Model(versions, settings)
            self._on_change(name, True)
        for version, servable in [*before.items(), *fresh.items()]:
            if versions.get(version) is not servable:
                self._retire(servable, "replaced" if version in versions else "not wanted by the version policy")
        if complaints:
            raise LoadError("; ".join(complaints))

    def _unload(self, name: str, why: str) -> None:
        model = self._models.pop(name)
        self._on_change(name, False)
        for servable in model.versions.values():
            self._retire(servable, why)

    def _retire(self, servable: Servable, why: str) -> None:
        key = (servable.name, servable.version)
        replaced = self._serves(servable.name, servable.version)
        if not replaced:
            self._statuses[key] = Status(*key, State.UNLOADING, why)
        servable.retire(self._retire_seconds)
        if not replaced:
            servable.metrics.closed()
            self._statuses[key] = Status(*key, State.UNAVAILABLE, why)
        _log.info("closed %s/%d: %s", *key, why)

    def _serves(self, name: str, version: int) -> bool:
        return name in self._models and version in self._models[name].versions

    def _read_settings(self, name: str) -> ModelSettings:
        settings = model_settings.read(self._root / name, self._limits, self._policy)
        if name not in self._overrides:
            return settings
        policy, labels = self._overrides[name]
        return ModelSettings(settings.limits, policy or settings.policy, dict(labels))

    def _choose(self, name: str, settings: ModelSettings) -> list[int]:
        found = find_versions(self._root / name)
        chosen = settings.policy.choose(found)
        if not chosen:
            raise RepositoryError(
                f"{self._root / name}: the version policy chooses none of the versions {', '.join(map(str, found))}"
            )
        return chosen

    def _has_changed(self, servable: Servable, limits: Limits) -> bool:
        folder = self._root / servable.name / str(servable.version)
        return servable.limits != limits or servable.fingerprint != fingerprint(folder)

    def _load_version(self, name: str, version: int, limits: Limits) -> Servable:
        serves = self._serves(name, version)
        if not serves:
            self._statuses[name, version] = Status(name, version, State.LOADING)
        try:
            servable = self._open_version(self._root / name / str(version), limits)
        except StartError as error:
            # The old one of the same number goes on; its status tells what is wrong with the new.
            state = State.READY if serves else State.UNAVAILABLE
            self._statuses[name, version] = Status(name, version, state, str(error))
            raise
        self._statuses[name, version] = Status(name, version, State.READY)
        return servable

    def _open_version(self, folder: Path, limits: Limits) -> Servable:
        started = time.monotonic()
        # Before the files are read: a change that comes while they are is then seen by the next look.
        seen = fingerprint(folder)
        path = folder / manifests.FILE_NAME
        manifest = manifests.read(path)
        for field, told, is_in in (
            ("name", manifest.name, folder.parent.name),
            ("version", str(manifest.version), folder.name),
        ):
            if told != is_in:
                raise ManifestError(f"{path}: {field}: the folder says {is_in}. Received: {told}")
        metrics = self._metrics.model(manifest.name, manifest.version)
        servable = Servable(folder, manifest, self._runtime, limits, metrics, seen)
        servable.start()
        seconds = time.monotonic() - started
        metrics.loaded(servable.provider, seconds)
        _log.info("loaded %s/%d on %s in %.3f s", servable.name, servable.version, servable.provider, seconds)
        return servable


def _check_labels(name: str, settings: ModelSettings, versions: Mapping[int, Servable]) -> None:
    for label, version in settings.labels.items():
        if version not in versions:
            raise RepositoryError(
                f"{name}: the label {label!r} names version {version}, which is not served."
                f" Served: {', '.join(map(str, sorted(versions))) or 'none'}"
            )
