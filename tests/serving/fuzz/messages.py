"""Messages that no client would send: valid ones changed, made-up ones of the right type, and plain noise."""

import io
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from PIL import Image

from serving.pb.open_inference import grpc_service_pb2 as oip
from serving.pb.sparsewalk.v1 import encoder_pb2 as native
from serving.pb.tensorflow_serving import apis_pb2 as tfs
from serving.servicers import tensor_protos

MODELS = ("red", "digits", "halves")
# A shared memory object that there is, and the region that is registered of it.
KEY, REGION, REGION_BYTES = "sparsewalk-fuzz", "region", 2**14

_FILES = (native, oip, tfs, health_pb2, reflection_pb2)
_NUMBERS = (0, 1, 2, 3, 7, 8, 28, 255, 784, 2**15, 2**31 - 1)
_SIGNED = (-1, -2, -(2**31), *_NUMBERS)
_WIDE = (2**32, 2**63 - 1)
_FLOATS = (0.0, -0.0, 0.5, 1.0, -1.0, 1e38, 1e-45, float("inf"), float("-inf"), float("nan"))
_TEXTS = (
    *MODELS,
    *("", "image", "encoding", "reconstruction", "mask", "FP32", "UINT8", "BYTES", "FP16", "BOOL", "INT64"),
    *("serving_default", "signature_def", "1", "-1", "99999999999999999999", "stable", "../red", "/etc/passwd"),
    *(KEY, REGION, "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"),
    *("x" * 5000, "a\nb", "\0", "\u202e", "𝕏", "timeout", "priority", "sequence_id", "binary_data"),
)


@dataclass(frozen=True)
class Method:
    """One method of one service.

    Attributes:
        path: as on the wire.
        request: its message class.
        client_streams, server_streams: whether there are several requests, or answers.
        endless: whether the answers go on until the caller leaves.
    """

    path: str
    request: type[Message]
    client_streams: bool
    server_streams: bool
    endless: bool


def methods() -> list[Method]:
    """Every method of every service that the server has."""
    services: list[ServiceDescriptor] = [
        service for file in _FILES for service in file.DESCRIPTOR.services_by_name.values()
    ]
    return [
        Method(
            f"/{service.full_name}/{method.name}",
            message_factory.GetMessageClass(method.input_type),
            method.client_streaming,
            method.server_streaming,
            endless=method.full_name == "grpc.health.v1.Health.Watch",
        )
        for service in services
        for method in service.methods
    ]


def valid(kind: type[Message]) -> list[Message]:
    """Messages of a type to start from: such as the server answers with OK, and pictures at its limits."""
    rows = np.linspace(0, 1, 2 * 784, dtype=np.float32).reshape(2, 784)
    picture = np.arange(32 * 64 * 3, dtype=np.uint8).reshape(32, 64, 3)
    codes = rows[:, :4]
    of: dict[type[Message], list[Message]] = {
        native.SegmentRequest: [_segment(picture), *map(_segment, _files())],
        native.SegmentStreamRequest: [native.SegmentStreamRequest(frame=7, request=_segment(picture))],
        native.EncodeRequest: [
            native.EncodeRequest(model={"name": "digits"}, picture={"encoded": _files()[0]}),
            native.EncodeRequest(model={"name": "digits"}, picture={"tensor": _tensor(rows)}),
            native.EncodeRequest(
                model={"name": "halves"}, picture={"tensor": _tensor(rows)}, form=native.ENCODING_FORM_SPARSE, top=2
            ),
        ],
        native.ReconstructRequest: [
            native.ReconstructRequest(model={"name": "digits"}, picture={"tensor": _tensor(rows)}),
            native.ReconstructRequest(model={"name": "halves"}, encoding=_tensor(codes)),
            native.ReconstructRequest(
                model={"name": "halves"},
                sparse=native.SparseRows(width=4, row_starts=[0, 1, 2], indices=[3, 0], values=[1, 2]),
            ),
        ],
        oip.ModelInferRequest: [
            _infer("digits", "FP32", rows),
            _infer("red", "UINT8", picture[np.newaxis]),
            _infer_shared(rows),
        ],
        oip.SystemSharedMemoryRegisterRequest: [
            oip.SystemSharedMemoryRegisterRequest(name=REGION, key=KEY, byte_size=REGION_BYTES)
        ],
        oip.SystemSharedMemoryUnregisterRequest: [oip.SystemSharedMemoryUnregisterRequest(name="another")],
        tfs.PredictRequest: [_predict("digits", rows), _predict("red", picture[np.newaxis])],
        tfs.GetModelMetadataRequest: [
            tfs.GetModelMetadataRequest(model_spec={"name": "red"}, metadata_field=["signature_def"])
        ],
        tfs.GetModelStatusRequest: [tfs.GetModelStatusRequest(model_spec={"name": "red"})],
        tfs.ReloadConfigRequest: [_reload()],
        oip.RepositoryModelLoadRequest: [oip.RepositoryModelLoadRequest(model_name="red")],
        reflection_pb2.ServerReflectionRequest: [reflection_pb2.ServerReflectionRequest(list_services="")],
    }
    return of.get(kind, [kind()])


