"""The model repository: ``<root>/<name>/<version>/`` with ``manifest.json`` and ``model.onnx`` -> servables.

Every version of every model is loaded at start, all or nothing: a broken one keeps the server from starting, and the
message says which file. Versions are positive integers. Names that begin with a dot are ignored: exporters write
there and rename when whole. Other files beside (SavedModel's, say) are ignored too.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serving import manifest as manifests
from serving.backend import OnnxBackend, Runtime
from serving.batcher import Array, DynamicBatcher, Rows
from serving.call import Call
from serving.errors import (
    InferenceError,
    InvalidInputError,
    ManifestError,
    ModelError,
    NotFoundError,
    RepositoryError,
    UnavailableError,
    quote,
)
from serving.manifest import Manifest, TensorSpec
from serving.metrics import Metrics, ModelMetrics

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one model may take on at a time; see ``DynamicBatcher``."""

    max_batch_size: int
    max_queue_size: int


class Servable:
    """One model version, loaded: manifest, session, queue.

    Args:
        folder: the version folder.
        manifest: its manifest.
        runtime: provider and threads.
        limits: batch and queue sizes.
        metrics: where the runs are noted.

    Raises:
        StartError: the model cannot be loaded.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, runtime: Runtime, limits: Limits, metrics: ModelMetrics
    ) -> None:
        self.manifest = manifest
        self.metrics = metrics
        backend = OnnxBackend(folder, manifest, runtime)
        self.provider = backend.provider
        self._batcher = DynamicBatcher(
            backend.run,
            name=f"{manifest.name}/{manifest.version}",
            max_batch_size=limits.max_batch_size,
            max_queue_size=limits.max_queue_size,
            caller_runs=not backend.one_thread,
            on_batch=metrics.observe_batch,
        )

    @property
    def name(self) -> str:
        """Of the model."""
        return self.manifest.name

    @property
    def version(self) -> int:
        """Of the model."""
        return self.manifest.version

    def start(self) -> None:
        """Starts the run thread and runs the model once, so that no caller pays for the first run.

        Raises:
            ModelError: the model does not run.
        """
        self._batcher.start()
        try:
            self.infer({spec.name: _blank(spec, self.manifest) for spec in self.manifest.inputs}, None, Call())
        except InferenceError as error:
            self.close()
            raise ModelError(f"{self.name}/{self.version}: the warm-up run failed: {error.__cause__}") from error

    def infer(self, inputs: Mapping[str, Array], outputs: tuple[str, ...] | None, call: Call) -> Rows:
        """Runs checked inputs in a batch with others' and waits for the rows.

        Args:
            inputs: name -> array [rows, ...].
            outputs: those wanted; None = all.
            call: whose request it is.

        Raises:
            RequestError: see ``DynamicBatcher.infer``.
        """
        return self._batcher.infer(inputs, outputs or self.manifest.output_names, call)

    def close(self, timeout: float | None = None) -> None:
        """Finishes what waits, at most for ``timeout`` seconds, and ends the run thread."""
        self.metrics.closed()
        self._batcher.close(timeout)


class ModelRepository:
    """The models of one folder.

    Args:
        root: the folder.
        runtime: provider and threads of each session.
        limits: of each model.
        metrics: where loads and runs are noted.
    """

    def __init__(self, root: Path, runtime: Runtime, limits: Limits, metrics: Metrics) -> None:
        self._root = root
        self._runtime = runtime
        self._limits = limits
        self._metrics = metrics
        self._servables: dict[str, dict[int, Servable]] = {}
        self._ready = False

    @property
    def ready(self) -> bool:
        """Whether every model is loaded, warm and open."""
        return self._ready

    def load(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Loads and warms every version of every model.

        Args:
            stop: asked between two models; when it says yes, loading ends early and the repository is not ready.

        Raises:
            StartError: there is no model, or one of them is broken.
        """
        for folder in find_versions(self._root):
            if stop():
                return
            servable = self._load_version(folder)
            self._servables.setdefault(servable.name, {})[servable.version] = servable
        self._ready = True

    def get(self, name: str, version: int | None = None) -> Servable:
        """One servable; without a version the newest.

        Raises:
            InvalidInputError: no name.
            NotFoundError: no such model or version; the message names the known ones.
            UnavailableError: models are still loading, or closed.
        """
        if not self._ready:
            raise UnavailableError("the models are not ready: the server is starting or stopping")
        if not name:
            raise InvalidInputError(f"the request names no model. Known: {', '.join(sorted(self._servables))}")
        versions = self._servables.get(name)
        if versions is None:
            raise NotFoundError(f"no model {quote(name)}. Known: {', '.join(sorted(self._servables))}")
        if version is None:
            return versions[max(versions)]
        if version not in versions:
            raise NotFoundError(f"no version {version} of model {name}. Known: {', '.join(map(str, sorted(versions)))}")
        return versions[version]

    def servables(self) -> list[Servable]:
        """All servables, by name and version."""
        return [versions[version] for _, versions in sorted(self._servables.items()) for version in sorted(versions)]

    def close(self, timeout: float | None = None) -> None:
        """Closes every servable; each gets what is left of ``timeout`` seconds to finish what waits."""
        self._ready = False
        end = None if timeout is None else time.monotonic() + timeout
        for servable in self.servables():
            servable.close(None if end is None else max(0.0, end - time.monotonic()))

    def _load_version(self, folder: Path) -> Servable:
        started = time.monotonic()
        path = folder / manifests.FILE_NAME
        manifest = manifests.read(path)
        for field, told, is_in in (
            ("name", manifest.name, folder.parent.name),
            ("version", str(manifest.version), folder.name),
        ):
            if told != is_in:
                raise ManifestError(f"{path}: {field}: the folder says {is_in}. Received: {told}")
        metrics = self._metrics.model(manifest.name, manifest.version)
        servable = Servable(folder, manifest, self._runtime, self._limits, metrics)
        servable.start()
        seconds = time.monotonic() - started
        metrics.loaded(servable.provider, seconds)
        _log.info("loaded %s/%d on %s in %.3f s", servable.name, servable.version, servable.provider, seconds)
        return servable


def find_versions(root: Path) -> list[Path]:
    """The version folders under a repository root, by name and version.

    Raises:
        RepositoryError: the root is no folder, a model has no version, a version is no positive integer, or there is
            no model at all.
    """
    if not root.is_dir():
        raise RepositoryError(f"{root}: the model repository is no folder")
    found: list[Path] = []
    for model in _folders(root):
        versions = _folders(model)
        for folder in versions:
            if not (folder.name.isascii() and folder.name.isdigit()) or folder.name.startswith("0"):
                raise RepositoryError(f"{folder}: a version folder is named by a positive integer, e.g. 1")
        if not versions:
            raise RepositoryError(f"{model}: the model has no version folder")
        found += sorted(versions, key=lambda folder: int(folder.name))
    if not found:
        raise RepositoryError(f"{root}: the model repository is empty; it holds <name>/<version>/manifest.json")
    return found


def _folders(parent: Path) -> list[Path]:
    return sorted(entry for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _blank(spec: TensorSpec, manifest: Manifest) -> npt.NDArray[np.generic]:
    """One row of zeros at the size that pictures are brought to."""
    sizes = {"height": manifest.resizing.height, "width": manifest.resizing.width}
    shape = [sizes.get(axis, 1) if size == -1 else size for size, axis in zip(spec.shape, spec.axes, strict=True)]
    return np.zeros(shape, dtype=spec.numpy_dtype)
