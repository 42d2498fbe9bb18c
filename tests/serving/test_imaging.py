import io
import warnings
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from pycocotools import mask as coco

from serving import imaging
from serving.errors import InvalidInputError, InvalidPictureError
from serving.imaging import MaskFormat

LIMIT = 1_000_000


def _save(array: np.ndarray[Any, Any] | Image.Image, form: str, **options: Any) -> bytes:
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


@pytest.fixture
def picture() -> np.ndarray[Any, Any]:
    """A smooth picture, so that lossy formats come close."""
    y, x = np.mgrid[0:20, 0:30]
    return np.stack([x * 8, y * 12, 255 - x * 4], axis=-1).astype(np.uint8)


class TestDecode:
    @pytest.mark.parametrize("form", ["PNG", "BMP"])
    def test_lossless_formats_are_exact(self, picture: np.ndarray[Any, Any], form: str) -> None:
        np.testing.assert_array_equal(imaging.decode(_save(picture, form), LIMIT), picture)

    @pytest.mark.parametrize("form", ["JPEG", "WEBP"])
    def test_lossy_formats_come_close(self, picture: np.ndarray[Any, Any], form: str) -> None:
        decoded = imaging.decode(_save(picture, form, quality=95), LIMIT)
        assert decoded.shape == picture.shape
        assert np.abs(decoded.astype(int) - picture).mean() < 4

    def test_the_result_is_writable_and_contiguous(self, picture: np.ndarray[Any, Any]) -> None:
        decoded = imaging.decode(_save(picture, "PNG"), LIMIT)
        assert decoded.dtype == np.uint8
        assert decoded.flags.c_contiguous

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation_is_applied(self, picture: np.ndarray[Any, Any], orientation: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        upright = {
            1: picture,
            2: picture[:, ::-1],
            3: picture[::-1, ::-1],
            4: picture[::-1],
            5: picture.transpose(1, 0, 2),
            6: np.rot90(picture, -1),
            7: picture[::-1, ::-1].transpose(1, 0, 2),
            8: np.rot90(picture),
        }[orientation]
        np.testing.assert_array_equal(imaging.decode(_save(picture, "PNG", exif=exif), LIMIT), upright)

    def test_orientation_out_of_range_is_ignored(self, picture: np.ndarray[Any, Any]) -> None:
        exif = Image.Exif()
        exif[0x0112] = 99
        np.testing.assert_array_equal(imaging.decode(_save(picture, "PNG", exif=exif), LIMIT), picture)

    def test_broken_exif_is_ignored(self, picture: np.ndarray[Any, Any]) -> None:
        decoded = imaging.decode(_save(picture, "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff"), LIMIT)
        assert decoded.shape == picture.shape

    def test_grey_is_repeated(self) -> None:
        grey = np.arange(200, dtype=np.uint8).reshape(10, 20)
        np.testing.assert_array_equal(imaging.decode(_save(grey, "PNG"), LIMIT), np.dstack([grey] * 3))

    def test_sixteen_bit_grey_is_scaled_not_clipped(self) -> None:
        deep = np.array([[0, 128, 257, 32768, 65535]], dtype=np.uint16)
        decoded = imaging.decode(_save(deep, "PNG"), LIMIT)
        np.testing.assert_array_equal(decoded[0, :, 0], [0, 0, 1, 128, 255])

    def test_one_bit_is_black_and_white(self) -> None:
        bits = Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1")
        np.testing.assert_array_equal(imaging.decode(_save(bits, "PNG"), LIMIT)[0, :, 0], [0, 255])

    def test_a_palette_is_looked_up(self) -> None:
        image = Image.new("P", (2, 1))
        image.putpalette([10, 20, 30, 40, 50, 60])
        image.putpixel((1, 0), 1)
        np.testing.assert_array_equal(imaging.decode(_save(image, "PNG"), LIMIT), [[[10, 20, 30], [40, 50, 60]]])

    def test_a_transparent_palette_colour_is_white_paper(self) -> None:
        image = Image.new("P", (2, 1))
        image.putpalette([10, 20, 30, 40, 50, 60])
        image.putpixel((1, 0), 1)
        data = _save(image, "PNG", transparency=0)
        np.testing.assert_array_equal(imaging.decode(data, LIMIT), [[[255, 255, 255], [40, 50, 60]]])

    @pytest.mark.parametrize("form", ["PNG", "WEBP"])
    def test_alpha_lies_over_white(self, form: str) -> None:
        rgba = np.zeros((8, 8, 4), np.uint8)
        rgba[:, 4:] = [200, 100, 0, 255]
        decoded = imaging.decode(_save(rgba, form, lossless=True), LIMIT)
        np.testing.assert_array_equal(decoded[0, [0, 7]], [[255, 255, 255], [200, 100, 0]])

    def test_cmyk_becomes_rgb(self) -> None:
        image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
        red = imaging.decode(_save(image, "JPEG", quality=100), LIMIT)[8, 8]
        assert red[0] > 240
        assert red[1:].max() < 15

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", "Received: no bytes"),
            (
                b"hello, I am text",
                "a picture is JPEG, PNG, WebP or BMP. Received: 16 bytes that begin with b'hello, I'",
            ),
            (b"GIF89a" + bytes(50), "a picture is JPEG, PNG, WebP or BMP"),
            (b"%PDF-1.7", "a picture is JPEG, PNG, WebP or BMP"),
            (b"\x89PNG\r\n\x1a\n" + bytes(40), "the PNG picture is truncated or broken"),
            (b"BM" + b"\xff" * 60, "the BMP picture is truncated or broken"),
            (b"RIFF\x10\x00\x00\x00WEBPVP8 ", "the WEBP picture is truncated or broken"),
            (b"\xff\xd8\xff\xe0", "the JPEG picture is truncated or broken"),
        ],
    )
    def test_bytes_that_are_no_picture_are_refused(self, data: bytes, message: str) -> None:
        with pytest.raises(InvalidPictureError) as caught:
            imaging.decode(data, LIMIT)
        assert message in str(caught.value)

    @pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP"])
    @pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
    def test_a_truncated_picture_is_refused(self, form: str, kept: float) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
        data = _save(noise, form)
        with pytest.raises(InvalidPictureError, match=f"the {form} picture is truncated or broken"):
            imaging.decode(data[: int(len(data) * kept)], LIMIT)

    @settings(deadline=None)
    @given(st.sampled_from(["JPEG", "PNG", "WEBP", "BMP"]), st.data())
    def test_damaged_bytes_give_a_picture_or_our_error(self, form: str, draw: st.DataObject) -> None:
        data = bytearray(_save(np.full((12, 12, 3), 90, np.uint8), form))
        for _ in range(draw.draw(st.integers(1, 8))):
            data[draw.draw(st.integers(12, len(data) - 1))] = draw.draw(st.integers(0, 255))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                decoded = imaging.decode(bytes(data), LIMIT)
            except InvalidPictureError:
                return
        assert decoded.ndim == 3

    @pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP"])
    def test_too_many_pixels_are_refused(self, form: str) -> None:
        data = _save(np.zeros((100, 101, 3), np.uint8), form)
        with pytest.raises(InvalidPictureError, match=r"at most 10000 pixels\. Received: 101 x 100 = 10100"):
            imaging.decode(data, 10_000)
        assert imaging.decode(data, 10_100).shape == (100, 101, 3)

    def test_the_pixel_limit_is_checked_before_decoding(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = _save(np.zeros((200, 200, 3), np.uint8), "PNG")
        monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
        with pytest.raises(InvalidPictureError, match="at most 100 pixels"):
            imaging.decode(data, 100)

    def test_a_bomb_with_a_huge_header_is_refused(self) -> None:
        # 60000 x 60000 in the header, and next to nothing behind it.
        data = bytearray(_save(np.zeros((1, 1, 3), np.uint8), "BMP"))
        data[18:26] = np.array([60000, 60000], "<i4").tobytes()
        with pytest.raises(InvalidPictureError, match="60000 x 60000 = 3600000000"):
            imaging.decode(bytes(data), LIMIT)

    def test_a_webp_beyond_pillows_own_limit_is_refused_like_any_other(self) -> None:
        # 16384 x 16384 in the header of a lossless WebP, fourteen bits each.
        data = bytearray(_save(np.zeros((1, 1, 3), np.uint8), "WEBP", lossless=True))
        assert data[12:16] == b"VP8L"
        data[21:25] = (2**28 - 1).to_bytes(4, "little")
        with pytest.raises(InvalidPictureError, match=r"at most 1000000 pixels\. Received: .*268435456 pixels"):
            imaging.decode(bytes(data), LIMIT)


class TestResize:
    def test_the_same_size_is_not_resampled(self) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
        for rule in ("letterbox", "stretch"):
            resized, _ = imaging.resize(noise, rule, 32, 64, 127)
            np.testing.assert_array_equal(resized, noise)

    def test_letterbox_centres_and_pads(self) -> None:
        white = np.full((10, 10, 3), 255, np.uint8)
        resized, geometry = imaging.resize(white, "letterbox", 20, 41, 7)
        # 20 x 20 in 20 x 41: of the 21 columns of padding the smaller half is at the left.
        assert (geometry.top, geometry.left, geometry.height, geometry.width) == (0, 10, 20, 20)
        assert (resized[:, :10] == 7).all()
        assert (resized[:, 10:30] == 255).all()
        assert (resized[:, 30:] == 7).all()

    def test_letterbox_keeps_at_least_one_pixel(self) -> None:
        _, geometry = imaging.resize(np.zeros((1, 1000, 3), np.uint8), "letterbox", 32, 32, 0)
        assert (geometry.height, geometry.width) == (1, 32)

    def test_shrinking_averages_and_growing_interpolates(self) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        for size, how in ((32, cv2.INTER_AREA), (96, cv2.INTER_LINEAR)):
            resized, _ = imaging.resize(noise, "stretch", size, size, 0)
            np.testing.assert_array_equal(resized, cv2.resize(noise, (size, size), interpolation=how))

    def test_stretching_that_grows_one_side_interpolates(self) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (64, 16), dtype=np.uint8)
        resized, _ = imaging.resize(noise, "stretch", 32, 32, 0)
        np.testing.assert_array_equal(resized, cv2.resize(noise, (32, 32), interpolation=cv2.INTER_LINEAR))

    def test_an_unknown_rule_is_named(self) -> None:
        with pytest.raises(ValueError, match="not 'crop'"):
            imaging.resize(np.zeros((4, 4, 3), np.uint8), "crop", 2, 2, 0)

    @settings(deadline=None)
    @given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([(32, 32), (32, 96), (96, 32)]))
    def test_a_picture_always_comes_back_at_its_own_size(self, h: int, w: int, size: tuple[int, int]) -> None:
        resized, geometry = imaging.resize(np.full((h, w), 200, np.uint8), "letterbox", *size, 0)
        assert resized.shape == size
        assert geometry.top + geometry.height <= size[0]
        assert geometry.left + geometry.width <= size[1]
        restored = imaging.restore(resized.astype(np.float32), geometry)
        assert restored.shape == (h, w)
        # The padding is cropped before resizing, so none of it bleeds in.
        np.testing.assert_allclose(restored, 200, atol=1e-3)


