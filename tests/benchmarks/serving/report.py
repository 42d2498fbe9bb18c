"""Medians with spread, ratios to raw ONNX Runtime, as a table and a plot."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import scenarios

FIGURES = {
    "rows_per_second": ("rows/s", 1.0, 0),
    "p50_seconds": ("p50 ms", 1e3, 3),
    "p99_seconds": ("p99 ms", 1e3, 2),
    "cpu_seconds": ("CPU ms a request", 1e3, 3),
}


def summarise(
    found: dict[tuple[str, str, int], list[dict[str, float]]], names: list[str], callers: list[int]
) -> dict[str, Any]:
    """Medians, least and most of each figure, and their ratios to raw ONNX Runtime in the same round."""
    cells = []
    for name in names:
        for count in callers:
            raw = found[name, scenarios.RAW, count]
            for system in scenarios.SYSTEMS:
                turns = found.get((name, system, count))
                if turns is None:
                    continue
                cell: dict[str, Any] = {"scenario": name, "system": system, "callers": count}
                for figure in FIGURES:
                    values = [turn[figure] for turn in turns]
                    ratios = [turn[figure] / base[figure] for turn, base in zip(turns, raw, strict=True)]
                    cell[figure] = {
                        "median": statistics.median(values),
                        "least": min(values),
                        "most": max(values),
                        "to_raw": statistics.median(ratios),
                    }
                cells.append(cell)
    return {"rounds": len(next(iter(found.values()))), "cells": cells}


def table(result: dict[str, Any]) -> str:
    """Markdown: one table for each scenario."""
    lines = [f"`{result['command']}`", f"{result['machine']}"]
    for name in dict.fromkeys(cell["scenario"] for cell in result["cells"]):
        lines += ["", f"### {name}", ""]
        titles = [title for title, _, _ in FIGURES.values()]
        lines.append("| callers | system | " + " | ".join(f"{title} | / raw" for title in titles) + " |")
        lines.append("|" + "---|" * (2 + 2 * len(titles)))
        for cell in result["cells"]:
            if cell["scenario"] != name:
                continue
            told = []
            for figure, (_, factor, digits) in FIGURES.items():
                one = cell[figure]
                low, mid, high = (f"{one[key] * factor:.{digits}f}" for key in ("least", "median", "most"))
                told.append(f"{mid} ({low} to {high}) | {one['to_raw']:.2f}")
            lines.append(f"| {cell['callers']} | {cell['system']} | " + " | ".join(told) + " |")
    for name, figures in result.get("limits", {}).items():
        lines.append(f"\n{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in figures.items()))
    return "\n".join(lines)


def plot(result: dict[str, Any], path: Path) -> None:
    """Throughput, latency and CPU time by callers: one row a scenario."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(cell["scenario"] for cell in result["cells"]))
    figure, axes = plt.subplots(len(names), 4, figsize=(17, 3.6 * len(names)), squeeze=False, layout="constrained")
    colours = dict(zip(scenarios.SYSTEMS, ("black", "grey", "C0", "C4", "C1", "C5", "C2", "C3", "C6"), strict=True))
    for row, name in enumerate(names):
        for column, (key, (title, factor, _)) in enumerate(FIGURES.items()):
            axis = axes[row][column]
            for system in scenarios.SYSTEMS:
                cells = [c for c in result["cells"] if c["scenario"] == name and c["system"] == system]
                if not cells:
                    continue
                mid = [cell[key]["median"] * factor for cell in cells]
                low = [m - cell[key]["least"] * factor for m, cell in zip(mid, cells, strict=True)]
                high = [cell[key]["most"] * factor - m for m, cell in zip(mid, cells, strict=True)]
                axis.errorbar(
                    [cell["callers"] for cell in cells],
                    mid,
                    yerr=[low, high],
                    label=system,
                    color=colours[system],
                    linestyle="--" if system in (scenarios.RAW, scenarios.BARE) else "-",
                    marker="o",
                    markersize=4,
                    capsize=2,
                )
            axis.set_xscale("log", base=2)
            axis.set_xticks(sorted({cell["callers"] for cell in result["cells"]}))
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            if key != "rows_per_second":
                axis.set_yscale("log")
                axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
                axis.yaxis.set_minor_formatter(lambda value, _: f"{value:g}")
                axis.tick_params(axis="y", which="minor", labelsize=6)
            else:
                axis.set_ylim(bottom=0)
            axis.set_title(f"{name}\n{title}" if column == 0 else title, fontsize=9, loc="left")
            axis.set_xlabel("callers", fontsize=8)
            axis.tick_params(labelsize=8)
            axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)
