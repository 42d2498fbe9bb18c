"""Training and service bring a picture to a model and a map back to the picture in the same way, to the last bit.

They share no code, so that neither imports the other; this test is what keeps them equal.
"""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import imaging
from training.datasets import resizing

SIDE = st.integers(1, 150)


@settings(max_examples=150, deadline=None)
@given(
    height=SIDE, width=SIDE, rule=st.sampled_from(["letterbox", "stretch"]), target_height=SIDE, target_width=SIDE,
    pad_value=st.integers(0, 255), grey=st.booleans(), seed=st.integers(0, 9),
)  # fmt: skip
def test_both_sides_resize_alike_and_restore_alike(
    height: int, width: int, rule: str, target_height: int, target_width: int, pad_value: int, grey: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (height, width) if grey else (height, width, 3), np.uint8)
    served, served_geometry = imaging.resize(picture, rule, target_height, target_width, pad_value)
    trained, trained_geometry = resizing.resize(picture, rule, target_height, target_width, pad_value)
    np.testing.assert_array_equal(served, trained)
    assert served.shape[:2] == (target_height, target_width)

    probabilities = rng.random((target_height, target_width), np.float32)
    np.testing.assert_array_equal(
        imaging.restore(probabilities, served_geometry), resizing.restore(probabilities, trained_geometry)
    )
