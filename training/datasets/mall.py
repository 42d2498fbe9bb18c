"""The Mall data set: 2,000 frames of a shopping centre's webcam, with the position of every head.

K. Chen, C. C. Loy, S. Gong and T. Xiang, "Feature Mining for Localised Crowd Counting" (BMVC 2012). Academic research
only: no picture of it is part of this project. There are no masks, only heads, so a segmentation can be judged here
by what follows from the heads alone. The archive looked for has the first 500 frames, as the source used them.
"""

import io
import logging
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.io
from PIL import Image, UnidentifiedImageError
from scipy.io.matlab import MatReadError

from training.datasets.source import DataError, DataUnavailable, find

logger = logging.getLogger("training.datasets")

ARCHIVE = "mall/mall_dataset_first500.zip"
ADDRESS = "https://personal.ie.cuhk.edu.hk/~ccloy/downloads_mall_dataset.html"
FRAMES_A_SECOND = 2.0
"""The webcam's rate ("less than 2 Hz" in the data set's description)."""

_FRAME = re.compile(r"frames/seq_(\d+)\.jpg$")


@dataclass(frozen=True, eq=False)
class MallData:
    """The frames, read one by one: decoded they would take half a gigabyte.

    Attributes:
        name: "mall".
        numbers: of the frames, from 1, ascending: the order in time.
        heads: for each frame float64 [P, 2], x (column) and y (row) of the P heads, in pixels.
        perspective: float64 [H], for each row the area weight of a person there: inversely proportional to the square
            of the person's height in pixels.
        archive: where the frames are.
        members: name of each frame in the archive.
    """

    name: str
    numbers: tuple[int, ...]
    heads: tuple[npt.NDArray[np.float64], ...]
    perspective: npt.NDArray[np.float64]
    archive: Path
    members: tuple[str, ...]

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Heads of each frame: int64 [F]."""
        return np.array([len(heads) for heads in self.heads])

    def frames(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Decodes frame after frame: uint8 [H, W, 3], RGB.

        Raises:
            DataError: a frame cannot be decoded or is not as high as the perspective.
        """
        with _opened(self.archive) as archive:
            for member in self.members:
                frame = _decoded(_read(archive, self.archive, member), f"{self.archive}: {member}")
                if len(frame) != len(self.perspective):
                    raise DataError(
                        f"{self.archive}: expected {member} to have {len(self.perspective)} rows. "
                        f"Received: {len(frame)}"
                    )
                yield frame


def load() -> MallData:
    """Load the data set from ``mall/`` under SPARSEWALK_DATA.

    Raises:
        DataUnavailable: it is not there. Nothing is downloaded: the first 500 frames alone have no official address.
        DataError: the archive is broken.
    """
    path = find(ARCHIVE)
    if path is None:
        raise DataUnavailable(f"Mall: expected {ARCHIVE} in the folder that SPARSEWALK_DATA names. See {ADDRESS}")
    data = read_archive(path)
    logger.info("Mall: %d frames, %.1f heads a frame", len(data.numbers), data.counts.mean())
    return data


def read_archive(path: Path) -> MallData:
    """Read everything but the frames' pixels.

    Frames are sorted by number: the source's video shows them as the folder happened to list them.

    Args:
        path: a zip with ``frames/seq_<number>.jpg``, ``mall_gt.mat`` and ``perspective_roi.mat`` in one folder.

    Raises:
        DataError: the archive is not whole, has no frames, or a frame without ground truth.
    """
    with _opened(path) as archive:
        found = sorted(
            (int(match.group(1)), name) for name in archive.namelist() if (match := _FRAME.search(name)) is not None
        )
        if not found:
            raise DataError(
                f"{path}: expected frames/seq_<number>.jpg. Received: {len(archive.namelist())} other files"
            )
        folder = found[0][1][: -len("frames/seq_000001.jpg")]
        truth = _matlab(archive, path, f"{folder}mall_gt.mat")
        perspective = _matlab(archive, path, f"{folder}perspective_roi.mat")
    try:
        counts, frames = truth["count"].ravel(), truth["frame"].ravel()
        rows = np.asarray(perspective["pMapN"], dtype=np.float64)[:, 0]
        if found[-1][0] > len(frames):
            raise DataError(f"{path}: expected a truth for frame {found[-1][0]}. Received: {len(frames)} truths")
        heads = tuple(
            _heads(frames[number - 1], int(counts[number - 1]), f"{path}: frame {number}") for number, _ in found
        )
    except (KeyError, ValueError, IndexError) as error:
        raise DataError(f"{path}: expected the variables count, frame and pMapN. Received: {error}") from error
    numbers, members = tuple(number for number, _ in found), tuple(name for _, name in found)
    return MallData("mall", numbers, heads, rows, path, members)


def _heads(frame: Any, count: int, where: str) -> npt.NDArray[np.float64]:
    locations = np.asarray(frame["loc"].item(), dtype=np.float64).reshape(-1, 2)
    if len(locations) != count:
        raise DataError(f"{where}: expected {count} heads. Received: {len(locations)}")
    return locations


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path}: expected a whole zip archive. Received: {error}") from error


def _read(archive: zipfile.ZipFile, path: Path, member: str) -> bytes:
    try:
        return archive.read(member)
    except (KeyError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path}: expected a whole {member}. Received: {error}") from error


def _decoded(content: bytes, where: str) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(f"{where}: expected a whole picture. Received: {error}") from error


def _matlab(archive: zipfile.ZipFile, path: Path, member: str) -> dict[str, Any]:
    content = _read(archive, path, member)
    try:
        variables: dict[str, Any] = scipy.io.loadmat(io.BytesIO(content))
    except (MatReadError, ValueError, TypeError, OSError, NotImplementedError) as error:
        raise DataError(f"{path}: expected {member} to be a MATLAB file. Received: {error}") from error
    return variables
