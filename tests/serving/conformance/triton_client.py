"""Asks a server through the stock ``tritonclient``, in a process and an environment of its own.

    python triton_client.py HOST:PORT PICTURE.png

The server serves the models of the serving tests (see ``tests/serving/conftest.py``). Prints ``ok NAME`` for each check
that held, and ends with a traceback at the first that did not.
"""

import asyncio
import queue
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

TARGET, PICTURE = sys.argv[1], Path(sys.argv[2]).read_bytes()
ROWS = np.random.default_rng(0).random((3, 784), dtype=np.float32)


def image(array: np.ndarray, datatype: str, module: Any = triton) -> Any:
    tensor = module.InferInput("image", list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def refused(status: str, message: str, ask: Any) -> None:
    told = None
    try:
        ask()
    except InferenceServerException as error:
        told = error
    assert told is not None, f"was not refused: {message}"
    assert told.status() == f"StatusCode.{status}", told
    assert message in told.message(), told


def health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("red", "1")
    assert not client.is_model_ready("red", "7")
    assert not client.is_model_ready("blue")
    assert client.get_server_metadata().name == "sparsewalk"
    told = client.get_model_metadata("red", as_json=True)
    assert told["versions"] == ["1", "2"]
    assert told["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": ["-1", "-1", "-1", "3"]}]
    assert [output["name"] for output in told["outputs"]] == ["mask"]
    config = client.get_model_config("digits").config
    assert (config.name, config.backend, config.max_batch_size) == ("digits", "onnxruntime", 64)
    assert [(each.name, list(each.dims)) for each in config.output] == [("encoding", [4]), ("reconstruction", [784])]
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 128
    refused("NOT_FOUND", "no model 'blue'", lambda: client.get_model_metadata("blue"))


def inference(client: triton.InferenceServerClient) -> None:
    both = client.infer("digits", [image(ROWS, "FP32")], request_id="seven", timeout=5_000_000, priority=1)
    response = both.get_response()
    assert (response.model_name, response.model_version, response.id) == ("digits", "1", "seven")
    np.testing.assert_allclose(both.as_numpy("reconstruction"), 1 - ROWS, rtol=1e-6)
    np.testing.assert_allclose(both.as_numpy("encoding")[:, 0], ROWS.sum(axis=1), rtol=1e-5)
    wanted = [triton.InferRequestedOutput("encoding")]
    one = client.infer("digits", [image(ROWS, "FP32")], model_version="1", outputs=wanted)
    assert [output.name for output in one.get_response().outputs] == ["encoding"]
    # What the decoder makes of an encoding that was edited.
    code = triton.InferInput("encoding", [1, 3], "FP32").set_data_from_numpy(np.zeros((1, 3), np.float32))
    refused("INVALID_ARGUMENT", "cannot start from an encoding", lambda: client.infer("digits", [code]))
    refused("NOT_FOUND", "no model 'blue'", lambda: client.infer("blue", [image(ROWS, "FP32")]))
    refused("NOT_FOUND", "no version 9", lambda: client.infer("digits", [image(ROWS, "FP32")], model_version="9"))
    refused(
        "INVALID_ARGUMENT",
        "is FP32 [-1, 784]. Received: FP64",
        lambda: client.infer("digits", [image(ROWS.astype("f8"), "FP64")]),
    )
    other = [triton.InferRequestedOutput("mask")]
    refused(
        "INVALID_ARGUMENT", "has no output 'mask'", lambda: client.infer("digits", [image(ROWS, "FP32")], outputs=other)
    )
    refused("INVALID_ARGUMENT", "priority is 1 to 5", lambda: client.infer("digits", [image(ROWS, "FP32")], priority=9))
    refused("DEADLINE_EXCEEDED", "deadline", lambda: client.infer("digits", [image(ROWS, "FP32")], timeout=1))


def pictures(client: triton.InferenceServerClient) -> None:
    raw = np.zeros((2, 32, 64, 3), np.uint8)
    raw[:, :, :, 0] = 51
    masks = client.infer("red", [image(raw, "UINT8")]).as_numpy("mask")
    np.testing.assert_allclose(masks, np.full((2, 32, 64, 1), 0.2), rtol=1e-6)
    files = np.array([PICTURE, PICTURE], dtype=np.object_)
    for shape in ((2,), (2, 1)):
        masks = client.infer("red", [image(files.reshape(shape), "BYTES")]).as_numpy("mask")
        assert masks.shape == (2, 32, 64, 1)
        np.testing.assert_allclose(masks, np.full((2, 32, 64, 1), 0.2), rtol=1e-6)
    refused(
        "INVALID_ARGUMENT",
        "a picture is JPEG",
        lambda: client.infer("red", [image(np.array([b"no"], np.object_), "BYTES")]),
    )


def callbacks(client: triton.InferenceServerClient) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    for row in ROWS:
        client.async_infer("digits", [image(row[None], "FP32")], lambda result, error: answers.put((result, error)))
    found = [answers.get(timeout=10) for _ in ROWS]
    assert all(error is None for _, error in found)
    sums = sorted(float(result.as_numpy("encoding")[0, 0]) for result, _ in found)
    np.testing.assert_allclose(sums, sorted(ROWS.sum(axis=1)), rtol=1e-5)


