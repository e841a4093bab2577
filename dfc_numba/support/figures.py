"""Figures, drawn with matplotlib (the extra `plot`) into files; the state of pyplot is never touched."""

import io
import os
import sys
import textwrap
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np

from dfc_numba.errors import MissingExtra
from dfc_numba.support.files import replacing

PANEL_SIZE = (5.2, 3.8)
LEGEND_COLUMNS = 3
FEW_EPOCHS = 20
CHARACTERS_PER_INCH = 13  # of small print
RESOLUTION, NOTEBOOK_RESOLUTION = 150, 90
# distinguishable for everyone (Okabe and Ito), without the yellow that is too light for lines
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


OUTSIDE = {
    "loc": "center left",
    "bbox_to_anchor": (1.0, 0.5),
    "frameon": False,
    "fontsize": "small",
    "handlelength": 1.6,
}


@dataclass(frozen=True)
class Curve:
    """A quantity epoch by epoch: mean and standard deviation over the seeds (NaN where there is one seed)."""

    name: str
    means: tuple
    stds: tuple


@dataclass(frozen=True)
class Panel:
    """The curves of one quantity; `label` is that of the vertical axis, the title where it is left out."""

    title: str
    curves: list
    label: str = ""


def new_figure(width, height):
    """Return an empty figure, sizes in inches.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        Figure = _figure_class()
    except ImportError:
        raise MissingExtra(
            "figures need matplotlib, which the extra plot installs: pip install 'dfc-numba[plot]'"
        ) from None
    return _shown_in_notebooks(Figure)(figsize=(width, height), layout="constrained")


@cache
def _shown_in_notebooks(Figure):
    """Return a class of figures that a notebook draws although pyplot does not know them."""

    class ShownFigure(Figure):
        def _repr_png_(self):
            image = io.BytesIO()
            self.savefig(image, format="png", dpi=NOTEBOOK_RESOLUTION)
            return image.getvalue()

    return ShownFigure


@contextmanager
def letters(points):
    """Draw text of this size inside the context."""
    from matplotlib import rc_context

    with rc_context({"font.size": points}):
        yield


def _figure_class():
    """Return matplotlib's class of figures, whatever backend a notebook has left in the environment."""
    if "matplotlib" in sys.modules:
        from matplotlib.figure import Figure

        return Figure
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        from matplotlib import rcParams
        from matplotlib.figure import Figure
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend:
        with suppress(ValueError):  # the notebook's own
            rcParams["backend"] = backend
    return Figure


def save(figure, path):
    """Write a figure atomically, in the format of the name's ending, PNG where it has none."""
    kind = Path(path).suffix.removeprefix(".") or "png"
    with replacing(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=RESOLUTION)


def draw(panels, path, note=""):
    """Write a figure with two panels per row: mean lines against the epoch, bands of one standard deviation.

    A name has the same colour in all panels; the note stands below.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    width, height = PANEL_SIZE
    figure = new_figure(2 * width, len(panels) // 2 * height)
    draw_panels(figure, panels, note)
    save(figure, path)


def draw_panels(figure, panels, note=""):
    """Draw panels, two per row, into a figure or a part of one, with one legend and a note below."""
    grid = list(figure.subplots(-(-len(panels) // 2), min(2, len(panels)), squeeze=False).flat)
    for axes, function in zip(grid, curves_of(panels).values(), strict=False):
        function(axes)
    for axes in grid[len(panels) :]:
        axes.remove()
    common_legend(figure, LEGEND_COLUMNS, "upper" if note else "lower")
    add_note(figure, note)


def curves_of(panels):
    """Return functions that draw a panel into axes, by its title; a name has the same colour in all of them."""
    shades = colours(curve.name for panel in panels for curve in panel.curves)
    return {panel.title: partial(_draw_panel, panel=panel, colours=shades) for panel in panels}


def common_legend(figure, columns, side="lower"):
    """Add one legend for all panels, below them, or above where a note is below."""
    lines = {line.get_label(): line for axes in figure.axes for line in axes.lines}
    if lines:
        figure.legend(lines.values(), lines, loc=f"outside {side} center", ncols=min(len(lines), columns))


def add_note(figure, text):
    """Add small print below the panels, in lines that the figure is wide enough for."""
    if text:
        width = figure.bbox.width / figure.dpi
        lines = textwrap.wrap(text, max(20, int(CHARACTERS_PER_INCH * width)))
        figure.supxlabel("\n".join(lines), x=0.01, horizontalalignment="left", fontsize="small", color="0.35")


def colours(names):
    """Return a colour for each name."""
    from matplotlib import colormaps

    names = list(dict.fromkeys(names))
    palette = COLOURS if len(names) <= len(COLOURS) else colormaps["tab20"].colors
    return {name: palette[index % len(palette)] for index, name in enumerate(names)}


def _draw_panel(axes, *, panel, colours):
    for curve in panel.curves:
        _draw_curve(axes, curve, colours[curve.name])
    axes.set(
        xlabel="epoch", ylabel=panel.label or panel.title, title=panel.title, yscale=_scale(panel.curves)
    )
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.grid(alpha=0.3)
    suit_ticks(axes)


def suit_ticks(axes):
    """Label few ticks between the powers of ten."""
    from matplotlib.ticker import LogLocator

    if axes.get_yscale() == "log":
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 4)))


def has_bands(panels):
    """Return whether any curve has a standard deviation."""
    return any(np.isfinite(curve.stds).any() for panel in panels for curve in panel.curves)


def _scale(curves):
    """Return "log" where the means differ by more than a factor of ten, else "linear"."""
    means = np.concatenate([curve.means for curve in curves])
    means = means[np.isfinite(means)]
    return "log" if len(means) and 0 < 10 * means.min() < means.max() else "linear"


def _draw_curve(axes, curve, colour):
    epochs, means, stds = 1 + np.arange(len(curve.means)), np.array(curve.means), np.array(curve.stds)
    marker = "o" if len(epochs) <= FEW_EPOCHS else None
    axes.plot(epochs, means, color=colour, marker=marker, markersize=3, label=curve.name)
    axes.fill_between(epochs, means - stds, means + stds, color=colour, alpha=0.2, linewidth=0)
