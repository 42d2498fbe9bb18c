"""The five ways of sparse coding of MNIST digits: plain, weight decay, KL, neural, k-sparse.

``python -m training train mnist_k_sparse --preset full`` trains the k-sparse auto-encoder; ``--set gradients=manual``
trains by formulas written out by hand in place of automatic differentiation. ``--preset blog`` is the source's program
with its quirks, each an option of its own. See ``training/RESULTS.md`` for what they score, how long they take and on
which machine. The source says that all five share their hyper-parameters; its programs differ in rate, decay and start,
and so do the presets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import keras
import numpy as np
import tensorflow as tf

from training.datasets.digits import DigitData
from training.encoders.k_sparse import KSparseAutoencoder
from training.encoders.neural_dictionary import NeuralDictionary
from training.encoders.sigmoid_autoencoder import Initial, SigmoidAutoencoder
from training.experiments.base import ExperimentError
from training.experiments.mnist import PIXELS, MnistExperiment, in_chunks
from training.loops.compiled import CompiledAutodiff, CompiledManual
from training.loops.fit import Autodiff
from training.loops.manual import Manual, selected_gradients, sigmoid_gradients
from training.loops.neural_coding import NeuralCoding, Rule
from training.loops.neural_program import NeuralProgram
from training.loops.optimizers import FusedAdam, ProgramAdam
from training.loops.trainer import Program
from training.losses.reconstruction import squared_error
from training.losses.weight_penalties import l2_penalty
from training.sparsity.kl import kl_sparsity
from training.sparsity.top_k import smallest_top_k, top_k_by_bisection

Gradients = Literal["auto", "manual"]

ACTIVATION_MEMORY = 0.99
"""Of the moving average of the latents' mean activation."""


@dataclass(frozen=True, kw_only=True)
class SparseCoding(MnistExperiment):
    """What the cases share that minimise ``½ ‖x̂ − x‖² + λ/2 ‖W‖² + …``, by Adam.

    Attributes:
        latents: number of latents.
        biases: whether there are any; the source's program has none.
        gradients: ``auto`` differentiates the objective with a tape; ``manual`` uses :mod:`training.loops.manual`.
        weight_decay: λ, on weights but not on biases.
        decay: ``coupled`` adds λ w to the gradient; ``decoupled`` takes λ w off the weights beside Adam's step, not
            multiplied by the rate, as the source's program does in case b.
        bias_correction: Adam's; ``constant`` as the source's program has it.
    """

    latents: int = 196
    biases: bool = True
    gradients: Gradients = "auto"
    weight_decay: float = 0.0
    decay: Literal["coupled", "decoupled"] = "coupled"
    bias_correction: Literal["fading", "constant"] = "fading"

    def __post_init__(self) -> None:
        """Refuses what does not go together."""
        if self.decay == "decoupled" and self.bias_correction != "constant":
            raise ExperimentError(
                f"{self.name}: decay=decoupled is the source's and needs bias_correction=constant. "
                f"Received: {self.bias_correction!r}"
            )

    @property
    def coupled_decay(self) -> float:
        """The λ that is part of the objective."""
        return self.weight_decay if self.decay == "coupled" else 0.0

    def optimizer(self) -> keras.optimizers.Optimizer:
        """Adam."""
        if self.bias_correction == "constant":
            decay = self.weight_decay if self.decay == "decoupled" else 0.0
            return ProgramAdam(self.learning_rate, decoupled_decay=decay)
        return FusedAdam(self.learning_rate)


