"""Pictures of what a model does. The only user of matplotlib; nothing here opens a window."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from training.files import written_whole

Floats = NDArray[np.float32]


def save(pictures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Writes each figure as PNG under its name in ``folder``; returns the paths."""
    paths = []
    for name, figure in pictures.items():
        with written_whole(folder / name) as temporary:
            figure.savefig(temporary, format="png", dpi=110)
        paths.append(folder / name)
    return paths


def segmentation_panel(picture: NDArray[np.uint8], truth: NDArray[np.bool_], probability: Floats) -> Figure:
    """The 2x3 panel of the source: picture, truth, prediction; picture · truth, prediction, prediction · picture.

    Args:
        picture: uint8 [H, W, 3], RGB.
        truth: bool [H, W].
        probability: float [H, W] in 0..1.
    """
    height, width = truth.shape
    figure = Figure(figsize=(9, 6 * height / width + 0.8), layout="constrained")
    shade = picture / 255.0
    tiles: list[tuple[str, Any]] = [
        ("picture", picture),
        ("truth", truth),
        ("probability", probability),
        ("picture · truth", shade * truth[..., np.newaxis]),
        ("mask at 0.5", probability >= 0.5),
        ("picture · mask", shade * (probability >= 0.5)[..., np.newaxis]),
    ]
    for axes, (title, tile) in zip(figure.subplots(2, 3).flat, tiles, strict=True):
        axes.imshow(tile, cmap="gray", vmin=0, vmax=1)
        axes.set_title(title, fontsize=9)
        axes.set_axis_off()
    return figure


def reconstructions(images: Floats, encoding: Floats, rebuilt: Floats, title: str) -> Figure:
    """Digits, their latents and their reconstructions, one column an example.

    Args:
        images: float [N, 784] in 0..1.
        encoding: float [N, D].
        rebuilt: float [N, 784].
        title: of the figure.
    """
    count = len(images)
    figure = Figure(figsize=(1.1 * count, 3.9), layout="constrained")
    figure.suptitle(f"{title}: digit, latents, reconstruction", fontsize=10)
    grid = figure.subplots(3, count, height_ratios=(1, 1, 1))
    for column in range(count):
        grid[0, column].imshow(images[column].reshape(28, 28), cmap="gray", vmin=0, vmax=1)
        grid[1, column].imshow(tiled(encoding[column]), cmap="magma", vmin=0, vmax=max(encoding[column].max(), 1e-6))
        grid[1, column].set_title(f"L0 {np.count_nonzero(encoding[column])}", fontsize=8)
        grid[2, column].imshow(rebuilt[column].reshape(28, 28), cmap="gray", vmin=0, vmax=1)
    for axes in grid.flat:
        axes.set_axis_off()
    return figure


def dictionary(columns: Floats, title: str, shown: int = 100) -> Figure:
    """The first ``shown`` dictionary columns [784, D] as 28x28 pictures, contrast-normalised."""
    shown = min(shown, columns.shape[1])
    what = f"{title}: {shown} of {columns.shape[1]} dictionary columns, contrast-normalised"
    return _weights(mosaic(contrast_normalised(columns[:, :shown])), 1.0, what)


def raw_dictionary(columns: Floats, title: str, shown: int = 100) -> Figure:
    """The same columns as they are, all on one scale with its bar."""
    shown = min(shown, columns.shape[1])
    limit = max(float(np.abs(columns[:, :shown]).max()), 1e-12)
    return _weights(mosaic(columns[:, :shown]), limit, f"{title}: the same columns on one scale", bar=True)


def contrast_normalised(columns: Floats) -> Floats:
    """Columns [784, D] less the mean of them all, each divided by its largest magnitude: float in −1..1.

    As UFLDL's ``display_network`` does: what a column looks like shows, and how strong it is does not.
    """
    centred = columns - columns.mean()
    normalised: Floats = centred / np.maximum(np.abs(centred).max(axis=0), 1e-12)
    return normalised


def mosaic(columns: Floats) -> Floats:
    """Columns [784, D] as 28x28 pictures, row by row in the smallest square, with lines of zeros between."""
    side = int(np.ceil(np.sqrt(columns.shape[1])))
    canvas = np.zeros((side * 29 + 1, side * 29 + 1), np.float32)
    for index, column in enumerate(columns.T):
        top, left = (29 * place + 1 for place in divmod(index, side))
        canvas[top : top + 28, left : left + 28] = column.reshape(28, 28)
    return canvas


def _weights(canvas: Floats, limit: float, title: str, *, bar: bool = False) -> Figure:
    figure = Figure(figsize=(6, 6.3), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(canvas, cmap="RdBu_r", vmin=-limit, vmax=limit)
    if bar:
        figure.colorbar(image, ax=axes, shrink=0.6)
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()
    return figure


def tiled(values: Floats) -> Floats:
    """A vector [D] as the smallest square that holds it, filled up with zeros."""
    side = int(np.ceil(np.sqrt(len(values))))
    return np.pad(values, (0, side * side - len(values))).reshape(side, side)
