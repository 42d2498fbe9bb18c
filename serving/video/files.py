"""Readers of what can be read again: videos, on disk or behind http(s), and folders of pictures."""

import zlib
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from serving import imaging
from serving.errors import InvalidPictureError
from serving.imaging import Picture
from serving.video.containers import lost, open_container, video_stream
from serving.video.errors import InputError
from serving.video.planes import Colours
from serving.video.reading import Anchor, Clip, Frame, Normaliser, Note, Selection
from serving.video.sources import PICTURES, is_web, natural, public

# Demuxers that take any text or single picture for a video.
_NO_VIDEOS = frozenset({"tty", "image2", "png_pipe", "jpeg_pipe", "webp_pipe", "bmp_pipe", "gif_pipe", "svg_pipe"})
_MICROSECOND = Fraction(1, 1_000_000)


class VideoReader:
    """A video file.

    Args:
        address: path or URL.
        selection: which frames.

    Raises:
        JobError: see ``open_reader``.
    """

    def __init__(self, address: str, selection: Selection) -> None:
        self._address = address
        self._name = public(address)
        self._selection = selection
        self.tail: tuple[Note, ...] = ()
        self._begin: int | None = None
        with self._open() as container:
            stream = video_stream(container)
            first = next(self._decoded(container, stream, []), None)
            if first is None:
                raise InputError(f"{self._name}: not one frame can be decoded")
            # AVI tells only when to decode, and what FFmpeg makes of that does not rise where frames come in another
            # order than they are shown. A frame is shown as long after that as the first one is.
            self._delay: int | None = None
            if container.format.name == "avi":
                self._delay = 0 if first.dts is None or self._begin is None else first.dts - self._begin
            try:
                normaliser = Normaliser(selection)
                picture = normaliser.picture(first, [])
            except InputError as error:
                raise InputError(f"{self._name}: {error}") from None
            rate = stream.average_rate or stream.guessed_rate or Fraction(25)
            self._seconds = _duration(container, stream)
            announced = stream.frames or round((self._seconds or 0.0) * rate)
            self.clip = Clip(
                width=picture.shape[1],
                height=picture.shape[0],
                time_base=stream.time_base or _MICROSECOND,
                rate=rate,
                aspect=normaliser.aspect(first, stream.sample_aspect_ratio),
                frames=selection.count(announced, self._seconds),
                sound=bool(container.streams.audio),
                colours=Colours.of(first),
            )

    def frames(self, after: Anchor | None = None) -> Generator[Frame]:
        """See ``Reader``. Going on seeks to the key frame before, and checks that it came to the same frame."""
        if after is None:
            yield from self._read(-1, None)
            return
        last = after.number
        try:
            for frame in self._read(last, after):
                if any(note.loses for note in frame.notes):
                    # Decoders mend what is damaged from frames before, and those lie before the place sought, too.
                    raise _LostAnchorError
                last = frame.number
                yield frame
        except _LostAnchorError:
            yield from self._read(last, None)

    def _read(self, last: int, awaited: Anchor | None) -> Iterator[Frame]:
        """The selected frames behind number ``last``, from the start or, after seeking to it, from ``awaited``."""
        notes: list[Note] = []
        normaliser = Normaliser(self._selection, self.clip)
        with self._open() as container:
            stream = video_stream(container)
            clock = _Clock(self.clip, container.start_time)
            numbers = -1
            if awaited is not None:
                try:
                    container.seek(awaited.pts, stream=stream, backward=True, any_frame=False)
                except av.FFmpegError as error:  # a damaged index
                    raise _LostAnchorError from error
            for decoded in self._decoded(container, stream, notes):
                if awaited is not None:
                    stamp = self._stamp(decoded)
                    if stamp is None or stamp > awaited.pts:
                        raise _LostAnchorError
                    if stamp == awaited.pts:
                        if zlib.crc32(normaliser.picture(decoded, []).data) != awaited.digest:
                            raise _LostAnchorError
                        numbers, awaited = awaited.number, None
                        clock.reach(stamp)
                        notes.clear()
                    continue
                numbers += 1
                pts = clock.tick(self._stamp(decoded), notes)
                time = clock.seconds(pts)
                if self._selection.behind(time):
                    self.tail = ()
                    return
                if numbers <= last:
                    notes.clear()
                elif self._selection.has(numbers, time):
                    yield normaliser.frame(decoded, numbers, pts, time, notes)
            if awaited is not None:
                raise _LostAnchorError
            notes += self._shortfall(clock)
            self.tail = tuple(notes)

    def _stamp(self, decoded: Any) -> int | None:
        """When a frame is shown, in the clip's time base, as far as the container tells."""
        if self._delay is None:
            stamp: int | None = decoded.pts
            return stamp
        return None if decoded.dts is None else decoded.dts - self._delay

    def _open(self) -> Any:
        container = open_container(self._address, self._selection)
        name = container.format.name
        stream = video_stream(container)
        if name in _NO_VIDEOS or stream is None:
            container.close()
            what = "no video, but a text or a picture" if name in _NO_VIDEOS else "there is no video stream in it"
            raise InputError(f"{self._name}: {what} ({name})")
        # With more threads, what a decoder makes of damaged parts differs from time to time, and a resumed run would
        # not be what an unbroken one is. There is work enough for the other cores.
        stream.codec_context.thread_count = 1
        return container

    def _decoded(self, container: Any, stream: Any, notes: list[Note]) -> Iterator[Any]:
        """Every frame that can be decoded; damaged parts are noted and stepped over."""
        for packet in self._packets(container, stream, notes):
            if self._begin is None:
                self._begin = packet.dts
            if packet.is_corrupt:
                notes.append(Note("a part that arrived damaged", loses=True))
            try:
                frames = packet.decode()
            except av.FFmpegError:
                notes.append(Note("a part that cannot be decoded", loses=True))
                continue
            for frame in frames:
                if frame.is_corrupt:
                    notes.append(Note("a frame with damaged parts", loses=True))
                yield frame

    def _packets(self, container: Any, stream: Any, notes: list[Note]) -> Iterator[Any]:
        """The packets up to the end, or to where a file breaks off.

        Of a web server each waits for the next: one that a lost line cut short comes just before the error.
        """
        remote = is_web(self._address)
        packets = container.demux(stream)
        held: Any = None
        try:
            for packet in packets:
                if not remote:
                    yield packet
                    continue
                if held is not None:
                    yield held
                held = packet
        except av.FFmpegError as error:
            if remote:
                raise lost(self._address, error) from None
            notes.append(Note(f"the file breaks off: {error.strerror}", loses=True))
            return
        if held is not None:
            yield held

    def _shortfall(self, clock: "_Clock") -> list[Note]:
        """A file that ends before its header says, by more than rounding.

        By its time, since a header's number of frames may count places without one.
        """
        there = clock.now + float(1 / self.clip.rate)
        if self._seconds and self._seconds - there > max(float(3 / self.clip.rate), 0.3, 0.02 * self._seconds):
            return [Note(f"truncated: {there:.1f} of {self._seconds:.1f} seconds are there", loses=True)]
        return []


