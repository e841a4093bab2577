"""The oracle: a slow, plain NumPy twin of the public interface, against which the tests compare the package.

It follows the papers' equations one line at a time (DFC: Meulemans et al. 2021; Strong-DFC: Meulemans et al. 2022),
works in float64, stores every trajectory whole and shares no code with the package. Names, arguments, shapes
and signs are those of `dfc_numba`; networks and controllers of either kind are taken.
"""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np


def _bell(v):
    """The derivative of the logistic function, with all its digits also where it is tiny."""
    decay = np.exp(-np.abs(v))
    return decay / (1 + decay) ** 2


ACTIVATIONS = {
    "linear": lambda v: v,
    "tanh": np.tanh,
    "relu": lambda v: np.where(v >= 0, v, 0.0),
    "leakyrelu": lambda v: np.where(v >= 0, v, 0.2 * v),
    "sigmoid": lambda v: 1 / (1 + np.exp(-v)),
}
DERIVATIVES = {
    "linear": np.ones_like,
    "tanh": lambda v: 4 * _bell(2 * v),
    "relu": lambda v: np.where(v >= 0, 1.0, 0.0),
    "leakyrelu": lambda v: np.where(v >= 0, 1.0, 0.2),
    "sigmoid": _bell,
}


class Network:
    """Weights (n_i, n_{i-1}), biases (n_i,) or None, direct feedback weights (n_i, n_L), one activation per hidden layer."""

    def __init__(self, weights, biases=None, feedback=None, hidden_activation="tanh"):
        hidden = len(weights) - 1
        one_name = isinstance(hidden_activation, str)
        self.weights, self.biases, self.feedback = weights, biases, feedback
        self.hidden_activations = (hidden_activation,) * hidden if one_name else tuple(hidden_activation)

    def forward(self, x):
        """Voltages `.v[i]` and rates `.r[i]` of the plain feedforward pass."""
        weights, biases, _, names = _parameters(self)
        v, r, below = [], [], np.asarray(x, float)
        for i, name in enumerate(names):
            v.append(below @ weights[i].T + biases[i])
            r.append(ACTIVATIONS[name](v[i]))
            below = r[i]
        return SimpleNamespace(v=v, r=r)

    def set_feedback(self, kind):
        """Q_i = W_{i+1}^T ... W_L^T, the identity in the output layer."""
        assert kind == "weight_product"
        product = np.eye(len(self.weights[-1]))
        self.feedback = []
        for weight in reversed(self.weights):
            self.feedback.insert(0, product)
            product = weight.T @ product


@dataclass(frozen=True, kw_only=True)
class Controller:
    """The options of one feedback phase, named as those of `dfc_numba.Controller`."""

    dt: float
    steps: int
    alpha: float
    k_p: float = 0.0
    tau_v: float = 0.2
    tau_apical: float | None = None
    instant_transmission: bool = True
    instant_dynamics: bool = False
    proactive: bool = True
    error: str = "difference"
    sigma: float = 0.0
    sigma_output: float | None = None
    tau_noise: float | None = None
    tau_control: float | None = None
    jacobian_feedback: bool = False
    leak: str = "total"
    convergence_epsilon: float = 0.5


def _parameters(net):
    """Weights, biases (zero where there are none), feedback weights in float64; names of all L activations."""
    weights = [np.asarray(w, float) for w in net.weights]
    biases = net.biases or [np.zeros(len(w)) for w in weights]
    biases = [np.asarray(b, float) for b in biases]
    feedback = None if net.feedback is None else [np.asarray(q, float) for q in net.feedback]
    return weights, biases, feedback, [*net.hidden_activations, "linear"]


def _forward(net, x):
    return Network.forward(net, x)


def log_softmax(r):
    shifted = r - r.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


# ---------------------------------------------------------------------------------------- losses and targets


def mean_loss(output, y, loss):
    """Mean squared error over samples and units, or the mean cross-entropy of softmax(output)."""
    if loss == "mse":
        return np.mean((output - y) ** 2)
    return -np.mean(np.sum(y * log_softmax(output), axis=1))


def output_gradient(output, y, loss):
    """d(mean loss)/d output, (B, n_L)."""
    if loss == "mse":
        return 2 * (output - y) / output.size
    return (np.exp(log_softmax(output)) * y.sum(axis=1, keepdims=True) - y) / len(output)


