"""The sound of films: copied where MP4 takes it, otherwise encoded anew, and never the end of a job."""

import struct
from pathlib import Path

import av
import numpy as np
import pytest

from serving.video.errors import ExitCode
from tests.serving.video.conftest import Run, write_video


@pytest.mark.parametrize(("container", "codec", "kept"), [("mp4", "aac", "aac"), ("avi", "pcm_s16le", "aac")])
def test_sound_is_kept(run: Run, tmp_path: Path, container: str, codec: str, kept: str) -> None:
    coded = "libx264" if container == "mp4" else "mpeg4"
    path = write_video(tmp_path / f"walk.{container}", 40, sound=codec, codec=coded)
    done = run(path, outputs="privacy,overlay,mask", start=1.0, end=3.0)
    for name in ("privacy", "overlay"):
        with av.open(str(done.output / "walk" / f"{name}.mp4")) as film:
            (track,) = film.streams.audio
            assert track.codec_context.name == kept
            samples = list(film.decode(audio=0))
            assert sum(frame.samples for frame in samples) / 16000 == pytest.approx(2.0, abs=0.2)
            assert float(np.abs(samples[5].to_ndarray()).max()) > 0.1
    with av.open(str(done.output / "walk" / "mask.mp4")) as film:
        assert not film.streams.audio


@pytest.mark.parametrize(("rate", "kept"), [(6000, 7350), (11000, 11025), (192000, 96000)])
def test_sound_at_a_rate_that_films_lack_gets_the_nearest(run: Run, tmp_path: Path, rate: int, kept: int) -> None:
    path = write_video(tmp_path / "walk.avi", 40, sound="pcm_s16le", sound_rate=rate, codec="mpeg4")
    done = run(path, outputs="overlay")
    assert done.code == ExitCode.DONE
    with av.open(str(done.output / "walk" / "overlay.mp4")) as film:
        samples = [frame.to_ndarray()[0] for frame in film.decode(audio=0)]
        assert film.streams.audio[0].codec_context.sample_rate == kept
    heard = np.concatenate(samples)
    assert len(heard) / kept == pytest.approx(4.0, abs=0.3)
    # The tone has 3200 / 2 pi Hz, which its passages through zero count.
    middle = heard[kept : 3 * kept]
    assert np.count_nonzero(np.diff(middle > 0)) / 4 == pytest.approx(3200 / (2 * np.pi), rel=0.02)


def test_sound_that_cannot_be_kept_is_a_note(run: Run, tmp_path: Path) -> None:
    path = write_video(tmp_path / "walk.avi", 20, sound="mp3", sound_rate=16000, codec="mpeg4")
    data = bytearray(path.read_bytes())
    at = data.index(b"auds") + 4
    at = data.index(b"strf", at) + 8
    data[at : at + 2] = struct.pack("<H", 0x1234)  # of no codec
    path.write_bytes(data)
    done = run(path, outputs="overlay,privacy,summary")
    assert done.code == ExitCode.PARTIAL
    ((text, count),) = done.outcomes[0].notes
    assert text == "the sound cannot be kept: its codec is not known"
    assert count == 1
    for name in ("overlay", "privacy"):
        with av.open(str(done.output / "walk" / f"{name}.mp4")) as film:
            assert not film.streams.audio
            assert len(list(film.decode(video=0))) == 20
    assert text in (done.output / "walk" / "summary.html").read_text()


def test_sound_can_be_left_out(run: Run, tmp_path: Path) -> None:
    path = write_video(tmp_path / "walk.mp4", 10, sound="aac")
    with av.open(str(run(path, outputs="overlay", sound=False).output / "walk" / "overlay.mp4")) as film:
        assert not film.streams.audio
