"""The command line of the training toolkit: ``python -m training --help``."""

from __future__ import annotations

import logging
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

# Before TensorFlow is imported: its start-up notices and CPU feature hints are noise to whoever trains.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from training import recovery, stability_study
from training.datasets.mall import load as load_mall
from training.datasets.source import DataError
from training.distribution import DistributionError, is_chief, make_strategy
from training.evaluation.report import read_run, write_report
from training.experiments import EXPERIMENTS, OPTIONAL, experiment_named
from training.experiments.base import FULL, ExperimentError
from training.export.parity import ParityError
from training.loops.trainer import DivergenceError
from training.mall_study import study
from training.release import RELEASED
from training.release import release as release_model
from training.release.recipes import trainings
from training.run_folder import CONFIG, RunError, read_config
from training.runs import SCORES, Run, open_run
from training.samples import write_samples
from training.variants import export_fp16, export_int8

KNOWN_ERRORS = (
    DataError,
    DistributionError,
    DivergenceError,
    ExperimentError,
    OSError,
    ParityError,
    RunError,
)

app = typer.Typer(
    help="Train, score and export sparse and segmentation auto-encoders.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
console = Console()
logger = logging.getLogger("training")

Name = Annotated[str, typer.Argument(help="Name of the experiment, as 'list' prints it.")]
Runs = Annotated[Path, typer.Option(help="Folder of the runs.")]
Models = Annotated[Path, typer.Option(help="Model repository to export into.")]
Data = Annotated[
    str,
    typer.Option(
        help="auto: real data from SPARSEWALK_DATA, the cache or the official addresses, else the embedded stand-ins, "
        "said loudly; real: never the stand-ins; embedded: always. folder:PATH or coco:FILE: one's own pictures."
    ),
]
PresetOption = Annotated[
    str,
    typer.Option(
        help="quick; full for the settings behind the published scores; blog, where there is one, for "
        "those of the program that the encoder comes from."
    ),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be given repeatedly.")
]
StrategyOption = Annotated[
    str,
    typer.Option(
        "--strategy",
        help="none; mirrored: all GPUs of this machine; multi_worker: the workers that TF_CONFIG names, which share "
        "the runs folder.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Train anew even where a run exists.")]
Only = Annotated[str, typer.Option(help='Restrict to these experiments, e.g. "pedestrian_unet mnist_k_sparse".')]


@app.command("list")
def list_experiments(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="With a line on each.")] = False,
    optional: Annotated[
        bool, typer.Option("--all", help="Also those that start from weights of others, trained when asked for.")
    ] = False,
) -> None:
    """Print the names of the experiments, one a line."""
    for experiment in [*EXPERIMENTS.values(), *(OPTIONAL.values() if optional else ())]:
        typer.echo(f"{experiment.name:28}{experiment.summary}" if verbose else experiment.name)


@app.command()
def train(
    name: Name,
    preset: PresetOption = "quick",
    data: Data = "auto",
    settings: Settings = None,
    runs: Runs = Path("runs"),
    strategy: StrategyOption = "none",
    force: Force = False,
) -> None:
    """Train one experiment, score it and draw its figures. A run that was cut goes on where it stopped."""
    _train(name, preset, data, settings or [], runs, make_strategy(strategy), force)


@app.command("train-all")
def train_all(
    preset: PresetOption = "quick",
    data: Data = "auto",
    only: Only = "",
    runs: Runs = Path("runs"),
    strategy: StrategyOption = "none",
    force: Force = False,
) -> None:
    """Train every experiment that has the preset.

    One failure does not stop the others; it is told at the end, with exit code 1. An optional experiment whose weights
    are not here is skipped, unless --only names it.
    """
    spread = make_strategy(strategy)
    names, skipped = _names(only), list[str]()
    if not only:  # not every encoder has a program to be true to
        names = [name for name in names if preset in EXPERIMENTS[name].known_presets()] or names
        for name, experiment in OPTIONAL.items():
            if preset in experiment.known_presets():
                (skipped if experiment.missing() else names).append(name)
    try:
        _for_each(names, "train", lambda name: _train(name, preset, data, [], runs, spread, force))
    finally:
        for name in skipped:
            typer.echo(f"skipped: {name}: {OPTIONAL[name].missing()}")


