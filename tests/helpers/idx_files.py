"""Small IDX files like those of MNIST, for the tests of the data sets."""

import gzip
import struct

import numpy as np

NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def idx_bytes(values):
    """The content of an IDX file that holds an array of bytes."""
    values = np.asarray(values, np.uint8)
    return struct.pack(f">{1 + values.ndim}I", 0x0800 + values.ndim, *values.shape) + values.tobytes()


def small_set(n_train=40, n_test=12, seed=0):
    """Contents of the four files of a set with few images, {name: bytes}."""
    random = np.random.RandomState(seed)
    arrays = [
        array for n in (n_train, n_test) for array in (random.randint(0, 256, (n, 28, 28)), np.arange(n) % 10)
    ]
    return {name: idx_bytes(array) for name, array in zip(NAMES, arrays, strict=True)}


def write_set(folder, contents, *, zipped=True):
    """Write the files into a folder, gzipped or not."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(content) if zipped else content)
