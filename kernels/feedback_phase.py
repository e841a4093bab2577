"""The feedback phase of one shard of samples, fused: controller, layers, noise, and the sums that the updates need.

For step t -> t+1 (the dynamics and plasticity of DFC, Meulemans et al. 2021; Euler method, tau_u = 1):

    e = r* - r_L                          u_int += dt (e - alpha u),  u = u_int + k_p e
    v_ff_i = W_i r_{i-1} + b_i            v_fb_i += (dt/tau_A) (Q_i u - v_fb_i) + noise
    v_i += (dt/tau_v) (v_ff_i + v_fb_i - v_i),  r_i = phi(v_i)
    Delta W_i += (phi(v_i) - phi(v_ff_i)) r_{i-1}^T,   Delta Q_i += -v_fb_i(t) u(t+1)^T

What is stored and evolved are the deviations of v, v_ff and r from the feedforward state (names in the code: v, basal,
rate), which keep their digits however small the nudge. Products for the updates are taken over blocks of steps: `rate`,
`factor` (= phi(v) - phi(v_ff)), and for the feedback weights `apical` and `control`, are kept for a few steps in rings
`[layer][slot][sample][unit]` that `_flush` multiplies out (`phase_state` has the arrays). The controller itself runs in
float64 for either dtype.
"""

import numpy as np

from dfc_numba.kernels import elementwise as vector
from dfc_numba.kernels.jit import jit, jit_part
from dfc_numba.kernels.multiply import add_outer, multiply
from dfc_numba.kernels.noise import normals
from dfc_numba.kernels.phase_state import (
    AVERAGE,
    FINAL,
    KEYED_NOISE,
    NO_NOISE,
    apical_start,
    basal_start,
    block_start,
    drives_directly,
    evaluate_unit,
    layer_start,
    new_state,
    padded_signals,
    planes_start,
    ring_start,
    set_constants,
)
from dfc_numba.kernels.rows import add, fill, move
from dfc_numba.kernels.units import run_control, run_pair, run_step

# --- the controller ------------------------------------------------------------------------------------------------------


@jit_part
def _log_sum_exp(rates):
    """log(sum(exp(rates))) of one sample."""
    top = rates[0]
    for rate in rates:
        top = max(top, rate)
    total = 0.0
    for rate in rates:
        total += np.exp(rate - top)
    return top + np.log(total)


@jit_part
def _control_error(layout, dynamics, minibatch, state, step):
    """Write e = r* - r_L (DFC), or r* - softmax(r_L) (Meulemans et al. 2022), at the rates after a step into `state.error`."""
    depth, samples = layout.sizes.size - 1, minibatch.gap.shape[0]
    outputs, stride = layout.sizes[depth], layout.stride[depth]
    ring = ring_start(layout, state, depth, step)
    for s in range(state.count):
        b = state.first + s
        feedforward = layout.dense[depth] * samples + b * outputs
        for k in range(outputs):
            deviation = np.float64(state.rate[ring + s * stride + k])
            state.output[s, k] = minibatch.r_ff[feedforward + k] + deviation
            state.error[s, k] = minibatch.gap[b, k] - deviation
        if dynamics.softmax:
            logarithm = _log_sum_exp(state.output[s])
            for k in range(outputs):
                state.error[s, k] = minibatch.target[b, k] - np.exp(state.output[s, k] - logarithm)


