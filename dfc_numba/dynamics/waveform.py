"""The feedback phase solved in time: driver of `kernels.waveform`, with error control and Euler steps where it does not hold.

Each shard is solved by itself, with as many nodes, sweeps and products as its own data ask for.
"""

from copy import copy
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np

from dfc_numba.dynamics import phase as euler
from dfc_numba.dynamics import wide_outputs
from dfc_numba.dynamics.phase import Closeness
from dfc_numba.dynamics.time_ladder import MOST_OUTPUTS, ladder
from dfc_numba.kernels import phase_state as kernel
from dfc_numba.kernels import units
from dfc_numba.kernels import waveform_products as products
from dfc_numba.kernels import waveform_state as state
from dfc_numba.kernels.control_space import REFERENCES, most_nodes, padded, step_linear
from dfc_numba.kernels.layout import dense_views, pack
from dfc_numba.kernels.multiply import panel_width
from dfc_numba.kernels.waveform_shard import solve_shard, sum_shard
from dfc_numba.kernels.waveform_wide import solve_wide_shard, wide_workspace_parts
from dfc_numba.model.controller import FLOAT32_RTOL, RTOL_RANGE
from dfc_numba.model.products import shards_of
from dfc_numba.support import memory, ranks, threads
from dfc_numba.support.summation import TreeSum

FEWEST_STEPS = 64  # below which stepping is as fast
SAFETY = 0.15  # part of rtol that time, iterations and modes may take each
# the error of the linear response, of the shard's mean and its largest sample, times this is the estimate for the update
ERROR_FACTOR = {kernel.AVERAGE: 2.0, kernel.FINAL: 4.0}
# the same for wide outputs, whose nodes are judged by what layer L-1 receives, extrapolated from two numbers of nodes
WIDE_TIME_FACTOR = 10.0
# size of the first correction, relative to the control signal and the tolerance, up to which the linear response tells how many
# nodes do: the part of the update that is not linear errs by up to a tenth of itself where the linear part is right
NEARLY_LINEAR = 10.0
ATTEMPTS = 3  # the first, one with smaller tolerances, one with shards stepped by Euler
EXTRAPOLATED = (2, 4)  # parts of dt that the continuous limit is extrapolated from where it is stepped
FINER = 0.03  # part of rtol with which samples in doubt are solved again
END_SAFETY = 5.0  # times the expected error of the state at T that a flag has to be away from its threshold
STEPPED = -1  # status of a shard that was not tried


def _backward(phase):
    """Pack the transposed weights."""
    network, places, dtype = phase.network, phase.places, phase.network.dtype
    back, outputs = [w.T for w in network.weights[1:]], places.stride[-1]
    feedback = pack([q.T for q in network.feedback], [outputs] * len(network.feedback), dtype)
    starts = np.concatenate([[0], np.cumsum(np.append(0, outputs * places.sizes[1:-1]))])
    weights = pack(back, places.stride[1:-1], dtype) if back else np.zeros(0, dtype)
    return state.Backward(weights, feedback, starts.astype(np.int64))


def require_support(controller, network, *, learns=False):
    """Raise ValueError unless the waveform integrator can take a network under a controller.

    What the controller alone decides is checked by `Controller`.

    Args:
        learns: whether the feedback weights of the output layer learn.
    """
    outputs = network.sizes[-1]
    obstacle = wide_outputs.obstacle(controller, network, learns) if outputs > MOST_OUTPUTS else ""
    if obstacle:
        raise ValueError(
            f"integrator = 'waveform' with {outputs} outputs and {obstacle}: at most {MOST_OUTPUTS} are possible, or more with "
            "output_activation = 'linear', controller.error = 'difference', the identity as feedback weights of the output "
            f"layer, and at most {wide_outputs.MOST_UNITS} units in the layer below; use integrator = 'euler'"
        )
    if network.dtype == np.float32 and controller.rtol < FLOAT32_RTOL:
        raise ValueError(
            f"rtol = {controller.rtol:g} is below what a float32 network can reach; use rtol >= {FLOAT32_RTOL:g}, or float64"
        )


