"""Frames of what is live, until the sender ends it: a lost line is opened again, and time goes on meanwhile.

Whatever lies in the past cannot be read again, so there is no going on after a frame. The sound is not kept.
"""

import logging
import threading
import time
from collections.abc import Generator, Iterator
from fractions import Fraction
from typing import Any

import av

from serving.video.containers import video_stream
from serving.video.errors import FaultError, InputError, StoppedError
from serving.video.planes import Colours
from serving.video.reading import Anchor, Clip, Frame, Normaliser, Note, Selection
from serving.video.sources import public

# The units in which RTP tells time for video; lines that are opened again may have other time bases.
_TICKS = 90_000
_LEAST_PAUSE, _MOST_PAUSE = 0.5, 10.0

_log = logging.getLogger(__name__)


class StreamReader:
    """A network stream: RTSP, RTMP, UDP, playlists (HLS, DASH), HTTP without a length and whatever else FFmpeg reads.

    The first frame is at 0 seconds. RTSP comes over TCP unless an input option says otherwise: over UDP lost packets
    show as smears.

    Args:
        address: of the stream.
        selection: which frames, and how long to wait for packets and for a lost line.
        stop: ends that waiting.

    Raises:
        InputError: what is there is no video.
        FaultError: nothing is there within the time to retry.
        StoppedError: nothing was there before the stop.
    """

    def __init__(self, address: str, selection: Selection, stop: threading.Event) -> None:
        self._address = address
        self._selection = selection
        self._stop = stop
        self.tail: tuple[Note, ...] = ()
        self._container, self._first = self._connect()
        stream = video_stream(self._container)
        normaliser = Normaliser(selection)
        height, width = normaliser.picture(self._first, []).shape[:2]
        self.clip = Clip(
            width=width,
            height=height,
            time_base=Fraction(1, _TICKS),
            rate=stream.average_rate or stream.guessed_rate or Fraction(25),
            aspect=normaliser.aspect(self._first, stream.sample_aspect_ratio),
            frames=0,
            sound=False,
            colours=Colours.of(self._first),
        )

    def frames(self, after: Anchor | None = None) -> Generator[Frame]:
        """See ``Reader``; what was met is noted, and a line that stays lost ends the reading with a note."""
        if after is not None:
            raise InputError(f"{public(self._address)}: a stream cannot be read again from an earlier frame")
        normaliser = Normaliser(self._selection, self.clip)
        notes: list[Note] = []
        started = time.monotonic()
        number, last = -1, -1
        try:
            for decoded, connected in self._decoded(notes):
                number += 1
                # Each line counts from its own first frame; where it begins, the clock on the wall says.
                seconds = connected - started + self._seconds
                pts = max(round(seconds * _TICKS), last + 1)
                last = pts
                at = pts / _TICKS
                if self._selection.behind(at):
                    return
                if self._selection.has(number, at):
                    yield normaliser.frame(decoded, number, pts, at, notes)
        finally:
            self.tail = tuple(notes)
            self._container.close()

    def _decoded(self, notes: list[Note]) -> Iterator[tuple[Any, float]]:
        """Frames and the moment at which their line was opened; ``_seconds`` is then their time since that."""
        decoded: Any = self._first
        connected = time.monotonic()
        while True:
            origin = _seconds(decoded)
            last = 0.0
            rest = self._rest()
            while decoded is not None:
                at = _seconds(decoded)
                # A sender that tells no time is taken at its word as it speaks.
                told = time.monotonic() - connected if at is None or origin is None else at - origin
                self._seconds = last = max(last, told)
                yield decoded, connected
                try:
                    decoded = next(rest, None)
                except av.InvalidDataError:
                    notes.append(Note("a part that cannot be decoded", loses=True))
                    # The iterator is over after an error; a fresh one reads on.
                    rest = self._rest()
                    decoded = next(rest, None)
                except av.FFmpegError as error:
                    _log.warning("%s: lost: %s", public(self._address), error.strerror)
                    break
            else:
                return
            self._container.close()
            try:
                self._container, decoded = self._connect()
            except FaultError:
                notes.append(
                    Note(f"the line was lost and not found again in {self._selection.retry_seconds:g} s", True)
                )
                return
            except StoppedError:
                notes.append(Note("the line was lost and not found again before a signal ended the recording", True))
                return
            notes.append(Note("the line was lost and found again", loses=True))
            connected = time.monotonic()

    def _rest(self) -> Iterator[Any]:
        return iter(self._container.decode(video_stream(self._container)))

    def _connect(self) -> tuple[Any, Any]:
        """Opens the stream and waits for a first frame."""
        end = time.monotonic() + self._selection.retry_seconds
        pause = _LEAST_PAUSE
        while not self._stop.is_set():
            try:
                return self._open()
            except av.FFmpegError as error:
                if _is_no_video(error):
                    raise InputError(
                        f"{public(self._address)}: no video that FFmpeg can read: {error.strerror}"
                    ) from None
                if time.monotonic() + pause > end:
                    raise FaultError(f"{public(self._address)}: cannot be reached: {error.strerror}") from None
                _log.info("%s: %s; trying again in %.1f s", public(self._address), error.strerror, pause)
            self._stop.wait(pause)
            pause = min(2 * pause, _MOST_PAUSE)
        raise StoppedError(f"{public(self._address)}: stopped by a signal before it was reached")

    def _open(self) -> tuple[Any, Any]:
        options = dict(self._selection.options)
        if self._address.lower().startswith("rtsp"):
            options = {"rtsp_transport": "tcp"} | options
        container = av.open(self._address, options=options, timeout=self._selection.timeout)
        try:
            stream = video_stream(container)
            if stream is None:
                raise InputError(f"{public(self._address)}: there is no video stream in it ({container.format.name})")
            stream.thread_type = "AUTO"
            first = next(iter(container.decode(stream)), None)
            if first is None:
                raise InputError(f"{public(self._address)}: it ended without one frame")
        except BaseException:
            container.close()
            raise
        return container, first


def _seconds(frame: Any) -> float | None:
    """The time that a frame tells; of packets without a time to show them, that to decode them."""
    if frame.time is not None:
        return float(frame.time)
    return None if frame.dts is None or frame.time_base is None else float(frame.dts * frame.time_base)


def _is_no_video(error: av.FFmpegError) -> bool:
    kinds: tuple[type[Exception], ...] = (av.InvalidDataError, av.ProtocolNotFoundError, av.DemuxerNotFoundError)
    return isinstance(error, kinds)
