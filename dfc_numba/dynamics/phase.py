"""One feedback phase, prepared for the kernels and run: shards over threads, sums merged in a fixed order."""

from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from dfc_numba.kernels import phase_state as kernel
from dfc_numba.kernels.elementwise import ARGUMENT_LIMIT
from dfc_numba.kernels.feedback_phase import run_shard
from dfc_numba.kernels.layout import Layout, dense_views, layout, pack
from dfc_numba.model.controller import Controller
from dfc_numba.model.network import feedforward_state
from dfc_numba.model.noise import as_key, given_draws
from dfc_numba.support import memory, threads
from dfc_numba.support.validation import instance, samples

CONVERGED_RESIDUAL = 1e-5  # of the norm of the feedforward output (published value)
# shards that are summed up at a time, if their sums are small; the order of summation is the same for any number
WAVE_BYTES = 32e6


@dataclass(frozen=True)
class Phase:
    """A minibatch, a network and a controller in the form that the kernels take."""

    network: object
    controller: object
    x: np.ndarray
    places: Layout
    parameters: kernel.Parameters
    dynamics: kernel.Dynamics
    minibatch: kernel.Minibatch

    @property
    def count(self):
        """Number of samples."""
        return len(self.x)

    @property
    def feedforward_rates(self):
        """r of every layer in the feedforward state, list of (B, n_i) in float64."""
        return dense_views(self.minibatch.r_ff, self.count, self.network.sizes)

    def without(self, inactive):
        """The same phase, with the samples of a boolean mask held at their feedforward state."""
        minibatch = self.minibatch._replace(active=self.minibatch.active & ~inactive)
        return Phase(
            self.network, self.controller, self.x, self.places, self.parameters, self.dynamics, minibatch
        )


def prepare(network, x, target, controller, noise):
    """Check the arguments of a feedback phase and pack them.

    Raises:
        ValueError, TypeError: for shapes that do not fit, numbers that are not finite, noise that is missing.
    """
    x, activity = feedforward_state(network, x)
    target = samples("target", target, network.sizes[-1], count=len(x))
    instance("controller", controller, Controller)
    places = layout(network.sizes, network.dtype)
    source, key, numbers, draws = _noise(network, controller, noise, len(x))
    minibatch = kernel.Minibatch(
        v_ff=np.concatenate([v.ravel() for v in activity.v]),
        r_ff=np.concatenate([r.ravel() for r in activity.r]),
        gap=target - activity.r[-1],
        target=target.copy(),  # writable whatever it came from: one type of arguments, one compilation
        active=np.ones(len(x), np.bool_),
        noise_source=source,
        noise_key=key,
        noise_samples=numbers,
        noise_given=draws,
    )
    parameters = _pack_parameters(network, places, controller.jacobian_feedback)
    return Phase(network, controller, x, places, parameters, _dynamics(controller), minibatch)


def _noise(network, controller, noise, count):
    """(source, key, sample numbers, given draws) for the kernels."""
    none = np.uint64(0), np.zeros(count, np.uint64), np.zeros(0, network.dtype)
    key = as_key(noise)
    if noise is not None and key is None:
        shape = controller.time_points, count
        given = given_draws(noise, shape, network.sizes, network.dtype)
    if not controller.noisy:
        return kernel.NO_NOISE, *none
    if noise is None:
        raise ValueError(
            f"the controller has sigma = {controller.sigma:g}, sigma_output = {controller.output_sigma:g}, but noise is "
            "None; pass noise=<int seed>, a NoiseKey or a list of draws, or set sigma to 0"
        )
    if key is not None:
        return kernel.KEYED_NOISE, key.word(), key.numbers(count), none[2]
    # flat: [layer][time][sample][unit]
    return kernel.GIVEN_NOISE, none[0], none[1], np.concatenate([draws.ravel() for draws in given])


