"""The job on a Ray cluster, or on this machine as one.

    decode tasks (CPUs) -> actors with the model (GPUs) -> this process -> writing tasks (CPUs)

Ray Data streams frames from the first to the second and holds the first back when the second is busy. Only masks come
here, a bit a pixel; they are put in order and smoothed, and each shard goes to a task that decodes its frames again,
draws, encodes and commits it. So the bulk of the work needs no one place, and a worker that dies costs a retry: Ray
runs its task again on another, and a shard is committed by one rename.

Inputs, models and the output folder lie where every node sees them under the same path. Streams are not for this.
"""

import json
import logging
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, redirect_stdout
from functools import partial
from typing import Any

import ray
import ray.data

from serving.imaging import BoolMask
from serving.video import launch
from serving.video.cluster_tasks import Masked, Segmenter, Span, decode, pack, unpack, write_shard
from serving.video.decisions import made_with, select
from serving.video.engines import Identity
from serving.video.errors import FaultError, InputError, JobError, StoppedError
from serving.video.job import Outcome, already, conclude, finish
from serving.video.opening import open_reader, settle
from serving.video.progress import Display, Meter
from serving.video.reading import Anchor, Clip, Note
from serving.video.settings import Settings
from serving.video.shards import gaps
from serving.video.smoothing import Smoother
from serving.video.sources import Kind, Source, public
from serving.video.store import Ending, Store

# A decoder is held back most of the time, a writer waits for it; neither keeps a core from the model for long.
_DECODE_CPUS, _WRITE_CPUS = 0.5, 0
# Shards being written at once, for each core of the cluster.
_WRITERS_PER_CORE = 1.0
_ATTEMPTS = 5

# A shard to be written: its number, the frame before it, and its frames.
Order = tuple[int, Anchor | None, list[Masked]]

_log = logging.getLogger(__name__)


def run(
    settings: Settings,
    sources: Sequence[Source],
    meter: Meter,
    display: Display,
    stop: threading.Event,
) -> list[Outcome]:
    """Segments every input; see ``Job.run``.

    Raises:
        InputError: no such model.
        FaultError: the cluster cannot be reached.
    """
    # Loaded once here, to say early what is wrong with it.
    identity = launch.open_model(settings).identity
    with ExitStack() as stack:
        inputs = [_Input(source, settings, meter) for source in sources]
        for each in inputs:
            stack.callback(each.store.close)
            each.try_to(partial(each.open, identity))
        running = [each for each in inputs if each.outcome is None]
        if any(each.spans for each in running):
            # Ray tells on stdout of workers that died, now or up to its end; our own lines belong there.
            stack.enter_context(redirect_stdout(sys.stderr))
            _start(settings)
            stack.callback(ray.shutdown)
            failure = _flow(settings, running, stop)
            for each in running:
                each.try_to(partial(each.settle, failure))
        for each in running:
            if each.outcome is None:
                each.try_to(each.finish)
        outcomes = [each.outcome for each in inputs if each.outcome is not None]
    for outcome in outcomes:
        display.event("input", name=outcome.name, code=int(outcome.code), message=outcome.message)
    return outcomes


