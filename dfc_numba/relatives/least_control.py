"""The least-control principle: reach the target with the least control, and learn so that less is needed.

    v* = f(v*, x) + e*,   o* = D phi(v*) + c + u*;   minimise |e*|^2 + |u*|^2 subject to a small loss: Delta W ~ e* phi(v*)^T

(Meulemans, Zucchet et al. 2022, arXiv:2207.01332). f is W phi(v) + U x + b, with dense W (`RecurrentNetwork`) or layer by
layer (`Network`, whose last layer is the readout). The control e comes from the output's u by one of

    di   e += (dt/tau_e) (-e + phi'(v) (W^T e + D^T u))      dynamic inversion; at rest e* = J^T u* for feedforward networks
    kp   the same with learned S, D~ for W^T, D^T            Kolen and Pollack: both sides of a pair get the same update
    lf   e = Q u                                             linear feedback, Q learned from noise

and u = k_i u_int - k_p dl/do, u_int += (dt/tau_u) (-dl/do - alpha u_int). l is the MEAN loss of the minibatch, so that a
sample's leak is alpha B; its gradients are sums over samples. All states step at once, from the states before.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from dfc_numba.model.activations import phi, phi_prime
from dfc_numba.model.network import Network
from dfc_numba.model.targets import as_targets, loss_gradient
from dfc_numba.registry import ACTIVATIONS
from dfc_numba.relatives.finiteness import Convergence, finite_samples
from dfc_numba.steady.transposed import extrapolated
from dfc_numba.support import memory, threads
from dfc_numba.support.options import options
from dfc_numba.support.ranges import (
    Count,
    Gain,
    NotNegative,
    Passes,
    PositiveLeak,
    PositiveSigma,
    PositiveTolerance,
    Slowdown,
    Steps,
    TimeConstant,
    TimeStep,
    Tolerance,
)
from dfc_numba.support.validation import float_list, floats, instance, number, samples, seeds, whole_number


@options
class LeastControl:
    """Options of least control.

    Args:
        rule: "di", "kp" or "lf", see the module.
        dt, steps: Euler step, and how many at most. tau_v, tau_u, tau_e: time constants of v and o, u_int, e.
        k_i, k_p, alpha: gains and leak of the controller. loss: "mse" (mean over samples and outputs) or "cross_entropy".
        tolerance: the phase ends when no sample's states change by more than `tolerance * dt`, relative; 0: never.
        sigma, speed, tau_noise, tau_q, decay: of the noisy phase by which "lf" learns Q: noise in v, how many times slower
            than it the output and the controller are (s), time constants of the noise and of Q, and Q's weight decay.

    Raises:
        ValueError: for an unknown option, or a value out of range.
    """

    rule: Literal["di", "kp", "lf"] = "di"
    dt: TimeStep = 1.0
    steps: Steps = 800
    tau_v: TimeConstant = 1.0
    tau_u: TimeConstant = 1.0
    tau_e: TimeConstant = 1.0
    k_i: Gain = 1.0
    k_p: Gain = 0.0
    alpha: PositiveLeak = 0.1
    loss: Literal["mse", "cross_entropy"] = "cross_entropy"
    tolerance: Tolerance = 1e-6
    sigma: PositiveSigma = 0.01
    speed: Slowdown = 5.0
    tau_noise: TimeConstant = 1.0
    tau_q: TimeConstant = 1e5
    decay: NotNegative = 0.01

    def __post_init__(self):
        for name in ("tau_v", "tau_u", "tau_e"):
            if self.dt > getattr(self, name):
                raise ValueError(
                    f"dt = {self.dt:g} is larger than {name} = {getattr(self, name):g}; choose dt <= {name}"
                )
        if self.k_i == 0.0 and self.k_p == 0.0:
            raise ValueError("k_i = k_p = 0 exerts no control; set k_i > 0")

    @property
    def rest_gain(self):
        """u* / (-dl/do) at rest: k_i / alpha + k_p."""
        return self.k_i / self.alpha + self.k_p


@dataclass
class RecurrentNetwork:
    """One recurrent layer at equilibrium with a linear readout: v = W phi(v) + b_rec + U x + b_in, o = D phi(v) + c.

    Attributes:
        input_weights: U (n, n_0). weights: W (n, n). output_weights: D (n_L, n).
        input_biases, biases: (n,), which act alike. output_biases: c (n_L,).
        activation: name of phi.
    """

    input_weights: np.ndarray
    weights: np.ndarray
    output_weights: np.ndarray
    input_biases: np.ndarray
    biases: np.ndarray
    output_biases: np.ndarray
    activation: str = "tanh"

    def __post_init__(self):
        n, inputs = floats("input_weights", self.input_weights, (None, None)).shape
        outputs = len(floats("output_weights", self.output_weights, (None, n)))
        shapes = {
            "input_weights": (n, inputs), "weights": (n, n), "output_weights": (outputs, n),
            "input_biases": (n,), "biases": (n,), "output_biases": (outputs,),
        }  # fmt: skip
        for name, shape in shapes.items():
            setattr(self, name, floats(name, getattr(self, name), shape).copy())
        ACTIVATIONS.find(self.activation, key="activation")

    @classmethod
    def create(cls, sizes, *, activation="tanh", seed=0):
        """Return a network of `sizes` [n_0, n, n_L], weights and biases uniform in +- 1 / sqrt(number of inputs)."""
        if not isinstance(sizes, list | tuple) or len(sizes) != 3:
            raise ValueError(f"sizes is {sizes!r}; [n_0, n, n_L], three whole numbers, is allowed")
        inputs, n, outputs = (whole_number(f"sizes[{i}]", size, Count) for i, size in enumerate(sizes))
        rng = np.random.default_rng(seeds("seed", seed))
        draw = lambda columns, *shape: rng.uniform(-1, 1, shape) / np.sqrt(columns)  # noqa: E731
        return cls(
            draw(inputs, n, inputs), draw(n, n, n), draw(n, outputs, n), draw(inputs, n), draw(n, n), draw(n, outputs),
            activation,
        )  # fmt: skip

    def parameters(self):
        """Return the arrays by name, to be changed in place."""
        names = ("input_weights", "weights", "output_weights", "input_biases", "biases", "output_biases")
        return {name: getattr(self, name) for name in names}


# --- systems --------------------------------------------------------------------------------------------------------------


class _Layers:
    """A feedforward `Network` as a controlled system; states are lists over the hidden layers."""

    def __init__(self, network):
        if network.output_activation != "linear":
            raise ValueError(
                f"the output activation is {network.output_activation!r}; least control reads out linearly, so it has to be "
                "'linear'"
            )
        if len(network.weights) < 2:
            raise ValueError("least control needs a network with at least one hidden layer")
        self.weights = [w.astype(np.float64) for w in network.weights]
        self.biases = [
            np.zeros(n) if network.biases is None else b.astype(np.float64)
            for n, b in zip(network.sizes[1:], network.biases or network.sizes[1:], strict=True)
        ]
        self.activations, self.sizes = network.hidden_activations, network.sizes[1:-1]
        self.inputs, self.outputs = network.sizes[0], network.sizes[-1]

    def begin(self, x):
        """Take the inputs, whose contribution does not change."""
        self.still = x @ self.weights[0].T + self.biases[0]

    def drive(self, rates):
        """Return f of all hidden layers."""
        above = zip(self.weights[1:-1], self.biases[1:-1], rates, strict=False)
        return [self.still] + [r @ w.T + b for w, b, r in above]

    def output(self, rates):
        return rates[-1] @ self.weights[-1].T + self.biases[-1]

    def back(self, e, u, transposed=None):
        """Return W^T e (and D^T u) of all hidden layers; transposed: learned matrices in place of W_2^T .. W_L^T."""
        matrices = [w.T for w in self.weights[1:]] if transposed is None else transposed
        return [above @ m.T for above, m in zip([*e[1:], u], matrices, strict=True)]

    def transposed_shapes(self):
        return [w.T.shape for w in self.weights[1:]]


class _Recurrent:
    """A `RecurrentNetwork` as a controlled system; states are lists of one array."""

    def __init__(self, network):
        self.network, self.activations = network, (network.activation,)
        self.sizes = (network.weights.shape[0],)
        self.inputs, self.outputs = network.input_weights.shape[1], len(network.output_weights)

    def begin(self, x):
        net = self.network
        self.still = x @ net.input_weights.T + net.input_biases + net.biases

    def drive(self, rates):
        return [rates[0] @ self.network.weights.T + self.still]

    def output(self, rates):
        return rates[0] @ self.network.output_weights.T + self.network.output_biases

    def back(self, e, u, transposed=None):
        net = self.network
        s, d = (net.weights.T, net.output_weights.T) if transposed is None else transposed
        return [e[0] @ s.T + u @ d.T]

    def transposed_shapes(self):
        return [self.network.weights.T.shape, self.network.output_weights.T.shape]


def system_of(network):
    if isinstance(network, RecurrentNetwork):
        return _Recurrent(network)
    return _Layers(instance("network", network, Network))


# --- phases ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Controlled:
    """The end of a controlled phase; lists over the hidden layers (one for a recurrent network), (B, n_i) in float64.

    Attributes:
        v, e, o, u_int: the last states. u: u* = k_i u_int - k_p dl/do there.
        next_v, output: f(v) + e and D phi(f(v) + e) + c + u, what v and o have come to at rest.
        steps: steps done. converged: (B,) whether a sample's last change was below the tolerance; None for tolerance 0.
        finite: (B,) False for samples that have run away (see `Convergence`; their states are the last before that), or some
            number of which is not finite.
        trajectory: dict of lists or arrays with all time points, (T, B, n), or None.
    """

    v: list
    e: list
    o: np.ndarray
    u_int: np.ndarray
    u: np.ndarray
    next_v: list
    output: np.ndarray
    steps: int
    converged: np.ndarray | None
    finite: np.ndarray
    trajectory: dict | None = None

    @property
    def diverged(self):
        """(B,) samples that have not come to rest."""
        return ~self.finite if self.converged is None else ~(self.finite & self.converged)


@np.errstate(over="ignore", invalid="ignore")
def controlled_phase(network, x, y, options, *, transposed=None, feedback=None, record=False):
    """Run the controlled dynamics until they rest, see the module.

    Args:
        network: a `Network` with a linear output, or a `RecurrentNetwork`.
        x: inputs (B, n_0). y: targets (B, n_L), or integer labels (B,).
        transposed: "kp": matrices in place of W_2^T .. W_L^T (recurrent: of W^T, D^T).
        feedback: "lf": Q, list of (n_i, n_L) over the hidden layers.
        record: whether to keep all time points.

    Returns:
        `Controlled`.

    Raises:
        ValueError, TypeError: for arguments that do not fit, or that the rule does not have.
        MemoryError: for records that do not fit.
    """
    system, x, y, transposed, feedback = checked(network, x, y, options, transposed, feedback)
    count, dt = len(x), options.dt
    v, e = ([np.zeros((count, n)) for n in system.sizes] for _ in range(2))
    o, u_int = np.zeros((count, system.outputs)), np.zeros((count, system.outputs))
    trajectory = _trajectory(system, count, options.steps, record)
    convergence = Convergence(count, options.tolerance * dt)
    with threads.one_thread():
        system.begin(x)
        for steps in range(1, options.steps + 1):
            rates = rates_of(system, v)
            downhill = -loss_gradient(o, y, options.loss)
            u = options.k_i * u_int + options.k_p * downhill
            if options.rule == "lf":
                new_e = [u @ q.T for q in feedback]
                control = new_e
            else:
                back = system.back(e, u, transposed)
                new_e = [
                    a + dt / options.tau_e * (s * b - a)
                    for a, s, b in zip(e, slopes_of(system, v), back, strict=True)
                ]
                control = e
            new_v = [
                a + dt / options.tau_v * (f - a + c)
                for a, f, c in zip(v, system.drive(rates), control, strict=True)
            ]
            new_o = o + dt / options.tau_v * (system.output(rates) - o + u)
            new_u = u_int + dt / options.tau_u * (downhill - options.alpha * u_int)
            states = convergence.step([*new_v, new_o, new_u, *new_e], [*v, o, u_int, *e])
            v, (o, u_int), e = states[: len(v)], states[len(v) : -len(e)], states[-len(e) :]
            _keep(trajectory, steps, v=v, e=e, o=[o], u_int=[u_int])
            if convergence.over:
                break
        u = options.k_i * u_int - options.k_p * loss_gradient(o, y, options.loss)
        next_v = [f + control for f, control in zip(system.drive(rates_of(system, v)), e, strict=True)]
        output = system.output(rates_of(system, next_v)) + u
    converged = convergence.resting if options.tolerance else None
    finite = convergence.running & finite_samples(count, v, e, o, u_int, u, next_v, output)
    return Controlled(v, e, o, u_int, u, next_v, output, steps, converged, finite, trajectory)


@dataclass(frozen=True)
class Free:
    """The end of a phase without control; lists over the hidden layers, (B, n_i) in float64.

    Attributes:
        v: the last voltages. output: D phi(v) + c. steps: steps done.
        converged: (B,) whether a sample's last change was below the tolerance; all False for tolerance 0.
        finite: (B,) as in `Controlled`.
    """

    v: list
    output: np.ndarray
    steps: int
    converged: np.ndarray
    finite: np.ndarray


@np.errstate(over="ignore", invalid="ignore")
def free_equilibrium(network, x, options):
    """Bring a network to rest without control, v += (dt/tau_v) (f(v, x) - v) from 0, by the stopping rule of the phase.

    Returns:
        `Free`. A sample that did not converge has no equilibrium there, or needs more steps.
    """
    instance("options", options, LeastControl)
    system = system_of(network)
    x = samples("x", x, system.inputs)
    v, steps = [np.zeros((len(x), n)) for n in system.sizes], 0
    convergence = Convergence(len(x), options.tolerance * options.dt)
    with threads.one_thread():
        system.begin(x)
        while not convergence.over and steps < options.steps:
            steps += 1
            drive = system.drive(rates_of(system, v))
            new = [a + options.dt / options.tau_v * (f - a) for a, f in zip(v, drive, strict=True)]
            v = convergence.step(new, v)
        output = system.output(rates_of(system, v))
    finite = convergence.running & finite_samples(len(x), v, output)
    return Free(v, output, steps, convergence.resting, finite)


@np.errstate(over="ignore", invalid="ignore")
def controlled_equilibrium(network, x, y, options, *, transposed=None, tolerance=1e-10, iterations=100):
    """Find the rest of "di" and "kp" in a feedforward network by alternating passes, without simulating.

        e_i = phi'(v_i) (W_{i+1}^T e_{i+1}) from u down,  v_i = W_i phi(v_{i-1}) + b_i + e_i and o up,  u towards -gain dl/do

    A pass costs two products for each layer; u is relaxed by the secant (Anderson) step of each sample.

    Args: as for `controlled_phase`. tolerance: of u - (-gain dl/do), relative to the largest gain dl/do.

    Returns:
        `Controlled` with `converged` for each sample; `steps` counts passes.
    """
    number("tolerance", tolerance, PositiveTolerance)
    whole_number("iterations", iterations, Passes)
    system, x, y, transposed, _ = checked(network, x, y, options, transposed, None)
    if not isinstance(system, _Layers) or options.rule == "lf":
        raise ValueError(
            "passes find the rest of 'di' and 'kp' in feedforward networks; use controlled_phase"
        )
    count, gain = len(x), options.rest_gain
    v, e = None, [np.zeros((count, n)) for n in system.sizes]
    u = np.zeros((count, system.outputs))
    before, convergence = None, Convergence(count, 0.0)
    with threads.one_thread():
        system.begin(x)
        for steps in range(1, iterations + 1):
            if v is not None:
                back = u
                for i in reversed(range(len(e))):
                    matrix = system.weights[i + 1].T if transposed is None else transposed[i]
                    back = e[i] = _slope(system.activations[i], v[i]) * (back @ matrix.T)
            v, rates = [], []
            for i, control in enumerate(e):
                drive = system.still if i == 0 else rates[-1] @ system.weights[i].T + system.biases[i]
                v.append(drive + control)
                rates.append(phi(system.activations[i], v[-1]))
            o = system.output(rates) + u
            wanted = -gain * loss_gradient(o, y, options.loss)
            residual = wanted - u
            scale = np.abs(wanted).max(axis=1) + np.finfo(float).tiny
            converged = np.abs(residual).max(axis=1) <= tolerance * scale
            if converged[convergence.running].all() and steps > 2:
                break
            moved, before = extrapolated(u, residual, before)
            (u,) = convergence.step([moved], [u])
    u_int = -loss_gradient(o, y, options.loss) / options.alpha
    finite = convergence.running & finite_samples(count, v, e, o, u_int, u)
    return Controlled(v, e, o, u_int, u, v, o, steps, converged, finite)


def checked(network, x, y, options, transposed, feedback):
    instance("options", options, LeastControl)
    system = system_of(network)
    x = samples("x", x, system.inputs)
    y = as_targets(y, system.outputs, count=len(x))
    given = {"kp": transposed, "lf": feedback}
    for rule, arrays in given.items():
        name = "transposed" if rule == "kp" else "feedback"
        if (arrays is not None) != (options.rule == rule):
            raise ValueError(
                f"rule = {options.rule!r} {'needs' if options.rule == rule else 'has no'} {name}; it goes with rule = {rule!r}"
            )
    if transposed is not None:
        transposed = float_list("transposed", transposed, system.transposed_shapes())
    if feedback is not None:
        feedback = float_list("feedback", feedback, [(n, system.outputs) for n in system.sizes])
    return system, x, y, transposed, feedback


def rates_of(system, v):
    """Return phi(v)."""
    return [phi(name, u) for name, u in zip(system.activations, v, strict=True)]


def slopes_of(system, v):
    """Return phi'(v)."""
    return [_slope(name, u) for name, u in zip(system.activations, v, strict=True)]


def _slope(name, v):
    """Return phi'(v), of relu 0 at the kink, where all states start: the published dynamics open a unit by its drive first."""
    return (v > 0).astype(v.dtype) if name == "relu" else phi_prime(name, v)


def _trajectory(system, count, steps, record):
    if not record:
        return None
    widths = {"v": system.sizes, "e": system.sizes, "o": (system.outputs,), "u_int": (system.outputs,)}
    size = 8 * (steps + 1) * count * sum(map(sum, widths.values()))
    memory.require(size, "the trajectory of the phase", "record fewer samples or steps")
    return {name: [np.zeros((steps + 1, count, n)) for n in sizes] for name, sizes in widths.items()}


def _keep(trajectory, step, **states):
    for name, arrays in states.items() if trajectory is not None else ():
        for kept, array in zip(trajectory[name], arrays, strict=True):
            kept[step] = array
