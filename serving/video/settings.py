"""The job's settings: each field is a command-line flag and an environment variable, as for the server.

``--target host:8001`` and ``SPARSEWALK_TARGET=host:8001`` say the same; the flag wins.
"""

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, CliApp, CliPositionalArg, CliSettingsSource, NoDecode, SettingsConfigDict

from serving.errors import StartError

OutputName = Literal["overlay", "privacy", "mask", "png", "rle", "parquet", "jsonl", "heatmap", "summary"]
_SIZE = re.compile(r"^(none|max:[1-9][0-9]{0,4}|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$")
# Between the words of a list on its way from the command line; no word has it.
_END = "\0"


def _split(between: str) -> Callable[[Any], Any]:
    """Takes apart what the command line and the environment give as one text."""
    return lambda value: [word for word in re.split(between, value) if word] if isinstance(value, str) else value


def _is_pair(value: str) -> str:
    if "=" not in value:
        raise ValueError("an option is NAME=VALUE")
    return value


# A file may have any name, and an option of FFmpeg commas in its value.
Inputs = Annotated[list[str], NoDecode, BeforeValidator(_split(_END)), Field(min_length=1)]
Outputs = Annotated[tuple[OutputName, ...], NoDecode, BeforeValidator(_split(rf"\s*[,{_END}]\s*")), Field(min_length=1)]
Options = Annotated[
    list[Annotated[str, AfterValidator(_is_pair)]], NoDecode, BeforeValidator(_split(rf"{_END}|\s*,\s*(?=\w+=)"))
]


