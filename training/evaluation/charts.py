"""Charts of the report as inline SVG: sharp at any size, and coloured by the page's style, light or dark.

Elements carry classes (``axis``, ``grid``, ``mark``, ``control``, ``series-0`` to ``series-7``) and no colours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 1120
SERIES = 8
"""Colours after which they begin anew."""
LABEL_WIDTH, LABEL_HEIGHT = 110, 13


@dataclass(frozen=True)
class Bar:
    """One bar: its label, its value >= 0, and whether it is a control."""

    label: str
    value: float
    control: bool = False


@dataclass(frozen=True)
class Point:
    """One point of a scatter plot; controls are hollow and have no label."""

    label: str
    x: float
    y: float
    control: bool = False


@dataclass(frozen=True)
class Line:
    """One line through its points in order."""

    label: str
    points: Sequence[tuple[float, float]]


def bars(items: Sequence[Bar], title: str) -> str:
    """Horizontal bars with their values at the end, in the order given."""
    row, left = 24, 240
    height = row * len(items) + 8
    longest = max((item.value for item in items), default=0) or 1.0
    parts = []
    for index, item in enumerate(items):
        y = index * row + 4
        length = (WIDTH - left - 90) * item.value / longest
        tip = f"<title>{escape(item.label)}: {item.value:.4g}</title>"
        parts.append(
            f'<text class="label" x="{left - 10}" y="{y + 15}" text-anchor="end">{escape(item.label)}</text>'
            f'<rect class="{"control" if item.control else "mark"}" x="{left}" y="{y + 2}" '
            f'width="{max(length, 1):.1f}" height="{row - 8}" rx="2">{tip}</rect>'
            f'<text class="value" x="{left + length + 8:.1f}" y="{y + 15}">{item.value:.4g}</text>'
        )
    return _svg(height, parts, title)


def scatter(points: Sequence[Point], title: str, x_name: str, y_name: str) -> str:
    """Points over a logarithmic x axis; labels are moved apart where they would lie on each other."""
    frame = _Frame([point.x for point in points], [point.y for point in points], log_x=True, log_y=False)
    parts = frame.axes(x_name, y_name)
    taken: list[tuple[float, float]] = []
    for point in points:
        x, y = frame.place(point.x, point.y)
        kind = "control" if point.control else "mark"
        parts.append(
            f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{4 if point.control else 5}"><title>'
            f"{escape(point.label)}: {escape(x_name)} {point.x:.4g}, {escape(y_name)} {point.y:.4g}</title></circle>"
        )
        if point.control:
            continue
        before = x > WIDTH - LABEL_WIDTH
        beside = y + 4
        while any(abs(beside - other) < LABEL_HEIGHT and abs(x - place) < LABEL_WIDTH for place, other in taken):
            beside += LABEL_HEIGHT
        taken.append((x, beside))
        start = x - 9 if before else x + 9
        if beside > y + 4:
            parts.append(f'<line class="leader" x1="{x:.1f}" y1="{y:.1f}" x2="{start:.1f}" y2="{beside - 4:.1f}"/>')
        parts.append(
            f'<text class="label" x="{start:.1f}" y="{beside:.1f}" text-anchor="{"end" if before else "start"}">'
            f"{escape(point.label)}</text>"
        )
    return _svg(_Frame.HEIGHT, parts, title)


def lines(series: Sequence[Line], title: str, x_name: str, y_name: str) -> str:
    """Lines over a linear x and a logarithmic y axis, with a legend below."""
    columns, row = 5, 18
    frame = _Frame(
        [x for line in series for x, _ in line.points], [y for line in series for _, y in line.points],
        log_x=False, log_y=True,
    )  # fmt: skip
    parts = frame.axes(x_name, y_name)
    for index, line in enumerate(series):
        places = [frame.place(x, y) for x, y in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        look = f"series-{index % SERIES}" + (" second" if index >= SERIES else "")
        parts.append(f'<polyline class="{look}" points="{path}"><title>{escape(line.label)}</title></polyline>')
        x = 60 + (index % columns) * 200
        y = _Frame.HEIGHT + 10 + (index // columns) * row
        parts.append(
            f'<line class="{look}" x1="{x}" y1="{y}" x2="{x + 22}" y2="{y}"/>'
            f'<text class="label" x="{x + 28}" y="{y + 4}">{escape(line.label)}</text>'
        )
    return _svg(_Frame.HEIGHT + 12 + row * math.ceil(len(series) / columns), parts, title)


class _Frame:
    """The plane of a plot: from values to places, with ticks at round numbers."""

    HEIGHT = 340
    LEFT, RIGHT, TOP, BOTTOM = 62, 20, 12, 44

    def __init__(self, x: Sequence[float], y: Sequence[float], *, log_x: bool, log_y: bool) -> None:
        self._log = log_x, log_y
        self._whole = all(value == int(value) for value in x)
        self._spans = _span(x, log=log_x), _span(y, log=log_y)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a value lies on the drawing."""
        (left, right), (low, high) = self._spans
        across = (_scaled(x, log=self._log[0]) - left) / (right - left)
        up = (_scaled(y, log=self._log[1]) - low) / (high - low)
        width, height = WIDTH - self.LEFT - self.RIGHT, self.HEIGHT - self.TOP - self.BOTTOM
        return self.LEFT + across * width, self.TOP + (1 - up) * height

    def axes(self, x_name: str, y_name: str) -> list[str]:
        """Grid lines, numbers and names."""
        (left, right), (low, high) = self._spans
        bottom, end = self.HEIGHT - self.BOTTOM, WIDTH - self.RIGHT
        parts = []
        for tick in _ticks(left, right, log=self._log[0], whole=self._whole):
            x, _ = self.place(tick, 10**low if self._log[1] else low)
            parts.append(
                f'<line class="grid" x1="{x:.1f}" y1="{self.TOP}" x2="{x:.1f}" y2="{bottom}"/>'
                f'<text class="tick" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>'
            )
        for tick in _ticks(low, high, log=self._log[1]):
            _, y = self.place(10**left if self._log[0] else left, tick)
            parts.append(
                f'<line class="grid" x1="{self.LEFT}" y1="{y:.1f}" x2="{end}" y2="{y:.1f}"/>'
                f'<text class="tick" x="{self.LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>'
            )
        middle = (self.TOP + bottom) / 2
        parts.append(
            f'<text class="name" x="{(self.LEFT + end) / 2}" y="{self.HEIGHT - 8}" text-anchor="middle">'
            f"{escape(x_name)}</text>"
            f'<text class="name" transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">'
            f"{escape(y_name)}</text>"
        )
        return parts


def _scaled(value: float, *, log: bool) -> float:
    return math.log10(max(value, 1e-12)) if log else value


def _span(values: Sequence[float], *, log: bool) -> tuple[float, float]:
    scaled = [_scaled(value, log=log) for value in values] or [0.0, 1.0]
    low, high = min(scaled), max(scaled)
    margin = 0.06 * (high - low) or 0.5
    return low - margin, high + margin


def _ticks(low: float, high: float, *, log: bool, whole: bool = False) -> list[float]:
    """Round numbers between two ends, whole ones if asked; with ``log`` the ends are exponents of ten."""
    if log and high - low > 0.5:
        steps = (1, 2, 5) if high - low < 2.5 else (1,)
        candidates = [step * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for step in steps]
        return [tick for tick in candidates if low <= math.log10(tick) <= high]
    if log:
        low, high = 10**low, 10**high
    raw = (high - low) / 5
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = magnitude * next(factor for factor in (1, 2, 5, 10) if raw <= factor * magnitude)
    if whole:
        step = max(step, 1.0)
    first = math.ceil(low / step)
    return [round(index * step, 12) for index in range(first, math.floor(high / step) + 1)]


def _svg(height: float, parts: Sequence[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )
