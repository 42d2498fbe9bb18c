"""Tensors of the Open Inference Protocol: where a request's values lie, and where those of its answer go."""

from collections.abc import Mapping, Sequence

import numpy as np

from serving.engine import Inference, Pictures
from serving.errors import InvalidInputError, quote
from serving.intake import Array
from serving.pb.open_inference import grpc_service_pb2 as pb
from serving.servicers import tensors
from serving.shared_memory import Part, Regions

# Parameters of a tensor in shared memory, by their names in Triton's protocol.
_REGION, _SIZE, _OFFSET = "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"

# The field of a tensor's contents that holds a datatype. FP16 has none: it comes as raw bytes only.
_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    tensors.BYTES: "bytes_contents",
}


def inputs(request: pb.ModelInferRequest, regions: Regions | None) -> dict[str, Array | Pictures]:
    """The values of a request, by the names of its inputs.

    Args:
        request: as it came.
        regions: of shared memory; None: there is none.

    Raises:
        RequestError: they are not what the request says they are.
    """
    names = [tensor.name for tensor in request.inputs]
    if len(set(names)) != len(names):
        raise InvalidInputError(f"each input comes once. Received: {', '.join(map(quote, names))}")
    parts = [_part(f"input {quote(tensor.name)}", tensor.parameters, regions) for tensor in request.inputs]
    raw: Sequence[bytes] = request.raw_input_contents
    sent = parts.count(None)
    if raw and len(raw) != sent:
        raise InvalidInputError(
            f"raw_input_contents holds all inputs or none: {sent} of them. Received: {len(raw)}"
            if sent == len(parts)
            else f"raw_input_contents holds all inputs that are not in shared memory, or none: {sent} of them."
            f" Received: {len(raw)}"
        )
    data = iter(raw)
    return {
        tensor.name: _array(tensor, next(data, None) if part is None else part.read(), shared=part is not None)
        for tensor, part in zip(request.inputs, parts, strict=True)
    }


def destinations(request: pb.ModelInferRequest, regions: Regions | None) -> dict[str, Part]:
    """Where in shared memory outputs are to be put, by their names.

    Args:
        request: as it came.
        regions: of shared memory; None: there is none.

    Raises:
        RequestError: an output has a parameter that means nothing here, or a place that there is not.
    """
    found = {}
    for output in request.outputs:
        what = f"output {quote(output.name)}"
        if output.parameters and not set(output.parameters) <= {"binary_data", _REGION, _SIZE, _OFFSET}:
            raise InvalidInputError(
                f"{what} is answered as it is, without parameters. Received: {keys(output.parameters)}"
            )
        part = _part(what, output.parameters, regions)
        if part is not None:
            found[output.name] = part
    return found


def response(request: pb.ModelInferRequest, answer: Inference, parts: Mapping[str, Part]) -> pb.ModelInferResponse:
    """The answer to a request.

    Args:
        request: as it came.
        answer: the engine's.
        parts: where outputs go that are put into shared memory.

    Raises:
        InvalidInputError: there is no room for an output.
    """
    told = pb.ModelInferResponse(model_name=answer.model, model_version=str(answer.version), id=request.id)
    for name, array in answer.outputs.items():
        output = told.outputs.add(name=name, datatype=tensors.NAMES[array.dtype], shape=array.shape)
        part = parts.get(name)
        if part is None:
            told.raw_output_contents.append(array.tobytes())
            continue
        part.write(f"output {quote(name)}", np.ascontiguousarray(array).data.cast("B"))
        # Clients count on one entry for each output.
        told.raw_output_contents.append(b"")
        output.parameters[_REGION].string_param = part.region.name
        output.parameters[_OFFSET].int64_param = part.offset
        output.parameters[_SIZE].int64_param = array.nbytes
    return told


def integer(name: str, parameter: pb.InferParameter) -> int:
    """A parameter's value.

    Raises:
        InvalidInputError: it is no integer.
    """
    kind = parameter.WhichOneof("parameter_choice")
    if kind == "int64_param":
        return parameter.int64_param
    if kind == "uint64_param":
        return parameter.uint64_param
    raise InvalidInputError(f"the parameter {name} is an integer. Received: {kind or 'nothing'}")


def keys(parameters: Mapping[str, object]) -> str:
    """The names of parameters, for messages."""
    return ", ".join(quote(name) for name in sorted(parameters)[:5])


def _part(what: str, parameters: Mapping[str, pb.InferParameter], regions: Regions | None) -> Part | None:
    if _REGION not in parameters:
        if _SIZE in parameters or _OFFSET in parameters:
            raise InvalidInputError(f"{what}: a place in shared memory has the parameter {_REGION}. Received: none")
        return None
    if regions is None:
        raise InvalidInputError(
            f"{what}: this server takes no tensors in shared memory (--system-shared-memory false); send the values"
        )
    kind = parameters[_REGION].WhichOneof("parameter_choice")
    if kind != "string_param":
        raise InvalidInputError(f"{what}: the parameter {_REGION} is a text. Received: {kind or 'nothing'}")
    if _SIZE not in parameters:
        raise InvalidInputError(f"{what}: a place in shared memory has the parameter {_SIZE}. Received: none")
    offset = integer(_OFFSET, parameters[_OFFSET]) if _OFFSET in parameters else 0
    return regions.part(parameters[_REGION].string_param, offset, integer(_SIZE, parameters[_SIZE]))


def _array(tensor: pb.ModelInferRequest.InferInputTensor, raw: bytes | None, *, shared: bool) -> Array | Pictures:
    what = f"input {quote(tensor.name)}"
    shape, contents = tensor.shape, tensor.contents
    if raw is not None:
        if tensor.HasField("contents"):
            elsewhere = "shared memory" if shared else "raw_input_contents"
            raise InvalidInputError(f"{what}: values come in contents or in {elsewhere}. Received: both")
        if tensor.datatype == tensors.BYTES:
            elements = tensors.split(what, raw, tensors.count(what, shape))
            return tensors.pictures(what, shape, elements)
        return tensors.from_bytes(what, tensors.dtype_of(what, tensor.datatype), shape, raw)
    filled = [field.name for field, _ in contents.ListFields()]
    if tensor.datatype == tensors.BYTES:
        _check_filled(what, tensor.datatype, filled)
        return tensors.pictures(what, shape, contents.bytes_contents)
    dtype = tensors.dtype_of(what, tensor.datatype)
    if tensor.datatype not in _CONTENTS:
        raise InvalidInputError(f"{what}: values of {tensor.datatype} come in raw_input_contents only")
    _check_filled(what, tensor.datatype, filled)
    return tensors.from_values(what, dtype, shape, getattr(contents, _CONTENTS[tensor.datatype]))


def _check_filled(what: str, datatype: str, filled: Sequence[str]) -> None:
    if filled != [_CONTENTS[datatype]]:
        raise InvalidInputError(
            f"{what}: values of {datatype} come in {_CONTENTS[datatype]}, or all inputs in raw_input_contents."
            f" Received: {', '.join(filled) or 'none'}"
        )