@dataclass(frozen=True, kw_only=True)
class SigmoidCoding(SparseCoding):
    """Cases a to c: sigmoid latents, plain, with weight decay, and with Ng's KL penalty (CS294A, section 3).

    Attributes:
        initial: how the weights are drawn.
        sparsity_weight: β of the KL penalty.
        target_activation: ρ.
        activation_average: ρ̂ over the ``batch``, or ``moving`` over the last hundred batches or so.
    """

    initial: Initial = "uniform"
    sparsity_weight: float = 0.0
    target_activation: float = 0.1
    activation_average: Literal["batch", "moving"] = "batch"

    def build(self) -> SigmoidAutoencoder:
        """A fresh model."""
        return SigmoidAutoencoder(PIXELS, self.latents, biases=self.biases, initial=self.initial, seed=self.seed)

    def program(self, model: SigmoidAutoencoder, data: DigitData) -> Program:
        """Adam on squared error, decay and penalty."""

        def batches(epoch: int) -> Iterator[tf.Tensor]:
            return self.batches(self.train_images(data), epoch)

        if self.gradients == "manual":
            return Manual(model, lambda image: self.backward(model, image), self.optimizer(), batches)
        return Autodiff(model, lambda image: self.objective(model, image), self.optimizer(), batches)

    def objective(self, model: SigmoidAutoencoder, image: tf.Tensor) -> Mapping[str, tf.Tensor]:
        """``½ ‖x̂ − x‖² + λ/2 (‖W₁‖² + ‖W₂‖²) + β Σ KL(ρ ‖ ρ̂)`` for a tape to differentiate."""
        a = model.encode(image)
        activation = tf.reduce_mean(a, axis=0)
        loss = 0.5 * squared_error(image, model.decode(a))
        if self.coupled_decay:
            loss += self.coupled_decay * l2_penalty([model.encoder, model.decoder])
        if self.sparsity_weight:
            loss += self.sparsity_weight * kl_sparsity(self._averaged(model, activation), self.target_activation)
        return {"loss": loss, "activation": tf.reduce_mean(activation)}

    def backward(
        self, model: SigmoidAutoencoder, image: tf.Tensor
    ) -> tuple[Mapping[str, tf.Tensor], Sequence[tf.Tensor]]:
        """The same with its gradients written out."""
        result = sigmoid_gradients(
            image,
            tf.convert_to_tensor(model.encoder),
            tf.convert_to_tensor(model.encoder_bias),
            tf.convert_to_tensor(model.decoder),
            tf.convert_to_tensor(model.decoder_bias),
            weight_decay=self.coupled_decay,
            sparsity_weight=self.sparsity_weight,
            target_activation=self.target_activation,
            moving_activation=lambda activation: self._averaged(model, activation),
        )
        weights, biases = (result.encoder, result.decoder), (result.encoder_bias, result.decoder_bias)
        gradients = [weights[0], biases[0], weights[1], biases[1]] if self.biases else weights
        return {"loss": result.loss, "activation": tf.reduce_mean(result.mean_activation)}, gradients

    def extra_scores(self, model: SigmoidAutoencoder, data: DigitData) -> dict[str, float]:
        """Mean activation over all training digits: of all latents, and of the least and the most active one."""
        mean = in_chunks(model.encode, self.train_images(data)).mean(axis=0, dtype=np.float64)
        return {
            "mean_activation": float(mean.mean()),
            "least_mean_activation": float(mean.min()),
            "most_mean_activation": float(mean.max()),
        }

    def _averaged(self, model: SigmoidAutoencoder, activation: tf.Tensor) -> tf.Tensor:
        """ρ̂ of the penalty; a moving one keeps the derivative of the batch's."""
        if self.activation_average == "batch":
            return activation
        fixed = tf.stop_gradient(activation)
        old = tf.convert_to_tensor(model.mean_activation)
        # 0 is what it starts with, and no mean of a sigmoid
        moved = tf.where(old == 0, fixed, ACTIVATION_MEMORY * old + (1 - ACTIVATION_MEMORY) * fixed)
        model.mean_activation.assign(moved)
        return activation + (moved - fixed)