class FolderReader:
    """A folder of pictures, in natural order; they are as far apart as ``fps`` says.

    Raises:
        InputError: there is no picture in it, or none that can be read.
    """

    def __init__(self, folder: Path, selection: Selection) -> None:
        self._selection = selection
        self.tail: tuple[Note, ...] = ()
        try:
            found = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES]
        except OSError as error:
            raise InputError(f"{folder}: cannot be read: {error.strerror}") from error
        self._paths = sorted(found, key=lambda path: natural(path.name))
        if not self._paths:
            raise InputError(f"{folder}: no picture in this folder; expected {', '.join(PICTURES)}")
        first = next((picture for picture in map(self._load, self._paths) if not isinstance(picture, Note)), None)
        if first is None:
            raise InputError(f"{folder}: not one of the {len(self._paths)} pictures can be read")
        rate = _rational(selection.fps)
        high, wide = first.shape[:2]
        height, width = selection.fit(high, wide)
        aspect = selection.aspect(high, wide, Fraction(1))
        count = selection.count(len(self._paths), len(self._paths) / selection.fps)
        self.clip = Clip(width, height, 1 / rate, rate, aspect, count, sound=False, colours=Colours())

    def frames(self, after: Anchor | None = None) -> Generator[Frame]:
        """See ``Reader``. A picture that cannot be read is noted and left out; its number stays free."""
        normaliser = Normaliser(self._selection, self.clip)
        notes: list[Note] = []
        self.tail = ()
        for number in range(0 if after is None else after.number + 1, len(self._paths)):
            time = float(number * self.clip.time_base)
            if self._selection.behind(time):
                return
            if not self._selection.has(number, time):
                continue
            picture = self._load(self._paths[number])
            if isinstance(picture, Note):
                notes.append(picture)
                continue
            fitted = normaliser.fit(picture, notes)
            yield Frame(number, number, time, fitted, tuple(notes))
            notes.clear()
        self.tail = tuple(notes)

    def _load(self, path: Path) -> Picture | Note:
        try:
            return imaging.decode(path.read_bytes(), self._selection.max_pixels)
        except (InvalidPictureError, OSError) as error:
            return Note(f"{path.name}: {error}", loses=True)


class _LostAnchorError(Exception):
    """Seeking did not come to the frame it should; reading from the start does."""


class _Clock:
    """Time stamps that rise, whatever the file says."""

    def __init__(self, clip: Clip, start: int | None) -> None:
        self._base = clip.time_base
        self._origin = 0 if start is None else round(start * _MICROSECOND / self._base)
        self._step = max(1, round(1 / (clip.rate * self._base)))
        self._last: int | None = None

    @property
    def now(self) -> float:
        """Seconds of the last frame."""
        return 0.0 if self._last is None else self.seconds(self._last)

    def reach(self, pts: int) -> None:
        """The last frame was at ``pts``."""
        self._last = pts

    def tick(self, pts: int | None, notes: list[Note]) -> int:
        """The time stamp of the next frame."""
        if pts is None:
            pts = self._origin if self._last is None else self._last + self._step
        elif self._last is not None and pts <= self._last:
            notes.append(Note("a time stamp that does not rise; moved behind the one before", loses=False))
            pts = self._last + 1
        self._last = pts
        return pts

    def seconds(self, pts: int) -> float:
        return float((pts - self._origin) * self._base)


def _rational(rate: float) -> Fraction:
    """A rate in small numbers: 29.97 is 2997 / 100, and 0.0002, which would be 0 / 1, is 1 / 5000."""
    if rate < 1:
        return 1 / Fraction(1 / rate).limit_denominator(1001)
    return Fraction(rate).limit_denominator(1001)


def _duration(container: Any, stream: Any) -> float | None:
    """Seconds of the video stream, as the header says; None where only longer streams beside it could mislead."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if container.duration and len(container.streams) == 1:
        return float(container.duration * _MICROSECOND)
    return None
