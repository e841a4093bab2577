"""Free and nudged phases of equilibrium propagation for one shard of samples.

Layers i = 1..L, rates r_i, input r_0 = x clamped, drive D_i = W_i r_{i-1} + B_i r_{i+1} + b_i, where B_i = W_{i+1}^T or
separate weights; all layers step at once from the states before.

    prototypical   s_i <- phi(D_i), r = s; squared error: phi(D_L + beta (y - s_L)); cross-entropy: a linear output,
                   s_L <- D_L + beta (y - softmax(s_L))                                 (Ernoult et al. 2019)
    Hopfield       u_i += (dt/tau) (-u_i + phi'(u_i) D_i), r = phi(u); output: - beta dC/du_L (Scellier & Bengio 2017)
    Gaussian       e_i = u_i - W_i r_{i-1} - b_i,  u_i += (2 dt/tau) (phi'(u_i) W_{i+1}^T e_{i+1} - e_i); likewise

The free phase runs in float64. The nudged phase evolves d = state - free state, in either dtype: with drive D0 at the free
state, phi(D0 + dD) - phi(D0) is computed from dD itself (see `elementwise`), so that a nudge of 1e-6 keeps its digits in
float32; what the free state lacks of rest is a constant residual. Arrays of a shard are flat `[layer][sample][unit]` with
padded rows, those of all samples dense (see `layout`).
"""

from typing import NamedTuple

import numpy as np

from dfc_numba.kernels import equilibrium_units as units
from dfc_numba.kernels.emit import at
from dfc_numba.kernels.equilibrium_units import LOGISTIC
from dfc_numba.kernels.jit import jit, jit_part
from dfc_numba.kernels.layout import Layout
from dfc_numba.kernels.multiply import multiply, multiply_add
from dfc_numba.kernels.rows import add, fill, move
from dfc_numba.kernels.state_changes import distance, largest_change

PROTOTYPICAL, HOPFIELD, GAUSSIAN = 0, 1, 2
SQUARED_ERROR, CROSS_ENTROPY = 0, 1
WATCHED = 5  # steps at the end of a nudged phase whose lengths are kept


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
def _rates(model, i, size, out, out_start, v, v_start):
    """Write out = phi_i(v)."""
    n = model.numbers[i]
    if model.families[i] == LOGISTIC:
        units.logistic_rate(size, at(out, out_start), at(v, v_start), n[0], n[1], n[2], n[3])
    else:
        units.clipped_rate(size, at(out, out_start), at(v, v_start), n[0], n[1])


@jit_part
def _slopes(model, i, size, out, out_start, v, v_start, rate, rate_start):
    """Write out = phi_i'(v)."""
    n = model.numbers[i]
    if model.families[i] == LOGISTIC:
        units.logistic_slope(size, at(out, out_start), at(v, v_start), at(rate, rate_start), n[0], n[2], n[3])
    else:
        units.clipped_slope(size, at(out, out_start), at(v, v_start), n[0], n[1])


# --- products and copies ------------------------------------------------------------------------------------------------


@jit_part
def _add_drive(model, i, rows, drive, rate):
    """Add W_i r_{i-1} (i > 1) + B_i r_{i+1} (i < L) to the drive of layer i."""
    layout = model.layout
    start, stride = rows * layout.rows[i], layout.stride[i]
    if i > 1:
        multiply_add(
            drive, start, stride, rows, rate, rows * layout.rows[i - 1], layout.stride[i - 1], layout.sizes[i - 1],
            model.weights, layout.weights[i],
        )  # fmt: skip
    if i < layout.sizes.size - 1:
        _add_from_above(model, i, rows, drive, start, rate)


@jit_part
def _add_from_above(model, i, rows, out, start, above):
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
def _store(layout, s, rows, b, samples, dense, state):
    """Copy one sample of all layers to a dense array."""
    for i in range(1, layout.sizes.size):
        n, stride = layout.sizes[i], layout.stride[i]
        move(n, dense, layout.dense[i] * samples + b * n, state, rows * layout.rows[i] + s * stride)


@jit_part
def _record(layout, rows, first, samples, points, time, records, state, base, with_base):
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
        _add_drive(model, i, rows, drive, rate)


@jit
def free_phase(model, gain, steps, tolerance, x, state, drive, counts, speeds, records, first, rows, samples):
    """Relax the samples first .. first + rows, from `state` to where they rest.

    Args:
        gain: dt/tau. tolerance: a sample whose states change by at most this in a step has settled and is left there;
            negative: none does. x: flat inputs, rows of stride_0.
        state, drive: dense, float64; the initial state, replaced by the last one, and D at the last one.
        counts: (B,) receives the steps done, `steps + 1` for a sample that has not settled within them (tolerance >= 0).
        speeds: (B,) receives the largest change of a state in the last step of a sample, over the gain; NaN if it is NaN.
        records: all states, `[layer][time][sample][unit]` with steps + 1 time points; empty for none.
    """
    layout = model.layout
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
            _rates(model, i, size, rate, start, now, start)
        steps = 0
    for i in range(1, depth + 1):
        start, size = rows * layout.rows[i], rows * layout.stride[i]
        if model.form == HOPFIELD:
            _rates(model, i, size, rate, start, now, start)
    if records.size > 0:
        _record(layout, rows, first, samples, steps + 1, 0, records, now, state, False)
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
                _rates(model, i, size, now, start, drives, start)
            else:
                _slopes(model, i, size, rate, start, now, start, rate, start)
                _descend(size, gain, now, rate, drives, start)
                _rates(model, i, size, rate, start, now, start)
        if records.size > 0:
            _record(layout, rows, first, samples, steps + 1, step, records, now, state, False)
        if tolerance >= 0.0:
            left -= _settle(
                layout,
                rows,
                first,
                samples,
                now,
                before,
                tolerance,
                settled,
                state,
                counts,
                speeds,
                gain,
                step,
            )
            if left == 0:
                break
    for s in range(rows):
        if not settled[s]:
            _store(layout, s, rows, first + s, samples, state, now)
            counts[first + s] = steps + 1 if tolerance >= 0.0 and model.form != GAUSSIAN else steps
            speeds[first + s] = largest_change(layout, s, rows, now, before) / gain if steps > 0 else 0.0
    _load(layout, rows, first, samples, now, state)
    if model.form == HOPFIELD:
        for i in range(1, depth + 1):
            start, size = rows * layout.rows[i], rows * layout.stride[i]
            _rates(model, i, size, rate, start, now, start)
        _all_drives(model, rows, drives, still, rate)
    elif model.form == PROTOTYPICAL:
        _all_drives(model, rows, drives, still, now)
    for s in range(rows):
        _store(layout, s, rows, first + s, samples, drive, drives)


