"""What runs on the nodes of a Ray cluster: decoding, the model, and the writing of shards.

Each is a pure function of its arguments and of files that do not change, so Ray may run it again wherever a node died.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving import imaging
from serving.imaging import BoolMask
from serving.video.decisions import select
from serving.video.errors import FaultError
from serving.video.launch import open_model
from serving.video.opening import open_reader
from serving.video.outputs import Shard
from serving.video.reading import Anchor, Clip, Frame, Note
from serving.video.settings import Settings
from serving.video.sources import Source, public
from serving.video.store import Record, Store

# A frame of a video of 1080 lines is 6 MB: a block is then 100 MB, which is what Ray Data likes.
_BLOCK_FRAMES = 16

Batch = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Span:
    """A run of missing shards of one input.

    Attributes:
        source: the input.
        after: frame after which to read.
        start: position of the next one.
        behind: position at which to stop; None: at the end.
    """

    source: Source
    after: Anchor | None
    start: int
    behind: int | None


@dataclass(frozen=True, slots=True)
class Masked:
    """A frame of a shard to be written, without its picture; ``bits`` are its mask's, packed."""

    anchor: Anchor
    bits: bytes


def decode(batch: Batch, spans: list[Span], settings: Settings) -> Iterator[dict[str, Any]]:
    """The frames of spans, a block at a time.

    Args:
        batch: ``span``: numbers of spans.
        spans: all of them.
        settings: of the job.

    Yields:
        Columns span, position, number, pts, digest, picture [n, H, W, 3], and tail: of an input's very last frame the
        notes behind it, a list of [text, loses, count] as JSON; otherwise empty.
    """
    imaging.limit_threads()
    for index in batch["span"]:
        span = spans[int(index)]
        reader = open_reader(span.source, select(settings))
        held: list[tuple[int, Frame]] = []
        position = span.start
        for frame in reader.frames(span.after):
            if position == span.behind:
                break
            if len(held) == _BLOCK_FRAMES:
                yield _block(int(index), held, None)
                held = []
            held.append((position, frame))
            position += 1
        else:
            if held:
                yield _block(int(index), held, Counter(reader.tail))
            continue
        if held:
            yield _block(int(index), held, None)


def _block(span: int, frames: list[tuple[int, Frame]], tail: Counter[Note] | None) -> dict[str, Any]:
    tails = [""] * len(frames)
    if tail is not None:
        tails[-1] = json.dumps([[note.text, note.loses, count] for note, count in tail.items()])
    return {
        "span": np.full(len(frames), span),
        "position": np.array([position for position, _ in frames]),
        "number": np.array([frame.number for _, frame in frames]),
        "pts": np.array([frame.pts for _, frame in frames]),
        "digest": np.array([frame.anchor.digest for _, frame in frames]),
        "picture": np.stack([frame.picture for _, frame in frames]),
        "tail": np.array(tails, dtype=object),
    }


class Segmenter:
    """The model, on an actor of its own."""

    def __init__(self, settings: Settings) -> None:
        imaging.limit_threads()
        self._model = open_model(settings)
        self._batch_size = settings.batch_size

    def __call__(self, batch: Batch) -> dict[str, Any]:
        """Replaces ``picture`` by ``bits``: the masks, packed."""
        pictures = batch["picture"]
        inputs = [self._model.rows(picture) for picture in pictures]
        rows = [row for each in inputs for row, _ in each]
        answers = [
            answer
            for first in range(0, len(rows), self._batch_size)
            for answer in self._model.run(rows[first : first + self._batch_size])
        ]
        bits, at = [], 0
        for picture, each in zip(pictures, inputs, strict=True):
            parts = answers[at : at + len(each)]
            at += len(each)
            mask = self._model.mask(parts, [geometry for _, geometry in each], picture.shape[:2])
            bits.append(pack(mask))
        kept = {name: batch[name] for name in ("span", "position", "number", "pts", "digest", "tail")}
        return {**kept, "bits": np.array(bits, dtype=object)}


def write_shard(
    source: Source, settings: Settings, clip: Clip, number: int, after: Anchor | None, frames: list[Masked]
) -> int:
    """Decodes a shard's frames again, writes its files, and commits it.

    Args:
        source: the input.
        settings: of the job.
        clip: of the input.
        number: of the shard.
        after: the frame before its first.
        frames: its frames, smoothed.

    Returns:
        The number of frames.

    Raises:
        JobError: it cannot be written, or the input has changed.
    """
    imaging.limit_threads()
    store = Store(settings.output, source.name)
    with store.shard_folder(number) as folder, Shard(folder, clip, settings) as shard:
        notes: Counter[Note] = Counter()
        reader = open_reader(source, select(settings)).frames(after)
        for masked in frames:
            frame = next(reader, None)
            if frame is None or frame.anchor != masked.anchor:
                raise FaultError(f"{public(source.address)}: has changed while it was read")
            notes.update(frame.notes)
            shard.add(frame, unpack(masked.bits, clip))
        shard.close()
        anchors = tuple(masked.anchor for masked in frames[-(settings.smooth // 2 + 1) :])
        store.commit(folder, number, Record(len(frames), anchors, tuple(notes.items())))
    return len(frames)


def pack(mask: BoolMask) -> bytes:
    """A mask's bits, row after row."""
    return np.packbits(mask).tobytes()


def unpack(bits: bytes, clip: Clip) -> BoolMask:
    """The mask of such bits, [H, W] of the clip's size."""
    count = clip.height * clip.width
    flat = np.unpackbits(np.frombuffer(bits, np.uint8), count=count)
    return flat.reshape(clip.height, clip.width).view(np.bool_)
