"""Opens an input, whatever kind it is."""

from pathlib import Path

from serving.video.files import FolderReader, VideoReader
from serving.video.reading import Reader, Selection
from serving.video.sources import Kind, Source
from serving.video.streams import StreamReader


def open_reader(source: Source, selection: Selection) -> Reader:
    """Opens an input and looks at its first frame.

    Raises:
        InputError: it is no video, has no video stream, or not one frame.
        FaultError: a stream that cannot be reached.
    """
    if source.kind is Kind.STREAM:
        return StreamReader(source.address, selection)
    if source.kind is Kind.FOLDER:
        return FolderReader(Path(source.address), selection)
    return VideoReader(source.address, selection)