def _start(settings: Settings) -> None:
    # By default a cluster of this machine alone gives way to everything else on it, and may never get a turn.
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        ray.init(
            address=settings.ray_address or None,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise FaultError(f"--ray-address {settings.ray_address}: no Ray cluster: {error}") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # A worker that dies takes its actor along; the frames it had are sent to another.
    context.max_errored_blocks = 0


def _flow(settings: Settings, inputs: list["_Input"], stop: threading.Event) -> JobError | None:
    """Streams all frames through the cluster; returns what ended it early, if anything did."""
    owners = [(each, span) for each in inputs for span in each.spans]
    spans = [span for _, span in owners]
    frames = ray.data.from_items([{"span": number} for number in range(len(spans))], override_num_blocks=len(spans))
    masks = frames.map_batches(
        decode,
        batch_size=1,
        fn_kwargs={"spans": spans, "settings": settings},
        num_cpus=_DECODE_CPUS,
    ).map_batches(
        Segmenter,
        batch_size=None,
        fn_constructor_args=(settings,),
        compute=ray.data.ActorPoolStrategy(size=settings.ray_actors),
        num_cpus=1,
        num_gpus=settings.ray_gpus or None,
    )
    writers = _Writers(settings)
    try:
        for batch in masks.iter_batches(batch_size=None, prefetch_batches=1):
            for row in _rows(batch):
                if stop.is_set():
                    raise StoppedError("stopped by a signal; run again with --resume")
                owner, span = owners[row["span"]]
                for shard in owner.add(span, row):
                    writers.start(owner, *shard)
        for owner, span in owners:
            for shard in owner.end(span):
                writers.start(owner, *shard)
        writers.wait(0)
    except JobError as error:
        return error
    except ray.exceptions.RayError as error:
        _log.debug("the cluster failed", exc_info=True)
        return FaultError(f"the cluster failed: {error}")
    return None


def _rows(batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for number in range(len(batch["span"])):
        told = {name: int(batch[name][number]) for name in ("span", "position", "number", "pts", "digest")}
        yield {**told, "bits": batch["bits"][number], "tail": batch["tail"][number]}


class _Writers:
    """The writing tasks under way; so many and no more, so that masks do not pile up."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._write = ray.remote(num_cpus=_WRITE_CPUS, max_retries=_ATTEMPTS)(write_shard)
        self._most = max(2, int(_WRITERS_PER_CORE * ray.cluster_resources().get("CPU", 1)))
        self._under_way: dict[Any, _Input] = {}

    def start(self, owner: "_Input", number: int, after: Anchor | None, frames: list[Masked]) -> None:
        """Starts one, when there is room."""
        self.wait(self._most - 1)
        task = self._write.remote(owner.source, self._settings, owner.clip, number, after, frames)
        self._under_way[task] = owner

    def wait(self, most: int) -> None:
        """Waits until at most so many are under way."""
        while len(self._under_way) > most:
            (task,), _ = ray.wait(list(self._under_way), num_returns=1)
            owner = self._under_way.pop(task)
            try:
                owner.meter.done(ray.get(task))
            except ray.exceptions.RayTaskError as error:
                if not isinstance(error.cause, JobError):
                    raise
                owner.failure = owner.failure or error.cause


class _Input:
    """One input on the cluster.

    Attributes:
        spans: what is to be read of it.
        outcome: how it ended, once it has.
        failure: what went wrong with it.
    """

    def __init__(self, source: Source, settings: Settings, meter: Meter) -> None:
        self.source = source
        self.settings = settings
        self.meter = meter
        self.store = Store(settings.output, source.name)
        self.clip: Clip | None = None
        self.spans: list[Span] = []
        self.outcome: Outcome | None = None
        self.failure: JobError | None = None
        self._sorters: dict[Span, _Sorter] = {}
        self._ending: Ending | None = None

    def try_to(self, step: Callable[[], Outcome | None]) -> None:
        """Does a step; what goes wrong ends this input only."""
        self.outcome = conclude(self.source, step)

    def open(self, identity: Identity) -> Outcome | None:
        """Looks what there is, and what is missing."""
        settings, source = self.settings, self.source
        source = self.source = settle(source, select(settings))
        if source.kind is Kind.STREAM:
            raise InputError(f"{public(source.address)}: a stream is read by --engine local")
        made = made_with(source, settings, identity)
        if self.store.open(made, resume=settings.resume, overwrite=settings.overwrite):
            return already(source, self.store)
        self.clip = self.store.clip
        if self.store.ending is None:
            self.clip = open_reader(source, select(settings)).clip
            self.store.keep_clip(self.clip)
            finished = self.store.finished()
            self.meter.expect(self.clip.frames)
            self.meter.skip(sum(record.frames for record in finished.values()))
            reach, size = settings.smooth // 2, settings.shard_frames
            for first, behind in gaps(finished):
                after = None if first == 0 else finished[first - 1].anchors[0]
                last = None if first == 0 else finished[first - 1].anchors[-1]
                start = 0 if first == 0 else first * size - reach
                span = Span(source, after, start, None if behind is None else behind * size + reach)
                self.spans.append(span)
                self._sorters[span] = _Sorter(self.clip, settings, span, first, behind, last)
        return None

    def add(self, span: Span, row: dict[str, Any]) -> Iterator[Order]:
        """Takes a frame's mask; yields the shards that are whole now."""
        if row["tail"]:
            shards = -(-(row["position"] + 1) // self.settings.shard_frames)
            told = json.loads(row["tail"])
            self._ending = Ending(shards, tuple((Note(text, loses), count) for text, loses, count in told))
        yield from self._sorters[span].add(row)

    def end(self, span: Span) -> Iterator[Order]:
        """Yields the shard that is left when all frames of the span are there."""
        yield from self._sorters[span].end()

    def settle(self, failure: JobError | None) -> Outcome | None:
        """Notes the input's end, if all of it is there."""
        if self.store.ending is not None:
            return None
        if self.failure is not None or failure is not None:
            raise self.failure or failure or AssertionError
        finished = self.store.finished()
        if not finished:
            raise InputError(f"{public(self.source.address)}: no frame between --start and --end")
        ending = self._ending or self._read_tail(finished[max(finished)].anchors[-1], max(finished) + 1)
        if len(finished) != ending.shards:
            raise FaultError(f"{self.source.name}: {ending.shards - len(finished)} shards were lost on the cluster")
        self.store.end(ending)
        return None

    def finish(self) -> Outcome:
        """Joins the shards."""
        assert self.clip is not None  # since ``open``
        return finish(self.source, self.store, self.clip, self.settings)

    def _read_tail(self, last: Anchor, shards: int) -> Ending:
        """The end of an input of which an earlier job had made all shards, but not noted it."""
        reader = open_reader(self.source, select(self.settings))
        if next(reader.frames(last), None) is not None:
            raise FaultError(f"{self.source.name}: frames were lost on the cluster")
        return Ending(shards, tuple(Counter(reader.tail).items()))


class _Sorter:
    """Masks of one span in any order in, its shards out, in order and smoothed.

    Args:
        clip: of the input.
        settings: of the job.
        span: what is read.
        first: number of the first shard to write.
        behind: number of the first one not to write; None: to the end.
        last: the frame before the first shard.
    """

    def __init__(
        self, clip: Clip, settings: Settings, span: Span, first: int, behind: int | None, last: Anchor | None
    ) -> None:
        self._clip = clip
        self._size = settings.shard_frames
        self._first = first * self._size
        self._behind = None if behind is None else behind * self._size
        self._smoother: Smoother[tuple[int, Anchor]] = Smoother(settings.smooth)
        self._waiting: dict[int, dict[str, Any]] = {}
        self._next = span.start
        self._before = last
        self._frames: list[Masked] = []
        self._position = self._first

    def add(self, row: dict[str, Any]) -> Iterator[Order]:
        """Takes a mask; yields the shards that are whole now."""
        self._waiting[row["position"]] = row
        while (here := self._waiting.pop(self._next, None)) is not None:
            key = (self._next, Anchor(here["number"], here["pts"], here["digest"]))
            self._next += 1
            for seen, mask in self._smoother.add(key, unpack(here["bits"], self._clip)):
                yield from self._take(*seen, mask)

    def end(self) -> Iterator[Order]:
        """Yields what is left."""
        for seen, mask in self._smoother.end():
            yield from self._take(*seen, mask)
        if self._frames:
            yield self._order()

    def _take(self, position: int, anchor: Anchor, mask: BoolMask) -> Iterator[Order]:
        if position < self._first or (self._behind is not None and position >= self._behind):
            return
        self._frames.append(Masked(anchor, pack(mask)))
        self._position = position
        if (position + 1) % self._size == 0:
            yield self._order()

    def _order(self) -> Order:
        order = (self._position // self._size, self._before, self._frames)
        self._before, self._frames = self._frames[-1].anchor, []
        return order
