"""Simulating one feedback phase with full trajectories."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import get_args

import numpy as np

from dfc_numba import registry
from dfc_numba.dynamics.phase import UpdateTask, prepare, run, warn_of_divergence
from dfc_numba.dynamics.waveform import solve_course
from dfc_numba.dynamics.waveform_trajectory import interpolate
from dfc_numba.kernels import phase_state as kernel
from dfc_numba.kernels import shared_dynamics as shared
from dfc_numba.kernels.draws import keyed_draws
from dfc_numba.kernels.layout import dense_views
from dfc_numba.model.controller import Controller
from dfc_numba.model.network import Network
from dfc_numba.model.noise_key import Noise, as_key
from dfc_numba.model.recording import VARIABLES, Recipe, Record, Storable, Variable
from dfc_numba.support import memory
from dfc_numba.support.array_types import Array, ArrayLike, Layers
from dfc_numba.support.bars import Steps
from dfc_numba.support.shapes import html_repr, short_repr
from dfc_numba.support.validation import instance, silent

OUTPUT_VARIABLES, LAYER_VARIABLES = VARIABLES[:4], VARIABLES[4:]


@dataclass(frozen=True)
class Trajectory(Storable):
    """A recorded feedback phase: T time points, B samples, layers i = 1..L (lists are 0-based).

    Attributes:
        time: (T,) in units of tau_u. step: (T,) number of the Euler step.
        u, u_int: (T, B, n_L) control signal and its integral part.
        error: (T, B) ||r* - r_L||, or the cross-entropy of softmax(r_L) with r* for error="softmax".
        v, v_ff, v_fb: lists of (T, B, n_i): somatic, basal and apical voltages. r: rates.
        converged, diverged: (B,) as published: the steady-state residual below 1e-5 (above 1) of the norm of the
            feedforward output, and for `converged` the error below convergence_epsilon**2 of the initial one.
        e: (T, B, n_L) control error r* - r_L, or r* - softmax(r_L), in float64 for either dtype of the network.
        noise: list of (T, B, n_i): the standard normal draws that drove the step to each time point.
        samples: (B,) positions of the samples in the minibatch.
        formulas: name of a registered `dfc.Variable` -> list of (T, B, n_i), for those that were recorded.
        recipe: the `Recipe` of the simulation, with copies of the parameters; None if it is not known.

    A variable that was not recorded is None.
    """

    __repr__, _repr_html_ = short_repr, html_repr

    time: Array
    step: Array
    u: Array | None
    u_int: Array | None
    error: Array | None
    v: Layers | None
    v_ff: Layers | None
    v_fb: Layers | None
    r: Layers | None
    converged: Array | None
    diverged: Array | None
    e: Array | None = None
    noise: Layers | None = None
    samples: Array | None = None
    formulas: dict[str, Layers] = field(default_factory=dict)
    recipe: Recipe | None = field(default=None, repr=False)


@silent()
def simulate(
    network: Network,
    x: ArrayLike,
    target: ArrayLike,
    controller: Controller,
    *,
    noise: Noise = None,
    record: Record | None = None,
    progress: bool | None = None,
) -> Trajectory:
    """Simulate the feedback phase of one minibatch (the dynamics of DFC, Meulemans et al. 2021; Euler method).

    Args:
        network: a `Network`.
        x: inputs (B, n_0). target: output target r*, (B, n_L), best in float64: see `output_target`.
        controller: a `Controller`.
        noise: where the draws come from if the controller has sigma > 0: an int seed, a `NoiseKey`, or a list of arrays
            (T, B, n_i) of standard normal draws, of which index t + 1 drives the step t -> t + 1.
        record: a `Record`; None keeps everything but the noise.
        progress: whether to show a bar; None: on a terminal and in a notebook, if it takes more than a second.

    Returns:
        a `Trajectory`. Where a simulation diverges, `.diverged` and a `DivergenceWarning` say so; its numbers may
        be finite or not.

    Raises:
        ValueError, TypeError: for arguments that do not fit.
        MemoryError: for a trajectory that does not fit into memory; the message states its size.
    """
    record = Record() if record is None else instance("record", record, Record)
    phase = prepare(network, x, target, controller, noise)
    with Steps("simulating", shown=progress) as steps:
        sums, trajectory = run_recorded(phase, UpdateTask(), record, steps=steps)
    if sums is not None:
        warn_of_divergence(phase, sums)
    recipe = Recipe(
        network=network.copy(), controller=controller, x=np.array(x), target=phase.minibatch.target,
        noise=_kept_noise(phase, noise),
    )  # fmt: skip
    return replace(trajectory, recipe=recipe)


def run_recorded(phase, task, record, *, only_converged=False, steps=None):
    """Return (`Sums`, `Trajectory` without its recipe) of one simulation, see `phase.run`; no trajectory for record None.

    Raises:
        ValueError: for samples or noise that there are not. MemoryError: as for `simulate`.
    """
    solved = phase.controller.integrator == "waveform"
    if solved and task.feedback_rule is not None:
        raise ValueError("integrator = 'waveform' learns no feedback weights; use integrator = 'euler'")
    if solved and record is not None:
        return None, _interpolated(phase, instance("record", record, Record))
    if record is None:
        return run(*task.assign(phase), only_converged=only_converged), None
    instance("record", record, Record).require_only(
        (*get_args(Variable), *registry.VARIABLES), "a feedback phase"
    )
    if "noise" in record.names() and phase.minibatch.noise.source == shared.NO_NOISE:
        raise ValueError(
            "Record.variables has 'noise', but the controller has none; leave it out, or set sigma"
        )
    formulas = tuple(registry.VARIABLES[name] for name in record.names() if name not in get_args(Variable))
    records = _allocate(phase, record)
    phase, assigned = replace(task, variables=formulas).assign(phase, record.every)
    sums = run(phase, assigned, records=records, only_converged=only_converged, steps=steps)
    return sums, _trajectory(phase, record, records, sums)


def _interpolated(phase, record):
    """Return the `Trajectory` of a phase that is solved in time; samples that have to be stepped are recorded by Euler steps."""
    record.require_only(get_args(Variable)[:-1], "a feedback phase that is solved by integrator = 'waveform'")
    controller, chosen = phase.controller, record.positions(phase.count)
    step = np.arange(0, controller.time_points, record.every)
    memory.require(
        2 * recorded_bytes(phase.network, controller, len(chosen), replace(record, variables=None)),
        f"a trajectory of {len(step)} time points, {len(chosen)} samples",
        "record fewer samples or time points with record=Record(...)",
    )
    flags, outcome, nodes = solve_course(phase)
    arrays = {}
    for number in np.unique(nodes[chosen]):
        rows = np.flatnonzero(nodes[chosen] == number)
        if number:
            part = interpolate(phase, outcome, int(number), chosen[rows], record.every)
        else:
            stepped = phase.of_samples(chosen[rows]).with_controller(replace(controller, integrator="euler"))
            part = vars(run_recorded(stepped, UpdateTask(), replace(record, samples=None))[1])
        for name in record.names():
            _enter(arrays, name, part[name], rows, len(chosen), phase.network.dtype)
    arrays = {name: arrays.get(name) for name in VARIABLES}
    return Trajectory(
        time=step * controller.dt, step=step, **arrays, samples=chosen,
        converged=flags[0][chosen], diverged=flags[1][chosen],
    )  # fmt: skip


def _enter(arrays, name, part, rows, count, dtype):
    """Enter what is known of some samples into the arrays (T, B, ...) of a variable."""
    layers, parts = name in LAYER_VARIABLES, part if name in LAYER_VARIABLES else [part]
    if name not in arrays:
        kind = dtype if layers else np.float64
        empty = [np.empty((len(p), count, *p.shape[2:]), kind) for p in parts]
        arrays[name] = empty if layers else empty[0]
    for target, values in zip(arrays[name] if layers else [arrays[name]], parts, strict=True):
        target[:, rows] = values


def recorded_bytes(network, controller, count, record):
    """Return the size of the trajectory of `count` samples in bytes."""
    layers, outputs = sum(network.sizes[1:]) * network.dtype.itemsize, network.sizes[-1] * 8
    each = dict.fromkeys((*LAYER_VARIABLES, "noise"), layers) | {
        "u": outputs,
        "u_int": outputs,
        "e": outputs,
        "error": 8,
    }
    return (
        (controller.steps // record.every + 1)
        * count
        * sum(each.get(name, layers) for name in record.names())
    )


def _allocate(phase, record):
    """Return the arrays that the kernel records into; it fills every element."""
    rows, count = _rows(record, phase.count)
    times = phase.controller.steps // record.every + 1
    outputs, units = phase.network.sizes[-1], int(phase.places.dense[-1])
    memory.require(
        recorded_bytes(phase.network, phase.controller, count, record),
        f"a trajectory of {times} time points, {count} samples, {units} units",
        "record fewer variables, samples or time points with record=Record(...)",
    )
    lengths = dict.fromkeys(LAYER_VARIABLES, units) | dict.fromkeys(OUTPUT_VARIABLES, outputs) | {"error": 1}
    arrays = {
        name: memory.uninitialised(
            times * count * lengths[name] if name in record.names() else 0,
            np.float64 if name in OUTPUT_VARIABLES else phase.network.dtype,
        )
        for name in VARIABLES
    }
    formulas = sum(name not in get_args(Variable) for name in record.names())
    formulas = memory.uninitialised(formulas * times * count * units, phase.network.dtype)
    return kernel.Records(row=rows, count=count, times=times, formulas=formulas, **arrays)


def _rows(record, samples):
    """Return each sample's index among the recorded ones, or -1, and their number."""
    chosen = record.positions(samples)
    rows = np.full(samples, -1)
    rows[chosen] = np.arange(len(chosen))
    return rows, len(chosen)