@jit_part
def _advance_controller(layout, dynamics, task, minibatch, state, step):
    """Take one step of the controller (DFC, Meulemans et al. 2021; tau_u = 1).

        u_int += dt (e - alpha u),  u = u_int + k_p e,  u_filtered += (dt / tau_control) (u - u_filtered)

    `control` receives what the layers see, the control block what the feedback weights learn from: u - u_slow, with
    u_slow += (dt / tau_f) (u - u_slow) in the single-phase rule (Meulemans et al. 2022).
    """
    depth = layout.sizes.size - 1
    stride = layout.stride[depth]
    if dynamics.control_loop != 0:
        _evaluate_terms(dynamics, state, step)
    for s in range(state.count):
        if not minibatch.active[state.first + s]:
            continue
        for k in range(layout.sizes[depth]):
            if not dynamics.proactive:
                state.control[s * stride + k] = state.u_filtered[s, k]
            if dynamics.control_loop == 0:
                leaking = state.u_int[s, k] if dynamics.leak_integral else state.u[s, k]
                e = state.error[s, k]
                state.u_int[s, k] += dynamics.dt * (e - dynamics.alpha * leaking)
                u = state.u_int[s, k] + dynamics.k_p * e
                state.u[s, k] = u
            else:
                u = _take_terms(layout, state, s, k)
            gain = dynamics.control_gain if step > 0 else 1.0
            state.u_filtered[s, k] = gain * u + (1.0 - gain) * state.u_filtered[s, k]
            if dynamics.proactive:
                state.control[s * stride + k] = state.u_filtered[s, k]
            if task.learn_feedback:
                slow = task.high_pass_gain if step > 0 or task.high_pass_gain == 0.0 else 1.0
                state.u_slow[s, k] = slow * u + (1.0 - slow) * state.u_slow[s, k]
                state.control_block[(step % state.block * state.count + s) * stride + k] = (
                    u - state.u_slow[s, k]
                )
    if task.learn_feedback and task.feedback_signal != 0:
        _presynaptic_signals(layout, task, minibatch, state, step)


@jit_part
def _evaluate_terms(dynamics, state, step):
    """One step of a controller with further terms, for all signals of the shard, into the first planes of `terms`."""
    outputs = state.error.shape[1]
    size, terms = padded_signals(state.count, outputs), state.terms
    for s in range(state.count):
        for k in range(outputs):
            here = s * outputs + k
            terms[4 * size + here] = state.error[s, k]
            if step == 0:
                terms[5 * size + here] = state.error[s, k]
            terms[7 * size + here], terms[8 * size + here] = state.u[s, k], state.u_int[s, k]
    run_control(
        dynamics.control_loop, size, terms, 0, terms, size, terms, 2 * size, terms, 3 * size, terms, 4 * size,
        terms, 5 * size, terms, 6 * size, terms, 7 * size, terms, 8 * size, terms, 9 * size, terms, 10 * size,
    )  # fmt: skip


@jit_part
def _take_terms(layout, state, s, k):
    """u of one signal from what `_evaluate_terms` left, which becomes what was before."""
    outputs = state.error.shape[1]
    size, here, terms = padded_signals(state.count, outputs), s * outputs + k, state.terms
    terms[9 * size + here] = state.u[s, k]
    terms[5 * size + here] = state.error[s, k]
    terms[6 * size + here], terms[10 * size + here] = terms[2 * size + here], terms[3 * size + here]
    state.u[s, k], state.u_int[s, k] = terms[here], terms[size + here]
    return state.u[s, k]


@jit_part
def _presynaptic_signals(layout, task, minibatch, state, step):
    """The control block as a formula of u and its slow part, a register of signals at a time."""
    outputs = state.error.shape[1]
    stride, work = layout.stride[layout.sizes.size - 1], state.pair
    for s in range(state.count):
        if not minibatch.active[state.first + s]:
            continue
        for first in range(0, outputs, 16):
            here = min(16, outputs - first)
            for k in range(16):
                work[k] = state.u[s, first + min(k, here - 1)]
                work[16 + k] = state.u_slow[s, first + min(k, here - 1)]
            run_pair(task.feedback_signal, 16, work, 32, work, 0, work, 16)
            for k in range(here):
                state.control_block[(step % state.block * state.count + s) * stride + first + k] = work[
                    32 + k
                ]


