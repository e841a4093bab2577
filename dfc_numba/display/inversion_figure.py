"""The panels that show a dynamic inversion of one sample: states, distance to rest, error of the inversion, single units."""

from dataclasses import dataclass

import numpy as np

from dfc_numba.display.panels import heading, place_of, scale, wide_scale
from dfc_numba.errors import DivergenceError
from dfc_numba.inversion import measures
from dfc_numba.inversion.trajectory import InversionTrajectory
from dfc_numba.storage.record import StoredRecord
from dfc_numba.support.figures import COLOURS

MOST_UNITS = 5  # lines in one panel
MOST_LAYERS = 5  # whose units are shown unless some are chosen
SYMBOLS = {"r_x": "$r_x$", "r_y": "$r_y$"}


@dataclass(frozen=True)
class InversionTrace:
    """What is shown of a dynamic inversion.

    Attributes:
        trajectory: an `InversionTrajectory` of one sample.
        rest: its r_x at rest, list of (1, n_i); None where that is not known.
        units: chosen pairs (layer, unit), layers from 1.
        title: of the figure.
    """

    trajectory: InversionTrajectory
    rest: list | None
    units: tuple
    title: str
    time_label = r"time ($\tau_r$)"

    def panels(self):
        """What can be drawn: functions of (axes, this `InversionTrace`).

        Raises:
            ValueError: if nothing can.
        """
        trajectory = self.trajectory
        found = [_norms(name) for name in SYMBOLS if getattr(trajectory, name) is not None]
        if trajectory.r_x is not None:
            found += [_draw_distances] if self.rest is not None else []
            found += [_draw_inversion] if trajectory.recipe is not None else []
            found += [_units_of(layer, units) for layer, units in self.shown_units().items()]
        if not found:
            raise ValueError("nothing is stored that a figure shows: r_x, r_y")
        return found

    def shown_units(self):
        """Lists of units by the layer: the chosen ones, or those of some layers that move farthest."""
        if self.units:
            layers = dict.fromkeys(layer for layer, _ in self.units)
            return {layer: [unit for other, unit in self.units if other == layer] for layer in layers}
        count = len(self.trajectory.r_x)
        return {
            int(layer): _most_moved(self.trajectory.r_x[layer - 1][:, 0])
            for layer in np.unique(np.linspace(1, count, MOST_LAYERS).round().astype(int))
        }


def trace(record, *, sample=None, units=()):
    """The `InversionTrace` of a record, or of an `InversionTrajectory`, see `plots.plot`."""
    stored = isinstance(record, StoredRecord)
    place = place_of(sample, record["position"] if stored else record.samples)
    trajectory = record.trajectory([place]) if stored else _only(record, place)
    _check_units(trajectory, units)
    title = heading(record, trajectory.recipe, trajectory.samples[0])
    return InversionTrace(trajectory, _rest(trajectory), tuple(units), title)


def _only(trajectory, place):
    """The trajectory of the sample at a place."""
    parts = {
        name: [r[:, [place]] for r in getattr(trajectory, name)]
        for name in SYMBOLS
        if getattr(trajectory, name)
    }
    alone = {name: getattr(trajectory, name)[[place]] for name in ("diverged", "samples")}
    return InversionTrajectory(**(vars(trajectory) | parts | alone))


def _check_units(trajectory, units):
    sizes = [r.shape[2] for r in trajectory.r_x or []]
    for layer, unit in units:
        if not (1 <= layer <= len(sizes) and 0 <= unit < sizes[layer - 1]):
            layers = ", ".join(f"{n} with 0 to {size - 1}" for n, size in enumerate(sizes, 1))
            raise ValueError(
                f"there is no unit {unit} in layer {layer}; hidden layers and their units: {layers}"
            )


def _rest(trajectory):
    """r_x at rest, None where there is no such state, or no recipe."""
    try:
        return None if trajectory.recipe is None else measures.states_at_rest(trajectory)
    except (DivergenceError, ValueError):
        return None


def _most_moved(states):
    """The units that are farthest from zero at some time, in their order."""
    return np.sort(np.argsort(-np.nan_to_num(np.abs(states)).max(axis=0), kind="stable")[:MOST_UNITS])


def _norms(name):
    """A function that draws the norm of r_x or r_y, layer by layer."""

    def draw_norms(axes, shown):
        trajectory = shown.trajectory
        layers = enumerate(getattr(trajectory, name), trajectory.first_layer(name))
        norms = {layer: np.linalg.norm(states[:, 0], axis=1) for layer, states in layers}
        for colour, (layer, norm) in zip(COLOURS, norms.items()):
            axes.plot(trajectory.time, norm, color=colour, label=f"layer {layer}")
        who = {"r_x": "hidden populations", "r_y": "error populations"}[name]
        axes.set(title=who, ylabel=f"norm of {SYMBOLS[name]}", yscale=wide_scale(*norms.values()))

    return draw_norms


def _draw_distances(axes, shown):
    found = measures.distances_to_rest(shown.trajectory)
    for colour, (layer, distance) in zip(COLOURS, enumerate(found, 1)):
        axes.plot(shown.trajectory.time, distance[:, 0], color=colour, label=f"layer {layer}")
    axes.set(
        title="distance to the exact rest (NDI)",
        ylabel=r"$\|r_x - r_x^*\| / \|r_x^*\|$",
        yscale=scale(*found),
    )


def _draw_inversion(axes, shown):
    found = measures.inversion_errors(shown.trajectory)
    last = shown.trajectory.depth
    for colour, (layer, error) in zip(COLOURS, enumerate(found, last - len(found) + 1)):
        axes.plot(shown.trajectory.time, error[:, 0], color=colour, label=f"layer {layer}")
    axes.set(
        title="error of the inversion",
        ylabel=r"$\|W \psi(r_x) - \delta\| / \|\delta\|$",
        yscale=wide_scale(*found),
    )


def _units_of(layer, units):
    """A function that draws r_x of units of a layer, and where they rest."""

    def draw_units(axes, shown):
        states = shown.trajectory.r_x[layer - 1][:, 0]
        for colour, unit in zip(COLOURS, units):
            axes.plot(shown.trajectory.time, states[:, unit], color=colour, label=f"unit {unit}")
            if shown.rest is not None:
                axes.axhline(shown.rest[layer - 1][0, unit], color=colour, linestyle="--", linewidth=1.0)
        rest = ", and at rest (dashed)" if shown.rest is not None else ""
        axes.set(title=f"layer {layer}{rest}", ylabel="$r_x$")

    return draw_units
