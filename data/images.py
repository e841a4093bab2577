"""MNIST, Fashion-MNIST and the MNIST autoencoder, scaled and split as by Meulemans et al. (2021, 2022)."""

import numpy as np

from . import idx, image_files, splitting
from .dataset import DataSet, Split

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081


def mnist(*, dtype, train_size=None, validation_size=5000, test_size=None, split_seed=0):
    """MNIST handwritten digits (784 inputs, 10 classes), 55,000 to train, 5,000 to validate, 10,000 to test.

    Inputs are (pixel/255 - 0.1307) / 0.3081. The files are looked for in the folder DFC_DATA_DIR, then in the
    user's cache; else they are downloaded (11 MB).

    Args:
        train_size: number of training images; not set means all that remain.
        validation_size: number of validation images, a random part of the 60,000; 0 trains on all of them.
        test_size: number of test images, a random part; not set means all.
        split_seed: which images are for validation (and which are left out where a size is limited).
    """
    pixels = _read(image_files.MNIST, train_size, validation_size, test_size, split_seed)
    return _classification("mnist", pixels, dtype, MNIST_MEAN, MNIST_STD)


def fashion_mnist(*, dtype, train_size=None, validation_size=5000, test_size=None, split_seed=0):
    """Fashion-MNIST clothes (784 inputs, 10 classes), 55,000 to train, 5,000 to validate, 10,000 to test.

    Inputs are pixel/255. The files are looked for in the subfolder fashion_mnist of DFC_DATA_DIR, then in the
    user's cache; else they are downloaded (30 MB).

    The options are those of the data set mnist.
    """
    pixels = _read(image_files.FASHION_MNIST, train_size, validation_size, test_size, split_seed)
    return _classification("fashion_mnist", pixels, dtype, 0.0, 1.0)


def mnist_autoencoder(
    *, dtype, train_size=None, validation_size=5000, test_size=None, split_seed=0, standardise=True
):
    """MNIST images as inputs and as targets (784 each): regression, for autoencoders.

    Images, files and split are those of the data set mnist; inputs and targets share memory.

    The options are those of the data set mnist, and

    Args:
        standardise: whether pixels are scaled as those of mnist; if not, they are pixel/255.
    """
    if not isinstance(standardise, bool):
        raise TypeError(f"data option standardise = {standardise!r}: must be true or false")
    parts, source = _read(image_files.MNIST, train_size, validation_size, test_size, split_seed)
    mean, std = (MNIST_MEAN, MNIST_STD) if standardise else (0.0, 1.0)
    scaled = {part: _scaled(pixels, dtype, mean, std) for part, (pixels, _) in parts.items()}
    splits = {part: Split(x, x) for part, x in scaled.items()}
    return _data_set("mnist_autoencoder", "regression", splits, scaled["train"].shape[1], source)


def _classification(name, parts_and_source, dtype, mean, std):
    parts, source = parts_and_source
    splits = {part: Split(_scaled(x, dtype, mean, std), y) for part, (x, y) in parts.items()}
    return _data_set(name, "classification", splits, 10, source)


def _data_set(name, task, splits, n_outputs, source):
    validation = splits.get("validation")
    return DataSet(name, task, splits["train"], validation, splits["test"], n_outputs, source)


def _read(file_set, train_size, validation_size, test_size, split_seed):
    """Bytes and labels per part, {"train": (pixels (N, 784), labels (N,)), ...}, and the source line."""
    found = image_files.find(file_set)
    pixels, labels = _pair(file_set, found, "train")
    train, validation = splitting.hold_out(
        splitting.random_order(len(labels), split_seed), validation_size, train_size
    )
    parts = {"train": (pixels[train], labels[train])}
    if validation is not None:
        parts["validation"] = (pixels[validation], labels[validation])
    pixels, labels = _pair(file_set, found, "t10k")
    if test_size is not None:
        test = splitting.limited(splitting.random_order(len(labels), split_seed), "test_size", test_size)
        pixels, labels = pixels[test], labels[test]
    return parts | {"test": (pixels, labels)}, found.source


def _pair(file_set, found, prefix):
    """Images and labels of one pair of files; refuses different counts, and files of the other data set."""
    image_path, label_path = found.path(f"{prefix}-images"), found.path(f"{prefix}-labels")
    pixels, labels = idx.read_images(image_path), idx.read_labels(label_path)
    if len(pixels) != len(labels):
        raise ValueError(
            f"{image_path} holds {len(pixels):,} images but {label_path} holds {len(labels):,} labels"
        )
    image_files.refuse_other_set(file_set, prefix, labels, label_path)
    return pixels, labels


def _scaled(pixels, dtype, mean, std):
    """(pixel/255 - mean) / std in place, with no temporary array of the size of the data set."""
    x = pixels.astype(dtype)
    x /= 255
    if mean:
        x -= np.asarray(mean, dtype)
    if std != 1:
        x /= np.asarray(std, dtype)
    return x
