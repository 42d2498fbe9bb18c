"""Films: H.264 in MP4, encoded shard by shard and joined without encoding anew.

A shard's film stands on its own (it begins with a key frame, and no frame is shown out of order), so joining is copying
packets, and gives the same frames however often the job was interrupted. Shards lie in NUT files, which keep any time
base exactly. The encoder has one thread: with x264 their number is part of the result,
and a film has its own writing thread anyway.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from serving.imaging import BoolMask
from serving.video import planes
from serving.video.containers import lost, open_container
from serving.video.errors import InputError, is_full
from serving.video.planes import Planes
from serving.video.reading import Clip, Frame, Note, Selection
from serving.video.sources import is_web

_THREADS = 1
# What may lie in MP4 as it is; other sound is encoded anew.
_MP4_SOUND = frozenset({"aac", "mp3", "ac3", "eac3", "opus", "alac", "flac"})
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}

# Draws on a picture of even sides what its mask, which may be a row or column smaller, says.
Paint = Callable[[Planes, BoolMask], None]


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


def join(parts: Sequence[Path], path: Path, clip: Clip, sound_of: str | None, selection: Selection) -> list[Note]:
    """Joins the films of all shards; the first frame is at 0 seconds.

    Args:
        parts: of the shards, in order.
        path: of the film, ``.mp4``.
        clip: of the input.
        sound_of: address of the input whose sound is to be kept; None: no sound.
        selection: says how that is opened.

    Returns:
        What of the sound could not be kept; the pictures are whole all the same.

    Raises:
        JobError: the input's web server does not answer.
        OSError, FFmpegError: the film cannot be written.
    """
    if sound_of is None:
        _join(parts, path, clip, None)
        return []
    try:
        with open_container(sound_of, selection) as container:
            sound = _Sound(sound_of, container)
            _join(parts, path, clip, sound)
            return sound.notes
    except InputError as error:
        told = str(error)
    except (OSError, av.FFmpegError) as error:
        if is_full(error):
            raise
        # What neither MP4 nor the encoder takes shows when the film's head is written, or a packet.
        told = error.strerror or str(error)
    _join(parts, path, clip, None)
    return [Note(f"the sound cannot be kept: {told}", loses=True)]


def _join(parts: Sequence[Path], path: Path, clip: Clip, sound: "_Sound | None") -> None:
    start, _ = _span(parts[0])
    _, last = _span(parts[-1])
    # The index goes first, so that a browser may begin before the end is there.
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as film:
        with av.open(str(parts[0])) as first:
            stream = film.add_stream_from_template(first.streams.video[0])
        pictures = _pictures(parts, stream, start, clip.rate)
        tones = iter(()) if sound is None else sound.packets(film, float(start), float(last - start + 1 / clip.rate))
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
    """The sound track of an input.

    Args:
        address: of the input.
        container: of it, open; its first sound track is taken.

    Attributes:
        notes: what was met in it.

    Raises:
        InputError: nothing here can decode it.
    """

    def __init__(self, address: str, container: Any) -> None:
        self.notes: list[Note] = []
        self._address = address
        self._container = container
        self._track: Any = container.streams.audio[0]
        if self._track.codec_context is None:
            raise InputError("its codec is not known")

    def packets(self, film: Any, start: float, end: float) -> Iterator[tuple[float, Any]]:
        """Packets with their seconds, from 0 to ``end``, of a film that begins ``start`` seconds after the input.

        Adds the stream to the film at once, not with the first packet.
        """
        context = self._track.codec_context
        if context.name in _MP4_SOUND:
            stream = film.add_stream_from_template(self._track)
            return self._whole(self._copied(stream, start, end))
        stream = film.add_stream("aac", rate=_nearest_rate(context.sample_rate))
        # Files without a layout, only a number of channels, get the usual one of that number.
        stream.codec_context.layout = _LAYOUTS.get(context.layout.nb_channels, "stereo")
        return self._whole(self._encoded(stream, start, end))

    def _whole(self, packets: Iterator[tuple[float, Any]]) -> Iterator[tuple[float, Any]]:
        """The packets, up to where a file breaks off."""
        try:
            yield from packets
        except av.FFmpegError as error:
            if is_web(self._address):
                raise lost(self._address, error) from None
            self.notes.append(Note(f"the sound breaks off: {error.strerror}", loses=True))

    def _copied(self, stream: Any, start: float, end: float) -> Iterator[tuple[float, Any]]:
        base = self._track.time_base
        shift = round(start / base)
        for packet in self._container.demux(self._track):
            if packet.pts is None or packet.dts is None:
                continue
            seconds = float((packet.pts - shift) * base)
            if seconds >= end:
                return
            if seconds >= 0:
                packet.pts -= shift
                packet.dts -= shift
                packet.stream = stream
                yield seconds, packet

    def _encoded(self, stream: Any, start: float, end: float) -> Iterator[tuple[float, Any]]:
        context = stream.codec_context
        resampler = av.AudioResampler(format="fltp", layout=context.layout, rate=context.sample_rate)
        samples = 0
        for decoded in self._container.decode(self._track):
            seconds = (decoded.time or 0.0) - start
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
                for packet in stream.encode(frame):
                    yield float(packet.pts * packet.time_base), packet
        for packet in stream.encode(None):
            yield float(packet.pts * packet.time_base), packet


def _nearest_rate(rate: int) -> int:
    """Of the rates that the encoder knows, in Hz, the one nearest to the sound's own."""
    return min(av.Codec("aac", "w").audio_rates or [rate], key=lambda known: abs(known - rate))
