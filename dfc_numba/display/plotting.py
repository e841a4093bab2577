"""Figures from Python, of objects in memory or files: `plot_trajectory`, `plot_run`, `plot_comparison`.

Each returns a matplotlib `Figure`, which a notebook shows, or draws into axes that are passed. Needs the extra `plot`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, TypeAlias

from dfc_numba.display import plots, trajectory_figures
from dfc_numba.dynamics.simulation import Trajectory
from dfc_numba.inversion.trajectory import InversionTrajectory
from dfc_numba.relatives.equilibrium_trajectory import EquilibriumTrajectory
from dfc_numba.runs import summary
from dfc_numba.runs.run_directory import METRICS_NAME
from dfc_numba.session import Comparison, TrainingResult
from dfc_numba.storage.stored import StoredRecord
from dfc_numba.support import figures
from dfc_numba.support.array_types import PathLike
from dfc_numba.support.figures import OUTSIDE
from dfc_numba.support.validation import choice
from dfc_numba.support.wording import nearest

Axes: TypeAlias = Any  # of matplotlib, an extra
Figure: TypeAlias = Any
Panels: TypeAlias = str | Sequence[str] | None
ROOMY = 3.6, 2.6  # inches of a panel above which letters have their full size
TIGHTEST = 0.5  # of that
SMALLEST_LETTERS = 0.6
KINDS = {
    "controller": Trajectory, "inversion": InversionTrajectory, "equilibrium": EquilibriumTrajectory,
}  # fmt: skip
LABELS = ("title", "xlabel", "ylabel")
OPTIONS = """
        ax: axes to draw into, or a list of them, one for each panel; None for a new figure.
        panels: name of a panel or a list of names; None for all that there are.
        names: dict from names in the legend to your own.
        labels: dict with any of "title", "xlabel", "ylabel", for all panels that are drawn.
        size: (width, height) of a new figure in inches; the panels are arranged to fit.
        legend: whether there is one.
        out: file to write as well; the ending says the format (png, pdf, svg).

    Returns:
        The matplotlib `Figure`.

    Raises:
        ValueError, TypeError, OSError: for what cannot be read or drawn, or a panel that there is not.
        MissingExtra: matplotlib is not installed.
    """


def plot_trajectory(
    source: Any,
    ax: Axes | Sequence[Axes] | None = None,
    *,
    panels: Panels = None,
    sample: int | None = None,
    units: Sequence[tuple[int, int]] = (),
    phase: str | None = None,
    record: int | None = None,
    names: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    size: tuple[float, float] | None = None,
    legend: bool = True,
    out: PathLike | None = None,
) -> Figure:
    """Draw one sample of a feedback phase, of a dynamic inversion, or of equilibrium propagation.

    Args:
        source: a `Trajectory`, an `InversionTrajectory`, an `EquilibriumTrajectory`, a record of `open_trajectories`, or the
            path of a file or run directory. Panels of a feedback phase (T time points): "output", "control", "error" of all
            stored samples, "differences" that the layers learn from, and "unit LAYER:UNIT", its compartments, or "units" for
            all of these; of an inversion "r_x", "r_y", "distance", "inversion", "layer LAYER"; of equilibrium propagation
            "output", "nudge", "speed", "layer LAYER".
        sample: position of the sample in its minibatch; None for the first that is stored.
        units: pairs (layer from 1, unit) to show; None for one of each layer.
        phase, record: which record of a file, by default the last one of the forward phase."""
    with ExitStack() as stack:
        if isinstance(source, str | Path):
            source = stack.enter_context(plots.stored_record(Path(source), phase, record, optional=False))
        elif phase is not None or record is not None:
            raise ValueError(
                f"phase = {phase!r}, record = {record!r} choose a record of a file; leave them out for an object"
            )
        if isinstance(source, StoredRecord):
            kind = source.records.kind.name
        elif (kind := next((name for name, made in KINDS.items() if isinstance(source, made)), None)) is None:
            raise TypeError(
                f"plot_trajectory draws a Trajectory, a record or the path of a file, not {type(source).__name__}"
            )
        trace = plots.TRACES[kind](source, sample=sample, units=units)
        drawing = _Drawing(ax, names, labels, size, legend, out)
        chosen = drawing.chosen(trace.panels(), panels, groups={"units": "unit ", "layers": "layer "})
        if drawing.given(chosen):
            for axes, function in zip(drawing.axes, chosen.values(), strict=True):
                trajectory_figures.draw_panel(axes, trace, function)
            return drawing.finished()
        with drawing.new_figure(len(chosen), trajectory_figures.COLUMNS) as figure:
            trajectory_figures.draw(figure, trace, chosen, columns=drawing.columns)
        return drawing.finished(figure)


def plot_run(
    source: Any,
    ax: Axes | Sequence[Axes] | None = None,
    *,
    panels: Panels = None,
    names: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    size: tuple[float, float] | None = None,
    legend: bool = True,
    out: PathLike | None = None,
) -> Figure:
    """Draw the learning curves of a run, and what was measured of the theory, epoch by epoch.

    Args:
        source: the result of `dfc.train`, a list of its `metrics` (one dict per epoch), or the path of a run directory. Panels
            are "loss", "accuracy", and those of the measurements in a run directory, such as "angles of the update"."""
    measured = None
    if isinstance(source, str | Path):
        path = Path(source)
        if not (path / METRICS_NAME).is_file():
            raise FileNotFoundError(f"{path} is not a run directory: it has no {METRICS_NAME}")
        rows, measured = plots.read_epochs(path), plots.measured(path)
    else:
        rows = source.metrics if isinstance(source, TrainingResult) else source
        if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
            raise TypeError(
                f"plot_run draws the result of dfc.train, its metrics or the path of a run, not {type(source).__name__}"
            )
    curves = figures.curves_of(plots.learning_panels(rows))
    found = dict(curves)
    if measured is not None:
        found |= {
            name: partial(trajectory_figures.draw_panel, shown=measured, function=function)
            for name, function in measured.panels().items()
        }
    return _draw_all(
        found, _Drawing(ax, names, labels, size, legend, out), panels, common=found.keys() == curves.keys()
    )


def plot_comparison(
    source: Any,
    ax: Axes | Sequence[Axes] | None = None,
    *,
    panels: Panels = None,
    names: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    size: tuple[float, float] | None = None,
    legend: bool = True,
    out: PathLike | None = None,
) -> Figure:
    """Draw the learning curves of several methods: means over the seeds, and bands of one standard deviation.

    Args:
        source: the result of `dfc.compare`, the folder of a comparison, or a dict from a name to the result of `dfc.train`, or to
            a list of them, one per seed. Panels are "test error (%)" (of a regression "test loss") and "train loss"."""
    drawn, note = summary.comparison_panels(_courses(source))
    drawing = _Drawing(ax, names, labels, size, legend, out)
    return _draw_all(figures.curves_of(drawn), drawing, panels, note=note)


for _function in (plot_trajectory, plot_run, plot_comparison):
    _function.__doc__ = f"{_function.__doc__}{OPTIONS}"


def _courses(source):
    """Return (name, status, rows) of each run."""
    if isinstance(source, Comparison):
        return [(each.run.source.name, each.status, each.rows) for each in source.runs]
    if isinstance(source, Mapping):
        results = {name: each if isinstance(each, list | tuple) else [each] for name, each in source.items()}
        if results and all(isinstance(one, TrainingResult) for each in results.values() for one in each):
            return [(str(name), one.status, one.metrics) for name, each in results.items() for one in each]
    if isinstance(source, str | Path):
        return summary.read_courses(source)
    raise TypeError(
        "plot_comparison draws the result of dfc.compare, its folder, or a dict of results of dfc.train, not "
        f"{type(source).__name__}"
    )


def _draw_all(found, drawing, panels, *, note="", common=True):
    """Draw panels with functions of axes."""
    if not found:
        raise ValueError("there is nothing to draw: no epoch is complete, or no run is done")
    chosen = drawing.chosen(found, panels)
    if drawing.given(chosen):
        for axes, function in zip(drawing.axes, chosen.values(), strict=True):
            function(axes)
        return drawing.finished()
    with drawing.new_figure(len(chosen), 2) as figure:
        grid = list(figure.subplots(ceil(len(chosen) / drawing.columns), drawing.columns, squeeze=False).flat)
        for axes, function in zip(grid, chosen.values(), strict=False):
            function(axes)
            if drawing.legend and not common:
                axes.legend(**OUTSIDE)
        for axes in grid[len(chosen) :]:
            axes.remove()
        drawing.rename(figure.axes)
        if drawing.legend and common:
            figures.common_legend(figure, drawing.legend_columns(figure), "upper" if note else "lower")
        figures.add_note(figure, note)
    return drawing.finished(figure)


class _Drawing:
    """The options of a figure."""

    def __init__(self, ax, names, labels, size, legend, out):
        self.names, self.labels, self.legend, self.out = dict(names or {}), dict(labels or {}), legend, out
        for key in self.labels:
            choice("a key of labels", key, LABELS)
        self.axes = (
            None
            if ax is None
            else list(ax.flat if hasattr(ax, "flat") else ax if isinstance(ax, list | tuple) else [ax])
        )
        if self.axes is not None and not all(hasattr(axes, "plot") for axes in self.axes):
            raise TypeError(f"ax is {type(ax).__name__}; must be matplotlib axes, or a list of them")
        if size is not None and self.axes is not None:
            raise ValueError("size is that of a new figure; leave it out where ax is given")
        if size is not None and not (len(size) == 2 and all(0 < length < 200 for length in size)):
            raise ValueError(f"size = {size!r}: must be (width, height) in inches")
        self.size = size

    def chosen(self, found, wanted, groups=()):
        """Return the panels that are wanted, by name."""
        if wanted is None:
            return found
        chosen = {}
        for name in [wanted] if isinstance(wanted, str) else wanted:
            of_group = [one for one in found if name in groups and one.startswith(groups[name])]
            if name not in found and not of_group:
                known = [
                    *found,
                    *(group for group in groups if any(one.startswith(groups[group]) for one in found)),
                ]
                raise ValueError(
                    f"there is no panel {name!r}{nearest(name, known)}; panels are {', '.join(map(repr, known))}"
                )
            chosen |= {one: found[one] for one in of_group or [name]}
        return chosen

    def given(self, chosen):
        """Return whether axes are given; they must be as many as panels."""
        if self.axes is not None and len(self.axes) != len(chosen):
            raise ValueError(
                f"ax has {len(self.axes)} axes for {len(chosen)} panels ({', '.join(map(repr, chosen))}); choose with panels"
            )
        return self.axes is not None

    @contextmanager
    def new_figure(self, count, most_columns):
        """Yield a new figure for a number of panels; small panels have small letters."""
        width, height = figures.PANEL_SIZE
        size, columns = self.size, min(count, most_columns)
        if size is None:
            size = columns * width, ceil(count / columns) * height + 0.4
        room = {
            n: min(size[0] / n / ROOMY[0], size[1] / ceil(count / n) / ROOMY[1])
            for n in range(1, most_columns + 1)
        }
        self.columns = columns if self.size is None else max(room, key=room.get)
        if room[self.columns] < TIGHTEST:
            raise ValueError(
                f"size = {size!r} is too small for {count} panels; choose a larger one, or some with panels"
            )
        letters = 10.0 * min(1.0, max(SMALLEST_LETTERS, room[self.columns]))
        figure = figures.new_figure(*size)
        with figures.letters(letters):
            yield figure
        for axes in figure.axes:
            axes.tick_params(labelsize=letters)
            axes.yaxis.get_offset_text().set_fontsize(letters)

    def legend_columns(self, figure):
        """Return how many names of the legend fit side by side."""
        longest = max(len(line.get_label()) for axes in figure.axes for line in axes.lines)
        return max(1, int(figure.get_figwidth() * figures.CHARACTERS_PER_INCH / (longest + 6)))

    def rename(self, all_axes):
        """Give lines the names, and panels the labels, that are asked for."""
        for axes in all_axes:
            for line in axes.lines:
                line.set_label(self.names.get(line.get_label(), line.get_label()))
            axes.set(**self.labels)

    def finished(self, figure=None):
        """Return the figure, with names, labels and legends, written to a file if that is asked for."""
        axes = self.axes if figure is None else figure.axes
        self.rename(axes)
        for one in axes:
            shown = one.get_legend()
            if shown is not None and figure is not None:
                for text in shown.get_texts():
                    text.set_text(self.names.get(text.get_text(), text.get_text()))
                shown.set_visible(self.legend)
                shown.set_in_layout(self.legend)
            elif figure is None and self.legend and one.get_legend_handles_labels()[1]:
                one.legend(frameon=False, fontsize="small", handlelength=1.6)
        figure = axes[0].get_figure() if figure is None else figure
        if self.out is not None:
            figures.save(figure, self.out)
        return figure
