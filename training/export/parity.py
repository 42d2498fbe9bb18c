"""Proof that Keras, SavedModel and ONNX Runtime compute the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from training.export.saved_model import load_saved_model
from training.export.servable import Servable

TOLERANCE = 1e-5
BATCHES = (1, 7, 64)


class ParityError(Exception):
    """An exported graph computes something else than the Keras model."""


@dataclass(frozen=True)
class Parity:
    """What was compared and how far apart it was.

    Attributes:
        tolerance: largest difference allowed on any element of any output.
        largest_difference: measured over all outputs, batches and pairs.
        batches: sizes compared.
    """

    tolerance: float
    largest_difference: float
    batches: tuple[int, ...]


def prove_parity(
    servable: Servable,
    folder: Path,
    inputs: NDArray[Any],
    *,
    name: str,
    batches: Sequence[int] = BATCHES,
    tolerance: float = TOLERANCE,
) -> Parity:
    """Compares the Keras model, ``folder`` as SavedModel and ``folder/model.onnx``, each with each.

    Args:
        servable: the Keras side, run eagerly.
        folder: a version folder.
        inputs: real inputs [N, ...]; the last batch decides how many are needed, repeated where there are fewer.
        name: of the model, for messages.
        batches: batch sizes.
        tolerance: absolute.

    Raises:
        ParityError: a difference above ``tolerance``, a NaN, or unequal shapes; names output, pair, batch and
            difference.
    """
    saved = load_saved_model(folder)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    names = [output.name for output in servable.outputs]
    largest = 0.0
    for batch in batches:
        rows = np.resize(inputs, (batch, *inputs.shape[1:]))
        keras_outputs = servable.outputs_of(rows)
        saved_outputs = saved(image=rows)
        onnx_outputs = dict(zip(names, session.run(names, {servable.input.name: rows}), strict=True))
        for output in names:
            results = {
                "Keras": np.asarray(keras_outputs[output]),
                "SavedModel": np.asarray(saved_outputs[output]),
                "ONNX Runtime": onnx_outputs[output],
            }
            for one, other in (("Keras", "SavedModel"), ("Keras", "ONNX Runtime"), ("SavedModel", "ONNX Runtime")):
                difference = _difference(results[one], results[other])
                if not difference <= tolerance:
                    raise ParityError(
                        f"{name}: output '{output}' of {one} and {other} must agree within {tolerance:g} at batch "
                        f"{batch}. Received: shapes {results[one].shape} and {results[other].shape}, largest "
                        f"difference {difference:g}"
                    )
                largest = max(largest, difference)
    return Parity(tolerance, largest, tuple(batches))


def _difference(one: NDArray[Any], other: NDArray[Any]) -> float:
    if one.shape != other.shape:
        return float("inf")
    return float(np.max(np.abs(one.astype(np.float64) - other.astype(np.float64))))
