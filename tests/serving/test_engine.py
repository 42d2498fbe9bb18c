import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving.backend import CPU, Runtime
from serving.call import Call
from serving.engine import Engine
from serving.errors import CancelledError, DeadlineError, InvalidInputError, InvalidPictureError, NotFoundError
from serving.imaging import MaskFormat
from serving.metrics import Metrics
from serving.model_settings import Limits
from serving.repository import ModelRepository

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def engine(models: Path) -> Iterator[Engine]:
    metrics = Metrics(version="0", runtime_version="0")
    repository = ModelRepository(models, Runtime(CPU, 1, required=True), Limits(8, 8), metrics)
    repository.load()
    yield Engine(repository, max_pixels=10_000, picture_slots=2)
    repository.close()


def half_red(height: int = 32, width: int = 64) -> Array:
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:, : width // 2, 0] = 204
    return picture


def png(picture: Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def unpack(data: bytes, height: int, width: int) -> Array:
    return np.unpackbits(np.frombuffer(data, np.uint8).reshape(height, -1), axis=1, count=width).astype(bool)


class TestSegment:
    @pytest.mark.parametrize("encoded", [False, True])
    def test_the_mask_is_where_the_model_says(self, engine: Engine, encoded: bool) -> None:
        picture = half_red()
        answer = engine.segment(
            "red", None, png(picture) if encoded else picture, threshold=0.5, form=MaskFormat.PACKED_BITS
        )
        np.testing.assert_array_equal(unpack(answer.mask, 32, 64), picture[:, :, 0] > 0)
        assert (answer.model, answer.version, answer.height, answer.width) == ("red", 2, 32, 64)
        assert answer.foreground_fraction == 0.5

    @pytest.mark.parametrize(("threshold", "fraction"), [(0.0, 1.0), (0.8, 0.5), (0.81, 0.0), (1.0, 0.0)])
    def test_the_threshold_counts(self, engine: Engine, threshold: float, fraction: float) -> None:
        assert engine.segment("red", None, half_red(), threshold=threshold).foreground_fraction == fraction

    def test_the_manifests_threshold_is_the_default(self, engine: Engine) -> None:
        assert engine.segment("red", 1, half_red()).threshold == 0.5
        assert engine.segment("red", 2, half_red()).threshold == 0.25

    def test_the_mask_has_the_pictures_own_size(self, engine: Engine) -> None:
        answer = engine.segment("red", None, half_red(90, 50), form=MaskFormat.PACKED_BITS)
        mask = unpack(answer.mask, 90, 50)
        assert mask[:, :22].all()
        assert not mask[:, 28:].any()

    def test_or_the_models_size_with_the_padding(self, engine: Engine) -> None:
        answer = engine.segment(
            "red", None, half_red(10, 10), form=MaskFormat.PROBABILITIES, at_model_size=True, threshold=0.5
        )
        probabilities = np.frombuffer(answer.mask, "<f4").reshape(32, 64)
        assert (answer.height, answer.width) == (32, 64)
        np.testing.assert_allclose(probabilities[:, :16], 127 / 255, rtol=1e-6)
        np.testing.assert_allclose(probabilities[:, 16:30], 204 / 255, rtol=1e-6)

    def test_timings_add_up(self, engine: Engine) -> None:
        timings = engine.segment("red", None, png(half_red())).timings
        parts = timings.decode + timings.queue + timings.inference + timings.postprocess
        assert 0 < parts <= timings.total < 5

    @pytest.mark.parametrize("threshold", [-0.01, 1.01, float("nan"), float("inf")])
    def test_a_threshold_outside_is_refused(self, engine: Engine, threshold: float) -> None:
        with pytest.raises(InvalidInputError, match=rf"threshold lies in \[0, 1\]\. Received: {threshold}"):
            engine.segment("red", None, half_red(), threshold=threshold)

    @pytest.mark.parametrize(
        "picture",
        [
            np.zeros((4, 4), np.uint8),
            np.zeros((4, 4, 4), np.uint8),
            np.zeros((1, 4, 4, 3), np.uint8),
            np.zeros((4, 4, 3), np.float32),
        ],
    )
    def test_values_that_are_no_picture_are_refused(self, engine: Engine, picture: Array) -> None:
        with pytest.raises(InvalidInputError, match=r"a picture is uint8 \[height, width, 3\]\. Received: "):
            engine.segment("red", None, picture)

    def test_the_pixel_limit_holds_for_values_too(self, engine: Engine) -> None:
        with pytest.raises(InvalidInputError, match=r"at most 10000 pixels\. Received: 100 x 101"):
            engine.segment("red", None, np.zeros((100, 101, 3), np.uint8))
        with pytest.raises(InvalidPictureError, match="at most 10000 pixels"):
            engine.segment("red", None, png(np.zeros((100, 101, 3), np.uint8)))

    def test_a_model_without_masks_says_what_it_has(self, engine: Engine) -> None:
        with pytest.raises(InvalidInputError, match="digits has no output 'mask'; it has encoding, reconstruction"):
            engine.segment("digits", None, half_red())

    def test_an_empty_picture_is_refused(self, engine: Engine) -> None:
        with pytest.raises(InvalidInputError, match="holds no picture"):
            engine.segment("red", None, b"")


class TestEncode:
    @pytest.mark.parametrize("shape", [(784,), (1, 784), (3, 784)])
    def test_rows_with_or_without_the_batch_axis(self, engine: Engine, shape: tuple[int, ...]) -> None:
        rows = np.random.default_rng(0).random(shape, dtype=np.float32)
        encoding = engine.encode("digits", None, rows).outputs["encoding"]
        flat = rows.reshape(-1, 784)
        expected = np.stack([flat.sum(1), flat[:, 0], flat[:, -1], 1 - flat[:, 0]], axis=1)
        np.testing.assert_allclose(encoding, expected, rtol=1e-5)

    @pytest.mark.parametrize(
        "picture",
        [
            np.full((28, 28), 51, np.uint8),
            np.full((2, 28, 28), 51, np.uint8),
            np.full((40, 40, 3), 51, np.uint8),
            png(np.full((40, 40, 3), 51, np.uint8)),
        ],
        ids=["28x28", "batch", "colour", "encoded"],
    )
    def test_pictures_become_grey_rows(self, engine: Engine, picture: Array | bytes) -> None:
        encoding = engine.encode("digits", None, picture).outputs["encoding"]
        np.testing.assert_allclose(encoding, [[784 * 0.2, 0.2, 0.2, 0.8]] * len(encoding), rtol=1e-5)

    def test_segmentation_models_with_an_encoding_take_pictures(self, engine: Engine) -> None:
        encoding = engine.encode("red_fixed", None, half_red()).outputs["encoding"]
        np.testing.assert_allclose(encoding, [[0.4, 0, 0]], rtol=1e-5)

    def test_and_batches_like_their_input(self, engine: Engine) -> None:
        batch = np.stack([half_red(16, 16), np.zeros((16, 16, 3), np.uint8)])
        encoding = engine.encode("red_fixed", None, batch).outputs["encoding"]
        np.testing.assert_allclose(encoding, [[0.4, 0, 0], [0, 0, 0]], rtol=1e-5)

    def test_a_model_without_encodings_says_what_it_has(self, engine: Engine) -> None:
        with pytest.raises(InvalidInputError, match="red has no output 'encoding'; it has mask"):
            engine.encode("red", None, half_red())

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            (np.zeros(783, np.float32), r"is FP32 \[-1, 784\]\. Received: FP32 \[1, 783\]"),
            (np.zeros((1, 784), np.uint8), r"Received: UINT8 \[1, 784\]"),
            (np.zeros((30, 30), np.uint8), r"Received: UINT8 \[30, 30\]"),
            (np.zeros((2, 2, 784), np.float32), r"Received: FP32 \[2, 2, 784\]"),
            (np.zeros((0, 784), np.float32), r"with at least one row\. Received: FP32 \[0, 784\]"),
            (np.zeros(784, np.uint8), r"Received: UINT8 \[1, 784\]"),
            (np.zeros(784, np.float64), r"Received: FP64 \[1, 784\]"),
            (np.full(784, np.nan, np.float32), r"all values finite\. Received: 784 that are not, the first nan"),
            (np.full(784, -np.inf, np.float32), r"all values finite\. Received: 784 that are not, the first -inf"),
            (np.full(784, 255, np.float32), r"with values in \[0, 1\]\. Received: 255 to 255"),
            (np.full((9, 784), 0, np.float32), r"digits/1 takes at most 8 rows in one request\. Received: 9"),
        ],
    )
    def test_rows_that_the_model_does_not_take_are_refused(self, engine: Engine, rows: Array, message: str) -> None:
        with pytest.raises(InvalidInputError, match=message):
            engine.encode("digits", None, rows)


