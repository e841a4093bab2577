"""Checks of names and option values, with errors that say what was got and what is allowed."""

import difflib
from numbers import Integral, Real

import numpy as np

LARGEST_SEED = 2**32 - 1


class DataUnavailableError(OSError, ValueError):
    """A file is neither on this machine nor to be had from the network; the message says where to put it."""


def unknown_name(kind, name, allowed, remedy=""):
    """The `ValueError` for a name that is none of `allowed`; it names the nearest one and lists them all."""
    near = difflib.get_close_matches(str(name).lower(), allowed, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listing = ", ".join(allowed) or "none"
    return ValueError(f"unknown {kind} {name!r}.{hint} Allowed: {listing}{remedy}")


def whole_number(option, value, *, least=0, most=None):
    """`value` as an int between `least` and `most`; booleans and floats are refused with a `TypeError`."""
    upper = "" if most is None else f" and at most {most:,}"
    allowed = f"must be a whole number of at least {least:,}{upper}"
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"data option {option} = {value!r}: {allowed}")
    if value < least or (most is not None and value > most):
        raise ValueError(f"data option {option} = {value}: {allowed}")
    return int(value)


def seed(option, value):
    """`value` as a seed of NumPy's `RandomState`."""
    return whole_number(option, value, most=LARGEST_SEED)


def positive_number(option, value):
    """`value` as a positive, finite float."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"data option {option} = {value!r}: must be a positive, finite number")
    if not 0 < value < float("inf"):
        raise ValueError(f"data option {option} = {value}: must be a positive, finite number")
    return float(value)


def layer_widths(option, value):
    """`value` as a tuple of layer widths, each at least 1; an empty list means no hidden layer."""
    if not isinstance(value, list | tuple):
        raise TypeError(
            f"data option {option} = {value!r}: must be a list of layer widths such as [100, 100]"
        )
    return tuple(whole_number(f"{option}[{i}]", width, least=1) for i, width in enumerate(value))


def float_type(dtype):
    """`dtype` as a NumPy dtype, float32 or float64."""
    try:
        resolved = np.dtype(dtype)
    except TypeError:
        resolved = None
    if dtype is None or resolved is None or resolved.name not in ("float32", "float64"):
        raise ValueError(f"data dtype = {dtype!r}: must be 'float32' or 'float64'")
    return resolved
