from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from training.datasets.own import is_own, load_pictures, load_scenes
from training.datasets.source import DataError
from training.experiments import EXPERIMENTS
from training.run_folder import RunError
from training.runs import Run, open_run


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for index in range(5):
        write(tmp_path / "images" / f"{index}.png", rng.integers(0, 256, (20, 30, 3), np.uint8))
        mask = np.zeros((20, 30), np.uint8)
        mask[2:10, index : index + 5] = 1
        mask[12:15, 20:25] = 7
        write(tmp_path / "masks" / f"{index}.png", mask)
    return tmp_path


def test_a_folder_of_pictures_and_masks(scenes: Path) -> None:
    data = load_scenes(f"folder:{scenes}")
    assert [scene.name for scene in data.train] == ["0", "2", "4"]
    assert [scene.name for scene in data.test] == ["1", "3"]
    assert (data.name, data.source) == (f"folder:{scenes.name}", "real")
    assert data.train[1].picture.shape == (20, 30, 3)
    assert np.unique(data.train[1].instances).tolist() == [0, 1, 7]
    assert int(data.train[1].mask.sum()) == 8 * 5 + 3 * 5


def test_every_fault_is_told_at_once_by_file_name(scenes: Path) -> None:
    (scenes / "masks" / "0.png").unlink()
    write(scenes / "masks" / "1.png", np.zeros((5, 5), np.uint8))
    (scenes / "images" / "2.png").write_bytes(b"no picture")
    write(scenes / "masks" / "3.png", np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(DataError) as caught:
        load_scenes(f"folder:{scenes}")
    message = str(caught.value)
    assert "4 of 5 are at fault" in message
    assert "0.png: no mask; expected masks/0.png" in message
    assert "masks/1.png: expected the size of its picture, (20, 30). Received: (5, 5)" in message
    assert "2.png: no readable picture" in message
    assert "masks/3.png: expected one channel of 8 or 16 bits" in message


def test_two_pictures_for_one_mask_are_a_fault(scenes: Path) -> None:
    write(scenes / "images" / "1.jpg", np.zeros((20, 30, 3), np.uint8))
    expected = r"2 of 6 are at fault:\n  1.jpg: expected one picture for masks/1.png. Received: 2\n  1.png: "
    with pytest.raises(DataError, match=expected):
        load_scenes(f"folder:{scenes}")


def test_a_mask_without_a_picture_is_a_fault(scenes: Path) -> None:
    (scenes / "images" / "4.png").unlink()
    with pytest.raises(DataError, match="masks without a picture in images/: 4"):
        load_scenes(f"folder:{scenes}")


def coco(folder: Path, **changes: object) -> str:
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png", "c.png"):
        write(folder / "images" / name, rng.integers(0, 256, (20, 30, 3), np.uint8))
    run_length = coco_mask.encode(np.asfortranarray(np.pad(np.ones((4, 6), np.uint8), ((1, 15), (2, 22)))))
    run_length["counts"] = run_length["counts"].decode()
    content = {
        "images": [{"id": 5, "file_name": "b.png", "height": 20, "width": 30},
                   {"id": 6, "file_name": "c.png", "height": 20, "width": 30},
                   {"id": 7, "file_name": "a.png", "height": 20, "width": 30}],
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "car"}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 1, "iscrowd": 0, "segmentation": [[3, 3, 9, 3, 9, 12, 3, 12]]},
            {"id": 2, "image_id": 5, "category_id": 1, "iscrowd": 0, "segmentation": run_length},
            {"id": 3, "image_id": 6, "category_id": 2, "iscrowd": 0, "segmentation": [[1, 1, 9, 1, 9, 9, 1, 9]]},
            {"id": 4, "image_id": 7, "category_id": 1, "iscrowd": 0, "segmentation": [[1, 1, 9, 1, 9, 9, 1, 9]]},
        ],
        **changes,
    }  # fmt: skip
    (folder / "annotations.json").write_text(json.dumps(content))
    return f"coco:{folder / 'annotations.json'}"


def test_coco_annotations_of_persons_become_instances(tmp_path: Path) -> None:
    data = load_scenes(coco(tmp_path))
    assert [scene.name for scene in (*data.train, *data.test)] == ["a.png", "c.png", "b.png"]
    assert not data.train[1].mask.any()  # a car is no person
    assert np.unique(data.test[0].instances).tolist() == [0, 1, 2]
    np.testing.assert_array_equal(data.test[0].instances[1:5, 2:8], 2)


def test_where_no_category_is_a_person_it_is_said_that_all_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_scenes(coco(tmp_path))
    assert not caplog.messages
    data = load_scenes(coco(tmp_path, categories=[{"id": 1, "name": "People"}, {"id": 2, "name": "car"}]))
    assert data.train[1].mask.any()
    assert any(
        message.endswith("no category is named person or pedestrian; all of these count: People, car")
        for message in caplog.messages
    )


