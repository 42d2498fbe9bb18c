"""The k largest latents of each example are kept (k-sparse auto-encoders; TopK sparse auto-encoders).

Makhzani and Frey, "k-Sparse Autoencoders", arXiv 1312.5663, section 2.1: Γ = supp_k(z), z outside Γ set to 0.
"""

from __future__ import annotations

import tensorflow as tf


def top_k(latents: tf.Tensor, k: int | tf.Tensor) -> tf.Tensor:
    """Keeps the ``k`` largest entries of each row, by signed value and not by magnitude; the rest becomes 0.

    The gradient passes unchanged through the kept entries and not at all through the selection. Among equal
    values the lower index wins, so a row never keeps more than ``k``.

    Args:
        latents: float [N, D].
        k: how many entries to keep, 1..D; an int32 scalar tensor where it changes during training.

    Returns:
        float [N, D] with at most ``k`` non-zero entries a row.
    """
    values, columns = tf.math.top_k(latents, k, sorted=False)
    shape = tf.shape(latents)
    rows = tf.broadcast_to(tf.range(shape[0])[:, tf.newaxis], tf.shape(columns))
    return tf.scatter_nd(tf.stack([rows, columns], axis=-1), values, shape)


def top_k_by_bisection(latents: tf.Tensor, k: int | tf.Tensor) -> tf.Tensor:
    """:func:`top_k` in operations that XLA fuses: same support, same ties, same gradient.

    Floats of one sign are ordered as their bits are, so the k-th largest value is found bit by bit, by counting how
    many entries reach a candidate; it ends once every row has exactly ``k`` above. In a compiled training step this
    takes half the time of TensorFlow's selection, which XLA cannot compile for a ``k`` that changes. ONNX has no
    operations on bits: exported graphs use :func:`top_k`.

    Args:
        latents: float32 or float64 [N, D].
        k: how many entries to keep, 1..D; may be a tensor.

    Returns:
        float [N, D] with at most ``k`` non-zero entries a row.
    """
    fixed = tf.stop_gradient(latents)
    integer, width = (tf.int64, 64) if latents.dtype == tf.float64 else (tf.int32, 32)
    # -0 equals 0 as a value but not in bits
    bits = tf.bitcast(tf.where(fixed == 0, tf.zeros_like(fixed), fixed), integer)
    keys = tf.where(bits < 0, tf.bitwise.invert(bits) + integer.min, bits)
    wanted = tf.cast(k, tf.int32)
    # examples as columns: XLA counts along rows of the transposed array twice as fast
    across = tf.transpose(keys)

    def halve(step: tf.Tensor, cut: tf.Tensor, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # the first step adds the lowest integer to itself, which wraps around to 0
        candidate = cut + tf.bitwise.left_shift(tf.ones((), integer), tf.cast(width - 1 - step, integer))
        reaching = tf.reduce_sum(tf.cast(across >= candidate, tf.int32), axis=0)
        better = (reaching >= wanted) & (count > wanted)
        return step + 1, tf.where(better, candidate, cut), tf.where(better, reaching, count)

    def unsettled(step: tf.Tensor, _: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        return (step < width) & tf.reduce_any(count > wanted)

    rows, columns = tf.shape(latents)[0], tf.shape(latents)[1]
    start = (tf.constant(0), tf.fill([rows], tf.constant(integer.min, integer)), tf.fill([rows], columns))
    _, cut, count = tf.while_loop(unsettled, halve, start)

    def settle_ties() -> tf.Tensor:
        equal = keys == cut[:, tf.newaxis]
        above = keys > cut[:, tf.newaxis]
        missing = wanted - tf.reduce_sum(tf.cast(above, tf.int32), axis=1)
        rank = tf.cumsum(tf.cast(equal, tf.int32), axis=1)
        # a row that settled early has no surplus, and its cut need not be one of its values
        return above | (equal & (rank <= missing[:, tf.newaxis]))

    kept = tf.cond(tf.reduce_any(count > wanted), settle_ties, lambda: keys >= cut[:, tf.newaxis])
    return tf.where(kept, latents, tf.zeros_like(latents))


def smallest_top_k(latents: tf.Tensor, k: int | tf.Tensor) -> tf.Tensor:
    """Keeps what reaches the smallest of all the rows' k-th largest values, as the program of the source does.

    One threshold serves the whole batch, so every row but one keeps more than ``k``: at k = 25 of 100 latents some 43
    on average. For comparison with that program alone; no graph with such a batch dependence is exported.

    Args:
        latents: float [N, D].
        k: 1..D.

    Returns:
        float [N, D].
    """
    threshold = tf.reduce_min(tf.math.top_k(latents, k).values)
    return tf.where(latents >= threshold, latents, tf.zeros_like(latents))


def top_k_margin(latents: tf.Tensor, k: int | tf.Tensor) -> tf.Tensor:
    """How far each row is from another selection: the gap between its k-th and (k+1)-th largest entries.

    Two programs whose latents differ by rounding select the same entries where the gap is larger than that.

    Args:
        latents: float [N, D].
        k: as in :func:`top_k`.

    Returns:
        float [N], >= 0; infinite where all entries are kept.
    """
    size = tf.shape(latents)[1]
    ordered = tf.sort(latents, axis=1, direction="DESCENDING")
    following = tf.pad(ordered, [[0, 0], [0, 1]], constant_values=-float("inf"))
    return ordered[:, k - 1] - following[:, tf.minimum(k, size)]
