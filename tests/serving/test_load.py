"""A real server under a real load: whoever asks gets his own rows, whatever the others do and whatever changes."""

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime

from serving.pb.open_inference import grpc_service_pb2 as oip
from serving.pb.open_inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from serving.pb.sparsewalk.v1 import encoder_pb2 as native
from serving.pb.sparsewalk.v1.encoder_pb2_grpc import EncoderServiceStub
from serving.pb.tensorflow_serving import apis_pb2 as tfs
from serving.pb.tensorflow_serving.apis_pb2_grpc import PredictionServiceStub
from serving.servicers import tensor_protos
from tests.serving.test_metrics import page, value

Start = Callable[..., Any]
Array = np.ndarray
# What a caller does to one request in ten, each.
PATIENT, CANCELS, HURRIES = "patient", "cancels", "hurries"

CALLERS, EACH = 20, 500


class Single:
    """What single runs of the models give: the session alone, one request at a time."""

    def __init__(self, root: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._sessions = {
            name: onnxruntime.InferenceSession(root / name / "1" / "model.onnx", options)
            for name in ("red", "digits", "halves")
        }

    def run(self, name: str, output: str, image: Array) -> Array:
        (found,) = self._sessions[name].run([output], {"image": image})
        return np.asarray(found)


class Caller:
    """One of many: asks one thing after another, over every protocol, and holds each answer to the single run."""

    def __init__(self, number: int, target: str, single: Single) -> None:
        self._rng = np.random.default_rng(number)
        self._dice = random.Random(number)
        self._single = single
        self._channel = grpc.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)])
        self._encoder = EncoderServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._inference = GRPCInferenceServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._prediction = PredictionServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self.outcomes: Counter[tuple[str, str]] = Counter()

    def work(self, requests: int) -> None:
        kinds = (self._encode, self._reconstruct, self._decode, self._segment, self._infer, self._predict)
        with self._channel:
            asked = 0
            while asked < requests:
                if self._dice.random() < 0.03:
                    asked += self._stream()
                    continue
                self._ask(*self._dice.choice(kinds)())
                asked += 1

    def _ask(self, call: Any, request: Any, read: Callable[[Any], Array], expected: Array) -> None:
        manner = self._dice.choices((PATIENT, CANCELS, HURRIES), (8, 1, 1))[0]
        try:
            if manner == CANCELS:
                future = call.future(request, timeout=60)
                time.sleep(self._dice.random() * 0.004)
                future.cancel()
                answer = future.result()
            else:
                answer = call(request, timeout=self._dice.random() * 0.01 if manner == HURRIES else 60)
        except grpc.FutureCancelledError:
            self.outcomes[manner, "CANCELLED"] += 1
        except grpc.RpcError as error:
            self.outcomes[manner, error.code().name] += 1
        else:
            self._hold(read(answer), expected)
            self.outcomes[manner, "OK"] += 1

    @staticmethod
    def _hold(found: Array, expected: Array) -> None:
        assert found.shape == expected.shape
        # A product of one row may be summed in another order than one of many.
        assert np.array_equal(found, expected) or np.allclose(found, expected, rtol=1e-6, atol=1e-6)

    def _rows(self) -> Array:
        return self._rng.random((self._dice.choice((1, 1, 1, 2, 5, 8)), 784), dtype=np.float32)

    def _encode(self) -> tuple[Any, ...]:
        rows = self._rows()
        request = native.EncodeRequest(model={"name": "digits"}, picture={"tensor": _tensor(rows)})
        expected = self._single.run("digits", "encoding", rows)
        return self._encoder.Encode, request, lambda answer: _array(answer.encoding), expected

    def _reconstruct(self) -> tuple[Any, ...]:
        rows = self._rows()
        request = native.ReconstructRequest(model={"name": "digits"}, picture={"tensor": _tensor(rows)})
        expected = self._single.run("digits", "reconstruction", rows)
        return self._encoder.Reconstruct, request, lambda answer: _array(answer.reconstruction), expected

    def _decode(self) -> tuple[Any, ...]:
        codes = self._rows()[:, :4]
        request = native.ReconstructRequest(model={"name": "halves"}, encoding=_tensor(codes))
        return self._encoder.Reconstruct, request, lambda answer: _array(answer.reconstruction), np.tile(codes, 196)

    def _segment(self) -> tuple[Any, ...]:
        picture = self._picture()[0]
        # At the model's own size nothing is resampled, and what comes back is just what the session gave.
        request = native.SegmentRequest(
            model={"name": "red"},
            picture={"tensor": _tensor(np.resize(picture, (32, 64, 3)))},
            format=native.MASK_FORMAT_PROBABILITIES,
        )
        expected = self._single.run("red", "mask", np.resize(picture, (1, 32, 64, 3)))[0, :, :, 0]
        return self._encoder.Segment, request, lambda answer: _mask(answer), expected

    def _picture(self) -> Array:
        height, width = (self._dice.choice((32, 64, 96)) for _ in range(2))
        return self._rng.integers(0, 256, (self._dice.choice((1, 1, 2, 3)), height, width, 3), np.uint8)

    def _infer(self) -> tuple[Any, ...]:
        picture = self._picture()
        expected = self._single.run("red", "mask", picture)
        return self._inference.ModelInfer, _infer_request("red", "mask", picture), _outputs, expected

    def _predict(self) -> tuple[Any, ...]:
        rows = self._rows()
        request = tfs.PredictRequest(model_spec={"name": "digits"}, output_filter=["encoding"])
        tensor_protos.write(request.inputs["image"], rows)

        def read(answer: tfs.PredictResponse) -> Array:
            return np.asarray(tensor_protos.read("", answer.outputs["encoding"]))

        return self._prediction.Predict, request, read, self._single.run("digits", "encoding", rows)

    def _stream(self) -> int:
        """Several requests over one call: all of them answered, in order."""
        rows = [self._rows() for _ in range(6)]
        requests = [_infer_request("digits", "encoding", each) for each in rows]
        answers = list(self._inference.ModelStreamInfer(iter(requests), timeout=60))
        assert [answer.error_message for answer in answers] == [""] * len(rows)
        for each, answer in zip(rows, answers, strict=True):
            self._hold(_outputs(answer.infer_response), self._single.run("digits", "encoding", each))
            self.outcomes[PATIENT, "OK"] += 1
        return len(rows)


