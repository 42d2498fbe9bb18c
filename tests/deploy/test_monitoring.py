"""Dashboard, rules and autoscaler speak of metrics that are there, and Prometheus understands them.

promtool and prometheus are Debian's package prometheus, which .ci/run installs.
"""

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import yaml

from serving.client import Client, ServiceError
from tests.deploy.conftest import DEPLOY, KUSTOMIZE, ROOT, Object
from tests.serving.conftest import RunningServer, launch, write_model

RULES = DEPLOY / "prometheus" / "rules.yaml"
RUNBOOK = DEPLOY / "prometheus" / "RUNBOOK.md"
# On the page of a machine with a GPU only. Elsewhere their names are taken from the file that freezes all names, to
# which the server's own tests hold a page with GPUs.
GPU = "sparsewalk_gpu_"
GOLDEN = ROOT / "tests" / "serving" / "metrics.golden.txt"

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="prometheus and promtool are not installed (Debian package prometheus)",
)


def rule_groups() -> Object:
    told: Object = yaml.safe_load(RULES.read_text())["spec"]
    return told


def rules() -> list[Object]:
    return [rule for group in rule_groups()["groups"] for rule in group["rules"]]


def alerts() -> list[Object]:
    return [rule for rule in rules() if "alert" in rule]


def dashboard() -> Object:
    told: Object = json.loads((DEPLOY / "grafana" / "sparsewalk.json").read_text())
    return told


def panels() -> list[Object]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def dashboard_queries() -> list[tuple[str, str]]:
    found = [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]
    return found + [(each["name"], each["expr"]) for each in dashboard()["annotations"]["list"]]


def autoscaler_queries() -> list[tuple[str, str]]:
    scaled = yaml.safe_load((KUSTOMIZE / "components" / "autoscaling" / "scaledobject.yaml").read_text())
    return [(trigger["name"], trigger["metadata"]["query"]) for trigger in scaled["spec"]["triggers"]]


def names_in(query: str) -> set[str]:
    """Metrics; what a comparison follows at once is a label."""
    bare = re.sub(r'"[^"]*"', '""', query)
    return set(re.findall(r"(?<![\w:$])(?:sparsewalk|process)_\w+(?!\w*[=!])", bare))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    return port


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read().decode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("models")
    for name in ("digits", "red"):
        write_model(root, name)
    running = launch(root, "--allowed-batch-sizes", "1,4,64")
    yield running
    assert running.stop()[0] == 0


@pytest.fixture(scope="module")
def sample_names(server: RunningServer) -> set[str]:
    """Of everything on the page, families without a sample included, and of GPUs."""
    names = {line.partition(" ")[0] for line in GOLDEN.read_text().splitlines() if line.startswith(GPU)}
    assert names
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", get(server.metrics_url), re.MULTILINE):
        if not name.endswith("_created"):
            names |= {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    return names


class TestNames:
    def test_every_metric_of_dashboard_rules_and_autoscaler_is_on_the_page(self, sample_names: set[str]) -> None:
        recorded = {rule["record"] for rule in rules() if "record" in rule}
        queries = dashboard_queries() + autoscaler_queries() + [(str(rule), rule["expr"]) for rule in rules()]
        variables = [(each["name"], each["definition"]) for each in dashboard()["templating"]["list"][1:]]
        seen: set[str] = set()
        for where, query in queries + variables:
            used = names_in(query)
            assert used <= sample_names, where
            assert set(re.findall(r"sparsewalk:[\w:]+", query)) <= recorded, where
            seen |= used
        assert len(seen) > 20

    def test_a_name_that_is_not_there_would_be_found(self, sample_names: set[str]) -> None:
        assert not names_in("sum(rate(sparsewalk_request_total[5m]))") <= sample_names

    def test_every_metric_of_ours_is_shown_or_watched(self, sample_names: set[str]) -> None:
        """A metric that nobody looks at is a metric that nobody needs."""
        queries = dashboard_queries() + [(str(rule), rule["expr"]) for rule in rules()]
        used = {name for _, query in queries for name in names_in(query)}
        families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in used}
        ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in sample_names if name.startswith("sparsewalk_")}
        assert ours <= families


class TestDashboard:
    def test_a_row_for_each_question(self) -> None:
        rows = [panel["title"].partition(":")[0] for panel in dashboard()["panels"] if panel["type"] == "row"]
        assert rows == ["Traffic", "Errors", "Latency", "Batching", "Queue", "Models", "GPU"]

    def test_panels_are_told_apart_and_explain_themselves(self) -> None:
        ids = [panel["id"] for panel in dashboard()["panels"]]
        assert len(set(ids)) == len(ids)
        for panel in panels():
            assert panel["title"]
            assert panel["description"], panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert panel["datasource"]["uid"] == "${datasource}", panel["title"]

    def test_panels_do_not_overlap(self) -> None:
        taken: set[tuple[int, int]] = set()
        for panel in dashboard()["panels"]:
            at = panel["gridPos"]
            cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
            assert at["x"] + at["w"] <= 24
            assert not taken & cells, panel["title"]
            taken |= cells


