"""The job: one input from reader to joined outputs, and several at once.

    reading thread:  frames -> engine.submit -> bounded queue      (decode, resize, back-pressure)
    engine's thread: batches across frames and inputs
    writing thread:  mask -> smoother -> shard (draw, encode, tables) -> committed -> joined

An input's frames stay in order all along; those of several inputs meet in the engine's batches only.
"""

import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import av

from serving.video.decisions import made_with, select
from serving.video.engines import Engine, Pending
from serving.video.errors import ExitCode, InputError, JobError, StoppedError, as_os_error, writing
from serving.video.opening import open_reader, settle
from serving.video.outputs import Whole, chosen
from serving.video.progress import Display, Meter
from serving.video.reading import Anchor, Clip, Frame, Note, Reader
from serving.video.settings import Settings
from serving.video.shards import ShardWriter, gaps
from serving.video.sources import Kind, Source, public
from serving.video.store import Ending, Store

# Frames under way, for one input.
_QUEUE_BYTES = 256 * 2**20
_PATIENCE_SECONDS = 0.2

Result = TypeVar("Result")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one input ended.

    Attributes:
        name: of the input.
        code: as if it had been the only one.
        message: what was made, or why not.
        notes: what was met in the input, and how often.
    """

    name: str
    code: ExitCode
    message: str
    notes: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class _Item:
    """A frame under way; ``position`` counts the selected frames."""

    position: int
    frame: Frame
    pending: Pending


class Job:
    """Everything that the inputs share.

    Args:
        settings: of the job.
        engine: turns frames into masks.
        meter: told of every frame.
        display: told of every input.
        stop: ends it soon: recordings of streams as if the sender had ended, other inputs unfinished.
    """

    def __init__(
        self, settings: Settings, engine: Engine, meter: Meter, display: Display, stop: threading.Event
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._meter = meter
        self._display = display
        self._stop = stop

    def run(self, sources: Sequence[Source]) -> list[Outcome]:
        """Segments every input; one that fails leaves the others alone."""
        with ThreadPoolExecutor(self._settings.parallel, thread_name_prefix="input") as pool:
            outcomes = []
            for outcome in pool.map(self._segment, sources):
                self._display.event("input", name=outcome.name, code=int(outcome.code), message=outcome.message)
                outcomes.append(outcome)
            return outcomes

    def _segment(self, source: Source) -> Outcome:
        settings = self._settings
        return conclude(source, lambda: self._work(source, Store(settings.output, source.name)))

    def _work(self, source: Source, store: Store) -> Outcome:
        settings = self._settings
        if self._stop.is_set():
            raise StoppedError("stopped before it began")
        with store:
            source = settle(source, select(settings))
            made = made_with(source, settings, self._engine.identity)
            if store.open(made, resume=settings.resume, overwrite=settings.overwrite):
                return already(source, store)
            clip = store.clip
            if source.kind is Kind.STREAM and store.ending is None and store.finished():
                # The past of a stream cannot be read again: what was recorded of it is all there will be.
                store.end(Ending(len(store.finished()), ((Note("the recording was interrupted", loses=True), 1),)))
            if store.ending is None:
                if self._stop.is_set():
                    raise StoppedError("stopped by a signal; run again with --resume")
                reader = open_reader(source, select(settings), self._stop)
                clip = reader.clip
                store.keep_clip(clip)
                self._read(source, reader, store)
            assert clip is not None  # who ended an input has kept it
            return finish(source, store, clip, settings)

    def _read(self, source: Source, reader: Reader, store: Store) -> None:
        """Makes the shards that are missing."""
        finished = store.finished()
        settings = self._settings
        self._meter.expect(reader.clip.frames)
        self._meter.skip(sum(record.frames for record in finished.values()))
        for first, behind in gaps(finished):
            anchor = None if first == 0 else finished[first - 1].anchors[0]
            # Reading begins where the smoother begins to see, so that it sees what it saw the first time.
            start = 0 if anchor is None else first * settings.shard_frames - settings.smooth // 2
            with (
                ShardWriter(store, reader.clip, settings, self._meter, first, behind) as writer,
                _Reading(source, reader, anchor, start, self._engine, self._meter, self._stop) as reading,
            ):
                for item in reading:
                    with _naming(source, item.frame):
                        mask = item.pending.mask()
                    if not writer.add(item.position, item.frame, mask):
                        break
                else:
                    shards = writer.end()
                    notes = Counter(reader.tail)
                    if reading.stopped:
                        if not shards:
                            raise StoppedError(f"{public(source.address)}: stopped by a signal before the first frame")
                        notes[Note("the recording was stopped by a signal", loses=True)] = 1
                    if not shards:
                        raise InputError(f"{public(source.address)}: no frame between --start and --end")
                    store.end(Ending(shards, tuple(notes.items())))


class _Reading:
    """The reading thread of one input: its frames, submitted to the engine, in order.

    Args:
        source: the input.
        reader: open.
        after: where to go on.
        start: position of the first frame after that.
        engine: gets the frames.
        meter: told of the work.
        stop: ends it.

    Attributes:
        stopped: whether that ended a stream; known when there are no more frames.
    """

    def __init__(
        self,
        source: Source,
        reader: Reader,
        after: Anchor | None,
        start: int,
        engine: Engine,
        meter: Meter,
        stop: threading.Event,
    ) -> None:
        self.stopped = False
        self._source = source
        self._reader = reader
        self._after = after
        self._start = start
        self._engine = engine
        self._meter = meter
        self._stop = stop
        self._left = threading.Event()
        clip = reader.clip
        # A pixel has three bytes in RGB and one and a half in the decoder's planes.
        room = max(2, min(32, _QUEUE_BYTES * 2 // (9 * clip.width * clip.height)))
        self._queue: queue.Queue[_Item | BaseException | None] = queue.Queue(room)
        self._thread = threading.Thread(target=self._work, name=f"read-{source.name}", daemon=True)

    def __iter__(self) -> Iterator[_Item]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def __enter__(self) -> "_Reading":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()

    def _work(self) -> None:
        try:
            frames = self._reader.frames(self._after)
            position = self._start
            while not self._left.is_set():
                if self._stop.is_set():
                    if self._source.kind is Kind.STREAM:
                        self.stopped = True
                        frames.close()
                        break
                    raise StoppedError("stopped by a signal; run again with --resume")
                with self._meter.at("decode"):
                    frame = next(frames, None)
                if frame is None:
                    break
                with _naming(self._source, frame):
                    pending = self._engine.submit(frame.picture)
                self._put(_Item(position, frame, pending))
                position += 1
        except BaseException as error:  # raised again by those who read
            self._put(error)
        else:
            self._put(None)

    def _put(self, item: _Item | BaseException | None) -> None:
        while not self._left.is_set():
            try:
                self._queue.put(item, timeout=_PATIENCE_SECONDS)
            except queue.Full:
                continue
            return


@contextmanager
def _naming(source: Source, frame: Frame) -> Iterator[None]:
    """Says in a refusal what was refused."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{public(source.address)}: frame {frame.number}: {error}") from error


