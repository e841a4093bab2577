"""Logged minibatches as charts to choose from: by minibatch, sample and layer."""

import numpy as np

from dfc_numba.analysis import offline
from dfc_numba.analysis.analysed_phase import AnalysedPhase
from dfc_numba.display.trajectory_figures import COMPARTMENTS, MOST_OUTPUTS, heading
from dfc_numba.report.page_parts import PageSection, chart, line, logarithmic, noting, thinned
from dfc_numba.storage.reader import open_trajectories
from dfc_numba.storage.recipes import CONTROL

MOST_MINIBATCHES = 4  # of the forward phase; of every other one the last
MOST_SAMPLES = 6
MOST_TIMES = 120
MOST_UNITS = 2  # of a layer
FORWARD = "forward"
TIME = "time (τᵤ)"
NAMES = {"v": "soma", "v_ff": "basal", "v_fb": "apical"}
DASHES = {"-": "solid", "--": "dash", ":": "dot"}


def section(path, notes):
    """Return the section of the logged minibatches of a run; None where nothing was logged."""
    try:
        file = open_trajectories(path)
    except FileNotFoundError:
        return None
    with file:
        notes += [note for note in file.notes if note not in notes]
        found = []
        for record in _chosen(file):
            with noting(notes, f"minibatch left out: {record.records.phase}, record {record.place}"):
                found.append(_of_control(record) if record.records.kind is CONTROL else _of_inversion(record))
        if not found:
            text = "Only recipes are stored; dfc replay --expand computes the trajectories."
            return PageSection("Logged minibatches", [text])
        text = (
            f"{sum(len(file[phase]) for phase in file.phases)} minibatches are stored, {len(found)} are shown, each with its "
            f"first samples."
        )
        return PageSection("Logged minibatches", [text], browser={"records": found})


def outcomes(path):
    """Return (minibatches, samples, converged, diverged) of the logged feedback phases, by phase; {} where nothing was logged."""
    try:
        file = open_trajectories(path)
    except FileNotFoundError:
        return {}
    found = {}
    with file:
        for phase in file.phases:
            records = file[phase]
            if records.kind is CONTROL and {"converged", "diverged"} <= {*records.variables}:
                flags = [records.variable(name)[...] for name in ("converged", "diverged")]
                counts = [np.count_nonzero(one == 1) for one in flags]
                found[records.phase] = (len(records), np.count_nonzero(flags[0] >= 0), *counts)
    return found


def _chosen(file):
    """Yield the records that are shown: some of the forward phase, the last of every other one."""
    phases = sorted(file.phases, key=lambda phase: file[phase].phase != FORWARD)
    for phase in phases:
        records = file[phase]
        if "position" in records.variables:
            places = np.flatnonzero((records.variable("position")[...] >= 0).any(axis=1))
            most = MOST_MINIBATCHES if records.phase == FORWARD else 1
            chosen = places[thinned(len(places), most)] if most > 1 else places[-1:]
            yield from (records[int(place)] for place in reversed(chosen))


# --- a feedback phase ---------------------------------------------------------------------------------------


def _of_control(record):
    """Return the charts of a feedback phase."""
    source = AnalysedPhase(record)
    points, layers = thinned(len(source.time), MOST_TIMES), range(1, len(source.network.weights) + 1)
    shown = list(range(min(source.count, MOST_SAMPLES)))
    samples = [{"name": str(source.samples[place]), "charts": [], "layers": []} for place in shown]
    for charts in (
        _output_charts(source, points, shown), _control_charts(source, points, shown), _error_charts(source, points, shown),
        _difference_charts(source, points, shown),
    ):  # fmt: skip
        for sample, one in zip(samples, charts, strict=False):
            sample["charts"].append(one)
    for layer in layers:
        for sample, charts in zip(samples, _compartment_charts(source, points, shown, layer), strict=True):
            sample["layers"].append(charts)
    return _entry(record, source.recipe, source.time[points], samples, [f"layer {layer}" for layer in layers])


def _entry(record, recipe, time, samples, layers):
    """Return a minibatch as the script of the page takes it."""
    title = heading(record, recipe, 0).partition(", sample")[0]
    return {"name": title, "time": chart("", "", [], x=time)["shared"], "samples": samples, "layers": layers}


def _has_errors(source):
    depth = len(source.network.weights)
    return source.has("e") or source.has("r", depth) or source.has("v", depth)


def _farthest(starts):
    """Return the units, in their order, that are farthest from zero."""
    return np.sort(np.argsort(-np.nan_to_num(np.abs(starts)), kind="stable")[:MOST_OUTPUTS])


def _output_charts(source, points, shown):
    """Return outputs, as changes, with their targets: those that are farthest from them at the start; [] without."""
    if not _has_errors(source):
        return []
    quantity = "softmax of the rates" if source.controller.error == "softmax" else "rate"
    charts, errors = [], source.errors(points, shown)
    for error in np.moveaxis(errors, 1, 0):
        lines = []
        for n, unit in enumerate(_farthest(error[0])):
            lines.append(line(f"unit {unit}", error[0, unit] - error[:, unit], number=n))
            lines.append(line("", np.full(len(points), error[0, unit]), number=n, dash="dash"))
        charts.append(
            chart("output, and its target (dashed)", f"change of the {quantity}", lines, x_label=TIME)
        )
    return charts


