"""Proof that Keras, SavedModel and ONNX Runtime compute the same.

Latents that are cut by a threshold or by rank jump: where a value lies within rounding of the cut, one program keeps it
and the other does not, both being right, and the outputs differ by the whole value. Inputs so close to a jump are left
out of the comparison, and the manifest says how many they were.

Differences are absolute for outputs within -1..1, as probabilities are, and relative to an output's largest magnitude
beyond: float32 numbers near 1,000 lie 6e-5 apart, so no two programs agree on them to 1e-5.

A network whose large intermediate values cancel may err by more than the tolerance in float32, whoever computes it.
Where it can be computed in float64 as well, Keras' own rounding error is measured, and two programs may differ by a few
times that; the manifest states the tolerance that was in force.
"""

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
ROUNDINGS = 4
"""Times the rounding error of one program by which two may differ: each errs, and neither batch shows the largest."""


class ParityError(Exception):
    """An exported graph computes something else than the Keras model."""


@dataclass(frozen=True)
class Parity:
    """What was compared and how far apart it was.

    Attributes:
        tolerance: largest difference allowed on any element of any output.
        largest_difference: measured over all outputs, batches and pairs; relative where an output exceeds 1.
        batches: sizes compared.
        excluded_rows: inputs, of all batches together, that lay at a jump of the outputs and were not compared.
    """

    tolerance: float
    largest_difference: float
    batches: tuple[int, ...]
    excluded_rows: int = 0


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
        tolerance: absolute for outputs up to 1, relative to an output's largest magnitude beyond. Widened to
            :data:`ROUNDINGS` times the rounding error of float32 where that is more, see the head of the module.

    Raises:
        ParityError: a difference above ``tolerance``, a NaN, or unequal shapes; names output, pair, batch and
            difference. Also where more than half of the inputs lie at a jump.
    """
    saved = load_saved_model(folder)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    names = [output.name for output in servable.outputs]
    largest, excluded = 0.0, 0
    for batch in batches:
        rows = np.resize(inputs, (batch, *inputs.shape[1:]))
        compared = ~_at_jump(servable, rows, tolerance)
        excluded += int(np.count_nonzero(~compared))
        keras_outputs = servable.outputs_of(rows)
        if servable.precise_of is not None:
            precise = servable.precise_of(rows)
            errors = [
                _difference(np.asarray(precise[each]), np.asarray(keras_outputs[each]), compared) for each in names
            ]
            tolerance = max(tolerance, ROUNDINGS * max(errors))
        saved_outputs = saved(image=rows)
        onnx_outputs = dict(zip(names, session.run(names, {servable.input.name: rows}), strict=True))
        for output in names:
            results = {
                "Keras": np.asarray(keras_outputs[output]),
                "SavedModel": np.asarray(saved_outputs[output]),
                "ONNX Runtime": onnx_outputs[output],
            }
            for one, other in (("Keras", "SavedModel"), ("Keras", "ONNX Runtime"), ("SavedModel", "ONNX Runtime")):
                difference = _difference(results[one], results[other], compared)
                if not difference <= tolerance:
                    raise ParityError(
                        f"{name}: output '{output}' of {one} and {other} must agree within {tolerance:g} at batch "
                        f"{batch}. Received: shapes {results[one].shape} and {results[other].shape}, largest "
                        f"difference {difference:g}"
                    )
                largest = max(largest, difference)
    if 2 * excluded > sum(batches):
        raise ParityError(
            f"{name}: at least half of the inputs must lie away from a jump of the outputs. Received: {excluded} of "
            f"{sum(batches)} within {2 * tolerance:g} of one"
        )
    return Parity(tolerance, largest, tuple(batches), excluded)


def _at_jump(servable: Servable, rows: NDArray[Any], tolerance: float) -> NDArray[np.bool_]:
    if servable.margin_of is None:
        return np.zeros(len(rows), np.bool_)
    # values that agree within the tolerance can lie on two sides of a cut, or change places, within twice that
    near: NDArray[np.bool_] = np.asarray(servable.margin_of(rows)) <= 2 * tolerance
    return near


def _difference(one: NDArray[Any], other: NDArray[Any], compared: NDArray[np.bool_]) -> float:
    if one.shape != other.shape:
        return float("inf")
    one, other = one[compared].astype(np.float64), other[compared].astype(np.float64)
    magnitude = max(1.0, float(np.max(np.abs(one), initial=0.0)))
    return float(np.max(np.abs(one - other), initial=0.0)) / magnitude
