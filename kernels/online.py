"""The continuous-time learning of forward and feedback weights, fused into the Euler steps of the simulation.

For step t -> t+1 (the dynamics and plasticity of DFC, Meulemans et al. 2021; Euler method, tau_u = 1), with the weights of
time t:

    e = r*(t) - r_L                       u_int += dt (e - alpha u),  u = u_int + k_p e
    v_ff_i = W_i r_{i-1} + b_i            v_fb_i += (dt/tau_A) (Q_i u - v_fb_i) + noise
    v_i += (dt/tau_v) (v_ff_i + v_fb_i - v_i),  r_i = phi(v_i)

and then, as means over the samples,

    W_i += (dt/tau_W) (phi(v_i) - phi(v_ff_i)) r_{i-1}^T,   b_i += (dt/tau_W) (phi(v_i) - phi(v_ff_i))
    Q_i += (dt/tau_Q) (-v_fb_i(t) u(t+1)^T - beta Q_i)

A change is applied when the weights are used next: `learn_and_multiply` adds it and takes the product in one sweep over W,
so until then factors and rates are pending. While the input is held, W_1 is not swept at all: with D the sum of the factors
since then, W_1 x + b_1 = (its first value) + sum over samples of D (x'^T x + 1), and W_1 receives D x^T when the input
changes. `settle` applies what is pending. The controller runs in float64 for either dtype.
"""

import numpy as np

from dfc_numba.kernels import elementwise as vector
from dfc_numba.kernels.jit import jit, jit_part
from dfc_numba.kernels.noise import normals
from dfc_numba.kernels.online_state import AGE, PAIR_LENGTH, PENDING, STEP, layer_at
from dfc_numba.kernels.phase_state import KEYED_NOISE, NO_NOISE
from dfc_numba.kernels.plastic import learn_and_multiply
from dfc_numba.kernels.rows import add, fill, move
from dfc_numba.kernels.units import run_online_step, run_online_unit, run_pair

# --- the controller ------------------------------------------------------------------------------------------------------


@jit_part
def _log_softmax(rates, start, count):
    """Replace the rates of one sample by the logarithm of their softmax."""
    top, total = rates[start], 0.0
    for k in range(start, start + count):
        top = max(top, rates[k])
    for k in range(start, start + count):
        total += np.exp(rates[k] - top)
    logarithm = top + np.log(total)
    for k in range(start, start + count):
        rates[k] -= logarithm


@jit_part
def _target_start(places, segment, time):
    """Where the target of a time begins in a segment."""
    return time * places.count * places.outputs if segment.target_moves else 0


@jit_part
def _control_error(work, control, last, plan, segment, time, slot):
    """Write the control error with the target of a time of the segment; `last` is the output layer.

    e = r* - r_L  (DFC, Meulemans et al. 2021),  or  e = r* - softmax(r_L)  (strong feedback, Meulemans et al. 2022)
    """
    places, softmax, target = plan.places, plan.dynamics.softmax, _target_start(plan.places, segment, time)
    for s in range(places.count):
        row, rate = s * places.outputs, last.rate + slot * last.slot + s * last.stride
        for k in range(places.outputs):
            control[places.output + row + k] = work[rate + k]
        if softmax:
            _log_softmax(control, places.output + row, places.outputs)
        for k in range(row, row + places.outputs):
            output = control[places.output + k]
            control[places.error + k] = segment.target[target + k] - (np.exp(output) if softmax else output)


@jit_part
def _advance_controller(work, control, plan, age, slot):
    """Take one step of the controller (DFC, Meulemans et al. 2021; tau_u = 1).

        u_int += dt (e - alpha u),  u = u_int + k_p e

    `sent` receives what the layers see, `signal` what the feedback weights learn from (see `feedback_phase`).
    """
    places, dynamics, high_pass = plan.places, plan.dynamics, plan.learning.high_pass_gain
    gain = dynamics.control_gain if age > 0 else 1.0
    slow = high_pass if age > 0 or high_pass == 0.0 else 1.0
    signal = places.signal + slot * places.count * places.stride
    for s in range(places.count):
        for k in range(places.outputs):
            here, there = s * places.outputs + k, s * places.stride + k
            e, before = control[places.error + here], control[places.u_filtered + here]
            leaking = control[(places.u_int if dynamics.leak_integral else places.u) + here]
            integral = control[places.u_int + here] + dynamics.dt * (e - dynamics.alpha * leaking)
            u = integral + dynamics.k_p * e
            after = gain * u + (1.0 - gain) * before
            slowly = slow * u + (1.0 - slow) * control[places.u_slow + here]
            control[places.u + here], control[places.u_int + here] = u, integral
            control[places.u_filtered + here], control[places.u_slow + here] = after, slowly
            work[places.sent + there] = after if dynamics.proactive else before
            work[signal + there] = u - slowly
    if plan.learning.feedback_signal != 0:
        _presynaptic_signals(work, control, plan, signal)


