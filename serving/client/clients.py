"""The two clients: blocking and asyncio, method by method the same."""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from types import TracebackType
from typing import Any, Self

import grpc
import numpy.typing as npt

from serving.client import messages
from serving.client.answers import Mask, Model, Rows
from serving.client.messages import ServiceError, Source, Version
from serving.client.security import Security
from serving.pb.sparsewalk.v1 import encoder_pb2 as pb
from serving.pb.sparsewalk.v1 import encoder_pb2_grpc as pb_grpc

SEGMENTER = "pedestrian_unet"
ENCODER = "mnist_k_sparse"
DEFAULT_TIMEOUT = 30.0
DEFAULT_MAX_MESSAGE_BYTES = 64 * 2**20


class Client:
    """Asks a Sparsewalk server, waiting for each answer. Threads may share one client.

    Args:
        target: ``host:port``.
        timeout: seconds that one request may take, retries included.
        max_message_bytes: largest message sent or taken.
        security: TLS and token; None: neither.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        security: Security | None = None,
    ) -> None:
        self._timeout = timeout
        self._security = security or Security()
        options = messages.channel_options(max_message_bytes) + self._security.options()
        credentials = self._security.credentials()
        self._channel = (
            grpc.insecure_channel(target, options)
            if credentials is None
            else grpc.secure_channel(target, credentials, options)
        )
        self._stub = _stub(self._channel)

    def segment(
        self, picture: Source, model: str = SEGMENTER, threshold: float | None = None, *, version: Version = None
    ) -> Mask:
        """The pedestrian mask of one picture.

        Args:
            picture: a path, the bytes of a JPEG, PNG, WebP or BMP file, or an RGB uint8 array [H, W, 3].
            model: its name.
            threshold: in [0, 1]; the model's own where None.
            version: its number or label; the newest where None.

        Raises:
            ServiceError: the server refused, failed or could not be reached in time.
            OSError: the file cannot be read.
        """
        return messages.to_mask(
            self._ask(self._stub.Segment, messages.segment_request(picture, model, version, threshold))
        )

    def segment_stream(
        self,
        pictures: Iterable[Source],
        model: str = SEGMENTER,
        threshold: float | None = None,
        *,
        version: Version = None,
        probabilities: bool = False,
    ) -> Iterator[Mask | ServiceError]:
        """The masks of a video or a camera, in order, several of them under way at once.

        Args:
            pictures: as in ``segment``; taken one by one, as fast as the server answers. They may go on for ever.
            model: its name.
            threshold: in [0, 1]; the model's own where None.
            version: its number or label; the newest where None.
            probabilities: whether the masks come with their probabilities, four bytes a pixel instead of a bit.

        Yields:
            For each picture its mask, or why there is none; the others are not affected.

        Raises:
            ServiceError: the stream itself ended: the server stops or cannot be reached.
            Exception: whatever taking a picture raised, once those before it are answered.
        """
        failures: list[Exception] = []

        def requests() -> Iterator[pb.SegmentStreamRequest]:
            try:
                for frame, picture in enumerate(pictures):
                    request = messages.segment_request(picture, model, version, threshold, probabilities=probabilities)
                    yield messages.frame_request(frame, request)
            except Exception as error:
                failures.append(error)

        call = self._stub.SegmentStream(requests(), metadata=self._security.metadata())
        try:
            for response in call:
                yield messages.to_frame(response)
        except grpc.RpcError as error:
            raise messages.failure(error) from error
        finally:
            call.cancel()
        if failures:
            raise failures[0]

    def encode(self, source: Source, model: str = ENCODER, *, version: Version = None, top: int = 0) -> Rows:
        """The encodings of one picture or of a batch of rows: float32 [rows, latents].

        Args:
            source: a path, bytes, a uint8 picture [H, W, 3], or values like the model's input, e.g. floats [784] or
                [N, 784] in 0..1, or uint8 [28, 28].
            model: its name.
            version: its number or label; the newest where None.
            top: only so many latents of each row, those farthest from zero; the others are zero. Only they travel.
                0 = all.

        Raises:
            ServiceError: the server refused, failed or could not be reached in time.
            OSError: the file cannot be read.
        """
        return messages.to_encoding(self._ask(self._stub.Encode, messages.encode_request(source, model, version, top)))

    def reconstruct(self, source: Source, model: str = ENCODER, *, version: Version = None) -> Rows:
        """What the auto-encoder makes of its input: float32 [rows, values]; otherwise like ``encode``."""
        response = self._ask(self._stub.Reconstruct, messages.reconstruct_request(source, model, version))
        return messages.to_rows(response.model, response.reconstruction, response.timings)

    def decode(self, encoding: npt.NDArray[Any], model: str = ENCODER, *, version: Version = None) -> Rows:
        """What the decoder makes of encodings, as ``encode`` gave them or edited: float32 [rows, values].

        Args:
            encoding: floats [latents] or [rows, latents].
            model: its name.
            version: its number or label; the newest where None.

        Raises:
            ServiceError: the server refused, failed or could not be reached in time.
        """
        response = self._ask(self._stub.Reconstruct, messages.decode_request(encoding, model, version))
        return messages.to_rows(response.model, response.reconstruction, response.timings)

    def models(self) -> list[Model]:
        """The models of the server.

        Raises:
            ServiceError: the server failed or could not be reached in time.
        """
        return messages.to_models(self._ask(self._stub.ListModels, pb.ListModelsRequest()))

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=self._timeout, metadata=self._security.metadata())
        except grpc.RpcError as error:
            raise messages.failure(error) from error


class AsyncClient:
    """``Client`` for asyncio; made and used inside a running event loop.

    Args:
        target: ``host:port``.
        timeout: seconds that one request may take, retries included.
        max_message_bytes: largest message sent or taken.
        security: TLS and token; None: neither.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        security: Security | None = None,
    ) -> None:
        self._timeout = timeout
        self._security = security or Security()
        options = messages.channel_options(max_message_bytes) + self._security.options()
        credentials = self._security.credentials()
        self._channel = (
            grpc.aio.insecure_channel(target, options)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, options)
        )
        self._stub = _stub(self._channel)

    async def segment(
        self, picture: Source, model: str = SEGMENTER, threshold: float | None = None, *, version: Version = None
    ) -> Mask:
        """See ``Client.segment``."""
        return messages.to_mask(
            await self._ask(self._stub.Segment, messages.segment_request(picture, model, version, threshold))
        )

    async def segment_stream(
        self,
        pictures: Iterable[Source] | AsyncIterable[Source],
        model: str = SEGMENTER,
        threshold: float | None = None,
        *,
        version: Version = None,
        probabilities: bool = False,
    ) -> AsyncIterator[Mask | ServiceError]:
        """See ``Client.segment_stream``; the pictures may come asynchronously."""
        failures: list[Exception] = []

        async def requests() -> AsyncIterator[pb.SegmentStreamRequest]:
            frame = 0
            try:
                async for picture in messages.each(pictures):
                    request = messages.segment_request(picture, model, version, threshold, probabilities=probabilities)
                    yield messages.frame_request(frame, request)
                    frame += 1
            except Exception as error:
                failures.append(error)

        call = self._stub.SegmentStream(requests(), metadata=self._security.metadata())
        try:
            async for response in call:
                yield messages.to_frame(response)
        except grpc.RpcError as error:
            raise messages.failure(error) from error
        finally:
            call.cancel()
        if failures:
            raise failures[0]

    async def encode(self, source: Source, model: str = ENCODER, *, version: Version = None, top: int = 0) -> Rows:
        """See ``Client.encode``."""
        request = messages.encode_request(source, model, version, top)
        return messages.to_encoding(await self._ask(self._stub.Encode, request))

    async def reconstruct(self, source: Source, model: str = ENCODER, *, version: Version = None) -> Rows:
        """See ``Client.reconstruct``."""
        response = await self._ask(self._stub.Reconstruct, messages.reconstruct_request(source, model, version))
        return messages.to_rows(response.model, response.reconstruction, response.timings)

    async def decode(self, encoding: npt.NDArray[Any], model: str = ENCODER, *, version: Version = None) -> Rows:
        """See ``Client.decode``."""
        response = await self._ask(self._stub.Reconstruct, messages.decode_request(encoding, model, version))
        return messages.to_rows(response.model, response.reconstruction, response.timings)

    async def models(self) -> list[Model]:
        """See ``Client.models``."""
        return messages.to_models(await self._ask(self._stub.ListModels, pb.ListModelsRequest()))

    async def close(self) -> None:
        """Closes the connection."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _ask(self, method: Any, request: Any) -> Any:
        try:
            return await method(request, timeout=self._timeout, metadata=self._security.metadata())
        except grpc.RpcError as error:
            raise messages.failure(error) from error


def _stub(channel: Any) -> Any:
    return pb_grpc.EncoderServiceStub(channel)  # type: ignore[no-untyped-call]  # generated
