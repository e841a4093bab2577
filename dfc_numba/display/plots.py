"""The figures of `dfc plot`: a record of a trajectory file, the learning curves of a run, or both."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import cycle
from math import isnan, nan
from pathlib import Path

from dfc_numba.display import equilibrium_figures, trajectory_figures
from dfc_numba.display.trajectory_figures import wide_scale
from dfc_numba.runs.run_directory import ANALYSIS_NAME, read_epochs
from dfc_numba.storage.analysis_file import read_course
from dfc_numba.storage.reader import open_trajectories
from dfc_numba.storage.replay import chosen
from dfc_numba.support.array_types import PathLike
from dfc_numba.support.figures import PANEL_SIZE, Curve, Panel, colours, draw_panels, new_figure, save

# --- what was measured of the theory ------------------------------------------------------------------------

DEGREES = "degrees"
STYLES = ("-", "--", ":", "-.")  # so that curves on top of each other are seen
# title, label of the axis, and the measurements with their names in the legend
PANELS = (
    ("angles of the update", DEGREES, {
        "angle_bp": "BP", "angle_gn": "GN", "angle_gn_damped": "GN, damped", "angle_mn": "MN",
        "angle_mn_damped": "MN, damped", "angle_ssa": "SSA", "angle_effort": "effort",
    }),
    ("decrease of the loss along", "per unit of length", {
        "decrease_own": "its update", "decrease_bp": "BP", "decrease_gn": "GN", "decrease_gn_damped": "GN, damped",
        "decrease_mn": "MN", "decrease_mn_damped": "MN, damped", "decrease_ssa": "SSA", "decrease_effort": "effort",
    }),
    ("angles of the feedback weights", DEGREES, {
        "angle_q_transpose": "$J^T$", "angle_q_pinv": "$J^+$", "angle_q_damped": "damped, best γ",
    }),
    ("conditions", "ratio", {"condition_2": "condition 2", "dev_r": "deviation of norms", "null_space": "in the null space"}),
    ("eigenvalues, the worst sample", "largest real part (1/$\\tau_u$)", {
        "eig_instantaneous": "instantaneous", "eig_integral": "$A_I$", "eig_proportional": "$A_{PI}$",
    }),
    ("Euler step, the worst sample", "radius; dt ($\\tau_u$); fraction", {
        "euler_radius": "spectral radius", "largest_dt": "largest stable dt", "verdict": "stable samples",
    }),
    ("control", "relative size", {
        "effort": "effort", "feedback_ratio": "feedback / feedforward", "nonlinearity": "distance from SSA",
    }),
)  # fmt: skip


class Measured:
    """The panels of an analysis, for `dfc_numba.display.trajectory_figures`.

    Args:
        arrays: measurements by name, each (times,), and "minibatches" (times,).
    """

    title, time_label = "measured on the probe batch", "minibatches"

    def __init__(self, arrays):
        self.arrays = arrays

    def panels(self):
        """Return the functions that draw the panels with measurements, by their titles."""
        return {panel[0]: partial(_draw, panel=panel) for panel in PANELS if {*panel[2]} & {*self.arrays}}

    def note(self, panels):
        """Return an empty note: nothing is left out."""
        return ""


def _draw(axes, measured, *, panel):
    title, label, names = panel
    found = {text: measured.arrays[name] for name, text in names.items() if name in measured.arrays}
    for (text, values), colour, style in zip(found.items(), colours(found).values(), cycle(STYLES)):
        marker = "." if len(values) == 1 else None
        axes.plot(measured.arrays["minibatches"], values, style, label=text, marker=marker, color=colour)
    axes.set(title=title, ylabel=label, yscale=_scale(label, found.values()))


def _scale(label, curves):
    """Return "linear" for angles and where something is not above zero, else a logarithmic scale if wide."""
    positive = label != DEGREES and not any((values <= 0).any() for values in curves)
    return wide_scale(*curves) if positive else "linear"


# --- figures of files and runs ------------------------------------------------------------------------------

RUN_FIGURE = "figure.png"
SPLITS = {"train": "training", "val": "validation", "test": "test"}
SCORES = {"loss": "mean loss per sample", "accuracy": "fraction correct"}  # with labels of the axes
TITLE_HEIGHT = 0.4
TRACES = {
    "controller": trajectory_figures.control_trace,
    "inversion": trajectory_figures.inversion_trace,
    "equilibrium": equilibrium_figures.equilibrium_trace,
}  # by the kind of simulation


def plot(
    path: PathLike,
    out: PathLike | None = None,
    *,
    phase: str | None = None,
    record: int | None = None,
    sample: int | None = None,
    units: Sequence[tuple[int, int]] = (),
) -> Path:
    """Draw what a trajectory file or a run directory holds.

    Of a file one record is drawn: the output and its target, the control signal, errors, how far the layers are moved, and
    the compartments of some units; of a dynamic inversion its states, their distance to rest, the error of the inversion; of
    equilibrium propagation the output and its target, how fast the layers move, how far the nudge takes them, some units.
    Of a run the learning curves are drawn too, what was measured of the theory, and a record only where there is one.

    Args:
        path: a trajectory file or a run directory.
        out: file of the figure, whose ending says the format (png, pdf, svg); None for a PNG beside the file, or in the run
            directory. An older one is replaced.
        phase: of the record, by default "forward", or the last one that there is. record: its number, by default the last.
        sample: position of the sample in its minibatch, by default the first that is stored.
        units: pairs (layer, unit), layers from 1, of which the compartments are drawn; by default one of each layer: that
            which receives the largest feedback. Of a dynamic inversion r_x of the chosen units is drawn.

    Returns:
        the path of the figure.

    Raises:
        OSError, ValueError: for a file or record that cannot be read or drawn. MissingExtra: matplotlib is not installed.
    """
    path = Path(path)
    out = Path(out) if out else path / RUN_FIGURE if path.is_dir() else path.with_suffix(".png")
    curves = learning_panels(read_epochs(path))
    with stored_record(path, phase, record, optional=len(curves) > 0) as stored:
        shown = [measured(path)]
        if stored:
            shown.append(TRACES[stored.records.kind.name](stored, sample=sample, units=units))
        save(_figure(path, curves, [one for one in shown if one]), out)
    return out


def unit(text):
    """Return (layer, unit) of a text LAYER:UNIT."""
    layer, colon, number = text.partition(":")
    if not (colon and layer.isdigit() and number.isdigit()):
        raise ValueError(f"{text!r} is not a unit; write the layer, from 1, and the unit, from 0, as 2:17")
    return int(layer), int(number)


@contextmanager
def stored_record(path, phase, record, optional):
    """Yield a record with a trajectory; None where there is none and nothing was asked for."""
    try:
        file = open_trajectories(path)
    except FileNotFoundError:
        if not optional or phase is not None or record is not None:
            raise
        yield None
        return
    with file:
        phase = phase or ("forward" if "forward" in file.phases else file.phases[-1])
        (stored,) = chosen(file, phase, -1 if record is None else record)
        yield None if optional and record is None and "position" not in stored.variables else stored


def _figure(path, curves, shown):
    """Return a figure of the learning curves, above what else is shown."""
    width, height = PANEL_SIZE
    n_rows = [1] * bool(curves) + [trajectory_figures.rows(one.panels()) for one in shown]
    columns = trajectory_figures.COLUMNS if shown else len(curves)
    heights = [TITLE_HEIGHT + height * rows for rows in n_rows]
    figure = new_figure(columns * width, sum(heights))
    parts = list(figure.subfigures(len(heights), height_ratios=heights, squeeze=False).flat)
    if curves:
        draw_panels(parts[0], curves)
        parts[0].suptitle(path.resolve().name, x=0.01, horizontalalignment="left", weight="bold")
    for part, one in zip(parts[bool(curves) :], shown, strict=True):
        trajectory_figures.draw(part, one)
    return figure


def measured(directory):
    """Return what was measured in a run, None without."""
    path = directory / ANALYSIS_NAME
    return Measured(read_course(path)) if path.is_file() else None


def learning_panels(rows):
    """Return the `Panel`s of the rows of a metrics.csv; none where there is no epoch."""
    found = [
        Panel(score, [_curve(rows, split, score) for split in SPLITS], SCORES[score])
        for score in SCORES
        if rows
    ]
    found = [replace(panel, curves=[curve for curve in panel.curves if not _empty(curve)]) for panel in found]
    return [panel for panel in found if panel.curves]


def _curve(rows, split, score):
    means = tuple(float(row.get(f"{split}_{score}", nan)) for row in rows)
    return Curve(SPLITS[split], means, (nan,) * len(means))


def _empty(curve):
    return all(map(isnan, curve.means))
