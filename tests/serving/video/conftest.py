"""Synthetic videos whose masks are known: a red box walks over grey, and the model ``red`` finds what is red."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools import mask as coco

from serving.video import launch
from serving.video.job import Outcome, exit_code
from serving.video.settings import Settings

HEIGHT, WIDTH = 48, 96


def scene(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray[Any, Any]:
    """Frame ``number``: a red box 16 wide that moves 2 pixels a frame, over a grey ramp."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = np.linspace(20, 55, width, dtype=np.uint8)[:, np.newaxis]
    left = (2 * number) % (width - 16)
    picture[height // 4 : 3 * height // 4, left : left + 16] = (235, 20, 20)
    return picture


def write_video(
    path: Path,
    frames: int = 40,
    *,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    rate: int = 10,
    pts: Sequence[int] | None = None,
    codec: str = "libx264",
    gop: int = 12,
    sound: str = "",
    sound_rate: int = 16000,
    aspect: int = 1,
    **options: str,
) -> Path:
    """Writes a video; ``pts`` are in hundredths of a second. ``sound`` names a codec for a tone beside it."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv444p" if codec == "libx264" and size[0] % 2 + size[1] % 2 else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 100)
        stream.codec_context.gop_size = gop
        stream.codec_context.sample_aspect_ratio = Fraction(aspect)
        if codec == "libx264":
            stream.options = {"crf": "10", "preset": "ultrafast", "bf": "2"}
        tone = container.add_stream(sound, rate=sound_rate) if sound else None
        if tone is not None:
            tone.codec_context.layout = "mono"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(scene(number, *size), format="rgb24")
            frame.pts = pts[number] if pts else number * 100 // rate
            frame.time_base = Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if tone is not None:
            _write_tone(container, tone, frames / rate, sound_rate)
    return path


def _write_tone(container: Any, stream: Any, seconds: float, rate: int) -> None:
    samples = np.sin(np.arange(int(rate * seconds)) * 3200 / rate).astype(np.float32)
    resampler = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=rate)
    fifo = av.AudioFifo()
    frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    fifo.write(frame)
    while (piece := fifo.read(1024, partial=True)) is not None:
        for each in resampler.resample(piece):
            container.mux(stream.encode(each))
    container.mux(stream.encode())


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 frames at 10 a second, with B-frames and four key frames."""
    return write_video(tmp_path_factory.mktemp("video") / "walk.mp4")


@dataclass
class Done:
    """A run of the job in this process."""

    code: int
    outcomes: list[Outcome]
    output: Path

    def rows(self, name: str = "walk") -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = pq.read_table(self.output / name / "frames.parquet").to_pylist()
        return rows

    def masks(self, name: str = "walk") -> list[np.ndarray[Any, Any]]:
        lines = (self.output / name / "masks.rle.jsonl").read_text().splitlines()
        return [coco.decode(json.loads(line)).astype(bool) for line in lines]


Run = Callable[..., Done]


@pytest.fixture
def run(models: Path, tmp_path: Path) -> Run:
    """``run(input, ..., outputs="rle,parquet", flag=value)`` runs the job with the model ``red``; ``stop`` ends it."""

    def run_job(*inputs: object, stop: threading.Event | None = None, **flags: object) -> Done:
        settings = Settings.from_command_line(arguments(models, tmp_path, *inputs, **flags))
        outcomes = launch.run(settings, stop or threading.Event())
        return Done(exit_code(outcomes), outcomes, settings.output)

    return run_job


def arguments(models: Path, folder: Path, *inputs: object, **flags: object) -> list[str]:
    told: dict[str, object] = {"output": folder / "out", "model_repository": models, "model": "red", "provider": "cpu"}
    told |= {"model_version": 1, "outputs": "rle,parquet", "shard_frames": 8} | flags
    listed = [str(each) for each in inputs]
    for name, value in told.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            listed.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            listed += [flag, str(value)]
    return listed


@dataclass
class Ended:
    """A run of the job as a process of its own."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(models: Path, tmp_path: Path) -> Callable[..., Ended]:
    """Runs ``python -m serving.video`` like ``run``; ``environment`` and ``before`` are the process's."""

    def run_command(
        *inputs: object,
        environment: dict[str, str] | None = None,
        before: Callable[[], None] | None = None,
        **flags: object,
    ) -> Ended:
        done = subprocess.run(
            [sys.executable, "-m", "serving.video", *arguments(models, tmp_path, *inputs, **flags)],
            capture_output=True,
            text=True,
            timeout=120,
            env=os.environ | (environment or {}),
            preexec_fn=before,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    return run_command


def write_pictures(folder: Path, numbers: Sequence[int], suffix: str = ".png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.fromarray(scene(number)).save(folder / f"frame{number}{suffix}")
    return folder


def frames_of(path: Path) -> list[Any]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))
