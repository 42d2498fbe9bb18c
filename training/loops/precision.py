"""Training steps in mixed precision.

Micikevicius et al., "Mixed Precision Training", arXiv 1710.03740: products in 16 bits, weights and updates in 32. With
bfloat16, whose range is float32's, no loss scaling is needed. On a CPU with the instructions for it a step of the U-Net
takes two thirds of the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import keras

Precision = Literal["float32", "mixed_bfloat16"]


@contextmanager
def computing_in(model: keras.Model, precision: Precision) -> Iterator[None]:
    """Has the layers of ``model`` compute in ``precision`` where they are called, or traced, inside.

    The weights stay as they are, float32, and so does what the model computes outside: it is trained in 16 bits, but
    scored and exported in 32.
    """
    policies = [layer.dtype_policy for layer in model.layers]
    try:
        for layer in model.layers:
            layer.dtype_policy = keras.DTypePolicy(precision)
        yield
    finally:
        for layer, policy in zip(model.layers, policies, strict=True):
            layer.dtype_policy = policy