# what the first-order change of a rule's factor is, see `kernels.waveform`; others do without
CORRECTIONS = {
    "nonlinear_difference": products.BY_SLOPE,
    "derivative_matrix": products.BY_SLOPE,
    "voltage_difference": products.AS_IT_IS,
}


class _Solver:
    """The shards of a feedback phase, solved to a tolerance; those that cannot be are stepped by the Euler method."""

    def __init__(self, phase, task):
        self.whole, self.asked = phase, task
        phase, task = self.phase, self.task = task.assign(phase)
        self.dtype = phase.network.dtype
        controller, network = phase.controller, phase.network
        depth, outputs, dtype = len(network.sizes) - 1, network.sizes[-1], self.dtype
        final = task.readout == kernel.FINAL
        self.fine = ladder(controller, depth, outputs, "float64", final)
        own = self.fine if dtype == np.float64 else ladder(controller, depth, outputs, str(dtype), final)
        self.ladders = state.Ladders(own, self.fine)
        wide = outputs > MOST_OUTPUTS
        self.reduced = wide_outputs.reduce(phase, final) if wide else None
        self.time_factor = WIDE_TIME_FACTOR if wide else 1.0
        self.backward = None if wide else _backward(phase)
        self.everybody = phase.minibatch._replace(active=np.ones(phase.count, np.bool_))
        self.pieces = shards_of(network, phase.count)
        self.solved = {}  # outcomes by tolerance, from which a solver `without` some samples sums again; not with wide outputs
        self.correction = (
            products.NOT_AT_ALL if final else CORRECTIONS.get(self.asked.rule.name, products.NOT_AT_ALL)
        )

    def without(self, inactive):
        """Return a solver of the same phase without some samples; what is solved already does not depend on these."""
        other = copy(self)
        other.whole, other.phase = self.whole.without(inactive), self.phase.without(inactive)
        return other

    def sums(self, tolerance, stepped, step=True):
        """Return (`phase.Sums`, `Outcome`) with the shards in `stepped` and, with `step`, those that fail by the Euler method."""
        phase, task, pieces = self.phase, self.task, self.pieces
        outcome, workspaces = self._room_for_outcome(), self._workspaces()
        buffers = euler.ShardBuffers(phase, task)
        tolerances = state.Tolerances(tolerance / self.time_factor, tolerance, tolerance)
        dense, u = phase.count * phase.places.dense[-1], np.zeros((phase.count, phase.network.sizes[-1]))
        empty = np.zeros((1, 0), self.dtype)
        results = kernel.Results(np.zeros(dense), np.zeros(dense), u, empty, empty)
        total = TreeSum(len(pieces), release=buffers.give_back)
        before = self.solved.get(tolerance)

        def solve(number):
            first, count = pieces[number]
            place = state.ShardPlace(first, count, buffer=0, number=number)
            buffer = buffers.take()
            shard = buffers.results(results, buffer)
            if number in stepped:
                outcome.status[number] = STEPPED
            elif self.reduced is None:
                fresh = before is None
                if fresh:
                    self._solve_shard(shard, outcome, place, tolerances, workspaces.array())
                else:
                    self._copy(before, outcome, number)
                everybody = phase.minibatch.active[first : first + count].all()
                if outcome.status[number] == state.SOLVED and not (fresh and everybody):
                    buffer.fill(0)
                    sum_shard(
                        phase.places, phase.parameters, phase.dynamics, self.ladders, task, phase.minibatch,
                        shard, outcome, place, tolerances, self.correction, workspaces.array(),
                    )  # fmt: skip
            else:
                solve_wide_shard(
                    phase.places, phase.parameters, phase.dynamics, self.reduced, self.ladders, task, phase.minibatch,
                    shard, outcome, place, tolerances, workspaces.array(),
                )  # fmt: skip
            if outcome.status[number] == state.SOLVED:
                chosen = slice(first, first + count)
                outcome.update_size[number] = self._update_size(self._factors(results, place), place)
                if task.readout == kernel.AVERAGE:
                    euler.add_feedforward_part(phase, shard, chosen)
            total.put(number, buffer)

        own = ranks.own(len(pieces))
        with threads.one_thread():  # the tolerance depends on the sizes of updates
            threads.run(len(own), lambda k: solve(own[k]), work=threads.SMALLEST_WORK_PER_THREAD * len(own))
        summed = ranks.complete(total, buffers.take)
        if not stepped and self.reduced is None:
            self.solved.setdefault(tolerance, outcome)
        # where the last sweep began is needed by the rank alone that has the shard
        ranks.unite(results.factor, results.rate, u, *outcome._replace(iterate=empty, correction=empty))
        factor, rate = (
            dense_views(flat, phase.count, phase.network.sizes) for flat in (results.factor, results.rate)
        )
        flags = (np.zeros(phase.count, np.bool_) for _ in range(2))
        sums = euler.Sums(factor, rate, u, *buffers.parts(summed), *flags)
        chosen = self.samples(outcome.status != state.SOLVED)
        if step and len(chosen):
            _add(sums, _stepped(self.whole.of_samples(chosen), self.asked), chosen)
        return sums, outcome

    def _solve_shard(self, results, outcome, place, tolerances, workspace):
        """Solve a shard; one that is far from linear with more and more nodes, until they change its update no longer.

        How it is solved depends on all of its samples, whether they are active or not.
        """
        phase, number, nodes, before = self.phase, place.number, self.fine.nodes, None
        while True:
            solve_shard(
                phase.places, phase.parameters, phase.dynamics, self.backward, self.ladders, self.task, self.everybody,
                results, outcome, place, tolerances, self.correction, workspace,
            )  # fmt: skip
            solved = outcome.status[number] == state.SOLVED
            if not solved or outcome.first_step[number] <= NEARLY_LINEAR * tolerances.time:
                return
            sums = self._factors(results, place), results.outer[place.buffer].copy()
            if before is not None:
                outcome.time_error[number] = self._change(before, sums, place)
                if outcome.time_error[number] < tolerances.time:
                    return
            before = [factor.copy() for factor in sums[0]], sums[1]
            results.outer[place.buffer] = 0.0
            more = nodes[np.searchsorted(nodes, outcome.nodes[number]) + REFERENCES]
            if more > self._most_nodes:
                outcome.status[number] = state.SLOW
                return
            outcome.nodes[number] = more

    def _change(self, before, after, place):
        """Return by how much two solutions of a shard differ, relative to each layer's update, at most."""
        sizes = np.maximum(self._update_size(after[0], place), np.finfo(np.float64).tiny)
        changes = self._update_size([b - a for a, b in zip(before[0], after[0], strict=True)], place)
        if self.task.readout == kernel.AVERAGE:
            starts, outer = self.phase.places.outer_shard, after[1] - before[1]
            changes += [np.linalg.norm(outer[a:b].astype(np.float64)) for a, b in pairwise(starts[1:])]
        return np.max(changes / sizes)

    def _copy(self, source, target, number):
        """Copy what an outcome says of a shard, and of its samples."""
        first, count = self.pieces[number]
        for name, old, new in zip(source._fields, source, target, strict=True):
            rows = number if name in source.of_shards() else slice(first, first + count)
            new[rows] = old[rows]

    def samples(self, shards):
        """Return the numbers of the samples of a boolean selection of shards."""
        chosen = [
            np.arange(first, first + count)
            for (first, count), take in zip(self.pieces, shards, strict=True)
            if take
        ]
        return np.concatenate(chosen) if chosen else np.zeros(0, np.int64)

    def of_shard(self, values):
        """Return (B,) for each sample the value of its shard."""
        return np.repeat(values, [count for _, count in self.pieces])

    @property
    def _most_nodes(self):
        return most_nodes(self.fine) if self.reduced is None else self.fine.nodes[-1]

    def _workspaces(self):
        places, most, width = self.phase.places, self._most_nodes, panel_width(self.dtype)
        lengths = [
            sum(
                state.workspace_parts(places, self.task, count, most, width)
                if self.reduced is None
                else wide_workspace_parts(places, self.task, count, most)
            )
            for count in {count for _, count in self.pieces}
        ]
        return memory.PerThread(int(max(lengths)), self.dtype)

    def _room_for_outcome(self):
        shards, sizes, dtype = len(self.pieces), self.phase.network.sizes, self.phase.network.dtype
        depth, outputs = len(sizes) - 1, sizes[-1]
        few = self.reduced is None
        square = padded(outputs**2, panel_width(dtype)) if few else 0
        unknowns = self._most_nodes * outputs
        return state.WaveformOutcome(
            *(np.zeros(shards, np.int64) for _ in range(4)),
            *(np.zeros(shards) for _ in range(5)),
            update_size=np.zeros((shards, depth)),
            product_error=np.zeros((shards, depth + 1)),
            error=np.zeros((self.phase.count, unknowns)),
            **{name: np.zeros((self.phase.count, outputs)) for name in ("start", "linear_error", "linear_u")},
            matrices=np.zeros((self.phase.count, depth * square), dtype),
            iterate=np.zeros((self.phase.count, unknowns * few)),
            correction=np.zeros((self.phase.count, unknowns * few)),
        )

    def _factors(self, results, place):
        """Return for each layer (samples, n_i) the sums over time of the factors of a shard's samples."""
        factors = dense_views(results.factor, self.phase.count, self.phase.network.sizes)
        return [factor[place.first : place.first + place.count] for factor in factors]

    def _update_size(self, factors, place):
        """Return (L,) norms of what a shard adds to the update: errors of samples may add up where their updates cancel."""
        sizes = np.zeros(len(factors))
        for k, (post, rates) in enumerate(zip(factors, self.phase.presynaptic_factors, strict=True)):
            pre = rates[place.first : place.first + place.count]
            gram = (post @ post.T) * (pre @ pre.T)
            sizes[k] = np.sqrt(max(gram.sum(), np.trace(gram)))
        return sizes

    def errors(self, outcome):
        """Return (L, shards) norms that the error of each layer's update, summed over a shard's samples, is expected to have."""
        relative = ERROR_FACTOR[self.task.readout] * (
            self.time_factor * outcome.time_error + outcome.newton_error
        )
        relative = np.where(outcome.status == state.SOLVED, relative, 0.0)[:, np.newaxis]
        return np.where(relative != 0.0, relative * outcome.update_size + outcome.product_error[:, 1:], 0.0).T


