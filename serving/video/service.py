"""Frames to masks through a running service, by one ``SegmentStream``.

A frame stays with us until its mask is here. When the line is lost, or nothing comes for too long, or the service is
too busy, another is opened and what was not answered is sent again; masks that came stay. A picture that the service
refuses is the matter of its frame, and of no other. Tiles travel as pictures of their own and come back as
probabilities, to be blended here just as in process.
"""

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from serving.client import Client, Mask, ServiceError
from serving.client.clients import DEFAULT_MAX_MESSAGE_BYTES
from serving.imaging import BoolMask, Picture, to_mask
from serving.video.engines import Identity, Pending
from serving.video.errors import FaultError, InputError, JobError, StoppedError
from serving.video.tiles import Tiling

# Statuses that pass: the line, the load, or a server that stops or starts. The names, since gRPC is the client's.
_PASSING = ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "CANCELLED", "ABORTED", "UNKNOWN", "INTERNAL")
# The one that a picture has to itself.
_REFUSED = "INVALID_ARGUMENT"
# Pictures under way: twice the server's usual window, so that it never waits for us.
_WINDOW = 32
_LEAST_PAUSE, _MOST_PAUSE = 0.2, 5.0
# How long a pause may go on when it should end.
_PATIENCE_SECONDS = 0.2
# Of a message, beside the picture.
_ENVELOPE_BYTES = 1024
# What gRPC says of a message that the service is set not to take; it ends the line.
_TOO_LARGE = re.compile(r"message larger than max \((\d+) vs")

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Crop:
    """A picture that was or will be sent, and its answer or why there is none."""

    picture: Picture
    answer: Mask | ServiceError | None = None


@dataclass(slots=True, eq=False)
class _Line:
    """One stream: of the crops that wait for an answer it has sent the first ``sent``."""

    client: Client
    sent: int = 0
    over: bool = False
    heard: float = field(default_factory=time.monotonic)


