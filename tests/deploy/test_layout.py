"""The images' recipe without an engine: deploy/image/layout.sh, run as a pod of the manifests.

One virtual environment is installed for all of them, from the package registry: the slowest part of these tests.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np
import pytest
import trustme
import yaml

from tests.deploy.conftest import DEPLOY, KUSTOMIZE, ROOT, Build, Object, environment, the
from tests.deploy.pod import USER, Pod, can_run, image_configuration
from tests.serving.conftest import write_model

PYTHON = "/opt/sparsewalk/venv/bin/python"
IMAGE = image_configuration(DEPLOY / "Dockerfile", "serving-cpu")

needs_namespaces = pytest.mark.skipif(can_run() is not None, reason=str(can_run()))


@pytest.fixture(scope="session")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image serving-cpu has at /opt/sparsewalk."""
    folder = tmp_path_factory.mktemp("image") / "sparsewalk"
    done = subprocess.run(
        [DEPLOY / "image" / "layout.sh", folder, "serving"],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Only what leads to it is opened for the pods' user; the tests' other folders stay shut.
    for parent in (folder, folder.parent):
        parent.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("volume")
    root.chmod(0o755)
    for name in ("digits", "red", "slow"):
        write_model(root, name)
    return root


class TestTree:
    def test_neither_tensorflow_nor_training_nor_build_tools_are_there(self, layout: Path) -> None:
        names = {path.name.partition("-")[0].lower() for path in layout.glob("venv/lib/python*/site-packages/*")}
        assert {"grpc", "onnxruntime", "cv2", "pydantic"} <= names
        assert names.isdisjoint(
            {"tensorflow", "keras", "tf2onnx", "pip", "setuptools", "wheel", "sparsewalk", "pytest"}
        )
        assert {path.name for path in layout.glob("app/*") if path.suffix == ""} == {"serving"}

    def test_no_gpu_plug_in_is_carried_around_for_nothing(self, layout: Path) -> None:
        plug_ins = {path.name for path in layout.rglob("libonnxruntime_providers_*")}
        assert plug_ins <= {"libonnxruntime_providers_shared.so"}
        total = sum(path.lstat().st_size for path in layout.rglob("*") if path.is_file())
        assert total < 420 * 2**20

    def test_nothing_can_be_written_and_everything_read(self, layout: Path) -> None:
        for path in layout.rglob("*"):
            if not path.is_symlink():
                mode = path.stat().st_mode
                assert mode & 0o222 == 0, path
                assert mode & 0o444 == 0o444, path

    def test_everything_is_compiled_by_hash_and_so_copied_files_are_not_compiled_again(self, layout: Path) -> None:
        compiled = list(layout.rglob("app/serving/__pycache__/*.pyc"))
        assert len(compiled) >= len(list((layout / "app" / "serving").glob("*.py")))
        # PEP 552: the flags after the magic number; 1 = by hash, and not to be checked
        assert {path.read_bytes()[4:8] for path in compiled} == {b"\x01\x00\x00\x00"}

    def test_versions_are_those_of_the_constraints(self, layout: Path) -> None:
        pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
        pins = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}
        found = [path.name.removesuffix(".dist-info") for path in layout.glob("venv/lib/*/site-packages/*.dist-info")]
        assert len(found) > 15
        for each in found:
            name, _, version = each.rpartition("-")
            assert pins[re.sub(r"[-_.]+", "-", name).lower()] == version

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (["somewhere"], "expected FOLDER and a part"),
            (["somewhere", "server"], "expected serving, serving-gpu, training, video or video-ray. Received: server"),
            (["somewhere", "serving", "all-of-it"], "expected dependencies or code. Received: all-of-it"),
        ],
    )
    def test_wrong_usage_is_refused(self, arguments: list[str], complaint: str, tmp_path: Path) -> None:
        command = [DEPLOY / "image" / "layout.sh", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert complaint in done.stderr
        assert list(tmp_path.iterdir()) == []


StartPod = Callable[..., Pod]


@pytest.fixture
def start_pod(layout: Path, tmp_path: Path) -> Iterator[StartPod]:
    """``start_pod(objects, volumes)``: the Deployment's container with its settings, as the image starts it."""
    pods: list[Pod] = []

    def start(objects: list[Object], volumes: dict[str, Path], **changes: str) -> Pod:
        spec = the("Deployment", objects)["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        assert not {"command", "args"} & set(container)
        root = tmp_path / f"root-{len(pods)}"
        root.mkdir()
        variables = IMAGE["env"] | environment(spec, objects) | changes
        pods.append(Pod(root, layout, IMAGE["entrypoint"], variables, volumes))
        return pods[-1]

    yield start
    for pod in pods:
        pod.kill()


@pytest.fixture
def on_volume(build: Build, tmp_path: Path) -> list[Object]:
    """The base with the models on a volume."""
    return build(with_components(tmp_path, "models-volume"))


def with_components(folder: Path, *names: str) -> Path:
    tree = folder / "tree"
    tree.mkdir()
    told = {
        "resources": [os.path.relpath(KUSTOMIZE / "base", tree)],
        "components": [os.path.relpath(KUSTOMIZE / "components" / name, tree) for name in names],
    }
    (tree / "kustomization.yaml").write_text(yaml.safe_dump(told))
    return tree


# What the kubelet's gRPC probe does: a health check in plain text at the pod's address.
_PROBE = """
import sys, grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
try:
    request = health_pb2.HealthCheckRequest(service=sys.argv[2])
    with grpc.insecure_channel(f"127.0.0.1:{sys.argv[1]}") as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=5)
    print(answer.status)
except grpc.RpcError as error:
    print(error.code().name)
"""
SERVING, NOT_SERVING = "1", "2"

# `python -m serving.client ARGUMENTS` in a folder.
_CLIENT = """
import os, runpy, sys
os.chdir(sys.argv.pop(1))
runpy.run_module("serving.client", run_name="__main__", alter_sys=True)
"""


def probe(pod: Pod, told: Object) -> str:
    """Runs a probe as written: "1" or an exit code of 0 is good."""
    if "grpc" in told:
        asked = pod.outside(_PROBE, str(told["grpc"]["port"]), told["grpc"].get("service", ""))
        out, errors = asked.communicate(timeout=30)
        assert asked.returncode == 0, errors
        return out.strip()
    done = pod.exec(told["exec"]["command"])
    return SERVING if done.returncode == 0 else NOT_SERVING


def serving_container(objects: list[Object]) -> Object:
    (container,) = the("Deployment", objects)["spec"]["template"]["spec"]["containers"]
    return dict(container)


# One request from each of so many threads; prints a line when all are on their way, then the status of each.
_LOAD = """
import sys, threading, time
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from serving.client import Client, ServiceError
row = np.zeros((1, 784), np.float32)
callers = int(sys.argv[2])
def ask(_):
    try:
        client.encode(row, "slow")
    except ServiceError as error:
        return error.code.name
    return "OK"
with Client(f"127.0.0.1:{sys.argv[1]}") as client, ThreadPoolExecutor(callers) as pool:
    client.encode(row, "digits")
    asked = [pool.submit(ask, number) for number in range(callers)]
    time.sleep(0.3)
    print("under way", flush=True)
    print(*[each.result() for each in asked])
"""


@needs_namespaces
class TestPod:
    def test_it_runs_as_written(self, on_volume: list[Object], start_pod: StartPod, models: Path) -> None:
        pod = start_pod(on_volume, {"/models": models})
        line = pod.first_line()
        assert line.startswith("ready grpc=0.0.0.0:8001 metrics=http://0.0.0.0:8002/metrics models=")
        assert f"{IMAGE['user']}" == f"{USER}:{USER}"
        assert pod.status("Uid").split() == pod.status("Gid").split() == [str(USER)] * 4
        assert (pod.status("CapEff"), pod.status("CapBnd"), pod.status("NoNewPrivs")) == ("0" * 16, "0" * 16, "1")
        assert pod.status("NSpid").split()[-1] == "1"
        for place in ("/", "/opt/sparsewalk/app", "/opt/sparsewalk/venv", "/models", "/etc"):
            done = pod.exec(["/usr/bin/touch", f"{place}/written"])
            assert done.returncode != 0, place
        assert pod.exec(["/usr/bin/touch", "/tmp/written"]).returncode == 0

        container = serving_container(on_volume)
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert probe(pod, container[name]) == SERVING, name
        assert pod.exec(IMAGE["healthcheck"]).returncode == 0

        read = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())"
        page, _ = pod.outside(read, "http://127.0.0.1:8002/metrics").communicate(timeout=30)
        assert 'sparsewalk_model_ready{model="digits",version="1"} 1.0' in page
        assert re.search(r'sparsewalk_build_info\{.*version="0\.1\.0"', page)

        pod.terminate()
        code, _, errors = pod.wait(timeout=60)
        assert code == 0, errors
        warnings = [entry["message"] for entry in map(json.loads, errors.splitlines()) if entry["level"] != "INFO"]
        assert len(warnings) == 1, errors  # the base leaves encryption to the tls component
        assert warnings[0].startswith("--host 0.0.0.0 without --tls-certificate")

    def test_the_readmes_first_mask(self, build: Build, start_pod: StartPod, tmp_path: Path) -> None:
        """The dev overlay has the image's own models; the client's command is the README's fifth."""
        command = ".venv/bin/python -m serving.client segment street.jpg --output ."
        assert command in (DEPLOY / "README.md").read_text()
        pod = start_pod(build(KUSTOMIZE / "overlays" / "dev"), {})
        released = sorted(path.name for path in (DEPLOY / "models").iterdir() if path.is_dir())
        told = re.search(r" models=(\S+)", pod.first_line())
        assert told is not None
        assert [each.partition("/")[0] for each in told[1].split(",")] == released
        street = np.full((300, 400, 3), (120, 140, 150), np.uint8)
        cv2.rectangle(street, (180, 90), (225, 260), (40, 40, 90), -1)
        cv2.circle(street, (202, 75), 18, (140, 170, 210), -1)
        cv2.imwrite(str(tmp_path / "street.jpg"), street)
        asked = pod.outside(_CLIENT, str(tmp_path), *command.split()[3:])
        out, errors = asked.communicate(timeout=60)
        assert asked.returncode == 0, errors
        assert "street.overlay.png" in out
        overlay = cv2.imread(str(tmp_path / "street.overlay.png"))
        assert overlay is not None
        assert overlay.shape == street.shape

    def test_stopping_under_load_loses_nothing(
        self, on_volume: list[Object], start_pod: StartPod, models: Path
    ) -> None:
        pod = start_pod(on_volume, {"/models": models}, SPARSEWALK_MAX_BATCH_SIZE="1")
        pod.first_line()
        load = pod.outside(_LOAD, "8001", "12")
        assert load.stdout is not None
        assert load.stdout.readline() == "under way\n"
        pod.terminate()
        ready = probe(pod, serving_container(on_volume)["readinessProbe"])
        out, errors = load.communicate(timeout=60)
        assert out.split() == ["OK"] * 12, errors
        assert ready in (NOT_SERVING, "UNAVAILABLE")
        code, _, errors = pod.wait(timeout=60)
        assert code == 0, errors

    def test_tls_probes_run_as_written(self, build: Build, start_pod: StartPod, models: Path, tmp_path: Path) -> None:
        authority = trustme.CA()
        certificate = authority.issue_cert("sparsewalk")
        secret = tmp_path / "secret"
        secret.mkdir(mode=0o755)
        authority.cert_pem.write_to_path(secret / "ca.crt")
        certificate.private_key_pem.write_to_path(secret / "tls.key")
        (secret / "tls.crt").write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))
        for file in secret.iterdir():  # as fsGroup and defaultMode 0440 have it
            os.chown(file, 0, USER)
            file.chmod(0o440)
        objects = build(with_components(tmp_path, "models-volume", "tls"))
        pod = start_pod(objects, {"/models": models, "/tls": secret})
        pod.first_line()
        container = serving_container(objects)
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert probe(pod, container[name]) == SERVING, name
        assert pod.exec([PYTHON, "/opt/sparsewalk/bin/health.py"]).returncode == 1  # no TLS, no answer
        pod.terminate()
        assert pod.wait(timeout=60)[0] == 0

    def test_fetched_models_are_served(
        self, build: Build, start_pod: StartPod, layout: Path, models: Path, tmp_path: Path
    ) -> None:
        archive = tmp_path / "archives" / "models.tar.gz"
        archive.parent.mkdir(mode=0o755)
        with tarfile.open(archive, "w:gz") as written:
            written.add(models / "digits", "digits")
        objects = build(with_components(tmp_path, "models-fetch"))
        spec = the("Deployment", objects)["spec"]["template"]["spec"]
        (init,) = spec["initContainers"]
        variables = IMAGE["env"] | {
            "MODELS_URL": "file:///archives/models.tar.gz",
            "MODELS_SHA256": sha256(archive.read_bytes()).hexdigest(),
        }
        (told,) = init["envFrom"]
        given = next(each for each in objects if each["metadata"]["name"] == told["configMapRef"]["name"])
        assert set(given["data"]) <= set(variables)
        fetched = tmp_path / "fetched"
        fetched.mkdir()
        os.chown(fetched, USER, USER)  # as fsGroup has it
        (tmp_path / "init").mkdir()
        volumes = {"/fetched": fetched, "/archives": archive.parent}
        with Pod(tmp_path / "init", layout, init["command"], variables, volumes, ["/fetched"]) as pod:
            code, out, errors = pod.wait(timeout=60)
        assert code == 0, errors
        assert out.startswith("fetched: digits/1 (SHA-256 ")
        pod = start_pod(objects, {"/fetched": fetched})
        assert pod.first_line().endswith("models=digits/1")


