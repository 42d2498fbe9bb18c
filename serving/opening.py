"""From a version's folder to a servable: manifest, sessions and warm-up."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from serving import manifest as manifests
from serving.backend import Runtime
from serving.errors import ManifestError
from serving.folders import fingerprint
from serving.metrics import Metrics
from serving.model_settings import Limits
from serving.servable import LoadedServable
from serving.tracing import Tracer

_log = logging.getLogger(__name__)


class Opener:
    """Loads and warms versions.

    Args:
        runtime: provider and threads of each session.
        metrics: where loads and runs are noted.
        tracer: where runs of traced requests are told of; None: no traces.
    """

    def __init__(self, runtime: Runtime, metrics: Metrics, tracer: Tracer | None) -> None:
        self._runtime = runtime
        self._metrics = metrics
        self._tracer = tracer

    def open(self, folder: Path, limits: Limits, stop: Callable[[], bool]) -> LoadedServable:
        """The version of a folder, ready to run.

        Args:
            folder: ``<name>/<version>``.
            limits: batch, queue and instances.
            stop: asked between two runs of the warm-up.

        Raises:
            StartError: it is broken.
            UnavailableError: ``stop`` said yes.
        """
        started = time.monotonic()
        # Before the files are read: a change that comes while they are is then seen by the next look.
        seen = fingerprint(folder)
        path = folder / manifests.FILE_NAME
        manifest = manifests.read(path)
        said = [("name", manifest.name, folder.parent.name), ("version", str(manifest.version), folder.name)]
        for field, told, is_in in said:
            if told != is_in:
                raise ManifestError(f"{path}: {field}: the folder says {is_in}. Received: {told}")
        metrics = self._metrics.model(manifest.name, manifest.version)
        servable = LoadedServable(folder, manifest, self._runtime, limits, metrics, seen, self._tracer)
        servable.start(stop)
        seconds = servable.load_seconds = time.monotonic() - started
        metrics.loaded(servable.provider, seconds)
        _log.info("loaded %s/%d on %s in %.3f s", servable.name, servable.version, servable.provider, seconds)
        return servable
