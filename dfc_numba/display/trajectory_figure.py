"""The panels that show the trajectory of one minibatch: output, control, errors, layers, compartments of single units."""

from dataclasses import dataclass

import numpy as np

from dfc_numba.analysis import offline
from dfc_numba.display.panels import OTHERS, heading, place_of, scale
from dfc_numba.storage.source import Source
from dfc_numba.support.figures import COLOURS

FEW_NUDGES = 4.0
MOST_OUTPUTS = 5  # lines in one panel
MOST_LAYERS = 5  # whose units are shown unless some are chosen
COMPARTMENTS = {"v": ("soma $v$", "-"), "v_ff": ("basal $v^{ff}$", "--"), "v_fb": ("apical $v^{fb}$", ":")}


@dataclass(frozen=True)
class Trace:
    """What is shown of a trajectory.

    Attributes:
        source: the `Source`. place: of the sample among the stored ones.
        units: pairs (layer, unit), layers from 1.
        title: of the figure.
    """

    source: Source
    place: int
    units: tuple
    title: str
    time_label = r"time ($\tau_u$)"

    def read(self, name, layer=None):
        """A variable of this sample, (T, n)."""
        return self.source.read(name, layer, samples=[self.place])[:, 0]

    def panels(self):
        """What can be drawn: functions of (axes, this `Trace`).

        Raises:
            ValueError: if nothing can.
        """
        source, layers = self.source, range(1, len(self.source.network.weights) + 1)
        found = [
            (_draw_output, _has_errors(source)),
            (_draw_control, source.has("u")),
            (_draw_error, source.has("error")),
            (_draw_differences, all(source.has(name, layer) for name in ("v", "v_ff") for layer in layers)),
        ]
        found = [function for function, possible in found if possible]
        found += [_compartments(layer, unit) for layer, unit in self.units]
        if not found:
            raise ValueError("nothing is stored that a figure shows: u, error, e or r, v with v_ff and v_fb")
        return found

    def outputs(self):
        """The outputs that are shown, in their order: those that are farthest from their targets at the beginning."""
        initial = (
            np.abs(self.source.errors(slice(0, 1))[0, self.place])
            if _has_errors(self.source)
            else self.read("u")[-1]
        )
        return np.sort(np.argsort(-np.abs(initial), kind="stable")[:MOST_OUTPUTS])


def trace(record, *, sample=None, units=()):
    """The `Trace` of a record, or of a `Trajectory`, see `plots.plot`."""
    source = Source(record)
    place = place_of(sample, source.samples)
    return Trace(source, place, _units(source, place, units), heading(record, source.recipe, source.samples[place]))


def _has_errors(source):
    depth = len(source.network.weights)
    return source.has("e") or source.has("r", depth) or source.has("v", depth)


def _units(source, place, chosen):
    """The chosen units, or one of each layer: that which receives the largest feedback."""
    sizes = source.network.sizes
    for layer, unit in chosen:
        if not (1 <= layer < len(sizes) and 0 <= unit < sizes[layer]):
            layers = ", ".join(f"{n} with 0 to {size - 1}" for n, size in enumerate(sizes[1:], 1))
            raise ValueError(f"there is no unit {unit} in layer {layer}; layers and their units: {layers}")
        source.read("v", layer, slice(0, 1))
    if chosen:
        return tuple(chosen)
    layers = np.unique(np.linspace(1, len(sizes) - 1, MOST_LAYERS).round().astype(int))
    return tuple(
        (int(layer), _most_driven(source, place, layer)) for layer in layers if source.has("v", layer)
    )


def _most_driven(source, place, layer):
    drive = source.read("v_fb" if source.has("v_fb", layer) else "v", layer, samples=[place])[:, 0]
    return int(np.argmax(np.nan_to_num(np.abs(drive - drive[0])).max(axis=0)))


def _draw_output(axes, shown):
    errors = shown.source.errors(samples=[shown.place])[:, 0, shown.outputs()]
    target = shown.source.target[shown.place, shown.outputs()]
    quantity = "softmax of the rates" if shown.source.controller.error == "softmax" else "rate"
    if np.ptp(target) > FEW_NUDGES * np.abs(errors[0]).max():  # too far apart to see how they move
        target, quantity = errors[0], f"change of the {quantity}"
    for colour, unit, error, aim in zip(COLOURS, shown.outputs(), errors.T, target):
        axes.plot(shown.source.time, aim - error, color=colour, label=f"unit {unit}")
        axes.axhline(aim, color=colour, linestyle="--", linewidth=1.0)
    axes.set(title="output, and its target (dashed)", ylabel=quantity)


def _draw_control(axes, shown):
    u = shown.read("u")
    for colour, unit in zip(COLOURS, shown.outputs()):
        axes.plot(shown.source.time, u[:, unit], color=colour, label=f"unit {unit}")
    axes.set(title="control signal", ylabel="$u$")


def _draw_error(axes, shown):
    error = shown.source.read("error")
    others = np.delete(error, shown.place, axis=1)
    lines = axes.plot(shown.source.time, others, **OTHERS)
    if lines:
        lines[0].set_label("others")
    position = shown.source.samples[shown.place]
    axes.plot(shown.source.time, error[:, shown.place], color=COLOURS[0], label=f"sample {position}")
    softmax = shown.source.controller.error == "softmax"
    label = "cross-entropy" if softmax else r"$\|r^* - r_L\|$"
    axes.set(title="error of all samples", ylabel=label, yscale=scale(error))


def _draw_differences(axes, shown):
    differences = offline.layer_differences(shown.source, samples=[shown.place])
    for colour, (layer, norms) in zip(COLOURS, enumerate(differences, 1)):
        axes.plot(shown.source.time, norms[:, 0], color=colour, label=f"layer {layer}")
    axes.set(
        title="what the layers learn from",
        ylabel=r"$\|\phi(v) - \phi(v^{ff})\|$",
        yscale=scale(*differences),
    )


def _compartments(layer, unit):
    """A function that draws the compartments of a unit."""

    def draw_compartments(axes, shown):
        start = shown.read("v", layer)[0, unit]
        for colour, (name, (label, style)) in zip(COLOURS, COMPARTMENTS.items(), strict=False):
            if shown.source.has(name, layer):
                voltage = shown.read(name, layer)[:, unit] - (start if name != "v_fb" else 0.0)
                axes.plot(shown.source.time, voltage, style, color=colour, label=label)
        axes.set(title=f"layer {layer}, unit {unit}, from $v$ = {start:.3g}", ylabel="change of the voltage")

    return draw_compartments
