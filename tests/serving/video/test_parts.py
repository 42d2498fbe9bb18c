"""The parts that need no video: tiles, smoothing, planes, painting, measuring."""

import itertools
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from serving.video import painting, planes, tables
from serving.video.planes import Colours, Planes
from serving.video.reading import Frame
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


SIZE = (240, 320)
# What a video may be coded in: (matrix, range, primaries, transfer), see ``Colours``.
CODINGS = [Colours(), Colours(1, 1, 1, 1), Colours(6, 2, 6, 6), Colours(9, 1, 9, 14)]


def to_planes(picture: Array, colours: Colours) -> tuple[Any, Planes]:
    """A frame with the picture, and its planes, which may be painted on."""
    canvas = planes.blank(*picture.shape[:2])
    painted = Planes.of(canvas)
    painted.fill(planes.from_rgb(picture, colours))
    return canvas, painted


class TestPlanes:
    @pytest.mark.parametrize("colours", CODINGS)
    @pytest.mark.parametrize("size", [(48, 64), (47, 63)])
    def test_colours_come_back(self, colours: Colours, size: tuple[int, int]) -> None:
        picture = np.zeros((*size, 3), np.uint8)
        picture[:, :20], picture[:, 20:40], picture[:, 40:] = (230, 20, 50), (90, 90, 90), (30, 200, 90)
        canvas, painted = to_planes(picture, colours)
        assert (canvas.height, canvas.width) == (48, 64)
        assert (painted.y.shape, painted.v.shape) == ((48, 64), (24, 32))
        shown = planes.to_rgb(canvas, colours, *size)
        assert shown.shape == picture.shape
        for column in (4, 30, 60):
            np.testing.assert_allclose(shown[8, column].astype(int), picture[8, column], atol=3)

    def test_odd_sides_are_doubled(self) -> None:
        small = Planes(
            *(np.arange(9 * size, dtype=np.uint8).reshape(-1, 9)[:, : 5 if size == 3 else 3] for size in (3, 2, 2))
        )
        canvas = planes.blank(3, 5)
        filled = Planes.of(canvas)
        filled.fill(small)
        assert filled.y[:3, :5].tolist() == small.y.tolist()
        assert filled.y[3].tolist() == filled.y[2].tolist()
        assert filled.y[:, 5].tolist() == filled.y[:, 4].tolist()
        assert filled.u.tolist() == small.u.tolist()

    def test_a_single_pixel_counts_at_half_the_size(self) -> None:
        mask = np.zeros((6, 8), np.uint8)
        mask[3, 5] = 1
        half = planes.halved(mask)
        assert half.shape == (3, 4)
        assert np.argwhere(half).tolist() == [[1, 2]]
        assert half.max() == 255


