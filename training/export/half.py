"""An fp16 variant of an exported model, for GPUs: half of the size, and products in 16 bits.

Weights and arithmetic in IEEE half precision; inputs and outputs stay as they are, so that callers change nothing.
ONNX Runtime's own converter does it: the one it comes from, onnxconverter-common's, still makes graphs with a Resize
that no runtime loads. It has no TensorFlow form.

CPUs have no convolution in 16 bits. ONNX Runtime converts there to 32, and leaves out the roundings between one layer
and the next: what the file answers on a CPU is closer to float32 than what it answers on a GPU. :func:`rounded` is for
measuring: the same network in float32, in which every value is rounded as a GPU stores it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

SUFFIX = "_fp16"


def halve(model: Path, target: Path) -> None:
    """Writes the fp16 form of an ONNX file.

    Weights beyond ±65,504, the largest half, are cut there; :func:`rounded` makes an infinity of them, which tells.

    Args:
        model: the float32 ONNX file.
        target: gets the fp16 one.
    """
    halved: onnx.ModelProto = convert_float_to_float16(_read(model), keep_io_types=True)
    # the casts around nodes that the converter leaves in 32 bits come last
    OnnxModel.graph_topological_sort(halved.graph)
    onnx.checker.check_model(halved, full_check=True)
    target.write_bytes(halved.SerializeToString(deterministic=True))


def rounded(model: Path) -> bytes:
    """An ONNX file that computes in float32 and rounds every weight and every node's result to the nearest half.

    Products are summed in 32 bits and rounded once, as GPUs do. What exceeds the range of halves becomes infinite.

    Args:
        model: the float32 ONNX file.
    """
    exact = onnx.shape_inference.infer_shapes(_read(model), strict_mode=True)
    graph = exact.graph
    described = (*graph.value_info, *graph.output)
    floats = {value.name for value in described if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    nodes = []
    for node in graph.node:
        nodes.append(node)
        for position, name in enumerate(node.output):
            if name in floats:
                node.output[position] = f"{name}_exact"
                nodes.append(helper.make_node("Cast", [f"{name}_exact"], [f"{name}_half"], to=TensorProto.FLOAT16))
                nodes.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    for weight in graph.initializer:
        if weight.data_type == TensorProto.FLOAT:
            with np.errstate(over="ignore"):
                halves = numpy_helper.to_array(weight).astype(np.float16)
            weight.CopyFrom(numpy_helper.from_array(halves.astype(np.float32), weight.name))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    del graph.value_info[:]
    written: bytes = exact.SerializeToString(deterministic=True)
    return written


def _read(path: Path) -> onnx.ModelProto:
    """The model, without what the converter stumbles over.

    tf2onnx gives every Resize one empty tensor for both of the inputs it does not use, region and scales. The converter
    halves it for the one, casts it back for the other, once for each Resize under one name: no valid graph.
    """
    model: onnx.ModelProto = onnx.load(path)
    empty = {weight.name for weight in model.graph.initializer if 0 in weight.dims}
    for node in model.graph.node:
        if node.op_type == "Resize":
            for position, name in enumerate(node.input):
                if name in empty:
                    node.input[position] = ""
    read = {name for node in model.graph.node for name in node.input}
    for weight in [each for each in model.graph.initializer if each.name in empty - read]:
        model.graph.initializer.remove(weight)
    return model
