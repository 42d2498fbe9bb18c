"""The video job on Kubernetes is the one of the command line: exit codes, settings, arguments, Ray."""

import re

import pytest

from serving.video.errors import ExitCode
from serving.video.settings import Settings
from tests.deploy.conftest import DEPLOY, ROOT, Build, environment, pod_specs, the
from tests.deploy.test_manifests import as_text


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
