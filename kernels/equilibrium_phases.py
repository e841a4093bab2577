"""Free and nudged phases of equilibrium propagation for one shard of samples, fused into one kernel.

A nudge of beta, of either sign, pulls the output towards the target y while all layers step as in `free_phase`:

    prototypical   squared error: s_L <- phi(D_L + beta (y - s_L)); cross-entropy: a linear output,
                   s_L <- D_L + beta (y - softmax(s_L))                                 (Ernoult et al. 2019)
    Hopfield       - beta dC/du_L in the output's step                                  (Scellier & Bengio 2017)
    Gaussian       e_i = u_i - W_i r_{i-1} - b_i,  u_i += (2 dt/tau) (phi'(u_i) W_{i+1}^T e_{i+1} - e_i); likewise

Nudged phases evolve d = state - free state, in either dtype: with drive D0 at the free state, phi(D0 + dD) - phi(D0) is
computed from dD itself (see `elementwise`), so that a nudge of 1e-6 keeps its digits in float32; what the free state lacks of
rest is a constant residual. Arrays are as in `free_phase`; those of several nudges lie one after the other.
"""

from typing import NamedTuple

import numpy as np

from dfc_numba.kernels import equilibrium_units as units
from dfc_numba.kernels.emit import at
from dfc_numba.kernels.equilibrium_units import LOGISTIC
from dfc_numba.kernels.free_phase import (
    GAUSSIAN,
    HOPFIELD,
    PROTOTYPICAL,
    add_drive,
    add_from_above,
    free_phase,
    record_states,
    store_sample,
    write_rates,
    write_slopes,
)
from dfc_numba.kernels.jit import jit, jit_creating_part, jit_part
from dfc_numba.kernels.multiply import multiply_add
from dfc_numba.kernels.rows import fill, move
from dfc_numba.kernels.state_changes import distance

SQUARED_ERROR, CROSS_ENTROPY = 0, 1
WATCHED = 5  # steps at the end of a nudged phase whose lengths are kept


class Base(NamedTuple):
    """A shard around its free state, in the dtype of the nudged phase."""

    constants: np.ndarray  # three planes per layer, at 3 * start: of the difference formula, or where it is
    residual: np.ndarray
    drive: np.ndarray


@jit_part
def _set_base(model, base, free, wide, rows, first, samples, state, drive, limit):
    """Fill a `Base` from the free state and its drive; free: the model in float64; wide: scratch of six rows of a layer."""
    layout, places = model.layout, free.layout
    length = wide.size // 6
    for i in range(1, layout.sizes.size):
        n, stride, own = layout.sizes[i], layout.stride[i], places.stride[i]
        u, d, r, c = 0, length, 2 * length, 3 * length
        numbers = free.numbers[i]
        for s in range(rows):
            place, start = layout.dense[i] * samples + (first + s) * n, rows * layout.rows[i] + s * stride
            fill(wide.size, wide, 0, 0.0)
            move(n, wide, u, state, place)
            move(n, wide, d, drive, place)
            here = d if model.form == PROTOTYPICAL else u
            write_rates(free, i, own, wide, r, wide, here)
            if model.families[i] == LOGISTIC:
                units.logistic_constants(
                    own, at(wide, c), at(wide, here), numbers[0], numbers[1], numbers[2], limit
                )
            else:
                move(own, wide, c, wide, here)
            for plane in range(3):
                to = 3 * rows * layout.rows[i] + plane * rows * stride + s * stride
                move(n, base.constants, to, wide, c + plane * own)
            free_state, rest = at(wide, u), at(wide, r)
            if model.form == PROTOTYPICAL:
                units.subtract(own, rest, rest, free_state)
                move(n, base.residual, start, wide, r)
            elif model.form == HOPFIELD:
                move(n, base.drive, start, wide, d)
                write_slopes(free, i, own, wide, c, wide, u, wide, r)
                units.hopfield_step(own, rest, free_state, at(wide, c), at(wide, d), 1.0)  # phi'(u) D
                units.subtract(own, rest, rest, free_state)
                move(n, base.residual, start, wide, r)


