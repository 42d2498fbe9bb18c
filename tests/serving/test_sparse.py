import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving.errors import InvalidInputError
from serving.pb.sparsewalk.v1 import encoder_pb2 as pb
from serving.servicers import sparse

ROWS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.sampled_from([0.0, 0.0, 1.0, -2.5]),
)


@settings(deadline=None)
@given(ROWS)
def test_there_and_back(rows: Any) -> None:
    message = sparse.from_dense(rows)
    assert len(message.values) == np.count_nonzero(rows)
    np.testing.assert_array_equal(sparse.to_dense(message), rows)


@settings(deadline=None)
@given(ROWS, st.integers(1, 8))
def test_the_top_are_those_farthest_from_zero(rows: Any, count: int) -> None:
    kept = sparse.keep_top(rows, count)
    width = min(count, rows.shape[1])
    np.testing.assert_array_equal(np.sort(np.abs(kept))[:, -width:], np.sort(np.abs(rows))[:, -width:])
    assert (np.count_nonzero(kept, axis=1) <= count).all()
    assert ((kept == rows) | (kept == 0)).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"row_starts": []}, "row_starts rises from 0 to the number of values, 2, with one more than there are rows"),
        ({"row_starts": [0]}, "Received: 1 of them, from 0 to 0"),
        ({"row_starts": [1, 2]}, "Received: 2 of them, from 1 to 2"),
        ({"row_starts": [0, 3]}, "Received: 2 of them, from 0 to 3"),
        ({"row_starts": [0, 2, 1, 2]}, "Received: 4 of them, from 0 to 2"),
        ({"indices": [0]}, "each value has an index. Received: 1 indices, 2 values"),
        ({"indices": [0, 4]}, "an index is below the width, 4. Received: 4"),
        ({"indices": [1, 1]}, "each index stands at most once in a row"),
        ({"width": 2**31}, f"spread out to at most {2**26} values. Received: 1 x {2**31}"),
    ],
)
def test_what_does_not_fit_together_is_refused(fields: dict[str, Any], message: str) -> None:
    told = {"width": 4, "row_starts": [0, 2], "indices": [0, 3], "values": [1.0, 2.0]} | fields
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        sparse.to_dense(pb.SparseRows(**told))