@jit_part
def _presynaptic_signals(work, control, plan, signal):
    """What the feedback weights learn from, as a formula of u and its slow part."""
    places, outputs = plan.places, plan.places.outputs
    pair = places.pair
    for s in range(places.count):
        for first in range(0, outputs, PAIR_LENGTH):
            last = min(outputs, first + PAIR_LENGTH) - 1
            for k in range(PAIR_LENGTH):
                here = s * outputs + min(first + k, last)
                control[pair + k] = control[places.u + here]
                control[pair + PAIR_LENGTH + k] = control[places.u_slow + here]
            out = pair + 2 * PAIR_LENGTH
            run_pair(
                plan.learning.feedback_signal,
                PAIR_LENGTH,
                control,
                out,
                control,
                pair,
                control,
                pair + PAIR_LENGTH,
            )
            move(last - first + 1, work, signal + s * places.stride + first, control, out)


@jit_part
def _evaluate_unit(work, layer, loop, size, row, out):
    """out = a formula of the layer's units, of `size` of them from `row` on."""
    run_online_unit(
        loop, size, work, out, work, layer.difference + row, work, layer.basal + row, work, layer.apical + row
    )


@jit_part
def _jacobian_control(work, layers, plan, slot, learners):
    """Write J_i(v)^T u into the drive of every layer, from the output down (the Jacobian of DFC, Meulemans et al. 2021)."""
    places = plan.places
    for i in range(places.depth, 0, -1):
        layer = layer_at(layers, i)
        size = places.count * layer.stride
        if i == places.depth:
            move(size, work, layer.drive, work, places.sent)
        else:
            fill(size, work, layer.drive, 0.0)
            _learn_transposed(work, layer, layer_at(layers, i + 1), slot, learners, places.count)
        _evaluate_unit(work, layer, layer.derivative, size, 0, places.derivative)
        vector.multiply(size, work, layer.drive, work, layer.drive, work, places.derivative)


# --- weights; `learners` is the number of samples with an update pending, all or none -----------------------------------


@jit_part
def _learn_transposed(work, layer, above, slot, learners, rows):
    """Apply what W_{i+1} has pending to its transposed copy; drive of layer i += W_{i+1}^T times that of the layer above."""
    for s in range(learners):  # behind the rates phi(0) may not be zero; no weights are to grow there
        end = layer.seen + slot * layer.slot + s * layer.stride + layer.units
        fill(layer.stride - layer.units, work, end, 0.0)
    learn_and_multiply(
        work, layer.transposed, 1.0, work, layer.seen + slot * layer.slot, work, above.pending, above.stride, learners,
        work, above.drive, above.stride, work, layer.drive, layer.stride, rows, above.units,
    )  # fmt: skip


@jit_part
def _learn_weights(work, layer, plan, old, new, learners, rows):
    """Apply what W_i has pending; total += W_i times the rates in the slot `new` of the layer below.

    tau_w dW_i/dt = (phi(v_i) - phi(v_ff_i)) r_(i-1)^T,  v_ff_i = W_i r_(i-1) + b_i    (DFC, Meulemans et al. 2021)
    """
    learn_and_multiply(
        work, layer.weights, 1.0, work, layer.pending, work, layer.seen_below + old * layer.below_slot, layer.below_stride,
        learners, work, layer.below + new * layer.below_slot, layer.below_stride,
        work, plan.places.total, layer.stride, rows, layer.inputs,
    )  # fmt: skip


@jit_part
def _learn_biases(work, layer, plan, learners):
    """Apply what b_i has pending, tau_w db_i/dt = phi(v_i) - phi(v_ff_i) (DFC, Meulemans et al. 2021); total = b_i."""
    if plan.learning.biases:
        for s in range(learners):
            add(layer.stride, work, layer.biases, work, layer.pending + s * layer.stride)
    for s in range(plan.places.count):
        move(layer.stride, work, plan.places.total + s * layer.stride, work, layer.biases)


