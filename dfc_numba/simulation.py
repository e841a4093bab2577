"""Simulating one feedback phase with full trajectories."""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from dfc_numba import memory
from dfc_numba.kernels import phase_state as kernel
from dfc_numba.kernels.layout import dense_views
from dfc_numba.options import Count, options
from dfc_numba.phase import prepare, run
from dfc_numba.validation import instance

Variable = Literal["u", "u_int", "error", "v", "v_ff", "v_fb", "r"]
VARIABLES = Variable.__args__
OUTPUT_VARIABLES, LAYER_VARIABLES = VARIABLES[:3], VARIABLES[3:]


@options
class Record:
    """What to keep of a simulation.

    Args:
        variables: some of "u", "u_int", "error", "v", "v_ff", "v_fb", "r"; None keeps all.
        samples: different positions of samples in the minibatch, in the order wanted; None keeps all.
        every: keep every n-th time point, beginning with the initial state.

    Raises:
        ValueError: for an unknown variable, or numbers that are not allowed.
    """

    variables: tuple[Variable, ...] | None = None
    samples: tuple[Annotated[int, Field(ge=0, strict=True)], ...] | None = None
    every: Count = 1


@dataclass(frozen=True)
class Trajectory:
    """A recorded feedback phase: T time points, B samples, layers i = 1..L (lists are 0-based).

    Attributes:
        time: (T,) in units of tau_u. step: (T,) number of the Euler step.
        u, u_int: (T, B, n_L) control signal and its integral part.
        error: (T, B) ||r* - r_L||, or the cross-entropy of softmax(r_L) with r* for error="softmax".
        v, v_ff, v_fb: lists of (T, B, n_i): somatic, basal and apical voltages. r: rates.
        converged, diverged: (B,) as published: the steady-state residual below 1e-5 (above 1) of the norm of the
            feedforward output, and for `converged` the error below convergence_epsilon**2 of the initial one.

    A variable that was not recorded is None.
    """

    time: np.ndarray
    step: np.ndarray
    u: np.ndarray | None
    u_int: np.ndarray | None
    error: np.ndarray | None
    v: list | None
    v_ff: list | None
    v_fb: list | None
    r: list | None
    converged: np.ndarray
    diverged: np.ndarray


def simulate(network, x, target, controller, *, noise=None, record=None):
    """Simulate the feedback phase of one minibatch (the dynamics of DFC, Meulemans et al. 2021; Euler method).

    Args:
        network: a `Network`.
        x: inputs (B, n_0). target: output target r*, (B, n_L), best in float64: see `output_target`.
        controller: a `Controller`.
        noise: where the draws come from if the controller has sigma > 0: an int seed, a `NoiseKey`, or a list of arrays
            (T, B, n_i) of standard normal draws, of which index t + 1 drives the step t -> t + 1.
        record: a `Record`; None keeps everything.

    Returns:
        a `Trajectory`. A diverging simulation holds non-finite numbers from some step on, and says so in `.diverged`.

    Raises:
        ValueError, TypeError: for arguments that do not fit.
        MemoryError: for a trajectory that does not fit into memory; the message tells its size.
    """
    record = Record() if record is None else instance("record", record, Record)
    phase = prepare(network, x, target, controller, noise)
    records = _allocate(phase, record)
    task = kernel.Task(kernel.NO_READOUT, kernel.NONLINEAR_DIFFERENCE, False, 0.0, record.every)
    sums = run(phase, task, records=records)
    return _trajectory(phase, record, records, sums)


def _allocate(phase, record):
    """The arrays that the kernel records into."""
    rows, count = _rows(record, phase.count)
    times = phase.controller.steps // record.every + 1
    outputs, units = phase.network.sizes[-1], int(phase.places.dense[-1])
    lengths = dict.fromkeys(LAYER_VARIABLES, units) | {"u": outputs, "u_int": outputs, "error": 1}
    wanted = VARIABLES if record.variables is None else record.variables
    dtypes = {
        name: np.dtype(np.float64) if name in OUTPUT_VARIABLES else phase.network.dtype for name in VARIABLES
    }
    needed = sum(times * count * lengths[name] * dtypes[name].itemsize for name in wanted)
    memory.require(
        needed, f"a trajectory of {times} time points, {count} samples, {units} units",
        "record fewer variables, samples or time points with record=Record(...)",
    )  # fmt: skip
    arrays = {
        name: np.zeros(times * count * lengths[name] if name in wanted else 0, dtypes[name])
        for name in VARIABLES
    }
    return kernel.Records(row=rows, count=count, times=times, **arrays)


def _rows(record, samples):
    """For each sample its place among the recorded ones or -1, and their number."""
    if record.samples is None:
        return np.arange(samples), samples
    chosen = np.asarray(record.samples, np.int64)
    if (
        len(chosen) == 0
        or len(set(record.samples)) < len(chosen)
        or chosen.min() < 0
        or chosen.max() >= samples
    ):
        raise ValueError(
            f"Record.samples is {record.samples}; different positions from 0 to {samples - 1} are allowed"
        )
    rows = np.full(samples, -1)
    rows[chosen] = np.arange(len(chosen))
    return rows, len(chosen)


def _trajectory(phase, record, records, sums):
    times, count, sizes = records.times, records.count, phase.network.sizes
    step = np.arange(times) * record.every
    arrays = {}
    for name in LAYER_VARIABLES:
        flat = getattr(records, name)
        arrays[name] = dense_views(flat, count, sizes, times) if flat.size else None
    for name in ("u", "u_int"):
        flat = getattr(records, name)
        arrays[name] = flat.reshape(times, count, sizes[-1]) if flat.size else None
    arrays["error"] = records.error.reshape(times, count) if records.error.size else None
    chosen = slice(None) if record.samples is None else list(record.samples)
    return Trajectory(
        time=step * phase.controller.dt, step=step, **arrays,
        converged=sums.converged[chosen], diverged=sums.diverged[chosen],
    )  # fmt: skip