class ServiceEngine:
    """A running service.

    Args:
        connect: opens a connection.
        target: where to, for messages.
        model: name of the model.
        version: None = the newest.
        threshold: None = the model's own.
        tiling: how frames are cut.
        timeout: seconds without an answer after which a line counts as lost.
        retry_seconds: how long to try again without one answer.
        stop: when it is set, no lost line is opened again; what a living one owes is still waited for.

    Raises:
        InputError: the service does not know the model, or it has no masks.
        FaultError: the service cannot be reached.
        StoppedError: it could not be reached before the stop.
    """

    def __init__(
        self,
        connect: Callable[[], Client],
        *,
        target: str,
        model: str,
        version: int | None,
        threshold: float | None,
        tiling: Tiling,
        timeout: float,
        retry_seconds: float,
        stop: threading.Event,
    ) -> None:
        self.busy = 0.0
        self._connect = connect
        self._target = target
        self._tiling = tiling
        self._timeout = timeout
        self._retry_seconds = retry_seconds
        self._stop = stop
        self._waiting: deque[_Crop] = deque()
        self._changed = threading.Condition()
        self._failure: JobError | None = None
        self._progress = time.monotonic()
        self.identity = self._identify(model, version, threshold)
        self._thread = threading.Thread(target=self._work, name="service", daemon=True)
        self._thread.start()

    def submit(self, picture: Picture) -> Pending:
        """See ``Engine``."""
        size = (picture.shape[0], picture.shape[1])
        crops = [_Crop(tile.of(picture)) for tile in self._tiling.cut(*size)]
        if max(crop.picture.nbytes for crop in crops) + _ENVELOPE_BYTES > DEFAULT_MAX_MESSAGE_BYTES:
            raise InputError(
                f"a picture of at most {DEFAULT_MAX_MESSAGE_BYTES} bytes goes through the service; see --resize and"
                f" --tile. Received: {size[1]} x {size[0]}"
            )
        with self._changed:
            for crop in crops:
                self._changed.wait_for(lambda: self._failure is not None or len(self._waiting) < _WINDOW)
                if self._failure is not None:
                    raise self._failure
                if not self._waiting:
                    self._progress = time.monotonic()  # until now nothing was owed
                self._waiting.append(crop)
                self._changed.notify_all()
        return _Frame(self, crops, size)

    def finish(self, crops: Sequence[_Crop], size: tuple[int, int]) -> BoolMask:
        """Waits until all crops of a frame are answered, and makes its mask of them.

        Raises:
            InputError: the service refuses one of them.
            JobError: the engine failed, or was closed before.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None or all(crop.answer is not None for crop in crops))
            answers = [crop.answer for crop in crops if crop.answer is not None]
            if len(answers) < len(crops) and self._failure is not None:
                raise self._failure
        masks: list[Mask] = []
        for answer in answers:
            if isinstance(answer, ServiceError):
                raise InputError(f"{self._target}: {answer}")
            masks.append(answer)
        if len(masks) == 1:
            return masks[0].array
        parts = [mask.probabilities for mask in masks if mask.probabilities is not None]
        return to_mask(self._tiling.blend(parts, *size), self.identity.threshold)

    def close(self) -> None:
        """See ``Engine``."""
        self._fail(FaultError("the engine was closed"))
        self._thread.join()

    def _identify(self, model: str, version: int | None, threshold: float | None) -> Identity:
        """Asks what the service has, and settles on one version for the whole job."""
        while True:
            try:
                with self._connect() as client:
                    listed = client.models()
                break
            except ServiceError as error:
                self._despair(error, owing=True)
            self._pause(_LEAST_PAUSE)
        found = {each.version: each for each in listed if each.name == model}
        if not found:
            known = ", ".join(sorted({each.name for each in listed}))
            raise InputError(f"{self._target}: no model {model!r}. Known: {known}")
        if version is not None and version not in found:
            known = ", ".join(map(str, sorted(found)))
            raise InputError(f"{self._target}: no version {version} of model {model}. Known: {known}")
        chosen = found[version or max(found)]
        if chosen.family != "segmentation":
            raise InputError(f"{self._target}: {model} has no masks: its family is {chosen.family}")
        own = 0.5 if chosen.default_threshold is None else chosen.default_threshold
        return Identity(model, chosen.version, own if threshold is None else threshold, digest="")

    def _work(self) -> None:
        pause = _LEAST_PAUSE
        try:
            while True:
                before = self._progress
                try:
                    self._converse()
                except ServiceError as error:
                    if not self._refuse(error):
                        self._despair(error, owing=bool(self._waiting))
                pause = _LEAST_PAUSE if self._progress > before else min(2 * pause, _MOST_PAUSE)
                self._pause(pause)
        except JobError as end:
            self._fail(end)

    def _pause(self, seconds: float) -> None:
        """Waits before another try.

        Raises:
            JobError: there is to be none: the job was stopped, or the engine closed.
        """
        end = time.monotonic() + seconds
        with self._changed:
            while (left := end - time.monotonic()) > 0 and self._failure is None and not self._stop.is_set():
                self._changed.wait(min(left, _PATIENCE_SECONDS))
            if self._failure is not None:
                raise self._failure
        if self._stop.is_set():
            raise StoppedError("stopped by a signal; run again with --resume")

    def _converse(self) -> None:
        """Sends and takes answers over one line, until it ends."""
        line = _Line(self._connect())
        watcher = threading.Thread(target=self._watch, args=(line,), name="service-watch", daemon=True)
        watcher.start()
        who = self.identity
        try:
            answers = line.client.segment_stream(
                self._pictures(line),
                who.model,
                who.threshold,
                version=who.version,
                probabilities=bool(self._tiling.side),
            )
            for answer in answers:
                if isinstance(answer, ServiceError) and answer.code.name != _REFUSED:
                    raise answer
                with self._changed:
                    line.heard = self._progress = time.monotonic()
                    line.sent -= 1
                    self._waiting.popleft().answer = answer
                    if not isinstance(answer, ServiceError):
                        self.busy += answer.timings.inference
                    self._changed.notify_all()
        except ValueError:
            # gRPC's word for a channel that was closed before the stream began: the engine is being closed.
            if self._failure is None:
                raise
        finally:
            with self._changed:
                line.over = True
                self._changed.notify_all()
            line.client.close()
            watcher.join()

    def _pictures(self, line: _Line) -> Iterator[Picture]:
        """What the line sends: the oldest that it has not sent yet, for ever."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: line.over or self._failure is not None or len(self._waiting) > line.sent)
                if line.over or self._failure is not None:
                    return
                picture = self._waiting[line.sent].picture
                if not line.sent:
                    line.heard = time.monotonic()
                line.sent += 1
            yield picture

    def _watch(self, line: _Line) -> None:
        """Closes a line that owes answers and gives none, which ends it for those who read from it."""
        with self._changed:
            while not line.over:
                quiet = time.monotonic() - line.heard if line.sent else 0.0
                if quiet > self._timeout or self._failure is not None:
                    break
                self._changed.wait(min(1.0, self._timeout))
        line.client.close()

    def _refuse(self, error: ServiceError) -> bool:
        """Gives up the pictures for which the service ended the line and would end the next; returns whether it did."""
        told = _TOO_LARGE.search(str(error))
        if told is None:
            return False
        with self._changed:
            refused = [crop for crop in self._waiting if 0 <= int(told[1]) - crop.picture.nbytes <= _ENVELOPE_BYTES]
            for crop in refused:
                self._waiting.remove(crop)
                crop.answer = error
                self._progress = time.monotonic()
            self._changed.notify_all()
        return bool(refused)

    def _despair(self, error: ServiceError, *, owing: bool) -> None:
        """Returns if another try may help.

        Args:
            error: what the last one ended with.
            owing: whether an answer is waited for; a camera may be silent for longer than a line lasts.

        Raises:
            JobError: it cannot, or there were enough.
        """
        if self._failure is not None:
            raise self._failure  # it was we who closed the line
        if error.code.name not in _PASSING:
            raise InputError(f"{self._target}: {error}") from error
        if owing and time.monotonic() - self._progress > self._retry_seconds:
            raise FaultError(f"{self._target}: no answer for {self._retry_seconds:g} s: {error}") from error
        _log.warning("%s: %s; trying again", self._target, error)

    def _fail(self, error: JobError) -> None:
        with self._changed:
            if self._failure is None:
                self._failure = error
            self._waiting.clear()
            self._changed.notify_all()


class _Frame:
    """A frame whose crops are under way."""

    def __init__(self, engine: ServiceEngine, crops: list[_Crop], size: tuple[int, int]) -> None:
        self._engine = engine
        self._crops = crops
        self._size = size

    def mask(self) -> BoolMask:
        """See ``Pending``."""
        return self._engine.finish(self._crops, self._size)
