"""Training and service read a picture's file in the same way, to the last bit.

They share no code, so that neither imports the other; this test is what keeps them equal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving import imaging
from training.datasets import decoding

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (13, 17, 4), np.uint8)
CLEAR = tuple(COLOURS[0, 0, :3].tolist())
PALETTE = Image.fromarray(COLOURS[..., :3]).quantize(16)
BROKEN_NOTES = b"Exif\x00\x00II*\x00\xff\xff"


def turned(orientation: int) -> dict[str, Any]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


FILES: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
    "rgb": (Image.fromarray(COLOURS[..., :3]), "png", {}),
    "grey": (Image.fromarray(COLOURS[..., 0]), "bmp", {}),
    "one bit": (Image.fromarray(COLOURS[..., 0] > 127), "png", {}),
    "16 bits": (Image.fromarray(RNG.integers(0, 65536, (13, 17), np.uint16)), "png", {}),
    "transparent": (Image.fromarray(COLOURS), "png", {}),
    "transparent webp": (Image.fromarray(COLOURS), "webp", {"lossless": True}),
    "transparent grey": (Image.fromarray(COLOURS).convert("LA"), "png", {}),
    "palette": (PALETTE, "png", {}),
    "palette with a transparent colour": (PALETTE, "png", {"transparency": 3}),
    "a transparent colour": (Image.fromarray(COLOURS[..., :3]), "png", {"transparency": CLEAR}),
    "jpeg": (Image.fromarray(COLOURS[..., :3]), "jpg", {}),
    "grey jpeg": (Image.fromarray(COLOURS[..., 0]), "jpg", {}),
    "cmyk": (Image.frombytes("CMYK", (17, 13), COLOURS.tobytes()), "jpg", {}),
    "broken notes": (Image.fromarray(COLOURS[..., :3]), "jpg", {"exif": BROKEN_NOTES}),
    **{f"orientation {turn}": (Image.fromarray(COLOURS[..., :3]), "png", turned(turn)) for turn in (*range(1, 9), 99)},
}


@pytest.mark.parametrize("name", FILES)
def test_both_sides_read_a_file_alike(tmp_path: Path, name: str) -> None:
    image, ending, options = FILES[name]
    file = tmp_path / f"picture.{ending}"
    image.save(file, **options)
    served = imaging.decode(file.read_bytes(), max_pixels=1_000)
    np.testing.assert_array_equal(decoding.read_rgb(file), served)
    np.testing.assert_array_equal(decoding.read_grey(file), imaging.to_grey(served))
