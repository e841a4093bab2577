"""Data sets behind one small interface: a name in, training, validation and test arrays out.

    dataset = load("digits", dtype="float32")
    dataset.train.x          # (N, n_0) floats
    dataset.train.y          # (N,) int64 labels, or (N, n_L) float targets
    dataset.n_outputs        # n_L

    sources.py    the names, and `load`, `names`, `options`, `check_options`, `describe`; the embedded 8 x 8 digits
                  (digits.csv.gz; licence in digits.md)
    dataset.py    `DataSet` and `Split`: what every loader returns, checked on construction; checks of options,
                  reproducible permutations and validation sets
    teachers.py   student_teacher, uniform_teacher: random inputs, targets from a teacher network
    images.py     mnist, fashion_mnist, mnist_autoencoder: the IDX format, where the files are, preprocessing and splits
    download.py   one file from several mirrors, checked, or not at all
    own_file.py   a user's .npz or .h5 file
    arrays.py     arrays and data frames in memory (`from_arrays`): inputs of any shape, classes of any type
    tables.py     a CSV table with a target column; folders of IDX files

A new data set is a function `load(*, dtype, **options) -> DataSet`, registered as a `DataSource`. Everything
here is NumPy only; h5py and rich are imported when a file needs them.
"""

from dfc_numba.data.arrays import from_arrays
from dfc_numba.data.dataset import DataSet, DataUnavailableError, Split
from dfc_numba.data.sources import check_options, describe, load, names, options

__all__ = [
    "DataSet",
    "DataUnavailableError",
    "Split",
    "check_options",
    "describe",
    "from_arrays",
    "load",
    "names",
    "options",
]