def _control_charts(source, points, shown):
    """Return the control signal of the same units."""
    if not source.has("u"):
        return []
    control = source.read("u", None, points, shown)
    starts = source.errors([0], shown)[0] if _has_errors(source) else control[-1]
    return [
        chart(
            "control signal",
            "u",
            [line(f"unit {unit}", u[:, unit], number=n) for n, unit in enumerate(_farthest(start))],
            x_label=TIME,
        )
        for u, start in zip(np.moveaxis(control, 1, 0), starts, strict=True)
    ]  # fmt: skip


def _error_charts(source, points, shown):
    """Return the error of each sample among the others that are shown."""
    if not source.has("error"):
        return []
    unit = "cross-entropy" if source.controller.error == "softmax" else "‖r* − r_L‖"
    charts, errors = [], source.read("error", None, points, shown)
    for place in shown:
        others = [other for other in shown if other != place]
        lines = [
            line("others" if n == 0 else "", errors[:, other], faint=True) for n, other in enumerate(others)
        ]
        lines.append(line(f"sample {source.samples[place]}", errors[:, place], thick=True))
        charts.append(chart("error", unit, lines, x_label=TIME, log=logarithmic(errors[:, place])))
    return charts


def _difference_charts(source, points, shown):
    """Return ||phi(v) - phi(v_ff)|| of each layer."""
    layers = range(1, len(source.network.weights) + 1)
    if not all(source.has(name, layer) for name in ("v", "v_ff") for layer in layers):
        return []
    differences = [norms[points] for norms in offline.layer_differences(source, samples=shown)]
    charts = []
    for place in shown:
        lines = [line(f"layer {n}", norms[:, place], number=n - 1) for n, norms in enumerate(differences, 1)]
        log = logarithmic(*(norms[1:, place] for norms in differences))
        charts.append(chart("what the layers learn from", "‖φ(v) − φ(v_ff)‖", lines, x_label=TIME, log=log))
    return charts


def _compartment_charts(source, points, shown, layer):
    """Return for each sample the compartments of the units of a layer that receive the largest feedback."""
    stored = [name for name in COMPARTMENTS if source.has(name, layer)]
    if "v" not in stored:
        return [[] for _ in shown]
    voltages = {name: source.read(name, layer, points, shown) for name in stored}
    drive = voltages.get("v_fb", voltages["v"])
    strength = np.nan_to_num(np.abs(drive - drive[0])).max(axis=0)
    units = np.argsort(-strength, axis=1, kind="stable")[:, :MOST_UNITS]
    return [
        [
            _compartments(layer, unit, {name: array[:, place, unit] for name, array in voltages.items()})
            for unit in units[place]
        ]
        for place in shown
    ]


def _compartments(layer, unit, voltages):
    start = voltages["v"][0]
    lines = [
        line(
            NAMES[name], v - (start if name != "v_fb" else 0.0), number=n, dash=DASHES[COMPARTMENTS[name][1]]
        )
        for n, (name, v) in enumerate(voltages.items())
    ]
    return chart(
        f"layer {layer}, unit {unit}, from v = {start:.3g}", "change of the voltage", lines, x_label=TIME
    )


# --- a dynamic inversion ------------------------------------------------------------------------------------


def _of_inversion(record):
    """Return the charts of a dynamic inversion."""
    count = min(len(record["position"]), MOST_SAMPLES)
    trajectory = record.trajectory(list(range(count)))
    points = thinned(len(trajectory.time), MOST_TIMES)
    hidden = trajectory.r_x or []
    samples = []
    for place in range(count):
        charts = [
            _norms(trajectory, name, title, points, place)
            for name, title in (("r_x", "hidden populations"), ("r_y", "error populations"))
            if getattr(trajectory, name) is not None
        ]
        by_layer = [[_states(states[points, place], layer)] for layer, states in enumerate(hidden, 1)]
        samples.append({"name": str(trajectory.samples[place]), "charts": charts, "layers": by_layer})
    names = [f"layer {layer}" for layer in range(1, len(hidden) + 1)]
    return _entry(record, trajectory.recipe, trajectory.time[points], samples, names)


def _norms(trajectory, name, title, points, place):
    layers = enumerate(getattr(trajectory, name), trajectory.first_layer(name))
    norms = {layer: np.linalg.norm(states[points, place], axis=1) for layer, states in layers}
    lines = [line(f"layer {layer}", norm, number=n) for n, (layer, norm) in enumerate(norms.items())]
    return chart(title, f"norm of {name}", lines, x_label="time (τᵣ)")


def _states(states, layer):
    """Return the units of a layer that move farthest."""
    units = np.sort(np.argsort(-np.nan_to_num(np.abs(states)).max(axis=0), kind="stable")[:MOST_OUTPUTS])
    lines = [line(f"unit {unit}", states[:, unit], number=n) for n, unit in enumerate(units)]
    return chart(f"layer {layer}", "r_x", lines, x_label="time (τᵣ)")
