"""The oracle of online plasticity: slow, plain NumPy, one equation per line; it shares no code with the package.

Names, arguments and shapes are those of `dfc_numba.simulate_online`; noise comes as lists of draws. Like `oracle`, it
keeps every variable at every step.
"""

from types import SimpleNamespace

import numpy as np
import oracle

VARIABLES = ("v", "v_ff", "v_fb", "r", "u", "u_int", "error", "weights", "biases", "feedback")


def simulate_online(
    net, stream, controller, *, tau_w=None, tau_q=None, rule="nonlinear_difference", feedback_decay=0.0, high_pass=None,
    reset="none", noise=None,
):  # fmt: skip
    """Every variable at every time point, lists of layers with the time index first; and the final network."""
    c, learner = controller, _Learner(net)
    history, s, t = None, None, 0
    for x, target in stream:
        if callable(target):
            target = target(learner.network(), x)
        for x_now, target_now, first in _steps(x, target, c):
            if s is None or (first and reset == "segment"):
                s = _feedforward_state(learner, x_now, target_now)
            if history is None:
                history = {name: [value] for name, value in _now(learner, s, target_now, c).items()}
            draws = None if noise is None else [layer[t + 1] for layer in noise]
            _step(learner, s, x_now, target_now, c, draws, high_pass)
            learner.learn_weights(s, rule, 0.0 if tau_w is None else c.dt / tau_w)
            learner.learn_feedback(s, feedback_decay, 0.0 if tau_q is None else c.dt / tau_q)
            t += 1
            for name, value in _now(learner, s, target_now, c).items():
                history[name].append(value)
    arrays = {name: _over_time(history[name]) for name in VARIABLES}
    if not learner.biased:
        arrays["biases"] = None
    return SimpleNamespace(network=learner.network(), **arrays)


def _steps(x, target, c):
    """Input and target of each step of a segment, and whether it is its first."""
    x, target = np.asarray(x, float), np.asarray(target, float)
    lengths = [len(array) for array in (x, target) if array.ndim == 3]
    for k in range(max(lengths, default=c.steps)):
        yield x[k] if x.ndim == 3 else x, target[k] if target.ndim == 3 else target, k == 0


class _Learner:
    """The network's parameters, which change."""

    def __init__(self, net):
        self.weights, biases, self.feedback, self.names = oracle._parameters(net)
        self.weights, self.feedback = ([a.copy() for a in group] for group in (self.weights, self.feedback))
        self.biases, self.biased = [b.copy() for b in biases], net.biases is not None

    def network(self):
        return oracle.Network(
            [w.copy() for w in self.weights],
            [b.copy() for b in self.biases] if self.biased else None,
            [q.copy() for q in self.feedback],
            self.names[:-1],
        )

    def learn_weights(self, s, rule, gain):
        """W += dt/tau_w mean(factor r^T), b += dt/tau_w mean(factor)."""
        for i, name in enumerate(self.names):
            factor = s.v[i] - s.v_ff[i]
            if rule == "nonlinear_difference":
                factor = oracle.ACTIVATIONS[name](s.v[i]) - oracle.ACTIVATIONS[name](s.v_ff[i])
            elif rule == "derivative_matrix":
                factor = factor * oracle.DERIVATIVES[name](s.v_ff[i])
            self.weights[i] = self.weights[i] + gain * factor.T @ s.below[i] / len(factor)
            if self.biased:
                self.biases[i] = self.biases[i] + gain * factor.mean(axis=0)

    def learn_feedback(self, s, decay, gain):
        """Q += dt/tau_q (-mean(v_fb(t) u(t+1)^T) - beta Q)."""
        for i, q in enumerate(self.feedback):
            self.feedback[i] = q + gain * (-s.v_fb_before[i].T @ s.u_learned / len(s.u_learned) - decay * q)


def _feedforward_state(learner, x, target):
    start, zero = learner.network().forward(x), np.zeros_like(target)
    nothing = [np.zeros_like(v) for v in start.v]
    return SimpleNamespace(
        v=list(start.v), v_ff=list(start.v), r=list(start.r), v_fb=list(nothing), coloured=list(nothing), below=None,
        u=zero, u_int=zero, control=zero, slow=None, u_learned=zero, v_fb_before=list(nothing), fresh=True,
    )  # fmt: skip


def _step(learner, s, x, target, c, draws, high_pass):
    control_before, rates_before, voltages = s.control, list(s.r), list(s.v)
    _step_control(s, target, c, high_pass)
    control = s.control if c.proactive else control_before
    jacobian = oracle.jacobian_blocks(learner.network(), voltages)
    instant = c.instant_transmission or c.instant_dynamics
    s.v_fb_before, s.below = list(s.v_fb), [x, *rates_before[:-1]]
    for i, name in enumerate(learner.names):
        below = x if i == 0 else (s.r if instant else rates_before)[i - 1]
        s.v_ff[i] = below @ learner.weights[i].T + learner.biases[i]
        drive = control @ learner.feedback[i].T
        if c.jacobian_feedback:
            drive = np.einsum("bkn,bk->bn", jacobian[i], control)
        s.v_fb[i] = oracle._apical_step(s.v_fb[i], drive, c)
        if draws is not None:
            s.coloured[i] = oracle._noise_step(s.coloured[i], draws[i], c)
            s.v_fb[i] = s.v_fb[i] + oracle._sigma(c, i == len(learner.names) - 1) * s.coloured[i]
        s.v[i] = oracle._somatic_step(s.v[i], s.v_fb[i] + s.v_ff[i], c)
        s.r[i] = oracle.ACTIVATIONS[name](s.v[i])
    s.below = [x, *s.r[:-1]]
    s.fresh = False


def _step_control(s, target, c, high_pass):
    output = s.r[-1]
    e = target - (np.exp(oracle.log_softmax(output)) if c.error == "softmax" else output)
    leaking = s.u if c.leak == "total" else s.u_int
    s.u_int = s.u_int + c.dt * (e - c.alpha * leaking)
    s.u = s.u_int + c.k_p * e
    share = 1.0 if s.fresh or c.tau_control is None else c.dt / c.tau_control
    s.control = share * s.u + (1 - share) * s.control
    if high_pass is None:
        s.u_learned = s.u
        return
    share = c.dt / high_pass
    s.slow = s.u if s.fresh else share * s.u + (1 - share) * s.slow
    s.u_learned = s.u - s.slow


def _now(learner, s, target, c):
    layers = {name: list(getattr(s, name)) for name in ("v", "v_ff", "v_fb", "r")}
    parameters = {name: list(getattr(learner, name)) for name in ("weights", "biases", "feedback")}
    return {**layers, **parameters, "u": s.u, "u_int": s.u_int, "error": oracle._monitor(target, s.r[-1], c)}


def _over_time(values):
    if isinstance(values[0], list):
        return [np.array(layer) for layer in zip(*values, strict=True)]
    return np.array(values)