class TestRunbook:
    def test_every_alert_has_a_paragraph_and_every_paragraph_an_alert(self) -> None:
        headings = re.findall(r"^## (\w+)$", RUNBOOK.read_text(), re.MULTILINE)
        assert headings == [alert["alert"] for alert in alerts()]
        for paragraph in re.split(r"^## \w+$", RUNBOOK.read_text(), flags=re.MULTILINE)[1:]:
            assert len(paragraph.split()) > 30

    def test_every_alert_links_to_its_paragraph_and_says_how_bad_it_is(self) -> None:
        for alert in alerts():
            assert alert["annotations"]["runbook_url"].endswith(
                f"/deploy/prometheus/RUNBOOK.md#{alert['alert'].lower()}"
            )
            assert alert["labels"]["severity"] in ("critical", "warning")
            assert alert["annotations"]["summary"]
            assert alert["annotations"]["description"]

    def test_every_alert_has_a_test_that_fires_and_one_that_does_not(self) -> None:
        told = yaml.safe_load((DEPLOY / "prometheus" / "rules_test.yaml").read_text())
        checks = [check for test in told["tests"] for check in test["alert_rule_test"]]
        names = {alert["alert"] for alert in alerts()}
        assert {check["alertname"] for check in checks if check["exp_alerts"]} == names
        assert {check["alertname"] for check in checks if not check["exp_alerts"]} == names


@needs_prometheus
class TestPromtool:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "groups.yaml").write_text(yaml.safe_dump(rule_groups()))
        shutil.copy(DEPLOY / "prometheus" / "rules_test.yaml", tmp_path)
        return tmp_path

    def test_rules_are_valid(self, folder: Path) -> None:
        run_promtool(folder, "check", "rules", "--lint-fatal", "groups.yaml")

    def test_alerts_fire_when_they_must_and_only_then(self, folder: Path) -> None:
        run_promtool(folder, "test", "rules", "rules_test.yaml")


def run_promtool(folder: Path, *arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


class Prometheus:
    """A real one, for one server.

    Args:
        folder: for its files.
        page: the server's metrics.
    """

    def __init__(self, folder: Path, page: str) -> None:
        address = urllib.parse.urlsplit(page).netloc
        labels = {"namespace": "sparsewalk", "pod": "sparsewalk-serving-0", "sparsewalk_dev_accelerator": "none"}
        configuration = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["groups.yaml"],
            "scrape_configs": [
                {"job_name": "sparsewalk-pods", "static_configs": [{"targets": [address], "labels": labels}]}
            ],
        }
        (folder / "groups.yaml").write_text(yaml.safe_dump(rule_groups()))
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [
                *("prometheus", "--config.file=prometheus.yaml", "--storage.tsdb.path=data"),
                *(f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"),
            ],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def query(self, expression: str) -> list[Object]:
        """The samples that an instant query gives.

        Raises:
            AssertionError: Prometheus does not understand it.
        """
        told = urllib.parse.urlencode({"query": expression})
        try:
            answer = json.loads(get(f"{self.url}/api/v1/query?{told}"))
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.SERVICE_UNAVAILABLE:  # it still starts
                raise
            raise AssertionError(f"{expression}: {error.read().decode()}") from error
        found: list[Object] = answer["data"]["result"]
        return found

    def wait(self, expression: str, timeout: float = 120) -> None:
        """Until a query answers with a sample."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            try:
                if self.query(expression):
                    return
            except OSError:  # not up yet
                assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.2)
        raise AssertionError(f"no answer to {expression}")

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=30)


@contextmanager
def load(target: str) -> Iterator[None]:
    """Requests of each kind, until told to stop; some of them wrong."""
    stopping = False
    refusals: set[grpc.StatusCode] = set()
    row = np.zeros((2, 784), np.float32)
    picture = np.zeros((40, 40, 3), np.uint8)

    def ask() -> None:
        with Client(target) as client:
            while not stopping:
                client.encode(row, "digits")
                client.segment(picture, "red")
                for model in ("digits", "made up"):
                    try:
                        client.encode(np.zeros((1, 3), np.float32), model)
                    except ServiceError as error:
                        refusals.add(error.code)
                time.sleep(0.02)

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        try:
            yield
        finally:
            stopping = True
        for each in asking:
            each.result()
    assert refusals == {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}


@needs_prometheus
def test_prometheus_answers_every_query_under_load(server: RunningServer, tmp_path: Path) -> None:
    prometheus = Prometheus(tmp_path, server.metrics_url)
    try:
        with load(server.target):
            # as many scrapes as rate() needs, and what the rules record of them
            prometheus.wait('sum(rate(sparsewalk_requests_total{code="INVALID_ARGUMENT"}[30s])) > 0')
            prometheus.wait("sparsewalk:errors:ratio_rate5m")
            prometheus.wait("sum(rate(sparsewalk_refusals_total[30s])) > 0")
            unanswered = []
            for where, query in dashboard_queries():
                filled = query.replace("$namespace", "sparsewalk").replace("$model", ".*")
                found = prometheus.query(filled.replace("$__rate_interval", "30s"))
                if not found and GPU not in query and where != "Restarts":
                    unanswered.append((where, query))
                assert "$" not in filled.replace("$__rate_interval", ""), query
            assert unanswered == []
            for name, query in autoscaler_queries():
                (sample,) = prometheus.query(query)
                assert float(sample["value"][1]) >= 0, name
        for rule in rules():
            prometheus.query(rule["expr"])
        assert prometheus.query("up")[0]["value"][1] == "1"
        assert {each["metric"]["alertname"] for each in prometheus.query("ALERTS")} <= {"SparsewalkQueueTime"}
    finally:
        prometheus.stop()
