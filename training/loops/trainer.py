"""What every way of training shares: epochs, progress, logs, checkpoints and exact resumption.

A :class:`Program` says what one step does and which batches an epoch has. Because the batches of an epoch are a
function of (seed, epoch) and the checkpoint holds every variable, a run that was cut and resumed ends with the same
weights as one that was not.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from training.files import write_text, written_whole

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
HISTORY = "history.jsonl"
SNAPSHOTS = "snapshots"
SNAPSHOTS_KEPT = 60


class DivergenceError(Exception):
    """The training objective is no longer a finite number."""


class Program(Protocol):
    """One way of training a model."""

    @property
    def state(self) -> Mapping[str, Any]:
        """Everything a resumed run needs (models, optimisers, counters): trackable by ``tf.train.Checkpoint``."""

    def batches(self, epoch: int) -> Iterable[Any]:
        """The batches of one epoch, in order; a function of the seed and ``epoch`` (from 0) alone."""

    def before_epoch(self, epoch: int) -> None:
        """Sets what changes from epoch to epoch."""

    def step(self, batch: Any) -> Mapping[str, tf.Tensor]:
        """One update. Returns scalars to be averaged over the epoch; ``loss`` is among them."""

    def validate(self) -> Mapping[str, float]:
        """Scalars on held-out data; may be empty."""


@dataclass
class History:
    """The scalars of every finished epoch, kept as JSON lines.

    Attributes:
        path: the file, rewritten whole after every epoch.
        epochs: one mapping an epoch: ``epoch`` (from 1), ``seconds``, the step's means and, where the epoch was
            validated, ``validation_*``.
    """

    path: Path
    epochs: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path, finished: int) -> History:
        """The first ``finished`` epochs of an earlier run; what came after its last checkpoint is dropped."""
        if not path.exists():
            return cls(path)
        lines = path.read_text(encoding="utf-8").splitlines()
        return cls(path, [json.loads(line) for line in lines[:finished]])

    def append(self, scalars: Mapping[str, float]) -> None:
        """Adds one epoch and writes the file."""
        self.epochs.append(dict(scalars))
        write_text(self.path, "".join(json.dumps(epoch) + "\n" for epoch in self.epochs))


def train(
    program: Program,
    *,
    name: str,
    epochs: int,
    directory: Path,
    checkpoint_every: int = 1,
    validate_every: int = 0,
    snapshot: Callable[[], NDArray[np.float32] | None] | None = None,
    stop_after: int | None = None,
    chief: bool = True,
) -> History:
    """Runs ``program`` up to ``epochs`` epochs, going on from the newest checkpoint in ``directory``.

    Args:
        program: what to train.
        name: shown beside the progress bar.
        epochs: total number of epochs, those of earlier runs counted in.
        directory: receives ``checkpoints/``, ``tensorboard/``, ``snapshots/`` and ``history.jsonl``.
        checkpoint_every: epochs between checkpoints; the last epoch always has one.
        validate_every: epochs between calls of ``program.validate``; 0 for never. The last epoch is always validated
            where this is not 0.
        snapshot: asked for an array after up to 60 of the epochs, evenly spread, the last among them; each is kept as
            ``snapshots/<epoch>.npy``.
        stop_after: end, as if cut, after this many epochs in this call. For tests and for jobs with a time limit.
        chief: False in the workers of a distributed training that must not write: they read the same ``directory``
            and keep step.

    Returns:
        The scalars of all epochs.

    Raises:
        DivergenceError: the loss of an epoch is not finite; the checkpoint before it stays.
    """
    finished = tf.Variable(0, dtype=tf.int64, trainable=False, name="finished_epochs")
    checkpoint = tf.train.Checkpoint(finished_epochs=finished, **program.state)
    manager = tf.train.CheckpointManager(checkpoint, str(directory / CHECKPOINTS), max_to_keep=2)
    if manager.latest_checkpoint:
        checkpoint.restore(manager.latest_checkpoint).assert_existing_objects_matched()
        logger.info("%s: resumed after epoch %d of %d", name, int(finished), epochs)
    first = int(finished)
    last = epochs if stop_after is None else min(epochs, first + stop_after)
    history = History.read(directory / HISTORY, first)

    writer = tf.summary.create_file_writer(str(directory / TENSORBOARD)) if chief else tf.summary.create_noop_writer()
    with _progress() as progress, writer.as_default():
        task = progress.add_task(name, total=epochs, completed=first, scalars="")
        for epoch in range(first, last):
            scalars = _run_epoch(program, epoch, name)
            is_last = epoch + 1 == epochs
            if validate_every and (is_last or (epoch + 1) % validate_every == 0):
                scalars.update({f"validation_{key}": value for key, value in program.validate().items()})
            finished.assign(epoch + 1)
            if not chief:
                continue
            for key, value in scalars.items():
                tf.summary.scalar(key, value, step=epoch + 1)
            if snapshot is not None and (is_last or epoch % -(-epochs // SNAPSHOTS_KEPT) == 0):
                _keep_snapshot(snapshot(), directory / SNAPSHOTS / f"{epoch + 1:05d}.npy")
            history.append({"epoch": epoch + 1, **scalars})
            if is_last or (epoch + 1) % checkpoint_every == 0:
                manager.save(checkpoint_number=epoch + 1)
            text = "  ".join(f"{key} {value:.4g}" for key, value in scalars.items() if key != "seconds")
            progress.update(task, completed=epoch + 1, scalars=text)
            level = logging.INFO if is_last or (epoch + 1) % max(1, epochs // 10) == 0 else logging.DEBUG
            logger.log(level, "%s: epoch %d/%d  %s", name, epoch + 1, epochs, text)
    return history


def _run_epoch(program: Program, epoch: int, name: str) -> dict[str, float]:
    started = time.perf_counter()
    program.before_epoch(epoch)
    totals: dict[str, tf.Tensor] = {}
    steps = 0
    for batch in program.batches(epoch):
        for key, value in program.step(batch).items():
            totals[key] = totals[key] + value if key in totals else value
        steps += 1
    if steps == 0:
        raise ValueError(f"{name}: epoch {epoch + 1} has no batch; expected at least one. Is the data empty?")
    scalars = {key: float(value) / steps for key, value in totals.items()}
    if not math.isfinite(scalars["loss"]):
        raise DivergenceError(
            f"{name}: the loss of epoch {epoch + 1} is {scalars['loss']}; expected a finite number. "
            "Lower the learning rate (--set learning_rate=...)."
        )
    return {"seconds": round(time.perf_counter() - started, 3), **scalars}


def _keep_snapshot(array: NDArray[np.float32] | None, path: Path) -> None:
    if array is not None:
        with written_whole(path) as temporary, temporary.open("wb") as file:
            np.save(file, array, allow_pickle=False)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[scalars]}"),
    )