def output_target(net, x, y, *, loss="mse", step=0.1):
    """r* = r_L - step B d(mean loss)/d r_L."""
    output = _forward(net, x).r[-1]
    return output - step * len(output) * output_gradient(output, y, loss)


# ---------------------------------------------------------------------------------------- Jacobians, steady state


def jacobian_blocks(net, v):
    """Blocks d r_L / d v_i, each (B, n_L, n_i), at the voltages v."""
    weights, _, _, names = _parameters(net)
    slopes = [DERIVATIVES[name](voltage)[:, None, :] for name, voltage in zip(names, v)]
    blocks = [np.eye(v[-1].shape[1]) * slopes[-1]]
    for i in reversed(range(len(v) - 1)):
        blocks.insert(0, (blocks[0] @ weights[i + 1]) * slopes[i])
    return blocks


def output_jacobian(net, x):
    """d r_L / d v at the feedforward state, (B, n_L, sum n_i)."""
    return np.concatenate(jacobian_blocks(net, _forward(net, x).v), axis=2)


def _leak(c):
    """The share of u that the error equals in equilibrium; a leak that acts on u_int alone spares k_p e."""
    return c.alpha if c.leak == "total" else c.alpha / (1 + c.alpha * c.k_p)


def steady_state(net, x, target, controller, *, method="linear"):
    """u = (J Q + alpha I)^{-1} (r* - r_L), one sweep through the layers with delta_v = Q u."""
    assert method == "linear" and controller.error == "difference"
    weights, biases, feedback, names = _parameters(net)
    start = _forward(net, x)
    jacobian = np.concatenate(jacobian_blocks(net, start.v), axis=2)
    stacked = jacobian.transpose(0, 2, 1) if controller.jacobian_feedback else np.concatenate(feedback)
    leaky = jacobian @ stacked + _leak(controller) * np.eye(target.shape[1])
    u = np.linalg.solve(leaky, (target - start.r[-1])[..., None])
    delta_v = np.split((stacked @ u)[..., 0], np.cumsum([len(w) for w in weights])[:-1], axis=1)
    v, r, below = [], [], np.asarray(x, float)
    for i, name in enumerate(names):
        v.append(below @ weights[i].T + biases[i] + delta_v[i])
        r.append(ACTIVATIONS[name](v[i]))
        below = r[i]
    return SimpleNamespace(u=u[..., 0], v=v, r=r, delta_v=delta_v)


# ---------------------------------------------------------------------------------------- the feedback phase


def simulate(net, x, target, controller, noise=None):
    """Euler steps of the controlled network; every variable at every time point, the time index first."""
    c, x, target = controller, np.asarray(x, float), np.asarray(target, float)
    weights, biases, feedback, names = _parameters(net)
    s = _initial_state(net, x, target, c)
    coloured = [np.zeros_like(v[0]) for v in s.v]
    for t in range(c.steps):
        _step_control(s, t, target, c)
        control = s.control[t + 1] if c.proactive else s.control[t]
        jacobian = jacobian_blocks(net, [v[t] for v in s.v])
        for i, name in enumerate(names):
            source = t + 1 if c.instant_transmission or c.instant_dynamics else t
            below = x if i == 0 else s.r[i - 1][source]
            s.v_ff[i][t + 1] = below @ weights[i].T + biases[i]
            drive = control @ feedback[i].T
            if c.jacobian_feedback:
                drive = np.einsum("bkn,bk->bn", jacobian[i], control)
            s.v_fb[i][t + 1] = _apical_step(s.v_fb[i][t], drive, c)
            if noise is not None:
                coloured[i] = _noise_step(coloured[i], np.asarray(noise[i][t + 1], float), c)
                s.v_fb[i][t + 1] += _sigma(c, i == len(names) - 1) * coloured[i]
            s.v[i][t + 1] = _somatic_step(s.v[i][t], s.v_fb[i][t + 1] + s.v_ff[i][t + 1], c)
            s.r[i][t + 1] = ACTIVATIONS[name](s.v[i][t + 1])
    s.error = _monitor(target, s.r[-1], c)
    s.converged, s.diverged = _outcome(s, target, c)
    return s


