"""What says of a result that it is not finite: networks, data and options may be so large that numbers overflow.

`Convergence` follows iterations towards a rest, sample by sample, and stops those samples that run away.
"""

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


SMALLEST_STATE = 1e-5  # added to the norm that a change is relative to
LARGEST_GAIN = 1.0 / np.finfo(np.float64).eps


class Convergence:
    """Judges, sample by sample, whether an iteration that starts at 0 comes to rest or runs away.

    A sample runs away where its relative change is not finite, or the norm of its states exceeds that of 1 and its first step
    (which holds inputs, biases and targets) by a factor of 1/eps = 4.5e15: a rest out there would not have one correct digit. It
    keeps its states from before that step, and neither its numbers nor its change affect the other samples.

    Args:
        count: B. threshold: relative change of the joined states in a step below which a sample is at rest; 0: none is.
        running: (B,) samples that take part; None for all.

    Attributes:
        running: (B,) those of them that have not run away.
        change: (B,) relative change in the last step; infinite for the others.
    """

    def __init__(self, count, threshold, running=None):
        self.running = np.ones(count, bool) if running is None else running.copy()
        self.change = np.full(count, np.inf)
        self._threshold, self._size, self._bound = threshold, np.zeros(count), None

    def step(self, new, old):
        """Return the states after a step, a list of (B, n): `new`, but `old` for samples that have run away."""
        moved = np.sqrt(sum(np.sum((a - b) ** 2, axis=1) for a, b in zip(new, old, strict=True)))
        size = np.sqrt(sum(np.sum(a**2, axis=1) for a in new))
        self.change = moved / (SMALLEST_STATE + self._size)
        if self._bound is None:
            self._bound = LARGEST_GAIN * (1.0 + size)
        self.running &= np.isfinite(self.change) & (size <= self._bound)
        self._size = size
        if self.running.all():
            return new
        self.change[~self.running] = np.inf
        return [np.where(self.running[:, None], a, b) for a, b in zip(new, old, strict=True)]

    @property
    def resting(self):
        """(B,) whether a sample is at rest."""
        return self.change < self._threshold

    @property
    def over(self):
        """Whether all samples rest that have not run away."""
        return bool(self.resting[self.running].all())
