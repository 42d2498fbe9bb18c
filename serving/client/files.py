"""The files that the command line writes: results of pictures and rows, each whole or not at all."""

import io
import json
import math
import os
import tempfile
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serving.client.answers import Mask, Rows, to_png


class MaskFile(StrEnum):
    """What ``segment`` writes."""

    OVERLAY = "overlay"
    MASK = "mask"
    NPY = "npy"
    JSON = "json"


class RowsFile(StrEnum):
    """What ``encode`` and ``reconstruct`` write."""

    NPY = "npy"
    JSON = "json"
    PNG = "png"


def stems(sources: Sequence[Path]) -> list[str]:
    """The names of the results of files: theirs without suffix; where two would be alike they get numbers."""
    found: list[str] = []
    taken: set[str] = set()
    for source in sources:
        name, number = source.stem, 2
        while name.casefold() in taken:  # not every file system tells them apart
            name, number = f"{source.stem}-{number}", number + 1
        taken.add(name.casefold())
        found.append(name)
    return found


def write(path: Path, data: bytes) -> Path:
    """Writes a file whole or not at all: aside first, renamed as the last act."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    aside = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        aside.chmod(0o644)  # mkstemp makes files that only their owner reads
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    return path


def write_mask(mask: Mask, picture: bytes, stem: Path, form: MaskFile) -> Path:
    """Writes a mask, or what it makes of its picture (the bytes of a file): ``stem`` with a suffix."""
    match form:
        case MaskFile.OVERLAY:
            return write(_with_suffix(stem, ".overlay.png"), to_png(mask.overlay(picture)))
        case MaskFile.MASK:
            return write(_with_suffix(stem, ".mask.png"), mask.png())
        case MaskFile.NPY:
            return write(_with_suffix(stem, ".npy"), _npy(mask.array))
        case MaskFile.JSON:
            height, width = mask.array.shape
            told = {
                "model": mask.model,
                "version": mask.version,
                "height": height,
                "width": width,
                "threshold": mask.threshold,
                "foreground_fraction": mask.foreground_fraction,
                "timings": mask.timings._asdict(),
            }
            return write(_with_suffix(stem, ".json"), json.dumps(told, indent=2).encode() + b"\n")


def write_rows(rows: Rows, what: str, stem: Path, form: RowsFile) -> Path:
    """Writes rows, which are ``what``: ``stem`` with a suffix."""
    path = _with_suffix(stem, f".{what}.{form.value}")
    match form:
        case RowsFile.NPY:
            return write(path, _npy(rows.array))
        case RowsFile.JSON:
            told = {"model": rows.model, "version": rows.version, what: rows.array.tolist()}
            return write(path, json.dumps(told).encode() + b"\n")
        case RowsFile.PNG:
            return write(path, to_png(_tiles(rows.array)))


def _tiles(array: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Rows as grey pictures side by side: square where the number of values is one, else a strip; scaled to 0..1."""
    side = math.isqrt(array.shape[1])
    height, width = (side, side) if side * side == array.shape[1] else (1, array.shape[1])
    top = max(1.0, float(array.max()))
    pictures = (np.clip(array, 0.0, top) / top * 255).round().astype(np.uint8).reshape(-1, height, width)
    return np.concatenate(list(pictures), axis=1 if height > 1 else 0)


def _with_suffix(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)


def _npy(array: npt.NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
