"""Frames to masks: what every engine offers, and the model in this process.

An engine takes frames as fast as it works them off, from any number of threads, and no faster: ``submit`` waits while
its queue is full. What it gives back is asked for its mask later, on the thread that uses it.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from serving import imaging
from serving import manifest as manifests
from serving.backend import CPU, OnnxBackend, ProviderChoice, Runtime
from serving.errors import StartError, quote
from serving.folders import find_models, find_versions
from serving.imaging import BoolMask, Geometry, Picture, Probabilities
from serving.video.errors import FaultError, InputError, JobError
from serving.video.tiles import Tiling


@dataclass(frozen=True, slots=True)
class Identity:
    """What decides the masks, besides the tiles.

    Attributes:
        model, version: who segments.
        threshold: the probability from which a pixel is foreground.
        digest: SHA-256 of the model file; empty where only the service knows it.
    """

    model: str
    version: int
    threshold: float
    digest: str


class Pending(Protocol):
    """A frame under way."""

    def mask(self) -> BoolMask:
        """Waits for the mask, bool [H, W].

        Raises:
            InputError: this frame is refused; others may not be.
            JobError: the engine failed, or was closed before.
        """


class Engine(Protocol):
    """Turns frames into masks.

    Attributes:
        identity: who answers.
        busy: seconds spent on inference so far.
    """

    identity: Identity
    busy: float

    def submit(self, picture: Picture) -> Pending:
        """Takes a frame, RGB uint8 [H, W, 3]; waits while too many are under way.

        Raises:
            InputError: this frame is too large; others may not be.
            JobError: the engine failed, or is closed.
        """

    def close(self) -> None:
        """Ends; what is under way fails."""


class Model:
    """A segmentation model of a repository's folder, with its tiles.

    Args:
        repository: ``<repository>/<name>/<version>/``.
        name: of the model.
        version: None = the newest.
        threshold: None = the model's own.
        tiling: how frames are cut.
        provider: see the settings.
        threads: on the CPU; 0 takes what the quota allows.

    Attributes:
        identity: who answers.
        parallel: how many runs at once are best.

    Raises:
        InputError: no such model or version, a broken one, or one without masks.
    """

    def __init__(
        self,
        repository: Path,
        name: str,
        version: int | None,
        threshold: float | None,
        tiling: Tiling,
        provider: ProviderChoice,
        threads: int,
    ) -> None:
        self.parallel = 1
        try:
            folder = _version_folder(repository, name, version)
            self._manifest = manifests.read(folder / manifests.FILE_NAME)
            runtime = Runtime.choose(provider, threads)
            if runtime.provider == CPU:
                # Runs side by side, a core each: threads of one run wait for each other at every layer, and for the one
                # whose core is just drawing or encoding.
                self.parallel = runtime.threads
                runtime = replace(runtime, threads=1)
            self._backend = OnnxBackend(folder, self._manifest, runtime)
        except StartError as error:
            raise InputError(str(error)) from error
        if self._manifest.family != "segmentation":
            raise InputError(f"{folder}: a video needs a segmentation model. Received: family {self._manifest.family}")
        own = self._manifest.default_threshold
        if threshold is None:
            threshold = 0.5 if own is None else own
        self._tiling = tiling
        self.identity = Identity(name, self._manifest.version, threshold, self._manifest.onnx_sha256)

    def rows(self, picture: Picture) -> list[tuple[Picture, Geometry]]:
        """The model's inputs for one frame, one a tile, uint8 [h, w, 3], and where the tile lies in each."""
        rule = self._manifest.resizing
        return [
            imaging.resize(tile.of(picture), rule.rule, rule.height, rule.width, rule.pad_value)
            for tile in self._tiling.cut(*picture.shape[:2])
        ]

    def run(self, rows: Sequence[Picture]) -> Probabilities:
        """Inputs of any frames to probabilities [rows, h, w]."""
        (answer,) = self._backend.run({self._manifest.image.name: np.stack(rows)}, ("mask",))
        probabilities: Probabilities = answer[..., 0]
        return probabilities

    def mask(self, parts: Sequence[Probabilities], geometries: Sequence[Geometry], size: tuple[int, int]) -> BoolMask:
        """The mask of one frame of ``size`` (height, width) from the probabilities of its rows."""
        restored = [imaging.restore(part, geometry) for part, geometry in zip(parts, geometries, strict=True)]
        return imaging.to_mask(self._tiling.blend(restored, *size), self.identity.threshold)


