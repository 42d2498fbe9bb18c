from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from training.__main__ import app
from training.evaluation.report import Trained, number, table
from training.experiments import EXPERIMENTS

MNIST = {
    "mnist_k_sparse": {"explained_variance": 0.85, "l0": 25.0, "probe_error": 0.02, "control_raw_probe_error": 0.07},
    "mnist_top_k": {"explained_variance": 0.88, "l0": 25.0, "probe_error": 0.03, "control_raw_probe_error": 0.07},
    "mnist_kl": {"explained_variance": 0.6, "l0": 190.0, "probe_error": 0.05, "control_raw_probe_error": 0.08},
}
PEDESTRIAN = {"pedestrian_unet": {"iou_per_image": 0.7, "control_background_iou_per_image": 0.1}}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Run folders as training leaves them, with numbers that one can follow."""
    for name, scores in {**MNIST, **PEDESTRIAN}.items():
        folder = tmp_path / "runs" / name
        (folder / "figures").mkdir(parents=True)
        settings = EXPERIMENTS[name].with_preset("quick").settings()
        if name == "mnist_top_k":
            settings["k"] = 30
        config = {
            "experiment": name, "preset": "quick", "settings": settings, "dataset": "digits",
            "data_source": "embedded" if name == "mnist_kl" else "real", "code_revision": "0123456789abcdef",
            "date": "2026-01-02T03:04:05+00:00", "training_seconds": 12.3,
        }  # fmt: skip
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "scores.json").write_text(json.dumps(scores))
        history = [{"epoch": epoch, "seconds": 1.0, "loss": 10.0 / epoch} for epoch in (1, 2, 3)]
        (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history))
        frames = [Image.fromarray(np.full((8, 8), shade, np.uint8)) for shade in (0, 255)]
        frames[0].save(folder / "figures" / "dictionary.png")
        frames[0].save(folder / "figures" / "weights.gif", save_all=True, append_images=frames[1:])
    return tmp_path / "runs"


@pytest.fixture
def page(runs: Path, tmp_path: Path) -> Path:
    result = CliRunner().invoke(app, ["report", f"--runs={runs}", f"--output={tmp_path / 'report.html'}"])
    assert result.exit_code == 0, result.output
    return tmp_path / "report.html"


class References(HTMLParser):
    """Everything that a page asks for, and the ids it has."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, _: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key in {"src", "href"} and value is not None:
                self.asked.append(value)
            if key == "id" and value is not None:
                self.ids.add(value)


def test_the_page_asks_for_nothing_outside_itself(page: Path) -> None:
    references = References()
    references.feed(page.read_text())
    pictures = [address for address in references.asked if address.startswith("data:image/")]
    links = [address for address in references.asked if not address.startswith("data:")]
    assert len(pictures) == 2 * (len(MNIST) + len(PEDESTRIAN))
    assert all(link.removeprefix("#") in references.ids for link in links)
    assert not re.search(r"https?://|@import|url\(", page.read_text())


def test_it_says_what_is_missing_what_is_embedded_and_how_to_make_it_again(page: Path) -> None:
    text = page.read_text()
    assert "4 trained; without a complete run: pedestrian_plain, " in text
    assert "pedestrian_mobilenet" not in text  # optional: not trained is not missing
    assert re.search(r'role="alert"><b>Not the real data.</b> mnist_kl was', text)
    assert "python -m training train mnist_top_k --preset quick --set k=30" in text
    assert "python -m training train mnist_kl --preset quick --data embedded<" in text


def test_a_page_of_real_data_has_no_banner(runs: Path, tmp_path: Path) -> None:
    shutil.rmtree(runs / "mnist_kl")
    CliRunner().invoke(app, ["report", f"--runs={runs}", f"--output={tmp_path / 'report.html'}"])
    assert "Not the real data" not in (tmp_path / "report.html").read_text()


def test_stability_is_shown_where_it_was_measured(runs: Path, tmp_path: Path) -> None:
    folder = runs / "stability" / "mnist_top_k"
    folder.mkdir(parents=True)
    scores = {"mean_cosine": 0.61, "control_untrained_mean_cosine": 0.13}
    config = json.loads((runs / "mnist_top_k" / "config.json").read_text())
    seedless = {key: value for key, value in config["settings"].items() if key != "seed"}

    def page_with(**changes: object) -> str:
        study = {**config, "settings": seedless, **changes, "seeds": [0, 1], "scores": scores}
        (folder / "stability.json").write_text(json.dumps(study))
        CliRunner().invoke(app, ["report", f"--runs={runs}", f"--output={tmp_path / 'report.html'}"])
        return (tmp_path / "report.html").read_text()

    text = page_with()
    assert 'data-value="0.61"' in text
    assert 'data-value="0.13"' in text
    for other in ({"preset": "full"}, {"settings": {**seedless, "k": 5}}, {"data": "folder:a"}, {"dataset": "mnist"}):
        text = page_with(**other)
        assert 'data-value="0.61"' not in text
        assert 'data-value="0.13"' not in text