@jit_part
def _learn_feedback(work, layer, plan, slot, learners, rows):
    """Apply what Q_i has pending; drive += Q_i times the control signal.

    tau_q dQ_i/dt = -v_fb_i u^T - beta Q_i    (feedback weights of DFC, Meulemans et al. 2021)
    """
    places = plan.places
    signal = places.signal + slot * places.count * places.stride
    learn_and_multiply(
        work, layer.feedback, plan.learning.feedback_keep, work, layer.pending_feedback, work, signal, places.stride,
        learners, work, places.sent, places.stride, work, layer.drive, layer.stride, rows, places.outputs,
    )  # fmt: skip


@jit_part
def _collect_last_factor(work, layer, plan):
    """Add what a held first layer has learned in the last step to what it has pending."""
    last, size = plan.places.last_factor, plan.places.count * layer.stride
    add(size, work, layer.pending, work, last)
    fill(size, work, last, 0.0)


@jit_part
def _basal_of_held_input(work, layer, plan, segment):
    """total of the first layer = its value at the start of the segment + what its weights have learned since, times x."""
    places, stride = plan.places, layer.stride
    move(places.count * stride, work, places.total, work, places.held)
    if not plan.learning.weights:
        return
    _collect_last_factor(work, layer, plan)
    for s in range(places.count):
        total = places.total + s * stride
        for other in range(places.count):
            gram, pending = segment.gram[s * places.count + other], layer.pending + other * stride
            vector.combine(stride, work, total, work, total, work, pending, 1.0, gram)


# --- the layers ----------------------------------------------------------------------------------------------------------


@jit_part
def _draw_noise(work, layer, plan, noise, step, point):
    """Standard normal draws of a layer: keyed by the number of the step, or those given for a time point of this call."""
    places, n, stride = plan.places, layer.units, layer.stride
    for s in range(places.count):
        draw = places.draw + s * stride
        if noise.source == KEYED_NOISE:
            normals(work, draw, n, np.uint64(noise.key), step, noise.samples[s], layer.number, noise.scratch)
        else:
            given = places.count * (noise.times * layer.dense + point * n) + s * n
            move(n, work, draw, noise.given, given)
        fill(stride - n, work, draw + n, 0.0)


@jit_part
def _advance_apical(work, layer, plan, noise, step, point):
    """Take one step of the apical voltages of a layer, v_fb += (dt / tau_A) (Q u - v_fb) + noise (DFC, Meulemans et al. 2021).

    The noise is white or has a low-pass filter of its own (Meulemans et al. 2022).
    """
    dynamics, size = plan.dynamics, plan.places.count * layer.stride
    apical, drive, draw, gain = layer.apical, layer.drive, plan.places.draw, dynamics.apical_gain
    keep = 1.0 - gain
    if noise.source == NO_NOISE:
        vector.combine(size, work, apical, work, apical, work, drive, keep, gain)
        return
    _draw_noise(work, layer, plan, noise, step, point)
    sigma = dynamics.sigma_output if layer.number == plan.places.depth else dynamics.sigma
    if dynamics.noise_keep < 0.0:
        sigma *= dynamics.noise_gain
    else:
        filtered = layer.noise
        vector.combine(
            size, work, filtered, work, filtered, work, draw, dynamics.noise_keep, dynamics.noise_gain
        )
        draw = filtered
    vector.combine_noisy(size, work, apical, work, apical, work, drive, work, draw, keep, gain, sigma)


@jit_part
def _advance_soma(work, layer, plan, slot, factor, gain):
    """Take one step of soma and rate of a layer from its new basal voltage in `total`; `factor`: where the postsynaptic one goes.

    v += (dt / tau_v) (v_ff + v_fb - v),  r = phi(v),  factor = phi(v) - phi(v_ff)    (DFC, Meulemans et al. 2021)
    """
    difference, basal = layer.difference, layer.basal
    run_online_step(
        layer.step, plan.places.count * layer.stride, work, difference, work, basal, work, layer.rate + slot * layer.slot,
        work, factor, work, layer.seen + slot * layer.slot,
        work, difference, work, plan.places.total, work, basal, work, layer.apical, gain, plan.learning.weight_gain,
    )  # fmt: skip


