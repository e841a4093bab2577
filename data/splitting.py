"""Reproducible orders of samples, and the validation set held out from them.

Only `numpy.random.RandomState` is used: NumPy guarantees its streams for ever, so a split seed means the same
split with every version of NumPy.
"""

import numpy as np

from . import checks


def random_order(n_samples, split_seed):
    """A random permutation of `n_samples` indices that depends on the seed alone."""
    return np.random.RandomState(checks.seed("split_seed", split_seed)).permutation(n_samples)


def stratified_order(labels, split_seed):
    """A random permutation in which every stretch holds the classes in nearly their overall proportions.

    The k-th sample of a class with n members is placed at (k + 1/2) / n.
    """
    order = random_order(len(labels), split_seed)
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = order[labels[order] == label]
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    return order[np.argsort(position[order], kind="stable")]


def hold_out(order, validation_size, train_size=None):
    """Cut an order of the training samples into (training indices, validation indices or None).

    The validation set is the end of the order, so that it stays the same whatever `train_size` is.

    Args:
        order: (N,) indices.
        validation_size: number of validation samples, 0 for none.
        train_size: number of training samples; None for all that remain.

    Raises:
        ValueError: when the two do not leave or find enough samples.
    """
    validation_size = checks.whole_number("validation_size", validation_size)
    available = len(order) - validation_size
    if available < 1:
        raise ValueError(
            f"data option validation_size = {validation_size:,} leaves nothing to train on: there are "
            f"{len(order):,} samples for training and validation together; choose a smaller one"
        )
    validation = order[available:] if validation_size else None
    return limited(order[:available], "train_size", train_size), validation


def limited(order, option, size):
    """The first `size` indices of an order; None for all of them."""
    if size is None:
        return order
    return order[: checks.whole_number(option, size, least=1, most=len(order))]
