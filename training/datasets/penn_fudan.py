"""Penn-Fudan pedestrians: 170 street pictures, 423 persons with pixel masks.

L. Wang, J. Shi, G. Song and I. Shen, "Object Detection Combining Recognition and Segmentation" (ACCV 2007). The
archive's readme allows research use but not redistribution: no picture of it is part of this project, only the names.
"""

import io
import json
import logging
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from training.datasets import download, streets
from training.datasets.pedestrians import PedestrianData, PedestrianScene
from training.datasets.source import DataError, DataPolicy, choose, find

logger = logging.getLogger("training.datasets")

ARCHIVE = "PennFudanPed.zip"
ADDRESSES = ("https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip",)
MD5 = "5aaa3dee905cef73325923716e38fc6d"
"""Of the official archive. Repacked archives have another one, so content decides: see `check_archive`."""


def load(policy: DataPolicy = "auto") -> PedestrianData:
    """Load Penn-Fudan, or synthetic streets where the policy allows and Penn-Fudan cannot be had.

    Looked for in this order: SPARSEWALK_DATA, the cache, the official address.

    Args:
        policy: `auto`, `real` or `embedded`; see `training.datasets.source`.

    Returns:
        85 train and 85 test scenes: the pictures sorted by name, even index (0, 2, ...) train, odd test.

    Raises:
        DataError: For a broken archive under every policy but `embedded`, and under `real` when there is none.
    """
    return choose("Penn-Fudan", policy, _load_real, streets.load)


def split() -> dict[str, list[str]]:
    """The fixed split.

    Returns:
        The names of the pictures (without ".png") under "train" and "test", 85 each.
    """
    text = resources.files("training.datasets").joinpath("penn_fudan_split.json").read_text(encoding="utf-8")
    names: dict[str, list[str]] = json.loads(text)
    return names


def check_archive(path: Path) -> None:
    """Check that an archive is the whole of Penn-Fudan, whoever packed it.

    Args:
        path: The zip file.

    Raises:
        DataError: When it is no whole zip file, a picture or mask is missing or one too many, or a CRC is wrong.
    """
    with _opened(path) as archive:
        _check_names(archive, path)
        try:
            broken = archive.testzip()
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise DataError(f"{path}: expected whole members. Received: {error}") from error
    if broken is not None:
        raise DataError(f"{path}: expected every member's CRC to be right. Received: a wrong one in {broken}")


def read_archive(path: Path) -> PedestrianData:
    """Decode an archive.

    Args:
        path: The zip file.

    Returns:
        The 170 scenes, split.

    Raises:
        DataError: When the archive is not whole, or a picture cannot be decoded or does not fit its mask.
    """
    names = split()
    with _opened(path) as archive:
        _check_names(archive, path)
        # Pillow releases the lock while it unpacks; more than two threads gain nothing over the reads.
        with ThreadPoolExecutor(max_workers=2) as pool:
            read = partial(_read_scene, archive, path)
            train, test = tuple(pool.map(read, names["train"])), tuple(pool.map(read, names["test"]))
    return PedestrianData("penn_fudan", "real", train, test)


def _load_real() -> PedestrianData:
    remote = download.RemoteFile(ARCHIVE, ADDRESSES, f"md5:{MD5}", accept=check_archive)
    data = read_archive(find(ARCHIVE) or download.fetch(remote))
    logger.info("Penn-Fudan: real data, %d train and %d test pictures", len(data.train), len(data.test))
    return data


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path}: expected a whole zip archive. Received: {error}") from error


def _picture_member(name: str) -> str:
    return f"PennFudanPed/PNGImages/{name}.png"


def _mask_member(name: str) -> str:
    return f"PennFudanPed/PedMasks/{name}_mask.png"


def _check_names(archive: zipfile.ZipFile, path: Path) -> None:
    present = {name for name in archive.namelist() if name.endswith(".png")}
    names = [name for part in split().values() for name in part]
    expected = {member(name) for name in names for member in (_picture_member, _mask_member)}
    if missing := sorted(expected - present):
        raise DataError(
            f"{path}: expected 170 pictures and 170 masks. Received: {len(missing)} missing, the first {missing[0]}"
        )
    if surplus := sorted(present - expected):
        raise DataError(f"{path}: expected 170 pictures and 170 masks. Received: besides them {surplus[0]}")


def _read_scene(archive: zipfile.ZipFile, path: Path, name: str) -> PedestrianScene:
    picture = _read_png(archive, path, _picture_member(name), lambda image: image.convert("RGB"))
    instances = _read_png(archive, path, _mask_member(name), lambda image: image)
    if instances.shape != picture.shape[:2]:
        raise DataError(
            f"{path}: expected the mask of {name} to be {picture.shape[0]}x{picture.shape[1]}. "
            f"Received: shape {instances.shape}"
        )
    return PedestrianScene(name, picture, instances)


def _read_png(
    archive: zipfile.ZipFile, path: Path, member: str, convert: Callable[[Image.Image], Image.Image]
) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(archive.read(member))) as image:
            return np.asarray(convert(image), dtype=np.uint8)
    except (zipfile.BadZipFile, zlib.error, EOFError, UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(f"{path}: expected {member} to be a whole PNG picture. Received: {error}") from error
