import numpy as np
import pytest

from training.datasets import penn_fudan, streets
from training.datasets.pedestrians import PedestrianData
from training.datasets.street_scenes.figures import Figure
from training.datasets.street_scenes.layer import CLEAR, PERSON, THING, Layer
from training.datasets.street_scenes.looks import draw_look


@pytest.fixture(scope="module")
def data() -> PedestrianData:
    return streets.load(seed=3, train=30, test=10)


def test_what_is_drawn(data: PedestrianData) -> None:
    assert (data.name, data.source) == ("streets", "embedded")
    assert (len(data.train), len(data.test)) == (30, 10)
    for scene in data.train + data.test:
        height, width = scene.instances.shape
        assert streets.HEIGHTS[0] <= height < streets.HEIGHTS[1]
        assert streets.WIDTHS[0] <= width < streets.WIDTHS[1]
        assert scene.picture.shape == (height, width, 3)
        assert scene.picture.dtype == scene.instances.dtype == np.uint8


def test_no_name_is_in_both_parts(data: PedestrianData) -> None:
    names = [scene.name for scene in data.train + data.test]
    assert len(set(names)) == 40


def test_instances_are_numbered_without_a_gap(data: PedestrianData) -> None:
    for scene in data.train + data.test:
        count = int(scene.instances.max())
        assert count >= 1
        assert set(np.unique(scene.instances)) >= set(range(1, count + 1))


def test_the_share_of_people_is_like_that_of_penn_fudan(data: PedestrianData) -> None:
    """Penn-Fudan: 5 to 42 per cent, 16 in the middle."""
    shares = [scene.mask.mean() for scene in data.train + data.test]
    assert max(shares) < 0.6
    assert 0.06 < np.median(shares) < 0.25


def test_there_are_single_people_and_crowds(data: PedestrianData) -> None:
    counts = [int(scene.instances.max()) for scene in data.train]
    assert min(counts) <= 2
    assert max(counts) >= 8


def test_the_same_seed_draws_the_same_scene(data: PedestrianData) -> None:
    again = streets.load(seed=3, train=2, test=1)
    for first, second in zip(data.train[:2] + data.test[:1], again.train + again.test, strict=True):
        np.testing.assert_array_equal(first.picture, second.picture)
        np.testing.assert_array_equal(first.instances, second.instances)


def test_another_seed_draws_another_scene(data: PedestrianData) -> None:
    other = streets.load(seed=4, train=1, test=0).train[0]
    assert other.picture.shape != data.train[0].picture.shape or (other.picture != data.train[0].picture).any()


def test_a_size_can_be_asked_for() -> None:
    scene = streets.draw_scene(np.random.default_rng(0), 64, 48)
    assert scene.picture.shape == (64, 48, 3)
    assert scene.mask.any()


def test_no_scene_is_too_small() -> None:
    with pytest.raises(ValueError, match=r"at least 32x32. Received: 31x100"):
        streets.draw_scene(np.random.default_rng(0), 31, 100)


def test_a_pixel_goes_to_whoever_has_most_of_it() -> None:
    layer = Layer(4, 8)
    layer.labels[:] = [[0, 0, 0, 5, 5, 5, 5, 9], [0, 4, 5, 0, 5, 9, 9, 5], [9] * 8, [9] * 8]
    # One of four is lost; two of four suffice against the background; numbers close up, so 9 becomes 2 after 5.
    np.testing.assert_array_equal(streets._majority(layer.labels), [[0, 1, 1, 2], [2, 2, 2, 2]])


def test_a_sprite_covers_and_only_its_person_is_labelled() -> None:
    scene, sprite = Layer(10, 10), Layer(4, 4)
    scene.labels[:] = 3
    sprite.picture[:] = 200
    sprite.labels[:, 0], sprite.labels[:, 1], sprite.labels[:, 2:] = CLEAR, THING, PERSON
    scene.paste(sprite, 8, -1, 7)  # partly outside
    np.testing.assert_array_equal(scene.labels[:3, 8:], [[3, 0]] * 3)
    scene.paste(sprite, 0, 5, 7)
    np.testing.assert_array_equal(scene.labels[5], [3, 0, 7, 7, 3, 3, 3, 3, 3, 3])
    np.testing.assert_array_equal(scene.picture[5, :5, 0], [0, 200, 200, 200, 0])


@pytest.mark.parametrize("seed", range(25))
def test_figures_stand_on_the_ground_with_their_stature(seed: int) -> None:
    rng = np.random.default_rng(seed)
    figure = Figure(draw_look(rng), 200.0, rng, 0.5)
    person = figure.draw().labels == PERSON
    rows = np.flatnonzero(person.any(axis=1))
    _, foot = figure.foot
    assert rows.max() == pytest.approx(foot, abs=6)
    assert 160 < rows.max() - rows.min() < 225  # bent knees and hats
    assert 0.1 < person.sum() / 200**2 < 0.55


def test_the_fall_back_of_penn_fudan(monkeypatch: pytest.MonkeyPatch, data: PedestrianData) -> None:
    monkeypatch.setattr(streets, "load", lambda: data)
    assert penn_fudan.load("embedded") is data