def _segment(picture: np.ndarray | bytes) -> native.SegmentRequest:
    source = {"encoded": picture} if isinstance(picture, bytes) else {"tensor": _tensor(picture)}
    return native.SegmentRequest(model={"name": "red"}, picture=source, threshold=0.5, priority=2)


def _files() -> list[bytes]:
    """A picture in each form that is read, and two that are small files of large pictures."""
    files = []
    for form, size in (
        ("JPEG", (16, 8)),
        ("PNG", (16, 8)),
        ("BMP", (16, 8)),
        ("WEBP", (16, 8)),
        ("PNG", (1, 1_000_001)),
    ):
        buffer = io.BytesIO()
        Image.new("L", size, 100).save(buffer, format=form, **({"lossless": True} if form == "WEBP" else {}))
        files.append(buffer.getvalue())
    webp = bytearray(files[3])
    webp[21:25] = (2**28 - 1).to_bytes(4, "little")  # 16384 x 16384
    return [*files, bytes(webp)]


def _tensor(array: np.ndarray) -> native.Tensor:
    dtype = native.DATA_TYPE_UINT8 if array.dtype == np.uint8 else native.DATA_TYPE_FP32
    return native.Tensor(dtype=dtype, shape=array.shape, data=array.tobytes())


def _infer(model: str, datatype: str, image: np.ndarray) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name=model, id="7", raw_input_contents=[image.tobytes()])
    request.inputs.add(name="image", datatype=datatype, shape=image.shape)
    request.parameters["timeout"].int64_param = 5_000_000
    return request


