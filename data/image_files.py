"""Where the files of MNIST and Fashion-MNIST are: in DFC_DATA_DIR, in the user's cache, or at a mirror.

The two sets consist of files of the same names, so each has folders of its own. A folder that the user names
is trusted as far as the files' contents can be checked; what is downloaded, and the cache, must have the
published checksums.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import download
from .checks import DataUnavailableError

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
        md5: published MD5 checksums of the gzipped files, in the order of `FILES`.
        first_labels: the first 16 labels of the train and t10k files, by which the set can be told from
            another.
    """

    title: str
    cache_folder: str
    folders: tuple
    mirrors: tuple
    md5: tuple
    first_labels: dict


@dataclass(frozen=True)
class Found:
    """Paths of the four files, and a line that says where they come from."""

    paths: dict
    source: str

    def path(self, start):
        """Path of the file whose name begins with `start`, such as "train-images"."""
        return next(path for name, path in self.paths.items() if name.startswith(start))


MNIST = FileSet(
    title="MNIST",
    cache_folder="mnist",
    folders=("mnist", "MNIST/raw", "."),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    md5=(
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
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
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    md5=(
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
    first_labels={
        "train": (9, 0, 0, 3, 0, 2, 7, 2, 5, 5, 0, 9, 5, 5, 7, 9),
        "t10k": (9, 2, 1, 1, 6, 1, 4, 6, 5, 7, 4, 5, 7, 3, 4, 1),
    },
)


def find(file_set):
    """Paths of a set's four files: in DFC_DATA_DIR, else in the cache, where missing files are downloaded.

    Raises:
        DataUnavailableError: when DFC_DATA_DIR is no folder or holds some of the files only, or a download
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
    """The files in the first folder within DFC_DATA_DIR that holds any of them; None where none does."""
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
    """The file of that name in a folder, gzipped or not, or with ".idx" in its name; else None."""
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
    """The files in the user's cache, downloaded where they are missing or damaged."""
    folder = cache_directory() / file_set.cache_folder
    paths = {}
    for name, md5 in zip(FILES, file_set.md5, strict=True):
        try:
            paths[name] = download.fetch(f"{name}.gz", md5, file_set.mirrors, folder)
        except DataUnavailableError as error:
            raise DataUnavailableError(f"{error}\n{_where_to_put_them(file_set)}") from None
    return Found(paths, f"{file_set.title}, downloaded to {folder}")


def cache_directory():
    """This package's folder in the user's cache: ~/.cache or XDG_CACHE_HOME, on macOS ~/Library/Caches."""
    import pooch

    return Path(pooch.os_cache("dfc-numba"))


def _where_to_put_them(file_set):
    place = "it" if "." in file_set.folders else f"its subfolder {file_set.folders[0]}"
    return (
        f"To use {file_set.title} without a network, set the environment variable {VARIABLE} to a folder and "
        f"put these files, gzipped (.gz) or unpacked, into {place}: {', '.join(FILES)}"
    )
