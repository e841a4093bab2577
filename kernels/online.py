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
changes. `settle` applies what is pending.

Controller, noise and apical compartment are those of `shared_dynamics`. The soma is not: as weights change there is no
feedforward pass to deviate from, so what evolves is the basal voltage itself (name: v_ff) and the difference v - v_ff.
"""

from dfc_numba.kernels import elementwise as vector
from dfc_numba.kernels.emit import at, rows_at
from dfc_numba.kernels.jit import jit, jit_part
from dfc_numba.kernels.online_state import AGE, PENDING, STEP
from dfc_numba.kernels.plastic import learn_and_multiply
from dfc_numba.kernels.rows import add, fill, move
from dfc_numba.kernels.shared_dynamics import advance_apical, advance_controller, error_norm, softmax_error
from dfc_numba.kernels.units import run_online_step, run_online_unit

# --- the controller ------------------------------------------------------------------------------------------------------


@jit_part
def _target_start(places, segment, time, s):
    """Return where the target (n_L,) of a sample at a time begins in a segment."""
    return ((time * places.count if segment.target_moves else 0) + s) * places.outputs


@jit_part
def _control_error(memory, plan, segment, time, slot):
    """Write the control error with the target of a time of the segment.

    e = r* - r_L  (DFC, Meulemans et al. 2021),  or  e = r* - softmax(r_L)  (strong feedback, Meulemans et al. 2022)
    """
    places, work, signals, last = plan.places, memory.work, memory.signals, memory.layers[plan.places.depth]
    for s in range(places.count):
        row, rate = s * places.outputs, last.rate + slot * last.slot + s * last.stride
        start = _target_start(places, segment, time, s)
        target = segment.target[start : start + places.outputs]
        for k in range(places.outputs):
            signals[places.output + row + k] = work[rate + k]
            signals[places.error + row + k] = target[k] - signals[places.output + row + k]
        if plan.dynamics.softmax:
            softmax_error(signals, places, s, target)


@jit_part
def _evaluate_unit(memory, layer, loop, size, row, out):
    """Write a formula of the layer's units, of `size` of them from `row` on, to the place `out`."""
    work = memory.work
    difference, v_ff, apical = (
        at(work, layer.difference + row),
        at(work, layer.v_ff + row),
        at(work, layer.apical + row),
    )
    run_online_unit(loop, size, at(work, out), difference, v_ff, apical)


@jit_part
def _jacobian_control(memory, plan, slot, learners):
    """Write J_i(v)^T u into the drive of every layer, from the output down (the Jacobian of DFC, Meulemans et al. 2021)."""
    places, work = plan.places, memory.work
    for i in range(places.depth, 0, -1):
        layer = memory.layers[i]
        size = places.count * layer.stride
        if i == places.depth:
            move(size, work, layer.drive, work, places.sent)
        else:
            fill(size, work, layer.drive, 0.0)
            _learn_transposed(work, layer, memory.layers[i + 1], slot, learners, places.count)
        _evaluate_unit(memory, layer, plan.loops.derivative[i], size, 0, places.scratch)
        drive = at(work, layer.drive)
        vector.multiply(size, drive, drive, at(work, places.scratch))


# --- weights; `learners` is the number of samples with an update pending, all or none -----------------------------------


@jit_part
def _learn_transposed(work, layer, above, slot, learners, rows):
    """Apply what W_{i+1} has pending to its transposed copy; drive of layer i += W_{i+1}^T times that of the layer above."""
    seen = layer.seen + slot * layer.slot
    for s in range(learners):  # behind the rates phi(0) may not be zero; no weights are to grow there
        fill(layer.stride - layer.units, work, seen + s * layer.stride + layer.units, 0.0)
    learn_and_multiply(
        at(work, layer.transposed), 1.0, rows_at(work, seen, layer.stride), rows_at(work, above.factor, above.stride), learners,
        rows_at(work, above.drive, above.stride), rows_at(work, layer.drive, layer.stride), rows, above.units,
    )  # fmt: skip


