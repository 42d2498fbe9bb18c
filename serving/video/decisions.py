"""What of the settings decides the results, and so may not change between a job and the one that continues it."""

import hashlib
from pathlib import Path
from typing import Any

from serving.video.engines import Identity
from serving.video.errors import InputError
from serving.video.reading import Selection
from serving.video.settings import Settings
from serving.video.sources import PICTURES, Kind, Source, is_web, public


def select(settings: Settings) -> Selection:
    """Which frames are read."""
    return Selection(
        start=settings.start,
        end=settings.end,
        every=settings.every,
        resize=settings.resize,
        fps=settings.fps,
        max_pixels=settings.max_pixels,
        options=settings.options,
        timeout=settings.timeout,
        retry_seconds=settings.retry_seconds,
    )


# Settings that decide the results; where and how fast the work is done does not.
_DECISIVE = (
    *("outputs", "tile", "smooth", "start", "end", "every", "resize", "fps", "input_option"),
    *("privacy", "privacy_margin", "sound", "crf", "preset", "min_area", "shard_frames"),
)


def made_with(source: Source, settings: Settings, identity: Identity) -> dict[str, Any]:
    """Everything that decides the results of an input: itself, the model, and the settings that matter.

    Raises:
        InputError: the input is not there any more.
    """
    return {
        "input": _fingerprint(source),
        "model": identity.model,
        "version": identity.version,
        "threshold": identity.threshold,
        "digest": identity.digest,
        **settings.model_dump(mode="json", include=set(_DECISIVE)),
    }


def _fingerprint(source: Source) -> str:
    if source.kind is Kind.STREAM:
        return public(source.address)
    if is_web(source.address):
        return f"{public(source.address)} ({source.size} bytes)"
    path = Path(source.address.removeprefix("file://")).absolute()
    try:
        if source.kind is Kind.VIDEO:
            state = path.stat()
            return f"{path} ({state.st_size} bytes, modified at {state.st_mtime_ns})"
        pictures = sorted(each for each in path.iterdir() if each.suffix.lower() in PICTURES)
        told = "".join(f"{each.name} {each.stat().st_size}\n" for each in pictures)
    except OSError as error:
        raise InputError(f"{source.address}: cannot be read: {error.strerror}") from error
    return f"{path} ({len(pictures)} pictures, {hashlib.sha256(told.encode()).hexdigest()[:16]})"
