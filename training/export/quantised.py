"""An int8 variant of an exported model, for CPUs: a quarter of the size, and quicker.

Weights and activations in 8 bits, scales by output channel, ranges from what real inputs bring about (Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", arXiv 1712.05877), by
ONNX Runtime's own tool. It has no TensorFlow form.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from training.export.manifest import MODEL

SUFFIX = "_int8"


def quantise(model: Path, target: Path, inputs: Iterable[NDArray[Any]]) -> None:
    """Writes the int8 form of an ONNX file.

    Args:
        model: the float32 ONNX file, with one input.
        target: gets the int8 one.
        inputs: of the model, each with a batch axis; real ones, from the training split.
    """
    (name,) = [
        each.name for each in onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).get_inputs()
    ]
    with tempfile.TemporaryDirectory() as scratch:
        prepared = Path(scratch) / MODEL
        # sizes are free, which the symbolic inference of shapes cannot follow through the resizing
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(target),
            _Reader(name, inputs),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # ships no type information
    def __init__(self, name: str, inputs: Iterable[NDArray[Any]]) -> None:
        self._inputs = ({name: np.asarray(each)} for each in inputs)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next input by name; None at the end."""
        return next(self._inputs, None)