def _infer_shared(image: np.ndarray) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name="digits")
    request.inputs.add(name="image", datatype="FP32", shape=image.shape)
    request.outputs.add(name="reconstruction")
    for tensor, offset in ((request.inputs[0], 0), (request.outputs[0], REGION_BYTES // 2)):
        tensor.parameters["shared_memory_region"].string_param = REGION
        tensor.parameters["shared_memory_byte_size"].int64_param = image.nbytes
        tensor.parameters["shared_memory_offset"].int64_param = offset
    return request


def _predict(model: str, image: np.ndarray) -> tfs.PredictRequest:
    request = tfs.PredictRequest(model_spec={"name": model, "signature_name": "serving_default"})
    tensor = request.inputs["image"]
    tensor.dtype = tensor_protos.CODES["UINT8" if image.dtype == np.uint8 else "FP32"]
    for size in image.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = image.tobytes()
    return request


def _reload() -> tfs.ReloadConfigRequest:
    request = tfs.ReloadConfigRequest()
    for name in MODELS:
        request.config.model_config_list.config.add(name=name, base_path=f"/models/{name}", model_platform="tensorflow")
    return request


class Fuzzer:
    """Makes messages; the same ones for the same seed.

    Args:
        seed: of all that is drawn.
    """

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._methods = methods()
        self._valid = {
            method.path: [each.SerializeToString() for each in valid(method.request)] for method in self._methods
        }

    def draw(self) -> tuple[Method, list[bytes]]:
        """A method, and what to send: one message, or several where the caller streams."""
        method = self._rng.choice(self._methods)
        count = self._rng.randint(1, 4) if method.client_streams else 1
        return method, [self._message(method) for _ in range(count)]

    def _message(self, method: Method) -> bytes:
        make = self._rng.choices((self._changed_bytes, self._changed_fields, self._made_up, self._noise), (4, 4, 2, 1))[
            0
        ]
        return make(method)

    def _changed_bytes(self, method: Method) -> bytes:
        data = bytearray(self._rng.choice(self._valid[method.path]))
        for _ in range(self._rng.randint(1, 8)):
            at = (
                self._rng.randint(0, len(data))
                if self._rng.random() < 0.5
                else self._rng.randint(0, min(len(data), 60))
            )
            match self._rng.randint(0, 4):
                case 0 if at < len(data):
                    data[at] ^= 1 << self._rng.randint(0, 7)
                case 1:
                    data[at:at] = self._rng.randbytes(self._rng.randint(1, 9))
                case 2:
                    del data[at : at + self._rng.randint(1, 9)]
                case 3:
                    del data[at:]
                case _:
                    data[at:at] = data[at : at + self._rng.randint(1, 40)]
        return bytes(data)

    def _changed_fields(self, method: Method) -> bytes:
        message = method.request.FromString(self._rng.choice(self._valid[method.path]))
        for _ in range(self._rng.randint(1, 3)):
            places = list(_places(message))
            if places:
                self._change(*self._rng.choice(places))
        return bytes(message.SerializeToString())

    def _made_up(self, method: Method) -> bytes:
        message = method.request()
        self._fill(message, 4)
        return bytes(message.SerializeToString())

    def _noise(self, method: Method) -> bytes:
        del method
        return self._rng.randbytes(self._rng.choice((0, 1, 2, 5, 40, 1000, 100_000)))

    def _change(self, message: Message, field: FieldDescriptor) -> None:
        if self._rng.random() < 0.3:
            message.ClearField(field.name)
        else:
            self._set(message, field, 2)

    def _fill(self, message: Message, depth: int) -> None:
        for field in message.DESCRIPTOR.fields:
            if self._rng.random() < 0.5:
                self._set(message, field, depth)

    def _set(self, message: Message, field: FieldDescriptor, depth: int) -> None:
        """Gives a field a value of its type, and of no more sense than that."""
        count = self._rng.choice((1, 1, 2, 5)) if field.is_repeated else 1
        holder = getattr(message, field.name)
        for _ in range(count):
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                self._set_entry(holder, field.message_type, depth)
            elif field.message_type is not None:
                if depth > 0:
                    part = holder.add() if field.is_repeated else holder
                    part.SetInParent()
                    self._fill(part, depth - 1)
            elif field.is_repeated:
                holder.append(self._scalar(field))
            else:
                setattr(message, field.name, self._scalar(field))

    def _set_entry(self, holder: Any, entry: Descriptor, depth: int) -> None:
        key, content = entry.fields_by_name["key"], entry.fields_by_name["value"]
        name = self._scalar(key)
        if content.message_type is None:
            holder[name] = self._scalar(content)
        elif depth > 0:
            self._fill(holder[name], depth - 1)

    def _scalar(self, field: FieldDescriptor) -> Any:
        pick: dict[int, Callable[[], Any]] = {
            FieldDescriptor.CPPTYPE_STRING: lambda: (
                self._rng.choice(_TEXTS)
                if field.type == FieldDescriptor.TYPE_STRING
                else self._rng.randbytes(self._rng.choice((0, 1, 16, 3136, 6272)))
            ),
            FieldDescriptor.CPPTYPE_BOOL: lambda: self._rng.random() < 0.5,
            FieldDescriptor.CPPTYPE_FLOAT: lambda: self._rng.choice(_FLOATS),
            FieldDescriptor.CPPTYPE_DOUBLE: lambda: self._rng.choice(_FLOATS),
            FieldDescriptor.CPPTYPE_ENUM: lambda: self._rng.choice((0, 1, 2, 3, 99)),
            FieldDescriptor.CPPTYPE_UINT32: lambda: self._rng.choice(_NUMBERS),
            FieldDescriptor.CPPTYPE_UINT64: lambda: self._rng.choice(_NUMBERS + _WIDE),
            FieldDescriptor.CPPTYPE_INT32: lambda: self._rng.choice(_SIGNED),
            FieldDescriptor.CPPTYPE_INT64: lambda: self._rng.choice(_SIGNED + _WIDE),
        }
        return pick[field.cpp_type]()


def _places(message: Message) -> Iterator[tuple[Message, FieldDescriptor]]:
    """Every field of a message and of those within it that are set."""
    for field in message.DESCRIPTOR.fields:
        yield message, field
    for field, content in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for part in content if field.is_repeated else [content]:
            yield from _places(part)
