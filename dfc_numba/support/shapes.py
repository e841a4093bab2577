"""Short representations of results: shapes of arrays instead of their numbers, as text and as HTML for notebooks."""

from dataclasses import fields
from html import escape
from math import isnan

import numpy as np

LONGEST = 60  # characters of a value
CELL = 'style="text-align: left"'


def short_repr(item):
    """Return "Kind(name=float64 (T, B, n), ...)" for a dataclass; what is None, empty, or hidden from repr is left out."""
    return f"{type(item).__name__}({', '.join(f'{name}={text}' for name, text in _shown(item))})"


def html_repr(item):
    """Return the same as an HTML table with a row for each field."""
    return html_table(type(item).__name__, ("", ""), _shown(item))


def html_table(title, heading, rows):
    """Return a table of texts as HTML, under a title; texts are escaped, numbers shortened."""
    lines = [f"<b>{escape(title)}</b>", "<table>"]
    if any(heading):
        lines.append("<tr>" + "".join(f"<th {CELL}>{escape(cell)}</th>" for cell in heading) + "</tr>")
    lines += [
        "<tr>" + "".join(f"<td {CELL}>{escape(shortened(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    ]
    return "\n".join([*lines, "</table>"])


def shortened(value):
    """Return a value as a short text: a float with four digits, nothing for None and NaN."""
    if isinstance(value, float | np.floating):
        return "" if isnan(value) else f"{value:.4g}"
    return "" if value is None else str(value)


def shape_of(value):
    """Return "float64 (T, B, n)" for an array, shapes for a list of arrays, a short repr for anything else."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    if isinstance(value, list | tuple) and any(isinstance(array, np.ndarray) for array in value):
        return f"[{', '.join(str(getattr(array, 'shape', array)) for array in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(map(str, value)) + "}"
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _shown(item):
    """Return (name, text) of the fields of a dataclass or named tuple that say something."""
    names = getattr(item, "_fields", None) or [field.name for field in fields(item) if field.repr]
    values = ((name, getattr(item, name)) for name in names)
    return [(name, shape_of(value)) for name, value in values if value is not None and not _is_empty(value)]


def _is_empty(value):
    return isinstance(value, list | tuple | dict | str) and not len(value)
