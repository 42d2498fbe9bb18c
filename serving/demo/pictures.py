"""Asks for every sample and draws what came back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from serving.client import Client
from serving.demo.page import Result, Shown

Pixels = npt.NDArray[np.uint8]

GAP = 8
ZOOM = 5


def segment_all(client: Client, samples: dict[str, Any], folder: Path, output: Path) -> Result:
    """Masks of all sample pictures; writes ``<name>.png`` panels: picture | truth | mask | overlay."""
    output.mkdir(parents=True, exist_ok=True)
    shown, overlaps = [], []
    for sample in samples["samples"]:
        path = folder / sample["picture"]
        picture = np.asarray(Image.open(path).convert("RGB"))
        truth = np.asarray(Image.open(folder / sample["truth"])) > 0
        mask = client.segment(path, model=samples["experiment"])
        union = np.count_nonzero(truth | mask.array)
        overlap = np.count_nonzero(truth & mask.array) / union if union else 1.0
        overlaps.append(overlap)
        panel = beside([picture, grey(truth), grey(mask.array), mask.overlay(picture)])
        Image.fromarray(panel).save(output / f"{path.stem}.png")
        shown.append(
            Shown(
                f"pedestrians/{path.stem}.png",
                f"{path.stem}: IoU {overlap:.2f}, {mask.foreground_fraction:.0%} pedestrian, "
                f"{1e3 * mask.timings.total:.0f} ms in the service",
            )
        )
    return Result(
        experiment=samples["experiment"],
        dataset=samples["dataset"],
        data_source=samples["data_source"],
        heading="Pedestrian masks",
        legend="picture | truth | mask from the service | overlay",
        summary=f"{samples['experiment']}: {len(shown)} masks, mean IoU {np.mean(overlaps):.3f} on these test pictures",
        shown=tuple(shown),
    )


def encode_all(client: Client, samples: dict[str, Any], folder: Path, output: Path) -> Result:
    """Encodings and reconstructions of all sample digits: digit | latents | reconstruction."""
    output.mkdir(parents=True, exist_ok=True)
    shown, errors = [], []
    for sample in samples["samples"]:
        path = folder / sample["picture"]
        digit = np.asarray(Image.open(path).convert("L"))
        encoding = client.encode(path, model=samples["experiment"])
        rebuilt = client.reconstruct(path, model=samples["experiment"])
        values = rebuilt.array[0].reshape(28, 28)
        error = float(np.mean(np.square(values - digit / 255.0)))
        errors.append(error)
        tiles = [grey(digit), latents(encoding.array[0]), grey(np.clip(values * 255, 0, 255).astype(np.uint8))]
        side = max(tile.shape[0] for tile in tiles) * ZOOM
        panel = beside([cv2.resize(tile, (side, side), interpolation=cv2.INTER_NEAREST) for tile in tiles])
        Image.fromarray(panel).save(output / f"{path.stem}.png")
        active = np.count_nonzero(encoding.array)
        shown.append(
            Shown(
                f"digits/{path.stem}.png",
                f"label {sample['label']}: {active} of {encoding.array.size} latents, mean squared error {error:.4f}",
            )
        )
    return Result(
        experiment=samples["experiment"],
        dataset=samples["dataset"],
        data_source=samples["data_source"],
        heading="Encodings and reconstructions",
        legend="digit | its latents, brighter is larger | reconstruction",
        summary=f"{samples['experiment']}: {len(shown)} digits, mean squared error {np.mean(errors):.4f}",
        shown=tuple(shown),
    )


def grey(values: npt.NDArray[Any]) -> Pixels:
    """A mask or a grey picture [H, W] as RGB [H, W, 3]."""
    levels = values.astype(np.uint8) * np.uint8(255) if values.dtype == bool else values.astype(np.uint8)
    return np.repeat(levels[..., np.newaxis], 3, axis=2)


def latents(values: npt.NDArray[np.float32]) -> Pixels:
    """Latents [D] as the smallest square that holds them, in a perceptual colour map: RGB."""
    side = int(np.ceil(np.sqrt(values.size)))
    square = np.pad(np.abs(values), (0, side * side - values.size)).reshape(side, side)
    # the square root lifts the many small latents beside the few large ones
    levels = (255 * np.sqrt(square / max(float(square.max()), 1e-12))).astype(np.uint8)
    coloured: Pixels = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_MAGMA), cv2.COLOR_BGR2RGB).astype(np.uint8)
    return coloured


def beside(tiles: list[Pixels]) -> Pixels:
    """RGB tiles of one height in a row, with white gaps."""
    gap = np.full((tiles[0].shape[0], GAP, 3), 255, np.uint8)
    row = [part for tile in tiles for part in (tile, gap)]
    return np.concatenate(row[:-1], axis=1)
