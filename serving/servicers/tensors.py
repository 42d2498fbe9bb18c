"""Tensors of the foreign protocols -> arrays, with everything about them checked; and names of datatypes.

Whatever a client writes comes out as an array that is just what it said, or as an InvalidInputError that names the
tensor, what was expected and what came. Nothing is allocated by a shape alone: what is allocated was sent
(TensorFlow's short form of long tensors stays short until a model is known to take them; see ``intake.Filled``).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from serving.engine import Pictures
from serving.errors import InvalidInputError, quote
from serving.intake import Array

BYTES = "BYTES"

# The Open Inference Protocol's names; TensorFlow's are told apart in its servicer.
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

_LONGEST_SHAPE = 8


def dtype_of(what: str, name: str) -> np.dtype[Any]:
    """The dtype of a datatype's name other than BYTES.

    Raises:
        InvalidInputError: no such datatype.
    """
    if name not in DTYPES:
        raise InvalidInputError(f"{what}: the datatype is one of {', '.join(DTYPES)}, {BYTES}. Received: {quote(name)}")
    return DTYPES[name]


def count(what: str, shape: Sequence[int]) -> int:
    """The elements of a shape.

    Raises:
        InvalidInputError: too many axes, or a size below 1.
    """
    if not 1 <= len(shape) <= _LONGEST_SHAPE or min(shape) < 1:
        came = list(shape[: _LONGEST_SHAPE + 1])
        raise InvalidInputError(f"{what}: a shape has 1 to {_LONGEST_SHAPE} sizes of at least 1. Received: {came}")
    return math.prod(shape)


def from_bytes(what: str, dtype: np.dtype[Any], shape: Sequence[int], data: bytes) -> Array:
    """Reads little-endian bytes, row by row, without copying them.

    Raises:
        InvalidInputError: the bytes are not as many as the shape says.
    """
    expected = count(what, shape) * dtype.itemsize
    if len(data) != expected:
        raise InvalidInputError(
            f"{what}: {NAMES[dtype]} {list(shape)} has {expected} bytes. Received: {len(data)} bytes"
        )
    return np.frombuffer(data, dtype).reshape(shape)


def from_values(what: str, dtype: np.dtype[Any], shape: Sequence[int], values: Sequence[Any]) -> Array:
    """Reads numbers, row by row.

    Raises:
        InvalidInputError: they are not as many as the shape says, or one does not fit the dtype.
    """
    expected = count(what, shape)
    if len(values) != expected:
        raise InvalidInputError(
            f"{what}: {NAMES[dtype]} {list(shape)} has {expected} values. Received: {len(values)} values"
        )
    wide = np.array(values)
    if dtype.kind in "iu" and wide.dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        if wide.min() < bounds.min or wide.max() > bounds.max:
            raise InvalidInputError(
                f"{what}: a value of {NAMES[dtype]} lies in [{bounds.min}, {bounds.max}]."
                f" Received: {wide.min()} to {wide.max()}"
            )
    return wide.astype(dtype).reshape(shape)


def pictures(what: str, shape: Sequence[int], elements: Sequence[bytes]) -> Pictures:
    """Reads BYTES elements, one encoded picture each, of a tensor [rows] or [rows, 1].

    Raises:
        InvalidInputError: another shape, or not as many elements.
    """
    expected = count(what, shape)
    if len(shape) > 2 or (len(shape) == 2 and shape[1] != 1):
        raise InvalidInputError(f"{what}: encoded pictures have the shape [rows] or [rows, 1]. Received: {list(shape)}")
    if len(elements) != expected:
        raise InvalidInputError(
            f"{what}: {BYTES} {list(shape)} has {expected} elements. Received: {len(elements)} elements"
        )
    return list(elements)


def split(what: str, data: bytes, most: int) -> list[bytes]:
    """Cuts the raw form of BYTES: before each element its length, four bytes, little-endian.

    Args:
        what: the tensor's name for messages.
        data: all elements.
        most: elements that there may be; one more is cut off too, so that their number shows.

    Raises:
        InvalidInputError: the last element is cut short.
    """
    elements: list[bytes] = []
    at = 0
    while at < len(data) and len(elements) <= most:
        start = at + 4
        length = int.from_bytes(data[at:start], "little")
        at = start + length
        if start > len(data) or at > len(data):
            raise InvalidInputError(
                f"{what}: each element of {BYTES} has four bytes of length and as many bytes as they say."
                f" Received: element {len(elements)} that ends {at - len(data)} bytes after the data"
            )
        elements.append(data[start:at])
    return elements
