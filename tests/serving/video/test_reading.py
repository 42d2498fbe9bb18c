import random
import shutil
import struct
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition

from serving.video.errors import InputError
from serving.video.opening import open_reader
from serving.video.reading import Anchor, Frame, Note, Selection
from serving.video.sources import Kind, Source, find
from tests.serving.video.conftest import HEIGHT, WIDTH, scene, write_pictures, write_video

ALL = Selection(0.0, None, 1, "none", 25.0, 10**7, {}, 5.0, 5.0)


def read(path: Path, after: Anchor | None = None, **changes: Any) -> list[Frame]:
    kind = Kind.FOLDER if path.is_dir() else Kind.VIDEO
    return list(open_reader(Source(kind, str(path), "x"), replace(ALL, **changes)).frames(after))


def write_noise(path: Path, frames: int, codec: str) -> Path:
    """A video of moving noise, of which every byte counts: two key frames a hundred."""
    noise = np.random.default_rng(0).integers(0, 256, (160, 320, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = 128, 192, "yuv420p"
        stream.codec_context.gop_size = 50
        for number in range(frames):
            picture = np.ascontiguousarray(noise[number // 3 : number // 3 + 128, number : number + 192])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def damage(path: Path, seed: int) -> None:
    """Changes bytes here and there, but neither at the head nor at the end, where containers keep their tables."""
    chance = random.Random(seed)
    data = bytearray(path.read_bytes())
    for _ in range(12):
        data[chance.randrange(len(data) // 10, 9 * len(data) // 10)] ^= chance.randrange(1, 256)
    path.write_bytes(data)


def numbers(frames: list[Frame]) -> list[int]:
    return [frame.number for frame in frames]


class TestVideos:
    def test_frames_come_in_order_with_their_times(self, video: Path) -> None:
        frames = read(video)
        assert numbers(frames) == list(range(40))
        assert [frame.time for frame in frames] == pytest.approx([number / 10 for number in range(40)])
        for frame in frames:
            assert np.abs(frame.picture.astype(int) - scene(frame.number)).mean() < 4

    def test_a_variable_rate_keeps_its_times(self, tmp_path: Path) -> None:
        pts = [0, 4, 10, 50, 51, 200]
        frames = read(write_video(tmp_path / "v.mkv", 6, pts=pts))
        assert [frame.time for frame in frames] == pytest.approx([each / 100 for each in pts])

    @pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
    def test_avi_that_reorders_frames_keeps_its_times(self, tmp_path: Path, codec: str) -> None:
        path = tmp_path / "v.avi"
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=10)
            stream.height, stream.width, stream.pix_fmt = 48, 96, "yuv420p"
            stream.codec_context.max_b_frames = 2
            for number in range(30):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(scene(number), format="rgb24")))
            container.mux(stream.encode())
        frames = read(path)
        assert [frame.time for frame in frames] == pytest.approx([number / 10 for number in range(30)])
        assert [frame.notes for frame in frames] == [()] * 30
        for last in (0, 3, 13, 28):
            rest = read(path, frames[last].anchor)
            assert [frame.anchor for frame in rest] == [frame.anchor for frame in frames[last + 1 :]]

    def test_start_end_and_every(self, video: Path) -> None:
        assert numbers(read(video, start=1.0, end=2.0)) == list(range(10, 20))
        assert numbers(read(video, every=7)) == [0, 7, 14, 21, 28, 35]
        assert numbers(read(video, start=1.05, end=2.0, every=4)) == [12, 16]

    @pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.ts", "v.avi"])
    @pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
    def test_going_on_after_a_frame_gives_the_very_same_frames(self, tmp_path: Path, name: str, codec: str) -> None:
        path = write_video(tmp_path / name, 40, codec=codec)
        whole = read(path)
        assert len(whole) >= 38  # not every container keeps the first frames of every codec
        for last in (0, 5, 11, 12, 25, len(whole) - 1):
            rest = read(path, whole[last].anchor)
            assert [(f.number, f.pts, f.time) for f in rest] == [(f.number, f.pts, f.time) for f in whole[last + 1 :]]
            for one, other in zip(rest, whole[last + 1 :], strict=True):
                np.testing.assert_array_equal(one.picture, other.picture)

    def test_a_frame_that_seeking_does_not_find_is_counted_to(self, video: Path) -> None:
        whole = read(video)
        rest = read(video, replace(whole[20].anchor, pts=whole[20].pts + 1))
        assert numbers(rest) == list(range(21, 40))

    @pytest.mark.parametrize(("codec", "name"), [("libx264", "v.mp4"), ("libx264", "v.ts"), ("mpeg4", "v.avi")])
    def test_damaged_parts_come_out_alike_every_time(self, tmp_path: Path, codec: str, name: str) -> None:
        """However often it is read, from the start or after any frame: decoders mend damage from what they know."""
        damaged = 0
        for seed in range(4):
            path = write_noise(tmp_path / f"{seed}-{name}", 90, codec)
            damage(path, seed)
            whole = read(path)
            damaged += sum(any(note.loses for note in frame.notes) for frame in whole)
            anchors = [(frame.anchor, frame.notes) for frame in whole]
            for _ in range(2):
                assert [(frame.anchor, frame.notes) for frame in read(path)] == anchors
            for last in range(3, len(whole) - 1, 12):
                rest = read(path, whole[last].anchor)
                assert [(frame.anchor, frame.notes) for frame in rest] == anchors[last + 1 :]
        assert damaged

    def test_a_turned_video_comes_upright(self, video: Path, tmp_path: Path) -> None:
        path = tmp_path / "turned.mp4"
        path.write_bytes(_turned(video.read_bytes()))
        frames = read(path)
        straight = read(video)
        assert frames[3].picture.shape == (96, 48, 3)
        np.testing.assert_array_equal(frames[3].picture, np.rot90(straight[3].picture, -1))
        assert [frame.time for frame in frames] == [frame.time for frame in straight]

    @pytest.mark.parametrize(("rule", "size"), [("max:48", (24, 48)), ("max:500", (48, 96)), ("32x64", (64, 32))])
    def test_resizing(self, video: Path, rule: str, size: tuple[int, int]) -> None:
        frames = read(video, resize=rule, end=0.2)
        assert frames[0].picture.shape == (*size, 3)
        assert frames[0].notes == ()

    @pytest.mark.parametrize(
        ("turned", "rule", "aspect"),
        [
            (False, "none", Fraction(2)),
            (True, "none", Fraction(1, 2)),
            (False, "max:48", Fraction(2)),
            # Shown at 192 x 48, whatever the pixels: at 64 x 64 each is four times as wide as high.
            (False, "64x64", Fraction(4)),
            (True, "64x64", Fraction(1, 4)),
        ],
    )
    def test_pixels_that_are_not_square(self, tmp_path: Path, turned: bool, rule: str, aspect: Fraction) -> None:
        path = write_video(tmp_path / "v.mp4", 3, aspect=2)
        if turned:
            path.write_bytes(_turned(path.read_bytes()))
        reader = open_reader(Source(Kind.VIDEO, str(path), "x"), replace(ALL, resize=rule))
        assert reader.clip.aspect == aspect

    def test_a_truncated_file_gives_what_is_there_and_says_so(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "v.avi", 40, codec="mpeg4")
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 4 // 10])
        reader = open_reader(Source(Kind.VIDEO, str(path), "x"), ALL)
        count = len(list(reader.frames()))
        assert 5 < count < 35
        assert reader.tail[-1].loses
        assert reader.tail[-1].text.startswith(f"truncated: {(count - 1) / 10 + 0.01:.1f} of ")

    @pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.ts", "v.avi"])
    def test_a_whole_file_is_not_called_truncated(self, tmp_path: Path, name: str) -> None:
        path = write_video(tmp_path / name, 30, codec="mpeg4", sound="mp2" if name == "v.ts" else "aac")
        reader = open_reader(Source(Kind.VIDEO, str(path), "x"), ALL)
        frames = list(reader.frames())
        assert [frame.notes for frame in frames] == [()] * len(frames)
        assert reader.tail == ()

    def test_damaged_parts_are_stepped_over_and_noted(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "v.ts", 60)
        data = bytearray(path.read_bytes())
        middle = len(data) // 2
        data[middle : middle + 900] = bytes(900)
        path.write_bytes(data)
        reader = open_reader(Source(Kind.VIDEO, str(path), "x"), ALL)
        frames = list(reader.frames())
        assert len(frames) > 30
        notes = [note for frame in frames for note in frame.notes] + list(reader.tail)
        assert any(note.loses for note in notes)

    def test_a_size_that_changes_is_scaled_to_the_first(self, tmp_path: Path) -> None:
        # H.264 in MPEG-TS may simply be put one behind the other.
        first = write_video(tmp_path / "a.ts", 10).read_bytes()
        second = write_video(tmp_path / "b.ts", 10, size=(64, 64), pts=range(100, 200, 10)).read_bytes()
        path = tmp_path / "both.ts"
        path.write_bytes(first + second)
        frames = read(path)
        assert {frame.picture.shape for frame in frames} == {(48, 96, 3)}
        notes = [note for frame in frames for note in frame.notes]
        assert Note("the size changes to 64 x 64; scaled to the first frame's", loses=False) in notes


class TestNames:
    @pytest.mark.parametrize("name", ["cam:1.mp4", "12:30:00.mp4", "f%03d.mp4", "[a].mp4", "-v.mp4", "a?b#c.mp4"])
    def test_any_name_in_the_folder_itself(
        self, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        shutil.copyfile(video, name)
        (source,) = find([name])
        assert len(list(open_reader(source, ALL).frames())) == 40


class TestRefusals:
    def check(self, path: Path, message: str) -> None:
        with pytest.raises(InputError, match=message):
            read(path)

    def test_not_a_video(self, tmp_path: Path) -> None:
        path = tmp_path / "v.mp4"
        path.write_bytes(b"this is no video at all" * 100)
        self.check(path, "v.mp4: no video")

    def test_an_empty_file(self, tmp_path: Path) -> None:
        path = tmp_path / "v.mp4"
        path.touch()
        self.check(path, "v.mp4: no video that FFmpeg can read: Invalid data")

    def test_a_text(self, tmp_path: Path) -> None:
        path = tmp_path / "v.txt"
        path.write_text("pedestrians\n" * 500)
        self.check(path, "v.txt: no video")

    def test_a_single_picture_is_no_video(self, tmp_path: Path) -> None:
        self.check(write_pictures(tmp_path, [1]) / "frame1.png", "frame1.png: no video, but a text or a picture")

    def test_no_video_stream(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "v.mkv", 10, sound="aac")
        only_sound = tmp_path / "sound.m4a"
        import av

        with av.open(str(path)) as source, av.open(str(only_sound), "w", format="mp4") as target:
            track = source.streams.audio[0]
            copy = target.add_stream_from_template(track)
            for packet in source.demux(track):
                if packet.dts is not None:
                    packet.stream = copy
                    target.mux(packet)
        self.check(only_sound, "sound.m4a: there is no video stream in it")

    def test_a_song_with_a_cover(self, tmp_path: Path) -> None:
        song = tmp_path / "song.mp3"
        with av.open(str(song), "w") as container:
            tone = container.add_stream("mp3", rate=16000)
            cover = container.add_stream("mjpeg", rate=1)
            cover.height, cover.width, cover.pix_fmt = HEIGHT, WIDTH, "yuvj420p"
            cover.disposition = Disposition.attached_pic
            container.mux(cover.encode(av.VideoFrame.from_ndarray(scene(0), format="rgb24")))
            container.mux(cover.encode())
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.int16), format="s16p", layout="mono")
            frame.sample_rate, frame.pts = 16000, 0
            container.mux(tone.encode(frame))
            container.mux(tone.encode())
        self.check(song, "song.mp3: there is no video stream in it")

    def test_zero_frames(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "v.avi", 1, codec="mpeg4")
        data = path.read_bytes()
        start = data.index(b"movi") + 4
        path.write_bytes(data[:start])
        self.check(path, "v.avi: not one frame can be decoded")

    def test_a_missing_file(self, tmp_path: Path) -> None:
        self.check(tmp_path / "v.mp4", "v.mp4: no such file")

    def test_too_many_pixels(self, video: Path) -> None:
        with pytest.raises(InputError, match=r"walk.mp4: a frame has at most 1000 pixels. Received: 96 x 48"):
            read(video, max_pixels=1000)

    def test_a_folder_without_pictures(self, tmp_path: Path) -> None:
        self.check(tmp_path, "no picture in this folder; expected .jpg")

    def test_a_folder_of_broken_pictures(self, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").write_bytes(b"no")
        self.check(tmp_path, "not one of the 1 pictures can be read")


class TestFolders:
    def test_pictures_come_in_natural_order_at_the_given_rate(self, tmp_path: Path) -> None:
        frames = read(write_pictures(tmp_path / "f", [10, 9, 2, 100, 1]), fps=5.0)
        assert [frame.time for frame in frames] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
        for frame, number in zip(frames, [1, 2, 9, 10, 100], strict=True):
            np.testing.assert_array_equal(frame.picture, scene(number))

    def test_a_picture_now_and_then(self, tmp_path: Path) -> None:
        frames = read(write_pictures(tmp_path / "f", range(3)), fps=0.0002)
        assert [frame.time for frame in frames] == [0, 5000, 10000]

    def test_going_on(self, tmp_path: Path) -> None:
        folder = write_pictures(tmp_path / "f", range(6))
        assert numbers(read(folder, Anchor(3, 3, 0))) == [4, 5]

    def test_a_broken_picture_is_left_out_and_noted(self, tmp_path: Path) -> None:
        folder = write_pictures(tmp_path / "f", range(4))
        (folder / "frame2.png").write_bytes(b"no picture")
        frames = read(folder)
        assert numbers(frames) == [0, 1, 3]
        (note,) = frames[2].notes
        assert note.loses
        assert note.text.startswith("frame2.png: a picture is JPEG, PNG, WebP or BMP")


def _turned(data: bytes) -> bytes:
    """An MP4 whose track is to be turned by 90 degrees to the right."""
    at = data.index(b"tkhd") + 4
    matrix = at + 40 + (12 if data[at] else 0)
    one = 1 << 16
    turned = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
    return data[:matrix] + turned + data[matrix + 36 :]
