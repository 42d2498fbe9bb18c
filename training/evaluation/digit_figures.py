"""Pictures of digits in rows, of two-dimensional latents, and of what a decoder makes of a map of latents."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def digit_rows(rows: Mapping[str, Floats], title: str) -> Figure:
    """One row of digits under another, each row with its name.

    Args:
        rows: from a row's name to float [N, 784] in 0..1, N the same in all.
        title: of the figure.
    """
    count = len(next(iter(rows.values())))
    figure = Figure(figsize=(1.0 * count + 1.2, 1.1 * len(rows) + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=10)
    grid = figure.subplots(len(rows), count, squeeze=False)
    for line, (name, images) in zip(grid, rows.items(), strict=True):
        for axes, image in zip(line, images, strict=True):
            axes.imshow(image.reshape(28, 28), cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, fontsize=9)
    return figure


def latent_scatter(latents: Floats, labels: NDArray[np.int64], title: str) -> Figure:
    """Digits as points in a plane, coloured by their class.

    Args:
        latents: float [N, 2].
        labels: int [N], from 0.
        title: of the figure.
    """
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    highest = max(int(labels.max()), 9)
    colours = "tab10" if highest < 10 else "nipy_spectral"
    points = axes.scatter(latents[:, 0], latents[:, 1], c=labels, cmap=colours, vmin=-0.5, vmax=highest + 0.5, s=3)
    figure.colorbar(points, ticks=range(highest + 1), label="class")
    axes.set_xlabel("latent 1")
    axes.set_ylabel("latent 2")
    axes.set_aspect("equal")
    axes.set_title(title, fontsize=10)
    return figure


def manifold(pictures: Floats, title: str) -> Figure:
    """Decoded digits beside each other, as their latents lie in the plane.

    Args:
        pictures: float [rows, columns, 784] in 0..1; the first row is drawn at the top.
        title: of the figure.
    """
    rows, columns, _ = pictures.shape
    canvas = pictures.reshape(rows, columns, 28, 28).transpose(0, 2, 1, 3).reshape(rows * 28, columns * 28)
    figure = Figure(figsize=(7, 7.3), layout="constrained")
    axes = figure.subplots()
    axes.imshow(canvas, cmap="gray", vmin=0, vmax=1)
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()
    return figure
