"""The outputs that can be chosen: what each keeps of a shard, and how the shards are joined.

The rows of the table and a picture of its fullest frame are kept of every shard, whatever is chosen; see ``Shard``.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import av
import numpy as np
import numpy.typing as npt

from serving.imaging import BoolMask, Picture
from serving.video import painting, planes, tables
from serving.video.decisions import select
from serving.video.errors import as_os_error, writing
from serving.video.films import FilmPart, Paint, join
from serving.video.planes import Planes
from serving.video.reading import Clip, Frame, Note
from serving.video.settings import Settings
from serving.video.sources import Source
from serving.video.tables import Row

ROWS, SAMPLE = "rows.jsonl", "sample.jpg"
_SAMPLE_SIDE = 640


@dataclass(frozen=True, slots=True)
class Whole:
    """What joining has at hand.

    Attributes:
        shards: folders of all shards, in order.
        into: folder for the outputs.
        clip: of the input.
        source: the input.
        settings: of the job.
        notes: what was met in the input, and how often; joining may add to it.
    """

    shards: Sequence[Path]
    into: Path
    clip: Clip
    source: Source
    settings: Settings
    notes: Counter[Note]

    def parts(self, name: str) -> list[Path]:
        """That file of every shard."""
        return [shard / name for shard in self.shards]


class Part(Protocol):
    """One output's part of one shard."""

    def add(self, frame: Frame, mask: BoolMask) -> None:
        """Takes the next frame."""

    def close(self) -> None:
        """Writes what is still held."""


@dataclass(frozen=True, slots=True)
class Output:
    """An output: how a shard's part is made, and how parts are joined."""

    part: Callable[[Path, Clip, Settings], Part] | None
    join: Callable[[Whole], None]


class Shard:
    """The files of one shard being written.

    Args:
        folder: empty.
        clip: of the input.
        settings: of the job.
    """

    def __init__(self, folder: Path, clip: Clip, settings: Settings) -> None:
        self._folder = folder
        self._clip = clip
        self._min_area = settings.min_area
        self._parts: list[Part] = []
        self._closed = False
        self._fullest: tuple[Row, Frame, BoolMask] | None = None
        # Where people are to be hidden, the page shows none either.
        self._paint = _hide(settings, clip) if _hides(settings) else _overlay(settings, clip)
        try:
            self._rows = (folder / ROWS).open("w", encoding="utf-8")
            for output in chosen(settings):
                if output.part is not None:
                    self._parts.append(output.part(folder, clip, settings))
        except (OSError, av.FFmpegError) as error:
            raise writing(as_os_error(error), folder) from error

    def add(self, frame: Frame, mask: BoolMask) -> Row:
        """Takes the next frame; returns its row of the table.

        Raises:
            FaultError: the disk is full.
            InputError: the folder cannot be written.
        """
        row = tables.measure(frame, mask, self._min_area)
        if self._fullest is None or row.foreground > self._fullest[0].foreground:
            self._fullest = (row, frame, mask)
        try:
            self._rows.write(tables.row_line(row))
            for part in self._parts:
                part.add(frame, mask)
        except (OSError, av.FFmpegError) as error:
            raise writing(as_os_error(error), self._folder) from error
        return row

    def close(self) -> None:
        """Ends the files, whole.

        Raises:
            FaultError: the disk is full.
            InputError: the folder cannot be written.
        """
        try:
            for part in self._parts:
                part.close()
            self._rows.close()
            self._closed = True
            if self._fullest is not None:
                _, frame, mask = self._fullest
                painted = _painted(frame, mask, self._clip, self._paint)
                (self._folder / SAMPLE).write_bytes(painting.jpeg(painted, _SAMPLE_SIDE))
        except (OSError, av.FFmpegError) as error:
            raise writing(as_os_error(error), self._folder) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Lets go of files that were not closed."""
        if not self._closed:
            for part in self._parts:
                with suppress(OSError, av.FFmpegError):
                    part.close()
            with suppress(OSError):
                self._rows.close()


class _LinesPart:
    """A file of JSON lines, one a frame."""

    def __init__(self, path: Path, line: Callable[[Frame, BoolMask], str]) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._line = line

    def add(self, frame: Frame, mask: BoolMask) -> None:
        self._file.write(self._line(frame, mask))

    def close(self) -> None:
        self._file.close()


class _PicturesPart:
    """A mask a frame, as 8-bit grey PNG: 255 pedestrian, 0 background."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder

    def add(self, frame: Frame, mask: BoolMask) -> None:
        (self._folder / f"{frame.number:08}.png").write_bytes(painting.png(mask.view(np.uint8) * np.uint8(255)))

    def close(self) -> None:
        pass


