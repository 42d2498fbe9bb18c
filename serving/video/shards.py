"""Frames in order in, committed shards out; and which shards are missing."""

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from serving.imaging import BoolMask
from serving.video.outputs import Shard
from serving.video.progress import Meter
from serving.video.reading import Clip, Frame, Note
from serving.video.settings import Settings
from serving.video.smoothing import Smoother
from serving.video.store import Record, Store


class ShardWriter:
    """Masks in order in, committed shards out.

    Args:
        store: of the input.
        clip: of the input.
        settings: of the job.
        meter: told of every frame.
        first: number of the first shard to write; frames before it are only looked at, for smoothing.
        behind: number of the first shard not to write; None: to the end.
    """

    def __init__(
        self, store: Store, clip: Clip, settings: Settings, meter: Meter, first: int, behind: int | None
    ) -> None:
        self._store = store
        self._clip = clip
        self._settings = settings
        self._meter = meter
        self._size = settings.shard_frames
        self._begin = first * self._size
        self._behind = None if behind is None else behind * self._size
        self._smoother: Smoother[tuple[int, Frame]] = Smoother(settings.smooth)
        # Of the shard being written; left when it is committed or given up.
        self._open = ExitStack()
        self._shard: Shard | None = None
        self._folder = Path()
        self._next = self._begin
        self._notes: Counter[Note] = Counter()
        # Their anchors are asked for at the shard's end; the smoother holds these frames anyway.
        self._last: deque[Frame] = deque(maxlen=settings.smooth // 2 + 1)

    def add(self, position: int, frame: Frame, mask: BoolMask) -> bool:
        """Takes the next frame; returns whether more are wanted."""
        for (at, earlier), smoothed in self._smoother.add((position, frame), mask):
            self._write(at, earlier, smoothed)
        return self._behind is None or self._next < self._behind

    def end(self) -> int:
        """Commits what there is when no more frames come; returns how many shards the input has."""
        for (at, earlier), smoothed in self._smoother.end():
            self._write(at, earlier, smoothed)
        if self._next % self._size:
            self._commit()
        return -(-self._next // self._size)

    def _write(self, position: int, frame: Frame, mask: BoolMask) -> None:
        if position < self._begin or (self._behind is not None and position >= self._behind):
            return
        with self._meter.at("write"):
            if self._shard is None:
                self._folder = self._open.enter_context(self._store.shard_folder(position // self._size))
                self._shard = self._open.enter_context(Shard(self._folder, self._clip, self._settings))
            self._notes.update(frame.notes)
            self._last.append(frame)
            self._shard.add(frame, mask)
            self._next = position + 1
            if self._next % self._size == 0:
                self._commit()
        self._meter.done()

    def _commit(self) -> None:
        assert self._shard is not None
        self._shard.close()
        number = (self._next - 1) // self._size
        anchors = tuple(frame.anchor for frame in self._last)
        record = Record(self._next - number * self._size, anchors, tuple(self._notes.items()))
        self._store.commit(self._folder, number, record)
        self._open.close()
        self._shard = None
        self._notes.clear()

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *_: object) -> None:
        """A shard that is not committed is thrown away."""
        self._open.close()


def gaps(finished: Mapping[int, Record]) -> Iterator[tuple[int, int | None]]:
    """The runs of shards that are missing, as (first, behind); the last goes to the end, wherever that is."""
    number = 0
    for there in sorted(finished):
        if there > number:
            yield number, there
        number = there + 1
    yield number, None
