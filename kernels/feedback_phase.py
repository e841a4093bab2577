"""The feedback phase of one shard of samples, fused: controller, layers, noise, and the sums that the updates need.

For step t -> t+1 (the dynamics and plasticity of DFC, Meulemans et al. 2021; Euler method, tau_u = 1):

    e = r* - r_L                          u_int += dt (e - alpha u),  u = u_int + k_p e
    v_ff_i = W_i r_{i-1} + b_i            v_fb_i += (dt/tau_A) (Q_i u - v_fb_i) + noise
    v_i += (dt/tau_v) (v_ff_i + v_fb_i - v_i),  r_i = phi(v_i)
    Delta W_i += (phi(v_i) - phi(v_ff_i)) r_{i-1}^T,   Delta Q_i += -v_fb_i(t) u(t+1)^T

What is stored and evolved are the deviations of v, v_ff and r from the feedforward state (names in the code: v, basal,
rate), which keep their digits however small the nudge. Products for the updates are taken over blocks of steps: rates,
factors (= phi(v) - phi(v_ff)), and for the feedback weights v_fb and u, are kept for a few steps in slots that `_flush`
multiplies out (`memory_plan` says where). Controller, noise and apical compartment are those of `shared_dynamics`.
"""

import numpy as np

from dfc_numba.kernels import elementwise as vector
from dfc_numba.kernels.emit import at
from dfc_numba.kernels.jit import jit, jit_part
from dfc_numba.kernels.multiply import add_outer, multiply
from dfc_numba.kernels.phase_state import AVERAGE, FINAL, evaluate_unit, new_shard, set_constants
from dfc_numba.kernels.rows import add, fill, move
from dfc_numba.kernels.shared_dynamics import (
    advance_apical,
    advance_controller,
    error_norm,
    softmax_error,
)
from dfc_numba.kernels.units import run_step


@jit_part
def _slot(shard, layer, step):
    """Return the distance of the slot of rates and factors after a step."""
    return step % shard.slots * layer.slot


# --- the controller ------------------------------------------------------------------------------------------------------


@jit_part
def _control_error(shard, dynamics, minibatch, step):
    """Write e = r* - r_L (DFC), or r* - softmax(r_L) (Meulemans et al. 2022), at the rates after a step."""
    places, work, signals, last = (
        shard.places,
        shard.memory.work,
        shard.memory.signals,
        shard.layers[shard.places.depth],
    )
    rates, samples = last.rate + _slot(shard, last, step), minibatch.gap.shape[0]
    for s in range(places.count):
        b, row = shard.samples.first + s, s * places.outputs
        feedforward = last.dense * samples + b * places.outputs
        for k in range(places.outputs):
            deviation = np.float64(work[rates + s * last.stride + k])
            signals[places.output + row + k] = minibatch.r_ff[feedforward + k] + deviation
            signals[places.error + row + k] = minibatch.gap[b, k] - deviation
        if dynamics.softmax:
            softmax_error(signals, places, s, minibatch.target[b])


@jit_part
def _jacobian_control(shard, parameters, step):
    """Write the feedback by the Jacobian into the drive of every layer, from the output down; the factors are scratch.

    J_L^T u = phi'(v_L) u,  J_i^T u = phi'(v_i) (W_(i+1)^T J_(i+1)^T u)           (the Jacobian of DFC, Meulemans et al. 2021)
    """
    places, work = shard.places, shard.memory.work
    for i in range(places.depth, 0, -1):
        layer = shard.layers[i]
        size, slope = places.count * layer.stride, layer.factor + _slot(shard, layer, step)
        if i == places.depth:
            move(size, work, layer.drive, work, places.sent)
        else:
            above = shard.layers[i + 1]
            multiply(
                work, layer.drive, layer.stride, places.count, work, above.drive, above.stride, above.units,
                parameters.transposed, layer.transposed,
            )  # fmt: skip
        evaluate_unit(shard, layer, parameters.loops.derivative[i], slope)
        drive = at(work, layer.drive)
        vector.multiply(size, drive, drive, at(work, slope))


# --- the layers ----------------------------------------------------------------------------------------------------------