def test_annotations_of_images_that_are_not_listed_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = [{"id": 5, "file_name": "b.png", "height": 20, "width": 30},
              {"id": 8, "file_name": "a.png", "height": 20, "width": 30},
              {"id": 9, "file_name": "c.png", "height": 20, "width": 30}]  # fmt: skip
    with pytest.raises(DataError, match="expected persons"):
        load_scenes(coco(tmp_path, images=images))
    assert any("2 annotations are of images that it does not list" in message for message in caplog.messages)


IMAGE = {"id": 1, "file_name": "a.png", "height": 20, "width": 30}
SMALLER = {"size": [14, 14], "counts": [50, 20, 126]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [{**IMAGE, "file_name": "gone.png"}]}, "gone.png: no such picture"),
        ({"images": [{**IMAGE, "height": 9, "width": 9}]}, "a.png: expected 9x9 as annotated. Received: 20x30"),
        (
            {"images": [{**IMAGE, "file_name": "../a.png"}]},
            r"\.\./a\.png: expected a path within the folder of annotations",
        ),
        ({"images": [{**IMAGE, "file_name": "/a.png"}]}, "/a.png: expected a path within the folder of annotations"),
        ({"images": [{"id": 1}]}, "every image has .*'file_name'.*Received: "),
        ({"images": [{**IMAGE, "file_name": None}]}, "every image has .*Received: .*None"),
        ({"images": [{**IMAGE, "height": "20"}]}, "every image has .* sizes as whole numbers.*Received: .*'20'"),
        (
            {"images": [IMAGE, {**IMAGE, "id": 2, "file_name": "images/a.png"}]},
            "images/a.png: expected each picture once. Received: another image with the same file",
        ),
        (
            {"images": [IMAGE, {**IMAGE, "file_name": "b.png"}]},
            "2 of 2 are at fault:\n  a.png: expected an id of its own. Received: 1, .*\n  b.png: ",
        ),
        (
            {"categories": [{"id": 3, "name": "person"}]},
            "expected persons in the pictures to train on. Received: none in any of 2",
        ),
        ({"categories": [{"id": 1, "name": 5}]}, "every category has .* names as text.*Received: .*5"),
        (
            {"annotations": [{"id": 7, "image_id": 5, "category_id": 1, "segmentation": SMALLER}]},
            r"b.png: annotation 7: expected a mask of the picture's size, \(20, 30\)\. Received: \(14, 14\)",
        ),
        ({"annotations": [{"id": 1}]}, "lacks a field that COCO's format has"),
    ],
)
def test_coco_faults(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_scenes(coco(tmp_path, **changes))


@pytest.mark.parametrize("text", ["{", "[]", '{"images": []}'])
def test_what_is_not_coco(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=r"x\.json: (expected COCO's JSON|COCO's JSON has lists)"):
        load_scenes(f"coco:{tmp_path / 'x.json'}")


@pytest.mark.parametrize("choice", ["folder:", "folder:/nowhere", "coco:/nowhere.json"])
def test_what_is_not_there(choice: str) -> None:
    with pytest.raises(DataError, match="expects an existing"):
        load_scenes(choice)


def test_the_fingerprint_is_that_of_names_and_contents_wherever_they_lie(scenes: Path) -> None:
    was = load_scenes(f"folder:{scenes}").fingerprint
    moved = shutil.copytree(scenes, scenes / "elsewhere")
    assert load_scenes(f"folder:{moved}").fingerprint == was

    mask = np.asarray(Image.open(scenes / "masks" / "3.png")).copy()
    mask[0, 0] ^= 1
    found = {was}
    write(moved / "masks" / "3.png", mask)
    found.add(load_scenes(f"folder:{moved}").fingerprint)
    for part in ("images", "masks"):
        (moved / part / "3.png").rename(moved / part / "9.png")
    found.add(load_scenes(f"folder:{moved}").fingerprint)
    for part in ("images", "masks"):
        (moved / part / "9.png").unlink()
    found.add(load_scenes(f"folder:{moved}").fingerprint)
    assert len(found) == 4


def test_the_fingerprint_of_coco_data_is_that_of_annotations_and_pictures(tmp_path: Path) -> None:
    choice = coco(tmp_path)
    was = load_scenes(choice).fingerprint
    assert load_scenes(coco(tmp_path, info="the same pictures")).fingerprint != was
    coco(tmp_path)
    assert load_scenes(choice).fingerprint == was
    write(tmp_path / "images" / "a.png", np.zeros((20, 30, 3), np.uint8))
    assert load_scenes(choice).fingerprint != was


def test_a_run_is_not_opened_on_other_pictures_than_it_was_trained_on(tmp_path: Path) -> None:
    """One picture more, and those that were trained on would be tested on."""
    rng = np.random.default_rng(0)
    for index in range(8):
        write(tmp_path / "pictures" / f"{index}.png", rng.integers(0, 256, (28, 28), np.uint8))
    experiment = EXPERIMENTS["mnist_undercomplete"].with_settings({"epochs": "2", "widths": "4"})
    choice, runs = f"folder:{tmp_path / 'pictures'}", tmp_path / "runs"
    Run(experiment, load_pictures(choice), runs / experiment.name).train(stop_after=1)
    write(tmp_path / "pictures" / "00.png", rng.integers(0, 256, (28, 28), np.uint8))
    expected = r"mnist_undercomplete: expected the pictures of folder:.*pictures as they were .* Received: others"
    with pytest.raises(RunError, match=expected):
        open_run(experiment.name, runs)
    with pytest.raises(RunError, match=r"another run of mnist_undercomplete \(data_fingerprint: \w+ there"):
        Run(experiment, load_pictures(choice), runs / experiment.name).train()


def test_too_few_pictures_for_the_encoders_of_digits_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    for index in range(3):
        write(tmp_path / f"{index}.png", np.full((28, 28), index, np.uint8))
    with pytest.raises(DataError, match=r"expected at least 4 pictures, half to test on\. Received: 3"):
        load_pictures(f"folder:{tmp_path}")
    write(tmp_path / "3.png", np.full((28, 28), 1, np.uint8))  # as 1.png, the other one to test on
    with pytest.raises(DataError, match=r"expected different pictures to test\. Received: 2 that are alike"):
        load_pictures(f"folder:{tmp_path}")


def test_policies_are_not_data_of_one_s_own() -> None:
    assert [is_own(choice) for choice in ("auto", "real", "embedded", "folder:x", "coco:x")] == [0, 0, 0, 1, 1]


def test_any_pictures_for_the_encoders_of_digits_with_folders_as_classes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label, shape in (("cat", (40, 60, 3)), ("dog", (10, 12, 3)), ("dog", (28, 28))):
        write(tmp_path / label / f"{shape[0]}.png", rng.integers(0, 256, shape, np.uint8))
    write(tmp_path / "cat" / "white.png", np.full((50, 50), 255, np.uint8))
    data = load_pictures(f"folder:{tmp_path}")
    assert data.labelled
    assert sorted([*data.train_labels, *data.test_labels]) == [0, 0, 1, 1]
    assert data.train_images.shape == (2, 784)
    # cat/white.png: second by name, so that it is for testing
    assert np.all(data.test_images == 1.0, axis=1).tolist() in ([True, False], [False, True])


def test_pictures_are_decoded_as_the_service_does(scenes: Path) -> None:
    """16 bits are scaled, transparency is white paper, of scenes and for the encoders of digits."""
    deep = np.full((20, 30), 128 * 257, np.uint16)
    clear = np.zeros((20, 30, 4), np.uint8)
    for index, array in enumerate((deep, clear, deep, clear, deep)):
        write(scenes / "images" / f"{index}.png", array)
    data = load_scenes(f"folder:{scenes}")
    assert np.unique(data.train[0].picture).tolist() == [128]
    assert np.unique(data.test[0].picture).tolist() == [255]
    write(scenes / "images" / "3.png", np.zeros((28, 28), np.uint16))
    write(scenes / "images" / "4.png", np.zeros((28, 28), np.uint16))
    pictures = load_pictures(f"folder:{scenes / 'images'}")
    assert sorted(np.round(pictures.train_images[:, 0] * 255)) == [0, 128, 128]
    assert sorted(pictures.test_images[:, 0]) == [0, 1]


def test_the_first_pictures_are_a_sample_of_all_classes(tmp_path: Path) -> None:
    """The presets train on the first so many, or fit the probes on them."""
    for label in range(4):
        for index in range(30):
            write(tmp_path / str(label) / f"{index:02}.png", np.full((28, 28), 60 * label + index, np.uint8))
    data = load_pictures(f"folder:{tmp_path}")
    for images, labels in ((data.train_images, data.train_labels), (data.test_images, data.test_labels)):
        assert set(labels[:15]) == {0, 1, 2, 3}
        np.testing.assert_array_equal(np.round(images[:, 0] * 255) // 60, labels)  # each keeps its label
    again = load_pictures(f"folder:{tmp_path}")
    np.testing.assert_array_equal(again.train_images, data.train_images)


def test_pictures_without_classes_are_trained_on_and_reopened_but_not_probed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(40):
        write(tmp_path / "pictures" / f"{index:02}.png", rng.integers(0, 256, (28, 28), np.uint8))
    settings = {"epochs": "1", "latents": "16", "k": "4", "k_start": "4"}
    experiment = EXPERIMENTS["mnist_k_sparse"].with_settings(settings)
    data = experiment.load_data(f"folder:{tmp_path / 'pictures'}")
    run = Run(experiment, data, tmp_path / "runs" / "mnist_k_sparse")
    run.train()
    again = open_run("mnist_k_sparse", tmp_path / "runs")
    scores = again.scores()
    assert "explained_variance" in scores
    assert not any("probe" in name for name in scores)