@dataclass(frozen=True, kw_only=True)
class KSparse(SparseCoding):
    """The k-sparse auto-encoder (case e): Makhzani and Frey, arXiv 1312.5663.

    Attributes:
        k: latents kept at the end of training and in the export.
        k_start: latents kept in the first epoch; lowered linearly to ``k`` over the first half of the epochs.
        alpha: the exported encoding keeps ``alpha * k`` latents. 1 keeps ``decode(encoding)`` equal to the exported
            reconstruction; the probe is reported at 1, 2 and 3 whatever is exported.
        init_scale: standard deviation of the initial dictionary; 0 for the uniform start of the source's program.
        selection: in training, the k largest of each ``example``, or what reaches one threshold for the ``batch``: the
            smallest of the examples' k-th largest values, as the source's program has it. Export and scores select by
            example either way.
        gradient_half: ``both`` halves of a tied weight's gradient, or the ``decoder``'s alone as the program has it.
    """

    latents: int = 1000
    k: int = 25
    k_start: int = 100
    alpha: float = 1.0
    init_scale: float = 0.01
    selection: Literal["example", "batch"] = "example"
    gradient_half: Literal["both", "decoder"] = "both"

    def __post_init__(self) -> None:
        """Refuses what does not go together."""
        super().__post_init__()
        if self.gradient_half == "decoder" and self.biases:
            raise ExperimentError(
                f"{self.name}: gradient_half=decoder leaves the encoder's bias without a gradient and needs "
                "biases=false. Received: biases=true"
            )

    def build(self) -> KSparseAutoencoder:
        """A fresh model."""
        return KSparseAutoencoder(
            PIXELS,
            self.latents,
            self.k,
            alpha=self.alpha,
            biases=self.biases,
            init_scale=self.init_scale,
            seed=self.seed,
        )

    def k_at(self, epoch: int) -> int:
        """Latents kept in ``epoch`` (from 0)."""
        half = self.epochs // 2
        if epoch >= half:
            return self.k
        return round(self.k_start + (self.k - self.k_start) * epoch / half)

    def program(self, model: KSparseAutoencoder, data: DigitData) -> Program:
        """Adam on the squared error through the kept latents."""

        def batches(epoch: int) -> Iterator[tf.Tensor]:
            return self.batches(self.train_images(data), epoch)

        def before_epoch(epoch: int) -> None:
            model.k.assign(self.k_at(epoch))

        if self.gradients == "manual":
            return CompiledManual(
                model, lambda image: self.backward(model, image), self.optimizer(), batches, before_epoch=before_epoch
            )
        return CompiledAutodiff(
            model, lambda image: self.objective(model, image), self.optimizer(), batches, before_epoch=before_epoch
        )

    def objective(self, model: KSparseAutoencoder, image: tf.Tensor) -> Mapping[str, tf.Tensor]:
        """``½ ‖x̂ − x‖² + λ/2 ‖W‖²`` for a tape to differentiate."""
        kept = self._select(model, model.activations(image))
        if self.gradient_half == "decoder":
            kept = tf.stop_gradient(kept)
        loss = 0.5 * squared_error(image, model.decode(kept))
        if self.coupled_decay:
            loss += self.coupled_decay * l2_penalty([model.dictionary])
        return {"loss": loss}

    def backward(
        self, model: KSparseAutoencoder, image: tf.Tensor
    ) -> tuple[Mapping[str, tf.Tensor], Sequence[tf.Tensor]]:
        """The same with its gradients written out."""
        result = selected_gradients(
            image,
            tf.convert_to_tensor(model.dictionary),
            tf.convert_to_tensor(model.encoder_bias),
            tf.convert_to_tensor(model.decoder_bias),
            lambda latents: self._select(model, latents),
            weight_decay=self.coupled_decay,
            decoder_half_only=self.gradient_half == "decoder",
        )
        biases = (result.encoder_bias, result.decoder_bias) if self.biases else ()
        return {"loss": result.loss}, (result.dictionary, *biases)

    def extra_scores(self, model: KSparseAutoencoder, data: DigitData) -> dict[str, float]:
        """The probe with two and three times as many latents: the paper encodes more widely than it trains."""
        scores = {}
        for alpha in (2, 3):
            wider = KSparseAutoencoder(PIXELS, self.latents, self.k, alpha=alpha)
            wider.set_weights(model.get_weights())
            train, test = in_chunks(wider.encode, data.train_images), in_chunks(wider.encode, data.test_images)
            scores[f"probe_error_alpha_{alpha}"] = self.probe(data, train, test)
        return scores

    def _select(self, model: KSparseAutoencoder, latents: tf.Tensor) -> tf.Tensor:
        select = top_k_by_bisection if self.selection == "example" else smallest_top_k
        return select(latents, tf.convert_to_tensor(model.k))


@dataclass(frozen=True, kw_only=True)
class Neural(MnistExperiment):
    """The neural algorithm (case d): Arora, Ge, Ma, Moitra, arXiv 1503.00778. See :mod:`training.loops.neural_coding`.

    Attributes:
        latents: number of dictionary columns m.
        k: active latents of a digit on average; the threshold follows from it.
        rule: of the paper, ``neural`` or ``olshausen_field``, or the source's ``program`` (which knows no k).
        gradients: ``manual`` alone: the rule is no gradient of any objective.
        weight_growth: λ of the source's program.
        learning_rate: η in units of m/k; the rate of Adam for the rule ``program``. Strokes overlap as the columns of
            the paper's model must not, and 0.3, which serves on data of that model, is refused here by the guard, 0.1
            too; 0.02 and 0.03 do about equally well.
    """

    latents: int = 196
    k: float = 10.0
    rule: Literal["neural", "olshausen_field", "program"] = "neural"
    gradients: Gradients = "manual"
    weight_growth: float = 0.0

    def __post_init__(self) -> None:
        """Refuses automatic differentiation."""
        if self.gradients == "auto":
            raise ExperimentError(
                f"{self.name}: the neural rule is no gradient of an objective, so there is nothing to differentiate; "
                "gradients must be manual. Received: 'auto'"
            )

    def build(self) -> NeuralDictionary:
        """A fresh model."""
        return NeuralDictionary(PIXELS, self.latents, two_sided=self.rule != "program", seed=self.seed)

    def program(self, model: NeuralDictionary, data: DigitData) -> Program:
        """The rule."""
        images = self.train_images(data)

        def batches(epoch: int) -> Iterator[tf.Tensor]:
            return self.batches(images, epoch)

        if self.rule == "program":
            return NeuralProgram(
                model,
                batches,
                learning_rate=self.learning_rate,
                weight_growth=self.weight_growth,
                batch_size=self.batch_size,
            )
        rule: Rule = self.rule
        return NeuralCoding(
            model, images, batches, k=self.k, rate=self.learning_rate, rule=rule, seed=self.seed, name=self.name
        )


_QUICK = {"epochs": 10, "train_examples": 20_000, "probe_examples": 10_000}
_BLOG = {
    "latents": 100,
    "train_examples": 10_000,
    "epochs": 500,
    "batch_size": 100,
    "biases": False,
    "bias_correction": "constant",
}
_BLOG_AB = {**_BLOG, "learning_rate": 8e-5, "initial": "normal"}

SPARSE_CODING = (
    SigmoidCoding(
        name="mnist_plain",
        summary="sigmoid auto-encoder without any penalty",
        epochs=30,
        batch_size=100,
        learning_rate=1e-3,
        presets={"quick": _QUICK, "blog": _BLOG_AB},
    ),
    SigmoidCoding(
        name="mnist_l2",
        summary="sigmoid auto-encoder with weight decay",
        epochs=30,
        batch_size=100,
        learning_rate=1e-3,
        weight_decay=3e-3,
        presets={"quick": _QUICK, "blog": {**_BLOG_AB, "weight_decay": 3e-5, "decay": "decoupled"}},
    ),
    SigmoidCoding(
        name="mnist_kl",
        summary="sigmoid auto-encoder with a KL penalty on mean activations (Ng)",
        epochs=30,
        batch_size=100,
        learning_rate=1e-3,
        weight_decay=3e-3,
        sparsity_weight=3.0,
        presets={"quick": _QUICK, "blog": _BLOG},
    ),
    Neural(
        name="mnist_neural",
        summary="dictionary learned by a Hebbian-like rule (Arora, Ge, Ma, Moitra)",
        epochs=20,
        batch_size=500,
        learning_rate=0.02,
        presets={
            "quick": _QUICK,
            "blog": {
                "latents": 100,
                "train_examples": 10_000,
                "epochs": 500,
                "batch_size": 100,
                "learning_rate": 1e-3,
                "rule": "program",
                "weight_growth": 3e-3,
            },
        },
    ),
    KSparse(
        name="mnist_k_sparse",
        summary="k-sparse auto-encoder, tied and linear (Makhzani and Frey)",
        epochs=30,
        batch_size=100,
        learning_rate=1e-3,
        presets={
            "quick": {"epochs": 5, "probe_examples": 20_000},
            "blog": {
                **_BLOG,
                "k_start": 25,
                "init_scale": 0.0,
                "selection": "batch",
                "gradient_half": "decoder",
                "weight_decay": 3e-3,
            },
        },
    ),
)