class TestReconstruct:
    def test_answers_rows(self, engine: Engine) -> None:
        rows = np.random.default_rng(0).random((2, 784), dtype=np.float32)
        answer = engine.reconstruct("digits", None, rows)
        np.testing.assert_allclose(answer.outputs["reconstruction"], 1 - rows, rtol=1e-6)
        assert list(answer.outputs) == ["reconstruction"]
        assert (answer.model, answer.version) == ("digits", 1)


class TestInfer:
    def test_all_outputs_by_default_or_those_asked_for(self, engine: Engine) -> None:
        inputs = {"image": np.zeros((1, 784), np.float32)}
        assert list(engine.infer("digits", None, inputs).outputs) == ["encoding", "reconstruction"]
        assert list(engine.infer("digits", None, inputs, ["reconstruction"]).outputs) == ["reconstruction"]

    def test_free_sizes_are_taken_in_the_models_steps(self, engine: Engine) -> None:
        answer = engine.infer("red", None, {"image": np.full((2, 64, 32, 3), 255, np.uint8)})
        np.testing.assert_array_equal(answer.outputs["mask"], np.ones((2, 64, 32, 1)))

    @pytest.mark.parametrize(
        ("model", "inputs", "outputs", "message"),
        [
            ("digits", {}, (), "digits takes the inputs image. Received: none"),
            ("digits", {"x\n": np.zeros((1, 784), np.float32)}, (), r"takes the inputs image. Received: 'x\n'"),
            ("digits", {"image": np.zeros(784, np.float32)}, (), "is FP32 [-1, 784]. Received: FP32 [784]"),
            ("digits", {"image": np.zeros((1, 784), np.float32)}, ("mask",), "digits has no output 'mask'"),
            ("digits", {"image": np.zeros((1, 784), np.float32)}, ("encoding",) * 2, "each output is asked for once"),
            ("red", {"image": np.zeros((1, 33, 32, 3), np.uint8)}, (), "height a multiple of 32"),
            ("red", {"image": np.zeros((1, 32, 32, 4), np.uint8)}, (), "Received: UINT8 [1, 32, 32, 4]"),
            ("red", {"image": np.zeros((4, 64, 64, 3), np.uint8)}, (), "at most 10000 pixels"),
            ("red_fixed", {"image": np.zeros((1, 32, 32, 3), np.uint8)}, (), "is UINT8 [-1, 16, 16, 3]. Received"),
        ],
    )
    def test_bad_input_is_named(
        self, engine: Engine, model: str, inputs: dict[str, Array], outputs: tuple[str, ...], message: str
    ) -> None:
        with pytest.raises(InvalidInputError) as caught:
            engine.infer(model, None, inputs, outputs)
        assert message in str(caught.value)


