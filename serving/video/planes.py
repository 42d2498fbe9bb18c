"""Pictures as films keep them: a plane of brightness and, at half its size, two of colour (YUV 4:2:0, 8 bits).

Most videos are coded like that, and their films take the decoder's planes as they are: nothing is lost on the way, and
nothing is computed twice. Other pictures (folders, turned or resized videos, more bits) come from RGB. What the numbers
of a video mean (``Colours``) is written into its films, so that players show the colours of the source.
"""

from dataclasses import dataclass
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt

from serving.imaging import BoolMask, Picture

Plane = npt.NDArray[np.uint8]

PIXEL_FORMAT = "yuv420p"
# The second is FFmpeg's older name for the full range.
_SAME_PLANES = frozenset({PIXEL_FORMAT, "yuvj420p"})
_UNSPECIFIED, _FULL_RANGE = 2, 2
# Those that FFmpeg converts from and to RGB: BT.709, FCC, BT.601 (two), SMPTE 240M, BT.2020; and unspecified.
_MATRICES = frozenset({1, _UNSPECIFIED, 4, 5, 6, 7, 9})


@dataclass(frozen=True, slots=True)
class Colours:
    """What a video's planes mean, in the numbers that H.264 and FFmpeg give them.

    Attributes:
        matrix: from RGB; unspecified is taken as BT.601, as FFmpeg does.
        range: 2 = 0..255; otherwise video's 16..235.
        primaries, transfer: passed on.
    """

    matrix: int = _UNSPECIFIED
    range: int = 0
    primaries: int = _UNSPECIFIED
    transfer: int = _UNSPECIFIED

    @classmethod
    def of(cls, decoded: Any) -> "Colours":
        """Those of the films of a video with such a frame."""
        if decoded.format.is_rgb or int(decoded.colorspace) not in _MATRICES:
            return cls()
        full = decoded.format.name.startswith("yuvj")
        span = _FULL_RANGE if full else int(decoded.color_range)
        return cls(int(decoded.colorspace), span, int(decoded.color_primaries), int(decoded.color_trc))


@dataclass(frozen=True, slots=True)
class Planes:
    """A picture of even height and width.

    Attributes:
        y: brightness, uint8 [H, W].
        u, v: colour, uint8 [H / 2, W / 2]; 128 is grey.
    """

    y: Plane
    u: Plane
    v: Plane

    @classmethod
    def of(cls, frame: Any) -> "Planes":
        """The planes of a ``VideoFrame``, without copying."""
        return cls(
            *(
                np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
                for plane in frame.planes
            )
        )

    def fill(self, other: "Planes") -> None:
        """Copies another picture, as large or an odd row or column smaller; that is then doubled."""
        for mine, given in zip((self.y, self.u, self.v), (other.y, other.u, other.v), strict=True):
            height, width = given.shape
            mine[:height, :width] = given
            mine[height:, :width] = given[-1]
            mine[:, width:] = mine[:, width - 1 : width]


def blank(height: int, width: int) -> Any:
    """A new ``VideoFrame`` for the planes of pictures of a size, its sides rounded up to even ones."""
    return av.VideoFrame(width + width % 2, height + height % 2, PIXEL_FORMAT)


def native(decoded: Any, colours: Colours, height: int, width: int) -> bool:
    """Whether a decoded frame has the planes of films of that size (of the frames) and those colours already."""
    return (
        decoded.format.name in _SAME_PLANES
        and (decoded.height, decoded.width) == (height, width)
        and round(decoded.rotation / 90) % 4 == 0
        and Colours.of(decoded) == colours
    )


def from_rgb(picture: Picture, colours: Colours) -> Planes:
    """The planes of an RGB picture [H, W, 3]; of odd sides the last row or column is doubled."""
    height, width = picture.shape[:2]
    if height % 2 or width % 2:
        picture = np.pad(picture, [(0, height % 2), (0, width % 2), (0, 0)], mode="edge")
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    return Planes.of(
        frame.reformat(
            format=PIXEL_FORMAT, dst_colorspace=colours.matrix, dst_color_range=colours.range or None, threads=1
        )
    )


def to_rgb(frame: Any, colours: Colours, height: int, width: int) -> Picture:
    """The RGB picture [height, width, 3] of a ``VideoFrame``, which may have a row or column more."""
    frame.colorspace, frame.color_range = colours.matrix, colours.range
    rgb: Picture = frame.to_ndarray(format="rgb24")[:height, :width]
    return np.ascontiguousarray(rgb)


def even(mask: BoolMask) -> Plane:
    """A mask [H, W] as 0 and 1, for planes: of odd sides the last row or column is doubled."""
    height, width = mask.shape
    if height % 2 or width % 2:
        mask = np.pad(mask, [(0, height % 2), (0, width % 2)], mode="edge")
    return mask.view(np.uint8)


def halved(mask: Plane) -> Plane:
    """A mask at the size of the colour planes: 255 where any of its four pixels is not 0, otherwise 0."""
    height, width = mask.shape
    # Of 255 even a single one is left in the mean of four.
    means = cv2.resize(cv2.compare(mask, 0, cv2.CMP_GT), (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    half: Plane = cv2.compare(means, 0, cv2.CMP_GT)
    return half
