"""What is drawn on frames, on their planes: masks in red as the client draws them, and people made unrecognisable."""

from functools import lru_cache

import cv2
import numpy as np

from serving.imaging import BoolMask, Picture
from serving.video import planes
from serving.video.planes import Colours, Plane, Planes

# The client's colours (``serving/client/answers.py``).
_TINT = (230, 20, 50)
_TINT_STRENGTH = 0.45
_OUTLINE = (255, 40, 70)
_FILL = (96, 96, 96)
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)


def overlay(picture: Planes, mask: BoolMask, colours: Colours) -> None:
    """Draws the mask on the picture: tinted and outlined in red.

    Args:
        picture: is changed.
        mask: [H, W]; the picture may have a row or column more.
        colours: of the picture.
    """
    inside = planes.even(mask)
    if not cv2.countNonZero(inside):
        return
    edge = _outline(inside, max(1, round(min(mask.shape) / 300)))
    insides, edges = (inside, *2 * [planes.halved(inside)]), (edge, *2 * [planes.halved(edge)])
    tints, lines = _values(_TINT, colours), _values(_OUTLINE, colours)
    for plane, within, along, tint, line in zip(_each(picture), insides, edges, tints, lines, strict=True):
        cv2.copyTo(cv2.convertScaleAbs(plane, alpha=1 - _TINT_STRENGTH, beta=_TINT_STRENGTH * tint), within, plane)
        cv2.copyTo(np.full_like(within, line), along, plane)


def hide(picture: Planes, mask: BoolMask, colours: Colours, how: str, margin: int) -> None:
    """Makes what the mask covers unrecognisable; outside of the grown mask the picture stays.

    Args:
        picture: is changed.
        mask: [H, W]; the picture may have a row or column more.
        colours: of the picture.
        how: ``blur``, ``pixelate`` or ``fill``.
        margin: pixels by which the mask is grown first, in every direction.
    """
    inside = planes.even(mask)
    if not cv2.countNonZero(inside):
        return
    grown = grow(inside, margin)
    height, width = inside.shape
    # No detail finer than this survives; a face is a tenth of a person, and persons are smaller than frames.
    block = max(8, min(height, width) // 24)
    coarse = (max(1, width // block), max(1, height // block))
    back = cv2.INTER_NEAREST if how == "pixelate" else cv2.INTER_LINEAR
    small = planes.halved(grown)
    for plane, within, value in zip(_each(picture), (grown, small, small), _values(_FILL, colours), strict=True):
        if how == "fill":
            hidden = np.full_like(within, value)
        else:
            blocks = cv2.resize(plane, coarse, interpolation=cv2.INTER_AREA)
            hidden = cv2.resize(blocks, plane.shape[::-1], interpolation=back)
        cv2.copyTo(hidden, within, plane)


def black_and_white(picture: Planes, mask: BoolMask, colours: Colours) -> None:
    """Replaces the picture by the mask: white where it is set, black elsewhere.

    Args:
        picture: is changed.
        mask: [H, W]; the picture may have a row or column more.
        colours: of the picture.
    """
    black, grey, _ = _values(_BLACK, colours)
    white, _, _ = _values(_WHITE, colours)
    picture.y[:] = planes.even(mask) * np.uint8(white - black) + np.uint8(black)
    picture.u[:] = picture.v[:] = grey


def grow(mask: Plane, margin: int) -> Plane:
    """A mask of 0 and 1, and everything up to ``margin`` pixels around it."""
    if not margin:
        return mask
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1, 2 * margin + 1))
    grown: Plane = cv2.dilate(mask, disc)
    return grown


def _outline(mask: Plane, thickness: int) -> Plane:
    """The mask's edge, so many pixels wide, half of them inside (with an odd one); those are not 0."""
    within, around = (thickness + 1) // 2, thickness // 2
    square = cv2.getStructuringElement(cv2.MORPH_RECT, (3, 3))
    # What lies outside of the frame counts as inside here: no line along the frame's edge.
    core = cv2.erode(mask, square, iterations=within)
    edge: Plane = cv2.subtract(cv2.dilate(mask, square, iterations=around) if around else mask, core)
    return edge


def _each(picture: Planes) -> tuple[Plane, Plane, Plane]:
    return picture.y, picture.u, picture.v


@lru_cache(maxsize=64)
def _values(rgb: tuple[int, int, int], colours: Colours) -> tuple[int, int, int]:
    """An RGB colour in planes of such colours."""
    flat = planes.from_rgb(np.full((16, 16, 3), rgb, np.uint8), colours)
    return int(flat.y[0, 0]), int(flat.u[0, 0]), int(flat.v[0, 0])


def heat(share: np.ndarray[tuple[int, int], np.dtype[np.float32]], scene: Picture) -> Picture:
    """Where people were, over the scene in grey.

    Args:
        share: float32 [H, W], the share of frames in which a pixel was foreground, 0..1.
        scene: RGB [H, W, 3].

    Returns:
        RGB [H, W, 3]; from black over red to white-yellow as the share grows to its largest.
    """
    largest = float(share.max())
    # The root lifts paths walked once beside places where someone stood.
    levels = np.sqrt(share / largest) if largest else share
    colours = cv2.cvtColor(
        cv2.applyColorMap(np.rint(255 * levels).astype(np.uint8), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB
    )
    grey = cv2.cvtColor(cv2.cvtColor(scene, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    strength = np.clip(levels * 1.5, 0, 0.85)[..., np.newaxis]
    blended: Picture = np.rint(grey * 0.6 * (1 - strength) + colours * strength).astype(np.uint8)
    return blended


def jpeg(picture: Picture, longest: int) -> bytes:
    """A small JPEG of a picture, its longer side at most ``longest`` pixels."""
    height, width = picture.shape[:2]
    scale = min(1.0, longest / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
    return data.tobytes()


def png(picture: Picture) -> bytes:
    """A PNG of a picture, RGB [H, W, 3] or grey [H, W]."""
    shown = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".png", shown)
    return data.tobytes()
