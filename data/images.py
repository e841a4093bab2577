"""MNIST, Fashion-MNIST and the MNIST autoencoder, scaled and split as by Meulemans et al. (2021, 2022)."""

import gzip
import math
import os
import struct
import sys
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dfc_numba.data import dataset, download
from dfc_numba.data.dataset import DataSet, DataUnavailableError, Split
from dfc_numba.support import foreign

# --- the IDX format -----------------------------------------------------------------------------------------

GZIP_MAGIC = b"\x1f\x8b"
MOST_BYTES, MOST_EXCESS = 2**30, 2**20  # of the content; of what may be looked at beyond it


def read_images(path, height=28, width=28):
    """Return the images of a file as uint8 (N, height * width).

    Raises:
        ValueError: naming the file, for one that is empty, damaged, truncated, too long, not IDX, or of other
            images.
    """
    pixels = read_values(path, dimensions=3, content="images")
    if pixels.shape[1:] != (height, width):
        got = " x ".join(map(str, pixels.shape[1:]))
        raise ValueError(f"{path}: the images are {got} pixels; expected {height} x {width}")
    return pixels.reshape(len(pixels), height * width)


def read_labels(path, n_classes=10):
    """Return the labels of a file as int64 (N,); errors as for `read_images`, and for labels of `n_classes` or more."""
    labels = read_values(path, dimensions=1, content="labels").astype(np.int64)
    if labels.max() >= n_classes:
        sample = int(np.argmax(labels >= n_classes))
        raise ValueError(
            f"{path}: label {labels[sample]} at sample {sample}; labels must be 0 to {n_classes - 1}"
        )
    return labels


def read_values(path, dimensions, content):
    start = 4 + 4 * dimensions
    with _opened(path) as file:
        head = _taken(path, file, start)
        shape = _shape(path, head, dimensions, content)
        size = math.prod(shape)
        if size > MOST_BYTES:
            raise ValueError(
                f"{path}: truncated; the header {shape} promises {size:,} bytes, and no such file has more than {MOST_BYTES:,}"
            )
        data = _taken(path, file, size + 1)
        rest = len(data) - size
        if rest > 0:
            rest += len(_taken(path, file, MOST_EXCESS))
    _check_length(path, size + rest, shape)
    return np.frombuffer(data, np.uint8).reshape(shape)


@contextmanager
def _opened(path):
    """Yield the content of a file, gunzipped where it begins like a gzip file, whatever its name."""
    try:
        with foreign.open_regular(path) as file:
            packed = file.read(2) == GZIP_MAGIC
            file.seek(0)
            yield gzip.GzipFile(fileobj=file) if packed else file
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from None


def _taken(path, file, count):
    """Return up to `count` bytes of an open file."""
    try:
        return file.read(count)
    except EOFError:
        raise ValueError(
            f"{path}: truncated, the gzip stream ends too early; copy or download it again"
        ) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: damaged gzip file ({error}); copy or download it again") from None


def _shape(path, data, dimensions, content):
    """Return the sizes in the header; check the magic number 0x000008NN, i.e. unsigned bytes in NN dimensions."""
    if not data:
        raise ValueError(f"{path}: the file is empty")
    expected = 0x0800 + dimensions
    magic = int.from_bytes(data[:4], "big")
    if len(data) >= 4 and magic != expected:
        raise ValueError(
            f"{path}: magic number 0x{magic:08x}; an IDX file of {content} begins with 0x{expected:08x}"
        )
    if len(data) < 4 + 4 * dimensions:
        raise ValueError(f"{path}: truncated within the header ({len(data)} bytes)")
    shape = struct.unpack_from(f">{dimensions}I", data, 4)
    if 0 in shape:
        raise ValueError(f"{path}: holds no {content}; the header gives the sizes {shape}")
    return shape


def _check_length(path, got, shape):
    expected = math.prod(shape)
    if got != expected:
        problem = "truncated" if got < expected else "too long"
        raise ValueError(
            f"{path}: {problem}; the header {shape} promises {expected:,} bytes of data, there are {got:,}"
        )


# --- where the files are ------------------------------------------------------------------------------------

VARIABLE = "DFC_DATA_DIR"
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@dataclass(frozen=True, kw_only=True)
class FileSet:
    """One set of four IDX files.

    Args:
        title: what people call it.
        cache_folder: its folder in the user's cache.
        folders: where it may be within DFC_DATA_DIR, in the order of the search.
        mirrors: base addresses, tried in turn.
        sha256: published SHA-256 checksums of the gzipped files, in the order of `FILES`.
        first_labels: the first 16 labels of the train and t10k files, which identify the
            set.
    """

    title: str
    cache_folder: str
    folders: tuple
    mirrors: tuple
    sha256: tuple
    first_labels: dict