def _initial_state(net, x, target, c):
    """The feedforward state at time index 0, without control."""
    start, points = _forward(net, x), c.steps + 1

    def over_time(first):
        return np.concatenate([first[None], np.zeros((points - 1, *first.shape))])

    return SimpleNamespace(
        time=np.arange(points) * c.dt,
        u=np.zeros((points, *target.shape)),
        u_int=np.zeros((points, *target.shape)),
        control=np.zeros((points, *target.shape)),
        v=[over_time(v) for v in start.v],
        v_ff=[over_time(v) for v in start.v],
        v_fb=[over_time(np.zeros_like(v)) for v in start.v],
        r=[over_time(r) for r in start.r],
    )


def _step_control(s, t, target, c):
    """u_int' = e - leak, u = u_int + k_p e, and the low-pass filter on u (which starts at the first u)."""
    output = s.r[-1][t]
    e = target - (np.exp(log_softmax(output)) if c.error == "softmax" else output)
    leaking = s.u[t] if c.leak == "total" else s.u_int[t]
    s.u_int[t + 1] = s.u_int[t] + c.dt * (e - c.alpha * leaking)
    s.u[t + 1] = s.u_int[t + 1] + c.k_p * e
    filtered = c.tau_control is not None and t > 0
    share = c.dt / c.tau_control if filtered else 1.0
    s.control[t + 1] = share * s.u[t + 1] + (1 - share) * s.control[t]


def _apical_step(v_fb, drive, c):
    return drive if c.tau_apical is None else v_fb + c.dt / c.tau_apical * (drive - v_fb)


def _somatic_step(v, total_input, c):
    return total_input if c.instant_dynamics else v + c.dt / c.tau_v * (total_input - v)


def _noise_step(coloured, draw, c):
    """Unit noise that is added to the apical voltage within this step: white, or an Ornstein-Uhlenbeck process."""
    if c.tau_noise is None:
        return np.sqrt(c.dt) / (c.tau_apical or c.dt) * draw
    return np.sqrt(c.dt) / c.tau_noise * draw + (1 - c.dt / c.tau_noise) * coloured


def _sigma(c, is_output):
    return c.sigma_output if is_output and c.sigma_output is not None else c.sigma


def _monitor(target, output, c):
    """Distance from the target, or the cross-entropy for the softmax error."""
    if c.error == "softmax":
        return -np.sum(target * log_softmax(output), axis=-1)
    return np.linalg.norm(target - output, axis=-1)


def _outcome(s, target, c):
    """Which samples have converged and which have diverged."""
    with np.errstate(divide="ignore", invalid="ignore"):
        residual = _monitor(target - _leak(c) * s.u[-1], s.r[-1][-1], c) / np.linalg.norm(s.r[-1][0], axis=1)
    improved = s.error[-1] < c.convergence_epsilon**2 * s.error[0]
    return (residual < 1e-5) & improved, residual > 1


# ---------------------------------------------------------------------------------------- plasticity


def forward_update(
    net, x, target, controller, *, readout="average", rule="nonlinear_difference", samples="all", noise=None
):
    """The update of the forward weights and biases per unit learning rate."""
    if readout == "analytic":
        return _analytic_update(net, x, target, controller, rule)
    return _simulated_update(net, x, simulate(net, x, target, controller, noise), readout, rule, samples)


def _simulated_update(net, x, s, readout, rule, samples):
    keep = s.converged if samples == "converged" else np.ones_like(s.converged)
    x_over_time = np.broadcast_to(np.asarray(x, float), (len(s.time), *np.shape(x)))
    below = [x_over_time, *s.r[:-1]]
    if readout == "final":
        below, points = [r[-1:] for r in below], slice(-1, None)
    else:
        points = slice(None)
    post = []
    for i in range(len(s.v)):
        v, v_ff = s.v[i][points], s.v_ff[i][points]
        if readout == "final":
            v_ff = _basal(net, i, below[i])
            v = v_ff + (s.v[i][-1:] - s.v_ff[i][-1:])
        post.append(_post_factor(net, i, v, v_ff, s.v[i][0], rule) * keep[None, :, None])
    update = _outer(net, post, below)
    update.converged, update.diverged = s.converged, s.diverged
    return update


def _analytic_update(net, x, target, controller, rule):
    steady, start = steady_state(net, x, target, controller), _forward(net, x)
    below = [np.asarray(x, float), *steady.r[:-1]]
    post = [
        _post_factor(net, i, steady.v[i], _basal(net, i, below[i]), start.v[i], rule)[None]
        for i in range(len(below))
    ]
    return _outer(net, post, [r[None] for r in below])


