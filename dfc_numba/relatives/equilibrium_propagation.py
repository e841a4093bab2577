"""Equilibrium propagation: a network settles, is nudged towards its target, and learns from the difference.

    free phase    states relax with the input clamped                     (Scellier & Bengio 2017, arXiv:1602.05179)
    nudged phase  from there, with beta C added to the energy, or beta (y - output) to the output's drive
    update        Delta W_i = 1/D mean_b [r_i r_{i-1}^T (second) - r_i r_{i-1}^T (first)]

One-sided: free and +beta states, D = beta. Two-sided: -beta and +beta, D = 2 beta, whose bias is of second order in beta
(Laborieux et al. 2021, arXiv:2006.03824). Vector field: backward weights B_i of their own (Scellier et al. 2018,
arXiv:1808.04873). `kernels/equilibrium_phases.py` has the dynamics of the three forms.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from dfc_numba.kernels import equilibrium_phases as kernel
from dfc_numba.kernels.draws import keyed_draws
from dfc_numba.kernels.equilibrium_units import NONLINEARITIES
from dfc_numba.kernels.forms import ARGUMENT_LIMIT
from dfc_numba.kernels.free_phase import GAUSSIAN, HOPFIELD, PROTOTYPICAL, Model, Relaxation
from dfc_numba.kernels.layout import dense_views, layout, pack, padded_rows
from dfc_numba.model.network import Network
from dfc_numba.model.noise_key import as_key
from dfc_numba.model.shared_passes import shared_pass
from dfc_numba.model.targets import as_targets
from dfc_numba.relatives.equilibrium_contrast import contrast, usable
from dfc_numba.relatives.equilibrium_energy import rate_of
from dfc_numba.relatives.finiteness import Flagged, lost_samples
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

FORMS = {"prototypical": PROTOTYPICAL, "hopfield": HOPFIELD, "gaussian": GAUSSIAN}
RESTORING = {
    "hopfield": 1.0,
    "gaussian": 2.0,
}  # rate, times tau, at which an output unit returns to rest without a nudge
MOVING = 0.05  # speed, change of a state in a step over dt / tau, above which a sample still moves
GROWING = 1e-4  # part of the deviation by which it grows in a step that counts as growth
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
        steps: (B,) steps done. settled: (B,) whether the tolerance was met; None without one. The Gaussian form starts at rest.
        trajectory: list of (T, B, n_i) with all time points, or None.
        speeds: (B,) largest change of a state in the last step, divided by dt / tau; None if it was not simulated.
        diverged: whether some number of it is not finite.
    """

    states: list
    rates: list
    drives: list
    steps: np.ndarray
    settled: np.ndarray | None
    trajectory: list | None = None
    speeds: np.ndarray | None = None

    @property
    def moving(self):
        """(B,) samples not settled: by the tolerance, or without one, faster than `MOVING` at the end; None if unknown."""
        if self.settled is not None:
            return ~self.settled
        return None if self.speeds is None else ~(self.speeds <= MOVING)


@dataclass(frozen=True)
class NudgedState(Flagged):
    """The end of a nudged phase: deviations from the free state, in the network's dtype; lists over the layers.

    Attributes:
        beta: the nudge. deviations, rate_deviations: (B, n_i) of states and rates.
        trajectory: list of (T, B, n_i) with the states at all time points, or None.
        growing: (B,) samples of the energy forms whose last five steps each are longer than the one before, and the last than
            1e-4 of the deviation: steps down an energy shorten on the way to its minimum. None if it is not known.
        diverged: whether some number of it is not finite.
    """

    beta: float
    deviations: list
    rate_deviations: list
    trajectory: list | None = None
    growing: np.ndarray | None = None


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
    phases = Phases(network, x, options, initial, record=record)
    phases.run()
    return phases.free_state()


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
    free = instance("free", free, FreeState)
    phases = Phases(network, x, options, free=free, y=y, betas=[beta], steps=steps, record=record)
    phases.run()
    return phases.nudged_states()[0]


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
        """(B,) samples that still move after the free phase, are still driven away by a nudge, or are not finite.

        None where neither is known and all are finite.
        """
        flags = lost_samples(usable(self.free, self.nudged), self.weights, self.biases, self.backward)
        known = [
            flag for flag in (self.free.moving, *(part.growing for part in self.nudged)) if flag is not None
        ]
        return np.any([flags, *known], axis=0) if known or flags.any() else None


