"""Opens an input, whatever kind it is."""

import threading
from pathlib import Path

from serving.video.files import FolderReader, VideoReader
from serving.video.reading import Reader, Selection
from serving.video.sources import Kind, Source
from serving.video.streams import StreamReader


def open_reader(source: Source, selection: Selection, stop: threading.Event | None = None) -> Reader:
    """Opens an input and looks at its first frame.

    Args:
        source: the input.
        selection: which frames.
        stop: ends the waiting for a stream.

    Raises:
        InputError: it is no video, has no video stream, or not one frame.
        FaultError: a stream that cannot be reached.
        StoppedError: a stream that was not reached before the stop.
    """
    if source.kind is Kind.STREAM:
        return StreamReader(source.address, selection, stop or threading.Event())
    if source.kind is Kind.FOLDER:
        return FolderReader(Path(source.address), selection)
    return VideoReader(source.address, selection)
