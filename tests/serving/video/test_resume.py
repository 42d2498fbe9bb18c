"""Killed at any moment, the job goes on, and its results are those of an unbroken run."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from serving.video.errors import ExitCode
from serving.video.store import Store
from tests.serving.video.conftest import Ended, Run, arguments, frames_of, write_pictures, write_video
from tests.serving.video.test_job import ALL, digests
from tests.serving.video.test_reading import damage, write_noise

FRAMES = 100


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("long") / "walk.mp4", FRAMES, sound="aac")


def start(models: Path, folder: Path, *inputs: object, **flags: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "serving.video", *arguments(models, folder, *inputs, **flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )


def wait_for_shards(output: Path, name: str, count: int, process: subprocess.Popen[str]) -> None:
    shards = output / ".work" / name / "shards"
    while process.poll() is None and len(list(shards.glob("[0-9]*"))) < count:
        time.sleep(0.002)


def check_same(output: Path, unbroken: Path) -> None:
    """Byte for byte, and so also frame for frame; films are compared by their frames as well."""
    one, other = digests(output / "walk"), digests(unbroken / "walk")
    assert one == other
    for name in ("overlay", "privacy", "mask"):
        frames, wanted = (frames_of(folder / "walk" / f"{name}.mp4") for folder in (output, unbroken))
        assert len(frames) == FRAMES
        for frame, expected in zip(frames, wanted, strict=True):
            assert frame.pts == expected.pts
            np.testing.assert_array_equal(frame.to_ndarray(), expected.to_ndarray())


def test_kill_and_resume_again_and_again(models: Path, run: Run, long_video: Path, tmp_path: Path) -> None:
    unbroken = run(long_video, outputs=ALL, smooth=5, output=tmp_path / "unbroken").output
    output = tmp_path / "broken"
    for shards in (1, 6):
        process = start(models, tmp_path, long_video, outputs=ALL, smooth=5, output=output, resume=shards > 1)
        wait_for_shards(output, "walk", shards, process)
        process.kill()
        process.communicate()
        assert not (output / "walk").exists()
    done = run(long_video, outputs=ALL, smooth=5, output=output, resume=True)
    assert done.code == ExitCode.DONE
    check_same(output, unbroken)
    assert not (output / ".work").exists()


def test_a_damaged_video_goes_on_alike(models: Path, run: Run, tmp_path: Path) -> None:
    """Decoders mend damage from frames that lie before the place where reading goes on."""
    path = write_noise(tmp_path / "walk.mp4", 90, "libx264")
    damage(path, 4)
    wanted = run(path, outputs="overlay,privacy,rle", smooth=3, output=tmp_path / "unbroken")
    assert wanted.code == ExitCode.PARTIAL
    for shards in (7, 8):
        output = tmp_path / f"broken-{shards}"
        process = start(models, tmp_path, path, outputs="overlay,privacy,rle", smooth=3, output=output)
        wait_for_shards(output, "walk", shards, process)
        process.kill()
        process.communicate()
        run(path, outputs="overlay,privacy,rle", smooth=3, output=output, resume=True)
        assert digests(output / "walk") == digests(wanted.output / "walk")


def test_finished_shards_are_not_done_again(models: Path, run: Run, long_video: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    process = start(models, tmp_path, long_video, output=output)
    wait_for_shards(output, "walk", 4, process)
    process.kill()
    process.communicate()
    # A shard that is done again would lose this mark, and the run would not tell of it.
    rows = output / ".work/walk/shards/000001/rows.jsonl"
    lines = [json.loads(line) | {"foreground": 0.125} for line in rows.read_text().splitlines()]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    marked = run(long_video, output=output, resume=True).rows()
    assert [row["frame"] for row in marked if row["foreground"] == 0.125] == list(range(8, 16))


def test_a_gap_between_finished_shards_is_filled(run: Run, long_video: Path, tmp_path: Path) -> None:
    """As a cluster may leave it."""
    unbroken = run(long_video, smooth=3, output=tmp_path / "unbroken").output
    output = _unjoined(run, long_video, tmp_path)
    for shard in ("000003", "000009"):
        shutil.rmtree(output / ".work/walk/shards" / shard)
    (output / ".work/walk/ended.json").unlink()
    assert run(long_video, smooth=3, output=output, resume=True).code == ExitCode.DONE
    assert digests(output / "walk") == digests(unbroken / "walk")


def _unjoined(run: Run, video: Path, tmp_path: Path) -> Path:
    """A run to the end of which only the joining is missing."""
    output = tmp_path / "unjoined"
    with mock.patch.object(Store, "whole", side_effect=OSError(28, "No space left on device")):
        assert run(video, smooth=3, output=output).code == ExitCode.FAULT
    assert not (output / "walk").exists()
    return output


def test_resuming_what_is_whole_does_nothing(run: Run, video: Path) -> None:
    before = digests(run(video).output)
    again = run(video, resume=True)
    assert (again.code, again.outcomes[0].message) == (ExitCode.DONE, f"{again.output}/walk: was whole already")
    assert digests(again.output) == before


def test_resuming_tells_again_what_was_lost(run: Run, tmp_path: Path) -> None:
    path = write_video(tmp_path / "walk.avi", 40, codec="mpeg4")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 4 // 10])
    first, again = run(path), run(path, resume=True)
    assert (first.code, again.code) == (ExitCode.PARTIAL, ExitCode.PARTIAL)
    assert again.outcomes[0].notes == first.outcomes[0].notes != ()


def test_where_nothing_was_finished_nothing_is_in_the_way(run: Run, video: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 1000)
    first, again = run(tmp_path / "bad.mp4"), run(tmp_path / "bad.mp4")
    assert again.outcomes == first.outcomes
    assert run(video, start=100).code == ExitCode.BAD_INPUT
    assert run(video, start=1).code == ExitCode.DONE


def test_overwriting_may_break_off_at_any_moment(run: Run, video: Path) -> None:
    output = run(video).output

    def half(folder: Path) -> None:
        (folder / "journal.json").unlink()
        raise RuntimeError("the machine fails")

    with mock.patch("serving.video.store.shutil.rmtree", half):
        assert run(video, overwrite=True).code == ExitCode.BUG
    assert not (output / "walk").exists()
    assert run(video).code == ExitCode.DONE
    assert not (output / ".work").exists()


def test_what_cannot_be_overwritten_is_told_at_once(run: Run, video: Path) -> None:
    output = run(video).output
    refused = PermissionError(1, "Operation not permitted", str(output / "walk"))
    with mock.patch.object(Path, "rename", side_effect=refused):
        done = run(video, overwrite=True)
    assert done.code == ExitCode.BAD_INPUT
    assert done.outcomes[0].message == f"{output}/walk: cannot be written: Operation not permitted"
    assert (output / "walk" / "frames.parquet").exists()


def test_other_settings_are_not_mixed_in(run: Run, video: Path) -> None:
    run(video)
    for flags, message in (
        ({"threshold": 0.7}, "threshold was 0.5, now it is 0.7"),
        ({"model_version": 2, "threshold": 0.5}, "version was 1, now it is 2"),
        ({"tile": "32"}, "tile was 'off', now it is '32'"),
    ):
        done = run(video, resume=True, **flags)
        assert done.code == ExitCode.BAD_INPUT
        assert message in done.outcomes[0].message
    os.utime(video, (1, 1))
    assert "input was " in run(video, resume=True).outcomes[0].message


def test_a_signal_stops_and_resume_goes_on(models: Path, run: Run, long_video: Path, tmp_path: Path) -> None:
    unbroken = run(long_video, output=tmp_path / "unbroken").output
    process = start(models, tmp_path, long_video)
    wait_for_shards(tmp_path / "out", "walk", 2, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == ExitCode.STOPPED
    assert errors == "error: stopped by a signal; run again with --resume\n"
    assert run(long_video, resume=True).code == ExitCode.DONE
    assert digests(tmp_path / "out" / "walk") == digests(unbroken / "walk")


def test_a_full_disk_is_a_passing_fault(
    command: Callable[..., Ended], run: Run, long_video: Path, tmp_path: Path
) -> None:
    def limit() -> None:
        # What a full disk is to a process: writing fails, here beyond so many bytes of a file.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000))

    ended = command(long_video, outputs="overlay,parquet", crf=1, shard_frames=64, before=limit)
    assert ended.code == ExitCode.FAULT
    assert "the disk is full (File too large); make room and run again with --resume" in ended.err
    assert not (tmp_path / "out" / "walk").exists()
    assert not list((tmp_path / "out/.work/walk/shards").iterdir())
    done = run(long_video, outputs="overlay,parquet", crf=1, shard_frames=64, resume=True)
    assert done.code == ExitCode.DONE
    assert len(frames_of(tmp_path / "out/walk/overlay.mp4")) == FRAMES


@pytest.mark.parametrize("name", ["clip.json", "record.json", "ended.json"])
def test_a_disk_that_fills_up_at_a_small_file(run: Run, video: Path, name: str) -> None:
    real = Path.write_text

    def write(path: Path, text: str) -> int:
        if path.name == f".{name}":
            raise OSError(28, "No space left on device")
        return real(path, text)

    with mock.patch.object(Path, "write_text", write):
        done = run(video)
    assert done.code == ExitCode.FAULT
    assert f"{name}: the disk is full (No space left on device)" in done.outcomes[0].message
    assert run(video, resume=True).code == ExitCode.DONE


def test_a_folder_of_pictures_goes_on_too(models: Path, run: Run, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "walk", range(60))
    unbroken = run(folder, smooth=3, output=tmp_path / "unbroken").output
    process = start(models, tmp_path, folder, smooth=3)
    wait_for_shards(tmp_path / "out", "walk", 2, process)
    process.kill()
    process.communicate()
    assert run(folder, smooth=3, resume=True).code == ExitCode.DONE
    assert digests(tmp_path / "out" / "walk") == digests(unbroken / "walk")
