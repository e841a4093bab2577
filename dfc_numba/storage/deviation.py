"""How far an array is from a stored variable: bit for bit first, then by how much and where most."""

from dataclasses import dataclass

import numpy as np

from dfc_numba.storage.layout import pieces


@dataclass(frozen=True)
class Largest:
    """A largest deviation, and its place as {"step": 17, "sample": 3, "unit_2": 5}."""

    value: float
    place: dict


@dataclass(frozen=True)
class Deviation:
    """What is different in a variable.

    Attributes:
        variable: its name in the file. count: how many of its `size` numbers have other bits.
        absolute, relative: the `Largest` |new - stored|, and |new - stored| / |stored|, of one number. Infinite where one of
            the two is not finite.
    """

    variable: str
    count: int
    size: int
    absolute: Largest
    relative: Largest


def deviation(stored, array, coordinates):
    """The `Deviation` of an array from a stored variable, None if all bits are the same.

    The array is rounded to the stored dtype first. Every NaN is the same as any other.

    Args:
        stored: a `RecordVariable`, read a few MB at a time.
        coordinates: arrays of labels by the names of dimensions; others are counted from 0.

    Raises:
        ValueError: if the shapes differ. OSError: if the variable cannot be read.
    """
    if stored.shape != array.shape:
        raise ValueError(f"{stored.name} is stored in shape {stored.shape}; its recipe gives {array.shape}")
    count, largest = 0, [(-1.0, ()), (-1.0, ())]
    for piece in pieces(stored.shape, 1, stored.dtype.itemsize):
        differ, *distances = _distances(stored[piece], array[piece])
        if not differ.any():
            continue
        count += int(differ.sum())
        largest = [
            max(before, _largest(there, piece.start), key=lambda one: one[0])
            for before, there in zip(largest, distances, strict=True)
        ]
    if count == 0:
        return None
    places = [Largest(value, _place(stored.dims, place, coordinates)) for value, place in largest]
    return Deviation(stored.name, count, array.size, *places)


def _distances(stored, array):
    """(which bits differ, absolute deviations, relative deviations); the latter are 0 where the bits are the same."""
    with np.errstate(over="ignore"):
        array = array.astype(stored.dtype)
    bits = f"u{stored.dtype.itemsize}"
    differ = np.ascontiguousarray(stored).view(bits) != np.ascontiguousarray(array).view(bits)
    stored, array = stored.astype(np.float64), array.astype(np.float64)
    differ &= ~(np.isnan(stored) & np.isnan(array))
    absolute, relative = np.zeros(stored.shape), np.zeros(stored.shape)
    with np.errstate(invalid="ignore"):
        np.subtract(array, stored, out=absolute, where=differ)
    absolute = np.nan_to_num(np.abs(absolute), nan=np.inf, posinf=np.inf)
    apart = absolute > 0  # 0 and -0 are not
    with np.errstate(divide="ignore", invalid="ignore"):
        np.divide(absolute, np.abs(stored), out=relative, where=apart)
    return differ, absolute, np.nan_to_num(relative, nan=np.inf, posinf=np.inf)


def _largest(distances, start):
    """(value, indices) of the largest, for a part that begins at `start` along the first axis."""
    first, *rest = np.unravel_index(np.argmax(distances), distances.shape)
    return float(distances[(first, *rest)]), (first + start, *rest)


def _place(dims, indices, coordinates):
    return {
        dim: int(coordinates[dim][index]) if dim in coordinates else int(index)
        for dim, index in zip(dims, indices, strict=True)
    }
