"""The neural algorithm for sparse coding: a dictionary learned by a local, Hebbian-like rule without any gradient.

Arora, Ge, Ma, Moitra, "Simple, Efficient, and Neural Algorithms for Sparse Coding", COLT 2015, arXiv 1503.00778,
algorithm 2 and its Olshausen-Field form. For a batch y [p, n] of ``y = A* x*`` with codes of magnitude at least C::

    x = T_{C/2}(Aᵀ y)                                   decode, hard threshold
    A ← A + η (1/p) Σ (y − A x) sgn(x)ᵀ                 neural rule, η = Θ(m/k)
    A ← A + η (1/p) Σ (y − A x) xᵀ                      Olshausen-Field form
    A_j ← A_j / ‖A_j‖                                   columns keep unit length

The paper fixes the order of η alone. On data of its model 0.3 m/k learns and 1.0 m/k does not settle (``python -m
training recover``); digits, whose strokes overlap, need a tenth of that.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from training.encoders.neural_dictionary import NeuralDictionary, hard_threshold
from training.loops.trainer import DivergenceError

logger = logging.getLogger(__name__)

Rule = Literal["neural", "olshausen_field"]

RATE = 0.3
"""η in units of m/k."""
RATE_WARNED = 0.5
"""From here on η is warned of, in units of m/k."""
THRESHOLD_MEMORY = 0.99
"""Of the moving average of the threshold."""
GUARD_STEPS = 5
"""Steps over which the divergence guard averages."""
GUARD_GROWTH = 1.25
"""The relative residual may grow by this factor over that of the first step."""


def neural_update(
    dictionary: tf.Tensor, inputs: tf.Tensor, threshold: tf.Tensor | float, rate: tf.Tensor | float, rule: Rule
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """One step of the rule.

    Args:
        dictionary: A, float [V, D], unit columns.
        inputs: y, float [N, V].
        threshold: C/2.
        rate: η.
        rule: ``neural`` or ``olshausen_field``.

    Returns:
        The new dictionary [V, D] with unit columns, the codes x [N, D] and the residual y − A x [N, V], both of the
        dictionary before the step.
    """
    codes = hard_threshold(tf.matmul(inputs, dictionary), threshold)
    residual = inputs - tf.matmul(codes, dictionary, transpose_b=True)
    count = tf.cast(tf.shape(inputs)[0], inputs.dtype)
    partner = tf.sign(codes) if rule == "neural" else codes
    moved = dictionary + rate / count * tf.matmul(residual, partner, transpose_a=True)
    return moved / tf.norm(moved, axis=0), codes, residual


class DivergenceGuard:
    """Tells a step that is too large from the residual.

    Columns of unit length never grow, so a dictionary that is thrown about shows no NaN: it merely codes no better, or
    worse, than at the start.

    Args:
        name: of what is trained, for the message.
        rate: η in units of m/k, for the message.

    Attributes:
        first: float64 variable, scalar: the relative residual of the first step; NaN before it.
        recent: likewise, the average over the last steps. A resumed run needs both to be stopped where an unbroken one
            is, and only there.
    """

    def __init__(self, name: str, rate: float) -> None:
        self._name, self._rate = name, rate
        self.first, self.recent = (
            tf.Variable(math.nan, trainable=False, dtype=tf.float64, name=f"{which}_residual")
            for which in ("first", "recent")
        )

    def check(self, relative_residual: float) -> None:
        """Takes ``‖y − A x‖² / ‖y‖²`` of one step.

        Raises:
            DivergenceError: it is not finite, or its average has grown by a quarter over that of the first step.
        """
        first, recent = float(self.first), float(self.recent)
        if math.isnan(first):
            first = recent = relative_residual
            self.first.assign(first)
        recent += (relative_residual - recent) / GUARD_STEPS
        self.recent.assign(recent)
        if not math.isfinite(recent) or recent > GUARD_GROWTH * first:
            raise DivergenceError(
                f"{self._name}: the relative residual of the neural rule must not grow by more than {GUARD_GROWTH:g} "
                f"times over that of the first step ({first:.3g}). Received: {recent:.3g} on average, "
                f"last {relative_residual:.3g}. The step is too large: eta is {self._rate:g} m/k. Lower it "
                "(--set learning_rate=... in units of m/k)."
            )


class NeuralCoding:
    """The :class:`~training.loops.trainer.Program` of the rule on real data.

    The threshold C/2 follows from the data: the value that makes a batch keep ``k`` entries of an example on average,
    as a moving average. The rule is applied in units of C, in which the paper's codes are 1 or more. Columns start as
    normalised examples, and a column unused for a whole epoch is replaced by another one.

    Args:
        model: the trained model; its mean and its columns are set from ``images``, its threshold while training.
        images: the training examples, float [N, V].
        batches: from an epoch (from 0) to its batches [B, V].
        k: mean number of active latents aimed at.
        rate: η in units of m/k.
        rule: see :func:`neural_update`.
        seed: of starting and replacing columns.
        name: for messages.
    """

    def __init__(
        self,
        model: NeuralDictionary,
        images: NDArray[np.float32],
        batches: Callable[[int], Iterable[Any]],
        *,
        k: float,
        rate: float = RATE,
        rule: Rule = "neural",
        seed: int = 0,
        name: str = "neural",
    ) -> None:
        if not 0 < k < model.latents:
            raise ValueError(f"k must lie between 0 and {model.latents} (the latents). Received: {k}")
        warn_of_rate(name, rate)
        self._model, self._images, self._batches = model, images, batches
        self._k, self._rule, self._seed = k, rule, seed
        self._rate = rate * model.latents / k
        self._guard = DivergenceGuard(name, rate)
        self._used = tf.Variable(tf.ones(model.latents, tf.bool), trainable=False, name="used")
        model.mean.assign(images.mean(axis=0))
        model.dictionary.assign(self._examples(model.latents, epoch=0))
        model.threshold.assign(self._threshold_for(tf.constant(images[: 10 * model.latents])))
        self._graph_step = tf.function(self._update, reduce_retracing=True)

    @property
    def state(self) -> Mapping[str, Any]:
        """Model, which columns the current epoch has used, and what the guard compares."""
        return {
            "model": self._model,
            "used": self._used,
            "first_residual": self._guard.first,
            "recent_residual": self._guard.recent,
        }

    def batches(self, epoch: int) -> Iterable[Any]:
        """The batches of ``epoch``."""
        return self._batches(epoch)

    def before_epoch(self, epoch: int) -> None:
        """Replaces the columns that the last epoch did not use."""
        unused = np.flatnonzero(~self._used.numpy())
        if len(unused):
            dictionary = self._model.dictionary.numpy()
            dictionary[:, unused] = self._examples(len(unused), epoch)
            self._model.dictionary.assign(dictionary)
            logger.info("epoch %d: replaced %d columns unused for an epoch", epoch + 1, len(unused))
        self._used.assign(tf.zeros_like(self._used))

    def step(self, batch: Any) -> Mapping[str, tf.Tensor]:
        """One step of the rule on ``batch``.

        Raises:
            DivergenceError: see :class:`DivergenceGuard`.
        """
        scalars: Mapping[str, tf.Tensor] = self._graph_step(batch)
        self._guard.check(float(scalars["relative_residual"]))
        return scalars

    def validate(self) -> Mapping[str, float]:
        """Nothing is validated."""
        return {}

    def _update(self, batch: tf.Tensor) -> Mapping[str, tf.Tensor]:
        model = self._model
        threshold = tf.convert_to_tensor(model.threshold)
        model.threshold.assign(THRESHOLD_MEMORY * threshold + (1 - THRESHOLD_MEMORY) * self._threshold_for(batch))
        unit = 2 * threshold
        centred = (batch - model.mean) / unit
        dictionary, codes, residual = neural_update(
            tf.convert_to_tensor(model.dictionary), centred, threshold / unit, self._rate, self._rule
        )
        model.dictionary.assign(dictionary)
        active = codes != 0
        self._used.assign(self._used | tf.reduce_any(active, axis=0))
        squared = tf.reduce_sum(tf.square(residual))
        count = tf.cast(tf.shape(batch)[0], batch.dtype)
        return {
            "loss": 0.5 * squared * tf.square(unit) / count,
            "relative_residual": squared / tf.reduce_sum(tf.square(centred)),
            "l0": tf.reduce_sum(tf.cast(active, batch.dtype)) / count,
        }

    def _threshold_for(self, batch: tf.Tensor) -> tf.Tensor:
        """The k N-th largest of the N D magnitudes ``|Aᵀ y|``."""
        magnitudes = tf.reshape(tf.abs(tf.matmul(batch - self._model.mean, self._model.dictionary)), [-1])
        kept = tf.cast(tf.round(self._k * tf.cast(tf.shape(batch)[0], tf.float32)), tf.int32)
        return tf.math.top_k(magnitudes, kept).values[-1]

    def _examples(self, count: int, epoch: int) -> NDArray[np.float32]:
        """``count`` normalised examples as columns: float [V, count], a function of seed and epoch alone."""
        rng = np.random.default_rng([self._seed, epoch, 1])
        chosen = rng.choice(len(self._images), count, replace=len(self._images) < count)
        columns = (self._images[chosen] - self._images.mean(axis=0)).T
        unit: NDArray[np.float32] = columns / np.linalg.norm(columns, axis=0)
        return unit


def warn_of_rate(name: str, rate: float) -> None:
    """Warns of a step that may not settle.

    Args:
        name: of what is trained.
        rate: η in units of m/k.
    """
    if rate > RATE_WARNED:
        logger.warning(
            "%s: eta of %g m/k; above %g m/k the neural rule may not settle (default %g m/k)",
            name, rate, RATE_WARNED, RATE,
        )  # fmt: skip