@jit_part
def _multiply_rates(shard, parameters, layer, step):
    """Write v_ff_i = W_i r_(i-1) + b_i (DFC, Meulemans et al. 2021), whose deviation is W_i times those of the rates below."""
    work, below = shard.memory.work, layer.below + step % shard.slots * layer.below_slot
    multiply(
        work, layer.basal, layer.stride, shard.places.count, work, below, layer.below_stride, layer.inputs,
        parameters.weights, layer.weights,
    )  # fmt: skip


@jit_part
def _multiply_control(shard, parameters, layer):
    """Write the drive Q_i u of a layer (DFC, Meulemans et al. 2021)."""
    work, places = shard.memory.work, shard.places
    multiply(
        work, layer.drive, layer.stride, places.count, work, places.sent, places.stride, places.outputs,
        parameters.feedback, layer.feedback,
    )  # fmt: skip


@jit_part
def _advance_soma(shard, parameters, dynamics, layer, step):
    """Take one step of the somatic voltages and rates of a layer, and write the factors of the plasticity rule.

        v_i += (dt / tau_v) (v_ff_i + v_fb_i - v_i),  r_i = phi(v_i),  factor_i = phi(v_i) - phi(v_ff_i)

    (DFC, Meulemans et al. 2021; a plasticity rule may have another factor.)
    """
    i, work, slot = layer.number, shard.memory.work, _slot(shard, layer, step)
    loop = parameters.loops.step_saturated[i] if shard.saturated[i] else parameters.loops.step[i]
    v, basal, apical = at(work, layer.v), at(work, layer.basal), at(work, layer.apical)
    rate, factor, seen = (
        at(work, layer.rate + slot),
        at(work, layer.factor + slot),
        at(work, layer.seen + slot),
    )
    run_step(
        loop, shard.places.count * layer.stride, v, rate, factor, seen,
        v, basal, apical, at(work, layer.constants), at(work, layer.reference), dynamics.soma_gain,
    )  # fmt: skip


@jit_part
def _advance_layer(shard, parameters, dynamics, task, noise, layer, step):
    """Take one step of a layer, which sees the rates of the layer below after this step or the one before."""
    work, size = shard.memory.work, shard.places.count * layer.stride
    if task.learn_feedback:
        _keep_feedback_factor(shard, parameters, task, layer, step)
    if layer.number > 1:
        seen = step if dynamics.instant_transmission else step + shard.slots - 1
        _multiply_rates(shard, parameters, layer, seen)
    elif layer.basal == shard.layers[shard.places.depth].basal:  # shared by the layers
        fill(size, work, layer.basal, 0.0)
    if not dynamics.jacobian_feedback:
        _multiply_control(shard, parameters, layer)
    if layer.drive != layer.apical:
        advance_apical(shard.memory, shard.places, dynamics, layer, noise, shard.samples, step + 1, step + 1)
    _advance_soma(shard, parameters, dynamics, layer, step)


# --- what is kept --------------------------------------------------------------------------------------------------------


@jit_part
def _keep_feedback_factor(shard, parameters, task, layer, step):
    """Keep what Q_i learns with from this step: v_fb_i (DFC, Meulemans et al. 2021), or the factor of another rule."""
    kept = layer.factor_of_feedback + step % shard.block * layer.slot
    if task.feedback_factor:
        evaluate_unit(shard, layer, parameters.loops.factor_of_feedback[layer.number], kept)
    else:
        move(shard.places.count * layer.stride, shard.memory.work, kept, shard.memory.work, layer.apical)


@jit_part
def _flush(shard, task, minibatch, results, place, filled):
    """Multiply out the first `filled` slots into the sums of this shard."""
    rows = filled * shard.places.count
    for i in range(1, shard.layers.size):
        layer = shard.layers[i]
        if task.readout == AVERAGE:
            if i > 1:
                _add_weight_products(shard.memory.work, layer, results.outer[place], rows)
            _sum_factors(shard, task, minibatch, results, layer, filled)
        if task.learn_feedback:
            _add_feedback_products(
                shard.memory.work, shard.places, layer, results.outer_feedback[place], rows
            )


