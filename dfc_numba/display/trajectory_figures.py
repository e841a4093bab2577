"""The panels that show one sample of a recorded minibatch: a feedback phase, or a dynamic inversion."""

from dataclasses import dataclass

import numpy as np

from dfc_numba.analysis import offline
from dfc_numba.analysis.analysed_phase import AnalysedPhase
from dfc_numba.errors import DivergenceError
from dfc_numba.inversion import measures
from dfc_numba.inversion.trajectory import InversionTrajectory
from dfc_numba.storage.stored import StoredRecord
from dfc_numba.support.figures import COLOURS, OUTSIDE, add_note, colours, suit_ticks

# --- panels -------------------------------------------------------------------------------------------------

COLUMNS = 3
HUGE = 1e6
OTHERS = {"linewidth": 0.6, "color": "0.75"}


def draw(figure, shown, functions=None, columns=COLUMNS):
    """Draw the panels of what is shown, or the given ones of them, into a figure or a part of one."""
    functions = shown.panels() if functions is None else functions
    columns = min(columns, len(functions))
    grid = list(figure.subplots(rows(functions, columns), columns, squeeze=False).flat)
    for axes, function in zip(grid, functions.values(), strict=False):
        draw_panel(axes, shown, function)
        axes.legend(**OUTSIDE)
    for axes in grid[len(functions) :]:
        axes.remove()
    figure.suptitle(shown.title, x=0.01, horizontalalignment="left", weight="bold", wrap=True)
    add_note(figure, shown.note(functions))


def draw_panel(axes, shown, function):
    """Draw one panel, with its axes labelled."""
    function(axes, shown)
    axes.set_xlabel(shown.time_label)
    _suit_numbers(axes)
    axes.grid(alpha=0.3)
    axes.margins(x=0.01)