@jit_part
def _learn_weights(work, layer, plan, old, new, learners, rows):
    """Apply what W_i has pending; total += W_i times the rates in the slot `new` of the layer below.

    tau_w dW_i/dt = (phi(v_i) - phi(v_ff_i)) r_(i-1)^T,  v_ff_i = W_i r_(i-1) + b_i    (DFC, Meulemans et al. 2021)
    """
    post, pre = layer.factor, layer.seen_below + old * layer.below_slot
    below = layer.below + new * layer.below_slot
    learn_and_multiply(
        at(work, layer.weights), 1.0, rows_at(work, post, layer.stride), rows_at(work, pre, layer.below_stride), learners,
        rows_at(work, below, layer.below_stride), rows_at(work, plan.places.total, layer.stride), rows, layer.inputs,
    )  # fmt: skip


@jit_part
def _learn_biases(work, layer, plan, learners):
    """Apply what b_i has pending, tau_w db_i/dt = phi(v_i) - phi(v_ff_i) (DFC, Meulemans et al. 2021); total = b_i."""
    if plan.learning.biases:
        for s in range(learners):
            add(layer.stride, work, layer.biases, work, layer.factor + s * layer.stride)
    for s in range(plan.places.count):
        move(layer.stride, work, plan.places.total + s * layer.stride, work, layer.biases)


@jit_part
def _learn_feedback(work, layer, plan, slot, learners, rows):
    """Apply what Q_i has pending; drive += Q_i times the control signal.

    tau_q dQ_i/dt = -v_fb_i u^T - beta Q_i    (feedback weights of DFC, Meulemans et al. 2021)
    """
    places, keep = plan.places, plan.learning.feedback_keep
    post, pre = layer.factor_of_feedback, places.signal + slot * places.count * places.stride
    learn_and_multiply(
        at(work, layer.feedback), keep, rows_at(work, post, layer.stride), rows_at(work, pre, places.stride), learners,
        rows_at(work, places.sent, places.stride), rows_at(work, layer.drive, layer.stride), rows, places.outputs,
    )  # fmt: skip


@jit_part
def _collect_last_factor(work, layer, plan):
    """Add what a held first layer has learned in the last step to what it has pending."""
    last, size = plan.places.last_factor, plan.places.count * layer.stride
    add(size, work, layer.factor, work, last)
    fill(size, work, last, 0.0)


@jit_part
def _basal_of_held_input(work, layer, plan, segment):
    """Write total of the first layer = its value at the start of the segment + what its weights have learned since, times x."""
    places, stride = plan.places, layer.stride
    move(places.count * stride, work, places.total, work, places.held)
    if not plan.learning.weights:
        return
    _collect_last_factor(work, layer, plan)
    for s in range(places.count):
        total = at(work, places.total + s * stride)
        for other in range(places.count):
            gram, learned = segment.gram[s * places.count + other], at(work, layer.factor + other * stride)
            vector.combine(stride, total, total, learned, 1.0, gram)


# --- the layers ----------------------------------------------------------------------------------------------------------


@jit_part
def _advance_soma(memory, layer, plan, slot, factor, gain):
    """Take one step of soma and rate of a layer from its new basal voltage in `total`; `factor`: where the postsynaptic one goes.

    v += (dt / tau_v) (v_ff + v_fb - v),  r = phi(v),  factor = phi(v) - phi(v_ff)    (DFC, Meulemans et al. 2021)
    """
    work, slots = memory.work, slot * layer.slot
    difference, v_ff, apical = at(work, layer.difference), at(work, layer.v_ff), at(work, layer.apical)
    run_online_step(
        plan.loops.step[layer.number], plan.places.count * layer.stride,
        difference, v_ff, at(work, layer.rate + slots), at(work, factor), at(work, layer.seen + slots),
        difference, at(work, plan.places.total), v_ff, apical, gain, plan.learning.weight_gain,
    )  # fmt: skip


@jit_part
def _feedback_factor(memory, layer, plan, size):
    """Write what Q_i will learn from the step ahead: the postsynaptic factor of its rule, scaled."""
    kept, loop = at(memory.work, layer.factor_of_feedback), plan.loops.factor_of_feedback[layer.number]
    source = at(memory.work, layer.apical)
    if loop != 0:
        _evaluate_unit(memory, layer, loop, size, 0, layer.factor_of_feedback)
        source = kept
    vector.scale(size, kept, source, -plan.learning.feedback_gain)