def test_each_table_is_of_one_data_set_and_the_command_names_that_of_ones_own(runs: Path, tmp_path: Path) -> None:
    path = runs / "mnist_top_k" / "config.json"
    own = {"dataset": "four", "data": "folder:my pictures/four", "data_fingerprint": "0123456789abcdef"}
    path.write_text(json.dumps({**json.loads(path.read_text()), **own}))
    CliRunner().invoke(app, ["report", f"--runs={runs}", f"--output={tmp_path / 'report.html'}"])
    text = (tmp_path / "report.html").read_text()
    assert '<span class="soft">digits (embedded data)</span>' in text
    tables = re.findall(r'id="table-(\w+)">.*?<tbody>(.*?)</tbody>', text, re.DOTALL)
    assert [(key, re.findall(r'data-name="(\w+)"', body)) for key, body in tables] == [
        ("mnist", ["mnist_kl", "raw"]),
        ("mnist_2", ["mnist_k_sparse", "raw"]),
        ("mnist_3", ["mnist_top_k", "raw"]),
        ("segmentation", ["pedestrian_unet", "background"]),
    ]
    assert "folder:my pictures/four (files 01234567)" in text
    assert "train mnist_top_k --preset quick --data &#39;folder:my pictures/four&#39; --set k=30" in text


def test_a_model_that_has_seen_more_is_compared_where_it_is_scored() -> None:
    names = ["penn_fudan", "penn_fudan_pretrained", "penn_fudan_fold_0_pretrained"]
    data = [Trained("", "", "", {"dataset": name, "data_source": "real"}, {}, {}, [], []).data for name in names]
    assert data == ["penn_fudan (real data)", "penn_fudan (real data)", "penn_fudan_fold_0 (real data)"]


def test_no_runs_is_an_error_that_says_so(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report", f"--runs={tmp_path}"])
    assert result.exit_code == 1
    assert "holds no scored experiment" in str(result.exception)


def records() -> list[Trained]:
    return [
        Trained(name, "mnist", "", {"preset": "quick", "data_source": "real"}, {}, scores, [], [])
        for name, scores in MNIST.items()
    ]


def test_the_best_of_a_column_is_marked_and_controls_are_rows_of_their_own() -> None:
    rows = table(records(), ["explained_variance", "l0", "probe_error"])
    best = {(row.name, column) for row in rows for column, cell in row.cells.items() if cell.best}
    assert best == {("mnist_top_k", "explained_variance"), ("mnist_k_sparse", "probe_error")}
    assert [(row.name, row.control) for row in rows[3:]] == [("raw", True)]
    assert rows[3].cells["probe_error"].text == "0.0700 to 0.0800"


@pytest.mark.parametrize(("value", "text"), [(25.0, "25"), (0.8558855, "0.8559"), (7.6161948, "7.616"), (0.0, "0")])
def test_numbers_have_few_digits(value: float, text: str) -> None:
    assert number(value) == text


def order_in_browser(page: Path, fragment: str) -> list[str]:
    """The rows of the table of digits as Chromium has them after the page's script ran."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine: sorting is not checked (Debian: apt-get install chromium)")
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        f"--user-data-dir={page.parent / 'browser'}", "--dump-dom", f"{page.as_uri()}{fragment}",
    ]  # fmt: skip
    document = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    body = re.search(r'id="table-mnist".*?<tbody>(.*?)</tbody>', document, re.DOTALL)
    assert body is not None
    return re.findall(r'data-name="([^"]+)"', body.group(1))


def test_a_browser_sorts_the_table_with_missing_values_last(runs: Path, tmp_path: Path) -> None:
    path = runs / "mnist_kl" / "config.json"
    path.write_text(path.read_text().replace('"embedded"', '"real"'))  # all three in one table
    page = tmp_path / "report.html"
    CliRunner().invoke(app, ["report", f"--runs={runs}", f"--output={page}"])
    assert order_in_browser(page, "") == ["mnist_kl", "mnist_k_sparse", "mnist_top_k", "raw"]
    assert order_in_browser(page, "#sort=mnist,probe_error") == ["mnist_k_sparse", "mnist_top_k", "mnist_kl", "raw"]
    assert order_in_browser(page, "#sort=mnist,explained_variance,descending") == [
        "mnist_top_k", "mnist_k_sparse", "mnist_kl", "raw",
    ]  # fmt: skip
    assert order_in_browser(page, "#sort=mnist,name") == ["mnist_k_sparse", "mnist_kl", "mnist_top_k", "raw"]
