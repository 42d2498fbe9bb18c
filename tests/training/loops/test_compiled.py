from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.encoders.k_sparse import KSparseAutoencoder
from training.loops.compiled import CHUNK, CompiledAutodiff, in_chunks
from training.loops.fit import Autodiff
from training.loops.optimizers import FusedAdam
from training.losses.reconstruction import squared_error
from training.sparsity.top_k import top_k_by_bisection


def test_chunks_keep_order_and_never_mix_sizes() -> None:
    batches = [tf.fill((4, 2), float(number)) for number in range(CHUNK + 3)] + [tf.fill((1, 2), -1.0)]
    chunks = list(in_chunks(batches))
    assert [tuple(chunk.shape) for chunk in chunks] == [(CHUNK, 4, 2), (3, 4, 2), (1, 1, 2)]
    np.testing.assert_array_equal(np.concatenate([chunk[:, 0, 0] for chunk in chunks]), [*range(CHUNK + 3), -1])


def test_compiled_steps_are_steps(rng: np.random.Generator) -> None:
    images = rng.random((23, 9)).astype(np.float32)

    def batches(_: int) -> list[tf.Tensor]:
        return [tf.constant(images[start : start + 4]) for start in range(0, 23, 4)]

    results = {}
    for kind in (Autodiff, CompiledAutodiff):
        model = KSparseAutoencoder(9, 12, 3, init_scale=0.5, seed=1)

        def objective(image: tf.Tensor, model: keras.Model = model) -> Mapping[str, tf.Tensor]:
            kept = top_k_by_bisection(model.activations(image), tf.convert_to_tensor(model.k))
            return {"loss": squared_error(image, model.decode(kept))}

        program = kind(model, objective, FusedAdam(0.01), batches)
        losses = [float(program.step(batch)["loss"]) for batch in program.batches(0)]
        results[kind] = losses, model.get_weights()
    one_by_one, weights = results[Autodiff]
    in_two_calls, compiled_weights = results[CompiledAutodiff]
    # five steps of four examples, whose mean is told, and one step of three
    assert in_two_calls == [pytest.approx(np.mean(one_by_one[:5]), rel=1e-5), pytest.approx(one_by_one[5], rel=1e-4)]
    for one, other in zip(weights, compiled_weights, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-4)
