"""Learning in least control: updates of forward weights, of Kolen-Pollack's pairs, and of linear feedback from noise."""

from dataclasses import dataclass, replace

import numpy as np

from dfc_numba.kernels.draws import keyed_draws
from dfc_numba.model.noise_key import as_key
from dfc_numba.model.targets import loss_gradient
from dfc_numba.relatives.finiteness import Convergence, Flagged, finite_samples, lost_samples
from dfc_numba.relatives.least_control import (
    Controlled,
    RecurrentNetwork,
    checked,
    controlled_phase,
    free_equilibrium,
    rates_of,
    slopes_of,
    system_of,
)
from dfc_numba.support import threads
from dfc_numba.support.ranges import UpToOne
from dfc_numba.support.validation import float_list, instance, number, seeds, silent


@dataclass(frozen=True)
class ControlUpdate:
    """The change of the parameters by least control, per unit learning rate: sums over samples of the mean loss's control.

    Attributes:
        weights, biases: of a `Network`: lists over the layers, the readout last; of a `RecurrentNetwork`: dicts by the names
            of its attributes, in `weights`, and None.
        transposed: "kp": list as `transposed`, else None. state: the `Controlled`.
    """

    weights: list | dict
    biases: list | None
    transposed: list | None
    state: Controlled

    @property
    def diverged(self):
        """(B,) samples whose phase has not come to rest; all of them where only the update is not finite."""
        return self.state.diverged | lost_samples(
            self.state.finite, self.weights, self.biases, self.transposed
        )


@silent()
def control_update(network, x, y, options, *, transposed=None, feedback=None, state=None):
    """Return the update of least control from a controlled phase.

        Delta W_i = sum_b e_i phi(v_{i-1})^T,  readout: sum_b u phi(v)^T;  "lf": phi'(v) e in the place of e
        "kp": Delta S = sum_b phi(v) e^T beside the same for W

    Args: as for `controlled_phase`. state: a `Controlled` of these inputs; None runs the phase.

    Returns:
        `ControlUpdate`; diverged samples take no part.
    """
    if state is None:
        state = controlled_phase(network, x, y, options, transposed=transposed, feedback=feedback)
    system, x = system_of(network), np.asarray(x, np.float64)
    keep = state.finite[:, None]
    with threads.one_thread():
        rates, next_rates = (
            [np.where(keep, r, 0.0) for r in rates_of(system, v)] for v in (state.v, state.next_v)
        )
        e, u = [np.where(keep, part, 0.0) for part in state.e], np.where(keep, state.u, 0.0)
        if options.rule == "lf":
            slopes = slopes_of(system, [np.where(keep, v, 0.0) for v in state.next_v])
            e = [s * part for s, part in zip(slopes, e, strict=True)]
        pairs = None
        if isinstance(network, RecurrentNetwork):
            bias = e[0].sum(axis=0)
            update = {
                "input_weights": e[0].T @ x, "weights": e[0].T @ rates[0], "output_weights": u.T @ next_rates[0],
                "input_biases": bias, "biases": bias.copy(), "output_biases": u.sum(axis=0),
            }  # fmt: skip
            if options.rule == "kp":
                pairs = [next_rates[0].T @ e[0], next_rates[0].T @ u]
            return ControlUpdate(update, None, pairs, state)
        post, below = [*e, u], [x, *rates[:-1], next_rates[-1]]
        weights = [a.T @ r for a, r in zip(post, below, strict=True)]
        biases = [a.sum(axis=0) for a in post]
        if options.rule == "kp":
            pairs = [r.T @ a for a, r in zip(post[1:], next_rates, strict=True)]
    if network.dtype != np.float64:
        weights, biases = ([a.astype(network.dtype) for a in group] for group in (weights, biases))
    return ControlUpdate(weights, None if network.biases is None else biases, pairs, state)


ADJOINT_STEPS, ADJOINT_TOLERANCE = 200, 1e-4