@pytest.mark.parametrize("colours", CODINGS)
class TestPainting:
    picture = np.random.default_rng(2).integers(0, 256, (*SIZE, 3), np.uint8)
    mask = np.zeros(SIZE, bool)
    mask[80:160, 100:180] = True

    @pytest.mark.parametrize("how", ["blur", "pixelate", "fill"])
    def test_what_is_hidden_has_no_detail_left_and_the_rest_is_untouched(self, how: str, colours: Colours) -> None:
        _, before = to_planes(self.picture, colours)
        canvas, after = to_planes(self.picture, colours)
        painting.hide(after, self.mask, colours, how, 5)
        inside = after.y[75:165, 100:180].astype(int)
        assert np.abs(np.diff(inside, axis=1)).mean() < 4 < np.abs(np.diff(before.y.astype(int), axis=1)).mean() / 5
        grown = painting.grow(self.mask.view(np.uint8), 5)
        half = planes.halved(grown)
        for hidden, was, there in zip(
            (after.y, after.u, after.v), (before.y, before.u, before.v), (grown, half, half), strict=True
        ):
            np.testing.assert_array_equal(hidden[there == 0], was[there == 0])
            assert np.count_nonzero(hidden[there > 0] == was[there > 0]) < 0.2 * np.count_nonzero(there)
        if how == "fill":
            np.testing.assert_allclose(planes.to_rgb(canvas, colours, *SIZE)[78:162, 98:182].astype(int), 96, atol=2)

    def test_the_overlay_is_red_inside_and_the_picture_outside(self, colours: Colours) -> None:
        grey = np.full((*SIZE, 3), 120, np.uint8)
        canvas, painted = to_planes(grey, colours)
        painting.overlay(painted, self.mask, colours)
        shown = planes.to_rgb(canvas, colours, *SIZE)
        assert shown[120, 140].tolist() == pytest.approx([170, 75, 88], abs=3)
        assert shown[80, 140].tolist() == pytest.approx([255, 40, 70], abs=4)
        assert shown[120, 179].tolist() == pytest.approx([255, 40, 70], abs=4)
        np.testing.assert_allclose(shown[:78].astype(int), 120, atol=2)
        np.testing.assert_allclose(shown[:, 184:].astype(int), 120, atol=2)

    def test_black_and_white(self, colours: Colours) -> None:
        canvas, painted = to_planes(self.picture, colours)
        painting.black_and_white(painted, self.mask, colours)
        shown = planes.to_rgb(canvas, colours, *SIZE)
        wanted = np.repeat(self.mask[..., np.newaxis] * 255, 3, axis=2)
        np.testing.assert_allclose(shown.astype(int), wanted, atol=2)

    def test_no_people_no_paint(self, colours: Colours) -> None:
        nobody = np.zeros(SIZE, bool)
        _, before = to_planes(self.picture, colours)
        for paint in (
            partial(painting.overlay, colours=colours),
            partial(painting.hide, colours=colours, how="blur", margin=9),
        ):
            _, after = to_planes(self.picture, colours)
            paint(after, nobody)
            np.testing.assert_array_equal(after.y, before.y)
            np.testing.assert_array_equal(after.u, before.u)


class TestGrowing:
    def test_it_reaches_the_margin_and_no_further(self) -> None:
        mask = np.zeros(SIZE, np.uint8)
        mask[80:160, 100:180] = 1
        grown = painting.grow(mask, 7)
        assert grown[73, 140]
        assert not grown[72, 140]
        assert grown[mask > 0].all()
        assert painting.grow(mask, 0) is mask


def test_heat_without_people_is_the_scene() -> None:
    picture = np.random.default_rng(2).integers(0, 256, (*SIZE, 3), np.uint8)
    shown = painting.heat(np.zeros(SIZE, np.float32), picture)
    assert shown.shape == picture.shape
    assert (shown[..., 0] == shown[..., 1]).all()


class TestMeasuring:
    @given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.9), st.integers(1, 70), st.integers(1, 70))
    @settings(max_examples=60, deadline=None)
    def test_components_are_the_labelled_parts(self, seed: int, density: float, height: int, width: int) -> None:
        mask = np.random.default_rng(seed).random((height, width)) < density
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        wanted = sorted(
            (box[0].start, box[1].start, box[0].stop - box[0].start, box[1].stop - box[1].start, int(area))
            for box, area in zip(ndimage.find_objects(labels), np.bincount(labels.ravel())[1:], strict=True)
        )
        row = tables.measure(frame_of(mask), mask, 1)
        found = sorted((part.y, part.x, part.height, part.width, part.area) for part in row.components)
        assert found == wanted
        assert (row.count, row.foreground) == (count, pytest.approx(mask.mean()))

    def test_more_parts_than_16_bits_count(self) -> None:
        mask = np.zeros((520, 520), bool)
        mask[::2, ::2] = True
        row = tables.measure(frame_of(mask), mask, 1)
        assert row.count == 260 * 260 > 2**16
        assert {part.area for part in row.components} == {1}


def frame_of(mask: Array) -> Frame:
    return Frame(0, 0, 0.0, np.zeros((*mask.shape, 3), np.uint8))
