"""MNIST, Fashion-MNIST and the autoencoder, from small files of the same form; no network is touched."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from idx_files import NAMES, idx_bytes, small_set, write_set

from dfc_numba import data
from dfc_numba.data import download, images

SMALL = {"validation_size": 10}


@pytest.fixture
def no_network(monkeypatch):
    """A download fails the test at once."""

    def fetch(name, *_):
        raise AssertionError(f"tried to download {name}")

    monkeypatch.setattr(download, "fetch", fetch)


@pytest.fixture
def data_dir(tmp_path, monkeypatch, no_network):
    """An empty folder that DFC_DATA_DIR points to."""
    monkeypatch.setenv("DFC_DATA_DIR", str(tmp_path))
    return tmp_path


# --- preprocessing and splits


@pytest.mark.parametrize("zipped", [True, False])
def test_mnist_is_normalised_and_split(data_dir, zipped):
    contents = small_set()
    write_set(data_dir, contents, zipped=zipped)
    dataset = data.load("mnist", **SMALL)
    assert [len(split) for split in dataset.parts().values()] == [30, 10, 12]
    assert (dataset.task, dataset.n_inputs, dataset.n_outputs) == ("classification", 784, 10)
    pixels = np.frombuffer(contents["t10k-images-idx3-ubyte"][16:], np.uint8).reshape(12, 784)
    np.testing.assert_allclose(dataset.test.x, (pixels / 255 - 0.1307) / 0.3081, rtol=1e-14)
    np.testing.assert_array_equal(dataset.test.y, np.arange(12) % 10)
    assert str(data_dir) in dataset.source


def test_training_and_validation_images_are_all_different_ones_with_their_labels(data_dir):
    contents = small_set()
    write_set(data_dir, contents)
    dataset = data.load("mnist", **SMALL)
    pixels = np.frombuffer(contents["train-images-idx3-ubyte"][16:], np.uint8).reshape(40, 784)
    known = {row.tobytes(): label % 10 for label, row in enumerate(pixels)}
    seen = {}
    for split in (dataset.train, dataset.validation):
        rows = ((split.x * 0.3081 + 0.1307) * 255).round().astype(np.uint8)
        seen |= {row.tobytes(): label for row, label in zip(rows, split.y, strict=True)}
    assert seen == known


def test_fashion_mnist_has_a_subfolder_and_a_scaling_of_its_own(data_dir):
    write_set(data_dir, small_set(seed=0))
    write_set(data_dir / "fashion_mnist", small_set(seed=1))
    fashion, mnist = data.load("fashion_mnist", **SMALL), data.load("mnist", **SMALL)
    assert (fashion.train.x.min(), fashion.train.x.max()) == (0, 1)
    assert not np.allclose(fashion.test.x, mnist.test.x * 0.3081 + 0.1307)


def test_the_autoencoder_has_the_images_as_targets(data_dir):
    write_set(data_dir, small_set())
    dataset = data.load("mnist_autoencoder", dtype="float32", **SMALL)
    assert (dataset.task, dataset.n_inputs, dataset.n_outputs) == ("regression", 784, 784)
    for split in dataset.parts().values():
        assert np.shares_memory(split.x, split.y)
        assert split.x.dtype == np.float32
    np.testing.assert_array_equal(dataset.test.x, data.load("mnist", dtype="float32", **SMALL).test.x)


def test_the_autoencoder_can_have_its_pixels_as_they_are(data_dir):
    write_set(data_dir, small_set())
    scaled, plain = (
        data.load("mnist_autoencoder", standardise=flag, **SMALL).train.x for flag in (True, False)
    )
    np.testing.assert_allclose((plain - 0.1307) / 0.3081, scaled, rtol=1e-12)
    assert 0 <= plain.min() and plain.max() <= 1
    with pytest.raises(TypeError, match="standardise = 1: must be true or false"):
        data.load("mnist_autoencoder", standardise=1, **SMALL)


def test_sizes_limit_the_splits_and_seeds_choose_the_validation_images(data_dir):
    write_set(data_dir, small_set())
    whole = data.load("mnist", validation_size=0)
    assert (len(whole.train), whole.validation) == (40, None)
    base = data.load("mnist", **SMALL)
    limited = data.load("mnist", train_size=7, test_size=5, **SMALL)
    assert [len(split) for split in limited.parts().values()] == [7, 10, 5]
    np.testing.assert_array_equal(limited.validation.x, base.validation.x)
    other = data.load("mnist", split_seed=1, **SMALL)
    assert not np.array_equal(other.validation.x, base.validation.x)
    np.testing.assert_array_equal(other.test.x, base.test.x)
    with pytest.raises(ValueError, match="validation_size = 5,000 leaves nothing to train on: there are 40"):
        data.load("mnist")
    with pytest.raises(ValueError, match="test_size = 13: .* at most 12"):
        data.load("mnist", test_size=13, **SMALL)


# --- where the files are


@pytest.mark.parametrize("folder", ["mnist", "MNIST/raw", "."])
@pytest.mark.parametrize("dot", [False, True])
def test_places_and_names_that_are_known(data_dir, folder, dot):
    contents = {
        name.replace("-idx", ".idx") if dot else name: content for name, content in small_set().items()
    }
    write_set(data_dir / folder, contents, zipped=False)
    assert data.load("mnist", **SMALL).n_inputs == 784


def test_an_incomplete_folder_is_an_error_rather_than_a_download(data_dir):
    write_set(data_dir, small_set())
    (data_dir / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(data.DataUnavailableError, match="some files of MNIST but not t10k-labels-idx1-ubyte"):
        data.load("mnist", **SMALL)


def test_a_data_folder_that_does_not_exist_is_named(data_dir, monkeypatch):
    monkeypatch.setenv("DFC_DATA_DIR", str(data_dir / "nowhere"))
    with pytest.raises(data.DataUnavailableError, match="nowhere' is not a folder"):
        data.load("mnist")


def test_a_data_folder_without_the_set_leads_to_the_cache(data_dir, monkeypatch):
    cache = data_dir / "cache"
    write_set(cache / "fashion_mnist", small_set())
    asked = []

    def fetch(name, md5, mirrors, folder):
        asked.append((name, md5, len(mirrors)))
        return folder / name

    monkeypatch.setattr(download, "fetch", fetch)
    monkeypatch.setattr(images, "cache_directory", lambda: cache)
    assert len(data.load("fashion_mnist", **SMALL).train) == 30
    assert [name for name, *_ in asked] == [f"{name}.gz" for name in NAMES]
    assert asked[0] == (
        "train-images-idx3-ubyte.gz",
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        2,
    )


def test_files_of_the_other_set_are_told_apart(data_dir):
    labels = images.FASHION_MNIST.first_labels["train"]
    contents = small_set(n_train=16) | {"train-labels-idx1-ubyte": idx_bytes(labels)}
    write_set(data_dir, contents)
    with pytest.raises(ValueError, match="labels of Fashion-MNIST, not of MNIST.*subfolder fashion_mnist"):
        data.load("mnist", **SMALL)
    mnist_labels = idx_bytes(images.MNIST.first_labels["t10k"])
    write_set(
        data_dir / "fashion_mnist", contents | small_set(16, 16) | {"t10k-labels-idx1-ubyte": mnist_labels}
    )
    with pytest.raises(ValueError, match="labels of MNIST, not of Fashion-MNIST.*subfolder mnist"):
        data.load("fashion_mnist", **SMALL)


# --- damaged files: every message names the file and what is wrong


IMAGES, LABELS = small_set()["train-images-idx3-ubyte"], small_set()["train-labels-idx1-ubyte"]
DAMAGED = [
    ("images", b"", "the file is empty"),
    ("images", gzip.compress(b"", mtime=0), "the file is empty"),
    ("images", IMAGES[:2], r"truncated within the header \(2 bytes\)"),
    ("images", IMAGES[:10], "truncated within the header"),
    (
        "images",
        IMAGES[:-1],
        r"truncated; the header \(40, 28, 28\) promises 31,360 bytes of data, there are 31,359",
    ),
    ("images", IMAGES + b"x", "too long"),
    ("images", LABELS, "magic number 0x00000801; an IDX file of images begins with 0x00000803"),
    ("images", b"<html>not found</html>", "magic number 0x3c68746d"),
    ("images", gzip.compress(IMAGES, mtime=0)[:-200], "truncated, the gzip stream ends too early"),
    ("images", b"\x1f\x8b" + b"\x00" * 40, "damaged gzip file"),
    ("images", gzip.compress(IMAGES, mtime=0)[:-8] + b"\x00" * 8, "damaged gzip file"),
    ("images", idx_bytes(np.zeros((40, 14, 14))), "the images are 14 x 14 pixels; expected 28 x 28"),
    ("images", idx_bytes(np.zeros((0, 28, 28))), "holds no images"),
    ("images", struct.pack(">4I", 0x803, 2**32 - 1, 28, 28), "truncated; the header"),
    ("labels", b"", "the file is empty"),
    ("labels", idx_bytes([]), "holds no labels"),
    ("labels", LABELS[:-3], "truncated; the header"),
    ("labels", IMAGES, "magic number 0x00000803; an IDX file of labels begins with 0x00000801"),
    ("labels", idx_bytes([3, 9, 10, 200]), "label 10 at sample 2; labels must be 0 to 9"),
]


@pytest.mark.parametrize(
    ("content", "raw", "message"),
    DAMAGED,
    ids=[f"{content}: {message[:30]}" for content, _, message in DAMAGED],
)
def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path, content, raw, message):
    path = tmp_path / "damaged-file"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=f"damaged-file: .*{message}"):
        getattr(images, f"read_{content}")(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        images.read_images(tmp_path)


def test_images_without_their_labels_are_refused(data_dir):
    write_set(data_dir, small_set() | {"train-labels-idx1-ubyte": idx_bytes(np.arange(39) % 10)})
    with pytest.raises(
        ValueError, match=r"train-images.* holds 40 images but .*train-labels.* holds 39 labels"
    ):
        data.load("mnist", **SMALL)


# --- the real files, where they are


def real_data_dir():
    folder = os.environ.get("DFC_DATA_DIR")
    return folder if folder and any(Path(folder).glob("train-images*")) else None


needs_mnist = pytest.mark.skipif(real_data_dir() is None, reason="DFC_DATA_DIR holds no MNIST files")


@needs_mnist
def test_the_real_mnist_has_its_sizes_scaling_and_labels(no_network):
    dataset = data.load("mnist", dtype="float32")
    assert [len(split) for split in dataset.parts().values()] == [55000, 5000, 10000]
    assert abs(dataset.train.x.mean()) < 0.01
    assert abs(dataset.train.x.std() - 1) < 0.01
    assert tuple(dataset.test.y[:16]) == images.MNIST.first_labels["t10k"]
    labels = np.concatenate([dataset.train.y, dataset.validation.y])
    assert np.bincount(labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


@needs_mnist
def test_the_default_split_of_mnist_never_changes(no_network):
    dataset = data.load("mnist", dtype="float32", train_size=1, test_size=1)
    assert dataset.validation.y[:12].tolist() == [6, 7, 8, 7, 8, 9, 2, 9, 9, 1, 7, 9]
