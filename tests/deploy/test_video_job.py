"""The video job on Kubernetes is the one of the command line: exit codes, settings, arguments, Ray."""

import os
import re
import shutil
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from serving.video.errors import ExitCode
from serving.video.settings import Settings
from tests.deploy.conftest import DEPLOY, ROOT, Build, environment, pod_specs, the
from tests.deploy.pod import USER, Pod, can_run, image_configuration
from tests.deploy.test_manifests import as_text
from tests.serving.conftest import write_model


def test_exit_codes_mean_what_the_job_says(build: Build) -> None:
    rules = the("Job", build(DEPLOY / "jobs" / "video"))["spec"]["podFailurePolicy"]["rules"]
    coded = [rule for rule in rules if "onExitCodes" in rule]
    actions = {code: rule["action"] for rule in coded for code in rule["onExitCodes"]["values"]}
    assert actions == {
        ExitCode.USAGE: "FailJob",
        ExitCode.BAD_INPUT: "FailIndex",
        ExitCode.PARTIAL: "FailIndex",
    }
    assert all(rule["onExitCodes"]["operator"] == "In" for rule in coded)
    assert rules[0] == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}


def test_a_bad_video_builds_no_second_cluster(build: Build) -> None:
    spec = the("RayJob", build(DEPLOY / "jobs" / "video-ray"))["spec"]
    assert spec["backoffLimit"] == 0  # KubeRay knows no exit codes
    assert spec["submissionMode"] == "K8sJobMode"  # whose submitter comes again to a head that was lost
    assert spec["submitterConfig"]["backoffLimit"] > 0


@pytest.mark.parametrize(("tree", "engine"), [("video", "local"), ("video-ray", "ray")])
def test_the_video_job_takes_its_settings_and_arguments(
    tree: str, engine: str, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = build(DEPLOY / "jobs" / tree)
    pod = next(pod for name, _, pod in pod_specs(objects) if not name.endswith("/submitter"))
    if tree == "video":
        arguments = pod["containers"][0]["args"]
    else:
        words = the("RayJob", objects)["spec"]["entrypoint"].split()
        assert words[:3] == ["/opt/sparsewalk/venv/bin/python", "-m", "serving.video"]
        arguments = words[3:]
    told = environment(pod, objects)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    settings = Settings.from_command_line(arguments)
    assert settings.inputs == ["@/settings/videos.txt"]
    assert settings.engine == engine
    for name, value in told.items():
        assert as_text(getattr(settings, name.removeprefix("SPARSEWALK_").lower())) == value, name


def test_the_cluster_runs_the_ray_of_the_image(build: Build) -> None:
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert the("RayJob", build(DEPLOY / "jobs" / "video-ray"))["spec"]["rayClusterSpec"]["rayVersion"] == pinned[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The Job's volumes, and the image: this environment and a copied tree."""
    for name in ("videos", "output", "models", "settings", "image"):
        (tmp_path / name).mkdir(mode=0o755)
    os.chown(tmp_path / "output", USER, USER)  # as fsGroup has it
    write_model(tmp_path / "models", "red")
    for number in range(3):
        write_video(tmp_path / "videos" / f"{number}.mp4")
    (tmp_path / "videos" / "3.mp4").write_bytes(b"no video")
    (tmp_path / "settings" / "videos.txt").write_text("".join(f"/videos/{number}.mp4\n" for number in range(4)))
    (tmp_path / "image" / "venv").mkdir()
    shutil.copytree(ROOT / "serving", tmp_path / "image" / "app" / "serving")
    return tmp_path


def write_video(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for shade in (0, 128, 255):
            frame = av.VideoFrame.from_ndarray(np.full((32, 64, 3), shade, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.skipif(can_run() is not None, reason=str(can_run()))
def test_pods_of_the_job_run_as_written(build: Build, folder: Path) -> None:
    objects = build(DEPLOY / "jobs" / "video")
    spec = the("Job", objects)["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    image = image_configuration(DEPLOY / "Dockerfile", "video")
    volumes = {mount["mountPath"]: folder / mount["name"] for mount in container["volumeMounts"][:-1]}
    volumes["/opt/sparsewalk/venv"] = Path(sys.prefix)

    def run(index: int) -> tuple[int, str, str]:
        root = folder / f"root-{index}"
        root.mkdir(exist_ok=True)
        changes = {"SPARSEWALK_MODEL": "red", "JOB_COMPLETION_INDEX": str(index)}
        variables = image["env"] | environment(spec, objects) | changes
        command = [*image["entrypoint"], *container["args"]]
        with Pod(root, folder / "image", command, variables, volumes, ["/output"]) as pod:
            return pod.wait(timeout=120)

    assert run(1)[:2] == (ExitCode.DONE, "/output/1: 3 frames\n")
    assert {path.name for path in (folder / "output").iterdir()} == {"1"}
    # The same index again, as after an eviction.
    assert run(1)[:2] == (ExitCode.DONE, "/output/1: was whole already\n")
    code, out, errors = run(3)
    assert (code, out) == (ExitCode.BAD_INPUT, "")
    assert "/videos/3.mp4" in errors
