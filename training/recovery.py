"""Dictionary recovery on synthetic data: ``python -m training recover``.

The neural rule of :mod:`training.loops.neural_coding` in several sizes, an auto-encoder of the
k-sparse kind, and scikit-learn's dictionary learning, which shares no code with either, as a yardstick.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from sklearn.decomposition import MiniBatchDictionaryLearning

from training.encoders.k_sparse import KSparseAutoencoder
from training.encoders.neural_dictionary import hard_threshold
from training.evaluation.dictionary_recovery import (
    Doubles,
    Recovery,
    SparseModel,
    near_start,
    random_model,
    score_recovery,
)
from training.loops.manual import selected_gradients
from training.loops.neural_coding import RATE, DivergenceGuard, Rule, neural_update, warn_of_rate
from training.loops.optimizers import FusedAdam
from training.loops.trainer import DivergenceError
from training.sparsity.top_k import top_k

Coder = Literal["neural", "olshausen_field", "k_sparse", "scikit_learn"]
Encode = Callable[[Doubles], NDArray[np.floating]]

START_DISTANCE = 0.5
"""Of the near start's columns from the true ones."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One dictionary to be found.

    Attributes:
        n: values of an example.
        m: columns.
        k: entries of a code that are not 0; each is ±1, so C is 1.
        coder: how it is looked for.
        orthonormal: whether A* is.
        rate: η in units of m/k, of the neural rule; the rate of Adam for ``k_sparse``; unused by scikit-learn.
        steps: each on fresh examples.
        examples: of one step.
        seed: of everything random.
    """

    n: int
    m: int
    k: int
    coder: Coder = "neural"
    orthonormal: bool = False
    rate: float = RATE
    steps: int = 60
    examples: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What came of a trial.

    Attributes:
        trial: which.
        recovery: what was found; None where the coder did not settle.
        message: why it did not; empty otherwise.
        seconds: it took.
    """

    trial: Trial
    recovery: Recovery | None
    message: str
    seconds: float


TRIALS = (
    Trial(n=64, m=64, k=3, orthonormal=True),
    Trial(n=64, m=64, k=3),
    Trial(n=64, m=100, k=3),
    Trial(n=256, m=256, k=3),
    Trial(n=256, m=320, k=5),
    Trial(n=200, m=250, k=8, rate=0.1, steps=150),
    Trial(n=64, m=64, k=3, rate=1.0),
    Trial(n=64, m=64, k=3, coder="olshausen_field", rate=0.1, steps=150),
    Trial(n=64, m=64, k=3, coder="k_sparse", rate=3e-3, steps=500),
    Trial(n=64, m=64, k=3, coder="scikit_learn", steps=100),
)


def recover(trial: Trial) -> Outcome:
    """Runs one trial. A step that is too large is an outcome, not an error."""
    started = time.perf_counter()
    rng = np.random.default_rng(trial.seed)
    model = random_model(trial.n, trial.m, trial.k, rng, orthonormal=trial.orthonormal)
    learn = {"k_sparse": _k_sparse, "scikit_learn": _scikit_learn}.get(trial.coder, _neural)
    recovery, message = None, ""
    try:
        dictionary, encode = learn(trial, model, rng)
        recovery = score_recovery(dictionary, encode, model, seed=trial.seed + 1)
    except DivergenceError as error:
        message = str(error)
    return Outcome(trial, recovery, message, time.perf_counter() - started)


def report() -> Iterator[str]:
    """Runs :data:`TRIALS` and yields a table, each line as it is ready; then why those that did not settle did not."""
    heads = ("coder", "n", "m", "k", "eta", "steps", "mean", "max", "cos", "support P/R", "MCC", "seconds")
    yield _line(heads)
    messages = []
    for trial in TRIALS:
        outcome = recover(trial)
        columns = f"{trial.m} orth." if trial.orthonormal else str(trial.m)
        rate = {"scikit_learn": "-", "k_sparse": f"Adam {trial.rate:g}"}.get(trial.coder, f"{trial.rate:g} m/k")
        found = ("diverges", *[""] * 4) if outcome.recovery is None else _cells(outcome.recovery)
        setting = (trial.coder, str(trial.n), columns, str(trial.k), rate, str(trial.steps))
        yield _line((*setting, *found, f"{outcome.seconds:.1f}"))
        if outcome.message:
            messages.append(outcome.message)
    yield from messages


