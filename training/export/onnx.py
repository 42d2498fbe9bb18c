"""Writing a servable as ONNX with tf2onnx."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tf2onnx
from numpy.typing import NDArray

from training.export.servable import Servable, Tensor

OPSET = 18
IR_VERSION = 10
"""What ONNX Runtime 1.18 and later, Triton 24.07 and later read."""

_ELEMENT_TYPES = {"UINT8": onnx.TensorProto.UINT8, "FP32": onnx.TensorProto.FLOAT}


class ConversionError(Exception):
    """The converted graph is not the one that was promised."""


def write_onnx(servable: Servable, function: Any, path: Path, *, name: str) -> onnx.ModelProto:
    """Converts ``function`` and writes it to ``path``.

    Args:
        servable: describes the tensors that the graph must have.
        function: of :meth:`Servable.function`.
        path: of the ONNX file.
        name: of the graph, shown by viewers and profilers.

    Raises:
        ConversionError: a tensor's name or type differs from the servable's.
    """
    model: onnx.ModelProto
    model, _ = tf2onnx.convert.from_function(function, input_signature=function.input_signature, opset=OPSET)
    model.ir_version = IR_VERSION
    model.graph.name = name
    model.graph.doc_string = ""
    _store_tied_weights_once(model.graph)
    _describe(model.graph.input, (servable.input,), name)
    # tf2onnx puts the outputs in the order of their names
    promised = {output.name: position for position, output in enumerate(servable.outputs)}
    model.graph.output.sort(key=lambda value: promised.get(value.name, len(promised)))
    _describe(model.graph.output, servable.outputs, name)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return model


def _store_tied_weights_once(graph: onnx.GraphProto) -> None:
    """Replaces a matrix that is another one's transpose by a Transpose node.

    tf2onnx computes the transpose of a tied weight beforehand and stores both, which doubles the file. Runtimes compute
    it when they load the model.
    """
    matrices = [each for each in graph.initializer if len(each.dims) == 2 and min(each.dims) > 1]
    kept: list[tuple[str, NDArray[Any]]] = []
    for matrix in matrices:
        values = onnx.numpy_helper.to_array(matrix)
        original = next((name for name, other in kept if np.array_equal(values, other.T)), None)
        if original is None:
            kept.append((matrix.name, values))
            continue
        name = matrix.name
        graph.initializer.remove(matrix)
        graph.node.insert(0, onnx.helper.make_node("Transpose", [original], [name], name=f"{name}_tied", perm=[1, 0]))


def _describe(values: Any, tensors: tuple[Tensor, ...], name: str) -> None:
    found = [value.name for value in values]
    expected = [tensor.name for tensor in tensors]
    if found != expected:
        raise ConversionError(f"{name}: the ONNX graph must have the tensors {expected}. Received: {found}")
    for value, tensor in zip(values, tensors, strict=True):
        kind = value.type.tensor_type
        if kind.elem_type != _ELEMENT_TYPES[tensor.dtype]:
            received = onnx.TensorProto.DataType.Name(kind.elem_type)
            raise ConversionError(f"{name}: tensor '{tensor.name}' must be {tensor.dtype}. Received: {received}")
        # tf2onnx calls free axes unk__12, sometimes loses fixed ones, and now and then tells the shape before a last
        # squeeze. Write what the manifest says: the checker compares it with what it infers, parity with what comes out
        del kind.shape.dim[:]
        for size, axis in zip(tensor.shape, tensor.axes, strict=True):
            dimension = kind.shape.dim.add()
            if size == -1:
                dimension.dim_param = axis
            else:
                dimension.dim_value = size
