"""What an installation brings along."""

from __future__ import annotations

import ast
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
TRAINING_ONLY = {"tensorflow", "tensorflow-cpu", "keras", "tf2onnx", "onnx", "scikit-learn", "matplotlib"}


def closure(distribution: str, extra: str) -> set[str]:
    """Everything that installing ``distribution[extra]`` installs, by the installed packages' own metadata."""
    found: set[str] = set()
    todo = [(distribution, extra)]
    while todo:
        name, wanted = todo.pop()
        try:
            lines = requires(name) or []
        except PackageNotFoundError:  # needed on another platform only
            continue
        for requirement in map(Requirement, lines):
            if requirement.marker and not requirement.marker.evaluate({"extra": wanted}):
                continue
            dependency = canonicalize_name(requirement.name)
            if dependency not in found:
                found.add(dependency)
                todo.extend((dependency, each) for each in requirement.extras or {""})
    return found


def test_the_serving_install_has_no_tensorflow() -> None:
    installed = closure("sparsewalk", "serving")
    assert {"grpcio", "prometheus-client", "pillow"} <= installed
    assert not installed & TRAINING_ONLY


def test_traces_are_an_extra() -> None:
    opentelemetry = {"opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-grpc"}
    assert not closure("sparsewalk", "serving") & opentelemetry
    assert opentelemetry <= closure("sparsewalk", "tracing")


def test_the_training_install_has_no_grpc_server() -> None:
    assert not closure("sparsewalk", "training") & {"grpcio-health-checking", "grpcio-reflection", "prometheus-client"}


@pytest.mark.parametrize(
    ("package", "banned"),
    [
        ("serving", {"training", "tensorflow", "keras", "tf2onnx", "onnx", "sklearn"}),
        ("training", {"serving", "grpc", "prometheus_client"}),
    ],
)
def test_no_module_imports_from_the_other_side(package: str, banned: set[str]) -> None:
    imported: dict[str, set[str]] = {}
    for path in (ROOT / package).rglob("*.py"):
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
        if names & banned:
            imported[str(path.relative_to(ROOT))] = names & banned
    assert not imported


def test_constraints_are_name_and_version_and_nothing_else() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins
    assert all(len(line.split("==")) == 2 and " " not in line and "/" not in line for line in pins)