def _vanishes_at_rest(rule):
    """Return whether a rule's factor is zero in the feedforward state, from which nodes in time begin; v_fb jumps there."""
    v = np.linspace(-3.0, 3.0, 13)
    r, slope, zero = np.tanh(v), 1.0 - np.tanh(v) ** 2, np.zeros_like(v)
    symbols = {"dv": zero, "dr": zero} | dict.fromkeys(("v", "v_ff"), v) | dict.fromkeys(("r", "r_ff"), r)
    symbols |= dict.fromkeys(("slope", "slope_ff", "slope_0"), slope)
    return "v_fb" not in units.arguments(rule.postsynaptic) and not np.any(
        units.evaluate(rule.postsynaptic, symbols)
    )


def _add(sums, part, chosen):
    """Enter the sums over time of some samples, which were left out so far."""
    for target, source in zip(
        (*sums.factor, *sums.rate, sums.u), (*part.factor, *part.rate, part.u), strict=True
    ):
        target[chosen] = source
    sums.outer[:] += part.outer


def _stepped(phase, task):
    """Return `phase.Sums` by the Euler method; for the continuous limit extrapolated from two step sizes to dt -> 0."""
    if phase.controller.limit == "published":
        return euler.run(*task.assign(phase))
    coarse, fine = (_with_shorter_steps(phase, task, parts) for parts in EXTRAPOLATED)
    return euler.Sums(
        *([2.0 * b - a for a, b in zip(x, y, strict=True)] for x, y in ((coarse.factor, fine.factor), (coarse.rate, fine.rate))),
        *(2.0 * b - a for a, b in ((coarse.u, fine.u), (coarse.outer, fine.outer))),
        fine.outer_feedback, fine.converged, fine.diverged,
    )  # fmt: skip


