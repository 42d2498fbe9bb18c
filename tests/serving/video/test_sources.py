from pathlib import Path

import pytest

from serving.video.errors import InputError
from serving.video.sources import Kind, Source, find, natural, part, public


def test_natural_order() -> None:
    assert sorted(["f10", "f9", "F1", "f1b", "f1"], key=natural) == ["F1", "f1", "f1b", "f9", "f10"]


def test_globs_lists_and_names(tmp_path: Path) -> None:
    for name in ("b10.mp4", "b9.mp4", "sub/b9.avi"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    listed = tmp_path / "list.txt"
    listed.write_text(f"# the list\n\n{tmp_path}/sub/b9.avi\nrtsp://me:secret@camera:554/live?x=1\n")
    found = find([f"{tmp_path}/*.mp4", f"@{listed}"])
    assert [source.name for source in found] == ["b9", "b10", "b9-2", "live"]
    assert [source.kind for source in found] == [Kind.VIDEO, Kind.VIDEO, Kind.VIDEO, Kind.STREAM]
    assert public(found[3].address) == "rtsp://camera:554/live?x=1"


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("https://host/a.mp4?token=x.m3u8", Kind.VIDEO),
        ("HTTP://host/a", Kind.VIDEO),
        ("https://host/live/index.m3u8?x=1", Kind.STREAM),
        ("https://host/live/manifest.mpd", Kind.STREAM),
        ("rtmp://host/live", Kind.STREAM),
        ("file:///films/a.mp4", Kind.VIDEO),
    ],
)
def test_what_comes_but_once_is_a_stream(address: str, kind: Kind) -> None:
    assert [source.kind for source in find([address])] == [kind]


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\*.mp4: matches nothing"):
        find([f"{tmp_path}/*.mp4"])
    (missing,) = find([f"{tmp_path}/x.mp4"])
    assert missing == Source(Kind.VIDEO, f"{tmp_path}/x.mp4", "x")
    with pytest.raises(InputError, match="the list of inputs cannot be read"):
        find([f"@{tmp_path}/x.txt"])


def test_a_pod_takes_its_part() -> None:
    sources = [Source(Kind.VIDEO, str(number), str(number)) for number in range(5)]
    taken = [part(sources, 2, {"JOB_COMPLETION_INDEX": str(index)}) for index in range(2)]
    assert taken == [sources[0::2], sources[1::2]]
    assert part(sources, 0, {"JOB_COMPLETION_INDEX": "3"}) == [sources[3]]
    assert part(sources, 0, {"JOB_COMPLETION_INDEX": "7"}) == []
    assert part(sources, 0, {}) == sources


@pytest.mark.parametrize("index", ["2", "-1", "two", ""])
def test_a_pod_beyond_the_count_is_refused(index: str) -> None:
    with pytest.raises(InputError, match="JOB_COMPLETION_INDEX is a number below --job-count 2"):
        part([], 2, {"JOB_COMPLETION_INDEX": index})