def _basal(net, i, below):
    weights, biases, _, _ = _parameters(net)
    return below @ weights[i].T + biases[i]


def _post_factor(net, i, v, v_ff, v_start, rule):
    """What a learning rule multiplies with the presynaptic rate."""
    name = _parameters(net)[3][i]
    if rule == "nonlinear_difference":
        return ACTIVATIONS[name](v) - ACTIVATIONS[name](v_ff)
    return (v - v_ff) * (DERIVATIVES[name](v_start) if rule == "derivative_matrix" else 1.0)


def _outer(net, post, below):
    """Means over time points and samples of post x below."""
    count = post[0].shape[0] * post[0].shape[1]
    weights = [np.einsum("tbi,tbj->ij", d, r) / count for d, r in zip(post, below)]
    biases = None if net.biases is None else [d.sum(axis=(0, 1)) / count for d in post]
    return SimpleNamespace(weights=weights, biases=biases, converged=None, diverged=None)


def feedback_update(
    net, x, target, controller, *, noise, scaling=False, high_pass=None, normalise=None, sigma_floor=0.01
):
    """The update of the feedback weights per unit learning rate."""
    s = simulate(net, x, target, controller, noise)
    return _feedback_update(s, controller, scaling, high_pass, normalise, sigma_floor)


def forward_and_feedback_update(
    net,
    x,
    target,
    controller,
    *,
    rule="nonlinear_difference",
    noise,
    scaling=False,
    high_pass=None,
    normalise=None,
    sigma_floor=0.01,
):
    """Both updates from one simulation (single-phase learning)."""
    s = simulate(net, x, target, controller, noise)
    forward = _simulated_update(net, x, s, "average", rule, "all")
    return forward, _feedback_update(s, controller, scaling, high_pass, normalise, sigma_floor)


def _feedback_update(s, c, scaling, high_pass, normalise, sigma_floor):
    u = s.u[1:] if high_pass is None else _high_pass(s.u[1:], c.dt / high_pass)
    hidden, output = normalise or (c.sigma, _sigma(c, True))
    last = len(s.v) - 1
    feedback = []
    for i, v_fb in enumerate(s.v_fb):
        gain = (1 + c.tau_v / c.tau_noise) ** (last - i) if scaling else 1.0
        gain /= max(output if i == last else hidden, sigma_floor) ** 2
        feedback.append(-gain * np.einsum("tbi,tbk->ik", v_fb[:-1], u) / (u.shape[0] * u.shape[1]))
    return SimpleNamespace(feedback=feedback)


def _high_pass(u, share):
    """u minus its exponential running mean, which starts at the first u."""
    low = u.copy()
    for t in range(1, len(u)):
        low[t] = share * u[t] + (1 - share) * low[t - 1]
    return u - low


# ---------------------------------------------------------------------------------------- baselines


def backpropagation_gradient(net, x, y, *, loss="mse"):
    """Gradient of the mean loss with respect to weights and biases."""
    weights, _, _, names = _parameters(net)
    start = _forward(net, x)
    delta = [output_gradient(start.r[-1], y, loss) * DERIVATIVES[names[-1]](start.v[-1])]
    for i in reversed(range(len(weights) - 1)):
        delta.insert(0, (delta[0] @ weights[i + 1]) * DERIVATIVES[names[i]](start.v[i]))
    return _gradient(net, x, start, delta)


def direct_feedback_gradient(net, x, y, *, loss="mse", derivative=True):
    """Direct feedback alignment: the output gradient reaches layer i through Q_i; `derivative` multiplies phi'."""
    _, _, feedback, names = _parameters(net)
    start = _forward(net, x)
    error = output_gradient(start.r[-1], y, loss)
    delta = [error @ q.T for q in feedback[:-1]] + [error]
    if derivative:
        delta = [d * DERIVATIVES[name](v) for d, name, v in zip(delta, names, start.v)]
    return _gradient(net, x, start, delta)


def _gradient(net, x, start, delta):
    below = [np.asarray(x, float), *start.r[:-1]]
    biases = None if net.biases is None else [d.sum(axis=0) for d in delta]
    return SimpleNamespace(weights=[d.T @ r for d, r in zip(delta, below)], biases=biases)