@dataclass(frozen=True)
class Found:
    """Paths of the four files, and a line that says where they come from."""

    paths: dict
    source: str

    def path(self, start):
        """Return the path of the file whose name begins with `start`, such as "train-images"."""
        return next(path for name, path in self.paths.items() if name.startswith(start))


MNIST = FileSet(
    title="MNIST",
    cache_folder="mnist",
    folders=("mnist", "MNIST/raw", "."),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    sha256=(
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
    first_labels={
        "train": (5, 0, 4, 1, 9, 2, 1, 3, 1, 4, 3, 5, 3, 6, 1, 7),
        "t10k": (7, 2, 1, 0, 4, 1, 4, 9, 5, 9, 0, 6, 9, 0, 1, 5),
    },
)

FASHION_MNIST = FileSet(
    title="Fashion-MNIST",
    cache_folder="fashion_mnist",
    folders=("fashion_mnist", "FashionMNIST/raw"),
    mirrors=(
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
    ),
    sha256=(
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
    first_labels={
        "train": (9, 0, 0, 3, 0, 2, 7, 2, 5, 5, 0, 9, 5, 5, 7, 9),
        "t10k": (9, 2, 1, 1, 6, 1, 4, 6, 5, 7, 4, 5, 7, 3, 4, 1),
    },
)


def find(file_set):
    """Return the paths of a set's four files: in DFC_DATA_DIR, else in the cache, where missing files are downloaded.

    Raises:
        DataUnavailableError: when DFC_DATA_DIR is not a folder or holds some of the files only, or a download
            fails.
    """
    return _in_data_dir(file_set) or _in_cache(file_set)


def refuse_other_set(file_set, prefix, labels, path):
    """Refuse a label file that begins like that of the other set; their file names are the same."""
    other = FASHION_MNIST if file_set is MNIST else MNIST
    first = other.first_labels[prefix]
    if len(labels) >= len(first) and np.array_equal(labels[: len(first)], first):
        raise ValueError(
            f"{path}: these are the labels of {other.title}, not of {file_set.title}, whose files have the "
            f"same names; put them into the subfolder {other.folders[0]} of the folder {VARIABLE}"
        )


def _in_data_dir(file_set):
    """Return the files in the first folder within DFC_DATA_DIR that holds any of them; None where none does."""
    root = os.environ.get(VARIABLE)
    if not root:
        return None
    root = Path(root).expanduser()
    if not root.is_dir():
        raise DataUnavailableError(f"{VARIABLE} = {str(root)!r} is not a folder; correct it or unset it")
    for folder in (root / name for name in file_set.folders):
        paths = {name: _file_in(folder, name) for name in FILES}
        if any(paths.values()):
            _refuse_incomplete(file_set, folder, paths)
            return Found(paths, f"{file_set.title}, files in {folder}")
    return None


def _file_in(folder, name):
    """Return the file of that name in a folder, gzipped or not, or with ".idx" in its name; else None."""
    stems = (name, name.replace("-idx", ".idx"))
    candidates = (folder / f"{stem}{end}" for stem in stems for end in (".gz", ""))
    return next((path for path in candidates if path.is_file()), None)


def _refuse_incomplete(file_set, folder, paths):
    missing = [name for name, path in paths.items() if path is None]
    if missing:
        raise DataUnavailableError(
            f"{folder} holds some files of {file_set.title} but not {', '.join(missing)} (.gz or unpacked); "
            "add them, or move the others away to have all four downloaded"
        )


def _in_cache(file_set):
    """Return the files in the user's cache, downloaded where they are missing or damaged."""
    folder = cache_directory() / file_set.cache_folder
    paths = {}
    for name, sha256 in zip(FILES, file_set.sha256, strict=True):
        try:
            paths[name] = download.fetch(f"{name}.gz", sha256, file_set.mirrors, folder)
        except DataUnavailableError as error:
            raise DataUnavailableError(f"{error}\n{_where_to_put_them(file_set)}") from None
    return Found(paths, f"{file_set.title}, downloaded to {folder}")


def cache_directory():
    """Return this package's folder in the user's cache: ~/.cache or XDG_CACHE_HOME, on macOS ~/Library/Caches."""
    if sys.platform == "darwin":
        return Path("~/Library/Caches/dfc-numba").expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dfc-numba"


def _where_to_put_them(file_set):
    place = "it" if "." in file_set.folders else f"its subfolder {file_set.folders[0]}"
    return (
        f"To use {file_set.title} without a network, set the environment variable {VARIABLE} to a folder and "
        f"put these files, gzipped (.gz) or unpacked, into {place}: {', '.join(FILES)}"
    )


# --- data sets ----------------------------------------------------------------------------------------------

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081


def mnist(*, dtype, train_size=None, validation_size=5000, test_size=None, split_seed=0, standardise=True):
    """Load the MNIST handwritten digits (784 inputs, 10 classes): 55,000 to train, 5,000 to validate, 10,000 to test.

    Inputs are (pixel/255 - 0.1307) / 0.3081. The files are looked for in the folder DFC_DATA_DIR, then in the
    user's cache; else they are downloaded (11 MB).

    Args:
        train_size: number of training images; not set means all that remain.
        validation_size: number of validation images, a random part of the 60,000; 0 trains on all of them.
        test_size: number of test images, a random part; not set means all.
        split_seed: which images are for validation (and which are left out where a size is limited).
        standardise: whether inputs are scaled as above; if not, they are pixel/255.
    """
    pixels = _read(MNIST, train_size, validation_size, test_size, split_seed)
    return _classification("mnist", pixels, dtype, *_pixel_scale(standardise))


def fashion_mnist(*, dtype, train_size=None, validation_size=5000, test_size=None, split_seed=0):
    """Load the Fashion-MNIST clothes (784 inputs, 10 classes): 55,000 to train, 5,000 to validate, 10,000 to test.

    Inputs are pixel/255. The files are looked for in the subfolder fashion_mnist of DFC_DATA_DIR, then in the
    user's cache; else they are downloaded (30 MB).

    The options are those of the data set mnist, without standardise.
    """
    pixels = _read(FASHION_MNIST, train_size, validation_size, test_size, split_seed)
    return _classification("fashion_mnist", pixels, dtype, 0.0, 1.0)


def _pixel_scale(standardise):
    """Return what is subtracted from pixel/255, and what it is divided by."""
    if not isinstance(standardise, bool):
        raise TypeError(f"data option standardise = {standardise!r}: must be true or false")
    return (MNIST_MEAN, MNIST_STD) if standardise else (0.0, 1.0)


def mnist_autoencoder(
    *, dtype, train_size=None, validation_size=5000, test_size=None, split_seed=0, standardise=True
):
    """Load MNIST images as inputs and as targets (784 each): regression, for autoencoders.

    Images, files and split are those of the data set mnist; inputs and targets share memory.

    The options are those of the data set mnist.
    """
    parts, source = _read(MNIST, train_size, validation_size, test_size, split_seed)
    mean, std = _pixel_scale(standardise)
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
    """Return bytes and labels per part, {"train": (pixels (N, 784), labels (N,)), ...}, and the source line."""
    found = find(file_set)
    pixels, labels = _pair(file_set, found, "train")
    train, validation = dataset.hold_out(
        dataset.random_order(len(labels), split_seed), validation_size, train_size
    )
    parts = {"train": (pixels[train], labels[train])}
    if validation is not None:
        parts["validation"] = (pixels[validation], labels[validation])
    pixels, labels = _pair(file_set, found, "t10k")
    if test_size is not None:
        test = dataset.limited(dataset.random_order(len(labels), split_seed), "test_size", test_size)
        pixels, labels = pixels[test], labels[test]
    return parts | {"test": (pixels, labels)}, found.source


def _pair(file_set, found, prefix):
    """Return images and labels of one pair of files; refuse different counts, and files of the other data set."""
    image_path, label_path = found.path(f"{prefix}-images"), found.path(f"{prefix}-labels")
    pixels, labels = read_images(image_path), read_labels(label_path)
    if len(pixels) != len(labels):
        raise ValueError(
            f"{image_path} holds {len(pixels):,} images but {label_path} holds {len(labels):,} labels"
        )
    refuse_other_set(file_set, prefix, labels, label_path)
    return pixels, labels


def _scaled(pixels, dtype, mean, std):
    """Compute (pixel/255 - mean) / std in place, with no temporary array of the size of the data set."""
    x = pixels.astype(dtype)
    x /= 255
    if mean:
        x -= np.asarray(mean, dtype)
    if std != 1:
        x /= np.asarray(std, dtype)
    return x
