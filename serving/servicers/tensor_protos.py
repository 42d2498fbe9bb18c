"""TensorFlow's TensorProto <-> arrays."""

import numpy as np

from serving.engine import Pictures
from serving.errors import InvalidInputError
from serving.intake import Array, Filled
from serving.pb.tensorflow_serving import framework_pb2 as pb
from serving.servicers import tensors

# Our names of datatypes -> TensorFlow's codes, and the list that holds the values.
CODES = {
    "BOOL": pb.DT_BOOL,
    "UINT8": pb.DT_UINT8,
    "UINT16": pb.DT_UINT16,
    "UINT32": pb.DT_UINT32,
    "UINT64": pb.DT_UINT64,
    "INT8": pb.DT_INT8,
    "INT16": pb.DT_INT16,
    "INT32": pb.DT_INT32,
    "INT64": pb.DT_INT64,
    "FP16": pb.DT_HALF,
    "FP32": pb.DT_FLOAT,
    "FP64": pb.DT_DOUBLE,
}
_NAMES = {code: name for name, code in CODES.items()}
_LISTS = {
    "BOOL": "bool_val",
    **dict.fromkeys(("UINT8", "UINT16", "INT8", "INT16", "INT32"), "int_val"),
    "UINT32": "uint32_val",
    "UINT64": "uint64_val",
    "INT64": "int64_val",
    "FP16": "half_val",
    "FP32": "float_val",
    "FP64": "double_val",
}
_FLOAT_VAL_TAG = bytes([5 << 3 | 2])


def read(what: str, tensor: pb.TensorProto) -> Array | Filled | Pictures:
    """Reads a tensor; strings are encoded pictures.

    Of numbers that are fewer than the shape has, the last goes on to the end; where there is none, all are zero.

    Args:
        what: the tensor's name for messages.
        tensor: as it came.

    Raises:
        InvalidInputError: dtype, shape and values do not fit together.
    """
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.tensor_shape.unknown_rank:
        raise InvalidInputError(f"{what}: the shape of values that are sent is known. Received: unknown_rank")
    if tensor.dtype == pb.DT_STRING:
        return tensors.pictures(what, shape, tensor.string_val)
    name = _NAMES.get(tensor.dtype)
    if name is None:
        raise InvalidInputError(
            f"{what}: a dtype is one of TensorFlow's for numbers, or DT_STRING. Received: {tensor.dtype}"
        )
    dtype = tensors.DTYPES[name]
    if tensor.tensor_content:
        return tensors.from_bytes(what, dtype, shape, tensor.tensor_content)
    values = getattr(tensor, _LISTS[name])
    expected = tensors.count(what, shape)
    if len(values) > expected:
        raise InvalidInputError(
            f"{what}: {name} {shape} has at most {expected} values in {_LISTS[name]}, or its bytes in tensor_content."
            f" Received: {len(values)} values"
        )
    if not values:
        found = np.zeros(1, dtype)
    elif name == "FP16":
        found = tensors.from_values(what, np.dtype("<u2"), [len(values)], values).view(dtype)
    else:
        found = tensors.from_values(what, dtype, [len(values)], values)
    return found.reshape(shape) if len(found) == expected else Filled(found, tuple(shape))


def write(tensor: pb.TensorProto, array: Array) -> None:
    """Writes an FP32 array the way TensorFlow Serving does: into ``float_val``, which some clients read directly."""
    tensor.dtype = pb.DT_FLOAT
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    # What extend() would do value by value: on the wire the list is these very bytes.
    data = array.astype("<f4", copy=False).tobytes()
    tensor.MergeFromString(_FLOAT_VAL_TAG + _varint(len(data)) + data)


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)