def _tensor(array: Array) -> native.Tensor:
    dtype = native.DATA_TYPE_UINT8 if array.dtype == np.uint8 else native.DATA_TYPE_FP32
    return native.Tensor(dtype=dtype, shape=array.shape, data=array.tobytes())


def _array(tensor: native.Tensor) -> Array:
    return np.frombuffer(tensor.data, np.float32).reshape(tensor.shape)


def _mask(answer: native.SegmentResponse) -> Array:
    return np.frombuffer(answer.mask.data, np.float32).reshape(answer.mask.height, answer.mask.width)


def _infer_request(model: str, output: str, image: Array) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name=model, raw_input_contents=[image.tobytes()])
    request.inputs.add(name="image", datatype="UINT8" if image.dtype == np.uint8 else "FP32", shape=image.shape)
    request.outputs.add(name=output)
    return request


def _outputs(answer: oip.ModelInferResponse) -> Array:
    return np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(answer.outputs[0].shape)


def test_each_of_ten_thousand_mixed_requests_gets_its_own_rows(tmp_path: Path, build: Any, start: Start) -> None:
    """Models, sizes, protocols, streams, cancelled and hurried callers, and a model that is reloaded all the while."""
    for name in ("red", "digits", "halves"):
        build(tmp_path, name)
    running = start(tmp_path, "--max-batch-size", "16", "--max-queue-size", "1000")
    single = Single(tmp_path)
    callers = [Caller(number, running.target, single) for number in range(CALLERS)]
    done = threading.Event()
    reloads = 0

    def reload() -> int:
        count = 0
        with grpc.insecure_channel(running.target) as channel:
            stub = GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
            while not done.wait(0.02) or count < 100:
                # Changed as far as the server can see, and so really loaded.
                os.utime(tmp_path / "digits" / "1" / "manifest.json", ns=(count, count))
                stub.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name="digits"), timeout=60)
                count += 1
        return count

    with ThreadPoolExecutor(CALLERS + 1) as pool:
        reloading = pool.submit(reload)
        try:
            for finished in [pool.submit(caller.work, EACH) for caller in callers]:
                finished.result()
        finally:
            done.set()
        reloads = reloading.result()
    outcomes = sum((caller.outcomes for caller in callers), Counter())
    assert outcomes.total() >= CALLERS * EACH
    # Who waits is answered; who goes away or sets a deadline gets what that comes to, and nothing else.
    kept = {PATIENT: {"OK"}, CANCELS: {"OK", "CANCELLED"}, HURRIES: {"OK", "DEADLINE_EXCEEDED"}}
    assert all(code in kept[manner] for manner, code in outcomes), outcomes
    assert outcomes[CANCELS, "CANCELLED"] > 100
    assert outcomes[HURRIES, "DEADLINE_EXCEEDED"] > 100
    assert reloads >= 100
    _wait_until(lambda: value(page(running.metrics_url), "sparsewalk_requests_in_flight") == 0)
    assert value(page(running.metrics_url), "sparsewalk_queue_depth", model="digits", version="1") == 0
    code, errors = running.stop()
    assert code == 0
    assert "Traceback" not in errors