class TestDecode:
    @pytest.fixture
    def halves(self, tmp_path: Path, build: Any) -> Iterator[Engine]:
        build(tmp_path, "halves")
        repository = ModelRepository(
            tmp_path, Runtime(CPU, 1, required=True), Limits(8, 8), Metrics(version="0", runtime_version="0")
        )
        repository.load()
        yield Engine(repository, max_pixels=10_000, picture_slots=2)
        repository.close()

    def test_an_edited_encoding_gives_another_reconstruction(self, halves: Engine) -> None:
        row = np.random.default_rng(0).random((1, 784), dtype=np.float32)
        encoding = halves.encode("halves", None, row).outputs["encoding"]
        rebuilt = halves.reconstruct("halves", None, row).outputs["reconstruction"]
        np.testing.assert_array_equal(encoding, row[:, :4])
        np.testing.assert_array_equal(halves.decode("halves", None, encoding).outputs["reconstruction"], rebuilt)
        edited = encoding.copy()
        edited[0, 1] = -7
        answer = halves.decode("halves", None, edited[0])
        np.testing.assert_array_equal(answer.outputs["reconstruction"][0], np.tile(edited[0], 196))
        assert (answer.model, answer.version) == ("halves", 1)

    def test_named_arrays_may_be_an_encoding_too(self, halves: Engine) -> None:
        rows = np.arange(8, dtype=np.float32).reshape(2, 4)
        outputs = halves.infer("halves", None, {"encoding": rows}).outputs
        assert list(outputs) == ["reconstruction"]
        np.testing.assert_array_equal(outputs["reconstruction"], np.tile(rows, 196))

    @pytest.mark.parametrize(
        ("encoding", "message"),
        [
            (np.zeros(3, np.float32), r"input 'encoding' of halves is FP32 \[-1, 4\]\. Received: FP32 \[1, 3\]"),
            (np.zeros((1, 4)), r"Received: FP64 \[1, 4\]"),
            (np.zeros((0, 4), np.float32), r"with at least one row\. Received: FP32 \[0, 4\]"),
            (np.full(4, np.nan, np.float32), r"all values finite\. Received: 4 that are not, the first nan"),
        ],
    )
    def test_an_encoding_that_is_none_is_refused(self, halves: Engine, encoding: Array, message: str) -> None:
        with pytest.raises(InvalidInputError, match=message):
            halves.decode("halves", None, encoding)

    def test_outputs_that_need_the_picture_are_refused(self, halves: Engine) -> None:
        with pytest.raises(
            InvalidInputError, match=r"from an encoding halves gives reconstruction. Received: 'encoding'"
        ):
            halves.infer("halves", None, {"encoding": np.zeros((1, 4), np.float32)}, ["encoding"])

    def test_a_model_that_cannot_be_cut_says_so(self, engine: Engine) -> None:
        with pytest.raises(InvalidInputError, match="digits cannot start from an encoding"):
            engine.decode("digits", None, np.zeros(4, np.float32))