@jit_part
def _jacobian_control(layout, parameters, state, drive, step):
    """Write the feedback by the Jacobian into the drive of every layer, from the output down; `factor` is scratch.

    J_L^T u = phi'(v_L) u,  J_i^T u = phi'(v_i) (W_(i+1)^T J_(i+1)^T u)           (the Jacobian of DFC, Meulemans et al. 2021)
    """
    depth = layout.sizes.size - 1
    for i in range(depth, 0, -1):
        stride, start, ring = (
            layout.stride[i],
            layer_start(layout, state, i),
            ring_start(layout, state, i, step),
        )
        if i == depth:
            move(state.count * stride, drive, start, state.control, 0)
        else:
            above = layer_start(layout, state, i + 1)
            multiply(
                drive, start, stride, state.count,
                drive, above, layout.stride[i + 1], layout.sizes[i + 1],
                parameters.transposed, layout.transposed[i],
            )  # fmt: skip
        evaluate_unit(layout, state, parameters.loops.derivative[i], i, state.factor, ring, state.v)
        vector.multiply(state.count * stride, drive, start, drive, start, state.factor, ring)


# --- the layers ----------------------------------------------------------------------------------------------------------


@jit_part
def _draw_noise(layout, dynamics, minibatch, state, i, step):
    """Standard normal draws of layer i for this step; zero for samples that are held."""
    n, stride, samples = layout.sizes[i], layout.stride[i], minibatch.gap.shape[0]
    for s in range(state.count):
        b = state.first + s
        if not minibatch.active[b]:
            fill(n, state.draw, s * stride, 0.0)
        elif minibatch.noise_source == KEYED_NOISE:
            key, sample = np.uint64(minibatch.noise_key), minibatch.noise_samples[b]
            normals(state.draw, s * stride, n, key, step + 1, sample, i, state.draw_work)
        else:
            given = samples * ((dynamics.steps + 1) * layout.dense[i] + (step + 1) * n) + b * n
            move(n, state.draw, s * stride, minibatch.noise_given, given)
        fill(stride - n, state.draw, s * stride + n, 0.0)


@jit_part
def _advance_apical(layout, dynamics, minibatch, state, i, step):
    """Take one step of the apical voltages of layer i from their drive and noise.

        v_fb_i += (dt / tau_A) (Q_i u - v_fb_i) + sigma_i n_i

    with n_i = sqrt(dt) / tau_A xi_i, white noise (DFC, Meulemans et al. 2021), or low-passed (Meulemans et al. 2022):

        n_i <- (1 - dt / tau_noise) n_i + sqrt(dt) / tau_noise xi_i
    """
    size, start, gain = state.count * layout.stride[i], apical_start(layout, state, i), dynamics.apical_gain
    apical, drive, keep = state.apical, state.drive, 1.0 - dynamics.apical_gain
    source = state.keeps_drive * layer_start(layout, state, i)
    if minibatch.noise_source == NO_NOISE:
        vector.combine(size, apical, start, apical, start, drive, source, keep, gain)
        return
    _draw_noise(layout, dynamics, minibatch, state, i, step)
    sigma = dynamics.sigma_output if i == layout.sizes.size - 1 else dynamics.sigma
    if dynamics.noise_keep < 0.0:
        amplitude = sigma * dynamics.noise_gain
        vector.combine_noisy(
            size, apical, start, apical, start, drive, source, state.draw, 0, keep, gain, amplitude
        )
    else:
        noise, own = state.noise, layer_start(layout, state, i)
        vector.combine(size, noise, own, noise, own, state.draw, 0, dynamics.noise_keep, dynamics.noise_gain)
        vector.combine_noisy(size, apical, start, apical, start, drive, source, noise, own, keep, gain, sigma)


