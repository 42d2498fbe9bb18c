"""Moving pictures: animated GIF with Pillow, H.264 in MP4 with PyAV."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.files import written_whole

Frame = NDArray[np.uint8]


def write_gif(frames: Sequence[Frame], path: Path, rate: float) -> None:
    """Writes ``path`` as an endless animated GIF.

    Args:
        frames: uint8 [H, W, 3] each, RGB, of one size; at least one.
        path: ends in .gif.
        rate: frames a second, > 0; GIF counts in hundredths of a second.
    """
    # one palette for all: a palette of its own makes each frame shimmer
    palette = Image.fromarray(np.vstack(frames[:: max(1, len(frames) // 8)])).quantize(256)
    first, *others = (Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    with written_whole(path) as temporary:
        first.save(
            temporary, format="GIF", save_all=True, append_images=others, duration=round(1000 / rate), loop=0,
            optimize=False,
        )  # fmt: skip


def write_video(frames: Iterable[Frame], path: Path, rate: float) -> None:
    """Writes ``path`` as MP4 with H.264, 4:2:0, readable by browsers.

    Args:
        frames: uint8 [H, W, 3] each, RGB, of one size with even sides; used one by one.
        path: ends in .mp4.
        rate: frames a second, > 0.

    Raises:
        ValueError: no frame, or an odd side, which 4:2:0 cannot hold.
    """
    remaining = iter(frames)
    first = next(remaining, None)
    if first is None:
        raise ValueError(f"{path}: expected at least one frame. Received: none")
    height, width = first.shape[:2]
    if height % 2 or width % 2:
        raise ValueError(f"{path}: expected frames of even height and width. Received: {height}x{width}")
    # faststart puts the index first, so that a browser may begin before the end is there
    options = {"movflags": "faststart"}
    with written_whole(path) as temporary, av.open(str(temporary), "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in itertools.chain([first], remaining):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
