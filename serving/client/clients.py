"""The two clients: blocking and asyncio, method by method the same."""

from types import TracebackType
from typing import Any, Self

import grpc

from serving.client import messages
from serving.client.answers import Mask, Model, Rows
from serving.client.messages import Source
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
    """

    def __init__(
        self,
        target: str,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    ) -> None:
        self._timeout = timeout
        self._channel = grpc.insecure_channel(target, messages.channel_options(max_message_bytes))
        self._stub = _stub(self._channel)

    def segment(
        self, picture: Source, model: str = SEGMENTER, threshold: float | None = None, *, version: int | None = None
    ) -> Mask:
        """The pedestrian mask of one picture.

        Args:
            picture: a path, the bytes of a JPEG, PNG, WebP or BMP file, or an RGB uint8 array [H, W, 3].
            model: its name.
            threshold: in [0, 1]; the model's own where None.
            version: the newest where None.

        Raises:
            ServiceError: the server refused, failed or could not be reached in time.
            OSError: the file cannot be read.
        """
        return messages.to_mask(
            self._ask(self._stub.Segment, messages.segment_request(picture, model, version, threshold))
        )

    def encode(self, source: Source, model: str = ENCODER, *, version: int | None = None) -> Rows:
        """The encodings of one picture or of a batch of rows: float32 [rows, latents].

        Args:
            source: a path, bytes, a uint8 picture [H, W, 3], or values like the model's input, e.g. floats [784] or
                [N, 784] in 0..1, or uint8 [28, 28].
            model: its name.
            version: the newest where None.

        Raises:
            ServiceError: the server refused, failed or could not be reached in time.
            OSError: the file cannot be read.
        """
        response = self._ask(self._stub.Encode, messages.encode_request(source, model, version))
        return messages.to_rows(response.model, response.encoding, response.timings)

    def reconstruct(self, source: Source, model: str = ENCODER, *, version: int | None = None) -> Rows:
        """What the auto-encoder makes of its input: float32 [rows, values]; otherwise like ``encode``."""
        response = self._ask(self._stub.Reconstruct, messages.reconstruct_request(source, model, version))
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
            return method(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise messages.failure(error) from error


class AsyncClient:
    """``Client`` for asyncio; made and used inside a running event loop.

    Args:
        target: ``host:port``.
        timeout: seconds that one request may take, retries included.
        max_message_bytes: largest message sent or taken.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    ) -> None:
        self._timeout = timeout
        self._channel = grpc.aio.insecure_channel(target, messages.channel_options(max_message_bytes))
        self._stub = _stub(self._channel)

    async def segment(
        self, picture: Source, model: str = SEGMENTER, threshold: float | None = None, *, version: int | None = None
    ) -> Mask:
        """See ``Client.segment``."""
        return messages.to_mask(
            await self._ask(self._stub.Segment, messages.segment_request(picture, model, version, threshold))
        )

    async def encode(self, source: Source, model: str = ENCODER, *, version: int | None = None) -> Rows:
        """See ``Client.encode``."""
        response = await self._ask(self._stub.Encode, messages.encode_request(source, model, version))
        return messages.to_rows(response.model, response.encoding, response.timings)

    async def reconstruct(self, source: Source, model: str = ENCODER, *, version: int | None = None) -> Rows:
        """See ``Client.reconstruct``."""
        response = await self._ask(self._stub.Reconstruct, messages.reconstruct_request(source, model, version))
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
            return await method(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise messages.failure(error) from error


def _stub(channel: Any) -> Any:
    return pb_grpc.EncoderServiceStub(channel)  # type: ignore[no-untyped-call]  # generated
