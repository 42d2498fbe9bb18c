"""What callers are told of models that are not served, over either protocol that has calls for it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from serving.pb.open_inference import grpc_service_pb2 as oip
from serving.pb.open_inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from serving.pb.tensorflow_serving import apis_pb2 as tfs
from serving.pb.tensorflow_serving import error_codes_pb2
from serving.pb.tensorflow_serving.apis_pb2_grpc import ModelServiceStub

Start = Callable[..., Any]


@pytest.fixture(params=[False, True], ids=["one process", "engine process"])
def target(request: Any, tmp_path: Path, build: Any, start: Start) -> Iterator[str]:
    build(tmp_path, "digits")
    build(tmp_path, "halves")
    flags = ["--engine-process", "true"] if request.param else []
    running = start(tmp_path, *flags)
    build(tmp_path, "red")
    yield running.target
    assert running.stop()[0] == 0


def test_unloaded_and_unknown_models_are_told_apart_from_broken_ones(target: str, tmp_path: Path) -> None:
    with grpc.insecure_channel(target) as channel:
        triton = GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
        serving = ModelServiceStub(channel)  # type: ignore[no-untyped-call]

        def index(*, ready: bool = False) -> list[tuple[str, str, str, str]]:
            answer = triton.RepositoryIndex(oip.RepositoryIndexRequest(ready=ready), timeout=10)
            return [(each.name, each.version, each.state, each.reason) for each in answer.models]

        def status(name: str) -> Any:
            asked = tfs.GetModelStatusRequest(model_spec={"name": name})
            return serving.GetModelStatus(asked, timeout=10).model_version_status[0]

        # As Triton's: of a model that was never loaded it has the name.
        served = [("digits", "1", "READY", ""), ("halves", "1", "READY", "")]
        assert index() == [*served, ("red", "", "", "")]
        assert index(ready=True) == served
        triton.RepositoryModelUnload(oip.RepositoryModelUnloadRequest(model_name="digits"), timeout=10)
        ended = status("digits")
        assert (ended.state, ended.status.error_code) == (tfs.ModelVersionStatus.END, error_codes_pb2.OK)
        (tmp_path / "digits" / "1" / "model.onnx").write_bytes(b"")
        with pytest.raises(grpc.RpcError):
            triton.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name="digits"), timeout=10)
        broken = status("digits")
        assert (broken.state, broken.status.error_code) == (tfs.ModelVersionStatus.END, error_codes_pb2.UNKNOWN)
        assert "model.onnx" in broken.status.error_message
        # A folder that cannot be read is no reason not to tell of what is served.
        shutil.move(tmp_path / "halves", tmp_path.parent / "halves")
        shutil.rmtree(tmp_path)
        assert index(ready=True) == [("halves", "1", "READY", "")]
        tmp_path.mkdir()
