"""Short representations of results: shapes of arrays instead of their numbers."""

from dataclasses import fields

import numpy as np


def short_repr(item):
    """Return "Kind(name=float64 (T, B, n), ...)" for a dataclass; what is None, empty, or hidden from repr is left out."""
    shown = ((field.name, getattr(item, field.name)) for field in fields(item) if field.repr)
    parts = [f"{name}={_shape(value)}" for name, value in shown if value is not None and not _is_empty(value)]
    return f"{type(item).__name__}({', '.join(parts)})"


def _is_empty(value):
    return isinstance(value, list | tuple | dict) and not len(value)


def _shape(value):
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    if isinstance(value, list | tuple) and all(isinstance(array, np.ndarray) for array in value):
        return f"[{', '.join(str(array.shape) for array in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(map(str, value)) + "}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