@jit_part
def _descend(size, gain, state, slope, drive, start):
    """Take u_i += (dt/tau) (-u_i + phi'(u_i) D_i) of one layer (Hopfield energy, Scellier & Bengio 2017)."""
    u = at(state, start)
    units.hopfield_step(size, u, u, at(slope, start), at(drive, start), gain)


@jit_part
def _settle(layout, rows, first, samples, now, before, tolerance, settled, state, counts, speeds, gain, step):
    """Leave the samples that have settled in this step at their state; returns how many."""
    done = 0
    for s in range(rows):
        if settled[s]:
            continue
        change = largest_change(layout, s, rows, now, before)
        if change <= tolerance:
            settled[s] = True
            done += 1
            counts[first + s] = step
            speeds[first + s] = change / gain
            _store(layout, s, rows, first + s, samples, state, now)
    return done


# --- nudged phase -------------------------------------------------------------------------------------------------------


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
            _rates(free, i, own, wide, r, wide, here)
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
                _slopes(free, i, own, wide, c, wide, u, wide, r)
                units.hopfield_step(own, rest, free_state, at(wide, c), at(wide, d), 1.0)  # phi'(u) D
                units.subtract(own, rest, rest, free_state)
                move(n, base.residual, start, wide, r)


@jit_part
def _nudge(layout, rows, first, samples, loss, beta, state, target, deviation, nudge):
    """Write nudge = beta (y - output) or beta (y - softmax(output)) at the states before; float64."""
    depth = layout.sizes.size - 1
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
            _add_drive(model, i, rows, change, rate)
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
        _add_from_above(model, i, rows, back, rows * layout.rows[i], error)


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
    """How a nudged phase goes."""

    gain: float  # dt / tau, in the dtype of the phase
    steps: int
    beta: float  # of either sign
    loss: int
    limit: float  # `forms.ARGUMENT_LIMIT` of the dtype


class NudgedArrays(NamedTuple):
    """What a nudged phase reads and writes; flat and dense but for the target."""

    state: np.ndarray  # float64: the free state and its drive, as `free_phase` left them
    drive: np.ndarray
    target: np.ndarray  # (B, n_L), float64
    deviations: np.ndarray  # receive state - free state, and the difference of the rates
    rate_deviations: np.ndarray
    lengths: np.ndarray  # (B, WATCHED + 1) receive the lengths of the last steps, and of d at the end
    records: np.ndarray  # as in `free_phase`


@jit
def nudged_phase(model, free, nudging, arrays, first, rows, samples):
    """Nudge the samples first .. first + rows from their free state.

    Args:
        model, free: the network in the dtype of this phase, and in float64.
    """
    layout, state, records = model.layout, arrays.state, arrays.records
    total, points = rows * layout.rows[layout.sizes.size], nudging.steps + 1
    dtype = model.weights.dtype
    base = Base(np.zeros(3 * total, dtype), np.zeros(total, dtype), np.zeros(total, dtype))
    wide = np.zeros(6 * max(free.layout.widest, 1), state.dtype)
    _set_base(model, base, free, wide, rows, first, samples, state, arrays.drive, nudging.limit)
    deviation, change, back = np.zeros(total, dtype), np.zeros(total, dtype), np.zeros(total, dtype)
    moved, before = np.zeros(total, dtype), np.zeros(total, dtype)
    nudge = np.zeros((rows, layout.sizes[layout.sizes.size - 1]))
    rate = deviation if model.form == PROTOTYPICAL else moved
    if records.size > 0:
        _record(layout, rows, first, samples, points, 0, records, deviation, state, True)
    for step in range(1, points):
        column = step - points + WATCHED
        if column >= 0:
            move(total, before, 0, deviation, 0)
        _nudge(
            layout, rows, first, samples, nudging.loss, nudging.beta, state, arrays.target, deviation, nudge
        )
        _advance(model, base, rows, nudging.gain, nudging.loss, deviation, rate, change, back, nudge)
        if model.form != PROTOTYPICAL:
            _finish_energy_step(model, rows, nudging.gain, deviation, rate, base, nudge)
        if column >= 0:
            for s in range(rows):
                arrays.lengths[first + s, column] = distance(layout, s, rows, deviation, before)
        if records.size > 0:
            _record(layout, rows, first, samples, points, step, records, deviation, state, True)
    fill(total, before, 0, 0.0)
    for s in range(rows):
        arrays.lengths[first + s, WATCHED] = distance(layout, s, rows, deviation, before)
        _store(layout, s, rows, first + s, samples, arrays.deviations, deviation)
        _store(layout, s, rows, first + s, samples, arrays.rate_deviations, rate)
