"""How fast the batch video job is beside its two limits, and whether its memory grows.

    python -m tests.benchmarks.video throughput street.mp4 --models models [--outputs parquet] [--tile auto]
    python -m tests.benchmarks.video memory street.mp4 --models models --minutes 60

``throughput`` measures decoding alone, inference alone and the whole job in turns, in one process and on the same
frames, several rounds, and compares the medians. Inference alone runs the model on everything that the job asks it
(with tiles: all of them), prepared beforehand, as many runs at once as the job has and in batches of the size that
proves fastest. CPU seconds are told beside those of the clock: where both limits keep all cores busy their ratio is
what the other work on the machine leaves alone. ``memory`` loops a video until it lasts so many minutes (by copying its
packets, so nothing is encoded anew), runs the job on it as a process of its own, and watches that process's resident
memory.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import av
import numpy as np
import typer

from serving import imaging
from serving.video import launch
from serving.video.decisions import select
from serving.video.engines import LocalEngine
from serving.video.job import Job
from serving.video.opening import open_reader
from serving.video.progress import Display, Meter
from serving.video.settings import Settings
from serving.video.sources import find

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
Models = Annotated[Path, typer.Option(help="Folder with the models.")]
ModelName = Annotated[str, typer.Option("--model", help="Name of the model.")]
# Of inference alone.
_BATCHES = (1, 4, 8)
Video = Annotated[Path, typer.Argument(help="A video.", exists=True)]


@app.command()
def throughput(
    video: Video,
    models: Models = Path("models"),
    model: ModelName = "pedestrian_unet",
    frames: Annotated[int, typer.Option(help="Frames of one measurement.")] = 200,
    rounds: Annotated[int, typer.Option(help="Rounds.")] = 5,
    outputs: Annotated[str, typer.Option(help="Of the job.")] = "overlay,parquet",
    tile: Annotated[str, typer.Option(help="Tiles of the job: off, auto or their side.")] = "off",
) -> None:
    """Frames a second of decoding, of inference, and of the job, which should reach 0.85 of the slower of the two."""
    imaging.limit_threads()
    with tempfile.TemporaryDirectory() as scratch:
        settings = Settings(
            inputs=[str(video)],
            output=Path(scratch),
            outputs=outputs.split(","),
            model=model,
            model_repository=models,
            tile=tile,
            end=frames / float(open_reader(find([str(video)])[0], select(_any(video, scratch))).clip.rate),
            overwrite=True,
        )
        (source,) = find(settings.inputs)
        loaded = launch.open_model(settings)
        pictures = [frame.picture for frame in open_reader(source, select(settings)).frames()]
        rows = [row for picture in pictures for row, _ in loaded.rows(picture)]
        engine = LocalEngine(loaded, settings.batch_size)
        meter = Meter()

        def decode() -> int:
            return sum(1 for _ in open_reader(source, select(settings)).frames())

        def infer_by(size: int) -> int:
            batches = [rows[first : first + size] for first in range(0, len(rows), size)]
            with ThreadPoolExecutor(loaded.parallel) as pool:
                assert sum(map(len, pool.map(loaded.run, batches))) == len(rows)
            return len(pictures)

        size = min(_BATCHES, key=lambda tried: _seconds(lambda: infer_by(tried)))

        def infer() -> int:
            return infer_by(size)

        def work() -> int:
            before = meter.frames
            Job(settings, engine, meter, Display(meter, "quiet"), threading.Event()).run([source])
            return meter.frames - before

        measures: dict[str, Callable[[], int]] = {"decoding alone": decode, "inference alone": infer, "job": work}
        rates: dict[str, list[float]] = {name: [] for name in measures}
        costs: dict[str, list[float]] = {name: [] for name in measures}
        for _ in range(rounds):
            for name, measure in measures.items():
                started, worked = time.perf_counter(), time.process_time()
                count = measure()
                rates[name].append(count / (time.perf_counter() - started))
                costs[name].append(1000 * (time.process_time() - worked) / count)
        engine.close()
    ratios = [
        job / min(decoding, inference)
        for decoding, inference, job in zip(*(rates[name] for name in measures), strict=True)
    ]
    typer.echo(f"{len(pictures)} frames, {len(rows)} runs of the model in batches of {size} when alone")
    for name, values in rates.items():
        typer.echo(
            f"{name:16} {statistics.median(values):8.1f} frames/s  (rounds: {_list(values, 1)})"
            f"  {statistics.median(costs[name]):6.2f} ms of CPU a frame  (rounds: {_list(costs[name], 2)})"
        )
    typer.echo(f"{'job / slower':16} {statistics.median(ratios):8.2f}           (rounds: {_list(ratios, 2)})")


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _any(video: Path, scratch: str) -> Settings:
    return Settings(inputs=[str(video)], output=Path(scratch))


def _list(values: list[float], digits: int) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values)


@app.command()
def memory(
    video: Video,
    models: Models = Path("models"),
    model: ModelName = "pedestrian_unet",
    minutes: Annotated[float, typer.Option(help="Length of the looped video.")] = 60.0,
    outputs: Annotated[str, typer.Option(help="Of the job.")] = "overlay,rle,parquet,heatmap",
) -> None:
    """Resident memory of the job over a long video, tenth by tenth."""
    with tempfile.TemporaryDirectory() as scratch:
        looped = Path(scratch) / "looped.mkv"
        loop(video, looped, 60 * minutes)
        command = [sys.executable, "-m", "serving.video", str(looped), "--output", f"{scratch}/out"]
        command += ["--model", model, "--model-repository", str(models), "--outputs", outputs, "--progress", "json"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        events = map(json.loads, _json_lines(process.stderr))
        samples = [(event["frames"], _resident(process.pid)) for event in events if event["event"] == "progress"]
        code = process.wait()
    total = samples[-1][0]
    typer.echo(f"exit code {code}, {total} frames ({minutes:g} minutes of video)")
    typer.echo("| frames | resident, MiB: median | most |")
    typer.echo("|---|---|---|")
    medians = []
    for tenth in range(10):
        inside = [size for frames, size in samples if tenth * total / 10 <= frames <= (tenth + 1) * total / 10 and size]
        if inside:
            medians.append(statistics.median(inside))
            typer.echo(f"| to {(tenth + 1) * total // 10} | {medians[-1]:.0f} | {max(inside):.0f} |")
    typer.echo(f"growth from the second tenth to the last: {medians[-1] - medians[1]:+.0f} MiB")


def loop(video: Path, path: Path, seconds: float) -> None:
    """Repeats a video's packets until it lasts so long."""
    with av.open(str(path), "w") as target:
        stream = None
        offset = 0
        while True:
            with av.open(str(video)) as source:
                track = source.streams.video[0]
                if stream is None:
                    stream = target.add_stream_from_template(track)
                base, step = track.time_base, round(1 / (track.average_rate * track.time_base))
                last = 0
                for packet in source.demux(track):
                    if packet.pts is None or packet.dts is None:
                        continue
                    last = max(last, packet.pts + step)
                    packet.pts += offset
                    packet.dts += offset
                    packet.stream = stream
                    target.mux(packet)
                offset += last
                if offset * base >= seconds:
                    return


def _json_lines(stream: Iterator[str]) -> Iterator[str]:
    return (line for line in stream if line.startswith("{"))


def _resident(pid: int) -> float:
    """MiB of memory that a process holds; 0 when it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return float(np.round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1))


if __name__ == "__main__":
    app()