@silent()
def equilibrium_update(network, x, y, options, *, initial=None, free=None):
    """Return the update of weights and biases by equilibrium propagation: minus the loss's gradient as beta -> 0.

    Vector field: Delta W_i = 1/D mean [delta s_i s_{i-1}^T], Delta B_i = 1/D mean [delta s_i s_{i+1}^T] with the free s.

    Args:
        x: inputs (B, n_0). y: targets (B, n_L), or integer labels (B,). initial: as for `free_phase`.
        free: a `FreeState` of these inputs to start from, as `free_phase` returns it.

    Returns:
        `EquilibriumUpdate`. A sample that did not settle, or that a nudge drives away, has its part in the update, one whose
        states are not finite has none; `diverged` flags them all.

    Raises:
        ValueError, TypeError: for arguments that do not fit, and a nudge that dt cannot carry (see `check_nudge`).
    """
    betas = [options.beta] if options.sides == 1 else [-options.beta, options.beta]
    phases = Phases(network, x, options, initial, free=free, y=y, betas=betas, steps=options.nudged_steps)
    phases.run()
    free, nudged = phases.free_state(), phases.nudged_states()
    return EquilibriumUpdate(*contrast(network, x, options, free, nudged), free, nudged)


# --- phases of a minibatch ------------------------------------------------------------------------------------------------


class Phases:
    """The phases of one minibatch: the network in packed form, and the arrays that its shards write to.

    Args:
        initial: as for `free_phase`. free: a `FreeState` to nudge from; None runs the free phase.
        y, betas, steps: targets, and the nudged phases. record: whether to keep all time points.
    """

    def __init__(
        self, network, x, options, initial=None, *, free=None, y=None, betas=(), steps=0, record=False
    ):
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
        self.given = None if free is None else instance("free", free, FreeState)
        self.places = layout(network.sizes, np.float64)
        self.wide = _packed(network, options, np.float64)
        self.narrow = self.wide if network.dtype == np.float64 else _packed(network, options, network.dtype)
        self.x = padded_rows(x, self.places.stride[0], np.float64)
        self.state = self._initial(initial if free is None else free.states)
        self.drive = np.zeros_like(self.state) if free is None else _flat(free.drives)
        self.relaxation = self._relaxation(record and free is None)
        self.nudging = self._nudging(y, betas, steps, record)
        self.shards = threads.shards(self.count)

    def run(self):
        """Run the phases of all shards, on threads."""

        def run(shard):
            first, rows = self.shards[shard]
            kernel.phases(
                self.wide, self.relaxation, self.narrow, self.nudging, self.x, self.state, self.drive,
                first, rows, self.count,
            )  # fmt: skip

        products = sum(w.size for w in self.network.weights)
        work = 4.0 * self.count * products * (self.options.free_steps + self.options.nudged_steps)
        threads.run(len(self.shards), run, work=work)

    def free_state(self):
        """Return the `FreeState` that is given, or reached."""
        if self.given is not None:
            return self.given
        steps, counts = self.relaxation.steps, self.relaxation.counts
        states, drives = self._views(self.state), self._views(self.drive)
        settled = None if self.options.tolerance is None else counts <= steps
        trajectory = self._trajectory(self.relaxation.records, steps)
        if (
            trajectory and settled is not None
        ):  # a sample stays where it has settled; others of its shard continue
            for sample, last in enumerate(counts):
                for points, state in zip(trajectory, states, strict=True):
                    points[last:, sample] = state[sample]
        rates = states if self.options.form == "prototypical" else [rate_of(self.options, u) for u in states]
        done = np.minimum(counts, steps)
        return FreeState(states, rates, drives, done, settled, trajectory, self.relaxation.speeds)

    def nudged_states(self):
        """Return the `NudgedState`s, one for each nudge."""
        nudging, growing = self.nudging, self._growing()
        return tuple(
            NudgedState(
                float(beta),
                self._views(nudging.deviations[k]),
                self._views(nudging.rate_deviations[k]),
                self._trajectory(nudging.records[k], nudging.steps),
                None if growing is None else growing[k],
            )
            for k, beta in enumerate(nudging.betas)
        )

    def _relaxation(self, record):
        """Return the kernel's `Relaxation`; its steps are negative where a free state is given."""
        tolerance = -1.0 if self.options.tolerance is None else self.options.tolerance
        steps = -1 if self.given is not None else self.options.free_points - 1
        counts, speeds = np.zeros(self.count, np.int64), np.zeros(self.count)
        records = np.zeros(self._size_of_records(steps) if record else 0)
        return Relaxation(float(self.options.gain), steps, float(tolerance), counts, speeds, records)

    def _nudging(self, y, betas, steps, record):
        """Return the kernel's `Nudging`."""
        dtype, nudges = self.network.dtype, len(betas)
        if y is None and nudges:
            raise TypeError("y is None; targets (B, n_L) or labels (B,) are needed to nudge a network")
        for beta in betas:
            check_nudge(self.options, beta)
        return kernel.Nudging(
            dtype.type(self.options.gain),
            steps,
            np.array(betas, np.float64),
            LOSSES_OF_KERNEL[self.options.loss],
            ARGUMENT_LIMIT[dtype.itemsize],
            np.zeros((0, 0)) if y is None else self._target(y),
            np.zeros((nudges, len(self.state)), dtype),
            np.zeros((nudges, len(self.state)), dtype),
            np.zeros((nudges, self.count, kernel.WATCHED + 1)),
            np.zeros((nudges, self._size_of_records(steps) if record and nudges else 0)),
        )

    def _growing(self):
        """Return which samples each nudge still drives away; steps down an energy shorten on the way to its minimum."""
        if self.options.form not in RESTORING:
            return None
        steps, lengths = self.nudging.steps, self.nudging.lengths
        last, distance = lengths[..., -2], lengths[..., -1]
        watched = lengths[..., -1 - min(steps, kernel.WATCHED) : -1]
        longer = (np.diff(watched) > 0).all(axis=-1) & (last > GROWING * distance) & (steps > 1)
        return longer | ~np.isfinite(last)

    def _views(self, flat, times=None):
        return dense_views(flat, self.count, self.network.sizes, times)

    def _trajectory(self, records, steps):
        return self._views(records, steps + 1) if records.size else None

    def _size_of_records(self, steps):
        size = (steps + 1) * len(self.state)
        memory.require(8 * size, "the trajectory of the phase", "record fewer samples or steps")
        return size

    def _initial(self, initial):
        sizes = self.network.sizes[1:]
        if initial is None:
            return np.zeros(self.count * int(self.places.dense[-1]))
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