class TestMask:
    def test_a_pixel_at_the_threshold_is_foreground(self) -> None:
        probabilities = np.array([[0.1, 0.3, 0.7]], np.float32)
        np.testing.assert_array_equal(imaging.to_mask(probabilities, 0.3), [[False, True, True]])

    @settings(deadline=None)
    @given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1))
    def test_every_format_decodes_to_the_mask(self, height: int, width: int, seed: int) -> None:
        probabilities = np.random.default_rng(seed).random((height, width), dtype=np.float32)
        mask = probabilities >= 0.5
        form = {each: imaging.encode_mask(probabilities, mask, each) for each in MaskFormat}

        png = np.asarray(Image.open(io.BytesIO(form[MaskFormat.PNG])))
        np.testing.assert_array_equal(png, mask * 255)
        run_lengths: Any = {"size": [height, width], "counts": form[MaskFormat.COCO_RLE]}
        np.testing.assert_array_equal(coco.decode(run_lengths), mask)
        bits = np.frombuffer(form[MaskFormat.PACKED_BITS], np.uint8).reshape(height, -1)
        np.testing.assert_array_equal(np.unpackbits(bits, axis=1, count=width), mask)
        floats = np.frombuffer(form[MaskFormat.PROBABILITIES], "<f4").reshape(height, width)
        np.testing.assert_array_equal(floats, probabilities)

    def test_a_side_that_png_does_not_hold_is_refused_and_other_formats_hold_it(self) -> None:
        mask = np.ones((1, 1_000_001), np.bool_)
        probabilities = np.ones(mask.shape, np.float32)
        with pytest.raises(InvalidInputError, match=r"sides of at most 1000000 pixels.*Received: 1 x 1000001"):
            imaging.encode_mask(probabilities, mask, MaskFormat.PNG)
        assert len(imaging.encode_mask(probabilities, mask, MaskFormat.PACKED_BITS)) == 125_001
        longest = imaging.encode_mask(probabilities[:, 1:], mask[:, 1:], MaskFormat.PNG)
        assert Image.open(io.BytesIO(longest)).size == (1_000_000, 1)

    def test_grey_follows_luminance(self) -> None:
        grey = imaging.to_grey(np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]], np.uint8))
        np.testing.assert_array_equal(grey, [[76, 150, 29, 9]])
