import time

import numpy as np
import pytest

from training.datasets import pipeline, streets
from training.datasets.pedestrians import PedestrianScene
from training.datasets.resizing import resize, resize_mask

Batches = list[tuple[np.ndarray, np.ndarray]]


def _scenes() -> tuple[PedestrianScene, ...]:
    """Pictures of several shapes whose red channel is the mask and whose blue channel tells which one it is."""
    rng = np.random.default_rng(0)
    scenes = []
    for index in range(7):
        height, width = (int(side) for side in rng.integers(90, 400, 2))
        instances = np.zeros((height, width), np.uint8)
        instances[height // 4 : height // 2, width // 8 : width // 2] = 1
        picture = np.zeros((height, width, 3), np.uint8)
        picture[..., 0] = instances * 255
        picture[..., 2] = 30 * index + 10
        scenes.append(PedestrianScene(f"s{index}", picture, instances))
    return tuple(scenes)


SCENES = _scenes()


def _run(*, seed: int = 1, epoch: int = 0, augment: bool = True, batch_size: int = 3, **options: object) -> Batches:
    dataset = pipeline.training_pipeline(
        SCENES,
        height=64,
        width=80,
        batch_size=batch_size,
        seed=seed,
        epoch=epoch,
        augment=augment,
        **options,  # type: ignore[arg-type]
    )
    return [(picture.numpy(), mask.numpy()) for picture, mask in dataset]


@pytest.fixture
def plain_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_draw_colours", lambda _: (np.eye(3), np.zeros(3)))


@pytest.mark.parametrize("augment", [True, False])
def test_shapes_and_ranges(augment: bool) -> None:
    batches = _run(augment=augment)
    assert [len(picture) for picture, _ in batches] == [3, 3, 1]
    for picture, mask in batches:
        assert picture.shape[1:] == (64, 80, 3)
        assert picture.dtype == np.uint8
        assert mask.shape == (len(picture), 64, 80, 1)
        assert mask.dtype == np.float32
        assert set(np.unique(mask)) <= {0.0, 1.0}


@pytest.mark.parametrize("augment", [True, False])
def test_seed_and_epoch_make_the_batches(augment: bool) -> None:
    for first, second in zip(_run(epoch=5, augment=augment), _run(epoch=5, augment=augment), strict=True):
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(first[1], second[1])


@pytest.mark.parametrize("other", [{"epoch": 1}, {"seed": 2}])
@pytest.mark.parametrize("augment", [True, False])
def test_another_epoch_or_seed_makes_others(other: dict[str, int], augment: bool) -> None:
    first, second = _run(augment=augment, batch_size=7), _run(augment=augment, batch_size=7, **other)  # type: ignore[arg-type]
    assert (first[0][0] != second[0][0]).any()


def test_each_scene_comes_once() -> None:
    ((picture, _),) = _run(augment=False, batch_size=7)
    # The middle of a letterboxed picture is never padding.
    assert sorted(picture[:, 32, 40, 2]) == [30 * index + 10 for index in range(7)]


@pytest.mark.usefixtures("plain_colours")
def test_the_mask_follows_the_picture() -> None:
    for epoch in range(6):
        for picture, mask in _run(epoch=epoch):
            outside = (picture == 127).all(axis=-1)
            red = (picture[..., 0] > 127) & ~outside
            np.testing.assert_array_equal(red, mask[..., 0] > 0)


@pytest.mark.usefixtures("plain_colours")
def test_half_the_pictures_are_flipped() -> None:
    """The mask lies in the left half of each picture."""
    flipped, count = 0, 0
    for epoch in range(12):
        for picture, mask in _run(epoch=epoch, zoom=(0.9, 0.9)):
            for image, person in zip(picture, mask, strict=True):
                inside = np.flatnonzero((image != 127).any(axis=(0, 2)))
                people = np.flatnonzero(person.any(axis=(0, 2)))
                flipped += people.mean() > inside.mean()
                count += 1
    assert 0.3 < flipped / count < 0.7


def test_outside_the_picture_is_padding_whatever_the_colours() -> None:
    for picture, mask in _run(zoom=(0.5, 0.5)):
        # At half the size no picture reaches two opposite corners.
        corners = picture[:, [0, 0, -1, -1], [0, -1, 0, -1]]
        assert (corners == 127).all(axis=-1).any(axis=1).all()
        assert (mask[(picture == 127).all(axis=-1)] == 0).mean() > 0.999


@pytest.mark.usefixtures("plain_colours")
@pytest.mark.parametrize("zoom", [0.5, 1.0, 1.3, 2.0])
def test_the_zoom_is_that_of_the_letterboxed_picture(zoom: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "ASPECT", 0.0)
    scene = SCENES[0]
    expected = resize_mask(scene.mask, "letterbox", 64, 80).sum() * zoom**2
    areas = []
    for epoch in range(20):
        dataset = pipeline.training_pipeline(
            (scene,), height=64, width=80, batch_size=1, seed=0, epoch=epoch, augment=True, zoom=(zoom, zoom)
        )
        areas += [mask.numpy().sum() for _, mask in dataset]
    # The largest view of it shows it whole.
    assert max(areas) == pytest.approx(expected, rel=0.12)


@pytest.mark.usefixtures("plain_colours")
def test_at_zoom_one_a_picture_of_the_input_s_size_is_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "ASPECT", 0.0)
    rng = np.random.default_rng(1)
    scene = PedestrianScene("s", rng.integers(0, 256, (64, 80, 3), np.uint8), rng.integers(0, 2, (64, 80), np.uint8))
    dataset = pipeline.training_pipeline(
        (scene,), height=64, width=80, batch_size=1, seed=0, epoch=0, augment=True, zoom=(1.0, 1.0)
    )
    picture, mask = next(iter(dataset.as_numpy_iterator()))
    candidates = [(scene.picture, scene.mask), (scene.picture[:, ::-1], scene.mask[:, ::-1])]
    inner = np.s_[1:-1, 1:-1]
    assert any(
        np.abs(picture[0][inner].astype(int) - p[inner]).max() <= 1 and (mask[0, ..., 0][inner] == m[inner]).all()
        for p, m in candidates
    )