def _pack_parameters(network, places, transposed):
    dtype = network.dtype
    families, slopes = network.activation_codes(dtype)
    back = [w.T for w in network.weights[1:]]
    # the feedback phase needs no W_1, what it contributes does not change: its place is left as it is
    weights = memory.in_large_pages(places.weights[-1], dtype)
    pack(network.weights[1:], places.stride[2:], dtype, out=weights[places.weights[2] :])
    return kernel.Parameters(
        families=families,
        slopes=slopes,
        argument_limit=ARGUMENT_LIMIT[dtype.itemsize],
        weights=weights,
        feedback=pack(network.feedback, places.stride[1:], dtype),
        transposed=pack(back, places.stride[1:-1], dtype) if transposed and back else np.zeros(0, dtype),
    )


def _dynamics(controller):
    dt = controller.dt
    tau_apical = dt if controller.tau_apical is None else controller.tau_apical
    low_passed = controller.tau_noise is not None
    return kernel.Dynamics(
        steps=controller.steps,
        dt=dt,
        alpha=controller.alpha,
        k_p=controller.k_p,
        soma_gain=1.0 if controller.instant_dynamics else dt / controller.tau_v,
        apical_gain=dt / tau_apical,
        control_gain=1.0 if controller.tau_control is None else dt / controller.tau_control,
        noise_gain=np.sqrt(dt) / (controller.tau_noise if low_passed else tau_apical),
        noise_keep=1.0 - dt / controller.tau_noise if low_passed else -1.0,
        sigma=controller.sigma,
        sigma_output=controller.output_sigma,
        instant_transmission=controller.transmission_is_instant,
        proactive=controller.proactive,
        softmax=controller.error == "softmax",
        jacobian_feedback=controller.jacobian_feedback,
        leak_integral=controller.leak == "integral",
    )


@dataclass(frozen=True)
class Sums:
    """What a run leaves: sums over time in float64, `outer` sums over samples and time in the network's dtype.

    Attributes:
        factor, rate: lists of (B, n_i): summed (or last) factors, last deviations of the rates.
        u: (B, n_L) last control signal.
        outer, outer_feedback: flat, see `Layout`.
        converged, diverged: (B,) booleans.
    """

    factor: list
    rate: list
    u: np.ndarray
    outer: np.ndarray
    outer_feedback: np.ndarray
    converged: np.ndarray
    diverged: np.ndarray


def run(phase, task, *, records=None, only_converged=False):
    """Simulate all shards and sum up. With `only_converged`, samples that have not converged contribute nothing."""
    records = no_records(phase.count, phase.network.dtype) if records is None else records
    pieces = threads.shards(phase.count)
    results, wave = _results(phase, task, len(pieces))
    workspaces = _workspaces(phase, task, pieces)
    outer, outer_feedback = _room_for_totals(phase, task)
    first_layer = phase.places.outer[2] if len(outer) else 0
    converged, diverged = (np.zeros(phase.count, np.bool_) for _ in range(2))
    for start in range(0, len(pieces), wave):
        part = pieces[start : start + wave]
        _run_shards(phase, task, results, records, workspaces, part)
        first, last = part[0][0], part[-1][0] + part[-1][1]
        converged[first:last], diverged[first:last] = _convergence(phase, results, slice(first, last))
        if only_converged and not converged[first:last].all():
            again = task._replace(record_every=0)  # what is recorded is the first run, in which all take part
            _run_again(phase.without(~converged), again, results, records, workspaces, part)
        for place in range(len(part)):
            outer[first_layer:] += results.outer[place]
            outer_feedback += results.outer_feedback[place]
    sizes = phase.network.sizes
    factor, rate = (dense_views(flat, phase.count, sizes) for flat in (results.factor, results.rate))
    return Sums(factor, rate, results.u, outer, outer_feedback, converged, diverged)


def _room_for_totals(phase, task):
    """Zeroed sums over all samples: weights (all layers) and feedback weights, empty where not asked for."""
    places, dtype = phase.places, phase.network.dtype
    averages, learns = task.readout == kernel.AVERAGE, task.learn_feedback
    return (
        memory.zeros(places.outer[-1] if averages else 0, dtype),
        np.zeros(places.outer_feedback[-1] if learns else 0, dtype),
    )