def test_sigterm_with_64_requests_in_flight_answers_all(tmp_path: Path, build: Any, start: Start) -> None:
    build(tmp_path, "slow")
    running = start(tmp_path, "--max-batch-size", "8", "--grace-seconds", "60")
    # Each fills a batch. Some are answered while the last ones are being sent, so there are more than 64.
    request = native.EncodeRequest(model={"name": "slow"}, picture={"tensor": _tensor(np.zeros((8, 784), np.float32))})
    with grpc.insecure_channel(running.target) as channel:
        stub = EncoderServiceStub(channel)  # type: ignore[no-untyped-call]
        futures = [stub.Encode.future(request, timeout=60) for _ in range(96)]

        def in_flight() -> float:
            return value(page(running.metrics_url), "sparsewalk_requests_in_flight")

        _wait_until(lambda: sum(future.done() for future in futures) + in_flight() >= 96)
        assert in_flight() >= 64
        running.process.terminate()
        # Over a new connection and over the one whose requests are still under way.
        for ask in (partial(_ask_anew, running.target, request), partial(stub.Encode, request, timeout=1)):
            # DEADLINE_EXCEEDED: it was let in before the drain, and waits its turn.
            told: list[grpc.StatusCode] = []
            _wait_until(lambda ask=ask, told=told: _last(told, ask) is grpc.StatusCode.UNAVAILABLE)  # type: ignore[misc]
            assert set(told) <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
        refused_while_busy = not all(future.done() for future in futures)
        assert [len(_array(future.result().encoding)) for future in futures] == [8] * 96
        assert refused_while_busy
    assert running.process.wait(timeout=30) == 0


def _ask_anew(target: str, request: native.EncodeRequest) -> Any:
    with grpc.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        return EncoderServiceStub(channel).Encode(request, timeout=1)  # type: ignore[no-untyped-call]


def _last(told: list[grpc.StatusCode], ask: Callable[[], Any]) -> grpc.StatusCode:
    told.append(_status(ask))
    return told[-1]


def _status(ask: Callable[[], Any]) -> grpc.StatusCode:
    try:
        ask()
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def _wait_until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)
