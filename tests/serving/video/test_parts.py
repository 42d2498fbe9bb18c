"""The parts that need no video: tiles, smoothing, painting."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.video import painting
from serving.video.smoothing import Smoother
from serving.video.tiles import AUTO_SIDE, Tiling

Array = np.ndarray[Any, Any]


class TestTiles:
    @given(st.integers(1, 300), st.integers(1, 300), st.integers(10, 120))
    @settings(max_examples=60, deadline=None)
    def test_they_cover_the_frame_and_overlap(self, height: int, width: int, side: int) -> None:
        count = np.zeros((height, width), int)
        tiles = Tiling(side).cut(height, width)
        for tile in tiles:
            assert (tile.height, tile.width) == (min(side, height), min(side, width))
            tile.of(count)[:] += 1  # type: ignore[arg-type]
        assert count.min() >= 1
        lefts = sorted({tile.left for tile in tiles})
        assert all(second - first <= 0.75 * side + 1 for first, second in itertools.pairwise(lefts))

    def test_blending_what_agrees_changes_nothing(self) -> None:
        whole = np.random.default_rng(0).random((200, 333), np.float32)
        tiling = Tiling(64)
        parts = [tile.of(whole) for tile in tiling.cut(200, 333)]  # type: ignore[arg-type]
        blended = tiling.blend(parts, 200, 333)
        np.testing.assert_allclose(blended, whole, atol=1e-6)
        assert blended.max() <= 1

    def test_seams_are_blended(self) -> None:
        tiling = Tiling(100)
        tiles = tiling.cut(100, 175)
        assert [tile.left for tile in tiles] == [0, 75]
        blended = tiling.blend([np.zeros((100, 100), np.float32), np.ones((100, 100), np.float32)], 100, 175)[50]
        assert blended[70] == 0
        assert blended[105] == 1
        assert 0 < np.diff(blended).max() < 0.08

    def test_auto_leaves_small_frames_whole(self) -> None:
        assert len(Tiling.parse("auto").cut(AUTO_SIDE, 4 * AUTO_SIDE)) == 1
        assert len(Tiling.parse("auto").cut(2 * AUTO_SIDE, 2 * AUTO_SIDE)) == 9
        assert len(Tiling.parse("off").cut(5000, 5000)) == 1
        assert Tiling.parse("100").cut(100, 100)[0].height == 100


class TestSmoothing:
    def smooth(self, window: int, masks: list[Array]) -> list[Array]:
        smoother: Smoother[int] = Smoother(window)
        found = [pair for number, mask in enumerate(masks) for pair in smoother.add(number, mask)]
        found += list(smoother.end())
        assert [number for number, _ in found] == list(range(len(masks)))
        return [mask for _, mask in found]

    @pytest.mark.parametrize("window", [1, 3, 5, 9])
    @pytest.mark.parametrize("count", [1, 2, 7, 20])
    def test_it_is_the_median_of_a_centred_window(self, window: int, count: int) -> None:
        masks = list(np.random.default_rng(1).random((count, 4, 5)) < 0.5)
        for number, mask in enumerate(self.smooth(window, masks)):
            reach = min(window // 2, number, count - 1 - number)
            wanted = np.median(np.array(masks)[number - reach : number + reach + 1], axis=0) > 0.5
            np.testing.assert_array_equal(mask, wanted)

    def test_a_flash_of_one_frame_is_gone(self) -> None:
        masks = [np.zeros((2, 2), bool) for _ in range(7)]
        masks[3][:] = True
        assert not np.any(self.smooth(3, masks))


class TestPainting:
    picture = np.random.default_rng(2).integers(0, 256, (240, 320, 3), np.uint8)
    mask = np.zeros((240, 320), bool)
    mask[80:160, 100:180] = True

    @pytest.mark.parametrize("how", ["blur", "pixelate", "fill"])
    def test_what_is_hidden_has_no_detail_left_and_the_rest_is_untouched(self, how: str) -> None:
        hidden = painting.hide(self.picture, self.mask, how, 5)
        inside = hidden[75:165, 100:180].astype(int)
        assert np.abs(np.diff(inside, axis=1)).mean() < 6 < np.abs(np.diff(self.picture.astype(int), axis=1)).mean() / 5
        grown = painting.grow(self.mask, 5)
        np.testing.assert_array_equal(hidden[~grown], self.picture[~grown])

    def test_growing_reaches_the_margin_and_no_further(self) -> None:
        grown = painting.grow(self.mask, 7)
        assert grown[73, 140]
        assert not grown[72, 140]
        assert grown[self.mask].all()
        assert painting.grow(self.mask, 0) is self.mask

    def test_the_overlay_is_red_inside_and_the_picture_outside(self) -> None:
        grey = np.full((240, 320, 3), 120, np.uint8)
        painted = painting.overlay(grey, self.mask)
        assert painted[120, 140].tolist() == pytest.approx([170, 75, 88], abs=2)
        assert painted[80, 140].tolist() == [255, 40, 70]
        assert (painted[:70] == 120).all()
        assert (grey == 120).all()

    def test_no_people_no_paint(self) -> None:
        nobody = np.zeros((240, 320), bool)
        np.testing.assert_array_equal(painting.overlay(self.picture, nobody), self.picture)
        np.testing.assert_array_equal(painting.hide(self.picture, nobody, "blur", 9), self.picture)

    def test_heat_without_people_is_the_scene(self) -> None:
        shown = painting.heat(np.zeros((240, 320), np.float32), self.picture)
        assert shown.shape == self.picture.shape
        assert (shown[..., 0] == shown[..., 1]).all()
