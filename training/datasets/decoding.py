"""The one rule by which a picture's file becomes 8-bit RGB or grey values.

The server applies the same rule with its own code (training and serving import nothing of each other); a contract test
holds both to identical arrays.

    orientation    as the camera's notes (EXIF) say; notes that cannot be read are ignored
    16-bit grey    scaled by 255/65535, not clipped
    transparency   laid over white, as on a sheet of paper
    grey           0.299 R + 0.587 G + 0.114 B
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from training.datasets.source import DataError

PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
"""How names of picture files end, in small letters."""

_FORMATS = ("BMP", "JPEG", "PNG", "WEBP")
# What Pillow's readers raise on bytes that are not what their first ones promise.
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, OverflowError, ArithmeticError)
_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_rgb(file: Path) -> npt.NDArray[np.uint8]:
    """Read a picture.

    Args:
        file: BMP, JPEG, PNG or WebP; of an animation the first frame counts.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        return np.asarray(_to_rgb(_upright(file)), dtype=np.uint8)
    except (*_BROKEN, Image.DecompressionBombError) as error:
        raise DataError(f"{file.name}: no readable picture ({error})") from error


def read_grey(file: Path) -> npt.NDArray[np.uint8]:
    """Read a picture's luminance: uint8 [H, W]. See `read_rgb`."""
    grey: Any = cv2.cvtColor(read_rgb(file), cv2.COLOR_RGB2GRAY)
    return grey  # type: ignore[no-any-return]  # cv2 is untyped for us


def read_values(file: Path) -> npt.NDArray[Any]:
    """Read values as they are stored, as masks need them: [H, W] or [H, W, C] of the file's own kind.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        return np.asarray(_upright(file))
    except (*_BROKEN, Image.DecompressionBombError) as error:
        raise DataError(f"{file.name}: no readable picture ({error})") from error


def _upright(file: Path) -> Image.Image:
    with Image.open(file, formats=_FORMATS) as image:
        image.load()
        try:
            turn = _TURNS.get(image.getexif().get(_ORIENTATION_TAG, 1))
        except _BROKEN:
            turn = None
        return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.uint32).clip(0, 65535)
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")
