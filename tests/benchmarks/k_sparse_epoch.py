"""An epoch of the k-sparse auto-encoder beside the bare matrix products that it needs, measured in one run.

``python tests/benchmarks/k_sparse_epoch.py`` prints JSON. An epoch is 60,000 examples of 784 values in batches of 100
through 1000 latents with everything that training does: batches in a drawn order, selection, objective, gradients and
Adam. The products it needs are five for each batch, ``x W``, ``a Wᵀ``, ``δ₃ W``, ``xᵀ δ₂`` and ``δ₃ᵀ a``, each of
100 x 784 x 1000; they are run 600 times in one graph, on the same machine, in turns with the epochs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import tensorflow as tf

from training.datasets.digits import DigitData
from training.experiments import experiment_named
from training.loops.trainer import Program

EXAMPLES, PIXELS, LATENTS, BATCH = 60_000, 784, 1000, 100


def products(images: np.ndarray) -> Callable[[], None]:
    """The bare products of one epoch, in one graph."""
    x = tf.Variable(images[:BATCH])
    w = tf.random.stateless_normal((PIXELS, LATENTS), (0, 0), stddev=0.01)

    @tf.function
    def run() -> tf.Tensor:
        total = tf.zeros(())
        for _ in tf.range(EXAMPLES // BATCH):
            a = tf.matmul(x, w)
            delta_3 = tf.matmul(a, w, transpose_b=True)
            delta_2 = tf.matmul(delta_3, w)
            one, other = tf.matmul(x, delta_2, transpose_a=True), tf.matmul(delta_3, a, transpose_a=True)
            total += one[0, 0] + other[0, 0]
            # a value that the compiler cannot foresee, or it would compute one round once for all
            x.assign(x + 0 * total)
        return total

    return lambda: float(run())


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gradients", choices=("auto", "manual"), default="auto")
    parser.add_argument("--k", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    # a fifth of MNIST's pixels is not 0; what the values are does not matter to dense products
    images = np.where(rng.random((EXAMPLES, PIXELS)) < 0.2, rng.random((EXAMPLES, PIXELS)), 0).astype(np.float32)
    labels = np.zeros(EXAMPLES, np.int64)
    data = DigitData("benchmark", "embedded", images, labels, images[:10], labels[:10])
    experiment = experiment_named("mnist_k_sparse").with_settings(
        {"gradients": arguments.gradients, "k": str(arguments.k), "k_start": str(arguments.k)}
    )
    model = experiment.build()
    program = experiment.program(model, data)
    bare = products(images)
    bare()
    epoch(program, 0)
    times: dict[str, list[float]] = {"bare": [], "epoch": []}
    for number in range(1, arguments.rounds + 1):
        times["bare"].append(timed(bare))
        times["epoch"].append(timed(lambda number=number: epoch(program, number)))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(
        json.dumps(
            {
                "epoch_seconds": round(medians["epoch"], 3),
                "bare_products_seconds": round(medians["bare"], 3),
                "ratio": round(medians["epoch"] / medians["bare"], 3),
                "rounds": {name: [round(value, 3) for value in values] for name, values in times.items()},
                "gradients": arguments.gradients,
                "k": arguments.k,
                "cores": os.cpu_count(),
                "load_before": os.getloadavg()[0],
                "tensorflow": tf.__version__,
                "machine": platform.machine(),
            },
            indent=2,
        )
    )


def epoch(program: Program, number: int) -> None:
    """One epoch as the trainer runs it."""
    program.before_epoch(number)
    losses = [program.step(batch)["loss"] for batch in program.batches(number)]
    float(losses[-1])


def timed(action: Callable[[], None]) -> float:
    """Seconds that ``action`` takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
