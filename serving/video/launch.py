"""Builds the job from its settings, and runs it."""

import os
import threading
from pathlib import Path

from serving import imaging
from serving.client import Client, Security
from serving.errors import MissingExtraError, SecurityError
from serving.video import sources
from serving.video.engines import Engine, LocalEngine, Model
from serving.video.errors import InputError, writing
from serving.video.job import Job, Outcome
from serving.video.progress import Display, Meter
from serving.video.service import ServiceEngine
from serving.video.settings import Settings
from serving.video.tiles import Tiling

_TOKEN = "SPARSEWALK_TOKEN"


def run(settings: Settings, stop: threading.Event) -> list[Outcome]:
    """Runs the job.

    Args:
        settings: of the job.
        stop: ends it early; whatever it waits for then, it does not wait for long.

    Raises:
        MissingExtraError: Ray is asked for and not installed.
        JobError: it cannot begin: no such input, model or service, or no place for the output; or it was stopped
            before.
    """
    imaging.limit_threads()
    found = sources.part(sources.find(settings.inputs), settings.job_count, os.environ)
    _prepare(settings.output)
    meter = Meter()
    if settings.engine == "ray":
        try:
            from serving.video import cluster
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                f"--engine ray needs an extra: pip install 'sparsewalk[ray]'. Received: {error}"
            ) from error
        with Display(meter, settings.progress) as display:
            return cluster.run(settings, found, meter, display, stop)
    engine = open_engine(settings, stop)
    meter.ask_inference(lambda: engine.busy)
    try:
        with Display(meter, settings.progress) as display:
            return Job(settings, engine, meter, display, stop).run(found)
    finally:
        engine.close()


def open_engine(settings: Settings, stop: threading.Event) -> Engine:
    """The engine that the settings ask for, in this process or through a service; ``stop`` as in ``ServiceEngine``."""
    tiling = Tiling.parse(settings.tile)
    if settings.target:
        security = _secure(settings)
        return ServiceEngine(
            lambda: Client(settings.target, timeout=settings.timeout, security=security),
            target=settings.target,
            model=settings.model,
            version=settings.model_version,
            threshold=settings.threshold,
            tiling=tiling,
            timeout=settings.timeout,
            retry_seconds=settings.retry_seconds,
            stop=stop,
        )
    return LocalEngine(open_model(settings), settings.batch_size)


def _secure(settings: Settings) -> Security:
    try:
        return Security(
            tls=settings.tls,
            ca=settings.ca,
            certificate=settings.client_certificate,
            key=settings.client_key,
            # Not a flag: every user of the machine can read those.
            token=None if settings.token_file else os.environ.get(_TOKEN),
            token_file=settings.token_file,
        )
    except SecurityError as error:
        raise InputError(str(error)) from error


def open_model(settings: Settings) -> Model:
    """The model that the settings name, in this process."""
    return Model(
        settings.model_repository,
        settings.model,
        settings.model_version,
        settings.threshold,
        Tiling.parse(settings.tile),
        settings.provider,
        settings.threads,
    )


def _prepare(output: Path) -> None:
    """Finds out now whether the output can be written, not after an hour."""
    probe = output / f".probe-{os.getpid()}"
    try:
        output.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise writing(error, output) from error