def _with_shorter_steps(phase, task, parts):
    """Return the sums with `parts` steps in place of one, scaled to the number of time points of the controller."""
    c = phase.controller
    controller = replace(c, dt=c.dt / parts, steps=c.steps * parts, instant_transmission=True, proactive=True)
    sums = euler.run(*task.assign(phase.with_controller(controller)))
    if task.readout == kernel.AVERAGE:
        scale = c.time_points / controller.time_points
        for array in (*sums.factor, sums.outer):
            array *= array.dtype.type(scale)
    return sums


def solve(phase, task, make_update, *, only_converged=False):
    """Return the forward update of a phase without noise, each layer's weights within rtol of what Euler steps give.

    Args:
        phase: a `phase.Phase`, whose controller says integrator = "waveform". task: with the readout average or final.
        make_update: makes the `ForwardUpdate` from `phase.Sums`.
        only_converged: samples that have not converged contribute nothing.

    Returns:
        the `ForwardUpdate`, with `.estimated_error`, (L,) relative to the norm of the update, and `.fallback`, (B,) booleans.
    """
    controller = phase.controller
    require_support(controller, phase.network)
    few = controller.limit == "published" and controller.steps < FEWEST_STEPS
    if few or not _vanishes_at_rest(task.rule):
        sums = euler.run(*task.assign(phase), only_converged=only_converged)
        euler.warn_of_divergence(phase, sums, hops=5)
        update = make_update(sums)
        everybody = np.ones(phase.count, np.bool_)
        return replace(update, estimated_error=np.zeros(len(update.weights)), fallback=everybody)
    engine = _Solver(phase, task)
    sums, outcome, update, estimate = _to_tolerance(engine, make_update)
    stepped = engine.of_shard(outcome.status != state.SOLVED)
    decide = cache(lambda: _flags(engine, sums, outcome, stepped))
    closeness = Closeness(phase, sums.rate[-1], sums.u)
    clear = not closeness.near_divergence(10.0 * controller.rtol).any()
    diverged = closeness.flags()[1] if clear else decide()[1]
    euler.warn_of_divergence(phase, replace(sums, diverged=diverged), hops=5)
    if only_converged and not decide()[0].all():
        again = engine.without(~decide()[0])
        _, outcome_again, update, estimate = _to_tolerance(again, make_update)
        stepped |= again.of_shard(outcome_again.status != state.SOLVED)
    return replace(
        update,
        converged=lambda: decide()[0],
        diverged=diverged,
        estimated_error=estimate,
        fallback=stepped,
    )


