"""What bounds the memory of a run where the size of pictures is the caller's choice."""

import io
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from serving.backend import CPU, OnnxBackend, Runtime
from serving.batcher import Batch, DynamicBatcher
from serving.call import Call
from serving.engine import Engine
from serving.errors import InvalidInputError, ModelError
from serving.metrics import Metrics
from serving.model_settings import MAX_RUN_PIXELS, Limits
from serving.pb.open_inference import grpc_service_pb2 as pb
from serving.pb.open_inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from serving.repository import ModelRepository

Array = np.ndarray[Any, Any]

# Of rows [height, width] alone.
LIMIT = 100


class Model:
    """Answers rows as they are; holds every run until it is told to go on."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.started = threading.Semaphore(0)
        self.gate = threading.Event()
        self.batches: list[Batch] = []

    def run(self, inputs: Mapping[str, Array], outputs: tuple[str, ...]) -> list[Array]:
        self.shapes.append(inputs["x"].shape)
        self.started.release()
        assert self.gate.wait(10)
        return [inputs["x"] for _ in outputs]


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def make(model: Model) -> Iterator[Callable[..., DynamicBatcher]]:
    made: list[DynamicBatcher] = []

    def make_one(caller_runs: bool = False, **changes: Any) -> DynamicBatcher:
        made.append(
            DynamicBatcher(
                [model.run],
                name="m/1",
                limits=Limits(8, 16, max_run_pixels=LIMIT, **changes),
                caller_runs=caller_runs,
                on_batch=model.batches.append,
                pixels=lambda inputs: inputs["x"].shape[1] * inputs["x"].shape[2],
            )
        )
        made[-1].start()
        return made[-1]

    yield make_one
    model.gate.set()
    for each in made:
        each.close()


def rows(count: int, pixels: int) -> dict[str, Array]:
    return {"x": np.zeros((count, 1, pixels), np.uint8)}


def test_a_batch_is_closed_before_it_would_pass_the_limit(make: Callable[..., DynamicBatcher], model: Model) -> None:
    batcher = make()
    tickets = [batcher.submit(rows(1, 1), ("y",), Call())]
    assert model.started.acquire(timeout=5)
    asked = [(1, 40), (1, 40), (1, 40), (4, 10), (6, 10), (5, 10), (1, 10), (1, 100), (8, 12)]
    tickets += [batcher.submit(rows(*each), ("y",), Call()) for each in asked]
    model.gate.set()
    assert [ticket.result().outputs["y"].shape[0] for ticket in tickets] == [1, *(count for count, _ in asked)]
    # In order among equals: the last row of 10 does not overtake the five before it.
    assert [(shape[0], shape[2]) for shape in model.shapes] == [
        (1, 1), (2, 40), (1, 40), (4, 10), (6, 10), (6, 10), (1, 100), (8, 12)
    ]  # fmt: skip


def test_runs_are_filled_up_within_the_limit(make: Callable[..., DynamicBatcher], model: Model) -> None:
    model.gate.set()
    batcher = make(allowed_batch_sizes=(2, 4))
    for count, pixels in ((1, 50), (1, 51), (3, 25), (3, 26), (5, 12)):
        assert len(batcher.submit(rows(count, pixels), ("y",), Call()).result().outputs["y"]) == count
    assert [shape[0] for shape in model.shapes] == [2, 1, 4, 3, 8]
    assert [batch.padding for batch in model.batches] == [1, 0, 1, 0, 3]


@pytest.mark.parametrize("caller_runs", [False, True])
def test_a_request_above_the_limit_is_refused(make: Callable[..., DynamicBatcher], caller_runs: bool) -> None:
    with pytest.raises(
        InvalidInputError,
        match=r"m/1 takes at most 100 pixels in one request \(max_run_pixels\)\. Received: 2 rows of 51",
    ):
        make(caller_runs=caller_runs).infer(rows(2, 51), ("y",), Call())


def test_a_full_batch_does_not_wait_for_company(make: Callable[..., DynamicBatcher], model: Model) -> None:
    model.gate.set()
    assert make(max_queue_delay=60.0).infer(rows(2, 50), ("y",), Call()).batch_rows == 2


def test_by_default_64_rows_of_256_fit() -> None:
    assert Limits(64, 8).most_rows(224 * 224) == Limits(64, 8).most_rows(256 * 256) == 64
    assert Limits(64, 8).most_rows(512 * 512) == 16
    assert Limits(64, 8).most_rows(2048 * 2048) == 1
    assert Limits(64, 8).most_rows(MAX_RUN_PIXELS + 1) == 0
    assert Limits(64, 8).most_rows(None) == 64


def load(root: Path, limits: Limits) -> ModelRepository:
    repository = ModelRepository(
        root, Runtime(CPU, 1, required=True), limits, Metrics(version="0", runtime_version="0")
    )
    repository.load()
    return repository


# Two of the pictures of ``red``.
TWO = 2 * 32 * 64


@pytest.fixture(scope="module")
def engine(models: Path) -> Iterator[Engine]:
    repository = load(models, Limits(8, 8, max_run_pixels=TWO))
    yield Engine(repository, max_pixels=1_000_000, picture_slots=2)
    repository.close()


def test_arrays_of_free_size_are_held_to_it(engine: Engine) -> None:
    answer = engine.infer("red", None, {"image": np.zeros((4, 32, 32, 3), np.uint8)})
    assert answer.outputs["mask"].shape == (4, 32, 32, 1)
    with pytest.raises(InvalidInputError, match=r"red/2 takes at most 4096 pixels in one request.*: 5 rows of 1024"):
        engine.infer("red", None, {"image": np.zeros((5, 32, 32, 3), np.uint8)})


def test_pictures_are_held_to_it_before_they_are_decoded(engine: Engine) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200)).save(buffer, format="PNG")
    picture = buffer.getvalue()
    assert len(engine.infer("red", None, {"image": [picture] * 2}).outputs["mask"]) == 2
    with pytest.raises(InvalidInputError, match=r"red takes 1 to 2 pictures in one request\. Received: 3"):
        engine.infer("red", None, {"image": [picture, b"", b""]})


def test_models_of_fixed_size_are_not(engine: Engine) -> None:
    assert len(engine.infer("digits", None, {"image": np.zeros((8, 784), np.float32)}).outputs["encoding"]) == 8
    assert len(engine.infer("red_fixed", None, {"image": np.zeros((8, 16, 16, 3), np.uint8)}).outputs["mask"]) == 8


def test_the_warm_up_is_held_to_it(tmp_path: Path, build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    run = OnnxBackend.run

    def spy(self: OnnxBackend, inputs: Any, outputs: Any) -> Any:
        sizes.append(len(inputs["image"]))
        return run(self, inputs, outputs)

    monkeypatch.setattr(OnnxBackend, "run", spy)
    build(tmp_path, "red")
    load(tmp_path, Limits(8, 8, (1, 2, 4), max_run_pixels=TWO)).close()
    assert set(sizes) == {1, 2}
    sizes.clear()
    load(tmp_path, Limits(8, 8, (4,), max_run_pixels=TWO)).close()
    assert sizes == [1]


def test_a_model_of_which_a_run_holds_no_picture_is_not_served(tmp_path: Path, build: Any) -> None:
    build(tmp_path, "red")
    with pytest.raises(ModelError, match="brought to 32 x 64, of which a run holds none: max_run_pixels is 2047"):
        load(tmp_path, Limits(8, 8, max_run_pixels=2047))


@pytest.mark.parametrize("flags", [(), ("--engine-process", "true")])
def test_callers_are_told(tmp_path: Path, build: Any, start: Callable[..., Any], flags: tuple[str, ...]) -> None:
    build(tmp_path, "red")
    running = start(tmp_path, "--max-run-pixels", str(TWO), *flags)
    with grpc.insecure_channel(running.target) as channel:
        stub = GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]

        def ask(count: int) -> Any:
            request = pb.ModelInferRequest(model_name="red", raw_input_contents=[bytes(count * 32 * 32 * 3)])
            request.inputs.add(name="image", datatype="UINT8", shape=[count, 32, 32, 3])
            return stub.ModelInfer(request, timeout=20)

        assert ask(4).outputs[0].shape == [4, 32, 32, 1]
        with pytest.raises(grpc.RpcError) as refused:
            ask(5)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert (
            refused.value.details()
            == "red/1 takes at most 4096 pixels in one request (max_run_pixels). Received: 5 rows of 1024"
        )
