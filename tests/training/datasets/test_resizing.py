import numpy as np
import pytest

from training.datasets.resizing import Geometry, place, resize, resize_mask, restore


def _picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("size", "inner", "corner"),
    [
        ((100, 200), (48, 96), (24, 0)),
        ((200, 100), (96, 48), (0, 24)),
        ((96, 96), (96, 96), (0, 0)),
        ((100, 195), (49, 96), (23, 0)),  # 47 rows of padding: 23 above, 24 below
        ((1, 1000), (1, 96), (47, 0)),  # no side vanishes
        ((10, 20), (48, 96), (24, 0)),  # enlarged
    ],
)
def test_letterbox_geometry(size: tuple[int, int], inner: tuple[int, int], corner: tuple[int, int]) -> None:
    assert place(*size, "letterbox", 96, 96) == Geometry(*size, 96, 96, *corner, *inner)


def test_letterbox_pads_around_the_picture() -> None:
    result, _ = resize(np.full((100, 200, 3), 9, np.uint8), "letterbox", 96, 96)
    assert result.shape == (96, 96, 3)
    assert result.dtype == np.uint8
    assert (result[:24] == 127).all()
    assert (result[24:72] == 9).all()
    assert (result[72:] == 127).all()


def test_stretch_fills() -> None:
    result, geometry = resize(np.full((100, 200, 3), 9, np.uint8), "stretch", 96, 64, pad_value=0)
    assert (result == 9).all()
    assert geometry == Geometry(100, 200, 96, 64, 0, 0, 96, 64)


def test_grey_pictures_are_resized_too() -> None:
    assert resize(_picture(50, 70)[..., 0], "letterbox", 32, 32)[0].shape == (32, 32)


def test_shrinking_averages() -> None:
    board = np.indices((64, 64)).sum(axis=0).astype(np.uint8) % 2 * 200
    assert np.ptp(resize(board, "letterbox", 32, 32)[0]) == 0


def test_the_right_size_is_left_alone() -> None:
    picture = _picture(96, 80)
    assert resize(picture, "letterbox", 96, 80)[0] is picture


@pytest.mark.parametrize("rule", ["letterbox", "stretch"])
@pytest.mark.parametrize("size", [(40, 90), (90, 40), (300, 500), (64, 64)])
def test_restore_undoes_resize(rule: str, size: tuple[int, int]) -> None:
    rows, columns = np.indices(size, dtype=np.float32)
    smooth = (255 * (rows / size[0] + columns / size[1]) / 2).astype(np.uint8)
    resized, geometry = resize(smooth, rule, 64, 64)  # type: ignore[arg-type]
    restored = restore(resized.astype(np.float32) / 255, geometry)
    assert restored.shape == size
    assert restored.dtype == np.float32
    assert np.abs(restored - smooth / np.float32(255)).max() < 0.03


def test_restore_refuses_a_map_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"must be 64x64. Received: shape \(32, 64\)"):
        restore(np.zeros((32, 64), np.float32), place(10, 10, "stretch", 64, 64))


def test_a_mask_follows_its_picture() -> None:
    mask = np.zeros((200, 300), bool)
    mask[60:140, 90:200] = True
    picture = mask.astype(np.uint8) * np.uint8(255)
    resized = resize_mask(mask, "letterbox", 75, 75)
    assert resized.dtype == np.bool_
    np.testing.assert_array_equal(resized, resize(picture, "letterbox", 75, 75, pad_value=0)[0] > 127)


def test_instance_numbers_stay_whole() -> None:
    instances = np.zeros((100, 100), np.uint8)
    instances[:, 50:] = 7
    assert set(np.unique(resize_mask(instances, "letterbox", 33, 47))) == {0, 7}


def test_unknown_rule() -> None:
    with pytest.raises(ValueError, match=r"letterbox, stretch. Received: 'crop'"):
        resize(_picture(8, 8), "crop", 4, 4)  # type: ignore[arg-type]


def test_no_side_may_be_zero() -> None:
    with pytest.raises(ValueError, match=r"at least 1. Received: 8x8 to 0x4"):
        resize(_picture(8, 8), "stretch", 0, 4)
