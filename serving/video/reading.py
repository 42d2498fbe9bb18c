"""Decoded frames with their time stamps, upright and of one size, from the start or after any frame.

A frame's number counts all frames of the input, whether or not they are selected, so that it means the same whatever
is selected. Its time is the container's, less the container's start: frames of a variable rate keep theirs.
What is wrong with an input and does not end the reading is told beside the frame before which it was met (``notes``),
so that it is kept with that frame's shard.
"""

import zlib
from collections.abc import Generator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
from av.video.reformatter import VideoReformatter

from serving import imaging
from serving.imaging import Picture
from serving.video import planes
from serving.video.errors import InputError
from serving.video.planes import Colours, Planes

# H.264 has 16 bits for each term; this leaves room for pixels much wider than high.
_MOST_ASPECT = 4096


@dataclass(frozen=True, slots=True)
class Note:
    """Something wrong with an input.

    Attributes:
        text: what; alike for like things, so that they can be counted.
        loses: whether some of the input could not be read for it.
    """

    text: str
    loses: bool


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One selected frame.

    Attributes:
        number: among all frames of the input, from 0.
        pts: its time in the clip's time base; greater than that of every frame before.
        time: seconds since the input's start.
        picture: RGB uint8 [H, W, 3] of the clip's size; nobody may write to it.
        notes: what was met since the selected frame before.
        decoded: the ``VideoFrame`` that it was, where its planes are those of the clip's films; None elsewhere.
    """

    number: int
    pts: int
    time: float
    picture: Picture
    notes: tuple[Note, ...] = ()
    decoded: Any = None

    def planes(self, colours: Colours) -> Planes:
        """The picture as the clip's films keep it; ``colours`` are the clip's. Nobody may write to it either."""
        return planes.from_rgb(self.picture, colours) if self.decoded is None else Planes.of(self.decoded)

    @property
    def anchor(self) -> "Anchor":
        """Where to go on reading after this frame."""
        return Anchor(self.number, self.pts, zlib.crc32(self.picture.data))


@dataclass(frozen=True, slots=True)
class Anchor:
    """A frame after which to go on reading.

    Attributes:
        number, pts: see ``Frame``.
        digest: CRC-32 of its picture: not every container seeks to where it should, and a decoder that begins in the
            wrong place gives frames of the right time, but wrong.
    """

    number: int
    pts: int
    digest: int


@dataclass(frozen=True, slots=True)
class Clip:
    """What an input is, as its first frame and its header tell.

    Attributes:
        width, height: of every frame, after rotation and resizing.
        time_base: seconds of one unit of ``pts``.
        rate: frames a second, as far as known; for the encoder's rate control only.
        aspect: width of a pixel by its height.
        frames: about how many will be selected; 0 where nobody knows.
        sound: whether there is a sound track.
        colours: of its films.
    """

    width: int
    height: int
    time_base: Fraction
    rate: Fraction
    aspect: Fraction
    frames: int
    sound: bool
    colours: Colours


@dataclass(frozen=True, slots=True)
class Selection:
    """Which frames are read, and at what size; see the settings of the same names."""

    start: float
    end: float | None
    every: int
    resize: str
    fps: float
    max_pixels: int
    options: dict[str, str]
    timeout: float
    retry_seconds: float

    def has(self, number: int, time: float) -> bool:
        """Whether a frame that is not behind the end is wanted."""
        return number % self.every == 0 and time >= self.start

    def behind(self, time: float) -> bool:
        """Whether a frame lies behind the end."""
        return self.end is not None and time >= self.end

    def fit(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) of the frames of an input of that size."""
        if self.resize == "none":
            return height, width
        if self.resize.startswith("max:"):
            scale = min(1.0, int(self.resize.removeprefix("max:")) / max(height, width))
            return max(1, round(height * scale)), max(1, round(width * scale))
        wide, _, high = self.resize.partition("x")
        return int(high), int(wide)

    def aspect(self, height: int, width: int, aspect: Fraction) -> Fraction:
        """The aspect of the pixels of such a frame once it fits, so that it is shown in the shape it had."""
        if self.resize == "none" or self.resize.startswith("max:"):
            return aspect
        high, wide = self.fit(height, width)
        return (aspect * Fraction(width * high, height * wide)).limit_denominator(_MOST_ASPECT)

    def count(self, frames: int, seconds: float | None) -> int:
        """About how many of so many frames over so many seconds are selected."""
        if not seconds:
            return -(-frames // self.every)
        span = max(0.0, min(seconds, self.end or seconds) - self.start)
        return -(-round(frames * span / seconds) // self.every)


class Reader(Protocol):
    """An input that is open for reading.

    Attributes:
        clip: what it is.
        tail: what was met behind the last frame; known when ``frames`` has ended.
    """

    clip: Clip
    tail: tuple[Note, ...]

    def frames(self, after: Anchor | None = None) -> Generator[Frame]:
        """The selected frames, in order; those after ``after``, which this input gave earlier.

        Raises:
            JobError: the input cannot be read any further, and what was read is not all that there is.
        """


class Normaliser:
    """Brings decoded frames upright and to one size.

    Args:
        selection: says the size, by that of the first frame.
        clip: says the size where it is known.
    """

    def __init__(self, selection: Selection, clip: Clip | None = None) -> None:
        self._selection = selection
        self._clip = clip
        self._size = None if clip is None else (clip.height, clip.width)
        self._seen: tuple[int, int] | None = None
        self._reformatter = VideoReformatter()

    def picture(self, frame: Any, notes: list[Note]) -> Picture:
        """RGB uint8 [H, W, 3] of a decoded video frame."""
        # One thread, as everywhere: others have work for the other cores.
        rgb: Any = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        # Turned to the left, as FFmpeg counts; rows of odd width come padded, hence not in one piece.
        upright = np.rot90(rgb, round(frame.rotation / 90) % 4)
        return self.fit(np.ascontiguousarray(upright), notes)

    def aspect(self, frame: Any, coded: Fraction | None) -> Fraction:
        """Width of a pixel of ``picture`` by its height; ``coded`` is that of the frame as it is coded."""
        aspect, height, width = coded or Fraction(1), frame.height, frame.width
        if round(frame.rotation / 90) % 2:
            aspect, height, width = 1 / aspect, width, height
        return self._selection.aspect(height, width, aspect)

    def frame(self, decoded: Any, number: int, pts: int, time: float, notes: list[Note]) -> Frame:
        """A frame of the clip; takes the notes."""
        assert self._clip is not None  # only its size is asked of a normaliser that does not know it
        picture = self.picture(decoded, notes)
        native = planes.native(decoded, self._clip.colours, self._clip.height, self._clip.width)
        frame = Frame(number, pts, time, picture, tuple(notes), decoded if native else None)
        notes.clear()
        return frame

    def fit(self, picture: Picture, notes: list[Note]) -> Picture:
        """The picture at the one size; a change of size inside of the input is noted."""
        height, width = picture.shape[:2]
        if self._size is None:
            if height * width > self._selection.max_pixels:
                raise InputError(
                    f"a frame has at most {self._selection.max_pixels} pixels. Received: {width} x {height}"
                )
            self._size = self._selection.fit(height, width)
        if self._seen not in (None, (height, width)):
            notes.append(Note(f"the size changes to {width} x {height}; scaled to the first frame's", loses=False))
        self._seen = (height, width)
        fitted, _ = imaging.stretch(picture, *self._size)
        return fitted