@jit_part
def _nudge(layout, rows, first, samples, nudging, beta, state, deviation, nudge):
    """Write nudge = beta (y - output) or beta (y - softmax(output)) at the states before; float64."""
    depth, loss, target = layout.sizes.size - 1, nudging.loss, nudging.target
    n, stride = layout.sizes[depth], layout.stride[depth]
    for s in range(rows):
        b = first + s
        dense, place = layout.dense[depth] * samples + b * n, rows * layout.rows[depth] + s * stride
        if loss == SQUARED_ERROR:
            for k in range(n):
                nudge[s, k] = beta * ((target[b, k] - state[dense + k]) - np.float64(deviation[place + k]))
            continue
        top, total = -np.inf, 0.0
        for k in range(n):
            top = max(top, state[dense + k] + np.float64(deviation[place + k]))
        for k in range(n):
            total += np.exp(state[dense + k] + np.float64(deviation[place + k]) - top)
        for k in range(n):
            output = np.exp(state[dense + k] + np.float64(deviation[place + k]) - top) / total
            nudge[s, k] = beta * (target[b, k] - output)


@jit_part
def _add_nudge(layout, rows, out, nudge, factor):
    depth = layout.sizes.size - 1
    for s in range(rows):
        place = rows * layout.rows[depth] + s * layout.stride[depth]
        for k in range(layout.sizes[depth]):
            out[place + k] += out.dtype.type(factor * nudge[s, k])


@jit_part
def _advance(model, base, rows, gain, loss, deviation, rate, change, back, nudge):
    """Take one step of all layers from the states before; `back` is scratch."""
    layout = model.layout
    depth, total = layout.sizes.size - 1, rows * layout.rows[layout.sizes.size]
    if model.form == GAUSSIAN:
        _gaussian_errors(model, rows, deviation, rate, change, back)
    else:
        fill(total, change, 0, 0.0)
        for i in range(1, depth + 1):
            add_drive(model, i, rows, change, rate)
    if model.form == PROTOTYPICAL and loss == SQUARED_ERROR:
        _add_nudge(layout, rows, change, nudge, 1.0)
    for i in range(1, depth + 1):
        start, size = rows * layout.rows[i], rows * layout.stride[i]
        if model.form == PROTOTYPICAL:
            _jump(
                model, base, i, size, at(deviation, start), at(change, start), at(base.residual, start), start
            )
        elif model.form == HOPFIELD:
            _flow(model, base, i, size, gain, at(deviation, start), at(rate, start), at(change, start), start)
        else:
            errors = at(change, start), at(back, start)
            _descent(model, base, i, size, gain, at(deviation, start), at(rate, start), errors, start)
    if model.form == PROTOTYPICAL and loss == CROSS_ENTROPY:
        _add_nudge(layout, rows, deviation, nudge, 1.0)


@jit_part
def _jump(model, base, i, size, out, change, residual, start):
    """Write out = residual + phi(D0 + change) - phi(D0) of layer i (Ernoult et al. 2019); out, change, residual are spans."""
    n, constants = model.numbers[i], at(base.constants, 3 * start)
    if model.families[i] == LOGISTIC:
        units.logistic_jump(size, out, change, residual, constants, n[0])
    else:
        units.clipped_jump(size, out, change, residual, constants, n[0], n[1])


@jit_part
def _flow(model, base, i, size, gain, d, rate, change, start):
    """Take a step of the deviation d of layer i down the Hopfield energy (Scellier & Bengio 2017), and the rate's with it."""
    n, constants = model.numbers[i], at(base.constants, 3 * start)
    drive, residual = at(base.drive, start), at(base.residual, start)
    if model.families[i] == LOGISTIC:
        units.logistic_flow(size, d, rate, d, rate, change, drive, residual, constants, gain, n[0], n[2])
    else:
        units.clipped_flow(size, d, rate, d, change, drive, residual, constants, gain, n[0], n[1])


@jit_part
def _descent(model, base, i, size, gain, d, rate, errors, start):
    """Take a step of d, layer i's deviation, down the Gaussian energy, and of the rate's; errors: e_i, W^T e_{i+1}."""
    n, constants = model.numbers[i], at(base.constants, 3 * start)
    error, back = errors
    if model.families[i] == LOGISTIC:
        units.logistic_descent(size, d, rate, d, rate, error, back, constants, gain, n[0], n[2])
    else:
        units.clipped_descent(size, d, rate, d, error, back, constants, gain, n[0], n[1])


@jit_part
def _gaussian_errors(model, rows, deviation, rate, error, back):
    """Write error = e_i and back = W_{i+1}^T e_{i+1} of all layers."""
    layout = model.layout
    depth, total = layout.sizes.size - 1, rows * layout.rows[layout.sizes.size]
    fill(total, error, 0, 0.0)
    for i in range(2, depth + 1):
        start = rows * layout.rows[i]
        multiply_add(
            error, start, layout.stride[i], rows,
            rate, rows * layout.rows[i - 1], layout.stride[i - 1], layout.sizes[i - 1],
            model.weights, layout.weights[i],
        )  # fmt: skip
    errors = at(error, 0)
    units.subtract(total, errors, at(deviation, 0), errors)
    fill(total, back, 0, 0.0)
    for i in range(1, depth):
        add_from_above(model, i, rows, back, rows * layout.rows[i], error)


