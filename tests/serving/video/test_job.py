"""The job in this process: what comes out, and what it says when something is wrong."""

import hashlib
import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving.client import Client
from serving.video import launch
from serving.video.errors import ExitCode, InputError
from serving.video.settings import Settings
from tests.serving.video.conftest import (
    Ended,
    Run,
    arguments,
    frames_of,
    scene,
    write_pictures,
    write_video,
)

ALL = "overlay,privacy,mask,png,rle,parquet,jsonl,heatmap,summary"


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class TestMasks:
    def test_every_frame_has_its_row_and_its_mask(self, run: Run, video: Path) -> None:
        done = run(video)
        assert done.code == ExitCode.DONE
        rows, masks = done.rows(), done.masks()
        assert [row["frame"] for row in rows] == list(range(40))
        assert [row["time"] for row in rows] == pytest.approx([number / 10 for number in range(40)])
        for number, (row, mask) in enumerate(zip(rows, masks, strict=True)):
            red = scene(number)[..., 0] > 200
            assert np.count_nonzero(mask ^ red) <= 40  # the edge of 24 x 16 pixels, after coding and resizing
            assert row["foreground"] == pytest.approx(mask.mean())
            assert row["count"] == 1
            (box,) = row["components"]
            assert abs(box["x"] - 2 * number % 80) <= 1
            assert box["area"] == mask.sum()

    def test_a_frame_equals_the_same_frame_through_segment(self, run: Run, video: Path, client: Client) -> None:
        masks = run(video, model_version=1).masks()
        for frame, mask in list(zip(frames_of(video), masks, strict=True))[::9]:
            picture = frame.to_ndarray(format="rgb24")
            np.testing.assert_array_equal(client.segment(picture, "red", version=1).array, mask)

    def test_threshold_and_version(self, run: Run, video: Path) -> None:
        low = run(video, threshold=0.0, output=run(video).output.parent / "low")
        assert all(mask.all() for mask in low.masks())

    def test_selected_frames_keep_number_and_time(self, run: Run, video: Path) -> None:
        rows = run(video, start=1.0, end=3.0, every=3).rows()
        assert [row["frame"] for row in rows] == [12, 15, 18, 21, 24, 27]
        assert rows[0]["time"] == pytest.approx(1.2)

    def test_small_components_are_left_out_of_the_list(self, run: Run, video: Path) -> None:
        assert all(row["count"] == 0 and row["foreground"] > 0 for row in run(video, min_area=1000).rows())

    def test_several_inputs_at_once(self, run: Run, video: Path, tmp_path: Path) -> None:
        other = write_video(tmp_path / "other.mp4", 25, size=(64, 64))
        folder = write_pictures(tmp_path / "street", range(5))
        done = run(video, other, folder, parallel=3)
        assert [outcome.code for outcome in done.outcomes] == [ExitCode.DONE] * 3
        assert [len(done.rows(name)) for name in ("walk", "other", "street")] == [40, 25, 5]
        assert done.masks("other")[0].shape == (64, 64)

    def test_what_runs_together_has_no_influence(self, run: Run, video: Path, tmp_path: Path) -> None:
        other = write_video(tmp_path / "other.mp4", 25, size=(64, 64))
        together = digests(run(video, other, batch_size=5).output / "walk")
        alone = digests(run(video, output=tmp_path / "alone", batch_size=1).output / "walk")
        assert together == alone