class LocalEngine:
    """The model in this process; rows of all frames, whichever video they are of, share its batches.

    Args:
        model: does the work.
        batch_size: most rows in one run.
    """

    def __init__(self, model: Model, batch_size: int) -> None:
        self.identity = model.identity
        self.busy = 0.0
        self._model = model
        self._batch_size = batch_size
        self._waiting: deque[tuple[Picture, _Frame, int]] = deque()
        self._changed = threading.Condition()
        self._failure: JobError | None = None
        self._room = (model.parallel + 1) * batch_size
        self._threads = [
            threading.Thread(target=self._work, name=f"inference-{number}", daemon=True)
            for number in range(model.parallel)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, picture: Picture) -> Pending:
        """See ``Engine``. Resizing happens here, on the caller's thread."""
        rows = self._model.rows(picture)
        geometries = [geometry for _, geometry in rows]
        frame = _Frame(self, geometries, (picture.shape[0], picture.shape[1]))
        with self._changed:
            for number, (row, _) in enumerate(rows):
                while self._failure is None and len(self._waiting) >= self._room:
                    self._changed.wait()
                if self._failure is not None:
                    raise self._failure
                self._waiting.append((row, frame, number))
                self._changed.notify_all()
        return frame

    def finish(
        self, parts: list[Probabilities | None], geometries: Sequence[Geometry], size: tuple[int, int]
    ) -> BoolMask:
        """Waits until all parts of a frame are there, and makes its mask of them."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None or all(part is not None for part in parts))
            whole = [part for part in parts if part is not None]
            if len(whole) < len(parts) and self._failure is not None:
                raise self._failure
        return self._model.mask(whole, geometries, size)

    def close(self) -> None:
        """See ``Engine``."""
        self._fail(FaultError("the engine was closed"))
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and self._failure is None:
                    self._changed.wait()
                if self._failure is not None:
                    return
                # Where few are left each thread takes its share, so that all of them end at the same time.
                share = -(-len(self._waiting) // len(self._threads))
                batch = [self._waiting.popleft() for _ in range(min(self._batch_size, share))]
                self._changed.notify_all()
            started = time.monotonic()
            try:
                answers = self._model.run([row for row, _, _ in batch])
            except Exception as error:
                self._fail(FaultError(f"the model failed: {error}"))
                return
            with self._changed:
                self.busy += (time.monotonic() - started) / len(self._threads)
                for (_, frame, number), answer in zip(batch, answers, strict=True):
                    frame.parts[number] = answer
                self._changed.notify_all()

    def _fail(self, error: JobError) -> None:
        with self._changed:
            if self._failure is None:
                self._failure = error
            self._waiting.clear()
            self._changed.notify_all()


class _Frame:
    """A frame whose rows are under way."""

    def __init__(self, engine: LocalEngine, geometries: list[Geometry], size: tuple[int, int]) -> None:
        self.parts: list[Probabilities | None] = [None] * len(geometries)
        self._engine = engine
        self._geometries = geometries
        self._size = size

    def mask(self) -> BoolMask:
        """See ``Pending``."""
        return self._engine.finish(self.parts, self._geometries, self._size)


def _version_folder(repository: Path, name: str, version: int | None) -> Path:
    known = find_models(repository)
    if name not in known:
        raise InputError(f"no model {quote(name)} in {repository}. Known: {', '.join(known)}")
    versions = find_versions(repository / name)
    if version is not None and version not in versions:
        raise InputError(f"no version {version} of model {name}. Known: {', '.join(map(str, versions))}")
    return repository / name / str(version or versions[-1])
