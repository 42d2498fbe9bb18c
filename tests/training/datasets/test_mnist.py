import gzip
from pathlib import Path

import numpy as np
import pytest

from training.datasets import digits, mnist
from training.datasets.source import DataError


def _idx(path: Path, magic: int, shape: tuple[int, ...], content: bytes) -> Path:
    path.write_bytes(gzip.compress(np.array([magic, *shape], dtype=">u4").tobytes() + content))
    return path


@pytest.mark.real_data
@pytest.mark.usefixtures("real_data")
def test_the_official_files() -> None:
    data = mnist.load("real")
    assert (data.name, data.source) == ("mnist", "real")
    assert data.train_images.shape == (60_000, 784)
    assert data.test_images.shape == (10_000, 784)
    for images, labels in ((data.train_images, data.train_labels), (data.test_images, data.test_labels)):
        assert images.dtype == np.float32
        assert labels.dtype == np.int64
        assert (images.min(), images.max()) == (0.0, 1.0)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    np.testing.assert_array_equal(np.bincount(data.train_labels), counts)
    np.testing.assert_array_equal(
        np.bincount(data.test_labels), [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    )
    # The mean and standard deviation that everybody normalises MNIST with.
    assert data.train_images.mean() == pytest.approx(0.1307, abs=1e-4)
    assert data.train_images.std() == pytest.approx(0.3081, abs=1e-4)


def test_a_part_is_read(tmp_path: Path) -> None:
    pixels = np.arange(2 * 784, dtype=np.uint8)
    images = _idx(tmp_path / "images.gz", 2051, (2, 28, 28), pixels.tobytes())
    labels = _idx(tmp_path / "labels.gz", 2049, (2,), bytes([3, 9]))
    read_images, read_labels = mnist.read_part(images, labels)
    np.testing.assert_array_equal(read_images, (pixels / np.float32(255)).reshape(2, 784).astype(np.float32))
    np.testing.assert_array_equal(read_labels, [3, 9])


def test_wrong_magic_number(tmp_path: Path) -> None:
    path = _idx(tmp_path / "images.gz", 2050, (1, 28, 28), bytes(784))
    with pytest.raises(DataError, match=r"images.gz: expected the idx magic number 2051. Received: 2050"):
        mnist.read_idx(path, 2051)


def test_truncated_gzip(tmp_path: Path) -> None:
    path = _idx(tmp_path / "images.gz", 2051, (1, 28, 28), np.random.default_rng(0).bytes(784))
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"images.gz: expected a whole gzip file"):
        mnist.read_idx(path, 2051)


def test_wrong_crc(tmp_path: Path) -> None:
    path = _idx(tmp_path / "images.gz", 2051, (1, 28, 28), np.random.default_rng(0).bytes(784))
    content = bytearray(path.read_bytes())
    content[-6] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"images.gz: expected a whole gzip file. Received: CRC"):
        mnist.read_idx(path, 2051)


@pytest.mark.parametrize("count", [783, 785])
def test_wrong_number_of_values(tmp_path: Path, count: int) -> None:
    path = _idx(tmp_path / "images.gz", 2051, (1, 28, 28), bytes(count))
    with pytest.raises(DataError, match=rf"expected 784 values of shape \[1, 28, 28\]. Received: {count}"):
        mnist.read_idx(path, 2051)


def test_no_room_for_the_header(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(b"abc"))
    with pytest.raises(DataError, match=r"expected an idx header of 16 bytes. Received: 3 bytes"):
        mnist.read_idx(path, 2051)


def test_more_images_than_labels(tmp_path: Path) -> None:
    images = _idx(tmp_path / "images.gz", 2051, (2, 28, 28), bytes(2 * 784))
    labels = _idx(tmp_path / "labels.gz", 2049, (1,), bytes(1))
    with pytest.raises(DataError, match=r"labels.gz: expected a label for each of the 2 images.*Received: 1 labels"):
        mnist.read_part(images, labels)


def test_images_of_another_size(tmp_path: Path) -> None:
    images = _idx(tmp_path / "images.gz", 2051, (1, 27, 28), bytes(27 * 28))
    labels = _idx(tmp_path / "labels.gz", 2049, (1,), bytes(1))
    with pytest.raises(DataError, match=r"expected images of 28x28. Received: 27x28"):
        mnist.read_part(images, labels)


def test_a_label_that_is_no_digit(tmp_path: Path) -> None:
    images = _idx(tmp_path / "images.gz", 2051, (1, 28, 28), bytes(784))
    labels = _idx(tmp_path / "labels.gz", 2049, (1,), bytes([10]))
    with pytest.raises(DataError, match=r"expected labels 0..9. Received: 10"):
        mnist.read_part(images, labels)


def test_a_part_of_the_data_set_is_not_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mnist").mkdir()
    for part in ("train", "t10k"):
        _idx(tmp_path / f"mnist/{part}-images-idx3-ubyte.gz", 2051, (1, 28, 28), bytes(784))
        _idx(tmp_path / f"mnist/{part}-labels-idx1-ubyte.gz", 2049, (1,), bytes(1))
    monkeypatch.setenv("SPARSEWALK_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz: expected 60000 images. Received: 1"):
        mnist.load("auto")


def test_embedded_digits() -> None:
    data = mnist.load("embedded")
    assert (data.name, data.source) == ("digits", "embedded")
    assert data.train_images.shape == (digits.TRAIN_COUNT, 784)
    assert data.test_images.shape == (360, 784)
    assert data.train_images.dtype == np.float32
    assert data.train_labels.dtype == np.int64
    assert data.train_images.min() == 0.0
    assert 0.99 < data.train_images.max() <= 1.0
    assert set(data.test_labels) == set(range(10))


def test_embedded_digits_have_a_fixed_split() -> None:
    first, second = digits.load(), digits.load()
    np.testing.assert_array_equal(first.train_images, second.train_images)
    np.testing.assert_array_equal(first.test_labels, second.test_labels)
    train = {image.tobytes() for image in first.train_images}
    assert not any(image.tobytes() in train for image in first.test_images)


def test_embedded_digits_can_be_told_apart() -> None:
    """Each class mean is nearest to most test digits of its class: pictures and labels belong together."""
    data = digits.load()
    means = np.stack([data.train_images[data.train_labels == digit].mean(axis=0) for digit in range(10)])
    distances = ((data.test_images[:, np.newaxis] - means) ** 2).sum(axis=2)
    assert (distances.argmin(axis=1) == data.test_labels).mean() > 0.85
