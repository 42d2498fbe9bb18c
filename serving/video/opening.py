"""Opens an input, whatever kind it is."""

import threading
from dataclasses import replace
from pathlib import Path

from serving.video.containers import length, open_container
from serving.video.files import FolderReader, VideoReader
from serving.video.reading import Reader, Selection
from serving.video.sources import Kind, Source, is_web
from serving.video.streams import StreamReader


def settle(source: Source, selection: Selection) -> Source:
    """The input with what only its web server can tell: its length, or that it has none and so is a stream.

    Raises:
        InputError: the server has no such video.
        FaultError: the server does not answer.
    """
    if source.kind is not Kind.VIDEO or not is_web(source.address):
        return source
    # Just the header: a slow server takes its time for every second of the video.
    quick = replace(selection, options={"analyzeduration": "1"} | selection.options)
    with open_container(source.address, quick) as container:
        size = length(container)
    return replace(source, kind=Kind.STREAM) if size is None else replace(source, size=size)


def open_reader(source: Source, selection: Selection, stop: threading.Event | None = None) -> Reader:
    """Opens an input and looks at its first frame.

    Args:
        source: the input.
        selection: which frames.
        stop: ends the waiting for a stream.

    Raises:
        InputError: it is no video, has no video stream, or not one frame.
        FaultError: a stream or a web server that cannot be reached.
        StoppedError: a stream that was not reached before the stop.
    """
    if source.kind is Kind.STREAM:
        return StreamReader(source.address, selection, stop or threading.Event())
    if source.kind is Kind.FOLDER:
        return FolderReader(Path(source.address), selection)
    return VideoReader(source.address, selection)