class _HeatPart:
    """How often each pixel was foreground, and the first frame."""

    def __init__(self, path: Path, clip: Clip, settings: Settings) -> None:
        self._path = path
        self._clip = clip
        self._hide = _hide(settings, clip) if _hides(settings) else None
        self._counts: npt.NDArray[np.uint32] = np.zeros((clip.height, clip.width), np.uint32)
        self._frames = 0
        self._scene: Picture | None = None

    def add(self, frame: Frame, mask: BoolMask) -> None:
        self._counts += mask
        self._frames += 1
        if self._scene is None:
            self._scene = frame.picture if self._hide is None else _painted(frame, mask, self._clip, self._hide)

    def close(self) -> None:
        if self._scene is not None:
            np.savez_compressed(self._path, counts=self._counts, frames=self._frames, scene=self._scene)


def _painted(frame: Frame, mask: BoolMask, clip: Clip, paint: Paint) -> Picture:
    """A frame as a film shows it, RGB [H, W, 3]."""
    canvas = planes.blank(clip.height, clip.width)
    picture = Planes.of(canvas)
    picture.fill(frame.planes(clip.colours))
    paint(picture, mask)
    return planes.to_rgb(canvas, clip.colours, clip.height, clip.width)


def _film(name: str, paint: Callable[[Settings, Clip], Paint], sounds: bool) -> Output:
    def part(folder: Path, clip: Clip, settings: Settings) -> Part:
        return FilmPart(folder / f"{name}.nut", clip, paint(settings, clip), settings.crf, settings.preset)

    def join_films(whole: Whole) -> None:
        keeps = sounds and whole.settings.sound and whole.clip.sound
        sound_of = whole.source.address if keeps else None
        parts, path = whole.parts(f"{name}.nut"), whole.into / f"{name}.mp4"
        met = Counter(join(parts, path, whole.clip, sound_of, select(whole.settings)))
        # Two films have one sound between them.
        whole.notes.update(met - whole.notes)

    return Output(part, join_films)


def _hides(settings: Settings) -> bool:
    return "privacy" in settings.outputs and "overlay" not in settings.outputs


def _overlay(settings: Settings, clip: Clip) -> Paint:
    del settings
    return partial(painting.overlay, colours=clip.colours)


def _black_and_white(settings: Settings, clip: Clip) -> Paint:
    del settings
    return partial(painting.black_and_white, colours=clip.colours)


def _hide(settings: Settings, clip: Clip) -> Paint:
    margin = settings.privacy_margin
    if margin is None:
        margin = max(4, round(0.02 * min(clip.height, clip.width)))
    return partial(painting.hide, colours=clip.colours, how=settings.privacy, margin=margin)


def _join_pictures(whole: Whole) -> None:
    folder = whole.into / "masks"
    folder.mkdir()
    for shard in whole.shards:
        for path in (shard / "masks").iterdir():
            try:
                (folder / path.name).hardlink_to(path)
            except OSError:  # not every file system has links
                shutil.copyfile(path, folder / path.name)


def _join_heat(whole: Whole) -> None:
    frames, scene = 0, None
    total = np.zeros((whole.clip.height, whole.clip.width), np.uint64)
    for path in whole.parts("heat.npz"):
        with np.load(path) as held:
            total += held["counts"]
            frames += int(held["frames"])
            scene = held["scene"] if scene is None else scene
    assert scene is not None  # no shard is empty
    share = (total / frames).astype(np.float32)
    np.save(whole.into / "heatmap.npy", share)
    (whole.into / "heatmap.png").write_bytes(painting.png(painting.heat(share, scene)))


def _join_summary(whole: Whole) -> None:
    from serving.video import summary  # matplotlib takes a second to import

    summary.write(whole)


OUTPUTS: dict[str, Output] = {
    "overlay": _film("overlay", _overlay, sounds=True),
    "privacy": _film("privacy", _hide, sounds=True),
    "mask": _film("mask", _black_and_white, sounds=False),
    "png": Output(lambda folder, clip, settings: _PicturesPart(folder / "masks"), _join_pictures),  # noqa: ARG005
    "rle": Output(
        lambda folder, clip, settings: _LinesPart(folder / "rle.jsonl", tables.rle_line),  # noqa: ARG005
        lambda whole: tables.concatenate(whole.parts("rle.jsonl"), whole.into / "masks.rle.jsonl"),
    ),
    "parquet": Output(None, lambda whole: tables.write_parquet(whole.parts(ROWS), whole.into / "frames.parquet")),
    "jsonl": Output(None, lambda whole: tables.concatenate(whole.parts(ROWS), whole.into / "frames.jsonl")),
    "heatmap": Output(lambda folder, clip, settings: _HeatPart(folder / "heat.npz", clip, settings), _join_heat),
    "summary": Output(None, _join_summary),
}


def chosen(settings: Settings) -> list[Output]:
    """The outputs that the settings name, each once; the page, which shows others, comes last."""
    return [output for name, output in OUTPUTS.items() if name in settings.outputs]