class TestPictures:
    def test_files_are_brought_to_the_models_size(self, engine: Engine) -> None:
        outputs = engine.infer("red", None, {"image": [png(half_red()), png(half_red(64, 128))]}).outputs
        assert outputs["mask"].shape == (2, 32, 64, 1)
        np.testing.assert_allclose(outputs["mask"][0], outputs["mask"][1], rtol=1e-6)

    def test_one_that_is_none_fails_the_request(self, engine: Engine) -> None:
        with pytest.raises(InvalidPictureError):
            engine.infer("red", None, {"image": [png(half_red()), b"none"]})

    def test_more_than_a_batch_are_refused_before_any_is_decoded(self, engine: Engine) -> None:
        with pytest.raises(InvalidInputError, match=r"takes 1 to 8 pictures in one request\. Received: 9"):
            engine.infer("red", None, {"image": [b"none"] * 9})


def test_an_unknown_model_is_named(engine: Engine) -> None:
    with pytest.raises(NotFoundError, match="no model 'blue'"):
        engine.segment("blue", None, half_red())


def test_expired_and_cancelled_calls_are_not_answered(engine: Engine) -> None:
    with pytest.raises(DeadlineError):
        engine.segment("red", None, half_red(), call=Call(time.monotonic() - 1))
    cancelled = Call()
    cancelled.cancel()
    with pytest.raises(CancelledError):
        engine.encode("digits", None, np.zeros(784, np.float32), call=cancelled)


def test_requests_are_counted_under_names_that_exist(engine: Engine) -> None:
    assert engine.repository.names("red", None) == ("red", "2")
    assert engine.repository.names("red", 1) == ("red", "1")
    assert engine.repository.names("red", 77) == ("red", "unknown")
    assert engine.repository.names("made up", None) == ("unknown", "unknown")
