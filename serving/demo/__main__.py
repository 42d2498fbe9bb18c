"""``python -m serving.demo``: what ``make demo`` runs last.

Starts ``python -m serving`` on free ports, asks it for the mask of every sample picture and for the encoding and
reconstruction of every sample digit, keeps its metrics page, stops it, and writes ``index.html``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from serving.client import Client, ServiceError
from serving.demo import page, pictures

STOP_SECONDS = 30.0


class DemoError(Exception):
    """The demo cannot go on."""


def run(
    models: Annotated[Path, typer.Option(help="Model repository to serve.")],
    samples: Annotated[Path, typer.Option(help="What 'python -m training samples' wrote.")],
    output: Annotated[Path, typer.Option(help="Folder for page, pictures and metrics.")],
) -> None:
    """Serve, ask, show."""
    sets = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(samples.glob("*/samples.json"))]
    # what most users come for comes first
    sets.sort(key=lambda each: each["family"] != "segmentation")
    if not sets:
        raise DemoError(
            f"{samples} holds no samples; expected <experiment>/samples.json. Run: python -m training samples"
        )
    output.mkdir(parents=True, exist_ok=True)
    with _server(models) as (target, metrics_address, seconds_to_ready), Client(target) as client:
        typer.echo(f"service ready on {target} after {seconds_to_ready:.1f} s")
        results = [_ask(client, each, samples / each["experiment"], output) for each in sets]
        served = client.models()
        with urllib.request.urlopen(metrics_address, timeout=10) as response:
            metrics = response.read().decode()
    (output / "metrics.txt").write_text(metrics, encoding="utf-8")
    index = output / "index.html"
    index.write_text(page.render(results, served, metrics, seconds_to_ready), encoding="utf-8")
    for result in results:
        typer.echo(result.summary)
    for path in (output / "pedestrians", output / "digits", output / "metrics.txt", index):
        if path.exists():
            typer.echo(path)


def _ask(client: Client, samples: dict[str, Any], folder: Path, output: Path) -> page.Result:
    if samples["family"] == "segmentation":
        return pictures.segment_all(client, samples, folder, output / "pedestrians")
    return pictures.encode_all(client, samples, folder, output / "digits")


@contextmanager
def _server(models: Path) -> Iterator[tuple[str, str, float]]:
    """A server process of its own: yields address, metrics address and seconds from start to ready."""
    started = time.monotonic()
    command = [sys.executable, "-m", "serving", f"--model-repository={models}", "--grpc-port=0", "--metrics-port=0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        # ends by itself: the server prints the line when it is ready, and closes its output when it fails
        line = process.stdout.readline()
        words = dict(word.partition("=")[::2] for word in line.split() if "=" in word)
        if "grpc" not in words:
            raise DemoError(f"the server did not start; expected its ready line. Received: {line!r}")
        yield words["grpc"], words["metrics"], time.monotonic() - started
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)


def main() -> None:
    """Runs the command line; known errors are one line on stderr and exit code 1."""
    try:
        typer.run(run)
    except (DemoError, ServiceError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