class Settings(BaseSettings):
    """Segments pedestrians in videos, folders of pictures and network streams.

    Every flag is also an environment variable: --target is SPARSEWALK_TARGET. Flags win. Each input gets a folder of
    its own below --output, which appears when everything in it is whole. Inputs of the same name get numbers in the
    order in which they are listed (street, street-2): where files still arrive, list them in a file and append. After a
    kill, run the same again with --resume: what is finished is not done again, and the result is the same as that of
    an unbroken run.

    Exit codes: 0 all done; 2 settings not allowed or without what they need installed; 3 bad input, unknown model or
    unwritable output (running again does not help); 4 partial: whole results for what could be read, but some of it
    could not; 5 a passing fault (service gone, disk full, stream unreachable): run again with --resume; 130 stopped by
    a signal: likewise; 1 a bug.
    """

    model_config = SettingsConfigDict(
        env_prefix="SPARSEWALK_",
        cli_prog_name="python -m serving.video",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_implicit_flags=True,
        frozen=True,
        protected_namespaces=(),
    )

    inputs: CliPositionalArg[Inputs] = Field(
        description="videos, folders of pictures, globs, addresses (https://, rtsp://, ...), or @FILE with one of them"
        " a line"
    )
    output: Path = Field(description="folder for the results")
    outputs: Outputs = Field(
        ("overlay", "parquet", "summary"),
        description="what to write, e.g. --outputs overlay,rle: overlay, privacy and mask are H.264 videos, png one"
        " mask a frame, rle COCO run-lengths a line, parquet and jsonl tables, heatmap where people were,"
        " summary a page",
    )
    resume: bool = Field(False, description="go on where an earlier run with the same settings ended")
    overwrite: bool = Field(False, description="throw away earlier results of the same inputs")

    model: str = Field("pedestrian_unet", description="name of the model")
    model_version: PositiveInt | None = Field(None, description="its version; the newest when left out")
    threshold: float | None = Field(None, ge=0, le=1, description="probability of foreground; None: the model's own")
    engine: Literal["local", "ray"] = Field(
        "local", description="local: in this process (or --target); ray: on a Ray cluster, or this machine as one"
    )
    target: str = Field("", description="HOST:PORT of a running service that segments the frames")
    tls: bool = Field(False, description="speak TLS with --target, and trust the web's authorities")
    ca: Path | None = Field(None, description="PEM file with the service's authorities; implies TLS")
    client_certificate: Path | None = Field(None, description="PEM file with a certificate of our own")
    client_key: Path | None = Field(None, description="PEM file with its key")
    token_file: Path | None = Field(
        None, description="file with the bearer token; or the token itself in the environment, as SPARSEWALK_TOKEN"
    )
    model_repository: Path = Field(Path("models"), description="folder with the models, for segmenting in process")
    provider: Literal["auto", "cuda", "cpu"] = Field("auto", description="where the model runs, in process")
    threads: NonNegativeInt = Field(0, description="runs at once on the CPU; 0: one for each core")
    batch_size: PositiveInt = Field(8, description="most frames or tiles in one run of the model")
    parallel: PositiveInt = Field(2, description="inputs read at once; their frames share the model's batches")
    retry_seconds: NonNegativeFloat = Field(
        300.0,
        description="how long to try again when the service or a stream is lost, before giving up; a web"
        " server at most for --timeout",
    )
    timeout: PositiveFloat = Field(10.0, description="seconds without an answer or a packet that count as a lost line")
    ray_address: str = Field("", description="of the Ray cluster; empty: the one around, or this machine alone")
    ray_actors: PositiveInt = Field(1, description="copies of the model on the cluster")
    ray_gpus: NonNegativeFloat = Field(0.0, description="GPUs for each of them")

    tile: str = Field(
        "off",
        pattern=r"^(off|auto|[1-9][0-9]{1,4})$",
        description="overlapping tiles for small pedestrians: off, auto, or the side of a tile in pixels of the frame",
    )
    smooth: PositiveInt = Field(
        1, le=31, description="median over so many frames (odd) against flicker; 1 leaves every frame as it is"
    )

    start: NonNegativeFloat = Field(0.0, description="seconds from which to read")
    end: PositiveFloat | None = Field(None, description="seconds before which to stop")
    every: PositiveInt = Field(1, description="take every n-th frame")
    resize: str = Field(
        "none",
        description="size of the frames before anything else: none, max:1280 (longer side, never enlarged), 1280x720",
    )
    # Films have no longer steps of time than 2**16 s.
    fps: float = Field(25.0, ge=0.0001, le=1000, description="frames a second of a folder of pictures")
    max_pixels: PositiveInt = Field(40_000_000, description="largest frame, in pixels")
    input_option: Options = Field(
        [],
        description="FFmpeg option of the inputs, e.g. rtsp_transport=udp; may be given several times, in the"
        " environment with commas between them",
    )

    privacy: Literal["blur", "pixelate", "fill"] = Field("blur", description="how the privacy video hides people")
    privacy_margin: NonNegativeInt | None = Field(
        None, description="pixels by which people are grown before they are hidden; None: 2 % of the shorter side"
    )
    sound: bool = Field(True, description="keep the sound of the input in overlay and privacy videos")
    crf: NonNegativeInt = Field(23, le=51, description="x264's quality: lower is better and larger")
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow"] = Field(
        "ultrafast", description="x264's speed: a slower one makes smaller videos and leaves the model less of the CPU"
    )
    min_area: NonNegativeInt = Field(25, description="pixels of the smallest component that the tables list")

    shard_frames: PositiveInt = Field(128, description="frames that are finished together: most that a kill costs")
    job_count: NonNegativeInt = Field(
        0,
        description="pods of an indexed job (completions): JOB_COMPLETION_INDEX takes every n-th input; 0: just one;"
        " all pods must find the same inputs",
    )
    progress: Literal["auto", "bar", "json", "quiet"] = Field(
        "auto", description="bar on a terminal and nothing else; json prints a line of JSON now and then on stderr"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("warning", description="least level that is logged")

    @field_validator("resize")
    @classmethod
    def _is_size(cls, value: str) -> str:
        if not _SIZE.match(value):
            raise ValueError("a size is none, max:PIXELS or WIDTHxHEIGHT")
        return value

    @field_validator("smooth")
    @classmethod
    def _is_odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("a median over time takes an odd number of frames")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.end is not None and self.end <= self.start:
            raise ValueError(f"--end lies behind --start ({self.start:g} s), not at {self.end:g} s")
        width, _, height = self.resize.partition("x")
        if width.isdecimal() and int(width) * int(height) > self.max_pixels:
            raise ValueError(f"--resize {self.resize} makes larger frames than --max-pixels {self.max_pixels} allows")
        if self.target and self.engine == "ray":
            raise ValueError("--target and --engine ray are two ways of doing the same: give one")
        if self.resume and self.overwrite:
            raise ValueError("--resume keeps what --overwrite throws away: give one")
        return self

    @property
    def options(self) -> dict[str, str]:
        """FFmpeg's options of the inputs."""
        return dict(each.split("=", 1) for each in self.input_option)

    @classmethod
    def from_command_line(cls, arguments: list[str] | None = None) -> "Settings":
        """Reads flags, then the environment, then the defaults.

        Args:
            arguments: the flags; those of the process where None. ``--help`` prints and exits.

        Raises:
            StartError: a value is not allowed; the message names flag, expectation and value.
        """
        try:
            source = CliSettingsSource[Settings](cls, parse_args_method=_parse)
            return CliApp.run(cls, cli_args=arguments, cli_settings_source=source, cli_exit_on_error=True)
        except ValidationError as error:
            complaints = "; ".join(
                f"--{'.'.join(str(part) for part in each['loc']).replace('_', '-')}: {each['msg']}."
                f" Received: {each['input']!r}"
                if each["loc"]
                else each["msg"]
                for each in error.errors()
            )
            raise StartError(f"settings: {complaints}") from None


def _parse(parser: ArgumentParser, arguments: list[str]) -> Namespace:
    """Parses flags; words of lists stay as they are, which otherwise are joined by commas."""
    told = parser.parse_args(arguments)
    for name, value in vars(told).items():
        if isinstance(value, list):
            setattr(told, name, [_END.join(value)])
    return told
