"""What is asked of each system: the same rows, in the words of each protocol, and what must come back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np

from serving import imaging, manifest
from serving.backend import OnnxBackend, Runtime
from serving.pb.open_inference import grpc_service_pb2 as oip
from serving.pb.sparsewalk.v1 import encoder_pb2 as native
from serving.pb.tensorflow_serving import apis_pb2 as tfs
from serving.servicers import sparse, tensor_protos

Array = np.ndarray

RAW, BARE, NATIVE, COMPACT, OPEN_INFERENCE, SHARED, TENSORFLOW, STREAM, SHARED_STREAM = (
    "raw onnxruntime",
    "bare grpcio",
    "native",
    # What belongs to the protocol for just this: pictures as the bytes they are, and of a sparse code what is not 0.
    "native, bytes in, sparse out",
    "Open Inference",
    # For callers on the server's machine: only where the rows lie goes through gRPC.
    "Open Inference, shared memory",
    "TensorFlow Serving",
    "stream",
    "stream, shared memory",
)
SYSTEMS = (RAW, BARE, NATIVE, COMPACT, OPEN_INFERENCE, SHARED, TENSORFLOW, STREAM, SHARED_STREAM)

_ENCODE = "/sparsewalk.v1.EncoderService/Encode"
_SEGMENT = "/sparsewalk.v1.EncoderService/Segment"
_SEGMENT_STREAM = "/sparsewalk.v1.EncoderService/SegmentStream"
_INFER = "/inference.GRPCInferenceService/ModelInfer"
_INFER_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
_PREDICT = "/tensorflow.serving.PredictionService/Predict"


@dataclass(frozen=True)
class Ask:
    """One request as bytes, and how to read the rows out of its answer."""

    method: str
    request: bytes
    read: Callable[[bytes], Array]
    stream: bool = False


class Memory:
    """Memory of this machine that the server reads the rows from and puts its answers into.

    Args:
        size: in bytes.
    """

    def __init__(self, size: int) -> None:
        self._object = SharedMemory(create=True, size=size)
        self._used = 0
        self.region = "bench"
        self.size = size

    @property
    def key(self) -> str:
        """Under which the system knows it."""
        return self._object.name

    def reserve(self, size: int) -> int:
        """Takes room; returns its offset."""
        offset = self._used
        self._used += size
        if self._used > self.size:
            raise ValueError(f"more than {self.size} bytes of shared memory are needed")
        return offset

    def write(self, offset: int, data: bytes) -> None:
        """Puts bytes there."""
        self._object.buf[offset : offset + len(data)] = data

    def array(self, offset: int, shape: Sequence[int]) -> Array:
        """The float32 values there."""
        return np.frombuffer(self._object.buf, np.float32, math.prod(shape), offset).reshape(shape).copy()

    def close(self) -> None:
        """Gives it back."""
        self._object.close()
        self._object.unlink()


@dataclass(frozen=True)
class Scenario:
    """A model, an input and an output.

    Attributes:
        rows: in one request.
        inputs, output: of the raw session.
        expected: what the raw session gives, as every system must.
        asks: system -> its request.
    """

    name: str
    model: str
    rows: int
    inputs: dict[str, Array]
    output: str
    expected: Array
    asks: dict[str, Ask] = field(default_factory=dict)

    def check(self, system: str, answer: bytes) -> None:
        """Holds an answer to what the raw session says.

        Raises:
            ValueError: it is something else.
        """
        found = self.asks[system].read(answer)
        if found.shape != self.expected.shape or not np.allclose(found, self.expected, atol=1e-5):
            raise ValueError(f"{self.name}: {system} answers other rows than the raw session")


def build(models: Path, threads: int, rows: Sequence[int], memory: Memory | None = None) -> list[Scenario]:
    """The scenarios, with what the raw sessions answer.

    Args:
        models: the model repository.
        threads: of the raw sessions.
        rows: in one request for an encoding, a scenario each.
        memory: shared with the server; None: nothing is asked through it.
    """
    rng = np.random.default_rng(0)
    runtime = Runtime.choose("cpu", threads)
    digits, unet = (open_model(models, name, runtime) for name in ("mnist_k_sparse", "pedestrian_unet"))
    scenarios = []
    for count in rows:
        pixels = np.where(rng.random((count, 784)) < 0.2, rng.integers(0, 256, (count, 784)), 0).astype(np.uint8)
        image = pixels.astype(np.float32) / np.float32(255)
        (expected,) = digits.run({"image": image}, ("encoding",))
        scenarios.append(_encode(f"MNIST encoding, {count} row{'s' if count > 1 else ''}", image, pixels, expected))
        _share(scenarios[-1], memory)
    picture = rng.integers(0, 256, (128, 128, 3), np.uint8)
    batch = picture[np.newaxis]
    (expected,) = unet.run({"image": batch}, ("mask",))
    scenarios.append(_infer("U-Net, 128x128 uint8 tensor", "pedestrian_unet", batch, "mask", expected))
    _share(scenarios[-1], memory)
    resizing = manifest.read(_newest(models, "pedestrian_unet") / manifest.FILE_NAME).resizing
    resized, geometry = imaging.resize(picture, resizing.rule, resizing.height, resizing.width, resizing.pad_value)
    batch = resized[np.newaxis]
    (whole,) = unet.run({"image": batch}, ("mask",))
    expected = np.packbits(imaging.to_mask(imaging.restore(whole[0, :, :, 0], geometry), 0.5)).astype(np.float32)
    scenarios.append(
        _segment(f"Segment, 128x128 picture at {resizing.height}x{resizing.width}", picture, batch, expected)
    )
    return scenarios


def _share(scenario: Scenario, memory: Memory | None) -> None:
    """Adds the requests whose rows lie in shared memory, as do those of the answers afterwards."""
    if memory is None:
        return
    asked = oip.ModelInferRequest(model_name=scenario.model)
    (image,) = scenario.inputs.values()
    asked.inputs.add(name="image", datatype="UINT8" if image.dtype == np.uint8 else "FP32", shape=image.shape)
    asked.outputs.add(name=scenario.output)
    offsets = []
    for tensor, size in ((asked.inputs[0], image.nbytes), (asked.outputs[0], scenario.expected.nbytes)):
        offsets.append(memory.reserve(size))
        tensor.parameters["shared_memory_region"].string_param = memory.region
        tensor.parameters["shared_memory_byte_size"].int64_param = size
        tensor.parameters["shared_memory_offset"].int64_param = offsets[-1]
    memory.write(offsets[0], image.tobytes())

    def read(answer: bytes) -> Array:
        return memory.array(offsets[1], oip.ModelInferResponse.FromString(answer).outputs[0].shape)

    def read_stream(answer: bytes) -> Array:
        return read(oip.ModelStreamInferResponse.FromString(answer).infer_response.SerializeToString())

    scenario.asks[SHARED] = Ask(_INFER, asked.SerializeToString(), read)
    scenario.asks[SHARED_STREAM] = Ask(_INFER_STREAM, asked.SerializeToString(), read_stream, stream=True)


def open_model(models: Path, name: str, runtime: Runtime) -> OnnxBackend:
    """The newest version of a model, with the very session that the server uses."""
    folder = _newest(models, name)
    return OnnxBackend(folder, manifest.read(folder / manifest.FILE_NAME), runtime)


def _newest(models: Path, name: str) -> Path:
    return max((models / name).glob("[0-9]*"), key=lambda path: int(path.name))


def _encode(name: str, image: Array, pixels: Array, expected: Array) -> Scenario:
    scenario = _infer(name, "mnist_k_sparse", image, "encoding", expected)
    tensor = native.Tensor(dtype=native.DATA_TYPE_FP32, shape=image.shape, data=image.tobytes())
    request = native.EncodeRequest(model={"name": "mnist_k_sparse"}, picture={"tensor": tensor}).SerializeToString()

    def read(answer: bytes) -> Array:
        encoding = native.EncodeResponse.FromString(answer).encoding
        return np.frombuffer(encoding.data, np.float32).reshape(encoding.shape)

    scenario.asks[NATIVE] = scenario.asks[BARE] = Ask(_ENCODE, request, read)
    tensor = native.Tensor(dtype=native.DATA_TYPE_UINT8, shape=(len(pixels), 28, 28), data=pixels.tobytes())
    compact = native.EncodeRequest(
        model={"name": "mnist_k_sparse"}, picture={"tensor": tensor}, form=native.ENCODING_FORM_SPARSE
    )

    def read_sparse(answer: bytes) -> Array:
        return sparse.to_dense(native.EncodeResponse.FromString(answer).sparse)

    scenario.asks[COMPACT] = Ask(_ENCODE, compact.SerializeToString(), read_sparse)
    return scenario


def _infer(name: str, model: str, image: Array, output: str, expected: Array) -> Scenario:
    asked = oip.ModelInferRequest(model_name=model, raw_input_contents=[image.tobytes()])
    asked.inputs.add(name="image", datatype="UINT8" if image.dtype == np.uint8 else "FP32", shape=image.shape)
    asked.outputs.add(name=output)

    def read(answer: bytes) -> Array:
        return _rows(oip.ModelInferResponse.FromString(answer))

    def read_stream(answer: bytes) -> Array:
        return _rows(oip.ModelStreamInferResponse.FromString(answer).infer_response)

    predict = tfs.PredictRequest(model_spec={"name": model}, output_filter=[output])
    tensor = predict.inputs["image"]
    tensor.dtype = tensor_protos.CODES["UINT8" if image.dtype == np.uint8 else "FP32"]
    for size in image.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = image.tobytes()

    def read_predict(answer: bytes) -> Array:
        found = tfs.PredictResponse.FromString(answer).outputs[output]
        return np.array(found.float_val, np.float32).reshape([dim.size for dim in found.tensor_shape.dim])

    request = asked.SerializeToString()
    return Scenario(
        name,
        model,
        len(image),
        {"image": image},
        output,
        expected,
        {
            BARE: Ask(_INFER, request, read),
            OPEN_INFERENCE: Ask(_INFER, request, read),
            TENSORFLOW: Ask(_PREDICT, predict.SerializeToString(), read_predict),
            STREAM: Ask(_INFER_STREAM, request, read_stream, stream=True),
        },
    )


def _rows(response: oip.ModelInferResponse) -> Array:
    return np.frombuffer(response.raw_output_contents[0], np.float32).reshape(response.outputs[0].shape)


def _segment(name: str, picture: Array, batch: Array, expected: Array) -> Scenario:
    tensor = native.Tensor(dtype=native.DATA_TYPE_UINT8, shape=picture.shape, data=picture.tobytes())
    request = native.SegmentRequest(
        model={"name": "pedestrian_unet"},
        picture={"tensor": tensor},
        format=native.MASK_FORMAT_PACKED_BITS,
        threshold=0.5,
    )

    def bits(response: native.SegmentResponse) -> Array:
        return np.frombuffer(response.mask.data, np.uint8).astype(np.float32)

    return Scenario(
        name,
        "pedestrian_unet",
        1,
        {"image": batch},
        "mask",
        expected,
        {
            NATIVE: Ask(
                _SEGMENT, request.SerializeToString(), lambda answer: bits(native.SegmentResponse.FromString(answer))
            ),
            STREAM: Ask(
                _SEGMENT_STREAM,
                native.SegmentStreamRequest(frame=1, request=request).SerializeToString(),
                lambda answer: bits(native.SegmentStreamResponse.FromString(answer).response),
                stream=True,
            ),
        },
    )