def stream(client: triton.InferenceServerClient) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for number in range(40):
        # Every tenth is refused, and the stream goes on.
        name = "blue" if number % 10 == 9 else "digits"
        row = np.full((1, 784), number / 40, np.float32)
        client.async_stream_infer(name, [image(row, "FP32")], request_id=str(number))
    for number in range(40):
        result, error = answers.get(timeout=10)
        if number % 10 == 9:
            assert "no model 'blue'" in str(error), error
            continue
        assert error is None, error
        assert result.get_response().id == str(number)
        np.testing.assert_allclose(result.as_numpy("reconstruction"), np.full((1, 784), 1 - number / 40), rtol=1e-5)
    client.stop_stream()


def shared_memory(client: triton.InferenceServerClient) -> None:
    # As NVIDIA's simple_grpc_shm_client.py begins, whatever the server has.
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()
    handles = {
        name: shm.create_shared_memory_region(name, f"/sparsewalk_{name}", ROWS.nbytes) for name in ("rows", "found")
    }
    try:
        shm.set_shared_memory_region(handles["rows"], [ROWS])
        for name in handles:
            client.register_system_shared_memory(name, f"/sparsewalk_{name}", ROWS.nbytes)
        assert set(client.get_system_shared_memory_status(as_json=True)["regions"]) == set(handles)
        rows = triton.InferInput("image", list(ROWS.shape), "FP32")
        rows.set_shared_memory("rows", ROWS.nbytes)
        found, encoding = triton.InferRequestedOutput("reconstruction"), triton.InferRequestedOutput("encoding")
        found.set_shared_memory("found", ROWS.nbytes)
        answer = client.infer("digits", [rows], outputs=[found, encoding])
        put = shm.get_contents_as_numpy(handles["found"], np.float32, answer.get_output("reconstruction").shape)
        np.testing.assert_allclose(put, 1 - ROWS, rtol=1e-6)
        np.testing.assert_allclose(answer.as_numpy("encoding")[:, 0], ROWS.sum(axis=1), rtol=1e-5)
        client.unregister_system_shared_memory("rows")
        refused("NOT_FOUND", "registered as 'rows'", lambda: client.infer("digits", [rows], outputs=[found]))
        client.unregister_system_shared_memory()
        assert client.get_system_shared_memory_status(as_json=True) == {}
        client.unregister_cuda_shared_memory("rows")
        assert client.get_cuda_shared_memory_status(as_json=True) == {}
        refused(
            "UNIMPLEMENTED",
            "takes tensors in system shared memory, not in CUDA's",
            lambda: client.register_cuda_shared_memory("rows", b"aGFuZGxl", 0, ROWS.nbytes),
        )
    finally:
        for handle in handles.values():
            shm.destroy_shared_memory_region(handle)


def repository(client: triton.InferenceServerClient) -> None:
    index = {(each.name, each.version): each.state for each in client.get_model_repository_index().models}
    assert index["red", "2"] == "READY"
    client.load_model("red_fixed")
    client.unload_model("red_fixed")
    assert not client.is_model_ready("red_fixed")
    index = {(each.name, each.version): each for each in client.get_model_repository_index().models}
    assert (index["red_fixed", "1"].state, index["red_fixed", "1"].reason) == ("UNAVAILABLE", "unloaded")
    refused("NOT_FOUND", "no model 'red_fixed'", lambda: client.unload_model("red_fixed"))
    client.load_model("red_fixed")
    assert client.is_model_ready("red_fixed")
    refused("NOT_FOUND", "no model 'blue' in the repository", lambda: client.load_model("blue"))


def statistics(client: triton.InferenceServerClient) -> None:
    before = client.get_inference_statistics("digits", "1").model_stats[0]
    client.infer("digits", [image(ROWS, "FP32")])
    (after,) = client.get_inference_statistics("digits", "1").model_stats
    assert after.inference_count - before.inference_count == len(ROWS)
    assert after.execution_count - before.execution_count == 1
    assert after.inference_stats.success.count - before.inference_stats.success.count == 1
    assert after.inference_stats.compute_infer.ns > before.inference_stats.compute_infer.ns
    assert after.inference_stats.fail.count > 0
    assert after.last_inference >= before.last_inference > 1e12
    assert {each.batch_size for each in after.batch_stats} >= {1, 3}
    assert len(client.get_inference_statistics().model_stats) == 4


async def with_asyncio() -> None:
    async with triton_aio.InferenceServerClient(TARGET) as client:
        assert await client.is_server_ready()
        answers = await asyncio.gather(*(client.infer("digits", [image(row[None], "FP32")]) for row in ROWS))
        for row, answer in zip(ROWS, answers, strict=True):
            np.testing.assert_allclose(answer.as_numpy("reconstruction"), 1 - row[None], rtol=1e-6)

        async def requests() -> Any:
            for number, row in enumerate(ROWS):
                yield {"model_name": "digits", "inputs": [image(row[None], "FP32")], "request_id": str(number)}

        number = 0
        async for result, error in client.stream_infer(requests()):
            assert error is None, error
            assert result.get_response().id == str(number)
            np.testing.assert_allclose(result.as_numpy("reconstruction"), 1 - ROWS[number : number + 1], rtol=1e-6)
            number += 1
        assert number == len(ROWS)


def main() -> None:
    with triton.InferenceServerClient(TARGET) as client:
        for check in (
            health_and_metadata,
            inference,
            pictures,
            callbacks,
            stream,
            shared_memory,
            repository,
            statistics,
        ):
            check(client)
            print("ok", check.__name__)
    asyncio.run(with_asyncio())
    print("ok", with_asyncio.__name__)


main()
