"""Pictures in, masks out: pure functions on arrays and bytes.

    bytes -> decode -> RGB picture -> resize -> model input          (the geometry is kept)
    probabilities -> restore (by that geometry) -> to_mask -> PNG | COCO run-length | packed bits | floats

A picture is a uint8 array [H, W, 3] in RGB order; a grey one is [H, W]. A probability map is float32 [H, W] in [0, 1].
The resizing rule is the manifest's; training has its own implementation, and a contract test holds the two together.
"""

import io
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt
from PIL import BmpImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin
from pycocotools import mask as coco

from serving.errors import InvalidInputError, InvalidPictureError

Picture = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]
BoolMask = npt.NDArray[np.bool_]

# What bytes begin with -> who reads them. The reader is called directly rather than through Image.open, whose own
# pixel limit is a global of the process and only warns where we refuse.
_READERS: tuple[tuple[bytes, int, type[ImageFile.ImageFile]], ...] = (
    (b"\xff\xd8\xff", 0, JpegImagePlugin.JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", 0, PngImagePlugin.PngImageFile),
    (b"WEBP", 8, WebPImagePlugin.WebPImageFile),
    (b"BM", 0, BmpImagePlugin.BmpImageFile),
)

# What Pillow's readers raise on bytes that are not what their first ones promise.
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, OverflowError, ArithmeticError)

# Of libpng, within OpenCV and within most who would read it: PNG_USER_WIDTH_MAX and PNG_USER_HEIGHT_MAX.
_LONGEST_PNG_SIDE = 1_000_000

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


