"""How far the job is, for people (a bar) and for programs (a line of JSON now and then), both on stderr."""

import json
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

STAGES = ("decode", "inference", "write")
_REFRESH_SECONDS, _LINE_SECONDS = 0.5, 5.0


class Meter:
    """Counts what the stages of a job do; any thread may.

    Attributes:
        frames: written so far.
        expected: how many there will be; 0 where nobody knows.
    """

    def __init__(self) -> None:
        self.frames = 0
        self.expected = 0
        self._busy: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()
        self._inference: Callable[[], float] = lambda: 0.0
        self._started = time.monotonic()
        self._skipped = 0

    def ask_inference(self, busy: Callable[[], float]) -> None:
        """Has the engine asked for the seconds that it has worked."""
        self._inference = busy

    def expect(self, frames: int) -> None:
        """So many more frames are to come."""
        with self._lock:
            self.expected += frames

    def skip(self, frames: int) -> None:
        """So many were done by an earlier job."""
        with self._lock:
            self.frames += frames
            self._skipped += frames

    def done(self, frames: int = 1) -> None:
        """So many more frames are written."""
        with self._lock:
            self.frames += frames

    @contextmanager
    def at(self, stage: str) -> Iterator[None]:
        """Counts the time inside of the block as work of a stage."""
        started = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._busy[stage] += time.monotonic() - started

    def told(self) -> dict[str, Any]:
        """Frames, frames a second, seconds left (None where nobody knows) and load: the share of time a stage worked.

        Stages of several inputs add up, so a load may exceed 1.
        """
        elapsed = max(1e-9, time.monotonic() - self._started)
        with self._lock:
            busy = {**self._busy, "inference": self._inference()}
            rate = (self.frames - self._skipped) / elapsed
            left = (self.expected - self.frames) / rate if self.expected > self.frames and rate else None
            return {
                "frames": self.frames,
                "expected": self.expected or None,
                "frames_per_second": round(rate, 2),
                "seconds": round(elapsed, 1),
                "seconds_left": None if left is None else round(left, 1),
                "load": {stage: round(busy.get(stage, 0.0) / elapsed, 2) for stage in STAGES},
            }


class Display:
    """Shows a meter on stderr while the block runs.

    Args:
        meter: what is shown.
        mode: ``auto`` (a bar on a terminal), ``bar``, ``json`` or ``quiet``.
    """

    def __init__(self, meter: Meter, mode: str) -> None:
        self._meter = meter
        if mode == "auto":
            mode = "bar" if sys.stderr.isatty() else "quiet"
        self._mode = mode
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def event(self, event: str, **told: Any) -> None:
        """Tells of something, where the mode is JSON."""
        if self._mode == "json":
            print(json.dumps({"event": event, **told}), file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        show = {"bar": self._bar, "json": self._lines}.get(self._mode)
        if show is not None:
            self._thread = threading.Thread(target=show, name="progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _lines(self) -> None:
        while not self._over.wait(_LINE_SECONDS):
            self.event("progress", **self._meter.told())
        self.event("progress", **self._meter.told())

    def _bar(self) -> None:
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.1f} frames/s"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[load]}"),
        )
        with Progress(*columns, console=Console(stderr=True), transient=False) as progress:
            task = progress.add_task("", total=None, rate=0.0, load="")
            while not self._over.wait(_REFRESH_SECONDS):
                self._update(progress, task)
            self._update(progress, task)

    def _update(self, progress: Progress, task: TaskID) -> None:
        told = self._meter.told()
        load = " ".join(f"{stage} {share:.0%}" for stage, share in told["load"].items())
        progress.update(
            task,
            completed=told["frames"],
            total=told["expected"],
            rate=told["frames_per_second"],
            load=load,
        )
