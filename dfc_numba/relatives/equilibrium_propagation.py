"""Equilibrium propagation: a network settles, is nudged towards its target, and learns from the difference.

    free phase    states relax with the input clamped                     (Scellier & Bengio 2017, arXiv:1602.05179)
    nudged phase  from there, with beta C added to the energy, or beta (y - output) to the output's drive
    update        Delta W_i = 1/D mean_b [r_i r_{i-1}^T (second) - r_i r_{i-1}^T (first)]

One-sided: free and +beta states, D = beta. Two-sided: -beta and +beta, D = 2 beta, whose bias is of second order in beta
(Laborieux et al. 2021, arXiv:2006.03824). Vector field: backward weights B_i of their own (Scellier et al. 2018,
arXiv:1808.04873). `kernels/nudged_phases.py` has the dynamics of the three forms.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from dfc_numba.kernels import nudged_phases as kernel
from dfc_numba.kernels.draws import keyed_draws
from dfc_numba.kernels.equilibrium_units import NONLINEARITIES
from dfc_numba.kernels.forms import ARGUMENT_LIMIT
from dfc_numba.kernels.layout import dense_views, layout, pack, padded_rows
from dfc_numba.model.network import Network
from dfc_numba.model.noise_key import as_key
from dfc_numba.model.shared_passes import shared_pass
from dfc_numba.model.targets import as_targets
from dfc_numba.relatives.equilibrium_energy import rate_of
from dfc_numba.relatives.finiteness import Flagged, finite_samples, lost_samples
from dfc_numba.support import memory, threads
from dfc_numba.support.options import options
from dfc_numba.support.ranges import (
    CountOrZero,
    Finite,
    Flag,
    PositiveTolerance,
    Steps,
    TimeConstant,
    TimeStep,
)
from dfc_numba.support.validation import float_list, instance, number, samples, silent, whole_number

FORMS = {"prototypical": kernel.PROTOTYPICAL, "hopfield": kernel.HOPFIELD, "gaussian": kernel.GAUSSIAN}
BOUNDS = {"tanh": (-1.0, 1.0), "sigmoid": (0.0, 1.0), "steepsigmoid": (0.0, 1.0), "hardsigmoid": (0.0, 1.0)}


@options
class EquilibriumPropagation:
    """Options of equilibrium propagation.

    Args:
        form: "prototypical" (discrete; the states are rates), "hopfield" or "gaussian" (energies of voltages).
        nonlinearity: phi of all layers, "tanh", "sigmoid", "steepsigmoid" 1/(1 + exp(-4 (v - 0.5))), "hardsigmoid"
            min(max(v, 0), 1), "relu" or "linear". A cross-entropy makes the prototypical output linear.
        beta: the nudge, not 0; a negative one pushes the output away. sides: 1, or 2 for nudges of -beta and +beta.
        free_steps, nudged_steps: most steps of the phases; the Gaussian form rests at its feedforward state at once.
        dt, tau: step and time constant of the energy forms; None is 0.1 for them, and the prototypical form has no dt.
        tolerance: a sample has settled when no state changes by more in a step of the free phase; None does all steps.
        loss: "mse", 1/2 |output - y|^2 of a sample, or "cross_entropy" of softmax(output).
        backward: "transposed", W_{i+1}^T, or "separate", `network.backward` (prototypical form).
        same_update: separate backward weights receive the symmetric rule's update, as the forward weights do.

    Raises:
        ValueError: for an unknown option, a value out of range, or options that exclude each other.
    """

    form: Literal["prototypical", "hopfield", "gaussian"] = "prototypical"
    nonlinearity: Literal["tanh", "sigmoid", "steepsigmoid", "hardsigmoid", "relu", "linear"] = "tanh"
    beta: Finite = 0.1
    sides: Literal[1, 2] = 1
    free_steps: Steps = 30
    nudged_steps: Steps = 10
    dt: TimeStep | None = None
    tau: TimeConstant = 1.0
    tolerance: PositiveTolerance | None = None
    loss: Literal["mse", "cross_entropy"] = "mse"
    backward: Literal["transposed", "separate"] = "transposed"
    same_update: Flag = False

    def __post_init__(self):
        if self.beta == 0.0:
            raise ValueError(
                f"beta is {self.beta}; the update is a difference divided by beta, so it has to be a finite number other than 0, "
                "such as 0.1 (1e-6 is fine)"
            )
        if self.form == "prototypical" and self.dt is not None:
            raise ValueError("dt has no meaning for form = 'prototypical', which steps at once; leave it out")
        if self.form != "prototypical" and self.backward == "separate":
            raise ValueError(
                f"backward = 'separate' with form = {self.form!r}: an energy has symmetric weights; choose 'prototypical'"
            )
        if self.same_update and self.backward != "separate":
            raise ValueError("same_update is about backward = 'separate'; leave it out")
        if self.form != "prototypical" and self.gain > 1.0:
            raise ValueError(f"dt = {self.step:g} is larger than tau = {self.tau:g}; choose dt <= tau")

    @property
    def free_points(self):
        """Time points of the free phase, with the initial state; the Gaussian form is at rest at once."""
        return 1 if self.form == "gaussian" else self.free_steps + 1

    @property
    def time_points(self):
        """T of both phases, one after the other."""
        return self.free_points + self.nudged_steps

    @property
    def noisy(self):
        """True if there is noise."""
        return False

    @property
    def gain(self):
        """dt / tau."""
        return 1.0 if self.form == "prototypical" else self.step / self.tau

    @property
    def step(self):
        """dt, 0.1 where it is left out."""
        return 0.1 if self.dt is None else self.dt


@dataclass(frozen=True)
class FreeState(Flagged):
    """The end of the free phase; lists over the layers, (B, n_i) in float64.

    Attributes:
        states: s_i or u_i. rates: phi of it (prototypical: the same). drives: W_i r_{i-1} + B_i r_{i+1} + b_i there.
        steps: (B,) steps done. settled: (B,) whether the tolerance was met; None without one.
        trajectory: list of (T, B, n_i) with all time points, or None.
        diverged: whether some number of it is not finite.
    """

    states: list
    rates: list
    drives: list
    steps: np.ndarray
    settled: np.ndarray | None
    trajectory: list | None = None


@dataclass(frozen=True)
class NudgedState(Flagged):
    """The end of a nudged phase: deviations from the free state, in the network's dtype; lists over the layers.

    Attributes:
        beta: the nudge. deviations, rate_deviations: (B, n_i) of states and rates.
        trajectory: list of (T, B, n_i) with the states at all time points, or None.
        diverged: whether some number of it is not finite.
    """

    beta: float
    deviations: list
    rate_deviations: list
    trajectory: list | None = None


@silent()
def free_phase(network, x, options, *, initial=None, record=False):
    """Relax a network with its input clamped.

    Args:
        x: inputs (B, n_0).
        initial: None for zeros, a seed or `NoiseKey` for standard normal draws, or a list of arrays (B, n_i).
        record: whether to keep all time points.

    Returns:
        `FreeState`.

    Raises:
        ValueError, TypeError: for arguments that do not fit. MemoryError: for records that do not.
    """
    phases = Phases(network, x, options, initial, record_free=record)
    phases.run(lambda shard: phases.relax(*shard))
    return phases.free()


def settled_state(network, x, options):
    """Return the `FreeState` from zeros, computed once for a minibatch: see `shared_pass`."""
    return shared_pass(lambda: free_phase(network, x, options), options, network, x)


@silent()
def nudged_phase(network, x, y, free, options, *, beta=None, steps=None, record=False):
    """Nudge a network that is in a `FreeState` of the same inputs, or in any state.

    Args:
        y: targets (B, n_L), or integer labels (B,). beta, steps: instead of the options'.

    Returns:
        `NudgedState`.

    Raises:
        ValueError, TypeError: for arguments that do not fit. MemoryError: for records that do not.
    """
    instance("options", options, EquilibriumPropagation)
    beta = options.beta if beta is None else number("beta", beta, Finite)
    steps = options.nudged_steps if steps is None else whole_number("steps", steps, CountOrZero)
    phases = Phases(network, x, options, instance("free", free, FreeState).states, y=y)
    phases.take(free)
    nudged = phases.nudges(beta, steps, record)
    phases.run(lambda shard: nudged.run(*shard))
    return nudged.result()


@dataclass(frozen=True)
class EquilibriumUpdate:
    """The change of the parameters by equilibrium propagation, per unit learning rate.

    Attributes:
        weights: list of (n_i, n_{i-1}). biases: list of (n_i,), or None. backward: list of (n_i, n_{i+1}), or None.
        free: the `FreeState`. nudged: the `NudgedState`s, -beta first if there are two.
        trajectory: an `EquilibriumTrajectory`, if one was recorded.
    """

    weights: list
    biases: list | None
    backward: list | None
    free: FreeState
    nudged: tuple
    trajectory: object = None

    @property
    def diverged(self):
        """(B,) samples that did not settle, or are not finite; None without a tolerance where all are finite."""
        parts = [part for nudged in self.nudged for part in (nudged.deviations, nudged.rate_deviations)]
        finite = finite_samples(len(self.free.steps), self.free.states, self.free.drives, *parts)
        lost = lost_samples(finite, self.weights, self.biases, self.backward)
        if self.free.settled is not None:
            return lost | ~self.free.settled
        return lost if lost.any() else None


@silent()
def equilibrium_update(network, x, y, options, *, initial=None, free=None):
    """Return the update of weights and biases by equilibrium propagation: minus the loss's gradient as beta -> 0.

    Vector field: Delta W_i = 1/D mean [delta s_i s_{i-1}^T], Delta B_i = 1/D mean [delta s_i s_{i+1}^T] with the free s.

    Args:
        x: inputs (B, n_0). y: targets (B, n_L), or integer labels (B,). initial: as for `free_phase`.
        free: a `FreeState` to start from, such as one by `equilibrium_newton.free_equilibrium`.

    Returns:
        `EquilibriumUpdate`. A sample that did not settle, or whose states are not finite, has its part in the update; see
        `free.settled`.

    Raises:
        ValueError, TypeError: for arguments that do not fit.
    """
    if free is not None:
        initial = instance("free", free, FreeState).states
    phases = Phases(network, x, options, initial, y=y)
    if free is not None:
        phases.take(free)
    betas = [options.beta] if options.sides == 1 else [-options.beta, options.beta]
    nudged = [phases.nudges(beta, options.nudged_steps, False) for beta in betas]

    def run(shard):
        if free is None:
            phases.relax(*shard)
        for part in nudged:
            part.run(*shard)

    phases.run(run)
    free = phases.free() if free is None else free
    nudged = tuple(part.result() for part in nudged)
    return EquilibriumUpdate(*contrast(network, x, options, free, nudged), free, nudged)


def contrast(network, x, options, free, nudged):
    """Return (weights, biases, backward) of the update that follows from the states of both phases."""
    dtype, count = network.dtype, len(x)
    width = nudged[-1].beta - (nudged[0].beta if len(nudged) == 2 else 0.0)
    x = np.asarray(x, dtype)
    with threads.one_thread():
        if options.form == "gaussian":
            return (*_gaussian_contrast(network, x, free, nudged, 1.0 / (width * count)), None)
        rates = [rate.astype(dtype) for rate in free.rates]
        if len(nudged) == 1:
            change = nudged[0].rate_deviations
            middle = [rate + 0.5 * d for rate, d in zip(rates, change, strict=True)]
        else:
            pairs = list(zip(nudged[0].rate_deviations, nudged[1].rate_deviations, strict=True))
            change = [second - first for first, second in pairs]
            middle = [rate + 0.5 * (a + b) for rate, (a, b) in zip(rates, pairs, strict=True)]
        scale = dtype.type(1.0 / (width * count))
        change = [scale * d for d in change]
        biases = None if network.biases is None else [d.sum(axis=0) for d in change]
        if options.backward == "separate" and not options.same_update:
            below, above = [x, *rates[:-1]], rates[1:]
            weights = [d.T @ r for d, r in zip(change, below, strict=True)]
            return weights, biases, [d.T @ r for d, r in zip(change, above, strict=False)]
        weights = [change[0].T @ x]
        for i in range(1, len(change)):
            weights.append(change[i].T @ middle[i - 1] + middle[i].T @ change[i - 1])
        backward = [np.ascontiguousarray(w.T) for w in weights[1:]] if options.same_update else None
        return weights, biases, backward


def _gaussian_contrast(network, x, free, nudged, scale):
    """Return the update 2/D mean [e_i r_{i-1}^T]; the errors e_i are 0 in the free state."""
    weights = [np.zeros_like(w) for w in network.weights]
    biases = [np.zeros(n, network.dtype) for n in network.sizes[1:]]
    signs = [1.0] if len(nudged) == 1 else [-1.0, 1.0]
    for sign, part in zip(signs, nudged, strict=True):
        rates = [rate.astype(network.dtype) for rate in free.rates]
        below = [x, *[r + d for r, d in zip(rates, part.rate_deviations[:-1], strict=False)]]
        for i, d in enumerate(part.deviations):
            error = d if i == 0 else d - part.rate_deviations[i - 1] @ network.weights[i].T
            error = network.dtype.type(2.0 * sign * scale) * error
            weights[i] += error.T @ below[i]
            biases[i] += error.sum(axis=0)
    return weights, None if network.biases is None else biases


# --- phases of a minibatch ------------------------------------------------------------------------------------------------


class Phases:
    """Both phases of one minibatch: the network in packed form, and the arrays that its shards write to."""

    def __init__(self, network, x, options, initial=None, *, y=None, record_free=False):
        instance("network", network, Network)
        instance("options", options, EquilibriumPropagation)
        x = samples("x", x, network.sizes[0])
        if options.backward == "separate" and (
            network.backward is None or len(network.backward) != len(network.weights) - 1
        ):
            raise ValueError(
                "backward = 'separate' needs network.backward, a list with a matrix (n_i, n_{i+1}) for each hidden layer"
            )
        self.network, self.options, self.count = network, options, len(x)
        self.places = layout(network.sizes, np.float64)
        self.wide = _packed(network, options, np.float64)
        self.narrow = self.wide if network.dtype == np.float64 else _packed(network, options, network.dtype)
        self.x = padded_rows(x, self.places.stride[0], np.float64)
        total = self.count * self.places.dense[-1]
        self.state, self.drive = self._initial(initial, total), np.zeros(total)
        self.steps = np.zeros(self.count, np.int64)
        self.records = self._records(options.free_points - 1, record_free)
        self.shards = threads.shards(self.count)
        self.target = None if y is None else self._target(y)

    def run(self, function):
        """Call function(shard) for all shards, on threads; shard: (first, rows)."""
        products = sum(w.size for w in self.network.weights)
        work = 4.0 * self.count * products * (self.options.free_steps + self.options.nudged_steps)
        threads.run(len(self.shards), lambda k: function(self.shards[k]), work=work)

    def relax(self, first, rows):
        """Run the free phase of a shard."""
        tolerance = -1.0 if self.options.tolerance is None else self.options.tolerance
        kernel.free_phase(
            self.wide, self.options.gain, self.options.free_steps, tolerance, self.x, self.state, self.drive,
            self.steps, self.records, first, rows, self.count,
        )  # fmt: skip

    def take(self, free):
        """Start from a free state."""
        self.drive = _flat(free.drives)

    def free(self):
        """Return the `FreeState`."""
        steps = self.options.free_points - 1
        states, drives = self._views(self.state), self._views(self.drive)
        settled = None if self.options.tolerance is None else self.steps <= steps
        trajectory = self._views(self.records, steps + 1) if self.records.size else None
        if trajectory and settled is not None:
            for sample, last in enumerate(
                self.steps
            ):  # stays where it has settled; others of its shard continue
                for points, state in zip(trajectory, states, strict=True):
                    points[last:, sample] = state[sample]
        rates = states if self.options.form == "prototypical" else [rate_of(self.options, u) for u in states]
        return FreeState(states, rates, drives, np.minimum(self.steps, steps), settled, trajectory)

    def nudges(self, beta, steps, record):
        """Prepare a nudged phase of this minibatch."""
        if self.target is None:
            raise TypeError("y is None; targets (B, n_L) or labels (B,) are needed to nudge a network")
        return _Nudges(self, beta, steps, record)

    def _views(self, flat, times=None):
        return dense_views(flat, self.count, self.network.sizes, times)

    def _records(self, steps, wanted):
        if not wanted:
            return np.zeros(0)
        size = (steps + 1) * self.count * int(self.places.dense[-1])
        memory.require(8 * size, "the trajectory of the phase", "record fewer samples or steps")
        return np.zeros(size)

    def _initial(self, initial, total):
        sizes = self.network.sizes[1:]
        if initial is None:
            return np.zeros(total)
        key = as_key(initial)
        if key is not None:
            return _flat(keyed_states(key, self.count, sizes))
        return _flat(float_list("initial", initial, [(self.count, n) for n in sizes]))

    def _target(self, y):
        y = as_targets(y, self.network.sizes[-1], count=self.count)
        low, high = BOUNDS.get(self.options.nonlinearity, (-np.inf, np.inf))
        if (
            self.options.form == "prototypical"
            and self.options.loss == "mse"
            and not ((y >= low).all() and (y <= high).all())
        ):
            raise ValueError(
                f"targets range from {y.min():g} to {y.max():g}, but rates of {self.options.nonlinearity!r} from {low:g} to "
                f"{high:g}: the nudge would drive them out of range; rescale the targets or choose another nonlinearity"
            )
        return np.ascontiguousarray(y)


class _Nudges:
    """One nudged phase: its nudge, and the arrays that its shards write to."""

    def __init__(self, phases, beta, steps, record):
        total, dtype = len(phases.state), phases.network.dtype
        self.phases, self.beta, self.steps = phases, float(beta), steps
        self.deviations, self.rate_deviations = np.zeros(total, dtype), np.zeros(total, dtype)
        self.records = phases._records(steps, record)

    def run(self, first, rows):
        phases = self.phases
        dtype = phases.network.dtype
        kernel.nudged_phase(
            phases.narrow, phases.wide, dtype.type(phases.options.gain), self.steps, self.beta,
            LOSSES_OF_KERNEL[phases.options.loss], ARGUMENT_LIMIT[dtype.itemsize], phases.state, phases.drive,
            phases.target, self.deviations, self.rate_deviations, self.records, first, rows, phases.count,
        )  # fmt: skip

    def result(self):
        """Return the `NudgedState`."""
        views = self.phases._views
        trajectory = views(self.records, self.steps + 1) if self.records.size else None
        return NudgedState(self.beta, views(self.deviations), views(self.rate_deviations), trajectory)


def keyed_states(key, count, sizes):
    """Return standard normal draws for every unit of `count` samples: list of (B, n) for the layers 1, 2, ..."""
    draws = [np.zeros((1, count, n)) for n in sizes]
    for i, out in enumerate(draws, 1):
        keyed_draws(out, key.word(), np.ones(1, np.uint64), key.numbers(count), i)
    return [out[0] for out in draws]


LOSSES_OF_KERNEL = {"mse": kernel.SQUARED_ERROR, "cross_entropy": kernel.CROSS_ENTROPY}


def _packed(network, options, dtype):
    places = layout(network.sizes, dtype)
    depth = len(network.weights)
    codes = [NONLINEARITIES[options.nonlinearity]] * depth
    if options.form == "prototypical" and options.loss == "cross_entropy":
        codes[-1] = NONLINEARITIES["linear"]
    families = np.array([0] + [family for family, _ in codes])
    numbers = np.array([(0.0,) * 4] + [values for _, values in codes], dtype)
    above = network.backward if options.backward == "separate" else [w.T for w in network.weights[1:]]
    biases = np.zeros(places.dense[-1]) if network.biases is None else np.concatenate(network.biases)
    return kernel.Model(
        places,
        FORMS[options.form],
        families,
        numbers,
        pack(network.weights, places.stride[1:], dtype),
        pack(above, places.stride[1:-1], dtype, out=np.zeros(max(1, places.transposed[-1]), dtype)),
        biases.astype(dtype),
    )


def _flat(arrays):
    return np.concatenate([np.asarray(array, np.float64).ravel() for array in arrays])
