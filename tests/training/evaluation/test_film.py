from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from training.evaluation.film import write_gif, write_video


def frames(height: int = 32, width: int = 48) -> list[np.ndarray]:
    """Five frames, from dark to bright red."""
    return [
        np.dstack([np.full((height, width), 50 * n), *[np.zeros((height, width))] * 2]).astype(np.uint8)
        for n in range(5)
    ]


def test_gif_has_the_frames_and_their_time(tmp_path: Path) -> None:
    write_gif(frames(), tmp_path / "film.gif", rate=8)
    with Image.open(tmp_path / "film.gif") as film:
        assert (film.n_frames, film.size, film.info["duration"], film.info["loop"]) == (5, (48, 32), 120, 0)
        for index, expected in enumerate(frames()):
            film.seek(index)
            np.testing.assert_allclose(np.asarray(film.convert("RGB")), expected, atol=8)


def test_video_can_be_read_again(tmp_path: Path) -> None:
    write_video(iter(frames()), tmp_path / "film.mp4", rate=8)
    with av.open(str(tmp_path / "film.mp4")) as film:
        stream = film.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height, float(stream.average_rate)) == (
            "h264",
            48,
            32,
            8,
        )
        read = [frame.to_ndarray(format="rgb24") for frame in film.decode(stream)]
    assert len(read) == 5
    for got, expected in zip(read, frames(), strict=True):
        assert np.abs(got.astype(int) - expected).mean() < 6


def test_video_refuses_odd_sides_and_no_frames_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"even height and width\. Received: 31x48"):
        write_video(frames(31), tmp_path / "film.mp4", rate=8)
    with pytest.raises(ValueError, match="at least one frame"):
        write_video([], tmp_path / "film.mp4", rate=8)
    assert list(tmp_path.iterdir()) == []
