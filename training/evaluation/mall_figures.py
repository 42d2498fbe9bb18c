"""Pictures of a segmentation of the Mall video."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

ALPHA = 0.5
"""Of the heat over the frame, as the source has it."""

Floats = NDArray[np.floating[Any]]


def heat_overlay(frame: NDArray[np.uint8], probability: Floats, alpha: float = ALPHA) -> NDArray[np.uint8]:
    """The frame with the probability as a ``hot`` map over it: black at 0, red, yellow, white at 1.

    Args:
        frame: uint8 [H, W, 3], RGB.
        probability: float [H, W] in 0..1.
        alpha: of the map, 0..1.

    Returns:
        uint8 [H, W, 3], RGB.
    """
    table = (mpl.colormaps["hot"](np.arange(256))[:, :3] * 255).astype(np.uint8)
    heat = table[np.rint(np.clip(probability, 0, 1) * 255).astype(np.uint8)]
    blended: NDArray[np.uint8] = cv2.addWeighted(frame, 1 - alpha, heat, alpha, 0)
    return blended


def red_share_over_time(
    numbers: NDArray[np.int64], shares: Mapping[str, Floats], expected: Floats, counts: NDArray[np.int64]
) -> Figure:
    """Red share of each model over the frames, above the number of heads.

    Args:
        numbers: int [F], of the frames.
        shares: for each model float [F] in 0..1.
        expected: float [F], what the heads let one expect.
        counts: int [F], heads.
    """
    figure = Figure(figsize=(10, 5.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for name, share in shares.items():
        upper.plot(numbers, 100 * share, linewidth=0.9, label=name)
    upper.plot(numbers, 100 * expected, color="black", linewidth=1.2, linestyle="--", label="expected from the heads")
    upper.set_ylabel("red area, % of the frame")
    upper.set_ylim(bottom=0)
    upper.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    lower.plot(numbers, counts, color="black", linewidth=0.9)
    lower.set_ylabel("heads")
    lower.set_xlabel("frame")
    return figure
