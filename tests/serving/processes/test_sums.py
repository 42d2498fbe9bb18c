"""Metrics of several processes as one page."""

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serving.metrics import Families, Metrics
from serving.processes.metrics import LEAST, MOST, Ledger, add_up
from serving.timings import Timings


def registry(number: float) -> Families:
    """Of one process, which saw everything ``number`` times."""
    made = CollectorRegistry()
    Counter("asked", "", ("code",), registry=made).labels("OK").inc(number)
    Histogram("took_seconds", "", buckets=(1, 10), registry=made).observe(number)
    Gauge("waiting", "", registry=made).set(number)
    Gauge("sparsewalk_model_ready", "", registry=made).set(number)
    Gauge("sparsewalk_model_load_seconds", "", registry=made).set(number)
    Gauge("provider_info", "", ("provider",), registry=made).labels(f"p{number}").set(1)
    return list(made.collect())


def values(families: Families) -> dict[str, float]:
    return {
        sample.name + "".join(sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_counts_are_sums_and_gauges_mean_something() -> None:
    assert values(add_up([registry(2), registry(5)])) == {
        "asked_totalOK": 7,
        "took_seconds_bucket1.0": 0,
        "took_seconds_bucket10.0": 2,
        "took_seconds_bucket+Inf": 2,
        "took_seconds_count": 2,
        "took_seconds_sum": 7,
        "waiting": 7,
        "sparsewalk_model_ready": 2,
        "sparsewalk_model_load_seconds": 5,
        "provider_infop2": 1,
        "provider_infop5": 1,
    }


def test_the_sum_of_one_is_the_same_page() -> None:
    metrics = Metrics(version="1", runtime_version="2")
    model = metrics.model("digits", 1)
    model.loaded("CPUExecutionProvider", 0.5)
    model.observe(Timings(0.1, 0.2, 0.3, 0.4, 1.0))
    metrics.count("digits", "1", "Encode", "OK")
    families = metrics.families()
    page = CollectorRegistry()

    class Sums:
        def collect(self) -> Families:
            return add_up([families])

    page.register(Sums())  # type: ignore[arg-type]
    expected = CollectorRegistry()

    class Same:
        def collect(self) -> Families:
            return families

    expected.register(Same())  # type: ignore[arg-type]
    assert sorted(generate_latest(page).splitlines()) == sorted(generate_latest(expected).splitlines())


# Every gauge that a process has; one that is new must be thought about before it is added up.
SUMS = {
    "sparsewalk_queue_depth",
    "sparsewalk_requests_in_flight",
    "process_virtual_memory_bytes",
    "process_resident_memory_bytes",
    "process_open_fds",
}


def test_each_gauge_has_a_rule() -> None:
    gauges = {
        family.name
        for family in Metrics(version="0", runtime_version="0").families()
        if family.type == "gauge" and not family.name.endswith("_info")
    }
    assert gauges <= SUMS | LEAST | MOST


def test_what_a_process_counted_stays_when_it_ends() -> None:
    pages = {"a": registry(2), "b": registry(5)}
    ledger = Ledger(lambda: dict(pages))
    for name in pages:
        ledger.joined(name, "worker")
    assert values(list(ledger.collect()))["asked_totalOK"] == 7
    del pages["a"]
    ledger.left("a", "worker", None)
    after = values(list(ledger.collect()))
    assert (after["asked_totalOK"], after["took_seconds_count"], after["waiting"]) == (7, 2, 5)
    # One that could still tell is believed.
    del pages["b"]
    ledger.left("b", "worker", registry(6))
    after = values(list(ledger.collect()))
    assert after["asked_totalOK"] == 8
    assert "waiting" not in after
    assert after["sparsewalk_processesworker"] == 0


def test_who_does_not_answer_is_told_as_before() -> None:
    pages = {"a": registry(2)}
    ledger = Ledger(lambda: dict(pages))
    ledger.joined("a", "worker")
    ledger.look()
    pages.clear()
    assert values(list(ledger.collect()))["asked_totalOK"] == pytest.approx(2)