def finish(source: Source, store: Store, clip: Clip, settings: Settings) -> Outcome:
    """Joins the shards of an input that has been read to its end."""
    ending = store.ending
    assert ending is not None  # that is when this is called
    notes: Counter[Note] = Counter()
    records = store.finished()
    for record in records.values():
        notes.update(dict(record.notes))
    notes.update(dict(ending.notes))
    frames = sum(record.frames for record in records.values())
    try:
        with store.whole(notes) as folder:
            shards = [store.shard(number) for number in range(ending.shards)]
            whole = Whole(shards, folder, clip, source, settings, notes)
            for output in chosen(settings):
                output.join(whole)
    except OSError as error:
        raise writing(error, error.filename or store.final) from error
    except av.FFmpegError as error:
        raise writing(as_os_error(error), store.final) from error
    return _ended(source, notes, f"{store.final}: {frames} frames")


def already(source: Source, store: Store) -> Outcome:
    """What an earlier job made of an input, and how it ended then."""
    notes = store.notes
    how = "finished, but not whole" if any(note.loses for note in notes) else "whole"
    return _ended(source, notes, f"{store.final}: was {how} already")


def _ended(source: Source, notes: Mapping[Note, int], message: str) -> Outcome:
    code = ExitCode.PARTIAL if any(note.loses for note in notes) else ExitCode.DONE
    return Outcome(source.name, code, message, tuple((note.text, count) for note, count in notes.items()))


def conclude(source: Source, work: Callable[[], Result]) -> Result | Outcome:
    """What ``work`` on one input returns, or how it ended it."""
    try:
        return work()
    except JobError as error:
        return Outcome(source.name, error.code, str(error))
    except Exception as error:
        _log.exception("%s", source.name)
        return Outcome(source.name, ExitCode.BUG, f"{source.name}: {type(error).__name__}: {error}")


def exit_code(outcomes: Sequence[Outcome]) -> ExitCode:
    """What a run with these outcomes ends with: what is worth another run counts before what is not."""
    codes = {outcome.code for outcome in outcomes}
    for code in (ExitCode.BUG, ExitCode.STOPPED, ExitCode.FAULT):
        if code in codes:
            return code
    if codes == {ExitCode.BAD_INPUT}:
        return ExitCode.BAD_INPUT
    return ExitCode.PARTIAL if codes - {ExitCode.DONE} else ExitCode.DONE
