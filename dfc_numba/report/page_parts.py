"""The parts of a page: sections with text, tables and charts, as plain values for the template and its script."""

import html
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite

import numpy as np

from dfc_numba.errors import MissingExtra
from dfc_numba.support.figures import COLOURS
from dfc_numba.support.output import printable

MOST_POINTS = 1000  # of a line
DIGITS = 5  # significant, of a number in a chart
DASHES = ("solid", "dash", "dot", "dashdot")  # tell lines apart where there are more than colours
# what files of others may raise where they are damaged
DAMAGE = (OSError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError, MissingExtra)


@dataclass(frozen=True)
class PageTable:
    """A table.

    Attributes:
        heading: texts. rows: lists of texts. caption: a sentence above it.
        folded: title under which it is folded away; "" to show it.
        marked: numbers of the rows that are stressed.
    """

    heading: list
    rows: list
    caption: str = ""
    folded: str = ""
    marked: tuple = ()


@dataclass(frozen=True)
class PageSection:
    """A part of a page.

    Attributes:
        title: its heading. text: sentences. tables: `PageTable`s. charts: dicts from `chart`.
        code: pairs (what it is, lines of text that are shown as they are).
        browser: minibatches to choose from, see `minibatches.browser`; None without.
    """

    title: str
    text: list = field(default_factory=list)
    tables: list = field(default_factory=list)
    charts: list = field(default_factory=list)
    code: list = field(default_factory=list)
    browser: dict | None = None


@dataclass(frozen=True)
class Page:
    """All of a page.

    Attributes:
        kind: "run", "comparison" or "sweep". name: of what it shows. status: a word, such as "done".
        facts: pairs (name, text) for the top. notes: sentences about what is missing or damaged. sections: `PageSection`s.
    """

    kind: str
    name: str
    status: str
    facts: list
    notes: list
    sections: list


def chart(title, y_label, lines, *, x_label="epoch", x=None, log=False):
    """Return a chart as the script of the page draws it.

    Args:
        lines: dicts from `line`. x: (points,) of the lines that have none of their own.
        log: whether the vertical axis is logarithmic.
    """
    shared = None if x is None else numbers(x)
    return {
        "title": label(title), "y": label(y_label), "x": label(x_label), "log": bool(log), "shared": shared, "lines": list(lines),
    }  # fmt: skip


def line(name, y, x=None, *, number=0, dash=None, faint=False, points=False, thick=False):
    """Return a line of a chart.

    Args:
        name: in the legend; "" for a line that is not in it. number: chooses colour and dash.
        faint: thin and pale. points: points alone. thick: drawn to be seen above the others.
    """
    found = {"name": label(name), "y": numbers(y), "colour": COLOURS[number % len(COLOURS)]}
    found["dash"] = dash or DASHES[number // len(COLOURS) % len(DASHES)]
    if x is not None:
        found["x"] = numbers(x)
    return found | {
        key: True for key, stated in {"faint": faint, "points": points, "thick": thick}.items() if stated
    }


def label(text):
    """Return a text for a chart, in which plotly.js finds neither tags nor placeholders."""
    return html.escape(printable(text)).replace("%{", "% {")


def numbers(values):
    """Return a list of numbers that JSON can hold: a few digits, None for what is not finite."""
    values = np.asarray(values, np.float64)
    return [float(f"{value:.{DIGITS}g}") if isfinite(value) else None for value in values.tolist()]


def thinned(count, most=MOST_POINTS):
    """Return indices of at most so many points, the first and the last among them."""
    return np.unique(np.linspace(0, max(0, count - 1), min(count, most)).round().astype(int))


def logarithmic(*arrays):
    """Return whether values are positive and differ by more than a factor of ten."""
    values = np.concatenate([np.ravel(np.asarray(array, np.float64)) for array in arrays] or [[]])
    values = values[np.isfinite(values)]
    return bool(len(values) and 0 < 10 * values.min() < values.max())


@contextmanager
def noting(notes, what):
    """Turn errors and warnings within into notes: the page shows what there is, and says what is damaged."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except DAMAGE as error:
            notes.append(f"{what}: {error or type(error).__name__}")
    notes += [text for warning in caught if (text := str(warning.message)) not in notes]


def built(parts, notes):
    """Return the sections that functions return, without those that return None; what cannot be built is noted by its name."""
    sections = []
    for name, part in parts.items():
        with noting(notes, f"{name} left out"):
            sections.append(part())
    return [section for section in sections if section is not None]


def text_of(value):
    """Return a number or another plain value as people read it; an empty text for nothing."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.5g}" if isfinite(value) else ""
    return str(value)


def percent(fraction):
    """Return a fraction as a text in percent; an empty text where it is not finite."""
    return f"{100 * fraction:.2f} %" if isfinite(fraction) else ""