@jit_part
def _advance_layer(memory, layer, plan, segment, old, learners, step, point):
    """Take one step of a layer, which sees the rates of the layer below after this step or the one before."""
    places, dynamics, learning, work = plan.places, plan.dynamics, plan.learning, memory.work
    size, new, first = places.count * layer.stride, 1 - old, layer.number == 1
    if not dynamics.jacobian_feedback:
        fill(size, work, layer.drive, 0.0)
        _learn_feedback(work, layer, plan, old, learners if learning.feedback else 0, places.count)
    if learning.feedback:
        _feedback_factor(memory, layer, plan, size)
    advance_apical(memory, places, dynamics, layer, plan.noise, plan.samples, step, point)
    held = first and segment.still
    if held:
        _basal_of_held_input(work, layer, plan, segment)
    else:
        _learn_biases(work, layer, plan, learners if learning.weights else 0)
        seen = new if first or dynamics.instant_transmission else old
        _learn_weights(work, layer, plan, old, seen, learners if learning.weights else 0, places.count)
    factor = places.last_factor if held else layer.factor
    _advance_soma(memory, layer, plan, new, factor, dynamics.soma_gain)


# --- begin and end of a segment ----------------------------------------------------------------------------------------


@jit_part
def _take_input(memory, plan, segment, time, slot):
    """Move the input of a time of the segment into a slot."""
    size, inputs = plan.places.count * plan.places.inputs, memory.layers[0]
    move(size, memory.work, inputs.rate + slot * size, segment.x, time * size)
    if plan.learning.presynaptic:
        move(size, memory.work, inputs.seen + slot * size, segment.seen, time * size)


@jit_part
def _enter(memory, plan, segment):
    """Take up the input of a segment, from the feedforward state if it restarts; nothing may be pending."""
    work, places, clock, first = memory.work, plan.places, memory.clock, memory.layers[1]
    for slot in range(2):
        _take_input(memory, plan, segment, 0, slot)
    if segment.restarts:
        fill(places.error, memory.signals, 0, 0.0)  # u and all that follows it up to the error
        clock[AGE] = 0
        for i in range(1, places.depth + 1):
            _restart_layer(memory, memory.layers[i], plan, clock[STEP] % 2)
    if segment.still:
        fill(places.count * first.stride, work, first.factor, 0.0)
        _learn_biases(work, first, plan, 0)
        _learn_weights(work, first, plan, 0, 0, 0, places.count)
        move(places.count * first.stride, work, places.held, work, places.total)


@jit_part
def _restart_layer(memory, layer, plan, slot):
    """Write the feedforward state of a layer, without control: a gain of 1 makes v - v_ff the apical voltage, zero."""
    size, work = plan.places.count * layer.stride, memory.work
    fill(size, work, layer.apical, 0.0)
    fill(size, work, layer.noise, 0.0)
    _learn_biases(work, layer, plan, 0)
    _learn_weights(work, layer, plan, slot, slot, 0, plan.places.count)
    _advance_soma(memory, layer, plan, slot, layer.factor, 1.0)


@jit
def settle(memory, plan, weights, feedback):
    """Apply to the first `weights` W_i and b_i and the first `feedback` Q_i what is pending, and leave it pending."""
    work, clock, layers, learning = memory.work, memory.clock, memory.layers, plan.learning
    slot, learners = clock[STEP] % 2, plan.places.count if clock[PENDING] == 1 else 0
    _collect_last_factor(work, layers[1], plan)
    for i in range(1, plan.places.depth + 1):
        if learning.weights and i <= weights:
            _learn_biases(work, layers[i], plan, learners)
            _learn_weights(work, layers[i], plan, slot, slot, learners, 0)
            if plan.dynamics.jacobian_feedback and i > 1:
                _learn_transposed(work, layers[i - 1], layers[i], slot, learners, 0)
        if learning.feedback and i <= feedback:
            _learn_feedback(work, layers[i], plan, slot, learners, 0)


# --- what is kept --------------------------------------------------------------------------------------------------------


