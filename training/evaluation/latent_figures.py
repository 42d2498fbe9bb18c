"""Pictures of how latents are used, and of how a training went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray

from training.evaluation.figures import contrast_normalised, mosaic

Floats = NDArray[np.float32]

FILMED = 49
"""Dictionary columns in the film of the weights."""
COLOURS = 33
"""Of the film: few enough for a small file, and an odd number so that 0 is white."""


def latent_histogram(latents: Floats, frequency: NDArray[np.float64], title: str) -> Figure:
    """The values of active latents, and how often each latent fires.

    Args:
        latents: float [N, D].
        frequency: share of examples on which each latent fires, [D].
        title: of the figure.
    """
    figure = Figure(figsize=(8.5, 3.2), layout="constrained")
    figure.suptitle(title, fontsize=10)
    values, firing = figure.subplots(1, 2)
    active = latents[latents != 0]
    if active.size:
        values.hist(active, bins=80, log=True, color="#3b6fb6")
    values.set(xlabel="value of an active latent", ylabel="count")
    fired = frequency[frequency > 0]
    # half an octave a bar; the leftmost one begins at what a single example can show
    firing.hist(np.log10(fired), bins=np.arange(-5, 0.3, 0.15).tolist(), color="#c4623a")
    silent = len(frequency) - len(fired)
    firing.set(xlabel=f"log10 of firing frequency ({silent} of {len(frequency)} never fire)", ylabel="latents")
    return figure


def cost_over_time(history: Sequence[Mapping[str, float]], title: str) -> Figure:
    """The training objective after each epoch, and the other scalars of the history in panels beside it.

    Args:
        history: one mapping an epoch with ``epoch`` and ``loss``; scalars may be missing from some of the epochs.
        title: of the figure.
    """
    # a term that is always 0 is one that this encoder does not have
    changing = {key for epoch in history for key, value in epoch.items() if value != 0}
    names = ["loss", *sorted(changing - {"loss", "epoch", "seconds"})]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.4 * rows + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=10)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, name in zip(grid, names, strict=False):
        points = [(epoch["epoch"], epoch[name]) for epoch in history if name in epoch]
        values = [value for _, value in points]
        axes.plot([epoch for epoch, _ in points], values, marker="." if len(points) < 12 else "", color="#3b6fb6")
        if min(values) > 0 and max(values) > 20 * min(values):
            axes.set_yscale("log")
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.set_xlabel("epoch", fontsize=8)
    for axes in list(grid):
        axes.set_axis_off()
    return figure


def weight_frames(snapshots: Sequence[Floats]) -> list[NDArray[np.uint8]]:
    """Each snapshot [784, D] of a dictionary as a contrast-normalised mosaic: uint8 [H, W, 3] frames."""
    palette = (colormaps["RdBu_r"].resampled(COLOURS)(np.arange(COLOURS))[:, :3] * 255).astype(np.uint8)
    frames = []
    for columns in snapshots:
        canvas = mosaic(contrast_normalised(columns[:, :FILMED]))
        frames.append(palette[np.rint((canvas + 1) / 2 * (COLOURS - 1)).astype(np.intp)])
    return frames
