from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from training.datasets import mall
from training.datasets.source import DataError, DataUnavailable


def truth(counts: list[int], *, stated: list[int] | None = None) -> bytes:
    """A mall_gt.mat: as many heads as counted, at (10 n, n) for the n-th frame from 1."""
    frame = np.empty((1, len(counts)), dtype=object)
    for index, count in enumerate(counts):
        inner = np.empty((1, 1), dtype=[("loc", object)])
        inner["loc"][0, 0] = np.tile([10.0 * (index + 1), index + 1.0], (count, 1))
        frame[0, index] = inner
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"frame": frame, "count": np.array(stated or counts, np.uint8)[:, np.newaxis]})
    return buffer.getvalue()


def perspective(rows: int = 8) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"pMapN": np.tile(np.linspace(9, 1, rows)[:, np.newaxis], (1, 12))})
    return buffer.getvalue()


def picture(value: int, height: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, 12, 3), value, np.uint8)).save(buffer, format="JPEG")
    return buffer.getvalue()


def archive(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(f"mall_dataset/{name}", content)
    return path


def whole(**changes: bytes) -> dict[str, bytes]:
    members = {
        # in the order of text, not of number, and with a gap
        "frames/seq_10.jpg": picture(100),
        "frames/seq_2.jpg": picture(20),
        "frames/seq_000001.jpg": picture(10),
        "mall_gt.mat": truth([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        "perspective_roi.mat": perspective(),
        "readme.txt": b"",
    }
    return {**members, **changes}


def test_frames_come_in_the_order_of_their_numbers_with_their_heads(tmp_path: Path) -> None:
    data = mall.read_archive(archive(tmp_path / "mall.zip", whole()))
    assert data.numbers == (1, 2, 10)
    assert data.counts.tolist() == [1, 2, 10]
    np.testing.assert_array_equal(data.heads[2][0], [100.0, 10.0])
    assert [int(frame.mean().round(-1)) for frame in data.frames()] == [10, 20, 100]
    assert next(data.frames()).shape == (8, 12, 3)
    np.testing.assert_allclose(data.perspective, np.linspace(9, 1, 8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mall_gt.mat": truth([1, 2])}, r"expected a truth for frame 10\. Received: 2 truths"),
        ({"mall_gt.mat": truth([1] * 10, stated=[3] * 10)}, r"frame 1: expected 3 heads\. Received: 1"),
        ({"mall_gt.mat": b"no"}, "expected mall_dataset/mall_gt.mat to be a MATLAB file"),
        ({"mall_gt.mat": perspective()}, "expected the variables count, frame and pMapN"),
    ],
)
def test_what_is_broken_is_told(tmp_path: Path, changes: dict[str, bytes], message: str) -> None:
    with pytest.raises(DataError, match=message):
        mall.read_archive(archive(tmp_path / "mall.zip", {**whole(), **changes}))


def test_a_broken_frame_is_told_when_it_is_read(tmp_path: Path) -> None:
    broken = {"frames/seq_2.jpg": b"no picture"}
    data = mall.read_archive(archive(tmp_path / "mall.zip", {**whole(), **broken}))
    with pytest.raises(DataError, match=r"seq_2\.jpg: expected a whole picture"):
        list(data.frames())
    low = {"frames/seq_2.jpg": picture(20, height=6)}
    data = mall.read_archive(archive(tmp_path / "low.zip", {**whole(), **low}))
    with pytest.raises(DataError, match=r"seq_2\.jpg to have 8 rows\. Received: 6"):
        list(data.frames())


def test_no_zip_and_no_frames_are_told(tmp_path: Path) -> None:
    (tmp_path / "no.zip").write_bytes(b"no")
    with pytest.raises(DataError, match="expected a whole zip archive"):
        mall.read_archive(tmp_path / "no.zip")
    with pytest.raises(DataError, match=r"expected frames/seq_<number>\.jpg"):
        mall.read_archive(archive(tmp_path / "mall.zip", {"readme.txt": b""}))


def test_without_the_archive_the_message_says_where_it_belongs(no_data: Path) -> None:
    assert no_data
    with pytest.raises(DataUnavailable, match=r"mall/mall_dataset_first500\.zip in the folder that SPARSEWALK_DATA"):
        mall.load()


@pytest.mark.real_data
def test_real_frames_and_counts(real_data: Path) -> None:
    assert real_data
    data = mall.load()
    assert data.numbers == tuple(range(1, 501))
    assert data.counts.sum() == 13_904
    assert next(data.frames()).shape == (480, 640, 3)
