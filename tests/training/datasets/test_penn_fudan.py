import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.datasets import penn_fudan
from training.datasets.source import DataError


def _png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def _pack(path: Path, change: Callable[[dict[str, bytes]], object] = len) -> Path:
    """Pack an archive with Penn-Fudan's names and tiny pictures of our own."""
    picture, mask = np.full((6, 5, 3), 200, np.uint8), np.zeros((6, 5), np.uint8)
    mask[2:4, 2], mask[2:4, 3] = 1, 2
    members = {}
    for part in penn_fudan.split().values():
        for name in part:
            members[f"PennFudanPed/PNGImages/{name}.png"] = _png(picture)
            members[f"PennFudanPed/PedMasks/{name}_mask.png"] = _png(mask)
    members["PennFudanPed/readme.txt"] = b"ours"
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_the_split_is_by_index_of_the_sorted_names() -> None:
    split = penn_fudan.split()
    assert sorted(split) == ["test", "train"]
    names = sorted(split["train"] + split["test"])
    assert names == [f"FudanPed{i:05d}" for i in range(1, 75)] + [f"PennPed{i:05d}" for i in range(1, 97)]
    assert split["train"] == names[0::2]
    assert split["test"] == names[1::2]
    assert len(split["train"]) == len(split["test"]) == 85


@pytest.mark.real_data
@pytest.mark.usefixtures("real_data")
def test_the_real_archive() -> None:
    data = penn_fudan.load("real")
    assert (data.name, data.source) == ("penn_fudan", "real")
    assert [scene.name for scene in data.train] == penn_fudan.split()["train"]
    assert [scene.name for scene in data.test] == penn_fudan.split()["test"]
    scenes = data.train + data.test
    assert sum(int(scene.instances.max()) for scene in scenes) == 423
    for scene in scenes:
        assert scene.picture.dtype == np.uint8
        assert scene.picture.shape == (*scene.instances.shape, 3)
        assert set(np.unique(scene.instances)) == set(range(int(scene.instances.max()) + 1))


@pytest.mark.real_data
def test_the_real_archive_is_whole(real_data: Path) -> None:
    penn_fudan.check_archive(real_data / penn_fudan.ARCHIVE)


def test_a_mask_is_what_belongs_to_any_person(tmp_path: Path) -> None:
    scene = penn_fudan.read_archive(_pack(tmp_path / "p.zip")).test[0]
    assert scene.mask.dtype == np.bool_
    np.testing.assert_array_equal(scene.mask, scene.instances > 0)
    assert scene.mask.sum() == 4


def test_a_whole_archive_is_accepted_whoever_packed_it(tmp_path: Path) -> None:
    penn_fudan.check_archive(_pack(tmp_path / "p.zip"))


def test_an_archive_in_the_data_folder_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pack(tmp_path / "PennFudanPed.zip")
    monkeypatch.setenv("SPARSEWALK_DATA", str(tmp_path))
    assert penn_fudan.load("auto").source == "real"


def test_a_truncated_archive_is_an_error_even_under_auto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _pack(tmp_path / "PennFudanPed.zip")
    path.write_bytes(path.read_bytes()[:-1000])
    monkeypatch.setenv("SPARSEWALK_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"PennFudanPed.zip: expected a whole zip archive. Received: "):
        penn_fudan.load("auto")


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    path = _pack(tmp_path / "p.zip", lambda m: m.pop("PennFudanPed/PedMasks/PennPed00007_mask.png"))
    with pytest.raises(DataError, match=r"170 pictures and 170 masks. Received: 1 missing.*PennPed00007_mask.png"):
        penn_fudan.read_archive(path)


def test_a_picture_that_is_not_in_the_split_is_named(tmp_path: Path) -> None:
    path = _pack(tmp_path / "p.zip", lambda m: m.update({"PennFudanPed/PNGImages/Other.png": b""}))
    with pytest.raises(DataError, match=r"Received: besides them PennFudanPed/PNGImages/Other.png"):
        penn_fudan.check_archive(path)


@pytest.mark.parametrize("read", [penn_fudan.read_archive, penn_fudan.check_archive])
def test_a_wrong_crc_is_found(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = _pack(tmp_path / "p.zip")
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 12] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"p.zip: expected .*(CRC|whole)"):
        read(path)


def test_a_picture_that_is_none_is_named(tmp_path: Path) -> None:
    member = "PennFudanPed/PNGImages/PennPed00001.png"
    path = _pack(tmp_path / "p.zip", lambda m: m.update({member: b"no picture"}))
    with pytest.raises(DataError, match=rf"expected {member} to be a whole PNG picture. Received: "):
        penn_fudan.read_archive(path)


def test_a_mask_of_another_size_is_named(tmp_path: Path) -> None:
    wrong = {"PennFudanPed/PedMasks/PennPed00001_mask.png": _png(np.zeros((5, 6), np.uint8))}
    path = _pack(tmp_path / "p.zip", lambda m: m.update(wrong))
    with pytest.raises(DataError, match=r"the mask of PennPed00001 to be 6x5. Received: shape \(5, 6\)"):
        penn_fudan.read_archive(path)