def keyed_states(key, count, sizes):
    """Return standard normal draws for every unit of `count` samples: list of (B, n) for the layers 1, 2, ..."""
    draws = [np.zeros((1, count, n)) for n in sizes]
    for i, out in enumerate(draws, 1):
        keyed_draws(out, key.word(), np.ones(1, np.uint64), key.numbers(count), i)
    return [out[0] for out in draws]


def check_nudge(options, beta):
    """Refuse a nudge under which Euler steps of the output grow, in the energy forms with a squared error.

    With its drive fixed, a step multiplies the distance of an output u_L from rest by 1 - (dt/tau)(1 + beta) (Hopfield:
    tau du/dt = -u + beta (y - u) + ...) or 1 - (dt/tau)(2 + beta) (Gaussian: -2 e + beta (y - u) + ...). Below -1 it
    oscillates and grows. A cross-entropy pulls by beta at most. A negative beta of that size repels as fast.

    Raises:
        ValueError: where (dt/tau)(1 + |beta|), or (dt/tau)(2 + |beta|), is above 2.
    """
    if options.form not in RESTORING or options.loss != "mse":
        return
    rate = RESTORING[options.form] + abs(beta)
    if options.gain * rate <= 2.0 * (1.0 + 1e-12):
        return
    largest = 2.0 / options.gain - RESTORING[options.form]
    smaller = f", or |beta| <= {_rounded_down(largest)}" if largest > 0 else ""
    raise ValueError(
        f"beta = {beta:g} with dt = {options.step:g}, tau = {options.tau:g} and form = {options.form!r}: (dt / tau) "
        f"({RESTORING[options.form]:g} + |beta|) = {options.gain * rate:g} is above 2, so that every Euler step drives the "
        f"output further out of range; choose dt <= {_rounded_down(2.0 * options.tau / rate)}{smaller}"
    )


def _rounded_down(value):
    """Return a positive number as text with three digits, rounded down."""
    unit = 10.0 ** (np.floor(np.log10(value)) - 2)
    return f"{np.floor(value / unit * (1.0 + 1e-12)) * unit:.3g}"


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
    return Model(
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
