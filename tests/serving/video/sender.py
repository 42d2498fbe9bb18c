"""Sends a stream: ``python sender.py ADDRESS FORMAT FRAMES [OPTION=VALUE ...]``.

A process of its own, since PyAV holds the interpreter while it writes to the network.
"""

import sys
import time
from fractions import Fraction

import av
import numpy as np

HEIGHT, WIDTH = 48, 96


def send(address: str, form: str, frames: int, options: dict[str, str]) -> None:
    """Sends so many frames, ten a second by their time stamps, as fast as they are taken."""
    end = time.monotonic() + 30
    while True:
        try:
            container = av.open(address, "w", format=form, options=options)
            stream = container.add_stream("libx264", rate=10)
            stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
            stream.codec_context.time_base = Fraction(1, 10)
            stream.codec_context.gop_size = 5
            stream.options = {"crf": "10", "preset": "ultrafast", "tune": "zerolatency"}
            container.start_encoding()
            break
        except (OSError, av.FFmpegError):
            # Nobody listens yet.
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
    for number in range(frames):
        picture = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
        picture[12:36, 2 * number : 2 * number + 16] = (235, 20, 20)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = number, Fraction(1, 10)
        container.mux(stream.encode(frame))
        time.sleep(0.01)
    container.mux(stream.encode())
    container.close()


if __name__ == "__main__":
    send(sys.argv[1], sys.argv[2], int(sys.argv[3]), dict(each.split("=", 1) for each in sys.argv[4:]))
