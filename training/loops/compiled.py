"""Many steps of training in one call, compiled by XLA.

For a small dense model a step is a handful of matrix products; calling it from Python, and running its element-wise
operations one by one, costs nearly as much again. Here the batches of some twenty steps go to the machine at once and
XLA fuses what lies between the products. The arithmetic stays that of one step after another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import tensorflow as tf

from training.loops.fit import Autodiff
from training.loops.manual import Manual

CHUNK = 20
"""Steps of one call."""

Update = Callable[[tf.Tensor], Mapping[str, tf.Tensor]]


class CompiledAutodiff(Autodiff):
    """:class:`~training.loops.fit.Autodiff` on single tensors as batches, compiled.

    ``loss`` is the one scalar that is reported; over an epoch it is the mean over calls, of which the last may hold
    fewer steps. Spread over several replicas it is plain :class:`~training.loops.fit.Autodiff`.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._spread = self._strategy.num_replicas_in_sync > 1
        self._steps = compiled(self._update)

    def batches(self, epoch: int) -> Iterable[Any]:
        """The batches of ``epoch``, some twenty at a time."""
        batches = super().batches(epoch)
        return batches if self._spread else in_chunks(batches)

    def step(self, batch: Any) -> Mapping[str, tf.Tensor]:
        """The steps on all batches of a chunk."""
        if self._spread:
            return super().step(batch)
        scalars: Mapping[str, tf.Tensor] = self._steps(batch)
        return scalars


class CompiledManual(Manual):
    """:class:`~training.loops.manual.Manual` on single tensors as batches, compiled; see :class:`CompiledAutodiff`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._steps = compiled(self._update)

    def batches(self, epoch: int) -> Iterable[Any]:
        """The batches of ``epoch``, some twenty at a time."""
        return in_chunks(super().batches(epoch))

    def step(self, batch: Any) -> Mapping[str, tf.Tensor]:
        """The steps on all batches of a chunk."""
        scalars: Mapping[str, tf.Tensor] = self._steps(batch)
        return scalars


def compiled(update: Update) -> Callable[[tf.Tensor], Mapping[str, tf.Tensor]]:
    """From one step on a batch [B, V] to the steps on a chunk [S, B, V], with the mean of their ``loss``."""

    def steps(chunk: tf.Tensor) -> Mapping[str, tf.Tensor]:
        count = chunk.shape[0]
        _, total = tf.while_loop(
            lambda index, _: index < count,
            lambda index, total: (index + 1, total + update(chunk[index])["loss"]),
            (tf.constant(0), tf.zeros((), chunk.dtype)),
        )
        return {"loss": total / count}

    graph: Callable[[tf.Tensor], Mapping[str, tf.Tensor]] = tf.function(steps, jit_compile=True)
    return graph


def in_chunks(batches: Iterable[tf.Tensor]) -> Iterator[tf.Tensor]:
    """Groups batches [B, V] of one size to chunks [S, B, V] of up to :data:`CHUNK`."""
    waiting: list[tf.Tensor] = []
    for batch in batches:
        if waiting and (len(waiting) == CHUNK or batch.shape != waiting[0].shape):
            yield tf.stack(waiting)
            waiting = []
        waiting.append(batch)
    if waiting:
        yield tf.stack(waiting)