def rows(panels, columns=COLUMNS):
    """Return how many rows some panels need."""
    return -(-len(panels) // columns)


def scale(*arrays):
    """Return "log", unless there is nothing above zero."""
    return "log" if any((array[np.isfinite(array)] > 0).any() for array in arrays) else "linear"


def wide_scale(*arrays):
    """Return "log" where the largest number is more than ten times the smallest one above zero."""
    found = [array[np.isfinite(array) & (array > 0)] for array in arrays]
    found = np.concatenate([np.ravel(array) for array in found])
    return "log" if len(found) and found.max() > 10 * found.min() else "linear"


def place_of(sample, stored):
    """Return the index of a sample among the stored ones; None stands for the first; ValueError for an unknown one."""
    position = stored[0] if sample is None else sample
    if position not in stored:
        raise ValueError(f"sample {sample} is not stored; stored are {', '.join(map(str, stored))}")
    return list(stored).index(position)


def heading(record, recipe, position):
    """Return the title of a record, or of a trajectory that is in no file, and of a sample."""
    where = "simulation" if recipe is None else recipe.phase
    if isinstance(record, StoredRecord):
        where += f", record {record.place}"
    if recipe is not None and recipe.phase == "simulation" and recipe.epoch == recipe.minibatch == 1:
        where += " at the initial weights"
    elif recipe is not None and recipe.epoch:
        where += f" (epoch {recipe.epoch}, minibatch {recipe.minibatch})"
    return f"{where}, sample {position}"


def _of_layers(layers):
    """Return a colour for each layer."""
    return colours(range(len(layers))).values()


def sentences(parts):
    """Return parts of a note as a sentence; nothing where there are none."""
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _suit_numbers(axes):
    """Label small numbers shortly; show what diverged from its beginning on, with a symmetric logarithm."""
    if axes.get_yscale() == "linear" and np.abs(axes.get_ylim()).max() > HUGE:
        axes.set_yscale("symlog")
    elif axes.get_yscale() == "linear":
        axes.ticklabel_format(axis="y", scilimits=(-2, 4), useMathText=True)
    suit_ticks(axes)


# --- a feedback phase ---------------------------------------------------------------------------------------

FEW_NUDGES = 4.0
MOST_OUTPUTS = 5  # lines in one panel
MOST_LAYERS = 5  # whose units are shown unless some are chosen
COMPARTMENTS = {"v": ("soma $v$", "-"), "v_ff": ("basal $v^{ff}$", "--"), "v_fb": ("apical $v^{fb}$", ":")}


@dataclass(frozen=True)
class ControlTrace:
    """The shown part of a trajectory.

    Attributes:
        source: the `AnalysedPhase`. place: of the sample among the stored ones.
        units: pairs (layer, unit), layers from 1.
        title: of the figure. chosen: whether the units were named.
    """

    source: AnalysedPhase
    place: int
    units: tuple
    title: str
    chosen: bool = False
    time_label = r"time ($\tau_u$)"

    def read(self, name, layer=None):
        """Return a variable of this sample, (T, n)."""
        return self.source.read(name, layer, samples=[self.place])[:, 0]

    def panels(self):
        """Return functions of (axes, this `Trace`) that draw the possible panels, by their names.

        Raises:
            ValueError: if nothing can.
        """
        source, layers = self.source, range(1, len(self.source.network.weights) + 1)
        found = {
            "output": (_draw_output, _has_errors(source)),
            "control": (_draw_control, source.has("u")),
            "error": (_draw_error, source.has("error")),
            "differences": (
                _draw_differences, all(source.has(name, layer) for name in ("v", "v_ff") for layer in layers)
            ),
        }  # fmt: skip
        found = {name: function for name, (function, possible) in found.items() if possible}
        found |= {f"unit {layer}:{unit}": _compartments(layer, unit) for layer, unit in self.units}
        if not found:
            raise ValueError("nothing is stored that a figure shows: u, error, e or r, v with v_ff and v_fb")
        return found

    def note(self, panels):
        """Return what the panels leave out."""
        sizes, parts = self.source.network.sizes, []
        if sizes[-1] > MOST_OUTPUTS and {"output", "control"} & {*panels}:
            parts.append(
                f"outputs: {MOST_OUTPUTS} of {sizes[-1]}, those farthest from their targets at the start"
            )
        if "error" in panels and self.source.count > 1:
            parts.append(f"grey: the {self.source.count - 1} other stored samples")
        if not self.chosen and any(name.startswith("unit") for name in panels):
            layers = (
                "" if len(self.units) == len(sizes) - 1 else f", {len(self.units)} of {len(sizes) - 1} layers"
            )
            parts.append(f"units: the one of each layer with the largest feedback{layers}")
        return sentences(parts)

    def outputs(self):
        """Return the shown outputs, in their order: those that are farthest from their targets at the beginning."""
        initial = (
            np.abs(self.source.errors(slice(0, 1))[0, self.place])
            if _has_errors(self.source)
            else self.read("u")[-1]
        )
        return np.sort(np.argsort(-np.abs(initial), kind="stable")[:MOST_OUTPUTS])


def control_trace(record, *, sample=None, units=()):
    """Return the `Trace` of a record, or of a `Trajectory`, see `plots.plot`."""
    source = AnalysedPhase(record)
    place = place_of(sample, source.samples)
    return ControlTrace(
        source,
        place,
        _units(source, place, units),
        heading(record, source.recipe, source.samples[place]),
        bool(units),
    )


def _has_errors(source):
    depth = len(source.network.weights)
    return source.has("e") or source.has("r", depth) or source.has("v", depth)


def _units(source, place, chosen):
    """Return the chosen units, or one of each layer: the one that receives the largest feedback."""
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
    for colour, unit, error, aim in zip(COLOURS, shown.outputs(), errors.T, target, strict=False):
        axes.plot(shown.source.time, aim - error, color=colour, label=f"unit {unit}")
        axes.axhline(aim, color=colour, linestyle="--", linewidth=1.0)
    axes.set(title="output, and its target (dashed)", ylabel=quantity)


def _draw_control(axes, shown):
    u = shown.read("u")
    for colour, unit in zip(COLOURS, shown.outputs(), strict=False):
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
    for colour, (layer, norms) in zip(_of_layers(differences), enumerate(differences, 1), strict=True):
        axes.plot(shown.source.time, norms[:, 0], color=colour, label=f"layer {layer}")
    axes.set(
        title="what the layers learn from",
        ylabel=r"$\|\phi(v) - \phi(v^{ff})\|$",
        yscale=scale(*differences),
    )


def _compartments(layer, unit):
    """Return a function that draws the compartments of a unit."""

    def draw_compartments(axes, shown):
        start = shown.read("v", layer)[0, unit]
        for colour, (name, (label, style)) in zip(COLOURS, COMPARTMENTS.items(), strict=False):
            if shown.source.has(name, layer):
                voltage = shown.read(name, layer)[:, unit] - (start if name != "v_fb" else 0.0)
                axes.plot(shown.source.time, voltage, style, color=colour, label=label)
        axes.set(title=f"layer {layer}, unit {unit}, from $v$ = {start:.3g}", ylabel="change of the voltage")

    return draw_compartments


# --- a dynamic inversion ------------------------------------------------------------------------------------

MOST_UNITS = 5  # lines in one panel
SYMBOLS = {"r_x": "$r_x$", "r_y": "$r_y$"}


@dataclass(frozen=True)
class InversionTrace:
    """The shown part of a dynamic inversion.

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
        """Return functions of (axes, this `InversionTrace`) that draw the possible panels, by their names.

        Raises:
            ValueError: if nothing can.
        """
        trajectory = self.trajectory
        found = {name: _norms(name) for name in SYMBOLS if getattr(trajectory, name) is not None}
        if trajectory.r_x is not None:
            found |= {"distance": _draw_distances} if self.rest is not None else {}
            found |= {"inversion": _draw_inversion} if trajectory.recipe is not None else {}
            found |= {
                f"layer {layer}": _units_of(layer, units) for layer, units in self.shown_units().items()
            }
        if not found:
            raise ValueError("nothing is stored that a figure shows: r_x, r_y")
        return found

    def note(self, panels):
        """Return what the panels leave out."""
        shown = not self.units and any(name.startswith("layer") for name in panels)
        return sentences(
            [f"units: at most {MOST_UNITS} of a layer, those farthest from zero"] if shown else []
        )

    def shown_units(self):
        """Return lists of units by the layer: the chosen ones, or those of some layers that move farthest."""
        if self.units:
            layers = dict.fromkeys(layer for layer, _ in self.units)
            return {layer: [unit for other, unit in self.units if other == layer] for layer in layers}
        count = len(self.trajectory.r_x)
        return {
            int(layer): most_moved(self.trajectory.r_x[layer - 1][:, 0], MOST_UNITS)
            for layer in np.unique(np.linspace(1, count, MOST_LAYERS).round().astype(int))
        }


def inversion_trace(record, *, sample=None, units=()):
    """Return the `InversionTrace` of a record, or of an `InversionTrajectory`, see `plots.plot`."""
    stored = isinstance(record, StoredRecord)
    place = place_of(sample, record["position"] if stored else record.samples)
    trajectory = record.trajectory([place]) if stored else _only(record, place)
    _check_units(trajectory, units)
    title = heading(record, trajectory.recipe, trajectory.samples[0])
    return InversionTrace(trajectory, _rest(trajectory), tuple(units), title)


def _only(trajectory, place):
    """Return the trajectory of the sample at an index."""
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
    """Return r_x at rest, None where there is no such state, or no recipe."""
    try:
        return None if trajectory.recipe is None else measures.states_at_rest(trajectory)
    except (DivergenceError, ValueError):
        return None


def most_moved(states, count):
    """Return the units (of the last axis) that are farthest from zero at some time, in their order."""
    return np.sort(np.argsort(-np.nan_to_num(np.abs(states)).max(axis=0), kind="stable")[:count])


def _norms(name):
    """Return a function that draws the norm of r_x or r_y, layer by layer."""

    def draw_norms(axes, shown):
        trajectory = shown.trajectory
        layers = enumerate(getattr(trajectory, name), trajectory.first_layer(name))
        norms = {layer: np.linalg.norm(states[:, 0], axis=1) for layer, states in layers}
        for colour, (layer, norm) in zip(_of_layers(norms), norms.items(), strict=True):
            axes.plot(trajectory.time, norm, color=colour, label=f"layer {layer}")
        who = {"r_x": "hidden populations", "r_y": "error populations"}[name]
        axes.set(title=who, ylabel=f"norm of {SYMBOLS[name]}", yscale=wide_scale(*norms.values()))

    return draw_norms


def _draw_distances(axes, shown):
    found = measures.distances_to_rest(shown.trajectory)
    for colour, (layer, distance) in zip(_of_layers(found), enumerate(found, 1), strict=True):
        axes.plot(shown.trajectory.time, distance[:, 0], color=colour, label=f"layer {layer}")
    axes.set(
        title="distance to the exact rest (NDI)",
        ylabel=r"$\|r_x - r_x^*\| / \|r_x^*\|$",
        yscale=scale(*found),
    )


def _draw_inversion(axes, shown):
    found = measures.inversion_errors(shown.trajectory)
    last = shown.trajectory.depth
    for colour, (layer, error) in zip(
        _of_layers(found), enumerate(found, last - len(found) + 1), strict=True
    ):
        axes.plot(shown.trajectory.time, error[:, 0], color=colour, label=f"layer {layer}")
    axes.set(
        title="error of the inversion",
        ylabel=r"$\|W \psi(r_x) - \delta\| / \|\delta\|$",
        yscale=wide_scale(*found),
    )


def _units_of(layer, units):
    """Return a function that draws r_x of units of a layer, and where they rest."""

    def draw_units(axes, shown):
        states = shown.trajectory.r_x[layer - 1][:, 0]
        for colour, unit in zip(COLOURS, units, strict=False):
            axes.plot(shown.trajectory.time, states[:, unit], color=colour, label=f"unit {unit}")
            if shown.rest is not None:
                axes.axhline(shown.rest[layer - 1][0, unit], color=colour, linestyle="--", linewidth=1.0)
        rest = ", and at rest (dashed)" if shown.rest is not None else ""
        axes.set(title=f"layer {layer}{rest}", ylabel="$r_x$")

    return draw_units