@jit_part
def _add_weight_products(work, layer, outer, rows):
    """Add up Delta W_i = (phi(v_i) - phi(v_ff_i)) r_(i-1)^T (DFC, Meulemans et al. 2021), the part of the deviation of r."""
    add_outer(
        outer, layer.outer, layer.units, 0, layer.units,
        work, layer.factor, layer.stride, work, layer.seen_below, layer.below_stride, rows,
    )  # fmt: skip


@jit_part
def _add_feedback_products(work, places, layer, outer, rows):
    """Add up -Delta Q_i^T = u(t+1) v_fb_i(t)^T over samples and steps (feedback weights of DFC, Meulemans et al. 2021)."""
    add_outer(
        outer, layer.outer_feedback, places.outputs, 0, places.outputs,
        work, places.signal, places.stride, work, layer.factor_of_feedback, layer.stride, rows,
    )  # fmt: skip


@jit_part
def _sum_factors(shard, task, minibatch, results, layer, filled):
    """Add the factors of the filled slots, summed up in the first, to their sums over time in float64."""
    n, work, samples, size = (
        layer.units,
        shard.memory.work,
        minibatch.gap.shape[0],
        shard.places.count * layer.stride,
    )
    source = layer.factor
    if layer.number == 1 and task.factor_is_rate:
        source = layer.rate
        move(size, work, layer.factor, work, source)
    factor = at(work, layer.factor)
    for step in range(1, filled):
        vector.combine(size, factor, factor, at(work, source + _slot(shard, layer, step)), 1.0, 1.0)
    for s in range(shard.places.count):
        dense = layer.dense * samples + (shard.samples.first + s) * n
        add(n, results.factor, dense, work, layer.factor + s * layer.stride)


@jit_part
def _finish(shard, parameters, task, minibatch, results, step):
    """Leave the last state, and for the final readout its factor with the basal voltage that the last rates imply."""
    places, work, first, samples = (
        shard.places,
        shard.memory.work,
        shard.samples.first,
        minibatch.gap.shape[0],
    )
    for s in range(places.count):
        for k in range(places.outputs):
            results.u[first + s, k] = shard.memory.signals[places.u + s * places.outputs + k]
    for i in range(1, places.depth + 1):
        layer = shard.layers[i]
        n, slot = layer.units, _slot(shard, layer, step)
        if task.readout == FINAL:
            _final_factor(shard, parameters, task, layer, step)
        for s in range(places.count):
            dense, row = layer.dense * samples + (first + s) * n, slot + s * layer.stride
            move(n, results.rate, dense, work, layer.rate + row)
            if task.readout == FINAL:
                move(n, results.factor, dense, work, layer.factor + row)


@jit_part
def _final_factor(shard, parameters, task, layer, step):
    """Write the factors at the last state, with v_ff_i = W_i r_(i-1) + b_i of the last rates (DFC-SS, Meulemans et al. 2021)."""
    size, v, basal = (
        shard.places.count * layer.stride,
        at(shard.memory.work, layer.v),
        at(shard.memory.work, layer.basal),
    )
    if task.factor_moves:  # v - v_ff stays what it is
        vector.subtract(size, v, v, basal)
        if layer.number > 1:
            _multiply_rates(shard, parameters, layer, step)
        vector.combine(size, v, v, basal, 1.0, 1.0)
    evaluate_unit(
        shard, layer, parameters.loops.factor[layer.number], layer.factor + _slot(shard, layer, step)
    )


@jit_part
def _record(shard, parameters, dynamics, minibatch, records, time, step):
    """Write the state at a recorded time point; expects the control error to be up to date."""
    places, signals, outputs = shard.places, shard.memory.signals, shard.places.outputs
    for s in range(places.count):
        b, row = shard.samples.first + s, s * outputs
        if records.row[b] < 0:
            continue
        line = time * records.count + records.row[b]
        if records.error.size:
            records.error[line] = error_norm(signals, places, dynamics, s, minibatch.target[b])
        if records.u.size:
            move(outputs, records.u, line * outputs, signals, places.u + row)
        if records.u_int.size:
            move(outputs, records.u_int, line * outputs, signals, places.u_int + row)
        if records.e.size:
            move(outputs, records.e, line * outputs, signals, places.error + row)
        for i in range(1, places.depth + 1):
            _record_layer(shard, minibatch, records, shard.layers[i], line, s, step)
    if records.formulas.size:
        _record_formulas(shard, parameters, records, time)