def solve_course(phase):
    """Return ((converged, diverged), `Outcome`, (B,) nodes) of a feedback phase; 0 nodes for samples that have to be stepped."""
    require_support(phase.controller, phase.network)
    engine = _Solver(phase, euler.UpdateTask())
    sums, outcome = engine.sums(SAFETY * phase.controller.rtol, frozenset())
    stepped = engine.of_shard(outcome.status != state.SOLVED)
    flags = _flags(engine, sums, outcome, stepped)
    return (
        flags,
        outcome,
        np.where(engine.of_shard(outcome.status == state.SOLVED), engine.of_shard(outcome.nodes), 0),
    )


def _flags(engine, sums, outcome, stepped):
    """Return (converged, diverged) of all samples; enters in `stepped` for which of them Euler steps were needed.

    Samples near a threshold have their state at T corrected to first order. Those that are near even then are solved once more
    with a smaller tolerance, and what is still near is stepped.
    """
    phase = engine.whole
    flags, unsure = _judge(engine, sums, outcome)
    if len(unsure):
        finer = replace(phase.controller, rtol=max(FINER * phase.controller.rtol, RTOL_RANGE[0]))
        part = phase.of_samples(unsure).with_controller(finer)
        again = _Solver(part, replace(engine.asked, readout=kernel.FINAL))
        sums, outcome = again.sums(SAFETY * finer.rtol, frozenset(), step=False)
        new, left = _judge(again, sums, outcome)
        _enter(flags, unsure, new)
        unsure = unsure[np.union1d(left, again.samples(outcome.status != state.SOLVED))]
    if len(unsure):
        part = phase.of_samples(unsure)
        last = _stepped(part, replace(engine.asked, readout=kernel.FINAL))
        _enter(flags, unsure, Closeness(part, last.rate[-1], last.u).flags())
        stepped[unsure] = True
    return flags


