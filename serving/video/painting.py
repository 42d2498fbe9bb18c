"""What is drawn on frames: masks in red as the client draws them, and people made unrecognisable."""

import cv2
import numpy as np

from serving.imaging import BoolMask, Picture

# The client's colours (``serving/client/answers.py``), by OpenCV: ten times as fast, and a film has many frames.
_TINT = (230, 20, 50)
_TINT_STRENGTH = 0.45
# Value and channel -> tinted value, [256, 1, 3].
_TINTED = np.rint(
    (1 - _TINT_STRENGTH) * np.arange(256)[:, np.newaxis, np.newaxis] + _TINT_STRENGTH * np.array(_TINT)
).astype(np.uint8)
_OUTLINE = (255, 40, 70)
_FILL = (96, 96, 96)


def overlay(picture: Picture, mask: BoolMask) -> Picture:
    """The picture with the mask on it: tinted and outlined in red.

    Args:
        picture: RGB [H, W, 3].
        mask: [H, W].

    Returns:
        RGB [H, W, 3], a new array.
    """
    painted = picture.copy()
    if not mask.any():
        return painted
    top, bottom, left, right = bounds(mask)
    part, inside = painted[top:bottom, left:right], mask[top:bottom, left:right].view(np.uint8)
    cv2.copyTo(cv2.LUT(part, _TINTED), inside, part)
    thickness = max(1, round(min(mask.shape) / 300))
    contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(painted, contours, -1, _OUTLINE, thickness)
    return painted


def hide(picture: Picture, mask: BoolMask, how: str, margin: int) -> Picture:
    """The picture with what the mask covers made unrecognisable.

    Args:
        picture: RGB [H, W, 3].
        mask: [H, W].
        how: ``blur``, ``pixelate`` or ``fill``.
        margin: pixels by which the mask is grown first, in every direction.

    Returns:
        RGB [H, W, 3], a new array; outside of the grown mask it is the picture.
    """
    hidden = picture.copy()
    if not mask.any():
        return hidden
    grown = grow(mask, margin)
    if how == "fill":
        hidden[grown] = _FILL
        return hidden
    height, width = mask.shape
    # No detail finer than this survives; a face is a tenth of a person, and persons are smaller than frames.
    block = max(8, min(height, width) // 24)
    small = cv2.resize(picture, (max(1, width // block), max(1, height // block)), interpolation=cv2.INTER_AREA)
    back = cv2.INTER_NEAREST if how == "pixelate" else cv2.INTER_LINEAR
    coarse = cv2.resize(small, (width, height), interpolation=back)
    cv2.copyTo(coarse, grown.view(np.uint8), hidden)
    return hidden


def grow(mask: BoolMask, margin: int) -> BoolMask:
    """The mask and everything up to ``margin`` pixels around it."""
    if not margin:
        return mask
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1, 2 * margin + 1))
    grown: BoolMask = cv2.dilate(mask.view(np.uint8), disc).astype(np.bool_)
    return grown


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


def bounds(mask: BoolMask) -> tuple[int, int, int, int]:
    """The smallest rectangle that holds a mask that is not empty: top, bottom, left, right, the ends excluded."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