@needs_namespaces
def test_a_withdrawn_version_is_not_served(
    build: Build, on_volume: list[Object], start_pod: StartPod, layout: Path, tmp_path: Path
) -> None:
    volume = tmp_path / "models"
    for version in (1, 2):
        write_model(volume, "digits", version)
    earlier = volume / "digits" / ".withdrawn-2"  # of the same number
    earlier.mkdir()
    (earlier / "earlier").touch()
    for folder in (volume, volume / "digits"):
        os.chown(folder, USER, USER)  # as fsGroup has it
        folder.chmod(0o755)
    objects = build(DEPLOY / "jobs" / "withdraw")
    spec = the("Job", objects)["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    variables = environment(spec, objects) | {"MODEL": "digits"}
    assert variables["VERSION"] == "2"
    (tmp_path / "withdraw").mkdir()
    with Pod(tmp_path / "withdraw", layout, container["command"], variables, {"/models": volume}, ["/models"]) as pod:
        code, _, errors = pod.wait(timeout=60)
    assert (code, errors) == (0, "")
    assert (volume / "digits" / ".withdrawn-2" / "model.onnx").exists()
    assert (volume / "digits" / ".withdrawn-2.~1~" / "earlier").exists()
    assert start_pod(on_volume, {"/models": volume}).first_line().endswith("models=digits/1")


# What KServe and any other client of the protocol asks first.
_OPEN_INFERENCE = """
import sys, grpc
from serving.pb.open_inference import grpc_service_pb2 as pb, grpc_service_pb2_grpc
with grpc.insecure_channel(f"127.0.0.1:{sys.argv[1]}") as channel:
    stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
    print(stub.ServerReady(pb.ServerReadyRequest(), timeout=10).ready)
    print(stub.ModelReady(pb.ModelReadyRequest(name="digits"), timeout=10).ready)
"""


@needs_namespaces
def test_the_kserve_runtime_runs_as_written(build: Build, layout: Path, models: Path, tmp_path: Path) -> None:
    objects = build(DEPLOY / "kserve")
    spec = the("ServingRuntime", objects)["spec"]
    (container,) = spec["containers"]
    (port,) = container["ports"]
    variables = IMAGE["env"] | environment(spec, objects)
    with Pod(tmp_path, layout, IMAGE["entrypoint"], variables, {"/mnt/models": models}) as pod:
        pod.first_line()
        assert probe(pod, container["readinessProbe"]) == probe(pod, container["livenessProbe"]) == SERVING
        asked = pod.outside(_OPEN_INFERENCE, str(port["containerPort"]))
        out, errors = asked.communicate(timeout=60)
        assert out.split() == ["True", "True"], errors
        pod.terminate()
        assert pod.wait(timeout=60)[0] == 0


class TestDockerfile:
    def test_hadolint_is_content(self) -> None:
        hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
        assert hadolint is not None
        done = subprocess.run([hadolint, DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "")

    @pytest.mark.parametrize(
        ("target", "module"),
        [
            ("serving-cpu", "serving"),
            ("serving-gpu", "serving"),
            ("training", "training"),
            ("video", "serving.video"),
            ("video-ray", "serving.video"),
        ],
    )
    def test_targets_start_their_part_as_nobody_in_particular(self, target: str, module: str) -> None:
        image = image_configuration(DEPLOY / "Dockerfile", target)
        assert image["entrypoint"] == [PYTHON, "-m", module]
        assert image["user"] == f"{USER}:{USER}"
        assert ("healthcheck" in image) == target.startswith("serving")

    def test_the_base_is_pinned_by_digest_and_the_only_one(self) -> None:
        text = (DEPLOY / "Dockerfile").read_text()
        assert re.search(r"^ARG BASE=\S+:trixie-\d{8}-slim@sha256:[0-9a-f]{64}$", text, re.MULTILINE)
        stages = re.findall(r"^FROM (\S+) AS (\S+)$", text, re.MULTILINE)
        known = {"${BASE}"}
        for base, name in stages:
            assert base in known
            known.add(name)

    def test_gpu_libraries_are_pinned(self) -> None:
        lines = (DEPLOY / "image" / "constraints-gpu.txt").read_text().splitlines()
        pins = dict(line.split("==") for line in lines if not line.startswith("#"))
        assert {name.removeprefix("nvidia-") for name in pins} >= {"cublas", "cuda-runtime", "cudnn-cu13", "cufft"}
        assert pins["nvidia-cuda-runtime"].startswith("13.")

    def test_the_image_for_kuberay_has_rays_dashboard(self) -> None:
        lines = (DEPLOY / "image" / "constraints-ray.txt").read_text().splitlines()
        assert "aiohttp" in {line.partition("==")[0] for line in lines if not line.startswith("#")}
        assert "also='ray[default]'" in (DEPLOY / "image" / "layout.sh").read_text()

    def test_the_context_has_what_the_recipe_needs_and_nothing_private(self) -> None:
        entries = (ROOT / ".dockerignore").read_text().splitlines()
        assert entries[1] == "*"
        allowed = {entry.removeprefix("!") for entry in entries if entry.startswith("!")}
        assert allowed == {
            *("LICENSE", "README.md", "constraints.txt", "pyproject.toml"),
            *("serving", "training", "deploy/image", "deploy/models"),
        }


class TestVersions:
    def test_images_and_manifests_are_of_this_version(self) -> None:
        version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        assert version is not None
        told = re.findall(r"(?:ARG VERSION=|newTag: |TAG \?= |sparsewalk/[a-z-]+:)(\d+\.\d+\.\d+)", everything())
        assert len(told) > 5
        assert set(told) == {version[1]}


def everything() -> str:
    files = [ROOT / "Makefile", DEPLOY / "Dockerfile", *sorted(DEPLOY.rglob("*.yaml"))]
    return "\n".join(file.read_text() for file in files)
