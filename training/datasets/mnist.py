"""MNIST: Y. LeCun, C. Cortes and C. Burges, "The MNIST database of handwritten digits" (1998).

The files are in the idx format: a big-endian magic number (0, 0, type code, number of dimensions), one 32-bit length
for each dimension, then the values. MNIST has unsigned bytes only: magic 2051 for images, 2049 for labels.
"""

import gzip
import logging
import math
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.datasets import digits, download
from training.datasets.digits import DigitData
from training.datasets.source import DataError, DataPolicy, choose, find

logger = logging.getLogger("training.datasets")

MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "http://yann.lecun.com/exdb/mnist/",  # the original; it often refuses, so it comes last
)
SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}

_IMAGES_MAGIC = 2051
_LABELS_MAGIC = 2049
_SIDE = 28


def load(policy: DataPolicy = "auto") -> DigitData:
    """Load MNIST, or scikit-learn's digits where the policy allows and MNIST cannot be had.

    Looked for in this order: `mnist/` under SPARSEWALK_DATA, the cache, the mirrors.

    Args:
        policy: `auto`, `real` or `embedded`; see `training.datasets.source`.

    Returns:
        The official 60,000 / 10,000 split, or the 1,437 / 360 embedded digits.

    Raises:
        DataError: For broken files under every policy but `embedded`, and under `real` for data that cannot be had.
    """
    return choose("MNIST", policy, _load_real, digits.load)


def read_idx(path: Path, magic: int) -> npt.NDArray[np.uint8]:
    """Read a gzip-compressed idx file of unsigned bytes.

    Args:
        path: The file.
        magic: The magic number expected; its last byte is the number of dimensions.

    Returns:
        uint8 array with the dimensions that the file states.

    Raises:
        DataError: When the file cannot be unpacked, or magic number or length are not as expected.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: expected a whole gzip file. Received: {error}") from error
    dimensions = magic & 0xFF
    header = 4 * (1 + dimensions)
    if len(content) < header:
        raise DataError(f"{path}: expected an idx header of {header} bytes. Received: {len(content)} bytes")
    found, *shape = (int(value) for value in np.frombuffer(content, dtype=">u4", count=1 + dimensions))
    if found != magic:
        raise DataError(f"{path}: expected the idx magic number {magic}. Received: {found}")
    if len(content) - header != math.prod(shape):
        raise DataError(
            f"{path}: expected {math.prod(shape)} values of shape {shape}. Received: {len(content) - header}"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def read_part(images_path: Path, labels_path: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Read one part of MNIST: images and their labels.

    Args:
        images_path: Gzip-compressed idx file of images, 28x28.
        labels_path: Gzip-compressed idx file of labels.

    Returns:
        Images float32 [N, 784] in 0..1 and labels int64 [N] in 0..9.

    Raises:
        DataError: When a file is broken, the images have another size, counts differ, or a label is above 9.
    """
    images, labels = read_idx(images_path, _IMAGES_MAGIC), read_idx(labels_path, _LABELS_MAGIC)
    if images.shape[1:] != (_SIDE, _SIDE):
        raise DataError(f"{images_path}: expected images of 28x28. Received: {images.shape[1]}x{images.shape[2]}")
    if len(images) != len(labels):
        raise DataError(
            f"{labels_path}: expected a label for each of the {len(images)} images of {images_path.name}. "
            f"Received: {len(labels)} labels"
        )
    if labels.size and labels.max() > 9:
        raise DataError(f"{labels_path}: expected labels 0..9. Received: {labels.max()}")
    pixels = images.reshape(len(images), _SIDE * _SIDE).astype(np.float32)
    pixels /= 255.0  # in place: the train part is 188 MB
    return pixels, labels.astype(np.int64)


def _load_real() -> DigitData:
    paths = {name: find(f"mnist/{name}") or _fetch(name) for name in SHA256}
    train_images, train_labels = read_part(paths["train-images-idx3-ubyte.gz"], paths["train-labels-idx1-ubyte.gz"])
    test_images, test_labels = read_part(paths["t10k-images-idx3-ubyte.gz"], paths["t10k-labels-idx1-ubyte.gz"])
    for name, images, expected in (("train", train_images, 60_000), ("t10k", test_images, 10_000)):
        if len(images) != expected:
            path = paths[f"{name}-images-idx3-ubyte.gz"]
            raise DataError(f"{path}: expected {expected} images. Received: {len(images)}")
    logger.info("MNIST: real data, %d train and %d test images", len(train_images), len(test_images))
    return DigitData("mnist", "real", train_images, train_labels, test_images, test_labels)


def _fetch(name: str) -> Path:
    addresses = tuple(mirror + name for mirror in MIRRORS)
    return download.fetch(download.RemoteFile(f"mnist/{name}", addresses, f"sha256:{SHA256[name]}"))
