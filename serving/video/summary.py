"""The page about one input: what was done, plots over time, and its fullest frames. One file, with everything in it."""

import base64
import io

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib import rc_context
from matplotlib.figure import Figure

from serving.imaging import decode
from serving.video import painting, tables
from serving.video.outputs import ROWS, SAMPLE, Whole
from serving.video.tables import Row

_SAMPLES = 6
# Points of a plot; more only make the page heavy.
_POINTS = 1200
_HEAT_SIDE = 960

Floats = npt.NDArray[np.float64]


def write(whole: Whole) -> None:
    """Writes ``summary.html``."""
    times, shares, counts, fullest = _measure(whole)
    environment = Environment(
        loader=PackageLoader("serving.video", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("summary.html.j2").render(
        name=whole.source.name,
        settings=whole.settings,
        clip=whole.clip,
        notes=[(note.text, count) for note, count in whole.notes.items()],
        frames=len(times),
        seconds=float(times[-1] - times[0]) if len(times) else 0.0,
        mean_share=float(shares.mean()),
        peak_share=float(shares.max()),
        peak_time=_clock(float(times[int(shares.argmax())])),
        mean_count=float(counts.mean()),
        peak_count=int(counts.max()),
        films=[name for name in ("overlay", "privacy", "mask") if name in whole.settings.outputs],
        share_plot=_plot(times, 100 * shares, "foreground, % of the frame"),
        count_plot=_plot(times, counts, "components"),
        samples=[
            (_data("jpeg", (whole.shards[number] / SAMPLE).read_bytes()), _caption(row)) for number, row in fullest
        ],
        heat=_heat(whole),
    )
    (whole.into / "summary.html").write_text(page, encoding="utf-8")


def _measure(whole: Whole) -> tuple[Floats, Floats, Floats, list[tuple[int, Row]]]:
    """Times, shares and counts of all frames, and of shards evenly spread over the input the fullest frame."""
    times: list[float] = []
    shares: list[float] = []
    counts: list[int] = []
    fullest: list[Row] = []
    for shard in whole.shards:
        rows = list(tables.read_rows([shard / ROWS]))
        for row in rows:
            times.append(row.time)
            shares.append(row.foreground)
            counts.append(row.count)
        # The first of equals, as in the shard.
        fullest.append(max(rows, key=lambda row: row.foreground))
    chosen = np.unique(np.linspace(0, len(fullest) - 1, min(_SAMPLES, len(fullest))).round().astype(int))
    return (
        np.array(times),
        np.array(shares),
        np.array(counts, np.float64),
        [(int(number), fullest[number]) for number in chosen],
    )


def _plot(times: Floats, values: Floats, label: str) -> str:
    """A line over time as SVG; of many frames, mean and range of each stretch."""
    bins = np.array_split(np.arange(len(times)), min(_POINTS, len(times)))
    middle = np.array([times[each].mean() for each in bins])
    means, lows, highs = (np.array([reduce(values[each]) for each in bins]) for reduce in (np.mean, np.min, np.max))
    # A fixed salt and no date: the same input gives the same page.
    with rc_context({"svg.hashsalt": "sparsewalk", "font.size": 9, "svg.fonttype": "none"}):
        figure = Figure(figsize=(9, 2.2), layout="constrained")
        axes = figure.add_subplot()
        axes.fill_between(middle, lows, highs, color="#e61432", alpha=0.18, linewidth=0)
        axes.plot(middle, means, color="#c00f28", linewidth=1.1)
        axes.set_xlabel("seconds")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.margins(x=0.01)
        axes.grid(alpha=0.25)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]


def _heat(whole: Whole) -> str:
    if "heatmap" not in whole.settings.outputs:
        return ""
    picture = decode((whole.into / "heatmap.png").read_bytes(), whole.settings.max_pixels)
    return _data("jpeg", painting.jpeg(picture, _HEAT_SIDE))


def _data(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _caption(row: Row) -> str:
    return f"frame {row.frame} at {_clock(row.time)}: {row.foreground:.1%}, {row.count} components"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes // 60)}:{int(minutes % 60):02}:{rest:04.1f}"
