"""Case e: the k-sparse auto-encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import tensorflow as tf

from training.datasets.digits import DigitData
from training.encoders.k_sparse import KSparseAutoencoder
from training.experiments.base import ExperimentError
from training.experiments.mnist import PIXELS, in_chunks
from training.experiments.ranges import NonNegativeFloat, PositiveFloat, PositiveInt
from training.experiments.sparse_coding.base import SparseCoding
from training.experiments.sparse_coding.strokes import stroke_dictionary
from training.loops.compiled import CompiledAutodiff, CompiledManual
from training.loops.manual import selected_gradients
from training.loops.trainer import Program
from training.losses.reconstruction import squared_error
from training.losses.weight_penalties import l2_penalty
from training.sparsity.top_k import smallest_top_k, top_k_by_bisection


@dataclass(frozen=True, kw_only=True)
class KSparse(SparseCoding):
    """The k-sparse auto-encoder (case e): Makhzani and Frey, arXiv 1312.5663.

    Attributes:
        k: latents kept at the end of training and in the export.
        k_start: latents kept in the first epoch, all where there are fewer; lowered linearly to ``k`` over the first
            half of the epochs.
        start: of the dictionary: ``noise`` as in paper and program, or ``strokes``, parts of training digits, with the
            mean digit as the decoder's bias: then hardly any latent starves, and some six epochs are enough.
        alpha: the exported encoding keeps ``alpha * k`` latents. 1 keeps ``decode(encoding)`` equal to the exported
            reconstruction; the probe is reported at 1, 2 and 3 whatever is exported.
        init_scale: standard deviation of a dictionary of noise; 0 for the uniform start of the source's program.
        selection: in training, the k largest of each ``example``, or what reaches one threshold for the ``batch``: the
            smallest of the examples' k-th largest values, as the source's program has it. Export and scores select by
            example either way.
        gradient_half: ``both`` halves of a tied weight's gradient, or the ``decoder``'s alone as the program has it.
    """

    latents: PositiveInt = 1000
    k: PositiveInt = 25
    k_start: PositiveInt = 100
    start: Literal["noise", "strokes"] = "noise"
    alpha: PositiveFloat = 1.0
    init_scale: NonNegativeFloat = 0.01
    selection: Literal["example", "batch"] = "example"
    gradient_half: Literal["both", "decoder"] = "both"

    def __post_init__(self) -> None:
        """Refuses what does not go together."""
        super().__post_init__()
        for setting, kept in (("k", self.k), ("alpha * k", round(self.alpha * self.k))):
            if not 1 <= kept <= self.latents:
                raise ExperimentError(
                    f"{self.name}: {setting} must lie in 1..{self.latents}, the number of latents. Received: {kept}"
                )
        if self.gradient_half == "decoder" and self.biases:
            raise ExperimentError(
                f"{self.name}: gradient_half=decoder leaves the encoder's bias without a gradient and needs "
                "biases=false. Received: biases=true"
            )
        if self.start == "strokes" and not self.biases:
            raise ExperimentError(
                f"{self.name}: start=strokes takes the mean digit as the decoder's bias and needs biases=true. "
                "Received: biases=false"
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
        return min(self.latents, round(self.k_start + (self.k - self.k_start) * epoch / half))

    def program(self, model: KSparseAutoencoder, data: DigitData) -> Program:
        """Adam on the squared error through the kept latents."""
        images = self.train_images(data)
        if self.start == "strokes":
            mean = images.mean(axis=0)
            model.dictionary.assign(stroke_dictionary(images, self.latents, self.seed))
            model.decoder_bias.assign(mean)
            # what the mean digit activates is no latent's merit
            model.encoder_bias.assign(-mean @ model.dictionary.numpy())

        def batches(epoch: int) -> Iterator[tf.Tensor]:
            return self.batches(images, epoch)

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
        """The probe with two and three times as many latents, where there are so many.

        The paper encodes more widely than it trains.
        """
        scores = {}
        for alpha in range(2, min(3, self.latents // self.k) + 1):
            wider = KSparseAutoencoder(PIXELS, self.latents, self.k, alpha=alpha)
            wider.set_weights(model.get_weights())
            train, test = in_chunks(wider.encode, data.train_images), in_chunks(wider.encode, data.test_images)
            scores[f"probe_error_alpha_{alpha}"] = self.probe(data, train, test)
        return scores

    def _select(self, model: KSparseAutoencoder, latents: tf.Tensor) -> tf.Tensor:
        select = top_k_by_bisection if self.selection == "example" else smallest_top_k
        return select(latents, tf.convert_to_tensor(model.k))
