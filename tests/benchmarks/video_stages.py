"""What each step of the batch video job costs a frame, one after the other on one core.

    python -m tests.benchmarks.video_stages vtest.avi --models deploy/models

CPU milliseconds a frame, the least of several rounds, of the functions that the job calls; and for each of x264's
speeds the size of a frame of the overlay. In the job itself the same work costs more, as stages push each other out of
the caches.
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from serving import imaging
from serving.video import launch, painting, planes, tables
from serving.video.decisions import select
from serving.video.films import FilmPart
from serving.video.opening import open_reader
from serving.video.planes import Planes
from serving.video.settings import Settings
from serving.video.sources import find

_ROUNDS = 5
_PRESETS = ("ultrafast", "superfast", "veryfast")


def run(
    video: Annotated[Path, typer.Argument(help="A video.", exists=True)],
    models: Annotated[Path, typer.Option(help="Folder with the models.")] = Path("models"),
    model: Annotated[str, typer.Option(help="Name of the model.")] = "pedestrian_unet",
    frames: Annotated[int, typer.Option(help="Frames that are looked at.")] = 60,
) -> None:
    """Prints a Markdown table."""
    imaging.limit_threads()
    with tempfile.TemporaryDirectory() as scratch:
        settings = Settings.from_command_line(
            [str(video), "--output", scratch, "--model", model, "--model-repository", str(models), "--threads", "1"]
        )
        reader = open_reader(find(settings.inputs)[0], select(settings))
        held = [frame for frame, _ in zip(reader.frames(), range(frames), strict=False)]
        clip, colours = reader.clip, reader.clip.colours
        loaded = launch.open_model(settings)
        rows = [loaded.rows(frame.picture)[0] for frame in held]
        answers = [loaded.run([row])[0] for row, _ in rows]
        size = (clip.height, clip.width)
        masks = [loaded.mask([answer], [place], size) for answer, (_, place) in zip(answers, rows, strict=True)]
        measured = [tables.measure(frame, mask, 25) for frame, mask in zip(held, masks, strict=True)]
        canvas = Planes.of(planes.blank(*size))

        def read() -> None:
            for _ in zip(reader.frames(), range(frames), strict=False):
                pass

        def encode(preset: str, paint: Callable[..., None]) -> None:
            part = FilmPart(Path(scratch) / f"{preset}.nut", clip, paint, settings.crf, preset)
            for frame, mask in zip(held, masks, strict=True):
                part.add(frame, mask)
            part.close()

        overlay = partial(painting.overlay, colours=colours)
        hide = partial(painting.hide, colours=colours, how="blur", margin=12)
        steps: dict[str, Callable[[], object]] = {
            "reading: decoding and RGB": read,
            "to the model's size": lambda: [loaded.rows(frame.picture) for frame in held],
            "the model, batches of 1": lambda: [loaded.run([row]) for row, _ in rows],
            "mask at the frame's size": lambda: [
                loaded.mask([answer], [place], size) for answer, (_, place) in zip(answers, rows, strict=True)
            ],
            "components": lambda: [tables.measure(frame, mask, 25) for frame, mask in zip(held, masks, strict=True)],
            "row of the table": lambda: [tables.row_line(row) for row in measured],
            "run-lengths": lambda: [tables.rle_line(frame, mask) for frame, mask in zip(held, masks, strict=True)],
            "planes of the film": lambda: [canvas.fill(frame.planes(colours)) for frame in held],
            "drawing the overlay": lambda: [overlay(canvas, mask) for mask in masks],
            "hiding people": lambda: [hide(canvas, mask) for mask in masks],
        }
        typer.echo("| step | ms of CPU a frame |\n|---|---|")
        for name, work in steps.items():
            typer.echo(f"| {name} | {_cost(work) / len(held):.2f} |")
        for preset in _PRESETS:
            cost = _cost(partial(encode, preset, overlay)) / len(held)
            kilobytes = (Path(scratch) / f"{preset}.nut").stat().st_size / len(held) / 1000
            typer.echo(f"| overlay film, x264 {preset}: {kilobytes:.1f} kB a frame | {cost:.2f} |")


def _cost(work: Callable[[], object]) -> float:
    """CPU milliseconds, the least of several rounds."""
    costs = []
    for _ in range(_ROUNDS):
        started = time.process_time()
        work()
        costs.append(1000 * (time.process_time() - started))
    return min(costs)


if __name__ == "__main__":
    typer.run(run)
