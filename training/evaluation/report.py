"""One page that compares all trained encoders: tables, plots, pictures and how to make each of them again.

The page is a single HTML file that asks for nothing else: styles, script and pictures are inside.
"""

from __future__ import annotations

import base64
import io
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from training.datasets.pedestrians import PRETRAINED
from training.evaluation import charts
from training.files import write_text
from training.run_folder import FINGERPRINT

COLUMNS = {
    "mnist": (
        "explained_variance",
        "mse",
        "l0",
        "dead_share",
        "hoyer",
        "probe_error",
        "class_purity",
        "cosine",
        "latents_below_1e_5",
        "stability",
    ),
    "segmentation": (
        "iou_per_image",
        "dice_per_image",
        "iou_pooled",
        "precision",
        "recall",
        "boundary_f",
    ),
}
"""Scores in the table of a family, where any of its encoders has them; the others are in the encoder's section."""
LOWER = frozenset({"mse", "probe_error", "dead_share", "latents_below_1e_5"})
NEUTRAL = frozenset({"l0", "hoyer"})
"""Neither more nor less is better; of the scores that are in neither set more is, and the best is marked."""
HIGHER = frozenset(column for columns in COLUMNS.values() for column in columns) - LOWER - NEUTRAL
HEADINGS = {"mnist": "Encoders of digits", "segmentation": "Pedestrian segmentation"}
CONTROL = "control_"
PICTURE_QUALITY = 88
"""Of WebP: the run folder's PNG files are ten times as large, and the eye sees no difference."""


@dataclass(frozen=True)
class Trained:
    """One trained encoder, as its run folder tells.

    Attributes:
        name: of the experiment.
        family: "mnist" or "segmentation".
        summary: one line.
        config: of the run folder.
        changed: settings that differ from the preset's, by name.
        scores: with ``control_*`` among them.
        history: the scalars of every epoch.
        figures: pictures, in the order of the page.
    """

    name: str
    family: str
    summary: str
    config: Mapping[str, Any]
    changed: Mapping[str, Any]
    scores: Mapping[str, float]
    history: Sequence[Mapping[str, float]]
    figures: Sequence[Path]

    @property
    def command(self) -> str:
        """What trains this encoder again."""
        parts = ["python", "-m", "training", "train", self.name, "--preset", self.config["preset"]]
        if "data" in self.config or self.config["data_source"] == "embedded":
            parts += ["--data", self.config.get("data", "embedded")]
        for key, value in self.changed.items():
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            parts += ["--set", f"{key}={text}"]
        return shlex.join(parts)

    @property
    def data(self) -> str:
        """Whose test split the scores are of: two encoders can be compared where this is the same."""
        if "data" in self.config:
            return f"{self.config['data']} (files {self.config.get(FINGERPRINT, '')[:8] or 'unknown'})"
        return f"{self.config['dataset'].removesuffix(PRETRAINED)} ({self.config['data_source']} data)"

    @property
    def short_name(self) -> str:
        """The name without that of its family."""
        return self.name.partition("_")[2]

    @property
    def own_scores(self) -> dict[str, float]:
        """The scores of the encoder itself."""
        return {key: value for key, value in self.scores.items() if not key.startswith(CONTROL)}

    @property
    def controls(self) -> dict[str, float]:
        """The scores of its controls, without their prefix."""
        return {key.removeprefix(CONTROL): value for key, value in self.scores.items() if key.startswith(CONTROL)}


