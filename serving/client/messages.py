"""Requests from Python values, answers to Python values: what the two clients share."""

import json
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from serving.client.answers import Mask, Model, Rows
from serving.pb.sparsewalk.v1 import encoder_pb2 as pb
from serving.timings import Timings

# A version's number, its label ("stable", say), or None for the newest.
Version = int | str | None
# A path, the bytes of a file, or values: uint8 for pictures, floats for rows.
Source = str | Path | bytes | npt.NDArray[Any]

# UNAVAILABLE means that no work was done: the server starts, stops, or is not reachable yet.
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": pb.DESCRIPTOR.services_by_name["EncoderService"].full_name}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
# What gRPC counts of a request before its message, with room to spare, and the most that an option can say.
_METADATA_BYTES = 2**16
_LARGEST_OPTION = 2**31 - 1

_CODES = {status.value[0]: status for status in grpc.StatusCode}


class ServiceError(Exception):
    """The service refused or failed; the message is the server's.

    Attributes:
        code: the gRPC status, e.g. ``grpc.StatusCode.NOT_FOUND``.
        request_id: under which the server's log has the request; None where it did not get there.
    """

    def __init__(self, code: grpc.StatusCode, message: str, request_id: str | None = None) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.request_id = request_id


def channel_options(max_message_bytes: int) -> list[tuple[str, Any]]:
    """Options of a channel: message limits both ways, retries, and requests to each server of a name in turn."""
    return [
        ("grpc.lb_policy_name", "round_robin"),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        # A request that does not fit is never sent again. gRPC's own size, 256 KiB, is below that of a photograph.
        ("grpc.per_rpc_retry_buffer_size", min(max_message_bytes + _METADATA_BYTES, _LARGEST_OPTION)),
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ]


def failure(error: grpc.RpcError) -> ServiceError:
    """What a failed RPC is to the caller."""
    trailing: Any = error.trailing_metadata() or ()  # pairs, of a kind of its own in each of the two APIs
    request_ids = [value for key, value in trailing if key == "x-request-id"]
    return ServiceError(error.code(), error.details() or "no details", request_ids[0] if request_ids else None)


def segment_request(
    source: Source, model: str, version: Version, threshold: float | None, *, probabilities: bool = False
) -> pb.SegmentRequest:
    """Asks for packed bits, the smallest exact form that needs no decoder, or for probabilities."""
    return pb.SegmentRequest(
        model=_spec(model, version),
        picture=_picture(source),
        threshold=threshold,
        format=pb.MASK_FORMAT_PROBABILITIES if probabilities else pb.MASK_FORMAT_PACKED_BITS,
        size=pb.MASK_SIZE_PICTURE,
    )


def frame_request(frame: int, request: pb.SegmentRequest) -> pb.SegmentStreamRequest:
    """One request of a stream."""
    return pb.SegmentStreamRequest(frame=frame, request=request)


def encode_request(source: Source, model: str, version: Version, top: int) -> pb.EncodeRequest:
    """Asks for the encodings of a picture or of rows; sparse where only some latents are wanted."""
    form = pb.ENCODING_FORM_SPARSE if top else pb.ENCODING_FORM_DENSE
    return pb.EncodeRequest(model=_spec(model, version), picture=_picture(source), form=form, top=top)


def reconstruct_request(source: Source, model: str, version: Version) -> pb.ReconstructRequest:
    """Asks for the reconstructions of a picture or of rows."""
    return pb.ReconstructRequest(model=_spec(model, version), picture=_picture(source))


def decode_request(encoding: npt.NDArray[Any], model: str, version: Version) -> pb.ReconstructRequest:
    """Asks for the reconstructions of encodings."""
    return pb.ReconstructRequest(model=_spec(model, version), encoding=_tensor(np.asarray(encoding, "<f4")))


async def each(sources: Iterable[Source] | AsyncIterable[Source]) -> AsyncIterator[Source]:
    """The same, whichever way they come."""
    if isinstance(sources, AsyncIterable):
        async for source in sources:
            yield source
    else:
        for source in sources:
            yield source


