"""The Kustomize trees, built as ``kubectl apply -k`` would build them.

``kubectl`` is the one that ``make test`` fetches into ``.tools`` (see deploy/tools/kubectl.py), or else the one of the
PATH. Without either, what needs it is skipped, and says so.
"""

import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUSTOMIZE = DEPLOY / "kustomize"

Object = dict[str, Any]
Build = Callable[[Path], list[Object]]


def kustomizations() -> list[Path]:
    """Every folder that can be built on its own; components cannot."""
    found = [
        path.parent
        for path in sorted(DEPLOY.rglob("kustomization.yaml"))
        if yaml.safe_load(path.read_text())["kind"] == "Kustomization"
    ]
    assert found
    return found


def components() -> list[Path]:
    return sorted(path.parent for path in KUSTOMIZE.glob("components/*/kustomization.yaml"))


def name_of(path: Path) -> str:
    return str(path.relative_to(DEPLOY)) if path.is_relative_to(DEPLOY) else path.name


def pod_templates(objects: list[Object]) -> list[tuple[str, Object, Object]]:
    """Kind/name, the object and the pod's template, for every workload, those inside custom resources included."""
    found = []
    for each in objects:
        name = f"{each['kind']}/{each['metadata']['name']}"
        spec = each.get("spec", {})
        match each["kind"]:
            case "Deployment" | "Job":
                found.append((name, each, spec["template"]))
            case "RayJob":
                cluster = spec["rayClusterSpec"]
                groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
                found += [(f"{name}/{index}", each, group["template"]) for index, group in enumerate(groups)]
                if "submitterPodTemplate" in spec:
                    found.append((f"{name}/submitter", each, spec["submitterPodTemplate"]))
            case "ServingRuntime":
                # KServe gives its pods the labels of the InferenceService that asks for the runtime.
                labels = the("InferenceService", objects)["metadata"]["labels"]
                found.append((name, each, {"metadata": {"labels": labels}, "spec": spec}))
    return found


def pod_specs(objects: list[Object]) -> list[tuple[str, Object, Object]]:
    """The same with the pods' specifications."""
    return [(name, each, template["spec"]) for name, each, template in pod_templates(objects)]


def environment(pod: Object, objects: list[Object], container: int = 0) -> dict[str, str]:
    """A container's variables as Kubernetes would set them: ConfigMaps in order, then its own."""
    maps = {each["metadata"]["name"]: each["data"] for each in objects if each["kind"] == "ConfigMap"}
    values: dict[str, str] = {}
    for source in pod["containers"][container].get("envFrom", []):
        values |= maps[source["configMapRef"]["name"]]
    for entry in pod["containers"][container].get("env", []):
        if "value" in entry:
            values[entry["name"]] = entry["value"]
    return values


def the(kind: str, objects: list[Object], name: str | None = None) -> Object:
    (found,) = (each for each in objects if each["kind"] == kind and name in (None, each["metadata"]["name"]))
    return found


@pytest.fixture(scope="session")
def kubectl() -> str:
    fetched = ROOT / ".tools" / "kubectl"
    found = str(fetched) if fetched.exists() else shutil.which("kubectl")
    if found is None:
        pytest.skip(
            "kubectl is missing: `make .tools/kubectl` fetches it on Linux x86-64, elsewhere install 1.30 or newer"
        )
    return found


@pytest.fixture(scope="session")
def build(kubectl: str) -> Build:
    """``build(folder)``: the objects of a kustomization."""

    @cache
    def run(folder: Path) -> str:
        done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), f"{name_of(folder)}: {done.stderr}"
        return done.stdout

    return lambda folder: list(yaml.safe_load_all(run(folder)))