def _trajectory(phase, record, records, sums):
    times, count, sizes = records.times, records.count, phase.network.sizes
    step = np.arange(times) * record.every
    chosen = record.positions(phase.count)
    arrays = {}
    for name in LAYER_VARIABLES:
        flat = getattr(records, name)
        arrays[name] = dense_views(flat, count, sizes, times) if flat.size else None
    for name in ("u", "u_int", "e"):
        flat = getattr(records, name)
        arrays[name] = flat.reshape(times, count, sizes[-1]) if flat.size else None
    arrays["error"] = records.error.reshape(times, count) if records.error.size else None
    if "noise" in record.names():
        arrays["noise"] = _noise(phase, step, chosen)
    names = [name for name in record.names() if name not in get_args(Variable)]
    flats = records.formulas.reshape(len(names), -1) if names else ()
    formulas = {name: dense_views(flat, count, sizes, times) for name, flat in zip(names, flats, strict=True)}
    return Trajectory(
        time=step * phase.controller.dt, step=step, **arrays, samples=chosen, formulas=formulas,
        converged=sums.converged[chosen], diverged=sums.diverged[chosen],
    )  # fmt: skip


def _noise(phase, step, chosen):
    """Return the draws that drove the step to each recorded time point, 0 for the initial state; list of (T, B, n_i)."""
    minibatch, found = phase.minibatch, []
    for layer, n in enumerate(phase.network.sizes[1:], 1):
        draws = np.zeros((len(step), len(chosen), n), phase.network.dtype)
        if minibatch.noise.source == shared.KEYED_NOISE:
            keyed_draws(draws, minibatch.noise.key, step, minibatch.noise.samples[chosen], layer)
        else:
            draws[1:] = _given_draws(phase)[layer - 1][step[1:, np.newaxis], chosen]
        found.append(draws)
    return found


def _given_draws(phase):
    """Return the given draws in the network's dtype, list of (T, B, n_i)."""
    times = phase.controller.time_points
    return dense_views(phase.minibatch.noise.given, phase.count, phase.network.sizes, times)


def _kept_noise(phase, noise):
    """Return the noise of a recipe, which later changes of given draws do not reach."""
    given = phase.minibatch.noise.source == shared.GIVEN_NOISE
    return _given_draws(phase) if given else as_key(noise)
