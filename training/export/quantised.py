"""An int8 variant of an exported model, for CPUs: a quarter of the size, and quicker.

Weights and activations in 8 bits, scales by output channel, ranges from what real inputs bring about (Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", arXiv 1712.05877), by
ONNX Runtime's own tool. It has no TensorFlow form.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from training.export.manifest import FILE_NAME, MODEL, sha256_of
from training.export.parity import Parity
from training.files import publish, remove_leftovers, temporary_folder, write_json

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


def publish_quantised(version: Path, models: Path, quantised: Path, scores: dict[str, float], parity: Parity) -> Path:
    """Puts an int8 file into the repository ``models`` as the same version of ``<name>_int8``; returns its folder.

    A version that is there already is replaced where it differs.

    Args:
        version: the exported float32 version; its manifest is taken over but for name, scores, parity and hash.
        models: the model repository.
        quantised: of :func:`quantise`; moved away.
        scores: of the int8 model on the test split.
        parity: beside the float32 one.
    """
    manifest: dict[str, Any] = json.loads((version / FILE_NAME).read_text(encoding="utf-8"))
    manifest |= {
        "name": manifest["name"] + SUFFIX,
        "scores": scores,
        "parity": dataclasses.asdict(parity),
        "onnx_sha256": sha256_of(quantised),
    }
    folder = models / str(manifest["name"])
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    target = folder / version.name
    with temporary_folder(folder) as temporary:
        shutil.move(quantised, temporary / MODEL)
        write_json(temporary / FILE_NAME, manifest)
        if target.exists():
            if json.loads((target / FILE_NAME).read_text(encoding="utf-8")) == json.loads(json.dumps(manifest)):
                return target
            shutil.rmtree(target)
        publish(temporary, target)
    return target


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # ships no type information
    def __init__(self, name: str, inputs: Iterable[NDArray[Any]]) -> None:
        self._inputs = ({name: np.asarray(each)} for each in inputs)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next input by name; None at the end."""
        return next(self._inputs, None)
