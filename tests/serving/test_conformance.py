"""Stock clients of other servers against ours: nothing but the address is changed.

Each runs in a process of its own, since two copies of the same protobuf names cannot live in one.
"""

import importlib.util
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from serving.pb.open_inference import grpc_service_pb2, model_config_pb2
from serving.pb.tensorflow_serving import apis_pb2, config_pb2, error_codes_pb2, framework_pb2

HERE = Path(__file__).parent / "conformance"
TRITON = Path(__file__).parents[2] / ".venv-tritonclient" / "bin" / "python"

needs_tritonclient = pytest.mark.skipif(
    not TRITON.exists(), reason="tritonclient is not installed (make conformance-clients)"
)
needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_serving") is None, reason="tensorflow-serving-api is not installed"
)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture as large as the input of ``red``, a fifth red."""
    array = np.zeros((32, 64, 3), np.uint8)
    array[:, :, 0] = 51
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    file = tmp_path / "picture.png"
    file.write_bytes(buffer.getvalue())
    return file


def run(python: Path | str, *arguments: object) -> str:
    done = subprocess.run([str(python), *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def fields_of(message: Any, prefix: str = "") -> dict[str, tuple[int, int, bool, str]]:
    """Every field of a message and of those within it: name -> number, type, repeated, and the message it holds."""
    found = {}
    for field in message.fields:
        held = field.message_type or field.enum_type
        found[f"{prefix}{message.name}.{field.name}"] = (
            field.number,
            field.type,
            field.is_repeated,
            held.name if held else "",
        )
    for inner in message.nested_types:
        found |= fields_of(inner, f"{prefix}{message.name}.")
    for enum in message.enum_types:
        found |= {
            f"{prefix}{message.name}.{enum.name}.{each.name}": (each.number, 0, False, "") for each in enum.values
        }
    return found


def described(*files: Any) -> dict[str, tuple[int, int, bool, str]]:
    found: dict[str, tuple[int, int, bool, str]] = {}
    for file in files:
        for message in file.message_types_by_name.values():
            found |= fields_of(message)
        for enum in file.enum_types_by_name.values():
            found |= {f"{enum.name}.{each.name}": (each.number, 0, False, "") for each in enum.values}
        for service in file.services_by_name.values():
            for method in service.methods:
                types = f"{method.input_type.full_name} {method.output_type.full_name}"
                streams = int(method.client_streaming) * 2 + int(method.server_streaming)
                found[f"{service.full_name}/{method.name}"] = (streams, 0, False, types)
    return found


DESCRIBE = """
import importlib, json, sys
{functions}
print(json.dumps(described(*(importlib.import_module(name).DESCRIPTOR for name in sys.argv[1:]))))
"""


def stock(python: Path | str, *modules: str) -> dict[str, tuple[int, int, bool, str]]:
    """The same, of modules that a stock client brings along."""
    source = Path(__file__).read_text()
    start, end = source.index("def fields_of"), source.index("DESCRIBE = ")
    functions = "from typing import Any\n" + source[start:end]
    told = json.loads(run(python, "-c", DESCRIBE.format(functions=functions), *modules).splitlines()[-1])
    return {name: tuple(each) for name, each in told.items()}


def assert_same_facts(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours
    for name, facts in ours.items():
        assert theirs.get(name) == facts, name


@needs_tritonclient
class TestTritonClient:
    def test_the_wire_format_is_the_same(self) -> None:
        theirs = stock(TRITON, "tritonclient.grpc.service_pb2", "tritonclient.grpc.model_config_pb2")
        assert_same_facts(described(grpc_service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR), theirs)

    def test_it_works_unchanged(self, start: Callable[..., Any], picture: Path) -> None:
        told = run(TRITON, HERE / "triton_client.py", start(None, "--system-shared-memory", "true").target, picture)
        assert told.split()[1::2] == [
            "health_and_metadata",
            "inference",
            "pictures",
            "callbacks",
            "stream",
            "shared_memory",
            "repository",
            "statistics",
            "with_asyncio",
        ]


@needs_tensorflow
class TestTensorFlowServingClient:
    """Both in one process, since importing TensorFlow takes seconds."""

    def test_it_works_unchanged(self, tmp_path: Path, build: Any, start: Callable[..., Any], picture: Path) -> None:
        build(tmp_path, "digits")
        build(tmp_path, "red", 1)
        build(tmp_path, "red", 2)
        told = run(sys.executable, HERE / "tensorflow_client.py", start(tmp_path).target, picture)
        assert told.split()[1::2] == ["predict", "pictures", "refusals", "metadata", "status", "reload"]

    def test_the_wire_format_is_the_same(self) -> None:
        apis = ["model", "predict", "get_model_metadata", "get_model_status", "model_management", "model_service"]
        theirs = stock(
            sys.executable,
            *(f"tensorflow_serving.apis.{name}_pb2" for name in (*apis, "prediction_service", "status")),
            "tensorflow_serving.config.model_server_config_pb2",
            "tensorflow_serving.config.file_system_storage_path_source_pb2",
            "tensorflow.core.framework.types_pb2",
            "tensorflow.core.framework.tensor_pb2",
            "tensorflow.core.framework.tensor_shape_pb2",
            "tensorflow.core.protobuf.meta_graph_pb2",
        )
        files = (apis_pb2, config_pb2, framework_pb2)
        assert_same_facts(described(*(file.DESCRIPTOR for file in files)), theirs)
        assert dict(error_codes_pb2.Code.items()) == {status.name: status.value[0] for status in grpc.StatusCode}