class TestOutputs:
    def test_all_of_them(self, run: Run, video: Path) -> None:
        done = run(video, outputs=ALL)
        folder = done.output / "walk"
        expected = {"overlay.mp4", "privacy.mp4", "mask.mp4", "masks", "masks.rle.jsonl", "frames.parquet"}
        expected |= {"frames.jsonl", "heatmap.png", "heatmap.npy", "summary.html", "journal.json"}
        assert {path.name for path in folder.iterdir()} == expected
        assert not (done.output / ".work").exists()
        masks = done.masks()
        for number, path in enumerate(sorted((folder / "masks").iterdir())):
            assert path.name == f"{number:08}.png"
            np.testing.assert_array_equal(np.asarray(Image.open(path)) == 255, masks[number])
        lines = [json.loads(line) for line in (folder / "frames.jsonl").read_text().splitlines()]
        assert lines == done.rows()
        np.testing.assert_allclose(np.load(folder / "heatmap.npy"), np.mean(masks, axis=0), atol=1e-6)

    def test_the_order_in_which_they_are_named_does_not_matter(self, run: Run, video: Path, tmp_path: Path) -> None:
        one = run(video, outputs="heatmap,overlay,summary", output=tmp_path / "one")
        other = run(video, outputs="summary,overlay,heatmap,overlay", output=tmp_path / "other")
        assert (one.code, other.code) == (ExitCode.DONE, ExitCode.DONE)
        made = [digests(each.output / "walk") for each in (one, other)]
        for files in made:
            del files["journal.json"]  # tells what was asked for, word by word
        assert made[0] == made[1]

    def test_films_show_the_mask_and_keep_the_times(self, run: Run, tmp_path: Path) -> None:
        pts = [0, 10, 12, 40, 55, 130]
        done = run(write_video(tmp_path / "walk.mkv", 6, pts=pts), outputs="overlay,privacy,mask,rle")
        masks = done.masks()
        inner = [slice(2, -2), slice(2, -2)]
        for name in ("overlay", "privacy", "mask"):
            film = frames_of(done.output / "walk" / f"{name}.mp4")
            assert [frame.time for frame in film] == pytest.approx([each / 100 for each in pts])
        for frame, mask in zip(frames_of(done.output / "walk" / "mask.mp4"), masks, strict=True):
            shown = frame.to_ndarray(format="gray") > 127
            assert np.count_nonzero((shown ^ mask)[tuple(inner)]) < 20

    def test_people_are_hidden_and_the_rest_is_not(self, run: Run, video: Path) -> None:
        for how in ("blur", "pixelate", "fill"):
            done = run(video, outputs="privacy,rle", privacy=how, privacy_margin=3, crf=5, overwrite=True)
            film = frames_of(done.output / "walk" / "privacy.mp4")
            for number in (3, 21):
                shown, was = film[number].to_ndarray(format="rgb24").astype(int), scene(number).astype(int)
                mask = done.masks()[number]
                rows, columns = np.nonzero(mask)
                far = np.ones_like(mask)
                far[max(0, rows.min() - 8) : rows.max() + 9, max(0, columns.min() - 8) : columns.max() + 9] = False
                assert np.abs(shown - was)[far].mean() < 6
                if how == "fill":
                    assert np.abs(shown[mask] - 96).max() < 12

    def test_odd_sizes_get_an_even_film_and_keep_their_tables(self, run: Run, tmp_path: Path) -> None:
        done = run(write_video(tmp_path / "walk.mp4", 10, size=(45, 91)), outputs="overlay,mask,rle,parquet")
        assert done.masks()[0].shape == (45, 91)
        for name in ("overlay", "mask"):
            frame = frames_of(done.output / "walk" / f"{name}.mp4")[0]
            assert (frame.height, frame.width) == (46, 92)

    def test_the_page_holds_everything_and_no_face_where_people_are_hidden(self, run: Run, video: Path) -> None:
        page = (run(video, outputs="privacy,summary").output / "walk" / "summary.html").read_text()
        assert page.count("<svg") == 2
        assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
        assert "data:image/jpeg;base64," in page
        assert "40" in page