def _results(phase, task, pieces):
    """Room for the results, and how many shards it takes at a time."""
    places, dtype = phase.places, phase.network.dtype
    dense = phase.count * places.dense[-1]
    sizes = (
        places.outer_shard[-1] if task.readout == kernel.AVERAGE else 0,
        places.outer_feedback[-1] if task.learn_feedback else 0,
    )
    wave = int(WAVE_BYTES / max(1, sum(sizes) * dtype.itemsize))
    wave = min(pieces, max(wave, threads.current()))
    outer, outer_feedback = (memory.in_large_pages(wave * size, dtype).reshape(wave, size) for size in sizes)
    u = np.zeros((phase.count, phase.network.sizes[-1]))
    return kernel.Results(np.zeros(dense), np.zeros(dense), u, outer, outer_feedback), wave


def _run_shards(phase, task, results, records, workspaces, pieces):
    """Run some shards; each leaves its sums in a row of its own."""
    weights = sum(w.size for w in phase.network.weights[1:]) + sum(q.size for q in phase.network.feedback)
    work = 2.0 * phase.controller.steps * weights * sum(count for _, count in pieces)
    results.outer[:] = 0
    results.outer_feedback[:] = 0

    def run_one(place):
        _run_shard(phase, task, results, records, workspaces, pieces[place], place)

    threads.run(len(pieces), run_one, work=work)


def _run_again(phase, task, results, records, workspaces, pieces):
    """Run the shards again that hold an inactive sample, from fresh sums."""
    for place, (first, count) in enumerate(pieces):
        if phase.minibatch.active[first : first + count].all():
            continue
        results.outer[place] = 0
        results.outer_feedback[place] = 0
        for flat in (results.factor, results.rate):
            for layer in dense_views(flat, phase.count, phase.network.sizes):
                layer[first : first + count] = 0
        _run_shard(phase, task, results, records, workspaces, (first, count), place)


def _run_shard(phase, task, results, records, workspaces, shard, place):
    """Simulate the samples of one shard, (first, count); its sums go to the row `place`."""
    run_shard(
        phase.places, phase.parameters, phase.dynamics, task, phase.minibatch, results, records, *shard, place,
        workspaces.array(),
    )  # fmt: skip


def _workspaces(phase, task, pieces):
    """Memory for the state of a shard, for each thread."""
    lengths = [
        sum(kernel.workspace_parts(phase.places, phase.dynamics, task, phase.minibatch, count))
        for count in {count for _, count in pieces}
    ]
    return memory.PerThread(int(max(lengths)), phase.network.dtype)


def _convergence(phase, results, chosen):
    """(converged, diverged) of a slice of samples, as published: by the residual and by the remaining error."""
    sizes, controller = phase.network.sizes, phase.controller
    start = phase.feedforward_rates[-1][chosen]
    end = start + dense_views(results.rate, phase.count, sizes)[-1][chosen]
    target = phase.minibatch.target[chosen]
    settled = target - controller.steady_leak * results.u[chosen]
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        residual, scale = _distance(controller, settled, end), np.linalg.norm(start, axis=1)
        remaining, initial = (_distance(controller, target, output) for output in (end, start))
        settles, improves = (
            residual < CONVERGED_RESIDUAL * scale,
            remaining < controller.convergence_epsilon**2 * initial,
        )
        return settles & improves, ~(residual <= scale)


def _distance(controller, target, output):
    """The monitored error per sample: ||target - output||, or the cross-entropy of softmax(output)."""
    if controller.error == "difference":
        return np.linalg.norm(target - output, axis=1)
    return -(target * log_softmax(output, axis=1)).sum(axis=1)


def no_records(count, dtype):
    """Records of nothing, in the dtypes that records have: one type of arguments, one compilation."""
    outputs, layers = np.zeros(0), np.zeros(0, dtype)
    return kernel.Records(
        np.full(count, -1), 0, 0, outputs, outputs, outputs, outputs, layers, layers, layers, layers
    )