@jit_part
def _advance_soma(layout, parameters, dynamics, state, i, step):
    """Take one step of the somatic voltages and rates of layer i, and write the factor of the plasticity rule.

        v_i += (dt / tau_v) (v_ff_i + v_fb_i - v_i),  r_i = phi(v_i),  factor_i = phi(v_i) - phi(v_ff_i)

    (DFC, Meulemans et al. 2021; a plasticity rule may have another factor.)
    """
    start, ring, planes = (
        layer_start(layout, state, i),
        ring_start(layout, state, i, step),
        planes_start(layout, state, i),
    )
    loop = parameters.loops.step_saturated[i] if state.saturated[i] else parameters.loops.step[i]
    seen = ring if state.seen.size > 0 else 0
    reference = planes if state.start.size > 0 else 0
    run_step(
        loop, state.count * layout.stride[i],
        state.v, start, state.rate, ring, state.factor, ring, state.seen, seen,
        state.v, start, state.basal, basal_start(layout, state, i), state.apical, apical_start(layout, state, i),
        state.constants, planes, state.start, reference, dynamics.soma_gain,
    )  # fmt: skip


@jit_part
def _multiply_rates(layout, parameters, state, i, step):
    """Write v_ff_i = W_i r_(i-1) + b_i (DFC, Meulemans et al. 2021), whose deviation is W_i times those of the rates below."""
    multiply(
        state.basal, basal_start(layout, state, i), layout.stride[i], state.count,
        state.rate, ring_start(layout, state, i - 1, step), layout.stride[i - 1], layout.sizes[i - 1],
        parameters.weights, layout.weights[i],
    )  # fmt: skip


@jit_part
def _multiply_control(layout, parameters, state, i, drive, start):
    """Write the drive Q_i u of layer i (DFC, Meulemans et al. 2021)."""
    depth = layout.sizes.size - 1
    multiply(
        drive, start, layout.stride[i], state.count,
        state.control, 0, layout.stride[depth], layout.sizes[depth],
        parameters.feedback, layout.feedback[i],
    )  # fmt: skip


@jit_part
def _advance_layer(layout, parameters, dynamics, task, minibatch, state, i, step):
    """One step of layer i, which sees the rates of the layer below after this step or the one before."""
    size, apical = state.count * layout.stride[i], apical_start(layout, state, i)
    if task.learn_feedback:
        block = block_start(layout, state, i, step)
        if task.feedback_factor:
            evaluate_unit(
                layout, state, parameters.loops.factor_of_feedback[i], i, state.apical_block, block, state.v
            )
        else:
            move(size, state.apical_block, block, state.apical, apical)
    if i > 1:
        seen = step if dynamics.instant_transmission else step + state.slots - 1
        _multiply_rates(layout, parameters, state, i, seen)
    elif state.keeps_basal == 0:
        fill(size, state.basal, 0, 0.0)
    direct = drives_directly(dynamics, minibatch)
    if not dynamics.jacobian_feedback:
        start = apical if direct else state.keeps_drive * layer_start(layout, state, i)
        _multiply_control(layout, parameters, state, i, state.apical if direct else state.drive, start)
    if not direct:
        _advance_apical(layout, dynamics, minibatch, state, i, step)
    _advance_soma(layout, parameters, dynamics, state, i, step)


# --- what is kept --------------------------------------------------------------------------------------------------------


@jit_part
def _flush(layout, task, minibatch, state, results, place, filled):
    """Multiply out the first `filled` slots of the rings into the sums of this shard."""
    for i in range(1, layout.sizes.size):
        if task.readout == AVERAGE:
            if i > 1:
                _add_weight_products(layout, task, state, results.outer[place], i, filled)
            _sum_factors(layout, task, minibatch, state, results, i, filled)
        if task.learn_feedback:
            _add_feedback_products(layout, state, results.outer_feedback[place], i, filled)


@jit_part
def _add_weight_products(layout, task, state, outer, i, filled):
    """Add up Delta W_i = (phi(v_i) - phi(v_ff_i)) r_(i-1)^T (DFC, Meulemans et al. 2021), the part of the deviation of r."""
    seen = state.seen if task.presynaptic else state.rate
    add_outer(
        outer, layout.outer_shard[i], layout.sizes[i], 0, layout.sizes[i],
        state.factor, ring_start(layout, state, i, 0), layout.stride[i],
        seen, ring_start(layout, state, i - 1, 0), layout.stride[i - 1], filled * state.count,
    )  # fmt: skip