@dataclass(frozen=True)
class Cell:
    """A number in a table: what it is sorted by, what is shown, and whether it is the best of its column."""

    value: float
    text: str
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A line of a table; ``cells`` lack the scores that it does not have."""

    name: str
    cells: Mapping[str, Cell]
    control: bool = False
    record: Trained | None = None


def read_run(name: str, family: str, summary: str, preset_settings: Mapping[str, Any], folder: Path) -> Trained:
    """The encoder in the folder of a run that is trained and scored.

    Args:
        name: of the experiment.
        family: of its model.
        summary: one line.
        preset_settings: what the run's preset says, to tell what was changed.
        folder: of the run.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    history = (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return Trained(
        name=name,
        family=family,
        summary=summary,
        config=config,
        changed={key: value for key, value in config["settings"].items() if preset_settings.get(key, value) != value},
        scores={**scores, **_stability(folder, config)},
        history=[json.loads(line) for line in history],
        figures=sorted((folder / "figures").glob("*.[pg][ni][gf]"), key=_place),
    )


def write_report(trained: Sequence[Trained], missing: Sequence[str], output: Path) -> None:
    """Writes the page.

    Args:
        trained: in the order of the page.
        missing: names of experiments without a complete run, which the page lists.
        output: an HTML file.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["picture"] = picture_uri
    page = environment.get_template("report.html.j2").render(
        groups=groups(trained),
        trained=trained,
        missing=missing,
        embedded=[record.name for record in trained if record.config["data_source"] == "embedded"],
        higher=HIGHER,
        lower=LOWER,
    )
    write_text(output, page)


def groups(trained: Sequence[Trained]) -> list[dict[str, Any]]:
    """What the page shows together, as its template reads it: the encoders of one family, scored on the same data.

    The key is the family's name, from its second data set on with a number.
    """
    found = []
    for family in COLUMNS:
        together: dict[str, list[Trained]] = {}
        for record in trained:
            if record.family == family:
                together.setdefault(record.data, []).append(record)
        for order, (data, members) in enumerate(together.items(), start=1):
            columns = columns_of(family, members)
            found.append(
                {
                    "key": family if order == 1 else f"{family}_{order}",
                    "heading": HEADINGS[family],
                    "data": data,
                    "columns": columns,
                    "rows": table(members, columns),
                    "charts": family_charts(family, members),
                    "members": members,
                }
            )
    return found


def columns_of(family: str, members: Sequence[Trained]) -> list[str]:
    """The scores of the family's table."""
    return [column for column in COLUMNS[family] if any(column in record.scores for record in members)]


def table(members: Sequence[Trained], columns: Sequence[str]) -> list[Row]:
    """A row for each encoder and each control; where encoders have different controls, their range is shown."""
    best = {}
    for column in columns:
        values = [record.scores[column] for record in members if column in record.scores]
        if column in HIGHER | LOWER:
            best[column] = max(values) if column in HIGHER else min(values)
            # where most are best, marking them says nothing
            if 2 * values.count(best[column]) > len(values):
                del best[column]
    rows = [
        Row(
            record.name,
            {
                column: Cell(value, number(value), best=best.get(column) == value)
                for column in columns
                if (value := record.scores.get(column)) is not None
            },
            record=record,
        )
        for record in members
    ]
    found: dict[str, dict[str, list[float]]] = {}
    for record in members:
        for key, value in record.controls.items():
            # the longest name first: squared_error before error
            metric = next((name for name in sorted(columns, key=len, reverse=True) if key.endswith(f"_{name}")), None)
            if metric is not None:
                found.setdefault(key.removesuffix(f"_{metric}"), {}).setdefault(metric, []).append(value)
    for name, metrics in found.items():
        cells = {metric: Cell(min(values), _range(values)) for metric, values in metrics.items()}
        rows.append(Row(name.replace("_", " "), cells, control=True))
    return rows


def family_charts(family: str, members: Sequence[Trained]) -> list[tuple[str, str, str]]:
    """Heading, explanation and SVG of each chart of a family."""
    if family == "mnist":
        compared = [
            _explained_by_l0(members),
            _bars(members, "probe_error", "Linear probe: share of wrong test digits"),
        ]
    else:
        compared = [_bars(members, "iou_per_image", "Intersection over union, mean over test pictures")]
    return [*compared, _cost_over_time(members)]


def _explained_by_l0(members: Sequence[Trained]) -> tuple[str, str, str]:
    scored = [record for record in members if record.scores.get("l0", 0) > 0]
    points = [
        charts.Point(record.short_name, record.scores["l0"], record.scores["explained_variance"]) for record in scored
    ]
    points += [
        charts.Point(f"PCA with the L0 of {record.short_name}", record.scores["l0"], value, control=True)
        for record in scored
        if (value := record.controls.get("pca_same_l0_explained_variance")) is not None
    ]
    heading = "Explained variance and L0"
    note = (
        "Share of the test digits' variance that so many active latents explain. Hollow: as many principal components."
    )
    return heading, note, charts.scatter(points, heading, "L0", "explained variance")


def _bars(members: Sequence[Trained], score: str, heading: str) -> tuple[str, str, str]:
    rows = [row for row in table(members, [score]) if score in row.cells]
    items = [
        charts.Bar(row.record.short_name if row.record else f"control: {row.name}", row.cells[score].value, row.control)
        for row in rows
    ]
    items.sort(key=lambda item: item.value, reverse=score in HIGHER)
    return heading, "The best is on top. Grey: controls, which learn no encoder.", charts.bars(items, heading)


def _cost_over_time(members: Sequence[Trained]) -> tuple[str, str, str]:
    series = []
    for record in members:
        losses = [(epoch["epoch"], epoch["loss"]) for epoch in record.history]
        # a relative cost on a logarithmic axis needs positive numbers, and a line two of them
        if len(losses) > 1 and all(loss > 0 for _, loss in losses):
            series.append(charts.Line(record.short_name, [(epoch, loss / losses[0][1]) for epoch, loss in losses]))
    heading = "Cost over time"
    note = "Training objective relative to that of the first epoch. Objectives differ: compare shapes and not heights."
    return heading, note, charts.lines(series, heading, "epoch", "cost / cost of epoch 1")


def number(value: float) -> str:
    """Three or four digits that mean something."""
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.4f}" if abs(value) < 1 else f"{value:.4g}"


def picture_uri(path: Path) -> str:
    """A picture as data URI: GIF as it is, PNG as WebP."""
    if path.suffix == ".gif":
        content, kind = path.read_bytes(), "gif"
    else:
        buffer = io.BytesIO()
        with Image.open(path) as picture:
            picture.convert("RGB").save(buffer, format="WEBP", quality=PICTURE_QUALITY)
        content, kind = buffer.getvalue(), "webp"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _place(figure: Path) -> tuple[int, str]:
    """Where a figure comes on the page: the known ones first, in their order."""
    known = ("reconstructions", "dictionary", "dictionary_raw", "weights", "latents_histogram", "cost")
    return (known.index(figure.stem) if figure.stem in known else len(known), figure.name)


def _stability(folder: Path, config: Mapping[str, Any]) -> dict[str, float]:
    """The scores of the study of this very training with several seeds, where there is one."""
    path = folder.parent / "stability" / folder.name / "stability.json"
    if not path.exists():
        return {}
    study = json.loads(path.read_text(encoding="utf-8"))
    if _seedless(study) != _seedless(config):
        return {}
    scores = study["scores"]
    return {
        "stability": scores["mean_cosine"],
        f"{CONTROL}untrained_stability": scores["control_untrained_mean_cosine"],
    }


def _seedless(config: Mapping[str, Any]) -> dict[str, Any]:
    settings = {name: value for name, value in config.get("settings", {}).items() if name != "seed"}
    named = ("experiment", "preset", "dataset", "data_source", "data", FINGERPRINT)
    return {"settings": settings, **{key: config.get(key) for key in named}}


def _range(values: Sequence[float]) -> str:
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"
