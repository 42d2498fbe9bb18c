"""``python -m serving.client segment | encode | reconstruct | models``: the client as a command line.

Exit codes: 0 done, 1 the service or a file said no (one line on stderr), 2 wrong usage.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from serving.client.answers import Model, Rows
from serving.client.clients import ENCODER, SEGMENTER, Client
from serving.client.files import MaskFile, RowsFile, stems, write_mask, write_rows
from serving.client.messages import ServiceError
from serving.client.security import Security
from serving.errors import ServingError

# Not a flag: every user of the machine can read those.
_TOKEN = "SPARSEWALK_TOKEN"

app = typer.Typer(
    help="Asks a Sparsewalk server for masks, encodings and reconstructions.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class Listing(StrEnum):
    """How ``models`` prints."""

    TABLE = "table"
    JSON = "json"


Target = Annotated[str, typer.Option(help="Address of the server.", envvar="SPARSEWALK_TARGET")]
Output = Annotated[Path, typer.Option(help="Folder for the files; made when missing.", file_okay=False)]
Timeout = Annotated[float, typer.Option(help="Seconds that one request may take.", min=0.001)]
Version = Annotated[int | None, typer.Option("--model-version", help="Version of the model; the newest when left out.")]
Ca = Annotated[
    Path | None,
    typer.Option(help="PEM file with the server's authorities; implies TLS.", envvar="SPARSEWALK_CA", dir_okay=False),
]
Tls = Annotated[bool, typer.Option("--tls", help="Speak TLS, and trust the web's authorities.")]
Certificate = Annotated[
    Path | None,
    typer.Option(help="PEM file with a certificate of our own.", envvar="SPARSEWALK_CLIENT_CERTIFICATE"),
]
Key = Annotated[Path | None, typer.Option(help="PEM file with its key.", envvar="SPARSEWALK_CLIENT_KEY")]
ServerName = Annotated[
    str | None, typer.Option(help="Name in the server's certificate, where it is not that of the address.")
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        help=f"File with the bearer token; or the token itself in the environment, as {_TOKEN}.",
        envvar="SPARSEWALK_TOKEN_FILE",
    ),
]
Sources = Annotated[list[Path], typer.Argument(help="Pictures, or .npy files with rows.", exists=True, dir_okay=False)]


@app.command()
def segment(
    pictures: Annotated[list[Path], typer.Argument(help="Pictures: JPEG, PNG, WebP or BMP.", exists=True)],
    model: Annotated[str, typer.Option(help="Name of the model.")] = SEGMENTER,
    model_version: Version = None,
    threshold: Annotated[float | None, typer.Option(help="In [0, 1]; the model's own when left out.")] = None,
    form: Annotated[list[MaskFile], typer.Option("--format", help="What to write; may be given several times.")] = [  # noqa: B006  # typer reads it, nothing writes
        MaskFile.OVERLAY
    ],
    output: Output = Path(),
    target: Target = "localhost:8001",
    timeout: Timeout = 30.0,
    tls: Tls = False,
    ca: Ca = None,
    certificate: Certificate = None,
    key: Key = None,
    server_name: ServerName = None,
    token_file: TokenFile = None,
) -> None:
    """Writes the pedestrian masks of pictures: NAME.overlay.png, NAME.mask.png, NAME.npy (bool) or NAME.json.

    Of pictures with the same name the second is NAME-2.
    """
    with _complaints(), _connect(target, timeout, tls, ca, certificate, key, server_name, token_file) as client:

        def one(picture: Path, stem: Path) -> Sequence[str]:
            data = picture.read_bytes()
            mask = client.segment(data, model, threshold, version=model_version)
            files = [write_mask(mask, data, stem, each) for each in form]
            height, width = mask.array.shape
            return (
                str(picture),
                f"{width} x {height}",
                f"{mask.foreground_fraction:.1%}",
                f"{mask.model}/{mask.version}",
                f"{mask.timings.total * 1e3:.1f}",
                " ".join(map(str, files)),
            )

        _each(pictures, output, one, ("picture", "size", "pedestrian", "model", "ms", "written"))


@app.command()
def encode(
    sources: Sources,
    model: Annotated[str, typer.Option(help="Name of the model.")] = ENCODER,
    model_version: Version = None,
    form: Annotated[RowsFile, typer.Option("--format", help="What to write.")] = RowsFile.NPY,
    output: Output = Path(),
    target: Target = "localhost:8001",
    timeout: Timeout = 30.0,
    tls: Tls = False,
    ca: Ca = None,
    certificate: Certificate = None,
    key: Key = None,
    server_name: ServerName = None,
    token_file: TokenFile = None,
) -> None:
    """Writes the encodings of pictures or rows: NAME.encoding.npy (float32 [rows, latents]), .json or .png."""
    with _complaints(), _connect(target, timeout, tls, ca, certificate, key, server_name, token_file) as client:
        _each_rows(
            sources, output, lambda path: client.encode(_read(path), model, version=model_version), "encoding", form
        )


@app.command()
def reconstruct(
    sources: Sources,
    model: Annotated[str, typer.Option(help="Name of the model.")] = ENCODER,
    model_version: Version = None,
    form: Annotated[RowsFile, typer.Option("--format", help="What to write.")] = RowsFile.PNG,
    output: Output = Path(),
    target: Target = "localhost:8001",
    timeout: Timeout = 30.0,
    tls: Tls = False,
    ca: Ca = None,
    certificate: Certificate = None,
    key: Key = None,
    server_name: ServerName = None,
    token_file: TokenFile = None,
) -> None:
    """Writes what the auto-encoder makes of pictures or rows: NAME.reconstruction.png, .npy or .json."""
    with _complaints(), _connect(target, timeout, tls, ca, certificate, key, server_name, token_file) as client:
        _each_rows(
            sources,
            output,
            lambda path: client.reconstruct(_read(path), model, version=model_version),
            "reconstruction",
            form,
        )


@app.command()
def models(
    form: Annotated[Listing, typer.Option("--format", help="How to print them.")] = Listing.TABLE,
    target: Target = "localhost:8001",
    timeout: Timeout = 30.0,
    tls: Tls = False,
    ca: Ca = None,
    certificate: Certificate = None,
    key: Key = None,
    server_name: ServerName = None,
    token_file: TokenFile = None,
) -> None:
    """Lists the models of the server."""
    with _complaints(), _connect(target, timeout, tls, ca, certificate, key, server_name, token_file) as client:
        found = client.models()
    if form is Listing.JSON:
        print(json.dumps([dataclasses.asdict(model) for model in found], indent=2))
        return
    header = ("model", "version", "family", "input", "outputs", "data", "ready", "provider", "scores")
    _print_table([header, *map(_model_row, found)])


def _connect(
    target: str,
    timeout: float,
    tls: bool,
    ca: Path | None,
    certificate: Path | None,
    key: Path | None,
    server_name: str | None,
    token_file: Path | None,
) -> Client:
    token = None if token_file else os.environ.get(_TOKEN)
    security = Security(
        tls=tls,
        ca=ca,
        certificate=certificate,
        key=key,
        server_name=server_name,
        token=token,
        token_file=token_file,
    )
    return Client(target, timeout=timeout, security=security)


@contextmanager
def _complaints() -> Iterator[None]:
    """Turns what can be expected to go wrong into one line and exit code 1."""
    try:
        yield
    except (ServiceError, ServingError, OSError, ValueError, TypeError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


def _each(
    sources: Sequence[Path], output: Path, work: Callable[[Path, Path], Sequence[str]], header: Sequence[str]
) -> None:
    """Does the work of one file after the other, and prints what was done, also where one fails.

    Args:
        sources: the files.
        output: folder for the results.
        work: takes a file and the path of its results without suffixes; returns its row of the table.
        header: of the table.

    Raises:
        ValueError: one failed; the message names it.
    """
    table = [header]
    try:
        for source, stem in zip(sources, stems(sources), strict=True):
            try:
                table.append(work(source, output / stem))
            except OSError as error:
                raise ValueError(f"{error.filename or source}: {error.strerror or error}") from error
            except (ServiceError, ValueError, TypeError) as error:
                raise ValueError(f"{source}: {error}") from error
    finally:
        if len(table) > 1:
            _print_table(table)


def _each_rows(sources: Sequence[Path], output: Path, ask: Callable[[Path], Rows], what: str, form: RowsFile) -> None:
    def one(source: Path, stem: Path) -> Sequence[str]:
        rows = ask(source)
        path = write_rows(rows, what, stem, form)
        return (
            str(source),
            str(rows.array.shape[0]),
            f"{rows.array.shape[1]} values",
            f"{np.count_nonzero(rows.array) / rows.array.size:.1%}",
            f"{rows.model}/{rows.version}",
            f"{rows.timings.total * 1e3:.1f}",
            str(path),
        )

    _each(sources, output, one, ("source", "rows", what, "non-zero", "model", "ms", "written"))


def _read(path: Path) -> bytes | npt.NDArray[np.generic]:
    if path.suffix == ".npy":
        values: npt.NDArray[np.generic] = np.load(path, allow_pickle=False)
        return values
    return path.read_bytes()


def _model_row(model: Model) -> tuple[str, ...]:
    def tensors(specs: Mapping[str, tuple[str, tuple[int, ...]]]) -> str:
        return " ".join(f"{name}:{dtype}[{','.join(map(str, shape))}]" for name, (dtype, shape) in specs.items())

    scores = " ".join(f"{name}={value:.4g}" for name, value in sorted(model.scores.items()))
    return (
        model.name,
        str(model.version),
        model.family,
        tensors(model.inputs),
        tensors(model.outputs),
        model.data_source,
        "yes" if model.ready else "no",
        model.provider.removesuffix("ExecutionProvider"),
        scores,
    )


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    app()
