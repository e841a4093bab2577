"""What says of a result that it is not finite: networks, data and options may be so large that numbers overflow."""

from dataclasses import fields

import numpy as np


class Flagged:
    """A result, a dataclass, whose `diverged` says whether some number of it is not finite."""

    @property
    def diverged(self):
        """Whether some number is not finite."""
        return not is_finite([getattr(self, field.name) for field in fields(self)])


def is_finite(value):
    """Whether all numbers are finite in an array, or in lists, tuples and dicts of them; anything else has none."""
    if isinstance(value, list | tuple):
        return all(map(is_finite, value))
    if isinstance(value, dict):
        return is_finite([*value.values()])
    return not isinstance(value, float | np.ndarray) or bool(np.isfinite(value).all())


def finite_samples(count, *arrays):
    """(B,) whether all numbers of a sample are finite in arrays (B, ...), and in lists of them."""
    finite = np.ones(count, bool)
    for array in (one for item in arrays for one in (item if isinstance(item, list) else [item])):
        finite &= np.isfinite(array).reshape(count, -1).all(axis=1)
    return finite


def lost_samples(finite, *sums):
    """(B,) samples to flag: those that are not `finite`; all of them where only sums over them, such as an update, are not."""
    return ~finite if is_finite(sums) or not finite.all() else np.ones_like(finite)