def _judge(engine, sums, outcome):
    """Return ((converged, diverged) of all samples, numbers of those in solved shards of which either may be wrong)."""
    phase, rtol = engine.phase, engine.phase.controller.rtol
    solved = engine.of_shard(outcome.status == state.SOLVED)
    left = outcome.last_step if phase.controller.error == "softmax" else outcome.newton_error
    left, error = engine.of_shard(left), engine.time_factor * engine.of_shard(outcome.end_error)
    closeness = Closeness(phase, sums.rate[-1], sums.u)
    flags = closeness.flags()
    unsure = closeness.uncertain(10.0 * rtol, END_SAFETY * error + left)
    unsure = np.flatnonzero(unsure & solved)
    if not len(unsure) or phase.controller.limit != "published" or engine.reduced is not None:
        return flags, unsure
    closeness, error = _corrected_end(engine, sums, outcome, unsure)
    _enter(flags, unsure, closeness.flags())
    nonlinear = np.minimum(1.0, END_SAFETY * engine.of_shard(outcome.first_step)[unsure])
    return flags, unsure[closeness.uncertain(10.0 * rtol, error * nonlinear + left[unsure])]


def _corrected_end(engine, sums, outcome, chosen):
    """Return (`Closeness` of samples whose state at T has its linear error taken out, (n,) relative sizes of that error)."""
    phase, sizes, start = engine.phase, engine.phase.network.sizes, outcome.start[chosen]
    error, u = np.zeros((2, len(chosen), sizes[-1]))
    matrices = outcome.matrices[chosen].astype(np.float64)
    step_linear(phase.dynamics, len(sizes) - 1, sizes[-1], matrices, start, error, u)
    error -= outcome.linear_error[chosen]
    rate = sums.rate[-1][chosen] - error
    u += sums.u[chosen] - outcome.linear_u[chosen]
    size = np.linalg.norm(error, axis=1) / np.linalg.norm(start, axis=1)
    return Closeness(phase.of_samples(chosen), rate, u), size


def _enter(flags, chosen, new):
    for flag, values in zip(flags, new, strict=True):
        flag[chosen] = values


def _to_tolerance(engine, make_update):
    """Solve with the tolerance that rtol asks for, then with smaller ones while the estimate says that shards cancel too much."""
    rtol, stepped = engine.phase.controller.rtol, set()
    tolerance = SAFETY * rtol
    for attempt in range(ATTEMPTS):
        sums, outcome = engine.sums(tolerance, stepped)
        update = make_update(sums)
        errors = engine.errors(outcome)
        with threads.one_thread():  # the tolerance depends on these
            norms = np.array([np.linalg.norm(w.astype(np.float64)) for w in update.weights])
        norms *= engine.phase.count
        if engine.task.readout == kernel.AVERAGE:
            norms *= engine.phase.controller.time_points
        with np.errstate(divide="ignore", invalid="ignore"):
            estimate = np.where(errors.sum(axis=1) > 0, errors.sum(axis=1) / norms, 0.0)
        if (estimate <= rtol).all():
            break
        tolerance *= 0.5 * rtol / min(estimate.max(), 1e3 * rtol)
        if attempt == ATTEMPTS - 2:  # the last attempt steps what contributes most
            stepped = _largest(errors, norms, rtol)
    return sums, outcome, update, estimate


def _largest(errors, norms, rtol):
    """Return the numbers of the shards without which the expected errors of all layers are within rtol."""
    contributions = (errors / norms[:, np.newaxis]).max(axis=0)
    order = np.argsort(-contributions, kind="stable")
    for count in range(len(order) + 1):
        left = order[count:]
        if (errors[:, left].sum(axis=1) <= 0.5 * rtol * norms).all():
            return set(order[:count].tolist())
    return set(order.tolist())
