import asyncio
import contextlib
import io
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from serving.client import AsyncClient, Client, Mask, ServiceError
from serving.pb.sparsewalk.v1 import encoder_pb2, encoder_pb2_grpc
from serving.timings import Timings

Array = np.ndarray[Any, Any]


def half_red(height: int = 40, width: int = 90) -> Array:
    picture = np.full((height, width, 3), 40, np.uint8)
    picture[:, : width // 2] = [204, 10, 10]
    return picture


def png(picture: Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def mask_of(array: Array) -> Mask:
    return Mask(array, "red", 1, 0.5, float(array.mean()), Timings(0, 0, 0, 0, 0))


class TestSegment:
    @pytest.mark.parametrize("form", ["array", "bytes", "path", "string"])
    def test_takes_a_picture_in_any_form(self, client: Client, form: str, tmp_path: Path) -> None:
        file = tmp_path / "street.png"
        file.write_bytes(png(half_red()))
        picture = {"array": half_red(), "bytes": png(half_red()), "path": file, "string": str(file)}[form]
        mask = client.segment(picture, model="red", threshold=0.5)
        assert mask.array.dtype == np.bool_
        assert mask.array.shape == (40, 90)
        assert mask.array[:, :43].all()
        assert not mask.array[:, 47:].any()
        assert (mask.model, mask.version, mask.threshold) == ("red", 2, 0.5)
        assert mask.foreground_fraction == pytest.approx(mask.array.mean())
        assert mask.timings.total > 0

    def test_the_models_threshold_is_the_default(self, client: Client) -> None:
        assert client.segment(half_red(), "red", version=1).threshold == 0.5

    def test_png_is_the_mask(self, client: Client) -> None:
        mask = client.segment(half_red(), "red")
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(mask.png()))), mask.array * 255)

    def test_a_view_that_is_not_contiguous_is_sent_right(self, client: Client) -> None:
        mask = client.segment(half_red()[:, ::-1], "red", 0.5)
        assert not mask.array[:, :43].any()
        assert mask.array[:, 47:].all()

    def test_a_missing_file_is_the_callers(self, client: Client) -> None:
        with pytest.raises(FileNotFoundError):
            client.segment("nowhere.jpg", "red")


class TestOverlay:
    def test_tints_inside_and_outlines_the_edge(self) -> None:
        picture = np.full((100, 100, 3), 120, np.uint8)
        array = np.zeros((100, 100), bool)
        array[30:70, 30:70] = True
        painted = mask_of(array).overlay(picture)
        assert (painted[:25] == 120).all()
        inside, outline, halo = painted[50, 50], painted[30, 50], painted[29, 50]
        assert inside[0] > 150 > inside[1]
        assert outline.tolist() == [255, 40, 70]
        assert halo.tolist() == [255, 255, 255]
        assert (picture == 120).all()

    def test_an_empty_mask_leaves_the_picture(self) -> None:
        picture = np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8)
        np.testing.assert_array_equal(mask_of(np.zeros((30, 20), bool)).overlay(picture), picture)

    def test_the_pictures_border_is_no_outline(self) -> None:
        painted = mask_of(np.ones((30, 20), bool)).overlay(np.zeros((30, 20, 3), np.uint8))
        assert len(np.unique(painted.reshape(-1, 3), axis=0)) == 1

    def test_takes_a_file_too(self, tmp_path: Path) -> None:
        file = tmp_path / "street.png"
        file.write_bytes(png(half_red()))
        mask = mask_of(half_red()[:, :, 0] > 100)
        np.testing.assert_array_equal(mask.overlay(file), mask.overlay(half_red()))
        np.testing.assert_array_equal(mask.overlay(file.read_bytes()), mask.overlay(half_red()))

    def test_another_size_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"Received: \(31, 20, 3\)"):
            mask_of(np.zeros((30, 20), bool)).overlay(np.zeros((31, 20, 3), np.uint8))


class TestRows:
    def test_encode(self, client: Client) -> None:
        rows = np.random.default_rng(0).random((3, 784))  # float64 is sent as float32
        answer = client.encode(rows, "digits")
        assert answer.array.dtype == np.float32
        np.testing.assert_allclose(answer.array[:, 0], rows.sum(axis=1), rtol=1e-5)
        assert (answer.model, answer.version) == ("digits", 1)

    def test_reconstruct(self, client: Client) -> None:
        answer = client.reconstruct(np.full((28, 28), 255, np.uint8), "digits")
        np.testing.assert_array_equal(answer.array, np.zeros((1, 784)))

    def test_the_answer_is_the_callers_own(self, client: Client) -> None:
        answer = client.encode(np.zeros(784), "digits")
        answer.array[0, 0] = 7

    def test_values_of_another_kind_are_refused(self, client: Client) -> None:
        with pytest.raises(TypeError, match=r"values are uint8 or floats\. Received: int64 \[784\]"):
            client.encode(np.zeros(784, np.int64), "digits")


