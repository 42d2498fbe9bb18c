"""``python -m serving.gpu_check``: does the GPU give the CPU's answers, how fast, and what does it take?

For each model: parity with the CPU at each batch size, time of a run with and without bound buffers and CUDA graphs,
TF32, TensorRT in FP32 and FP16 where it is installed, and the device's memory over runs and threads.

Exit codes: 0 all passed, 1 something did not, 2 wrong usage, 3 there is no GPU (and so nothing was proved).
"""

import platform
from pathlib import Path
from typing import Annotated

import typer

from serving import assembly, backend
from serving.errors import RepositoryError, StartError
from serving.folders import find_models, find_versions
from serving.gpu import Gpus
from serving.gpu_check.report import Report
from serving.gpu_check.trials import Trial, Way, dry_ways, try_model, ways

NO_GPU = 3

app = typer.Typer(add_completion=False)


@app.command(help=__doc__)
def check(
    model_repository: Annotated[
        Path, typer.Option(help="Folder with the models.", envvar="SPARSEWALK_MODEL_REPOSITORY")
    ] = Path("models"),
    models: Annotated[str, typer.Option(help="Names of models, with commas; empty for all.")] = "",
    batch_sizes: Annotated[str, typer.Option(help="Rows of a run, with commas.")] = "1,8,64",
    seconds: Annotated[float, typer.Option(help="Timing of each model, way and batch size.", min=0.0)] = 1.0,
    output: Annotated[Path, typer.Option(help="Folder for the report; made when missing.")] = Path("gpu_check"),
    dry: Annotated[bool, typer.Option(help="Go through it on the CPU; proves nothing about a GPU.")] = False,
) -> None:
    """Tries, reports and ends with the exit code."""
    sizes = _parse_sizes(batch_sizes)
    threads = backend.usable_cores()
    gpus = Gpus.find()
    if not dry and not backend.count_gpus():
        typer.echo("no NVIDIA GPU is visible here: nothing was checked (--dry goes through it on the CPU)", err=True)
        raise typer.Exit(NO_GPU)
    try:
        if dry:
            tried = dry_ways(threads)
        else:
            backend.Runtime.choose("cuda", threads)
            tried = ways(threads, tensorrt=backend.has_tensorrt())
        folders = _find(model_repository, models)
    except StartError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    trials = [_try(folder, way, sizes, seconds, threads, gpus) for folder in folders for way in tried]
    report = Report(_device(gpus, dry), dry, _versions(), trials)
    typer.echo(report.to_text(), nl=False)
    for path in report.write(output):
        typer.echo(path)
    raise typer.Exit(0 if report.passed else 1)


def _try(folder: Path, way: Way, sizes: list[int], seconds: float, threads: int, gpus: Gpus | None) -> Trial:
    typer.echo(f"{folder.parent.name}/{folder.name} {way.name} ...", err=True)
    return try_model(folder, way, sizes, seconds=seconds, threads=threads, memory=lambda: _memory_used(gpus))


def _memory_used(gpus: Gpus | None) -> int | None:
    """Bytes in use on all GPUs: the numbers that CUDA and the driver give them may differ, the sum does not."""
    told = [gpu.memory_used for gpu in gpus.read()] if gpus is not None else []
    return sum(used or 0 for used in told) if told else None


def _device(gpus: Gpus | None, dry: bool) -> str:
    if dry:
        return f"none, CPU {platform.machine()} with {backend.usable_cores()} threads"
    return ", ".join(gpu.uuid for gpu in gpus.read()) if gpus is not None else "a GPU of unknown name"


def _versions() -> dict[str, str]:
    return {
        "sparsewalk": assembly.distribution_version(),
        "onnxruntime": backend.VERSION,
        "python": platform.python_version(),
    }


def _find(root: Path, models: str) -> list[Path]:
    """The newest version folder of each model asked for."""
    found = find_models(root)
    wanted = [name.strip() for name in models.split(",") if name.strip()] or found
    for name in wanted:
        if name not in found:
            raise RepositoryError(f"{root}: no model {name!r}. Known: {', '.join(found)}")
    return [root / name / str(max(find_versions(root / name))) for name in wanted]


def _parse_sizes(text: str) -> list[int]:
    try:
        sizes = sorted({int(part) for part in text.split(",")})
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 1:
        raise typer.BadParameter(
            f"batch sizes are positive, e.g. 1,8,64. Received: {text!r}", param_hint="--batch-sizes"
        )
    return sizes


if __name__ == "__main__":
    app()