@np.errstate(over="ignore", invalid="ignore")
def recurrent_backpropagation(network, x, y, options, *, free=None):
    """Return the update of a `RecurrentNetwork` by the adjoint equation at its free equilibrium (Almeida, Pineda 1987).

        g <- phi'(v) (W^T g + D^T delta),  delta = -dl/do;   Delta W = sum_b g phi(v)^T,  Delta D = sum_b delta phi(v)^T

    of l, the mean loss of the minibatch: minus its gradient. g is iterated, up to 200 times, until it changes by less than
    1e-4, relative; a sample whose g or free phase has run away takes no part.

    Args: as for `controlled_phase`. options: a `LeastControl`, for the free phase and the loss. free: the `Free`; None runs it.

    Returns:
        `ControlUpdate` whose state has g as e, delta as u, and whose samples have converged if both iterations have; for
        tolerance 0 that of g alone is judged.
    """
    instance("network", network, RecurrentNetwork)
    system, x, y, _, _ = checked(network, x, y, options, None, None)
    free = free_equilibrium(network, x, options) if free is None else free
    delta = -loss_gradient(np.nan_to_num(free.output), y, options.loss)
    with threads.one_thread():
        slopes, g = slopes_of(system, free.v), [np.zeros_like(free.v[0])]
        convergence = Convergence(len(x), ADJOINT_TOLERANCE, free.finite)
        for _ in range(ADJOINT_STEPS):
            g = convergence.step([slopes[0] * system.back(g, delta)[0]], g)
            if convergence.over:
                break
    finite = convergence.running & finite_samples(len(x), g, delta)
    converged = convergence.resting & free.converged if options.tolerance else convergence.resting
    state = Controlled(
        free.v,
        g,
        free.output,
        np.zeros_like(delta),
        delta,
        free.v,
        free.output,
        free.steps,
        converged,
        finite,
    )
    return control_update(network, x, y, options, state=state)


@dataclass(frozen=True)
class NoisyPhase(Flagged):
    """The noisy phase by which Q learns; lists over the hidden layers.

    Attributes:
        v, noise: (B, n_i), last states. o, u_int: (B, n_L). correlation: G of each sample, (B, n_i, n_L).
        feedback: the update of Q per unit learning rate, dt / tau_q (mean_b G - decay Q): what is added to Q; the mean is that
            of the samples that are finite in both phases.
        trajectory: dict of the same with all time points, or None.
        diverged: whether some number of it is not finite.
    """

    v: list
    noise: list
    o: np.ndarray
    u_int: np.ndarray
    correlation: list
    feedback: list
    trajectory: dict | None = None