@jit_part
def _finish_energy_step(model, rows, gain, deviation, rate, base, nudge):
    """Finish the output of the energy forms: its state and rate with the cost's part of the step."""
    layout = model.layout
    depth = layout.sizes.size - 1
    start, size = rows * layout.rows[depth], rows * layout.stride[depth]
    _add_nudge(layout, rows, deviation, nudge, np.float64(gain))
    fill(size, rate, start, 0.0)  # as the residual of a jump
    rates = at(rate, start)
    _jump(model, base, depth, size, rates, at(deviation, start), rates, start)


class Nudging(NamedTuple):
    """How nudged phases go, one for each nudge, and what they read and write."""

    gain: float  # dt / tau, in the dtype of the phase
    steps: int
    betas: np.ndarray
    loss: int
    limit: float  # `forms.ARGUMENT_LIMIT` of the dtype
    target: np.ndarray  # (B, n_L), float64
    deviations: np.ndarray  # (nudges, dense) receive state - free state, and the difference of the rates
    rate_deviations: np.ndarray
    lengths: np.ndarray  # (nudges, B, WATCHED + 1) receive the lengths of the last steps, and of d at the end
    records: np.ndarray  # (nudges, all states as in `Relaxation`); empty for none


@jit
def phases(free, relaxation, model, nudging, x, state, drive, first, rows, samples):
    """Relax the samples first .. first + rows if there are steps to do, and nudge them from there by every beta.

    Args:
        free, model: the network in float64, and in the dtype of the nudged phases.
        x, state, drive: as for `free_phase`; with negative steps, state and drive are those to nudge from.
    """
    if relaxation.steps >= 0:
        free_phase(free, relaxation, x, state, drive, first, rows, samples)
    if nudging.betas.size > 0:
        _nudged_phases(free, model, nudging, state, drive, first, rows, samples)


@jit_creating_part
def _nudged_phases(free, model, nudging, state, drive, first, rows, samples):
    """Nudge the samples first .. first + rows from their state."""
    layout, records = model.layout, nudging.records
    total, points = rows * layout.rows[layout.sizes.size], nudging.steps + 1
    dtype = model.weights.dtype
    base = Base(np.zeros(3 * total, dtype), np.zeros(total, dtype), np.zeros(total, dtype))
    wide = np.zeros(6 * max(free.layout.widest, 1), state.dtype)
    _set_base(model, base, free, wide, rows, first, samples, state, drive, nudging.limit)
    deviation, change, back = np.zeros(total, dtype), np.zeros(total, dtype), np.zeros(total, dtype)
    moved, before = np.zeros(total, dtype), np.zeros(total, dtype)
    nudge = np.zeros((rows, layout.sizes[layout.sizes.size - 1]))
    rate = deviation if model.form == PROTOTYPICAL else moved
    for k in range(nudging.betas.size):
        fill(total, deviation, 0, 0.0)
        fill(total, rate, 0, 0.0)
        if records.size > 0:
            record_states(layout, rows, first, samples, points, 0, records[k], deviation, state, True)
        for step in range(1, points):
            column = step - points + WATCHED
            if column >= 0:
                move(total, before, 0, deviation, 0)
            _nudge(layout, rows, first, samples, nudging, nudging.betas[k], state, deviation, nudge)
            _advance(model, base, rows, nudging.gain, nudging.loss, deviation, rate, change, back, nudge)
            if model.form != PROTOTYPICAL:
                _finish_energy_step(model, rows, nudging.gain, deviation, rate, base, nudge)
            if column >= 0:
                for s in range(rows):
                    nudging.lengths[k, first + s, column] = distance(layout, s, rows, deviation, before)
            if records.size > 0:
                record_states(layout, rows, first, samples, points, step, records[k], deviation, state, True)
        fill(total, before, 0, 0.0)
        for s in range(rows):
            nudging.lengths[k, first + s, WATCHED] = distance(layout, s, rows, deviation, before)
            store_sample(layout, s, rows, first + s, samples, nudging.deviations[k], deviation)
            store_sample(layout, s, rows, first + s, samples, nudging.rate_deviations[k], rate)
