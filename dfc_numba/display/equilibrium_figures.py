"""The panels that show one sample of equilibrium propagation: the free phase, and the nudged phases that follow from its end."""

from dataclasses import dataclass

import numpy as np

from dfc_numba.display.trajectory_figures import (
    MOST_LAYERS,
    MOST_OUTPUTS,
    MOST_UNITS,
    heading,
    most_moved,
    place_of,
    scale,
    sentences,
)
from dfc_numba.relatives.equilibrium_energy import rate_of
from dfc_numba.relatives.equilibrium_trajectory import EquilibriumTrajectory
from dfc_numba.storage.stored import StoredRecord
from dfc_numba.support.figures import COLOURS

STYLES = {"s": "-", "s_minus": ":"}


@dataclass(frozen=True)
class EquilibriumTrace:
    """The shown part of a trajectory of equilibrium propagation.

    Attributes:
        trajectory: the `EquilibriumTrajectory`. place: of the sample among the recorded ones.
        units: chosen pairs (layer, unit), layers from 1. title: of the figure.
    """

    trajectory: EquilibriumTrajectory
    place: int
    units: tuple
    title: str
    time_label = r"time ($\tau$, or steps)"

    def panels(self):
        """Return functions of (axes, this `EquilibriumTrace`) that draw the possible panels, by their names.

        Raises:
            ValueError: if nothing can.
        """
        if not self.kept():
            raise ValueError("nothing is stored that a figure shows: s, s_minus")
        known = self.trajectory.recipe is not None
        found = {"output": _draw_output, "nudge": _draw_nudge} if known else {}
        found["speed"] = _draw_speed
        return found | {
            f"layer {layer}": _units_of(layer, units) for layer, units in self.shown_units().items()
        }

    def note(self, panels):
        """Return what the panels leave out."""
        outputs = next(iter(self.kept().values()))[-1].shape[1]
        parts = []
        if outputs > MOST_OUTPUTS and "output" in panels:
            parts.append(
                f"outputs: {MOST_OUTPUTS} of {outputs}, those farthest from their targets before the nudge"
            )
        if not self.units and any(name.startswith("layer") for name in panels):
            parts.append(f"units: at most {MOST_UNITS} of a layer, those that move farthest")
        return sentences(parts)

    def kept(self):
        """Return the recorded states of the sample by their names, lists of (T, n_i)."""
        stored = {name: getattr(self.trajectory, name) for name in STYLES}
        return {name: [s[:, self.place] for s in states] for name, states in stored.items() if states}

    @property
    def free_end(self):
        """Place of the last recorded time point of the free phase."""
        last = self.trajectory.recipe.equilibrium.free_points - 1
        return int(np.flatnonzero(self.trajectory.step <= last)[-1])

    def shown_units(self):
        """Return lists of units by the layer: the chosen ones, or those of some layers that move farthest."""
        if self.units:
            layers = dict.fromkeys(layer for layer, _ in self.units)
            return {layer: [unit for other, unit in self.units if other == layer] for layer in layers}
        states = next(iter(self.kept().values()))
        layers = np.unique(np.linspace(1, len(states), MOST_LAYERS).round().astype(int))
        return {
            int(layer): most_moved(states[layer - 1] - states[layer - 1][0], MOST_UNITS) for layer in layers
        }


def equilibrium_trace(record, *, sample=None, units=()):
    """Return the `EquilibriumTrace` of a record, or of an `EquilibriumTrajectory`, see `plots.plot`."""
    stored = isinstance(record, StoredRecord)
    place = place_of(sample, record["position"] if stored else record.samples)
    trajectory = record.trajectory([place]) if stored else record
    shown = EquilibriumTrace(
        trajectory, 0 if stored else place, tuple(units),
        heading(record, trajectory.recipe, trajectory.samples[0 if stored else place]),
    )  # fmt: skip
    sizes = [s.shape[1] for s in next(iter(shown.kept().values()), [])]
    for layer, unit in units:
        if not (1 <= layer <= len(sizes) and 0 <= unit < sizes[layer - 1]):
            layers = ", ".join(f"{n} with 0 to {size - 1}" for n, size in enumerate(sizes, 1))
            raise ValueError(f"there is no unit {unit} in layer {layer}; layers and their units: {layers}")
    return shown


def _mark_nudge(axes, shown):
    if shown.trajectory.recipe is not None:
        axes.axvline(shown.trajectory.time[shown.free_end], color="0.75", linewidth=0.8, zorder=0)


def _draw_output(axes, shown):
    """Draw the outputs that the nudge moves most, or that are farthest from their targets."""
    trajectory, recipe = shown.trajectory, shown.trajectory.recipe
    options, target = recipe.equilibrium, recipe.target[trajectory.samples[shown.place]]
    states = {name: kept[-1] for name, kept in shown.kept().items()}
    if options.form != "prototypical" and options.loss != "mse":
        states = {name: rate_of(options, u) for name, u in states.items()}
    first = next(iter(states.values()))
    chosen = np.sort(np.argsort(-np.abs(first[shown.free_end] - target), kind="stable")[:MOST_OUTPUTS])
    for colour, unit in zip(COLOURS, chosen, strict=False):
        for name, values in states.items():
            label = f"unit {unit}" if values is first else None
            axes.plot(trajectory.time, values[:, unit], STYLES[name], color=colour, label=label)
        if options.loss == "mse":
            axes.axhline(target[unit], color=colour, linestyle="--", linewidth=1.0)
    _mark_nudge(axes, shown)
    dashed = ", and its target (dashed)" if options.loss == "mse" else ""
    axes.set(title=f"output{dashed}", ylabel="$s_L$")


def _draw_nudge(axes, shown):
    """Draw how far the nudge takes the layers from the end of the free phase."""
    end, norms = shown.free_end, []
    for name, states in shown.kept().items():
        for colour, (layer, s) in zip(COLOURS, enumerate(states, 1), strict=False):
            norms.append(np.linalg.norm(s[end:] - s[end], axis=1))
            label = f"layer {layer}" if name == "s" else None
            axes.plot(shown.trajectory.time[end:], norms[-1], STYLES[name], color=colour, label=label)
    signs = r" ($+\beta$; dotted: $-\beta$)" if len(shown.kept()) > 1 else ""
    axes.set(title=f"what the layers learn from{signs}", ylabel=r"$\|s - s^0\|$", yscale=scale(*norms))


def _draw_speed(axes, shown):
    """Draw the largest change of a layer's states from one recorded time point to the next."""
    states, changes = next(iter(shown.kept().values())), []
    for colour, (layer, s) in zip(COLOURS, enumerate(states, 1), strict=False):
        changes.append(np.abs(np.diff(s, axis=0)).max(axis=1))
        axes.plot(shown.trajectory.time[1:], changes[-1], color=colour, label=f"layer {layer}")
    _mark_nudge(axes, shown)
    axes.set(title="how fast the layers move", ylabel=r"largest $|\Delta s|$", yscale=scale(*changes))


def _units_of(layer, units):
    """Return a function that draws the states of units of a layer."""

    def draw_units(axes, shown):
        for name, states in shown.kept().items():
            for colour, unit in zip(COLOURS, units, strict=False):
                label = f"unit {unit}" if name == "s" else None
                axes.plot(
                    shown.trajectory.time, states[layer - 1][:, unit], STYLES[name], color=colour, label=label
                )
        _mark_nudge(axes, shown)
        axes.set(title=f"layer {layer}", ylabel="$s$")

    return draw_units
