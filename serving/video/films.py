"""Films: H.264 in MP4, encoded shard by shard and joined without encoding anew.

A shard's film stands on its own (it begins with a key frame, and no frame is shown out of order), so joining is copying
packets, and gives the same frames however often the job was interrupted. Shards lie in NUT files, which keep any time
base exactly. The encoder has one thread: with x264 their number is part of the result,
and a film has its own writing thread anyway.
"""

import heapq
import logging
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from serving.imaging import BoolMask
from serving.video import planes
from serving.video.planes import Planes
from serving.video.reading import Clip, Frame

_THREADS = 1
# What may lie in MP4 as it is; other sound is encoded anew.
_MP4_SOUND = frozenset({"aac", "mp3", "ac3", "eac3", "opus", "alac", "flac"})
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}

# Draws on a picture of even sides what its mask, which may be a row or column smaller, says.
Paint = Callable[[Planes, BoolMask], None]

_log = logging.getLogger(__name__)


class FilmPart:
    """The film of one shard.

    Args:
        path: of the file, ``.nut``.
        clip: size and time base.
        paint: draws on each frame.
        crf: x264's quality.
        preset: x264's speed.
    """

    def __init__(self, path: Path, clip: Clip, paint: Paint, crf: int, preset: str) -> None:
        self._paint = paint
        self._clip = clip
        self._container = av.open(str(path), "w", format="nut")
        # What is encoded, frame after frame: x264 takes a copy.
        self._canvas = planes.blank(clip.height, clip.width)
        self._picture = Planes.of(self._canvas)
        stream = self._container.add_stream("libx264", rate=clip.rate)
        stream.width, stream.height, stream.pix_fmt = self._canvas.width, self._canvas.height, planes.PIXEL_FORMAT
        stream.time_base = clip.time_base
        context = stream.codec_context
        context.time_base = clip.time_base
        context.sample_aspect_ratio = clip.aspect
        colours = clip.colours
        context.colorspace, context.color_range = colours.matrix, colours.range
        context.color_primaries, context.color_trc = colours.primaries, colours.transfer
        context.thread_count = _THREADS
        context.max_b_frames = 0
        context.options = {"preset": preset, "crf": str(crf)}
        self._stream = stream

    def add(self, frame: Frame, mask: BoolMask) -> None:
        """Encodes one more frame."""
        self._picture.fill(frame.planes(self._clip.colours))
        self._paint(self._picture, mask)
        self._canvas.pts, self._canvas.time_base = frame.pts, self._clip.time_base
        self._container.mux(self._stream.encode(self._canvas))

    def close(self) -> None:
        """Writes what the encoder still holds."""
        try:
            self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()


def join(parts: Sequence[Path], path: Path, clip: Clip, open_sound: Callable[[], Any] | None) -> None:
    """Joins the films of all shards; the first frame is at 0 seconds.

    Args:
        parts: of the shards, in order.
        path: of the film, ``.mp4``.
        clip: of the input.
        open_sound: opens the container of the input whose sound is to be kept; None: no sound.
    """
    start, _ = _span(parts[0])
    _, last = _span(parts[-1])
    # The index goes first, so that a browser may begin before the end is there.
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as film:
        with av.open(str(parts[0])) as first:
            stream = film.add_stream_from_template(first.streams.video[0])
        pictures = _pictures(parts, stream, start, clip.rate)
        if open_sound is None:
            for _, packet in pictures:
                film.mux(packet)
            return
        with open_sound() as container:
            sound = _Sound(container, film, float(start))
            tones = sound.packets(float(last - start + 1 / clip.rate))
            for _, packet in heapq.merge(pictures, tones, key=lambda pair: pair[0]):
                film.mux(packet)


def _pictures(parts: Sequence[Path], stream: Any, start: Fraction, rate: Fraction) -> Iterator[tuple[float, Any]]:
    """Packets of the pictures with their seconds, from 0."""
    held: Any = None
    for part in parts:
        with av.open(str(part)) as container:
            for packet in container.demux(video=0):
                if packet.dts is None or packet.pts is None:  # the end
                    continue
                # NUT may have refined the time base, by a whole factor.
                shift = round(start / packet.time_base)
                packet.pts -= shift
                packet.dts -= shift
                packet.stream = stream
                if held is not None:
                    held.duration = packet.pts - held.pts
                    yield float(held.pts * held.time_base), held
                held = packet
    held.duration = max(1, round(1 / (rate * held.time_base)))
    yield float(held.pts * held.time_base), held


def _span(part: Path) -> tuple[Fraction, Fraction]:
    """Seconds of the first and the last frame of a film, in the input's time."""
    with av.open(str(part)) as container:
        packets = container.demux(video=0)
        seconds = [packet.pts * packet.time_base for packet in packets if packet.pts is not None]
    return min(seconds), max(seconds)


class _Sound:
    """The sound track of an input, for a film that begins ``start`` seconds later."""

    def __init__(self, container: Any, film: Any, start: float) -> None:
        self._container = container
        self._track: Any = self._container.streams.audio[0]
        self._start = start
        self._copies = self._track.codec_context.name in _MP4_SOUND
        if self._copies:
            self._stream = film.add_stream_from_template(self._track)
        else:
            self._stream = film.add_stream("aac", rate=self._track.codec_context.sample_rate)
            # Files without a layout, only a number of channels, get the usual one of that number.
            self._stream.codec_context.layout = _LAYOUTS.get(self._track.codec_context.layout.nb_channels, "stereo")

    def packets(self, end: float) -> Iterator[tuple[float, Any]]:
        """Packets with their seconds, from 0 to ``end``."""
        try:
            yield from self._copied(end) if self._copies else self._encoded(end)
        except av.FFmpegError as error:
            _log.warning("%s: the sound breaks off: %s", self._container.name, error.strerror)

    def _copied(self, end: float) -> Iterator[tuple[float, Any]]:
        base = self._track.time_base
        shift = round(self._start / base)
        for packet in self._container.demux(self._track):
            if packet.pts is None or packet.dts is None:
                continue
            seconds = float((packet.pts - shift) * base)
            if seconds >= end:
                return
            if seconds >= 0:
                packet.pts -= shift
                packet.dts -= shift
                packet.stream = self._stream
                yield seconds, packet

    def _encoded(self, end: float) -> Iterator[tuple[float, Any]]:
        context = self._stream.codec_context
        resampler = av.AudioResampler(format="fltp", layout=context.layout, rate=context.sample_rate)
        samples = 0
        for decoded in self._container.decode(self._track):
            seconds = (decoded.time or 0.0) - self._start
            if seconds >= end:
                break
            if seconds < 0:
                continue
            for frame in resampler.resample(decoded):
                # Counted from the first one that is kept: the encoder wants time stamps without a gap.
                if not samples:
                    samples = round(seconds * context.sample_rate)
                frame.pts, frame.time_base = samples, Fraction(1, context.sample_rate)
                samples += frame.samples
                for packet in self._stream.encode(frame):
                    yield float(packet.pts * packet.time_base), packet
        for packet in self._stream.encode(None):
            yield float(packet.pts * packet.time_base), packet