def to_frame(response: pb.SegmentStreamResponse) -> Mask | ServiceError:
    """The mask of one frame, or why there is none."""
    if response.WhichOneof("outcome") == "error":
        return ServiceError(_CODES[response.error.code], response.error.message)
    return to_mask(response.response)


def to_mask(response: pb.SegmentResponse) -> Mask:
    """Unpacks the bits, or finds those that reach the threshold."""
    height, width = response.mask.height, response.mask.width
    probabilities = None
    if response.mask.format == pb.MASK_FORMAT_PROBABILITIES:
        probabilities = np.frombuffer(response.mask.data, "<f4").reshape(height, width)
        array = probabilities >= np.float32(response.threshold)
    else:
        bits = np.frombuffer(response.mask.data, np.uint8).reshape(height, -1)
        array = np.unpackbits(bits, axis=1, count=width).astype(np.bool_)
    return Mask(
        array=array,
        model=response.model.name,
        version=response.model.version,
        threshold=response.threshold,
        foreground_fraction=response.foreground_fraction,
        timings=_timings(response.timings),
        probabilities=probabilities,
    )


def to_rows(model: pb.ModelSpec, tensor: pb.Tensor, timings: pb.Timings) -> Rows:
    """Reads the values; the array is a copy, and so the caller's own."""
    array = np.frombuffer(tensor.data, "<f4").reshape(tuple(tensor.shape)).astype(np.float32)
    return Rows(array=array, model=model.name, version=model.version, timings=_timings(timings))


def to_encoding(response: pb.EncodeResponse) -> Rows:
    """Reads the values, spread out again where they came sparse."""
    if not response.HasField("sparse"):
        return to_rows(response.model, response.encoding, response.timings)
    sparse = response.sparse
    starts = np.array(sparse.row_starts, np.int64)
    array = np.zeros((len(starts) - 1, sparse.width), np.float32)
    array[np.repeat(np.arange(len(starts) - 1), np.diff(starts)), np.array(sparse.indices, np.int64)] = sparse.values
    model = response.model
    return Rows(array=array, model=model.name, version=model.version, timings=_timings(response.timings))


def to_models(response: pb.ListModelsResponse) -> list[Model]:
    """Reads the list of models."""
    return [
        Model(
            name=info.name,
            version=info.version,
            family=info.family,
            inputs={spec.name: (spec.dtype, tuple(spec.shape)) for spec in info.inputs},
            outputs={spec.name: (spec.dtype, tuple(spec.shape)) for spec in info.outputs},
            ready=info.ready,
            provider=info.provider,
            data_source=info.data_source,
            scores=dict(info.scores),
            default_threshold=info.default_threshold if info.HasField("default_threshold") else None,
        )
        for info in response.models
    ]


def _spec(model: str, version: Version) -> pb.ModelSpec:
    if isinstance(version, str):
        return pb.ModelSpec(name=model, label=version)
    return pb.ModelSpec(name=model, version=version)


def _picture(source: Source) -> pb.Picture:
    if isinstance(source, str | Path):
        return pb.Picture(encoded=Path(source).read_bytes())
    if isinstance(source, bytes):
        return pb.Picture(encoded=source)
    if source.dtype == np.uint8:
        dtype, values = pb.DATA_TYPE_UINT8, source
    elif np.issubdtype(source.dtype, np.floating):
        dtype, values = pb.DATA_TYPE_FP32, source.astype("<f4", copy=False)
    else:
        raise TypeError(f"values are uint8 or floats. Received: {source.dtype} {list(source.shape)}")
    return pb.Picture(tensor=pb.Tensor(dtype=dtype, shape=values.shape, data=values.tobytes()))


def _tensor(values: npt.NDArray[Any]) -> pb.Tensor:
    return pb.Tensor(dtype=pb.DATA_TYPE_FP32, shape=values.shape, data=values.tobytes())


def _timings(timings: pb.Timings) -> Timings:
    return Timings(
        decode=timings.decode_seconds,
        queue=timings.queue_seconds,
        inference=timings.inference_seconds,
        postprocess=timings.postprocess_seconds,
        total=timings.total_seconds,
    )
