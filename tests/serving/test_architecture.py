"""Which way the arrows point: who may import what."""

import ast
from pathlib import Path

import pytest

SERVING = Path(__file__).parents[2] / "serving"
MODULES = [path for path in SERVING.rglob("*.py") if "pb" not in path.relative_to(SERVING).parts]


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it, with the names taken from packages of ours."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def users(package: str) -> set[str]:
    return {
        path.relative_to(SERVING).as_posix()
        for path in MODULES
        if any(name == package or name.startswith(f"{package}.") for name in imports(path))
    }


@pytest.mark.parametrize("package", ["training", "tensorflow", "keras", "tf2onnx", "onnx"])
def test_nobody_imports(package: str) -> None:
    assert users(package) == set()


def test_each_library_has_its_module() -> None:
    """In the server; programs beside it (the demo, the video job) draw their own pictures."""

    def parts(package: str) -> set[str]:
        return {name.partition("/")[0] for name in users(package)} - {"demo", "video"}

    assert parts("onnxruntime") == {"backend"}
    assert parts("prometheus_client") == {"metrics.py", "processes"}
    assert parts("opentelemetry") == {"tracing.py"}
    assert parts("pythonjsonlogger") == {"logs.py"}
    assert parts("cv2") == parts("pycocotools") == {"imaging.py"}
    assert parts("grpc") == {"server.py", "servicers", "client"}


LEAVES = [
    "errors",
    "timings",
    "model_settings",
    "settings_file",
    "exposition",
    "bins",
    "gpu",
    "security",
    "logs",
    "manifest",
    "settings",
    "metrics",
    "imaging",
    "call",
    "tally",
    "memory",
    "shared_memory",
]


@pytest.mark.parametrize("leaf", LEAVES)
def test_leaves_import_only_the_lowest_leaves(leaf: str) -> None:
    ours = {name for name in imports(SERVING / f"{leaf}.py") if name.startswith("serving.")}
    assert all(name.startswith(tuple(f"serving.{low}" for low in LEAVES[:7])) for name in ours)


# Top to bottom; a module may import those after it, never those before.
ORDER = ["__main__", "processes", "server", "servicers", "engine", "intake", "assembly", "repository", "opening"]
ORDER += ["shelf", "changes", "servable", "batcher", "ticket", "backend", "graph"]


@pytest.mark.parametrize("name", ORDER)
def test_arrows_point_down(name: str) -> None:
    above = ORDER[: ORDER.index(name)]
    files = sorted((SERVING / name).glob("*.py")) if (SERVING / name).is_dir() else [SERVING / f"{name}.py"]
    for path in files:
        for imported in imports(path):
            assert not any(
                imported == f"serving.{each}" or imported.startswith(f"serving.{each}.") for each in above
            ), f"{path.name} imports {imported}"
