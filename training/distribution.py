"""Training spread over devices or workers with ``tf.distribute``.

Every replica takes its share of each batch; gradients are summed, weighted by the shares, so that an objective that is
a mean over examples has the same gradient as on one device. What is a function of the batch as a whole sees a replica's
own examples, as is usual: it is that of a smaller batch, and the weights end elsewhere than on one device. Such are
batch normalisation and the soft Dice loss; the KL penalty on mean activations (``mnist_kl``); the unexplained share,
BatchTopK's selection and JumpReLU's distance from the L0 aimed at. Idle latents are counted over all replicas.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, Literal

import tensorflow as tf

StrategyName = Literal["none", "mirrored", "multi_worker"]


class DistributionError(Exception):
    """A strategy that cannot be set up, or that a way of training does not support."""


def make_strategy(name: str) -> tf.distribute.Strategy:
    """The strategy of that name. Call it before anything else of TensorFlow runs.

    Args:
        name: ``none``; ``mirrored`` for all GPUs of this machine (or its CPU); ``multi_worker`` for the workers that
            the environment variable TF_CONFIG names.

    Raises:
        DistributionError: an unknown name, or ``multi_worker`` with a missing or incomplete TF_CONFIG.
    """
    if name == "none":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        return tf.distribute.MirroredStrategy()
    if name == "multi_worker":
        _read_task()
        return tf.distribute.MultiWorkerMirroredStrategy()
    raise DistributionError(f"--strategy must be none, mirrored or multi_worker. Received: {name!r}")


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes the run folder."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return True
    kind, index = _read_task()
    return kind == "chief" or (kind == "worker" and index == 0)


def wait_for_all(strategy: tf.distribute.Strategy) -> None:
    """Returns when every worker has come here."""
    ones = strategy.experimental_distribute_values_from_function(lambda _: tf.constant(1.0))
    float(strategy.reduce(tf.distribute.ReduceOp.SUM, ones, axis=None))


def shares(strategy: tf.distribute.Strategy, batch: Any) -> tuple[Any, Any]:
    """Cuts a batch into one part for each replica.

    Args:
        strategy: with R replicas.
        batch: a tensor or a structure of tensors [B, ...]. Every worker passes the same batch.

    Returns:
        The parts, and the weight of each: its share of the examples, 0..1. A replica without an example of its own
        gets the first one with weight 0, since all replicas must take part in every step.
    """
    rows = int(tf.nest.flatten(batch)[0].shape[0])

    def bounds(context: tf.distribute.ReplicaContext) -> tuple[int, int]:
        replicas, index = context.num_replicas_in_sync, context.replica_id_in_sync_group
        return rows * index // replicas, rows * (index + 1) // replicas

    def part(tensor: tf.Tensor) -> Callable[[Any], tf.Tensor]:
        def cut(context: Any) -> tf.Tensor:
            start, end = bounds(context)
            return tensor[start:end] if end > start else tensor[:1]

        return cut

    def weight(context: Any) -> tf.Tensor:
        start, end = bounds(context)
        return tf.constant((end - start) / rows, tf.float32)

    parts = tf.nest.map_structure(
        lambda tensor: strategy.experimental_distribute_values_from_function(part(tensor)), batch
    )
    return parts, strategy.experimental_distribute_values_from_function(weight)


def _read_task() -> tuple[str, int]:
    text = os.environ.get("TF_CONFIG", "")
    try:
        config = json.loads(text)
        kind, index = config["task"]["type"], int(config["task"]["index"])
        addresses = config["cluster"][kind]
        addresses[index]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DistributionError(
            "multi_worker needs TF_CONFIG with 'cluster' (lists of host:port by kind) and 'task' (type and index of "
            f"this process in them). Received: {text!r}"
        ) from error
    return kind, index
