"""The page that shows what the service answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from serving.client import Model


@dataclass(frozen=True)
class Shown:
    """One picture of the page: its path from the page, and what to say below it."""

    path: str
    caption: str


@dataclass(frozen=True)
class Result:
    """What one model answered.

    Attributes:
        experiment: name of the model.
        dataset: where the samples come from.
        data_source: "real" or "embedded".
        heading: of the section.
        legend: what the tiles of a picture are, from left to right.
        summary: one line with the figure that matters.
        shown: the pictures.
    """

    experiment: str
    dataset: str
    data_source: str
    heading: str
    legend: str
    summary: str
    shown: tuple[Shown, ...]


def render(results: Sequence[Result], models: Sequence[Model], metrics: str, seconds_to_ready: float) -> str:
    """The page as HTML; pictures and metrics are beside it."""
    environment = Environment(
        loader=PackageLoader("serving.demo", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    requests = [line for line in metrics.splitlines() if line.startswith("sparsewalk_requests_total{")]
    return environment.get_template("index.html.j2").render(
        results=results, models=models, requests=requests, seconds_to_ready=seconds_to_ready
    )
