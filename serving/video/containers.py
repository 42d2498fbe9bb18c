"""Opens videos that can be read again: files, and what a web server gives by its length.

A line to a web server that is lost is opened again where it broke off, by FFmpeg. Where that does not help, the fault
passes: another run goes on at the last finished shard.
"""

from typing import Any

import av
from av.stream import Disposition

from serving.video.errors import FaultError, InputError
from serving.video.reading import Selection
from serving.video.sources import has_scheme, is_web, public

# Playlists of pieces; who writes the pieces may still be at it.
_PLAYLISTS = frozenset({"hls", "dash"})
_PASSING = "408,429,5xx"


def open_container(address: str, selection: Selection) -> Any:
    """The container of a video; the caller closes it.

    Args:
        address: path or URL.
        selection: FFmpeg's options, and how long to wait for a web server.

    Raises:
        InputError: it is not there, may not be read, or is no video.
        FaultError: the web server does not answer.
    """
    where = address
    options = selection.options
    if is_web(address):
        options = _web_options(selection) | options
    elif not has_scheme(address):
        # Otherwise a colon in a name ends the name of a protocol.
        where = f"file:{address}"
    try:
        return av.open(where, options=options)
    except FileNotFoundError:
        raise InputError(f"{address}: no such file or folder") from None
    except av.FFmpegError as error:
        if is_web(address) and not isinstance(error, av.InvalidDataError):
            raise lost(address, error) from None
        raise InputError(f"{public(address)}: no video that FFmpeg can read: {error.strerror}") from None


def video_stream(container: Any) -> Any:
    """The first video stream that is one, not the cover of a song; None where there is none."""
    streams = container.streams.video
    return next((stream for stream in streams if not stream.disposition & Disposition.attached_pic), None)


def lost(address: str, error: av.FFmpegError) -> InputError | FaultError:
    """What a failed read from a web server is: its refusal stays, anything else passes."""
    passing = not isinstance(error, av.error.HTTPClientError) or isinstance(error, av.error.HTTPTooManyRequestsError)
    if passing:
        return FaultError(f"{public(address)}: cannot be read on: {error.strerror}; run again with --resume")
    return InputError(f"{public(address)}: cannot be read: {error.strerror}")


def length(container: Any) -> int | None:
    """Bytes of a video, as the web server says; None of what has no end that is known, and so is live."""
    size = int(container.size)
    return None if size < 0 or container.format.name.split(",")[0] in _PLAYLISTS else size


def _web_options(selection: Selection) -> dict[str, str]:
    told = {"rw_timeout": str(round(selection.timeout * 1_000_000))}
    # Pauses of 0, 1, 3, 7, ... seconds, as long as they are no longer than this: nothing can end them.
    pause = round(min(selection.timeout, selection.retry_seconds))
    if pause:
        told |= {"reconnect": "1", "reconnect_on_network_error": "1", "reconnect_on_http_error": _PASSING}
        told["reconnect_delay_max"] = str(pause)
    return told
