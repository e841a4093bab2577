"""The stream of an online simulation: pairs of an input and a target, held or given for every step, checked one by one."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain

import numpy as np

from dfc_numba.support.ranges import Steps
from dfc_numba.support.validation import as_array, floats, whole_number


@dataclass(frozen=True)
class Segment:
    """One pair of the stream, T Euler steps long.

    Attributes:
        number: of the segment in the stream, from 0.
        x: (T, B, n_0), or (1, B, n_0) where it is held; in the network's dtype.
        target: (T, B, n_L) or (1, B, n_L) in float64, or a function of network and input.
        steps: T. moves: whether x is a series.
    """

    number: int
    x: np.ndarray
    target: np.ndarray | Callable
    steps: int
    moves: bool

    @property
    def count(self):
        """Number of samples."""
        return self.x.shape[1]

    def resolved(self, network):
        """Return the target as an array; a function is called with the network as it is now."""
        if not callable(self.target):
            return self.target
        x = self.x if self.moves else self.x[0]
        value = self.target(network(), x)
        target = _over_time(_named("target", self.number), value, network().sizes[-1], np.float64)
        _check_times(self.number, self.steps, [len(target)] if np.ndim(value) == 3 else [])
        return _same_count(self.number, target, self.count)


def read(stream, network, controller, steps=None):
    """Return (iterator of the stream's segments, the first of them, number of Euler steps or None where not known).

    A list is checked before it is run; other iterables, which may be endless, one segment at a time. `steps` bounds the
    number of steps.

    Raises:
        ValueError, TypeError: for a stream that is empty or no iterable of pairs, and for arrays that do not fit.
    """
    if isinstance(stream, np.ndarray | str | dict) or not isinstance(stream, Iterable):
        raise TypeError(
            f"stream is {type(stream).__name__}; expected an iterable of pairs (x, target), for one pair [(x, target)]"
        )
    limit = None if steps is None else whole_number("steps", steps, Steps)
    segments = _checked(stream, network, controller)
    if isinstance(stream, list | tuple):
        segments = list(segments)
        length = sum(segment.steps for segment in segments)
        limit = length if limit is None else min(limit, length)
        segments = iter(segments)
    first = next(segments, None)
    if first is None:
        raise ValueError("stream is empty; at least one pair (x, target) is needed")
    return chain([first], segments), first, limit


def _checked(stream, network, controller):
    """Yield the segments of a stream; all must have as many samples as the first."""
    count = None
    for number, pair in enumerate(stream):
        segment = _segment(number, pair, network, controller)
        count = segment.count if count is None else count
        _same_count(number, segment.x, count)
        yield segment


def _segment(number, pair, network, controller):
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError(
            f"segment {number} of the stream is {type(pair).__name__}; expected a pair (x, target)"
        )
    x = as_array(_named("x", number), pair[0])
    target = pair[1] if callable(pair[1]) else as_array(_named("target", number), pair[1])
    series = [len(value) for value in (x, target) if getattr(value, "ndim", 0) == 3]
    steps = series[0] if series else controller.steps
    _check_times(number, steps, series)
    moves = x.ndim == 3
    x = _over_time(_named("x", number), x, network.sizes[0], network.dtype)
    if not callable(target):
        target = _over_time(_named("target", number), target, network.sizes[-1], np.float64)
        _same_count(number, target, x.shape[1])
    return Segment(number, x, target, steps, moves)


def _named(name, number):
    return f"segment {number} of the stream: {name}"


def _over_time(name, value, columns, dtype):
    """Return a value that is held, (B, n), or a series (T, B, n), as (1, B, n) or (T, B, n)."""
    array = as_array(name, value)
    if array.ndim == 3:
        array = floats(name, array, (None, None, columns), dtype=dtype)
    else:
        array = floats(name, array, (None, columns), dtype=dtype)[None]
    if array.size == 0:
        raise ValueError(
            f"{name} is empty (shape {np.shape(value)}); at least one sample and one step are needed"
        )
    return array


def _check_times(number, steps, series):
    if any(length != steps for length in series):
        raise ValueError(
            f"segment {number} of the stream takes {steps} steps, but has a series of {series[-1]}; inputs and targets are "
            "series (T, B, n) of as many steps, or values (B, n) that are held"
        )


def _same_count(number, array, count):
    if array.shape[1] != count:
        raise ValueError(
            f"segment {number} of the stream has an array for {array.shape[1]} samples where there are {count}; the state "
            "is carried from segment to segment, so all inputs and targets have the same number of samples"
        )
    return array