@app.command()
def evaluate(name: Name, runs: Runs = Path("runs")) -> None:
    """Score a trained experiment again and draw its figures."""
    run = open_run(name, runs)
    _show_scores(name, run.evaluate())


@app.command()
def export(
    names: Annotated[
        list[str] | None, typer.Argument(help="Experiments to export; all trained ones by default.")
    ] = None,
    only: Only = "",
    runs: Runs = Path("runs"),
    models: Models = Path("models"),
    int8: Annotated[
        bool, typer.Option("--int8", help="Also an int8 variant NAME_int8 of each segmentation model, for CPUs.")
    ] = False,
    fp16: Annotated[
        bool, typer.Option("--fp16", help="Also an fp16 variant NAME_fp16 of each segmentation model, for GPUs.")
    ] = False,
) -> None:
    """Export trained experiments as model versions: SavedModel, ONNX and manifest, proven equal."""
    wanted = (
        names or _names(only)
        if names or only
        else [name for name in (*EXPERIMENTS, *OPTIONAL) if (runs / name).is_dir()]
    )
    if not wanted:
        raise RunError(f"{runs} holds no trained experiment; expected at least one. Run: python -m training train-all")

    def export_one(name: str) -> None:
        run = open_run(name, runs)
        version = run.export(models)
        typer.echo(f"{name}: {version}")
        for asked, export_variant in ((int8, export_int8), (fp16, export_fp16)):
            if asked and run.experiment.family == "segmentation":
                typer.echo(f"{name}: {export_variant(run, version, models)}")

    _for_each(wanted, "export", export_one)


@app.command()
def release(
    output: Annotated[Path, typer.Option(help="The released model repository.")],
    only: Only = "",
    runs: Runs = Path("runs"),
) -> None:
    """Train the models that come with the project with full on real data, and put them into their repository.

    What is trained already is not trained again. Each gets a card beside it.
    """

    def release_one(name: str) -> None:
        for training in trainings(name):
            folder = runs / training.folder
            _train(name, FULL, "real", training.settings_in(runs), folder, make_strategy("none"), force=False)
        for folder in release_model(name, runs, output):
            typer.echo(f"{name}: {folder}")

    _for_each(_names(only) if only else list(RELEASED), "release", release_one)


@app.command()
def samples(
    names: Annotated[list[str], typer.Argument(help="Trained experiments.")],
    output: Annotated[Path, typer.Option(help="Gets a folder for each experiment.")],
    count: Annotated[int, typer.Option(min=1, help="Examples of each.")] = 12,
    runs: Runs = Path("runs"),
) -> None:
    """Write test pictures, with their truth, as files to show to a service."""
    for name in names:
        typer.echo(f"{name}: {write_samples(open_run(name, runs), output, count)}")


@app.command()
def report(
    runs: Runs = Path("runs"),
    output: Annotated[Path, typer.Option(help="The page: one HTML file with everything inside.")] = Path("report.html"),
) -> None:
    """Compare all trained experiments on one page: tables, plots, pictures."""
    trained, missing = [], []
    for name, experiment in {**EXPERIMENTS, **OPTIONAL}.items():
        folder = runs / name
        if not (folder / CONFIG).exists() or not (folder / SCORES).exists():
            missing += [name] if name in EXPERIMENTS else []
            continue
        preset_settings = experiment.with_preset(read_config(folder)["preset"]).settings()
        trained.append(read_run(name, experiment.family, experiment.summary, preset_settings, folder))
    if not trained:
        raise RunError(f"{runs} holds no scored experiment; expected at least one. Run: python -m training train-all")
    write_report(trained, missing, output)
    typer.echo(str(output))


