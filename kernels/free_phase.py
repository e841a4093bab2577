"""The free phase of equilibrium propagation for one shard of samples, and what all phases share.

Layers i = 1..L, rates r_i, input r_0 = x clamped, drive D_i = W_i r_{i-1} + B_i r_{i+1} + b_i, where B_i = W_{i+1}^T or
separate weights; all layers step at once from the states before, without a nudge (`equilibrium_phases` has that) by

    prototypical   s_i <- phi(D_i), r = s                                   (Ernoult et al. 2019)
    Hopfield       u_i += (dt/tau) (-u_i + phi'(u_i) D_i), r = phi(u)       (Scellier & Bengio 2017)
    Gaussian       in equilibrium at once: the feedforward state

in float64. Arrays of a shard are flat `[layer][sample][unit]` with padded rows, those of all samples dense (see `layout`).
"""

from typing import NamedTuple

import numpy as np

from dfc_numba.kernels import equilibrium_units as units
from dfc_numba.kernels.emit import at
from dfc_numba.kernels.equilibrium_units import LOGISTIC
from dfc_numba.kernels.jit import jit_creating_part, jit_part
from dfc_numba.kernels.layout import Layout
from dfc_numba.kernels.multiply import multiply, multiply_add
from dfc_numba.kernels.rows import add, move
from dfc_numba.kernels.state_changes import largest_change

PROTOTYPICAL, HOPFIELD, GAUSSIAN = 0, 1, 2


class Model(NamedTuple):
    """A network in packed form, in one dtype; index 0 of the nonlinearities is unused."""

    layout: Layout
    form: int
    families: np.ndarray  # (L+1,)
    numbers: np.ndarray  # (L+1, 4) parameters of the nonlinearities
    weights: np.ndarray
    backward: np.ndarray  # W_{i+1}^T or B_i, at `layout.transposed`
    biases: np.ndarray  # (sum n_i,)


@jit_part
def write_rates(model, i, size, out, out_start, v, v_start):
    """Write out = phi_i(v)."""
    n = model.numbers[i]
    if model.families[i] == LOGISTIC:
        units.logistic_rate(size, at(out, out_start), at(v, v_start), n[0], n[1], n[2], n[3])
    else:
        units.clipped_rate(size, at(out, out_start), at(v, v_start), n[0], n[1])


@jit_part
def write_slopes(model, i, size, out, out_start, v, v_start, rate, rate_start):
    """Write out = phi_i'(v)."""
    n = model.numbers[i]
    if model.families[i] == LOGISTIC:
        units.logistic_slope(size, at(out, out_start), at(v, v_start), at(rate, rate_start), n[0], n[2], n[3])
    else:
        units.clipped_slope(size, at(out, out_start), at(v, v_start), n[0], n[1])


# --- products and copies ------------------------------------------------------------------------------------------------


@jit_part
def add_drive(model, i, rows, drive, rate):
    """Add W_i r_{i-1} (i > 1) + B_i r_{i+1} (i < L) to the drive of layer i."""
    layout = model.layout
    start, stride = rows * layout.rows[i], layout.stride[i]
    if i > 1:
        multiply_add(
            drive, start, stride, rows, rate, rows * layout.rows[i - 1], layout.stride[i - 1], layout.sizes[i - 1],
            model.weights, layout.weights[i],
        )  # fmt: skip
    if i < layout.sizes.size - 1:
        add_from_above(model, i, rows, drive, start, rate)


@jit_part
def add_from_above(model, i, rows, out, start, above):
    """Add B_i above_{i+1} to `out`."""
    layout = model.layout
    multiply_add(
        out, start, layout.stride[i], rows, above, rows * layout.rows[i + 1], layout.stride[i + 1], layout.sizes[i + 1],
        model.backward, layout.transposed[i],
    )  # fmt: skip


@jit_part
def _load(layout, rows, first, samples, state, dense):
    """Copy rows of all layers from a dense array."""
    for i in range(1, layout.sizes.size):
        n, stride = layout.sizes[i], layout.stride[i]
        for s in range(rows):
            move(
                n,
                state,
                rows * layout.rows[i] + s * stride,
                dense,
                layout.dense[i] * samples + (first + s) * n,
            )


@jit_part
def store_sample(layout, s, rows, b, samples, dense, state):
    """Copy one sample of all layers to a dense array."""
    for i in range(1, layout.sizes.size):
        n, stride = layout.sizes[i], layout.stride[i]
        move(n, dense, layout.dense[i] * samples + b * n, state, rows * layout.rows[i] + s * stride)


@jit_part
def record_states(layout, rows, first, samples, points, time, records, state, base, with_base):
    """Write the state at a time point to `records`, flat `[layer][time][sample][unit]` in float64; with a base: added to it."""
    for i in range(1, layout.sizes.size):
        n, stride = layout.sizes[i], layout.stride[i]
        for s in range(rows):
            place = layout.dense[i] * samples * points + (time * samples + first + s) * n
            move(n, records, place, state, rows * layout.rows[i] + s * stride)
            if with_base:
                add(n, records, place, base, layout.dense[i] * samples + (first + s) * n)


# --- free phase ---------------------------------------------------------------------------------------------------------


