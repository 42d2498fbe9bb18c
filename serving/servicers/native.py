"""``sparsewalk.v1.EncoderService``: the native protocol."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import grpc
import numpy as np

from serving.call import PRIORITIES, USUAL, Call
from serving.engine import Engine, Inference
from serving.errors import InvalidInputError
from serving.imaging import MaskFormat
from serving.intake import Array, Source
from serving.manifest import TensorSpec
from serving.pb.sparsewalk.v1 import encoder_pb2 as pb
from serving.pb.sparsewalk.v1 import encoder_pb2_grpc as pb_grpc
from serving.servable import Servable
from serving.servicers import sparse
from serving.servicers.registration import Registrar
from serving.servicers.status import Asked, Reception
from serving.timings import Timings

Option = TypeVar("Option")

SERVICE_NAME: str = pb.DESCRIPTOR.services_by_name["EncoderService"].full_name

_DTYPES: dict[int, np.dtype[np.generic]] = {
    pb.DATA_TYPE_UINT8: np.dtype("u1"),
    pb.DATA_TYPE_FP32: np.dtype("<f4"),
}
_FORMATS: dict[int, tuple[pb.MaskFormat, MaskFormat]] = {
    pb.MASK_FORMAT_UNSPECIFIED: (pb.MASK_FORMAT_PNG, MaskFormat.PNG),
    pb.MASK_FORMAT_PNG: (pb.MASK_FORMAT_PNG, MaskFormat.PNG),
    pb.MASK_FORMAT_COCO_RLE: (pb.MASK_FORMAT_COCO_RLE, MaskFormat.COCO_RLE),
    pb.MASK_FORMAT_PACKED_BITS: (pb.MASK_FORMAT_PACKED_BITS, MaskFormat.PACKED_BITS),
    pb.MASK_FORMAT_PROBABILITIES: (pb.MASK_FORMAT_PROBABILITIES, MaskFormat.PROBABILITIES),
}
_AT_MODEL_SIZE: dict[int, bool] = {
    pb.MASK_SIZE_UNSPECIFIED: False,
    pb.MASK_SIZE_PICTURE: False,
    pb.MASK_SIZE_MODEL: True,
}
_SPARSE: dict[int, bool] = {
    pb.ENCODING_FORM_UNSPECIFIED: False,
    pb.ENCODING_FORM_DENSE: False,
    pb.ENCODING_FORM_SPARSE: True,
}


class EncoderServicer(pb_grpc.EncoderServiceServicer):
    """Converts between the native messages and the engine.

    Args:
        engine: does the work.
        reception: takes the requests in and ends those that fail.
    """

    def __init__(self, engine: Engine, reception: Reception) -> None:
        self._engine = engine
        self._reception = reception

    def Segment(self, request: pb.SegmentRequest, context: grpc.ServicerContext) -> pb.SegmentResponse:  # noqa: N802
        """The pedestrian mask of one picture."""
        return self._reception.answer("Segment", _model(request.model), context, lambda call: self._mask(request, call))

    def SegmentStream(  # noqa: N802
        self, request_iterator: Iterator[pb.SegmentStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.SegmentStreamResponse]:
        """The masks of a video or a camera."""

        def prepare(frame: pb.SegmentStreamRequest) -> tuple[Asked, Callable[[Call], pb.SegmentStreamResponse]]:
            return _model(frame.request.model), lambda call: pb.SegmentStreamResponse(
                frame=frame.frame, response=self._mask(frame.request, call)
            )

        def refuse(frame: pb.SegmentStreamRequest, status: grpc.StatusCode, message: str) -> pb.SegmentStreamResponse:
            return pb.SegmentStreamResponse(frame=frame.frame, error=pb.Error(code=status.value[0], message=message))

        return self._reception.stream("SegmentStream", context, request_iterator, prepare, refuse)

    def Encode(self, request: pb.EncodeRequest, context: grpc.ServicerContext) -> pb.EncodeResponse:  # noqa: N802
        """The encodings of one picture or of a batch of rows."""
        name, version = _model(request.model)

        def work(call: Call) -> pb.EncodeResponse:
            _set_priority(call, request.priority)
            form = _choice(_SPARSE, request.form, "encoding form")
            answer = self._engine.encode(name, version, _source(request.picture), call=call)
            encoding = answer.outputs["encoding"]
            if request.top:
                encoding = sparse.keep_top(encoding, request.top)
            if form:
                return pb.EncodeResponse(
                    model=_spec(answer), timings=_timings(answer.timings), sparse=sparse.from_dense(encoding)
                )
            return pb.EncodeResponse(model=_spec(answer), timings=_timings(answer.timings), encoding=_tensor(encoding))

        return self._reception.answer("Encode", (name, version), context, work)

    def Reconstruct(  # noqa: N802
        self, request: pb.ReconstructRequest, context: grpc.ServicerContext
    ) -> pb.ReconstructResponse:
        """What the auto-encoder makes of one picture, of a batch of rows, or of encodings."""
        name, version = _model(request.model)

        def work(call: Call) -> pb.ReconstructResponse:
            _set_priority(call, request.priority)
            match request.WhichOneof("source"):
                case "encoding":
                    answer = self._engine.decode(name, version, _array(request.encoding), call=call)
                case "sparse":
                    answer = self._engine.decode(name, version, sparse.to_dense(request.sparse), call=call)
                case _:
                    answer = self._engine.reconstruct(name, version, _source(request.picture), call=call)
            return pb.ReconstructResponse(
                model=_spec(answer),
                reconstruction=_tensor(answer.outputs["reconstruction"]),
                timings=_timings(answer.timings),
            )

        return self._reception.answer("Reconstruct", (name, version), context, work)

    def ListModels(  # noqa: N802
        self, request: pb.ListModelsRequest, context: grpc.ServicerContext
    ) -> pb.ListModelsResponse:
        """The models of the repository."""
        del request  # it says nothing

        def work(call: Call) -> pb.ListModelsResponse:
            call.check()
            repository = self._engine.repository
            ready = repository.ready
            return pb.ListModelsResponse(
                models=[
                    _info(servable, ready, repository.labels(servable.name, servable.version))
                    for servable in repository.servables()
                ]
            )

        return self._reception.answer("ListModels", ("", None), context, work)

    def _mask(self, request: pb.SegmentRequest, call: Call) -> pb.SegmentResponse:
        _set_priority(call, request.priority)
        form, mask_format = _choice(_FORMATS, request.format, "mask format")
        name, version = _model(request.model)
        answer = self._engine.segment(
            name,
            version,
            _source(request.picture),
            threshold=request.threshold if request.HasField("threshold") else None,
            form=mask_format,
            at_model_size=_choice(_AT_MODEL_SIZE, request.size, "mask size"),
            call=call,
        )
        return pb.SegmentResponse(
            model=pb.ModelSpec(name=answer.model, version=answer.version),
            mask=pb.Mask(format=form, height=answer.height, width=answer.width, data=answer.mask),
            threshold=answer.threshold,
            foreground_fraction=answer.foreground_fraction,
            timings=_timings(answer.timings),
        )


def add_to(server: Registrar, servicer: EncoderServicer) -> None:
    """Registers the servicer."""
    pb_grpc.add_EncoderServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]  # generated


def _model(spec: pb.ModelSpec) -> Asked:
    if spec.HasField("version"):
        return spec.name, spec.version
    return spec.name, spec.label or None


def _set_priority(call: Call, priority: int) -> None:
    if priority > PRIORITIES:
        raise InvalidInputError(f"the priority is 1 to {PRIORITIES}, or 0 for the usual one. Received: {priority}")
    call.priority = priority or USUAL


def _choice(table: dict[int, Option], number: int, what: str) -> Option:
    """Looks up an enum; proto3 lets any number through."""
    if number not in table:
        raise InvalidInputError(f"the {what} is one of {min(table)} to {max(table)}. Received: {number}")
    return table[number]


def _source(picture: pb.Picture) -> Source:
    match picture.WhichOneof("source"):
        case "encoded":
            return picture.encoded
        case "tensor":
            return _array(picture.tensor)
        case _:
            raise InvalidInputError("the request holds no picture: set encoded or tensor")


def _array(tensor: pb.Tensor) -> Array:
    """Reads a tensor without copying its bytes."""
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        raise InvalidInputError(f"a tensor's dtype is UINT8 (1) or FP32 (2). Received: {tensor.dtype}")
    shape = list(tensor.shape)
    if not shape or min(shape) < 1:
        raise InvalidInputError(f"a tensor's shape has sizes of at least 1. Received: {shape}")
    expected = math.prod(shape) * dtype.itemsize
    if len(tensor.data) != expected:
        raise InvalidInputError(
            f"a tensor {dtype.name} {shape} has {expected} bytes. Received: {len(tensor.data)} bytes"
        )
    return np.frombuffer(tensor.data, dtype).reshape(shape)


def _tensor(array: Array) -> pb.Tensor:
    return pb.Tensor(dtype=pb.DATA_TYPE_FP32, shape=array.shape, data=array.astype("<f4", copy=False).tobytes())


def _spec(answer: Inference) -> pb.ModelSpec:
    return pb.ModelSpec(name=answer.model, version=answer.version)


def _timings(timings: Timings) -> pb.Timings:
    return pb.Timings(
        decode_seconds=timings.decode,
        queue_seconds=timings.queue,
        inference_seconds=timings.inference,
        postprocess_seconds=timings.postprocess,
        total_seconds=timings.total,
    )


def _info(servable: Servable, ready: bool, labels: Sequence[str]) -> pb.ModelInfo:
    manifest = servable.manifest
    return pb.ModelInfo(
        name=manifest.name,
        version=manifest.version,
        family=manifest.family,
        inputs=[_tensor_info(spec) for spec in manifest.inputs],
        outputs=[_tensor_info(spec) for spec in manifest.outputs],
        ready=ready,
        provider=servable.provider,
        data_source=manifest.training.data_source,
        scores=manifest.scores,
        default_threshold=manifest.default_threshold,
        decodes="reconstruction" in servable.decodes,
        labels=labels,
    )


def _tensor_info(spec: TensorSpec) -> pb.TensorInfo:
    return pb.TensorInfo(name=spec.name, dtype=spec.dtype, shape=spec.shape)