@app.command()
def stability(
    name: Name,
    seeds: Annotated[str, typer.Option(help="Two or more, separated by commas.")] = "0,1,2",
    preset: PresetOption = "quick",
    data: Data = "auto",
    settings: Settings = None,
    runs: Runs = Path("runs"),
) -> None:
    """Train with several seeds and say how much of the dictionary they share."""
    experiment = experiment_named(name).with_preset(preset).with_settings(_pairs(settings or []))
    scores = stability_study.study(experiment, experiment.load_data(data), _integers(seeds), runs / "stability" / name)
    _show_scores(f"{name}: seeds {seeds}", scores)


@app.command()
def mall(
    names: Annotated[list[str], typer.Argument(help="Trained pedestrian experiments.")],
    output: Annotated[Path, typer.Option(help="Gets a folder for each experiment, and scores.json.")],
    runs: Runs = Path("runs"),
) -> None:
    """Segment the Mall video: overlays, film, red area over time, scores against the given head positions."""
    opened = [open_run(name, runs) for name in names]
    for name, scores in study(opened, load_mall(), output).items():
        _show_scores(name, asdict(scores))
    typer.echo(str(output))


@app.command("recover")
def recover_dictionaries() -> None:
    """Look for known dictionaries in synthetic data, with the neural rule and others; print what was found."""
    for line in recovery.report():
        typer.echo(line)


def _train(
    name: str,
    preset: str,
    data: str,
    settings: list[str],
    runs: Path,
    strategy: tf.distribute.Strategy,
    force: bool,
) -> None:
    experiment = experiment_named(name).with_preset(preset).with_settings(_pairs(settings))
    run = Run(experiment, experiment.load_data(data), runs / name)
    started = time.perf_counter()
    run.train(force=force, strategy=strategy)
    if not is_chief(strategy):
        return
    _show_scores(name, run.scores())
    typer.echo(f"{name}: {run.folder} ({time.perf_counter() - started:.0f} s)")


def _for_each(names: list[str], what: str, action: object) -> None:
    assert callable(action)
    failures: dict[str, str] = {}
    for name in names:
        try:
            action(name)
        except Exception as error:
            failures[name] = f"{type(error).__name__}: {error}"
            # one line where the message says it all; of anything else, where it came from
            unexpected = None if isinstance(error, KNOWN_ERRORS) else error
            logger.error("%s: %s failed. %s", name, what, failures[name], exc_info=unexpected)
    if failures:
        typer.echo(f"{what} failed for {len(failures)} of {len(names)}:", err=True)
        for name, reason in failures.items():
            typer.echo(f"  {name}: {reason}", err=True)
        raise typer.Exit(1)


def _names(only: str) -> list[str]:
    return [experiment_named(name).name for name in only.replace(",", " ").split()] or list(EXPERIMENTS)


def _integers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ExperimentError(f"--seeds expects whole numbers separated by commas. Received: {text!r}") from None


def _pairs(settings: list[str]) -> dict[str, str]:
    pairs = {}
    for setting in settings:
        key, separator, value = setting.partition("=")
        if not separator:
            raise ExperimentError(f"--set expects KEY=VALUE. Received: {setting!r}")
        pairs[key.strip()] = value.strip()
    return pairs


def _show_scores(name: str, scores: dict[str, float]) -> None:
    table = Table("score", "value", title=name, title_justify="left")
    for key, value in scores.items():
        table.add_row(key, f"{value:.4f}", style="dim" if key.startswith("control_") else None)
    console.print(table)


def _log_handler() -> logging.Handler:
    if sys.stderr.isatty():
        handler: logging.Handler = RichHandler(console=Console(stderr=True), show_path=False, log_time_format="%X")
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:  # a file: rich would wrap its lines at 80 columns
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    return handler


def main() -> None:
    """Runs the command line; known errors are one line on stderr and exit code 1."""
    logging.basicConfig(level=logging.INFO, handlers=[_log_handler()])
    # they tell the inner steps of checkpoints and conversions, which bury what we say of them
    for library in ("absl", "tensorflow", "tf2onnx"):
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        app()
    except KNOWN_ERRORS as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