@jit_part
def _feedback_factor(work, layer, size, gain):
    """What Q_i will learn from the step ahead: the postsynaptic factor of its rule, scaled."""
    pending, source = layer.pending_feedback, layer.apical
    if layer.factor_of_feedback != 0:
        _evaluate_unit(work, layer, layer.factor_of_feedback, size, 0, pending)
        source = pending
    vector.scale(size, work, pending, work, source, gain)


@jit_part
def _advance_layer(work, layer, plan, segment, noise, old, learners, step, point):
    """One step of a layer, which sees the rates of the layer below after this step or the one before."""
    places, dynamics, learning = plan.places, plan.dynamics, plan.learning
    size, new, first = places.count * layer.stride, 1 - old, layer.number == 1
    if not dynamics.jacobian_feedback:
        fill(size, work, layer.drive, 0.0)
        _learn_feedback(work, layer, plan, old, learners if learning.feedback else 0, places.count)
    if learning.feedback:
        _feedback_factor(work, layer, size, -learning.feedback_gain)
    _advance_apical(work, layer, plan, noise, step, point)
    held = first and segment.still
    if held:
        _basal_of_held_input(work, layer, plan, segment)
    else:
        _learn_biases(work, layer, plan, learners if learning.weights else 0)
        seen = new if first or dynamics.instant_transmission else old
        _learn_weights(work, layer, plan, old, seen, learners if learning.weights else 0, places.count)
    factor = places.last_factor if held else layer.pending
    _advance_soma(work, layer, plan, new, factor, dynamics.soma_gain)


# --- begin and end of a segment ----------------------------------------------------------------------------------------


@jit_part
def _enter(work, control, clock, layers, plan, segment):
    """Take up the input of a segment, from the feedforward state if it restarts; nothing may be pending."""
    places, first = plan.places, layer_at(layers, 1)
    size = places.count * places.inputs
    for slot in range(2):
        move(size, work, places.input + slot * size, segment.x, 0)
        if plan.learning.presynaptic:
            move(size, work, places.seen + slot * size, segment.seen, 0)
    if segment.restarts:
        fill(places.error, control, 0, 0.0)  # u and all that follows it up to the error
        clock[AGE] = 0
        for i in range(1, places.depth + 1):
            _restart_layer(work, layer_at(layers, i), plan, clock[STEP] % 2)
    if segment.still:
        fill(places.count * first.stride, work, first.pending, 0.0)
        _learn_biases(work, first, plan, 0)
        _learn_weights(work, first, plan, 0, 0, 0, places.count)
        move(places.count * first.stride, work, places.held, work, places.total)


@jit_part
def _restart_layer(work, layer, plan, slot):
    """The feedforward state of a layer, without control: a gain of 1 makes v - v_ff the apical voltage, zero."""
    size = plan.places.count * layer.stride
    fill(size, work, layer.apical, 0.0)
    fill(size, work, layer.noise, 0.0)
    _learn_biases(work, layer, plan, 0)
    _learn_weights(work, layer, plan, slot, slot, 0, plan.places.count)
    _advance_soma(work, layer, plan, slot, layer.pending, 1.0)


@jit
def settle(memory, plan, weights, feedback):
    """Apply to the first `weights` W_i and b_i and the first `feedback` Q_i what is pending, and leave it pending."""
    work, clock, layers, learning = memory.work, memory.clock, memory.layers, plan.learning
    slot, learners = clock[STEP] % 2, plan.places.count if clock[PENDING] == 1 else 0
    _collect_last_factor(work, layer_at(layers, 1), plan)
    for i in range(1, plan.places.depth + 1):
        layer = layer_at(layers, i)
        if learning.weights and i <= weights:
            _learn_biases(work, layer, plan, learners)
            _learn_weights(work, layer, plan, slot, slot, learners, 0)
            if plan.dynamics.jacobian_feedback and i > 1:
                _learn_transposed(work, layer_at(layers, i - 1), layer, slot, learners, 0)
        if learning.feedback and i <= feedback:
            _learn_feedback(work, layer, plan, slot, learners, 0)


# --- what is kept --------------------------------------------------------------------------------------------------------


@jit_part
def _error_norm(control, plan, segment, time, s):
    """||r* - r_L||, or the cross-entropy of softmax(r_L) with the target, of one sample."""
    places, total = plan.places, 0.0
    target = _target_start(places, segment, time)
    for k in range(s * places.outputs, (s + 1) * places.outputs):
        if plan.dynamics.softmax:
            total -= segment.target[target + k] * control[places.output + k]
        else:
            total += control[places.error + k] ** 2
    return total if plan.dynamics.softmax else np.sqrt(total)