@jit_part
def _record_layer(shard, minibatch, records, layer, line, s, step):
    """Write the voltages and rates of one sample's layer: feedforward state plus deviation."""
    n, work, row = layer.units, shard.memory.work, s * layer.stride
    dense = layer.dense * minibatch.gap.shape[0] + (shard.samples.first + s) * n
    out = records.count * records.times * layer.dense + line * n
    if records.v.size:
        _write_sum(n, records.v, out, minibatch.v_ff, dense, work, layer.v + row)
    if records.v_ff.size:
        _write_sum(n, records.v_ff, out, minibatch.v_ff, dense, work, layer.basal + row)
    if records.v_fb.size:
        move(n, records.v_fb, out, work, layer.apical + row)
    if records.r.size:
        _write_sum(
            n, records.r, out, minibatch.r_ff, dense, work, layer.rate + _slot(shard, layer, step) + row
        )


@jit_part
def _write_sum(count, out, out_start, x, x_start, deviation, start):
    """Write out = x + deviation, summed in float64."""
    for j in range(count):
        out[out_start + j] = x[x_start + j] + np.float64(deviation[start + j])


@jit_part
def _record_formulas(shard, parameters, records, time):
    """Write the variables that are formulas of a unit."""
    places, loops = shard.places, parameters.loops.variables
    last = shard.layers[places.depth]
    units = last.dense + last.units
    for k in range(loops.shape[1]):
        for i in range(1, places.depth + 1):
            layer = shard.layers[i]
            evaluate_unit(shard, layer, loops[i, k], places.scratch)
            for s in range(places.count):
                row = records.row[shard.samples.first + s]
                if row >= 0:
                    out = records.count * records.times * (k * units + layer.dense)
                    line = out + (time * records.count + row) * layer.units
                    move(
                        layer.units,
                        records.formulas,
                        line,
                        shard.memory.work,
                        places.scratch + s * layer.stride,
                    )


@jit_part
def _advance(shard, parameters, dynamics, task, minibatch, step):
    """Take one step of the controller and of all layers."""
    places = shard.places
    signal = places.signal + step % shard.block * places.count * places.stride
    advance_controller(
        shard.memory, places, dynamics, task, task.learn_feedback, shard.samples, signal, step == 0, True
    )
    if dynamics.jacobian_feedback:
        _jacobian_control(shard, parameters, step)
    for i in range(1, places.depth + 1):
        _advance_layer(shard, parameters, dynamics, task, minibatch.noise, shard.layers[i], step)


@jit
def run_shard(layout, parameters, dynamics, task, minibatch, results, records, plan, first, place, workspace):
    """Simulate samples of a minibatch from `first` on through all steps.

    Args:
        plan: the `ShardPlan` for as many samples as there are in the shard.
        place: row of results.outer and results.outer_feedback that belongs to this shard.
        workspace: memory for the state, of at least `plan.length` elements.
    """
    steps = dynamics.steps
    shard = new_shard(layout, plan, minibatch, first, workspace)
    set_constants(parameters, task, minibatch, shard)
    before = shard.slots - 1  # where the slots hold the initial state
    _control_error(shard, dynamics, minibatch, before)
    if task.record_every > 0:
        _record(shard, parameters, dynamics, minibatch, records, 0, before)
    for step in range(steps):
        _advance(shard, parameters, dynamics, task, minibatch, step)
        _control_error(shard, dynamics, minibatch, step)
        if task.record_every > 0 and (step + 1) % task.record_every == 0:
            number = (step + 1) // task.record_every
            _record(shard, parameters, dynamics, minibatch, records, number, step)
        filled = step % shard.block + 1
        if filled == shard.block or step == steps - 1:
            _flush(shard, task, minibatch, results, place, filled)
    _finish(shard, parameters, task, minibatch, results, steps - 1)
