"""Who may speak with whom, and whose pods a selector means."""

from collections.abc import Iterator

from tests.deploy.conftest import DEPLOY, Build, Object, kustomizations, name_of, pod_templates, the


def selectors(objects: list[Object]) -> Iterator[tuple[str, dict[str, str]]]:
    """Kind/name and the labels of the pods that it is about, for every object that chooses pods by labels."""
    for each in objects:
        name = f"{each['kind']}/{each['metadata']['name']}"
        match each["kind"]:
            case "NetworkPolicy":
                yield name, each["spec"]["podSelector"]["matchLabels"]
            case "PodDisruptionBudget":
                yield name, each["spec"]["selector"]["matchLabels"]
            case "Service":
                yield name, each["spec"]["selector"]


def test_selectors_reach_pods_of_their_own_tree_alone(build: Build) -> None:
    """All may be applied to one namespace: a policy, budget or Service of one tree concerns no pod of another."""
    trees = {name_of(folder): build(folder) for folder in kustomizations()}
    pods = {tree: pod_templates(objects) for tree, objects in trees.items()}
    reached: dict[str, set[str]] = {}
    for tree, objects in trees.items():
        own = {name for name, *_ in pods[tree]}
        for each, selector in selectors(objects):
            reached[f"{tree}: {each}"] = {
                f"{other}: {name}"
                for other, templates in pods.items()
                for name, _, template in templates
                # the same workload, when an overlay changes it
                if name not in own and selector.items() <= template["metadata"]["labels"].items()
            }
    assert len(reached) > 10
    assert {name: found for name, found in reached.items() if found} == {}


def test_pods_of_the_ray_cluster_reach_each_other_and_nobody_else_them_but_kuberay(build: Build) -> None:
    objects = build(DEPLOY / "jobs" / "video-ray")
    policy = the("NetworkPolicy", objects)["spec"]
    templates = [template for _, _, template in pod_templates(objects)]
    assert len(templates) == 3
    for template in templates:
        assert policy["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    anything_of_ours = {"from": [{"podSelector": policy["podSelector"]}]}
    ours, kuberay = policy["ingress"]
    assert ours == anything_of_ours
    assert kuberay["ports"] == [{"port": 8265, "protocol": "TCP"}]
    assert kuberay["from"][0]["podSelector"]["matchLabels"] == {"app.kubernetes.io/component": "kuberay-operator"}
    assert policy["egress"][0] == {"to": anything_of_ours["from"]}
    assert {port["port"] for port in policy["egress"][1]["ports"]} == {53}