@jit_part
def _record(memory, plan, segment, records, point, time):
    """Write the recorded variables of the recorded samples at a time point; the error is that from the target of `time`."""
    signals, places, dynamics, outputs = memory.signals, plan.places, plan.dynamics, plan.places.outputs
    slot = memory.clock[STEP] % 2
    if records.error.size:
        _control_error(memory, plan, segment, time, slot)
    for s in range(places.count):
        line = point * records.count + records.row[s]
        if records.row[s] < 0:
            continue
        if records.error.size:
            start = _target_start(places, segment, time, s)
            target = segment.target[start : start + outputs]
            records.error[line] = error_norm(signals, places, dynamics, s, target)
        if records.u.size:
            move(outputs, records.u, line * outputs, signals, places.u + s * outputs)
        if records.u_int.size:
            move(outputs, records.u_int, line * outputs, signals, places.u_int + s * outputs)
        for i in range(1, places.depth + 1):
            _record_layer(memory, memory.layers[i], plan, records, line, s, slot)


@jit_part
def _record_layer(memory, layer, plan, records, line, s, slot):
    """Write the voltages, rates and formulas of one sample's layer."""
    n, row, work, scratch = layer.units, s * layer.stride, memory.work, plan.places.scratch
    out = records.count * records.times * layer.dense + line * n
    if records.v.size:
        move(n, records.v, out, work, layer.v_ff + row)
        add(n, records.v, out, work, layer.difference + row)
    if records.v_ff.size:
        move(n, records.v_ff, out, work, layer.v_ff + row)
    if records.v_fb.size:
        move(n, records.v_fb, out, work, layer.apical + row)
    if records.r.size:
        move(n, records.r, out, work, layer.rate + slot * layer.slot + row)
    variables = plan.loops.variables
    for k in range(variables.shape[1]):
        _evaluate_unit(memory, layer, variables[layer.number, k], layer.stride, row, scratch)
        move(n, records.formulas, k * (records.formulas.size // variables.shape[1]) + out, work, scratch)


@jit_part
def _all_finite(memory, plan):
    """Return whether the voltages of all units are finite numbers."""
    places = plan.places
    work, zeros = memory.work, at(memory.work, places.watch)
    for i in range(1, places.depth + 1):
        layer = memory.layers[i]
        for s in range(places.count):
            row = s * layer.stride
            vector.watch(
                layer.stride, zeros, zeros, at(work, layer.v_ff + row), at(work, layer.difference + row)
            )
    wrong = 0
    for k in range(places.watch, places.watch + places.widest):
        wrong |= work[k] != 0.0
    return wrong == 0


@jit_part
def _advance(memory, plan, segment, time, point):
    """Take one step, with the input and the target of a time of the segment; `point`: the time point that it leads to."""
    clock, places, learning = memory.clock, plan.places, plan.learning
    old, learners, step = clock[STEP] % 2, places.count if clock[PENDING] == 1 else 0, clock[STEP] + 1
    signal, begins = places.signal + (1 - old) * places.count * places.stride, clock[AGE] == 0
    if segment.x_moves:
        _take_input(memory, plan, segment, time, 1 - old)
    _control_error(memory, plan, segment, time, old)
    advance_controller(
        memory, places, plan.dynamics, learning, learning.feedback, plan.samples, signal, begins, False
    )
    if plan.dynamics.jacobian_feedback:
        _jacobian_control(memory, plan, old, learners if learning.weights else 0)
    for i in range(1, places.depth + 1):
        _advance_layer(memory, memory.layers[i], plan, segment, old, learners, step, point)
    clock[STEP], clock[AGE], clock[PENDING] = step, clock[AGE] + 1, 1


@jit_part
def _drop_last_factor(memory, plan):
    """Forget what a held first layer would learn from the last step."""
    fill(plan.places.count * memory.layers[1].stride, memory.work, plan.places.last_factor, 0.0)


@jit
def run_steps(memory, plan, segment, records, every, first, count, point):
    """Take the steps first .. first + count of a segment.

    Args:
        records, every: where to record every n-th time point, 0 for nothing.
        point: number of the first step's time point within this call.

    Returns:
        how many steps were taken, and whether all voltages were finite after the last of them; it ends where they are not,
        and drops what the first layer would learn from the last step.
    """
    if first == 0:
        _enter(memory, plan, segment)
    if every > 0 and point == 0:
        _record(memory, plan, segment, records, 0, first)
    for time in range(first, first + count):
        point += 1
        _advance(memory, plan, segment, time, point)
        if every > 0 and point % every == 0:
            _record(memory, plan, segment, records, point // every, time)
        if not _all_finite(memory, plan):
            _drop_last_factor(memory, plan)
            return time - first + 1, False
    return count, True