class TestRefusals:
    def test_bad_inputs_leave_the_good_alone(self, run: Run, video: Path, tmp_path: Path) -> None:
        bad = tmp_path / "bad.mp4"
        bad.write_bytes(b"no video" * 1000)
        done = run(bad, video)
        assert done.code == ExitCode.PARTIAL
        assert [outcome.code for outcome in done.outcomes] == [ExitCode.BAD_INPUT, ExitCode.DONE]
        assert len(done.rows()) == 40
        assert not (done.output / "bad").exists()

    def test_a_missing_input_leaves_the_others_alone(
        self, run: Run, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Outside of an Indexed Job, and in each of its pods."""
        listed = tmp_path / "videos.txt"
        listed.write_text(f"{video}\n{tmp_path}/gone.mp4\n")
        done = run(f"@{listed}")
        assert done.code == ExitCode.PARTIAL
        assert [outcome.code for outcome in done.outcomes] == [ExitCode.DONE, ExitCode.BAD_INPUT]
        assert done.outcomes[1].message == f"{tmp_path}/gone.mp4: cannot be read: No such file or directory"
        codes = []
        for index in range(2):
            monkeypatch.setenv("JOB_COMPLETION_INDEX", str(index))
            codes.append(run(f"@{listed}", job_count=2, output=tmp_path / "pods").code)
        assert codes == [ExitCode.DONE, ExitCode.BAD_INPUT]

    def test_only_bad_inputs(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "bad.mp4").write_bytes(b"no video" * 1000)
        done = run(tmp_path / "bad.mp4")
        assert done.code == ExitCode.BAD_INPUT
        assert "bad.mp4: no video that FFmpeg can read" in done.outcomes[0].message

    def test_a_truncated_file_is_partial(self, run: Run, tmp_path: Path) -> None:
        path = write_video(tmp_path / "walk.avi", 40, codec="mpeg4")
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 4 // 10])
        done = run(path, outputs="overlay,parquet,summary")
        assert done.code == ExitCode.PARTIAL
        ((text, _),) = done.outcomes[0].notes
        assert text.startswith("truncated: ")
        frames = len(done.rows())
        assert len(frames_of(done.output / "walk" / "overlay.mp4")) == frames
        assert text in (done.output / "walk" / "summary.html").read_text()

    def test_no_frame_in_the_range(self, run: Run, video: Path) -> None:
        done = run(video, start=100.0)
        assert done.code == ExitCode.BAD_INPUT
        assert done.outcomes[0].message.endswith("walk.mp4: no frame between --start and --end")

    def test_unknown_models_and_versions(self, run: Run, video: Path) -> None:
        with pytest.raises(InputError, match=r"no model 'blue' in .*Known: digits, red, red_fixed"):
            run(video, model="blue")
        with pytest.raises(InputError, match=r"no version 7 of model red. Known: 1, 2"):
            run(video, model_version=7)
        with pytest.raises(InputError, match=r"a video needs a segmentation model. Received: family mnist"):
            run(video, model="digits")

    def test_earlier_results_are_kept(self, run: Run, video: Path) -> None:
        before = digests(run(video).output)
        again = run(video)
        assert again.code == ExitCode.BAD_INPUT
        assert "an earlier job left its results; give --resume, --overwrite or another --output" in (
            again.outcomes[0].message
        )
        assert digests(again.output) == before
        assert run(video, overwrite=True).code == ExitCode.DONE

    def test_a_folder_of_somebody_else_is_not_touched(self, run: Run, video: Path, tmp_path: Path) -> None:
        other = tmp_path / "out" / "walk" / "diary.txt"
        other.parent.mkdir(parents=True)
        other.write_text("mine")
        for flags in ({}, {"resume": True}, {"overwrite": True}):
            assert "is not of an earlier job" in run(video, **flags).outcomes[0].message
            assert other.read_text() == "mine"

    def test_two_jobs_at_one_input(self, run: Run, video: Path, tmp_path: Path) -> None:
        from serving.video.store import Store

        with Store(tmp_path / "out", "walk") as store:
            store.open({}, resume=False, overwrite=False)
            assert "another job is at work on this input" in run(video).outcomes[0].message


class TestCommand:
    def test_help_tells_the_exit_codes_and_needs_no_extra(self, command: Callable[..., Ended], tmp_path: Path) -> None:
        (tmp_path / "av.py").write_text("raise ModuleNotFoundError")
        told = command("--help", environment={"PYTHONPATH": str(tmp_path)})
        assert (told.code, told.err) == (0, "")
        assert "3 bad input" in " ".join(told.out.split())

    @pytest.mark.parametrize(
        ("missing", "engine", "message"),
        [
            ("av", "local", "videos need an extra: pip install 'sparsewalk[serving,video]'"),
            ("ray", "ray", "--engine ray needs an extra: pip install 'sparsewalk[ray]'"),
        ],
    )
    def test_without_an_extra(
        self, command: Callable[..., Ended], video: Path, tmp_path: Path, missing: str, engine: str, message: str
    ) -> None:
        told = f"No module named {missing!r}"
        (tmp_path / f"{missing}.py").write_text(f"raise ModuleNotFoundError({told!r})")
        ended = command(video, engine=engine, environment={"PYTHONPATH": str(tmp_path)})
        assert (ended.code, ended.err) == (ExitCode.USAGE, f"error: {message}. Received: {told}\n")

    def test_settings_from_the_environment(self, models: Path, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.setenv("SPARSEWALK_TARGET", "host:1")
        monkeypatch.setenv("SPARSEWALK_SMOOTH", "5")
        settings = Settings.from_command_line(arguments(models, tmp_path, "a.mp4", smooth=3))
        assert (settings.target, settings.smooth) == ("host:1", 3)

    def test_lists_from_the_environment(self, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SPARSEWALK_OUTPUTS", "jsonl, rle")
        monkeypatch.setenv("SPARSEWALK_INPUT_OPTION", "protocol_whitelist=file,tcp,rtsp_transport=udp")
        listed = arguments(models, tmp_path, "a.mp4")
        at = listed.index("--outputs")
        settings = Settings.from_command_line(listed[:at] + listed[at + 2 :])
        assert settings.outputs == ("jsonl", "rle")
        assert settings.options == {"protocol_whitelist": "file,tcp", "rtsp_transport": "udp"}
        settings = Settings.from_command_line([*listed, "--input-option", "a=b,c", "--input-option", "d=e"])
        assert settings.outputs == ("rle", "parquet")
        assert settings.options == {"a": "b,c", "d": "e"}

    def test_an_input_may_have_any_name(self, models: Path, tmp_path: Path) -> None:
        names = ["rain, at night.mp4", "[1] street.mp4", "{a}.mp4", 'the "best".mp4', "back\\slash.mp4", "None", "1.0"]
        assert Settings.from_command_line(arguments(models, tmp_path, *names)).inputs == names

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            ({"smooth": 2}, "--smooth: Value error, a median over time takes an odd number of frames. Received: '2'"),
            ({"tile": "-3"}, "--tile: String should match"),
            ({"resize": "big"}, "--resize: Value error, a size is none, max:PIXELS or WIDTHxHEIGHT. Received: 'big'"),
            ({"fps": 0.00001}, "--fps: Input should be greater than or equal to 0.0001. Received: '1e-05'"),
            ({"start": 5, "end": 2}, "--end lies behind --start (5 s), not at 2 s"),
            ({"target": "x:1", "engine": "ray"}, "--target and --engine ray are two ways"),
            ({"resume": True, "overwrite": True}, "--resume keeps what --overwrite throws away"),
            ({"outputs": "gif"}, "--outputs.0: Input should be 'overlay'"),
            ({"outputs": ""}, "--outputs: Value should have at least 1 item"),
            ({"input_option": "x"}, "--input-option.0: Value error, an option is NAME=VALUE. Received: 'x'"),
            ({"resize": "8000x6000"}, "--resize 8000x6000 makes larger frames than --max-pixels 40000000 allows"),
        ],
    )
    def test_settings_that_are_not_allowed(
        self, models: Path, tmp_path: Path, flags: dict[str, object], message: str
    ) -> None:
        from serving.errors import StartError

        with pytest.raises(StartError) as raised:
            Settings.from_command_line(arguments(models, tmp_path, "a.mp4", **flags))
        assert message in str(raised.value)

    def test_an_output_that_cannot_be_written(self, command: Callable[..., Ended], video: Path, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        ended = command(video, output=tmp_path / "file" / "out")
        assert ended.code == ExitCode.BAD_INPUT
        assert ended.err.strip() == f"error: {tmp_path}/file/out: cannot be written: Not a directory"

    def test_json_progress(self, command: Callable[..., Ended], video: Path) -> None:
        ended = command(video, progress="json")
        assert ended.code == 0
        events = [json.loads(line) for line in ended.err.splitlines()]
        assert [event["event"] for event in events[-2:]] == ["input", "progress"]
        last = events[-1]
        assert (last["frames"], last["expected"]) == (40, 40)
        assert set(last["load"]) == {"decode", "inference", "write"}

    def test_quiet(self, command: Callable[..., Ended], video: Path, tmp_path: Path) -> None:
        ended = command(video, progress="quiet")
        assert (ended.code, ended.err) == (0, "")
        assert ended.out == f"{tmp_path}/out/walk: 40 frames\n"

    def test_a_pod_of_an_indexed_job(self, command: Callable[..., Ended], video: Path, tmp_path: Path) -> None:
        other = write_video(tmp_path / "other.mp4", 5)
        ended = command(video, other, environment={"JOB_COMPLETION_INDEX": "1"})
        assert ended.code == 0
        assert ended.out == f"{tmp_path}/out/other: 5 frames\n"


def test_launch_needs_no_ray(models: Path, tmp_path: Path, video: Path) -> None:
    import sys

    settings = Settings.from_command_line(arguments(models, tmp_path, video))
    launch.run(settings, threading.Event())
    assert "ray" not in sys.modules
