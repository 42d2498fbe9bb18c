"""Encodings as indices and values: what is left of a sparse code on the wire."""

import numpy as np

from serving.errors import InvalidInputError
from serving.intake import Array
from serving.pb.sparsewalk.v1 import encoder_pb2 as pb

# Of a dense encoding that sparse rows are spread out to, in values: 256 MiB.
_MOST_VALUES = 2**26


def keep_top(array: Array, count: int) -> Array:
    """Of each row the ``count`` values farthest from zero; the others become zero. Of equals the first stay.

    Args:
        array: [rows, latents].
        count: at least 1.
    """
    if count >= array.shape[1]:
        return array
    chosen = np.argsort(-np.abs(array), axis=1, kind="stable")[:, :count]
    kept = np.zeros_like(array)
    np.put_along_axis(kept, chosen, np.take_along_axis(array, chosen, axis=1), axis=1)
    return kept


def from_dense(array: Array) -> pb.SparseRows:
    """The values of [rows, latents] other than zero, row by row."""
    # Flat, and by way of truth values, since that is many times as fast as asking floats in two dimensions.
    width = array.shape[1]
    flat = np.ravel(array)
    places = np.flatnonzero(flat != 0)
    starts = np.searchsorted(places, np.arange(0, len(flat) + 1, width))
    return pb.SparseRows(
        width=width,
        row_starts=starts.tolist(),
        indices=(places % width).tolist(),
        values=flat[places].tolist(),
    )


def to_dense(message: pb.SparseRows) -> Array:
    """Spreads sparse rows out to float32 [rows, width].

    Raises:
        InvalidInputError: starts, indices and values do not fit together.
    """
    starts, indices = np.array(message.row_starts, np.int64), np.array(message.indices, np.int64)
    rows, width, count = len(starts) - 1, message.width, len(message.values)
    if rows < 1 or starts[0] != 0 or starts[-1] != count or (np.diff(starts) < 0).any():
        raise InvalidInputError(
            f"row_starts rises from 0 to the number of values, {count}, with one more than there are rows."
            f" Received: {len(starts)} of them{f', from {starts[0]} to {starts[-1]}' if len(starts) else ''}"
        )
    if len(indices) != count:
        raise InvalidInputError(f"each value has an index. Received: {len(indices)} indices, {count} values")
    if count and indices.max() >= width:
        raise InvalidInputError(f"an index is below the width, {width}. Received: {indices.max()}")
    if rows * width > _MOST_VALUES:
        raise InvalidInputError(f"sparse rows spread out to at most {_MOST_VALUES} values. Received: {rows} x {width}")
    places = np.repeat(np.arange(rows), np.diff(starts)) * width + indices
    if len(np.unique(places)) != count:
        raise InvalidInputError("each index stands at most once in a row. Received: one that comes again")
    dense = np.zeros(rows * width, np.float32)
    dense[places] = np.array(message.values, np.float32)
    return dense.reshape(rows, width)