def _line(cells: tuple[str, ...]) -> str:
    widths = (16, 4, 9, 2, 10, 6, 8, 7, 7, 12, 6, 7)
    return " ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _cells(found: Recovery) -> tuple[str, ...]:
    support = f"{found.support_precision:.2f} / {found.support_recall:.2f}"
    return (
        f"{found.mean_error:.4f}",
        f"{found.max_error:.4f}",
        f"{found.mean_cosine:.4f}",
        support,
        f"{found.mcc:.3f}",
    )


def _neural(trial: Trial, model: SparseModel, rng: np.random.Generator) -> tuple[Doubles, Encode]:
    name = f"recovery of n={trial.n}, m={trial.m}, k={trial.k}"
    warn_of_rate(name, trial.rate)
    guard = DivergenceGuard(name, trial.rate)
    rule: Rule = "olshausen_field" if trial.coder == "olshausen_field" else "neural"
    update = tf.function(lambda a, y: neural_update(a, y, 0.5, trial.rate * trial.m / trial.k, rule))
    dictionary = tf.constant(near_start(model.dictionary, START_DISTANCE, rng))
    for _ in range(trial.steps):
        inputs, _ = model.sample(trial.examples, rng)
        dictionary, _, residual = update(dictionary, tf.constant(inputs))
        guard.check(float(tf.reduce_sum(tf.square(residual))) / float(np.sum(np.square(inputs))))
    found: Doubles = dictionary.numpy()
    return found, lambda inputs: np.asarray(hard_threshold(inputs @ found, 0.5))


def _k_sparse(trial: Trial, model: SparseModel, rng: np.random.Generator) -> tuple[Doubles, Encode]:
    """The k largest latents cannot stand for negative codes, so each column is looked for in both signs."""
    coder = KSparseAutoencoder(trial.n, 2 * trial.m, trial.k, init_scale=0.0, seed=trial.seed, dtype="float64")
    coder.dictionary.assign(
        np.concatenate([sign * near_start(model.dictionary, START_DISTANCE, rng) for sign in (1, -1)], axis=1)
    )
    variables = [coder.dictionary, coder.encoder_bias, coder.decoder_bias]
    optimizer = FusedAdam(trial.rate)
    optimizer.build(variables)

    def step(inputs: tf.Tensor) -> None:
        dictionary, encoder_bias, decoder_bias = (tf.convert_to_tensor(variable) for variable in variables)
        result = selected_gradients(
            inputs, dictionary, encoder_bias, decoder_bias, lambda latents: top_k(latents, trial.k)
        )
        optimizer.apply([result.dictionary, result.encoder_bias, result.decoder_bias], variables)

    graph_step = tf.function(step)
    for _ in range(trial.steps):
        graph_step(tf.constant(model.sample(trial.examples, rng)[0]))
    signed = coder.dictionary.numpy()
    # the column that stands for +1 of a code minus the one that stands for −1
    found: Doubles = (signed[:, : trial.m] - signed[:, trial.m :]) / 2

    def encode(inputs: Doubles) -> NDArray[np.floating]:
        latents = np.asarray(coder.encode(tf.constant(inputs)))
        difference: Doubles = latents[:, : trial.m] - latents[:, trial.m :]
        return difference

    return found, encode


def _scikit_learn(trial: Trial, model: SparseModel, rng: np.random.Generator) -> tuple[Doubles, Encode]:
    learner = MiniBatchDictionaryLearning(
        trial.m,
        alpha=0.3,
        max_iter=trial.steps,
        batch_size=100,
        fit_algorithm="cd",
        transform_algorithm="omp",
        transform_n_nonzero_coefs=trial.k,
        dict_init=near_start(model.dictionary, START_DISTANCE, rng).T,
        random_state=trial.seed,
    ).fit(model.sample(trial.examples, rng)[0])
    return learner.components_.T, learner.transform
