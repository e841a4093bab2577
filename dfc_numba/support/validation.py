"""Checks of arguments: every function says what it was given, what is allowed, and what to do."""

from numbers import Integral, Real

import numpy as np

from dfc_numba.support.ranges import LARGEST, NotNegative, Seed, Word, contains, in_words
from dfc_numba.support.wording import nearest

DTYPES = ("float32", "float64")


def choice(name, value, allowed):
    """Return `value` if it is one of `allowed`, else raise a ValueError that names the nearest."""
    if value in allowed:
        return value
    raise ValueError(
        f"{name} is {value!r}; allowed are {', '.join(map(repr, allowed))}{nearest(value, allowed)}"
    )


def dtype_of(value):
    """Return float32 or float64 as a NumPy dtype."""
    try:
        name = np.dtype(value).name
    except TypeError:
        name = value
    return np.dtype(choice("dtype", name, DTYPES))


def instance(name, value, kind):
    """Return `value` if it is a `kind`, else raise a TypeError."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, not {_described(value)}")
    return value


def flag(name, value):
    """Return `value` if it is True or False, else raise a TypeError."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} is {value!r}; True or False is allowed")
    return bool(value)


def number(name, value, kind=NotNegative, *, least=None):
    """Return `value` as a float in a range of `ranges`, and not below `least`, a bound that depends on other arguments."""
    allowed = in_words(kind) if least is None else f"a finite number >= {least:g}"
    wrong = f"{name} is {value!r}; {allowed} is allowed"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(wrong)
    if np.isfinite(value) and abs(value) > LARGEST:
        raise ValueError(f"{name} is {value!r}; at most {LARGEST:g} is allowed")
    if not contains(kind, value) or (least is not None and value < least):
        raise ValueError(wrong)
    return float(value)


def whole_number(name, value, kind=Word):
    """Return `value` as an int in a range of `ranges`."""
    wrong = f"{name} is {value!r}; {in_words(kind)} is allowed"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(wrong)
    if not contains(kind, value):
        raise ValueError(wrong)
    return int(value)


def seeds(name, value):
    """Return `value`, a seed or a list of them, for NumPy's generators."""
    for one in value if isinstance(value, list | tuple) else [value]:
        whole_number(name, one, Seed)
    return value


def as_array(name, value):
    """Return `value` as an array of any dtype; refuse rows that differ in length, and masked values."""
    if np.ma.is_masked(value):
        raise ValueError(f"{name} has masked elements; fill or leave out what is missing")
    try:
        return np.asarray(value)
    except ValueError:
        raise TypeError(f"{name} must be an array of numbers, not {_described(value)}") from None


def floats(name, value, shape, *, dtype="float64"):
    """Return `value` as a C-ordered float array of `shape` (None: any length), finite throughout.

    Raises:
        TypeError: for something that is not a numeric array.
        ValueError: for another shape, or a number that is not finite.
    """
    array = as_array(name, value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be an array of numbers, not {_described(value)}")
    with np.errstate(over="ignore"):  # what is too large for float32 becomes inf, and is refused as such
        array = np.ascontiguousarray(array, dtype)
    if array.ndim != len(shape) or any(
        n is not None and n != m for n, m in zip(shape, array.shape, strict=True)
    ):
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{name} has shape {array.shape}; expected ({wanted})")
    return finite(name, array)


def float_list(name, values, shapes):
    """Return `values`, a list with one array for each of `shapes`, as C-ordered float64 arrays (see `floats`)."""
    wanted = f"a list of {len(shapes)} arrays, of shapes {', '.join(map(str, shapes))}"
    if not isinstance(values, list | tuple):
        raise TypeError(f"{name} must be {wanted}, not {type(values).__name__}")
    if len(values) != len(shapes):
        raise ValueError(f"{name} has {len(values)} entries; it must be {wanted}")
    return [floats(f"{name}[{i}]", a, shape) for i, (a, shape) in enumerate(zip(values, shapes, strict=True))]


def finite(name, array):
    """Return the array if all of it is finite."""
    if not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(
            f"{name}{list(where)} is {array[where]} in {array.dtype}; every number must be finite"
        )
    return array


def silent() -> np.errstate:
    """Silence NumPy's warnings of numbers that are not finite, which are refused or flagged instead."""
    return np.errstate(invalid="ignore", divide="ignore", over="ignore")


def finite_result(what, result, remedy="numbers of this size are too large; scale them down"):
    """Return `result`, a number or an array, if all of it is finite; else raise a ValueError with the remedy."""
    if not np.isfinite(result).all():
        raise ValueError(f"{what} is not finite: {remedy}")
    return result


def samples(name, value, columns, *, count=None, dtype="float64"):
    """Return `value` as a (B, columns) array with at least one sample."""
    array = floats(name, value, (count, columns), dtype=dtype)
    if len(array) == 0:
        raise ValueError(f"{name} holds no samples (shape {array.shape}); at least one is needed")
    return array


def labels(name, value, classes, *, count=None):
    """Return `value` as (B,) class numbers in 0..classes - 1: integers, booleans, or floats that are whole numbers."""
    array = as_array(name, value)
    if array.dtype.kind not in "iubf" or array.ndim != 1:
        named = "; data.from_arrays numbers the names of classes" if array.dtype.kind in "OUS" else ""
        raise TypeError(f"{name} must be a one-dimensional array of integers, not {_described(value)}{named}")
    if array.dtype.kind == "f":
        whole = np.isfinite(array) & (array == np.round(array))
        if not whole.all():
            raise TypeError(
                f"{name} holds {array[np.argmin(whole)]}; class labels must be whole numbers, and targets of a "
                "regression have two axes, y[:, None]"
            )
    if array.dtype.kind in "bf":
        array = array.astype(np.int64)
    if count is not None and len(array) != count:
        raise ValueError(f"{name} has {len(array)} labels for {count} samples")
    if len(array) and not (array.min() >= 0 and array.max() < classes):
        raise ValueError(
            f"{name} holds labels from {array.min()} to {array.max()}; with {classes} outputs 0 to {classes - 1} are allowed"
        )
    return array


def _described(value):
    dtype = getattr(value, "dtype", None)
    return (
        f"{type(value).__name__} of dtype {dtype}, shape {value.shape}"
        if dtype is not None
        else repr(value)[:60]
    )