@pytest.mark.parametrize("rule", ["letterbox", "stretch"])
def test_without_augmentation_pictures_are_as_at_inference(rule: str) -> None:
    ((pictures, masks),) = _run(augment=False, batch_size=7, rule=rule)
    for picture, mask in zip(pictures, masks, strict=True):
        scene = SCENES[(int(picture[32, 40, 2]) - 10) // 30]
        np.testing.assert_array_equal(picture, resize(scene.picture, rule, 64, 80)[0])  # type: ignore[arg-type]
        np.testing.assert_array_equal(mask[..., 0], resize_mask(scene.mask, rule, 64, 80))  # type: ignore[arg-type]


def test_colours_without_change_are_the_identity() -> None:
    class Middle:
        def uniform(self, low: float, high: float) -> float:
            return (low + high) / 2

        def random(self) -> float:
            return 1.0

    matrix, shift = pipeline._draw_colours(Middle())  # type: ignore[arg-type]
    np.testing.assert_allclose(matrix, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(shift, 0.0, atol=1e-12)


def test_some_pictures_turn_grey_and_grey_stays_grey() -> None:
    rng = np.random.default_rng(0)
    grey = 0
    for _ in range(400):
        matrix, shift = pipeline._draw_colours(rng)
        change = np.array([100.0, 100.0, 100.0]) @ matrix + shift
        np.testing.assert_allclose(change, change[0])  # hue and saturation leave grey grey
        red = np.array([255.0, 0.0, 0.0]) @ matrix + shift
        grey += bool(np.ptp(red) < 1e-9)
    assert 0.03 < grey / 400 < 0.15


@pytest.mark.usefixtures("plain_colours")
def test_pasted_persons_come_with_their_masks() -> None:
    """A person's red is its own, and so is the blue that tells which picture it was cut out of."""
    areas: dict[float, int] = {0.0: 0, 1.0: 0}
    strangers = 0
    for paste in areas:
        for epoch in range(4):
            for picture, mask in _run(epoch=epoch, paste=paste, zoom=(0.8, 0.8)):
                outside = (picture == 127).all(axis=-1)
                red = (picture[..., 0] > 127) & ~outside
                # the edge of a person is blended with what is behind
                assert (red != (mask[..., 0] > 0)).mean() < 0.01
                assert not mask[..., 0][outside].any()
                areas[paste] += int(red.sum())
                if paste:
                    strangers += sum(
                        len(np.unique(image[person, 2])) > 1 for image, person in zip(picture, red, strict=True)
                    )
    assert areas[1.0] > 1.5 * areas[0.0]
    assert strangers > 7


def test_without_pasting_the_batches_are_the_same_whatever_could_be_pasted() -> None:
    np.testing.assert_array_equal(_run(paste=0.0)[0][0], _run()[0][0])
    np.testing.assert_array_equal(_run(paste=0.7, epoch=3)[0][0], _run(paste=0.7, epoch=3)[0][0])


def test_pictures_without_persons_have_nothing_to_paste() -> None:
    empty = PedestrianScene("empty", SCENES[0].picture, np.zeros_like(SCENES[0].instances))
    dataset = pipeline.training_pipeline(
        (empty,), height=32, width=32, batch_size=1, seed=0, epoch=0, augment=True, paste=1.0
    )
    assert not next(iter(dataset.as_numpy_iterator()))[1].any()


@pytest.mark.parametrize(("augment", "paste"), [(True, 1.5), (True, -0.1), (False, 0.5)])
def test_pasting_needs_augmentation_and_a_probability(augment: bool, paste: float) -> None:
    with pytest.raises(ValueError, match=r"Expected paste in 0..1, and 0 without augmentation. Received: "):
        _run(augment=augment, paste=paste)


@pytest.mark.parametrize(("scenes", "batch_size"), [((), 2), (SCENES, 0)])
def test_bad_arguments(scenes: tuple[PedestrianScene, ...], batch_size: int) -> None:
    with pytest.raises(ValueError, match=r"Expected scenes and a batch size of at least 1. Received: \d, \d"):
        pipeline.training_pipeline(scenes, height=8, width=8, batch_size=batch_size, seed=0, epoch=0, augment=True)


def test_it_feeds_a_training_step() -> None:
    """A core alone makes about 800 pictures of 128x128 a second; the bound leaves room for a busy machine."""
    scenes = streets.load(seed=0, train=12, test=0).train * 10
    options = {"height": 128, "width": 128, "batch_size": 16, "seed": 0, "augment": True}
    for epoch in range(2):  # the first epoch resizes and traces
        start = time.perf_counter()
        count = sum(len(picture) for picture, _ in pipeline.training_pipeline(scenes, epoch=epoch, **options))  # type: ignore[arg-type]
        seconds = time.perf_counter() - start
    assert count == 120
    assert count / seconds > 50