@jit_part
def _record(memory, plan, segment, records, point, time):
    """Write the recorded variables of the recorded samples at a time point; the error is that from the target of `time`."""
    work, control, places = memory.work, memory.control, plan.places
    slot, outputs = memory.clock[STEP] % 2, places.outputs
    if records.error.size:
        _control_error(work, control, layer_at(memory.layers, places.depth), plan, segment, time, slot)
    for s in range(places.count):
        line = point * records.count + records.row[s]
        if records.row[s] < 0:
            continue
        if records.error.size:
            records.error[line] = _error_norm(control, plan, segment, time, s)
        if records.u.size:
            move(outputs, records.u, line * outputs, control, places.u + s * outputs)
        if records.u_int.size:
            move(outputs, records.u_int, line * outputs, control, places.u_int + s * outputs)
        for i in range(1, places.depth + 1):
            layer = layer_at(memory.layers, i)
            _record_layer(work, layer, places, records, line, s * layer.stride, slot)


@jit_part
def _record_layer(work, layer, places, records, line, row, slot):
    n = layer.units
    out = records.count * records.times * layer.dense + line * n
    if records.v.size:
        move(n, records.v, out, work, layer.basal + row)
        add(n, records.v, out, work, layer.difference + row)
    if records.v_ff.size:
        move(n, records.v_ff, out, work, layer.basal + row)
    if records.v_fb.size:
        move(n, records.v_fb, out, work, layer.apical + row)
    if records.r.size:
        move(n, records.r, out, work, layer.rate + slot * layer.slot + row)
    for k in range(records.variables.shape[1]):
        _evaluate_unit(work, layer, records.variables[layer.number, k], layer.stride, row, places.derivative)
        move(
            n,
            records.formulas,
            k * (records.formulas.size // records.variables.shape[1]) + out,
            work,
            places.derivative,
        )


@jit_part
def _all_finite(work, layers, places):
    """Whether the voltages of all units are finite numbers."""
    for i in range(1, places.depth + 1):
        layer = layer_at(layers, i)
        for s in range(places.count):
            row = s * layer.stride
            vector.watch(
                layer.stride, work, places.watch, work, places.watch,
                work, layer.basal + row, work, layer.difference + row,
            )  # fmt: skip
    wrong = 0
    for k in range(places.watch, places.watch + places.widest):
        wrong |= work[k] != 0.0
    return wrong == 0


@jit
def run_steps(memory, plan, noise, segment, records, every, first, count, point):
    """Take the steps first .. first + count of a segment.

    Args:
        records, every: where to record every n-th time point, 0 for nothing.
        point: number of the first step's time point within this call.

    Returns:
        how many steps were taken, and whether all voltages were finite after the last of them; it ends where they are not,
        and drops what the first layer would learn from the last step.
    """
    work, control, clock, layers, places = (
        memory.work,
        memory.control,
        memory.clock,
        memory.layers,
        plan.places,
    )
    if first == 0:
        _enter(work, control, clock, layers, plan, segment)
    if every > 0 and point == 0:
        _record(memory, plan, segment, records, 0, first)
    last, size = layer_at(layers, places.depth), places.count * places.inputs
    for time in range(first, first + count):
        old, learners, step = clock[STEP] % 2, places.count if clock[PENDING] == 1 else 0, clock[STEP] + 1
        point += 1
        if segment.x_moves:
            move(size, work, places.input + (1 - old) * size, segment.x, time * size)
            if plan.learning.presynaptic:
                move(size, work, places.seen + (1 - old) * size, segment.seen, time * size)
        _control_error(work, control, last, plan, segment, time, old)
        _advance_controller(work, control, plan, clock[AGE], 1 - old)
        if plan.dynamics.jacobian_feedback:
            _jacobian_control(work, layers, plan, old, learners if plan.learning.weights else 0)
        for i in range(1, places.depth + 1):
            _advance_layer(work, layer_at(layers, i), plan, segment, noise, old, learners, step, point)
        clock[STEP], clock[AGE], clock[PENDING] = step, clock[AGE] + 1, 1
        if every > 0 and point % every == 0:
            _record(memory, plan, segment, records, point // every, time)
        if not _all_finite(work, layers, places):
            fill(places.count * layer_at(layers, 1).stride, work, places.last_factor, 0.0)
            return time - first + 1, False
    return count, True
