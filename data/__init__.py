"""Data sets behind one small interface: a name in, training, validation and test arrays out.

    dataset = load("digits", dtype="float32")
    dataset.train.x          # (N, n_0) floats
    dataset.train.y          # (N,) int64 labels, or (N, n_L) float targets
    dataset.n_outputs        # n_L

    registry.py         the names, and `load`, `names`, `options`, `check_options`, `describe`
    dataset.py          `DataSet` and `Split`: what every loader returns, checked on construction
    digits.py           the embedded 8 x 8 digits                       (digits.csv.gz; licence in digits.md)
    student_teacher.py  random inputs, targets from a random teacher network
    uniform_teacher.py  the same with a small teacher, linear or not
    drawn.py            what both have in common
    images.py           mnist, fashion_mnist, mnist_autoencoder: preprocessing and splits
      image_files.py      where their files are: DFC_DATA_DIR, the cache, or a download
      download.py         one file from several mirrors, checked, or not at all
      idx.py              the IDX file format
    own_file.py         a user's .npz or .h5 file
    splitting.py        reproducible permutations and validation sets
    checks.py           option values, unknown names, and `DataUnavailableError`

A new data set is a function `load(*, dtype, **options) -> DataSet` and a line in `registry.py`. Everything
here is NumPy only; h5py, pooch and rich are imported when a file needs them.
"""

from .checks import DataUnavailableError
from .dataset import DataSet, Split
from .registry import check_options, describe, load, names, options

__all__ = [
    "DataSet",
    "DataUnavailableError",
    "Split",
    "check_options",
    "describe",
    "load",
    "names",
    "options",
]