class MaskFormat(Enum):
    """How a mask travels; see ``encode_mask``."""

    PNG = "png"
    COCO_RLE = "coco_rle"
    PACKED_BITS = "packed_bits"
    PROBABILITIES = "probabilities"


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where a picture lies in its model input.

    Attributes:
        source: (height, width) of the picture.
        target: (height, width) of the model input.
        top, left, height, width: the rectangle of the target that holds the picture; the rest is padding.
    """

    source: tuple[int, int]
    target: tuple[int, int]
    top: int
    left: int
    height: int
    width: int


def limit_threads() -> None:
    """Has OpenCV work on the calling thread only: the server's own threads are the parallelism, and ORT's the cores."""
    cv2.setNumThreads(1)


def decode(data: bytes, max_pixels: int) -> Picture:
    """Decodes a JPEG, PNG, WebP or BMP picture.

    EXIF orientation is applied. Grey, palette, CMYK and 16-bit pictures become 8-bit RGB (16 bits are scaled by
    255/65535, not clipped); transparency is laid over white, as on a sheet of paper. Of an animation the first frame
    counts.

    Args:
        data: the whole file.
        max_pixels: most pixels (height x width) allowed; compared with the header before anything is decoded.

    Returns:
        RGB [H, W, 3].

    Raises:
        InvalidPictureError: unknown format, broken or truncated data, or too many pixels.
    """
    image = _open(data, max_pixels)
    width, height = image.size
    if width < 1 or height < 1:
        raise InvalidPictureError(f"a picture has at least one pixel. Received: {width} x {height}")
    if width * height > max_pixels:
        raise InvalidPictureError(
            f"a picture has at most {max_pixels} pixels. Received: {width} x {height} = {width * height}"
        )
    try:
        image.load()
        upright = _upright(image)
        return np.ascontiguousarray(np.asarray(_to_rgb(upright), dtype=np.uint8))
    except _BROKEN as error:
        raise InvalidPictureError(f"the {image.format} picture is truncated or broken: {error}") from error


def _open(data: bytes, max_pixels: int) -> ImageFile.ImageFile:
    for magic, offset, reader in _READERS:
        if data.startswith(magic, offset):
            try:
                return reader(io.BytesIO(data))
            except Image.DecompressionBombError as error:
                # WebP's decoder takes memory for all pixels as it opens, so Pillow has looked at the size before us.
                raise InvalidPictureError(f"a picture has at most {max_pixels} pixels. Received: {error}") from error
            except _BROKEN as error:
                raise InvalidPictureError(f"the {reader.format} picture is truncated or broken: {error}") from error
    came = f"{len(data)} bytes that begin with {data[:8]!r}" if data else "no bytes"
    raise InvalidPictureError(f"a picture is JPEG, PNG, WebP or BMP. Received: {came}")


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except _BROKEN:
        # A camera's broken notes are no reason to refuse its picture.
        return image
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit grey: convert("L") would clip at 255.
        values = np.asarray(image).astype(np.uint32).clip(0, 65535)
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        paper = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(paper, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def to_grey(picture: Picture) -> Picture:
    """RGB [H, W, 3] -> luminance [H, W] (0.299 R + 0.587 G + 0.114 B, rounded); a grey picture stays."""
    return picture if picture.ndim == 2 else cast(Picture, cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))


def resize(picture: Picture, rule: str, height: int, width: int, pad_value: int) -> tuple[Picture, Geometry]:
    """Brings a picture to a model's size by the manifest's rule.

    Args:
        picture: [h, w, 3] or [h, w].
        rule: ``letterbox`` or ``stretch``.
        height: of the model's input.
        width: of the model's input.
        pad_value: what letterbox fills the rest with, 0..255.

    Returns:
        The resized picture, [height, width, 3] or [height, width], and where the original lies in it.

    Raises:
        ValueError: no such rule.
    """
    if rule == "letterbox":
        return letterbox(picture, height, width, pad_value)
    if rule == "stretch":
        return stretch(picture, height, width)
    raise ValueError(f"the resizing rule is letterbox or stretch, not {rule!r}")


def letterbox(picture: Picture, height: int, width: int, pad_value: int) -> tuple[Picture, Geometry]:
    """Scales by min(height/h, width/w), centres and pads; of an odd padding the smaller half is at the top and left."""
    h, w = picture.shape[:2]
    scale = min(height / h, width / w)
    inner_height = min(height, max(1, round(h * scale)))
    inner_width = min(width, max(1, round(w * scale)))
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    geometry = Geometry((h, w), (height, width), top, left, inner_height, inner_width)
    inner = _resample(picture, inner_height, inner_width)
    if inner.shape[:2] == (height, width):
        return inner, geometry
    canvas = np.full((height, width, *picture.shape[2:]), pad_value, dtype=np.uint8)
    canvas[top : top + inner_height, left : left + inner_width] = inner
    return canvas, geometry


def stretch(picture: Picture, height: int, width: int) -> tuple[Picture, Geometry]:
    """Scales each side on its own; the aspect is lost, nothing is padded."""
    h, w = picture.shape[:2]
    return _resample(picture, height, width), Geometry((h, w), (height, width), 0, 0, height, width)


def _resample(picture: Picture, height: int, width: int) -> Picture:
    h, w = picture.shape[:2]
    if (h, w) == (height, width):
        return picture
    shrinks = height <= h and width <= w
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cast(Picture, cv2.resize(picture, (width, height), interpolation=how))


def restore(probabilities: Probabilities, geometry: Geometry) -> Probabilities:
    """Maps a probability map back onto the picture: crops the padding and resizes bilinearly to the picture's size.

    Args:
        probabilities: [*geometry.target].
        geometry: what ``resize`` returned for the picture.

    Returns:
        [*geometry.source].
    """
    rows = slice(geometry.top, geometry.top + geometry.height)
    columns = slice(geometry.left, geometry.left + geometry.width)
    inner = probabilities[rows, columns]
    if inner.shape == geometry.source:
        return inner
    h, w = geometry.source
    return cast(Probabilities, cv2.resize(inner, (w, h), interpolation=cv2.INTER_LINEAR))


def to_mask(probabilities: Probabilities, threshold: float) -> BoolMask:
    """True where the probability is at least ``threshold``; both as float32, so that values written alike are equal."""
    return probabilities >= np.float32(threshold)


def encode_mask(probabilities: Probabilities, mask: BoolMask, form: MaskFormat) -> bytes:
    """Encodes a mask for the wire.

    Args:
        probabilities: [H, W]; only used by ``PROBABILITIES``.
        mask: [H, W].
        form: one of
            PNG: 8-bit grey, 255 foreground, 0 background;
            COCO_RLE: COCO's compressed counts, as pycocotools reads them with size [H, W];
            PACKED_BITS: ``numpy.packbits(mask, axis=1)``, each row padded to whole bytes;
            PROBABILITIES: float32 little-endian, row by row.

    Raises:
        InvalidInputError: the format cannot hold a mask of this size.
    """
    match form:
        case MaskFormat.PNG:
            if max(mask.shape) > _LONGEST_PNG_SIDE:
                raise InvalidInputError(
                    f"a mask as PNG has sides of at most {_LONGEST_PNG_SIDE} pixels: ask for another format, or for the"
                    f" mask at the model's size. Received: {mask.shape[0]} x {mask.shape[1]}"
                )
            # Level 1: on masks it is a few percent larger than the default and several times faster.
            _, png = cv2.imencode(".png", mask.view(np.uint8) * np.uint8(255), [cv2.IMWRITE_PNG_COMPRESSION, 1])
            return png.tobytes()
        case MaskFormat.COCO_RLE:
            run_lengths: dict[str, Any] = coco.encode(np.asfortranarray(mask.view(np.uint8)))
            return cast(bytes, run_lengths["counts"])
        case MaskFormat.PACKED_BITS:
            return np.packbits(mask, axis=1).tobytes()
        case MaskFormat.PROBABILITIES:
            return probabilities.astype("<f4", copy=False).tobytes()