@np.errstate(over="ignore", invalid="ignore")
def noisy_feedback_update(network, x, y, options, state, *, feedback, noise=0, record=False):
    """Return the update of the linear feedback Q from noise around a controlled state.

        eps += (s/tau_eps) (-dt' eps + sqrt(dt') xi),   dt' = dt/s^2,   v_fb = Q u + sigma eps
        v += (dt/tau_v) (f - v + v_fb),   o and u_int as in `controlled_phase` with dt',   G += -1/sigma^2 v_fb (u - u*)^T

    Args:
        state: the `Controlled` that the phase starts from; feedback: Q. steps: those of the options.
        noise: a seed, a `NoiseKey`, or (start, draws): lists over the hidden layers of (B, n_i) and (T, B, n_i).

    Returns:
        `NoisyPhase`.
    """
    system, x, y, _, feedback = checked(network, x, y, options, None, feedback)
    instance("state", state, Controlled)
    count, dt, slow = len(x), options.dt, options.dt / options.speed**2
    start, draws = _draws(noise, system, count, options.steps)
    v, eps = [a.copy() for a in state.next_v], [a.copy() for a in start]
    o, u_int = state.output.copy(), state.u_int.copy()
    total = [np.zeros((count, n, system.outputs)) for n in system.sizes]
    points = [] if record else None
    factor = -1.0 / options.sigma**2
    with threads.one_thread():
        system.begin(x)
        for step in range(options.steps):
            rates = rates_of(system, v)
            downhill = -loss_gradient(o, y, options.loss)
            u = options.k_i * u_int + options.k_p * downhill
            apical = [u @ q.T + options.sigma * a for q, a in zip(feedback, eps, strict=True)]
            reached = system.output(rates)
            v = [
                a + dt / options.tau_v * (f - a + c)
                for a, f, c in zip(v, system.drive(rates), apical, strict=True)
            ]
            o = o + slow / options.tau_v * (reached - o + u)
            u_int = u_int + slow / options.tau_u * (downhill - options.alpha * u_int)
            eps = [
                a + options.speed / options.tau_noise * (np.sqrt(slow) * draws(step, i) - slow * a)
                for i, a in enumerate(eps)
            ]
            for g, a in zip(total, apical, strict=True):
                g += factor * a[:, :, None] * (u - state.u)[:, None, :]
            if record:
                points.append(
                    {"v": v, "noise": eps, "o": o, "u_int": u_int, "correlation": [g.copy() for g in total]}
                )
    keep = state.finite & finite_samples(count, v, eps, o, u_int, total)
    means = [(g if keep.all() else g[keep]).sum(axis=0) / max(1, keep.sum()) for g in total]
    rate = dt / options.tau_q
    updates = [rate * (mean - options.decay * q) for mean, q in zip(means, feedback, strict=True)]
    return NoisyPhase(v, eps, o, u_int, total, updates, points)


def _draws(noise, system, count, steps):
    """Return (initial noise, function of (step, layer) to standard normal draws)."""
    key = as_key(noise)
    if key is not None:
        word, numbers = key.word(), key.numbers(count)

        def draw(step, i):
            out = np.zeros((1, count, system.sizes[i]))
            keyed_draws(out, word, np.array([step + 1], np.uint64), numbers, i + 1)
            return out[0]

        start = [draw(2**31 - 2, i) for i in range(len(system.sizes))]
        return start, draw
    if not isinstance(noise, list | tuple) or len(noise) != 2:
        raise TypeError(
            "noise must be a seed, a NoiseKey, or (start, draws) with lists over the hidden layers"
        )
    start = float_list("noise[0]", noise[0], [(count, n) for n in system.sizes])
    draws = float_list("noise[1]", noise[1], [(steps, count, n) for n in system.sizes])
    return start, lambda step, i: draws[i][step]


def initial_feedback(network, *, seed=0):
    """Return random Q of "lf", normal with variance 1 / n_L: list of (n_i, n_L) over the hidden layers."""
    system = system_of(network)
    rng = np.random.default_rng(seeds("seed", seed))
    return [rng.standard_normal((n, system.outputs)) / np.sqrt(system.outputs) for n in system.sizes]


def initial_transposed(network, *, seed=0):
    """Return random matrices of "kp", each of norm 1."""
    rng = np.random.default_rng(seeds("seed", seed))
    matrices = [rng.standard_normal(shape) for shape in system_of(network).transposed_shapes()]
    return [matrix / np.linalg.norm(matrix) for matrix in matrices]


def decayed(network, transposed, rate):
    """Return (network, transposed) of "kp" before a phase: W, D, their biases and S, D~ times 1 - rate; U and its bias stay."""
    keep = 1.0 - number("rate", rate, UpToOne)
    transposed = float_list("transposed", transposed, system_of(network).transposed_shapes())
    transposed = [keep * matrix for matrix in transposed]
    if isinstance(network, RecurrentNetwork):
        names = ("weights", "biases", "output_weights", "output_biases")
        return replace(network, **{name: keep * getattr(network, name) for name in names}), transposed
    network = network.copy()
    for arrays in (network.weights[1:], (network.biases or [])[1:]):
        for array in arrays:
            array *= network.dtype.type(keep)
    return network, transposed
