from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from training.evaluation.charts import Bar, Line, Point, bars, lines, scatter

SVG = "{http://www.w3.org/2000/svg}"


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def test_bars_are_as_long_as_their_values() -> None:
    drawing = parsed(bars([Bar("one", 1.0), Bar("two", 0.5), Bar("control: raw", 0.25, control=True)], "x"))
    rectangles = drawing.findall(f"{SVG}rect")
    widths = [float(rectangle.get("width", "")) for rectangle in rectangles]
    assert widths[1:] == pytest.approx([widths[0] / 2, widths[0] / 4], abs=0.1)
    assert [rectangle.get("class") for rectangle in rectangles] == ["mark", "mark", "control"]


def test_scatter_is_logarithmic_across_and_linear_upwards() -> None:
    points = [Point("a", 1, 0.0), Point("b", 10, 0.5), Point("c", 100, 1.0, control=True)]
    circles = parsed(scatter(points, "x", "L0", "explained variance")).findall(f"{SVG}circle")
    across = [float(circle.get("cx", "")) for circle in circles]
    upwards = [float(circle.get("cy", "")) for circle in circles]
    assert across[1] - across[0] == pytest.approx(across[2] - across[1], abs=0.2)
    assert upwards[0] - upwards[1] == pytest.approx(upwards[1] - upwards[2], abs=0.2)
    assert upwards[0] > upwards[2]


def test_labels_of_points_that_lie_together_do_not() -> None:
    drawing = parsed(scatter([Point(name, 10, 0.5) for name in "abcd"], "x", "x", "y"))
    places = [float(text.get("y", "")) for text in drawing.findall(f"{SVG}text") if text.get("class") == "label"]
    assert min(b - a for a, b in pairwise(places)) >= 13


def test_lines_have_a_legend_and_ticks_at_round_numbers() -> None:
    drawing = parsed(lines([Line("k", [(1, 1.0), (10, 0.01)]), Line("l", [(1, 0.5)])], "x", "epoch", "cost"))
    texts = [text.text for text in drawing.findall(f"{SVG}text")]
    assert {"k", "l", "epoch", "cost", "0.1", "0.01", "5", "10"} <= set(texts)
    assert len(drawing.findall(f"{SVG}polyline")) == 2


def test_names_are_escaped() -> None:
    assert not re.search("<b>", bars([Bar("<b>", 1.0)], "a & b"))
    assert parsed(bars([Bar("<b>", 1.0)], "a & b")).get("aria-label") == "a & b"


def test_equal_values_and_no_values_still_make_a_chart() -> None:
    for series in ([Point("a", 5, 0.5)], []):
        parsed(scatter(series, "x", "x", "y"))
    parsed(bars([], "x"))
    parsed(lines([], "x", "x", "y"))