@jit_part
def _add_feedback_products(layout, state, outer, i, filled):
    """Add up -Delta Q_i^T = u(t+1) v_fb_i(t)^T over samples and steps (feedback weights of DFC, Meulemans et al. 2021)."""
    depth = layout.sizes.size - 1
    add_outer(
        outer, layout.outer_feedback[i], layout.sizes[depth], 0, layout.sizes[depth],
        state.control_block, 0, layout.stride[depth],
        state.apical_block, block_start(layout, state, i, 0), layout.stride[i], filled * state.count,
    )  # fmt: skip


@jit_part
def _sum_factors(layout, task, minibatch, state, results, i, filled):
    """Add the factors of the filled slots, summed up in the first, to their sums over time in float64."""
    n, stride, ring = layout.sizes[i], layout.stride[i], ring_start(layout, state, i, 0)
    samples, size, factor = minibatch.gap.shape[0], state.count * layout.stride[i], state.factor
    source = factor
    if i == 1 and task.factor_is_rate:
        source = state.rate
        move(size, factor, ring, source, ring)
    for step in range(1, filled):
        vector.combine(size, factor, ring, factor, ring, source, ring_start(layout, state, i, step), 1.0, 1.0)
    for s in range(state.count):
        add(n, results.factor, layout.dense[i] * samples + (state.first + s) * n, factor, ring + s * stride)


@jit_part
def _finish(layout, parameters, task, minibatch, state, results, step):
    """Leave the last state, and for the final readout its factor with the basal voltage that the last rates imply."""
    samples, depth = minibatch.gap.shape[0], layout.sizes.size - 1
    for s in range(state.count):
        for k in range(layout.sizes[depth]):
            results.u[state.first + s, k] = state.u[s, k]
    for i in range(1, depth + 1):
        n, stride, ring = layout.sizes[i], layout.stride[i], ring_start(layout, state, i, step)
        if task.readout == FINAL:
            _final_factor(layout, parameters, task, state, i, step)
        for s in range(state.count):
            dense = layout.dense[i] * samples + (state.first + s) * n
            move(n, results.rate, dense, state.rate, ring + s * stride)
            if task.readout == FINAL:
                move(n, results.factor, dense, state.factor, ring + s * stride)


@jit_part
def _final_factor(layout, parameters, task, state, i, step):
    size, start = state.count * layout.stride[i], layer_start(layout, state, i)
    if task.factor_moves:  # v - v_ff stays what it is
        vector.subtract(size, state.v, start, state.v, start, state.basal, start)
        if i > 1:
            _multiply_rates(layout, parameters, state, i, step)
        vector.combine(size, state.v, start, state.v, start, state.basal, start, 1.0, 1.0)
    ring = ring_start(layout, state, i, step)
    evaluate_unit(layout, state, parameters.loops.factor[i], i, state.factor, ring, state.v)


@jit_part
def _error_norm(dynamics, minibatch, state, s):
    """||r* - r_L||, or the cross-entropy of softmax(r_L) with the target, of one sample."""
    b = state.first + s
    logarithm = _log_sum_exp(state.output[s])
    total = 0.0
    for k in range(state.error.shape[1]):
        if dynamics.softmax:
            total += minibatch.target[b, k] * (logarithm - state.output[s, k])
        else:
            total += state.error[s, k] ** 2
    return total if dynamics.softmax else np.sqrt(total)


