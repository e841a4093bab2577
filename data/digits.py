"""The embedded data set: 1,797 handwritten digits of 8 x 8 pixels, which a network learns within seconds.

E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, CC BY 4.0; see digits.md.
"""

import gzip
from importlib import resources

import numpy as np

from . import checks, splitting
from .dataset import DataSet, Split

PIXEL_MAX, PIXEL_MEAN, PIXEL_STD = 16, 0.3053, 0.3760
SOURCE = "Optical Recognition of Handwritten Digits, E. Alpaydin & C. Kaynak, UCI ML Repository, CC BY 4.0"


def load(*, dtype, train_size=None, validation_size=200, test_size=300, split_seed=0):
    """The embedded 8 x 8 handwritten digits (UCI; 1,797 images, 64 inputs, 10 classes); needs no download.

    Inputs are (pixel/16 - 0.3053) / 0.3760: mean 0 and standard deviation 1 over all pixels of all images.
    Every part holds the ten classes in nearly equal proportions.

    Args:
        train_size: number of training images; not set means all that remain (1,297).
        validation_size: number of validation images, 0 for none.
        test_size: number of test images.
        split_seed: which images go where; the same seed gives the same split on every machine.
    """
    pixels, labels = _read()
    order = splitting.stratified_order(labels, split_seed)
    test_size = checks.whole_number("test_size", test_size, least=1, most=len(order) - 1)
    train, validation = splitting.hold_out(order[test_size:], validation_size, train_size)
    x = ((pixels / PIXEL_MAX - PIXEL_MEAN) / PIXEL_STD).astype(dtype)

    def part(indices):
        return Split(x[indices], labels[indices])

    return DataSet(
        name="digits",
        task="classification",
        train=part(train),
        validation=None if validation is None else part(validation),
        test=part(order[:test_size]),
        n_outputs=10,
        source=SOURCE,
    )


def _read():
    """Pixels (1797, 64) of 0 .. 16 and labels (1797,) from the file inside the package."""
    packed = resources.files(__package__).joinpath("digits.csv.gz").read_bytes()
    table = np.loadtxt(gzip.decompress(packed).decode("ascii").splitlines(), delimiter=",", dtype=np.int64)
    return table[:, :-1], np.ascontiguousarray(table[:, -1])
