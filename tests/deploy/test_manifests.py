"""What Kubernetes is given: it builds, it is valid, and it holds to the policy of the platform."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as prometheus_operator

from serving.settings import Settings
from tests.deploy.conftest import (
    DEPLOY,
    KUSTOMIZE,
    ROOT,
    Build,
    Object,
    components,
    environment,
    kustomizations,
    name_of,
    pod_specs,
    the,
)
from tests.deploy.pod import expand

NEWEST_THREE = ["1.35", "1.36", "1.37"]
# Their definitions are published as Python packages. See test_custom_resources_are_as_their_owners_define_them for the
# others, whose definitions may not lie in this repository.
MODELS = {
    "ServiceMonitor": prometheus_operator.ServiceMonitor,
    "PrometheusRule": prometheus_operator.PrometheusRule,
    "ScaledObject": keda.ScaledObject,
}
CUSTOM = {*MODELS, "RayJob", "ServingRuntime", "InferenceService"}

every_tree = pytest.mark.parametrize("folder", kustomizations(), ids=name_of)
every_component = pytest.mark.parametrize("component", components(), ids=name_of)


@pytest.fixture
def on_base(tmp_path: Path) -> Any:
    """``on_base(component)``: a kustomization of the base with one component."""

    def write(component: Path) -> Path:
        def relative(path: Path) -> str:
            return os.path.relpath(path, tmp_path)

        told = {"resources": [relative(KUSTOMIZE / "base")], "components": [relative(component)]}
        (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(told))
        return tmp_path

    return write


def check(each: Object, version: str) -> None:
    if each["kind"] in CUSTOM:
        return
    validated = kubernetes_validate.validate(each, version, strict=True)
    assert validated == version


class TestValid:
    def test_the_versions_are_the_newest_that_the_schemas_know(self) -> None:
        known = [kubernetes_validate.utils.major_minor(version) for version in kubernetes_validate.utils.all_versions()]
        assert list(dict.fromkeys(known))[-3:] == NEWEST_THREE

    @every_tree
    @pytest.mark.parametrize("version", NEWEST_THREE)
    def test_every_tree_builds_and_is_valid(self, folder: Path, version: str, build: Build) -> None:
        objects = build(folder)
        assert objects
        for each in objects:
            check(each, version)

    @every_component
    def test_every_component_fits_the_base_alone(self, component: Path, build: Build, on_base: Any) -> None:
        objects = build(on_base(component))
        for each in objects:
            check(each, NEWEST_THREE[-1])
        assert the("Deployment", objects) is not None

    def test_an_unknown_field_is_found(self, build: Build) -> None:
        deployment = the("Deployment", build(KUSTOMIZE / "base"))
        deployment["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
        with pytest.raises(kubernetes_validate.ValidationError, match="readinesProbe"):
            check(deployment, NEWEST_THREE[-1])

    @every_tree
    def test_names_are_unique_and_labelled(self, folder: Path, build: Build) -> None:
        objects = build(folder)
        names = [(each["apiVersion"], each["kind"], each["metadata"]["name"]) for each in objects]
        assert len(set(names)) == len(names)
        for each in objects:
            if each["kind"] != "Namespace":
                assert each["metadata"]["labels"]["app.kubernetes.io/name"] == "sparsewalk", names

    def test_yamllint_is_content(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "yamllint", "--strict", "deploy"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "")


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(each) for key, each in value.items()}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value


def check_published(each: Object) -> None:
    """Validates with the published model; what comes out again tells whether a field was not known to it."""
    model = MODELS[each["kind"]].model_validate(each)
    again = model.model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert without_nulls(again) == each


class TestCustomResources:
    @every_tree
    def test_those_with_published_models_are_valid(self, folder: Path, build: Build) -> None:
        for each in build(folder):
            if each["kind"] in MODELS:
                check_published(each)

    def test_an_unknown_field_is_found(self, build: Build) -> None:
        monitor = the("ServiceMonitor", build(DEPLOY / "prometheus"))
        monitor["spec"]["endpoints"][0]["intervall"] = "15s"
        with pytest.raises(AssertionError):
            check_published(monitor)

    def test_custom_resources_are_as_their_owners_define_them(self, build: Build) -> None:
        """All of them, against the owners' CustomResourceDefinitions: SPARSEWALK_CRDS names a folder with these files.

        The definitions of KServe and KubeRay are in no package registry; deploy/README.md says where to get them.
        """
        folder = os.environ.get("SPARSEWALK_CRDS")
        if folder is None:
            pytest.skip("SPARSEWALK_CRDS names no folder with CustomResourceDefinitions; see deploy/README.md")
        definitions = dict(read_definitions(Path(folder)))
        seen = set()
        for tree in kustomizations():
            for each in build(tree):
                if each["kind"] in CUSTOM:
                    group, _, version = each["apiVersion"].partition("/")
                    schema = definitions[group, version, each["kind"]]
                    jsonschema.Draft202012Validator(schema).validate(each)
                    seen.add(each["kind"])
        assert seen == CUSTOM


def read_definitions(folder: Path) -> Iterator[tuple[tuple[str, str, str], Object]]:
    for path in sorted(folder.glob("*.yaml")):
        for definition in yaml.safe_load_all(path.read_text()):
            spec = definition["spec"]
            for version in spec["versions"]:
                schema = strict(version["schema"]["openAPIV3Schema"])
                # Kubernetes checks these itself, against schemas of its own
                schema["properties"] |= {"metadata": {"type": "object"}}
                yield (spec["group"], version["name"], spec["names"]["kind"]), schema


def test_strict_schemas_refuse_what_they_do_not_know() -> None:
    known = {"type": "object", "properties": {"a": {"type": "array", "items": {"properties": {"b": {}}}}}}
    jsonschema.validate({"a": [{"b": 1}]}, strict(known))
    for unknown in ({"c": 1}, {"a": [{"b": 1, "c": 2}]}):
        with pytest.raises(jsonschema.ValidationError, match="'c' was unexpected"):
            jsonschema.validate(unknown, strict(known))


def strict(schema: Any) -> Any:
    """A structural schema of Kubernetes as JSON Schema that refuses unknown fields."""
    if not isinstance(schema, dict):
        return schema
    told = {key: value for key, value in schema.items() if key not in ("description", "format", "nullable")}
    for key in ("properties",):
        if key in told:
            told[key] = {name: strict(each) for name, each in told[key].items()}
    for key in ("items", "additionalProperties"):
        if key in told:
            told[key] = strict(told[key])
    for key in ("anyOf", "oneOf", "allOf"):
        if key in told:
            told[key] = [{**each} for each in told[key]]
    if told.pop("x-kubernetes-int-or-string", False):
        told.pop("type", None)
        told.pop("anyOf", None)
        return {"type": ["integer", "string"]}
    if "properties" in told and "additionalProperties" not in told:
        told["additionalProperties"] = bool(told.get("x-kubernetes-preserve-unknown-fields"))
    return told


def containers(pod: Object) -> list[Object]:
    return [*pod.get("initContainers", []), *pod["containers"]]


ALLOWED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


class TestPolicy:
    """Pod Security's restricted profile and the rules of this house, for every workload of every tree."""

    @every_tree
    def test_pods_keep_to_the_restricted_profile(self, folder: Path, build: Build) -> None:
        for name, _, pod in pod_specs(build(folder)):
            security = pod.get("securityContext", {})
            for field in ("hostNetwork", "hostPID", "hostIPC"):
                assert not pod.get(field), f"{name}: {field}"
            for volume in pod.get("volumes", []):
                assert set(volume) - {"name"} <= ALLOWED_VOLUMES, f"{name}: volume {volume['name']}"
            for container in containers(pod):
                own = container["securityContext"]
                where = f"{name}: {container['name']}"
                assert own["allowPrivilegeEscalation"] is False, where
                assert own["capabilities"] == {"drop": ["ALL"]}, where
                assert not own.get("privileged"), where
                assert own.get("runAsNonRoot", security.get("runAsNonRoot")) is True, where
                assert own.get("runAsUser", security.get("runAsUser")) == 65532, where
                profile = own.get("seccompProfile", security.get("seccompProfile"))
                assert profile == {"type": "RuntimeDefault"}, where
                # beyond the profile
                assert own["readOnlyRootFilesystem"] is True, where
                assert any(mount["mountPath"] == "/tmp" for mount in container["volumeMounts"]), where

    @every_tree
    def test_every_container_has_requests_and_limits(self, folder: Path, build: Build) -> None:
        for name, _, pod in pod_specs(build(folder)):
            for container in containers(pod):
                resources = container["resources"]
                for kind in ("requests", "limits"):
                    assert {"cpu", "memory"} <= set(resources[kind]), f"{name}: {container['name']}: {kind}"

    @every_tree
    def test_pods_have_no_credentials_of_the_cluster(self, folder: Path, build: Build) -> None:
        for name, each, pod in pod_specs(build(folder)):
            if each["kind"] in ("Deployment", "Job"):
                assert pod["automountServiceAccountToken"] is False, name
                assert pod["serviceAccountName"].startswith("sparsewalk-"), name

    @every_tree
    def test_images_have_a_version_and_a_target_of_the_dockerfile(self, folder: Path, build: Build) -> None:
        targets = set(re.findall(r"^FROM \S+ AS (\S+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE))
        for name, _, pod in pod_specs(build(folder)):
            for container in containers(pod):
                image, _, tag = container["image"].rpartition(":")
                assert re.fullmatch(r"\d+\.\d+\.\d+", tag), f"{name}: {container['image']}"
                assert image.removeprefix("sparsewalk/") in targets, f"{name}: {container['image']}"

    @every_tree
    def test_what_serves_has_probes_a_budget_and_a_policy(self, folder: Path, build: Build) -> None:
        objects = build(folder)
        for name, each, pod in pod_specs(objects):
            if each["kind"] != "Deployment":
                continue
            labels = each["spec"]["template"]["metadata"]["labels"]
            budget, policy = the("PodDisruptionBudget", objects), the("NetworkPolicy", objects)
            assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
            assert budget["spec"]["maxUnavailable"] == 1
            assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
            assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
            (container,) = pod["containers"]
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert {"grpc", "exec"} & set(container[probe]), f"{name}: {probe}"
            assert container["readinessProbe"]["failureThreshold"] >= 2
            assert {constraint["topologyKey"] for constraint in pod["topologySpreadConstraints"]} == {
                "topology.kubernetes.io/zone",
                "kubernetes.io/hostname",
            }

    @every_tree
    def test_the_times_of_stopping_add_up(self, folder: Path, build: Build) -> None:
        objects = build(folder)
        for name, each, pod in pod_specs(objects):
            if each["kind"] != "Deployment":
                continue
            (container,) = pod["containers"]
            settings = environment(pod, objects)
            grace = float(settings["SPARSEWALK_GRACE_SECONDS"])
            sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
            readiness, liveness = container["readinessProbe"], container["livenessProbe"]
            # The server serves on for longer than anybody may take to notice that the pod goes ...
            assert sleep >= 5, name
            # ... then drains, and is not killed before it is done ...
            assert pod["terminationGracePeriodSeconds"] >= sleep + grace + 5, name
            # ... nor for saying, while it drains, that it does not serve.
            assert liveness["failureThreshold"] * liveness["periodSeconds"] > grace + 5, name
            # A pod that stopped to answer is taken out of the Services long before it is restarted.
            assert readiness["failureThreshold"] * readiness["periodSeconds"] < (
                liveness["failureThreshold"] * liveness["periodSeconds"]
            ), name
            startup = container["startupProbe"]
            assert startup["failureThreshold"] * startup["periodSeconds"] < each["spec"]["progressDeadlineSeconds"], (
                name
            )
            for probe in (startup, readiness, liveness):
                assert probe["timeoutSeconds"] <= probe["periodSeconds"], name

    @every_tree
    def test_ports_are_those_of_the_settings(self, folder: Path, build: Build) -> None:
        objects = build(folder)
        for name, each, pod in pod_specs(objects):
            if each["kind"] != "Deployment":
                continue
            settings = environment(pod, objects)
            (container,) = pod["containers"]
            ports = {port["name"]: port["containerPort"] for port in container["ports"]}
            assert ports == {
                "grpc": int(settings["SPARSEWALK_GRPC_PORT"]),
                "metrics": int(settings["SPARSEWALK_METRICS_PORT"]),
            }, name
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert container[probe].get("grpc", {}).get("port", ports["grpc"]) == ports["grpc"], name
            for service in (each for each in objects if each["kind"] == "Service"):
                labels = the("Deployment", objects)["spec"]["template"]["metadata"]["labels"]
                assert service["spec"]["selector"].items() <= labels.items()
                assert {port["targetPort"] for port in service["spec"]["ports"]} <= set(ports)

    @every_tree
    def test_volumes_that_are_mounted_exist_and_the_other_way_round(self, folder: Path, build: Build) -> None:
        for name, _, pod in pod_specs(build(folder)):
            mounted = {mount["name"] for container in containers(pod) for mount in container["volumeMounts"]}
            assert mounted == {volume["name"] for volume in pod.get("volumes", [])}, name

    def test_the_namespace_takes_only_restricted_pods(self, build: Build) -> None:
        for overlay in ("dev", "production"):
            labels = the("Namespace", build(KUSTOMIZE / "overlays" / overlay))["metadata"]["labels"]
            assert labels["pod-security.kubernetes.io/enforce"] == "restricted"

    def test_one_headless_service_and_one_that_is_not(self, build: Build) -> None:
        services = [each for each in build(KUSTOMIZE / "base") if each["kind"] == "Service"]
        assert [each["spec"].get("clusterIP") for each in services] == [None, "None"]


class TestProduction:
    @pytest.fixture
    def objects(self, build: Build) -> list[Object]:
        return build(KUSTOMIZE / "overlays" / "production")

    def test_it_runs_on_gpus_or_not_at_all(self, objects: list[Object]) -> None:
        pod = the("Deployment", objects)["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert container["image"].startswith("sparsewalk/serving-gpu:")
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert environment(pod, objects)["SPARSEWALK_PROVIDER"] == "cuda"

    def test_the_autoscaler_owns_the_number_of_pods_and_asks_about_its_namespace(self, objects: list[Object]) -> None:
        assert "replicas" not in the("Deployment", objects)["spec"]
        scaled = the("ScaledObject", objects)
        assert scaled["spec"]["scaleTargetRef"]["name"] == the("Deployment", objects)["metadata"]["name"]
        for trigger in scaled["spec"]["triggers"]:
            query = trigger["metadata"]["query"]
            assert set(re.findall(r'namespace="([^"]*)"', query)) == {scaled["metadata"]["namespace"]}, query

    def test_the_monitor_finds_the_metrics_port_once(self, objects: list[Object]) -> None:
        monitor = the("ServiceMonitor", objects)["spec"]
        wanted = monitor["selector"]["matchLabels"].items()
        services = [
            each for each in objects if each["kind"] == "Service" and wanted <= each["metadata"]["labels"].items()
        ]
        assert [each["metadata"]["name"] for each in services] == ["sparsewalk-pods"]
        ports = [port["name"] for port in services[0]["spec"]["ports"]]
        assert [endpoint["port"] for endpoint in monitor["endpoints"]] == ["metrics"]
        assert "metrics" in ports

    def test_its_alerts_name_labels_that_the_monitor_brings(self, objects: list[Object]) -> None:
        (label,) = the("ServiceMonitor", objects)["spec"]["podTargetLabels"]
        assert label in the("Deployment", objects)["spec"]["template"]["metadata"]["labels"]
        assert re.sub(r"\W", "_", label) + '="nvidia"' in json.dumps(the("PrometheusRule", objects)).replace('\\"', '"')


class TestJobs:
    def test_pods_know_how_many_they_are(self, build: Build) -> None:
        spec = the("Job", build(DEPLOY / "jobs" / "video"))["spec"]
        (container,) = spec["template"]["spec"]["containers"]
        assert f"--job-count={spec['completions']}" in container["args"]
        assert spec["completionMode"] == "Indexed"
        assert spec["maxFailedIndexes"] <= spec["completions"]

    def test_containers_of_the_failure_policy_exist(self, build: Build) -> None:
        for tree in ("training", "video"):
            spec = the("Job", build(DEPLOY / "jobs" / tree))["spec"]
            names = {container["name"] for container in containers(spec["template"]["spec"])}
            rules = [rule["onExitCodes"] for rule in spec["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
            assert {rule["containerName"] for rule in rules} <= names
            assert spec["template"]["spec"]["restartPolicy"] == "Never"

    def test_both_ways_of_the_video_job_read_the_same_settings(self, build: Build) -> None:
        found = []
        for tree in ("video", "video-ray"):
            objects = build(DEPLOY / "jobs" / tree)
            for name, _, pod in pod_specs(objects):
                if not name.endswith("/submitter"):
                    found.append((environment(pod, objects), [v for v in pod["volumes"] if "configMap" in v]))
        assert len(found) == 3
        assert all(each == found[0] for each in found)

    def test_the_training_job_trains_and_exports_the_same(self, build: Build) -> None:
        objects = build(DEPLOY / "jobs" / "training")
        pod = the("Job", objects)["spec"]["template"]["spec"]
        told = environment(pod, objects)
        train, export = (expand(container["args"], told) for container in containers(pod))
        assert train[:2] == ["train", told["EXPERIMENT"]]
        assert export[:2] == ["export", told["EXPERIMENT"]]
        assert train[train.index("--runs") + 1] == export[export.index("--runs") + 1]
        assert pod["shareProcessNamespace"]  # as process 1 it would not hear SIGTERM: it has no handler
        assert not [word for word in (*train, *export) if "$" in word]


@cache
def printed(settings: tuple[tuple[str, str], ...]) -> Object:
    """What the server makes of an environment, in a process of its own."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("SPARSEWALK_")}
    done = subprocess.run(
        [sys.executable, "-m", "serving", "--print-settings"],
        env=outside | dict(settings),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return tomllib.loads(done.stdout)


@every_tree
def test_settings_are_read_by_the_server_exactly(folder: Path, build: Build) -> None:
    objects = build(folder)
    for name, each, pod in pod_specs(objects):
        if each["kind"] not in ("Deployment", "ServingRuntime"):
            continue
        told = environment(pod, objects)
        assert told, name
        read = printed(tuple(sorted(told.items())))
        for variable, text in told.items():
            field = variable.removeprefix("SPARSEWALK_").lower()
            assert variable.startswith("SPARSEWALK_"), f"{name}: {variable}"
            assert field in Settings.model_fields, f"{name}: {variable} is no setting"
            assert as_text(read[field]) == text, f"{name}: {variable}"


def as_text(value: Any) -> str:
    """A value as the environment writes it."""
    match value:
        case bool():
            return str(value).lower()
        case list():
            return ",".join(str(each) for each in value)
        case float() if value.is_integer():
            return str(int(value))
    return str(value)