@jit_part
def _begin_free(model, rows, first, x, still):
    """Write still = W_1 x + b_1 in layer 1, b_i above: what does not change."""
    layout = model.layout
    multiply(
        still, 0, layout.stride[1], rows, x, first * layout.stride[0], layout.stride[0], layout.sizes[0],
        model.weights, layout.weights[1],
    )  # fmt: skip
    for i in range(1, layout.sizes.size):
        n, stride = layout.sizes[i], layout.stride[i]
        for s in range(rows):
            place = rows * layout.rows[i] + s * stride
            add(n, still, place, model.biases, layout.dense[i])


@jit_part
def _all_drives(model, rows, drive, still, rate):
    layout = model.layout
    move(rows * layout.rows[layout.sizes.size], drive, 0, still, 0)
    for i in range(1, layout.sizes.size):
        add_drive(model, i, rows, drive, rate)


class Relaxation(NamedTuple):
    """How a free phase goes, and what it reads and writes."""

    gain: float  # dt / tau
    steps: int
    tolerance: float  # largest change of a state in a step of a sample that has settled; negative: none
    counts: np.ndarray  # (B,) receive the steps done; steps + 1: not settled within them
    speeds: np.ndarray  # (B,) receive the largest change of a state in the last step, over the gain
    records: np.ndarray  # `[layer][time][sample][unit]` with steps + 1 time points; empty for none


@jit_creating_part
def free_phase(model, relaxation, x, state, drive, first, rows, samples):
    """Relax the samples first .. first + rows.

    Args:
        x: flat inputs, rows of stride_0. state, drive: dense; the initial state, replaced by the last one, and D there.
    """
    layout, gain, steps, tolerance = model.layout, relaxation.gain, relaxation.steps, relaxation.tolerance
    counts, speeds, records = relaxation.counts, relaxation.speeds, relaxation.records
    depth, total = layout.sizes.size - 1, rows * layout.rows[layout.sizes.size]
    still, now = np.zeros(total, x.dtype), np.zeros(total, x.dtype)
    rate, drives, before = np.zeros(total, x.dtype), np.zeros(total, x.dtype), np.zeros(total, x.dtype)
    _begin_free(model, rows, first, x, still)
    _load(layout, rows, first, samples, now, state)
    settled = np.zeros(rows, np.bool_)
    if model.form == GAUSSIAN:
        for i in range(1, depth + 1):
            start, size = rows * layout.rows[i], rows * layout.stride[i]
            move(size, now, start, still, start)
            if i > 1:
                multiply_add(
                    now, start, layout.stride[i], rows,
                    rate, rows * layout.rows[i - 1], layout.stride[i - 1], layout.sizes[i - 1],
                    model.weights, layout.weights[i],
                )  # fmt: skip
            write_rates(model, i, size, rate, start, now, start)
        steps = 0
    for i in range(1, depth + 1):
        start, size = rows * layout.rows[i], rows * layout.stride[i]
        if model.form == HOPFIELD:
            write_rates(model, i, size, rate, start, now, start)
    if records.size > 0:
        record_states(layout, rows, first, samples, steps + 1, 0, records, now, state, False)
    left = rows
    for step in range(1, steps + 1):
        move(total, before, 0, now, 0)
        if model.form == PROTOTYPICAL:
            _all_drives(model, rows, drives, still, now)
        else:
            _all_drives(model, rows, drives, still, rate)
        for i in range(1, depth + 1):
            start, size = rows * layout.rows[i], rows * layout.stride[i]
            if model.form == PROTOTYPICAL:
                write_rates(model, i, size, now, start, drives, start)
            else:
                write_slopes(model, i, size, rate, start, now, start, rate, start)
                _descend(size, gain, now, rate, drives, start)
                write_rates(model, i, size, rate, start, now, start)
        if records.size > 0:
            record_states(layout, rows, first, samples, steps + 1, step, records, now, state, False)
        if tolerance >= 0.0:
            left -= _settle(layout, relaxation, rows, first, samples, now, before, settled, state, step)
            if left == 0:
                break
    for s in range(rows):
        if not settled[s]:
            store_sample(layout, s, rows, first + s, samples, state, now)
            counts[first + s] = steps + 1 if tolerance >= 0.0 and model.form != GAUSSIAN else steps
            speeds[first + s] = largest_change(layout, s, rows, now, before) / gain if steps > 0 else 0.0
    _load(layout, rows, first, samples, now, state)
    if model.form == HOPFIELD:
        for i in range(1, depth + 1):
            start, size = rows * layout.rows[i], rows * layout.stride[i]
            write_rates(model, i, size, rate, start, now, start)
        _all_drives(model, rows, drives, still, rate)
    elif model.form == PROTOTYPICAL:
        _all_drives(model, rows, drives, still, now)
    for s in range(rows):
        store_sample(layout, s, rows, first + s, samples, drive, drives)


@jit_part
def _descend(size, gain, state, slope, drive, start):
    """Take u_i += (dt/tau) (-u_i + phi'(u_i) D_i) of one layer (Hopfield energy, Scellier & Bengio 2017)."""
    u = at(state, start)
    units.hopfield_step(size, u, u, at(slope, start), at(drive, start), gain)


@jit_part
def _settle(layout, relaxation, rows, first, samples, now, before, settled, state, step):
    """Leave the samples that have settled in this step at their state; returns how many."""
    done = 0
    for s in range(rows):
        if settled[s]:
            continue
        change = largest_change(layout, s, rows, now, before)
        if change <= relaxation.tolerance:
            settled[s] = True
            done += 1
            relaxation.counts[first + s] = step
            relaxation.speeds[first + s] = change / relaxation.gain
            store_sample(layout, s, rows, first + s, samples, state, now)
    return done