def test_models(client: Client) -> None:
    found = {(model.name, model.version): model for model in client.models()}
    digits = found["digits", 1]
    assert digits.inputs == {"image": ("FP32", (-1, 784))}
    assert digits.outputs == {"encoding": ("FP32", (-1, 4)), "reconstruction": ("FP32", (-1, 784))}
    assert digits.scores == {"probe_error": 0.03}
    assert digits.default_threshold is None
    assert found["red", 2].default_threshold == 0.25


class TestFailures:
    def test_the_servers_words_and_code_come_through(self, client: Client) -> None:
        with pytest.raises(ServiceError, match=r"NOT_FOUND: no model 'blue'\. Known: digits, red, red_fixed") as caught:
            client.segment(half_red(), "blue")
        assert caught.value.code is grpc.StatusCode.NOT_FOUND

    def test_a_server_that_is_not_there_is_said_in_time(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as reserved:
            port = reserved.getsockname()[1]
        started = time.monotonic()
        with Client(f"127.0.0.1:{port}", timeout=5) as client, pytest.raises(ServiceError) as caught:
            client.models()
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE
        assert time.monotonic() - started < 5

    def test_a_server_that_starts_a_moment_later_is_waited_for(self, models: Path, start: Callable[..., Any]) -> None:
        """UNAVAILABLE is tried again: while the models load, and while nobody listens."""
        with socket.create_server(("127.0.0.1", 0)) as reserved:
            port = reserved.getsockname()[1]
        found: list[int] = []

        def ask() -> None:
            with Client(f"127.0.0.1:{port}", timeout=20) as client:
                for _ in range(10):
                    with contextlib.suppress(ServiceError):
                        found.append(len(client.models()))
                        break

        asking = threading.Thread(target=ask)
        asking.start()
        start(models, "--grpc-port", str(port))
        asking.join()
        assert found == [4]

    async def test_a_large_request_is_sent_again_too(self) -> None:
        """As large as may be: gRPC by itself does not keep more than 256 KiB for that."""
        sizes: list[int] = []

        class Leaving(encoder_pb2_grpc.EncoderServiceServicer):
            def Segment(  # noqa: N802
                self, request: encoder_pb2.SegmentRequest, context: grpc.ServicerContext
            ) -> encoder_pb2.SegmentResponse:
                sizes.append(request.ByteSize())
                if len(sizes) % 2:
                    context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
                mask = encoder_pb2.Mask(format=encoder_pb2.MASK_FORMAT_PACKED_BITS, height=1, width=1, data=b"\0")
                return encoder_pb2.SegmentResponse(mask=mask)

        limit = 2**22
        server = grpc.server(ThreadPoolExecutor(1))
        encoder_pb2_grpc.add_EncoderServiceServicer_to_server(Leaving(), server)  # type: ignore[no-untyped-call]
        target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        picture = bytes(limit - 40)  # with its field's tag and the model's name it is as large as may be
        with Client(target, max_message_bytes=limit) as client:
            client.segment(picture, "red")
        async with AsyncClient(target, max_message_bytes=limit) as other:
            await other.segment(picture, "red")
        server.stop(None)
        assert len(sizes) == 4
        assert limit - 20 < sizes[0] <= limit


class TestAsyncClient:
    async def test_does_what_the_other_does(self, server: Any, client: Client) -> None:
        async with AsyncClient(server.target) as other:
            mask, encoding, reconstruction, models = await asyncio.gather(
                other.segment(half_red(), model="red", threshold=0.5),
                other.encode(np.ones(784), "digits"),
                other.reconstruct(np.ones(784), "digits"),
                other.models(),
            )
        np.testing.assert_array_equal(mask.array, client.segment(half_red(), "red", 0.5).array)
        np.testing.assert_array_equal(encoding.array, client.encode(np.ones(784), "digits").array)
        np.testing.assert_array_equal(reconstruction.array, np.zeros((1, 784)))
        assert models == client.models()

    async def test_fails_alike(self, server: Any) -> None:
        async with AsyncClient(server.target) as other:
            with pytest.raises(ServiceError) as caught:
                await other.segment(b"no picture", "red")
        assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT

    async def test_many_at_once_get_their_own(self, server: Any) -> None:
        rows = np.random.default_rng(0).random((40, 784)).astype(np.float32)
        async with AsyncClient(server.target) as other:
            answers = await asyncio.gather(*(other.reconstruct(row, "digits") for row in rows))
        for row, answer in zip(rows, answers, strict=True):
            np.testing.assert_array_equal(answer.array[0], 1 - row)


class TestSegmentStream:
    def test_masks_come_in_order(self, client: Client) -> None:
        pictures = [half_red(40, 20 + number) for number in range(30)]
        masks = list(client.segment_stream(iter(pictures), "red", 0.5))
        assert [mask.array.shape for mask in masks if isinstance(mask, Mask)] == [each.shape[:2] for each in pictures]
        np.testing.assert_array_equal(masks[7].array, client.segment(pictures[7], "red", 0.5).array)  # type: ignore[union-attr]

    def test_a_frame_that_fails_does_not_end_the_stream(self, client: Client) -> None:
        answers = list(client.segment_stream([half_red(), b"no picture", half_red()], "red"))
        assert [type(answer) for answer in answers] == [Mask, ServiceError, Mask]
        assert isinstance(answers[1], ServiceError)
        assert answers[1].code is grpc.StatusCode.INVALID_ARGUMENT
        assert "a picture is JPEG" in str(answers[1])

    def test_a_picture_that_cannot_be_read_is_told_after_those_before(self, client: Client, tmp_path: Path) -> None:
        frames = client.segment_stream([half_red(), tmp_path / "none.png"], "red")
        assert isinstance(next(frames), Mask)
        with pytest.raises(FileNotFoundError):
            next(frames)

    def test_open_streams_are_bounded_and_others_still_answered(self, start: Callable[..., Any]) -> None:
        held = threading.Event()

        def camera() -> Any:
            yield half_red()
            held.wait(10)

        with Client(start(None, "--max-in-flight", "2").target) as connected:
            open_streams = [connected.segment_stream(camera(), "red") for _ in range(2)]
            for stream in open_streams:
                assert isinstance(next(stream), Mask)
            with pytest.raises(ServiceError, match="RESOURCE_EXHAUSTED: the server has 2 open streams"):
                next(connected.segment_stream(camera(), "red"))
            assert connected.segment(half_red(), "red").array.shape == (40, 90)
            held.set()
            assert [len(list(stream)) for stream in open_streams] == [0, 0]
            assert len(list(connected.segment_stream([half_red()], "red"))) == 1

    def test_a_server_that_stops_answers_what_it_has_read(self, start: Callable[..., Any]) -> None:
        running = start()
        read = threading.Event()

        def camera() -> Any:
            for _ in range(5):
                yield half_red()
            read.set()
            while True:
                time.sleep(0.05)
                yield half_red()

        with Client(running.target) as connected:
            answers = connected.segment_stream(camera(), "red")
            masks = [next(answers) for _ in range(5)]
            stopping = threading.Thread(target=running.stop)
            stopping.start()
            with pytest.raises(ServiceError) as caught:
                masks += list(answers)
            stopping.join(10)
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE
        assert all(isinstance(mask, Mask) for mask in masks)
        assert running.process.returncode == 0

    async def test_asyncio(self, server: Any) -> None:
        async def camera() -> Any:
            for number in range(5):
                yield half_red(40, 20 + number)

        async with AsyncClient(server.target) as other:
            for pictures in (camera(), [half_red(40, 20 + number) for number in range(5)]):
                answers = [answer async for answer in other.segment_stream(pictures, "red")]
                assert [answer.array.shape for answer in answers if isinstance(answer, Mask)] == [
                    (40, 20 + number) for number in range(5)
                ]


class TestSparseAndDecode:
    @pytest.fixture
    def halves(self, tmp_path: Path, build: Any, start: Callable[..., Any]) -> Any:
        build(tmp_path, "halves")
        (tmp_path / "halves" / "serving.json").write_text('{"labels": {"stable": 1}}')
        return start(tmp_path)

    def test_only_the_top_latents_travel(self, halves: Any) -> None:
        rows = np.zeros((3, 784), np.float32)
        rows[0, :4] = [0.1, 0.4, 0.2, 0.3]
        rows[2, :4] = [0.5, 0, 0, 0.5]
        with Client(halves.target) as client:
            np.testing.assert_array_equal(client.encode(rows, "halves").array, rows[:, :4])
            np.testing.assert_array_equal(client.encode(rows, "halves", top=4).array, rows[:, :4])
            found = client.encode(rows, "halves", top=2, version="stable").array
        expected = [[0, 0.4, 0, 0.3], [0, 0, 0, 0], [0.5, 0, 0, 0.5]]
        np.testing.assert_array_equal(found, np.array(expected, np.float32))

    async def test_an_edited_encoding_is_decoded(self, halves: Any) -> None:
        code = np.array([1.0, -2.0, 3.0, 0.0])
        with Client(halves.target) as client:
            rebuilt = client.decode(code, "halves")
            assert client.models()[0].name == "halves"
        np.testing.assert_array_equal(rebuilt.array, np.tile(code, 196)[None])
        async with AsyncClient(halves.target) as other:
            np.testing.assert_array_equal((await other.decode(code, "halves")).array, rebuilt.array)
            assert (await other.encode(np.ones(784), "halves", top=1)).array.tolist() == [[1, 0, 0, 0]]

    def test_a_model_that_cannot_says_so(self, client: Client) -> None:
        with pytest.raises(ServiceError, match="digits cannot start from an encoding"):
            client.decode(np.zeros(4), "digits")