@jit_part
def _record(layout, parameters, dynamics, minibatch, state, records, time, step):
    """Write the state at a recorded time point; expects state.error to be up to date."""
    samples, depth = minibatch.gap.shape[0], layout.sizes.size - 1
    outputs = layout.sizes[depth]
    for s in range(state.count):
        b = state.first + s
        row = records.row[b]
        if row < 0:
            continue
        line = time * records.count + row
        if records.error.size:
            records.error[line] = _error_norm(dynamics, minibatch, state, s)
        for k in range(outputs):
            if records.u.size:
                records.u[line * outputs + k] = state.u[s, k]
            if records.u_int.size:
                records.u_int[line * outputs + k] = state.u_int[s, k]
            if records.e.size:
                records.e[line * outputs + k] = state.error[s, k]
        for i in range(1, depth + 1):
            n = layout.sizes[i]
            dense = layout.dense[i] * samples + b * n
            here = layer_start(layout, state, i) + s * layout.stride[i]
            ring = ring_start(layout, state, i, step) + s * layout.stride[i]
            out = records.count * records.times * layout.dense[i] + line * n
            if records.v.size:
                for j in range(n):
                    records.v[out + j] = minibatch.v_ff[dense + j] + np.float64(state.v[here + j])
            if records.v_ff.size:
                for j in range(n):
                    records.v_ff[out + j] = minibatch.v_ff[dense + j] + np.float64(state.basal[here + j])
            if records.v_fb.size:
                for j in range(n):
                    records.v_fb[out + j] = state.apical[here + j]
            if records.r.size:
                for j in range(n):
                    records.r[out + j] = minibatch.r_ff[dense + j] + np.float64(state.rate[ring + j])
    if records.formulas.size:
        _record_formulas(layout, parameters, state, records, time)


@jit_part
def _record_formulas(layout, parameters, state, records, time):
    """Write the variables that are formulas of a unit."""
    depth, loops = layout.sizes.size - 1, parameters.loops.variables
    units = layout.dense[depth + 1]
    for k in range(loops.shape[1]):
        for i in range(1, depth + 1):
            n, stride = layout.sizes[i], layout.stride[i]
            evaluate_unit(layout, state, loops[i, k], i, state.scratch, 0, state.v)
            for s in range(state.count):
                row = records.row[state.first + s]
                if row >= 0:
                    out = records.count * records.times * (k * units + layout.dense[i])
                    line = out + (time * records.count + row) * n
                    move(n, records.formulas, line, state.scratch, s * stride)


@jit
def run_shard(
    layout, parameters, dynamics, task, minibatch, results, records, first, count, place, workspace
):
    """Simulate the samples first .. first + count of a minibatch through all steps.

    Args:
        place: row of results.outer and results.outer_feedback that belongs to this shard.
        workspace: memory for the state, at least as long as its `phase_state.workspace_parts`.
    """
    depth, steps = layout.sizes.size - 1, dynamics.steps
    state = new_state(layout, dynamics, task, minibatch, first, count, workspace)
    set_constants(layout, parameters, task, minibatch, state)
    before = state.slots - 1  # where the rings hold the initial state
    _control_error(layout, dynamics, minibatch, state, before)
    if task.record_every > 0:
        _record(layout, parameters, dynamics, minibatch, state, records, 0, before)
    for step in range(steps):
        _advance_controller(layout, dynamics, task, minibatch, state, step)
        if dynamics.jacobian_feedback:
            drive = state.apical if drives_directly(dynamics, minibatch) else state.drive
            _jacobian_control(layout, parameters, state, drive, step)
        for i in range(1, depth + 1):
            _advance_layer(layout, parameters, dynamics, task, minibatch, state, i, step)
        _control_error(layout, dynamics, minibatch, state, step)
        if task.record_every > 0 and (step + 1) % task.record_every == 0:
            number = (step + 1) // task.record_every
            _record(layout, parameters, dynamics, minibatch, state, records, number, step)
        filled = step % state.block + 1
        if filled == state.block or step == steps - 1:
            _flush(layout, task, minibatch, state, results, place, filled)
    _finish(layout, parameters, task, minibatch, state, results, steps - 1)
