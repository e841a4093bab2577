"""The Euler scheme is of first order: measured against a tight solution of the continuous-time equations.

As dt -> 0, instantaneous transmission and proactivity no longer matter, and all other options become one system

    u_int' = e - alpha u (or u_int)      u = u_int + k_p e        tau_control c' = u - c   (or c = u)
    tau_A q_i' = Q_i c - q_i  (or q_i = Q_i c; J_i(v)^T in place of Q_i with Jacobian feedback)
    tau_v v_i' = W_i phi(v_{i-1}) + b_i + q_i - v_i   (or v_i = W_i phi(v_{i-1}) + b_i + q_i)

of differential equations, started in the feedforward state; the filtered control c starts at the first u = k_p e.
"""

from functools import lru_cache
from itertools import pairwise, product

import numpy as np
import pytest
from oracle import ACTIVATIONS, Controller, jacobian_blocks, log_softmax
from problems import inputs, label, probabilities, relative_deviation, stable_parameters
from scipy.integrate import solve_ivp

import dfc_numba as dfc

SIZES, SAMPLES, TIME = [3, 5, 4, 2], 2, 1.0
STEPS = (200, 400, 800)
CUTS = np.cumsum(SIZES[1:])
KINDS = [{"k_p": 0.0}, {"k_p": 0.5}, {"k_p": 0.5, "leak": "integral"}, {"k_p": 0.0, "instant_dynamics": True}]


def combinations():
    """All deterministic options that change the differential equations."""
    return [
        dict(tau_apical=tau_apical, tau_control=tau_control, error=error, jacobian_feedback=jacobian, **kind)
        for kind, tau_apical, tau_control, error, jacobian in product(
            KINDS, (None, 0.15), (None, 0.3), ("difference", "softmax"), (False, True)
        )
    ]


@lru_cache
def problem(error):
    """A network with two kinds of activations, inputs, and a target that suits the error."""
    net = dfc.Network(**stable_parameters(SIZES, activation=["tanh", "sigmoid"]))
    x = inputs(SAMPLES, SIZES[0])
    nudged = net.forward(x).r[-1] + 0.5 * inputs(SAMPLES, SIZES[-1], seed=5)
    return net, x, probabilities(SAMPLES, SIZES[-1]) if error == "softmax" else nudged


class ContinuousTime:
    """The system above: its state is z = (v, q, u_int, c), each (B, n), of which some have no dynamics of their own."""

    def __init__(self, net, x, target, controller):
        self.net, self.x, self.target, self.c = net, x, target, controller
        self.cuts = np.cumsum([CUTS[-1], CUTS[-1], SIZES[-1]])

    def solve(self):
        """(v, v_fb, u_int, u) at the end, (B, variables)."""
        start = np.concatenate(self.net.forward(self.x).v, axis=1)
        nothing = np.zeros_like(self.target)
        c = self.c.k_p * self.error(start)
        z = np.concatenate([start, np.zeros_like(start), nothing, c], axis=1)
        solution = solve_ivp(self.rates, (0, TIME), z.ravel(), method="DOP853", rtol=1e-11, atol=1e-13)
        v, q, u_int, u, _ = self.variables(solution.y[:, -1])
        return np.concatenate([v, q, u_int, u], axis=1)

    def rates(self, _, z):
        """dz/dt; zero for variables without dynamics of their own."""
        options = self.c
        v, q, u_int, u, c = self.variables(z)
        leaking = u if options.leak == "total" else u_int
        moving = not options.instant_dynamics
        dv = (self.basal(v) + q - v) / options.tau_v if moving else np.zeros_like(v)
        dq = (self.drive(v, c) - q) / options.tau_apical if options.tau_apical else np.zeros_like(q)
        dc = (u - c) / options.tau_control if options.tau_control else np.zeros_like(u)
        return np.concatenate([dv, dq, self.error(v) - options.alpha * leaking, dc], axis=1).ravel()

    def variables(self, z):
        """(v, q, u_int, u, c) from the state, variables without dynamics from the others (k_p = 0 if v is one)."""
        v, q, u_int, c = np.split(z.reshape(SAMPLES, -1), self.cuts, axis=1)
        u = u_int + self.c.k_p * self.error(v)
        c = c if self.c.tau_control else u
        if self.c.instant_dynamics:
            v, q = self.instant_soma(v, q, c)
        elif not self.c.tau_apical:
            q = self.drive(v, c)
        return v, q, u_int, u, c

    def instant_soma(self, v, q, c):
        """Solve v = basal(v) + q, where q may itself depend on v, by repeated substitution."""
        for _ in range(200):
            q = q if self.c.tau_apical else self.drive(v, c)
            before, v = v, self.basal(v) + q
            if np.abs(v - before).max() < 1e-15:
                break
        return v, q

    def basal(self, v):
        names = self.net.hidden_activations
        rates = [ACTIVATIONS[name](part) for name, part in zip(names, np.split(v, CUTS[:-1], axis=1))]
        weights, biases = self.net.weights, self.net.biases
        return np.concatenate([r @ w.T + b for r, w, b in zip([self.x, *rates], weights, biases)], axis=1)

    def drive(self, v, c):
        if not self.c.jacobian_feedback:
            return c @ np.concatenate(self.net.feedback).T
        blocks = jacobian_blocks(self.net, np.split(v, CUTS[:-1], axis=1))
        return np.einsum("bkn,bk->bn", np.concatenate(blocks, axis=2), c)

    def error(self, v):
        output = v[:, -SIZES[-1] :]
        return self.target - (np.exp(log_softmax(output)) if self.c.error == "softmax" else output)


@lru_cache
def continuous_solution(**options):
    return ContinuousTime(
        *problem(options["error"]), Controller(dt=1.0, steps=1, alpha=0.2, **options)
    ).solve()


def final_state(trajectory):
    """(v, v_fb, u_int, u) at the last time point, (B, variables)."""
    variables = [*trajectory.v, *trajectory.v_fb, trajectory.u_int, trajectory.u]
    return np.concatenate([variable[-1] for variable in variables], axis=1)


def simulated(steps, options):
    controller = dfc.Controller(dt=TIME / steps, steps=steps, alpha=0.2, tau_v=0.2, **options)
    return final_state(dfc.simulate(*problem(options["error"]), controller))


ORDERS_OF_EVENTS = [
    {"instant_transmission": instant, "proactive": proactive}
    for instant in (True, False)
    for proactive in (True, False)
]


@pytest.mark.parametrize("order", ORDERS_OF_EVENTS, ids=label)
@pytest.mark.parametrize("options", combinations(), ids=label)
def test_the_euler_scheme_is_of_first_order(options, order):
    exact = continuous_solution(**options)
    found = [simulated(steps, options | order) for steps in STEPS]
    errors = [relative_deviation(ours, exact) for ours in found]
    measured = -np.polyfit(np.log(STEPS), np.log(errors), 1)[0]
    assert measured == pytest.approx(1.0, abs=0.1)
    once = [2 * fine - coarse for coarse, fine in pairwise(found)]
    assert relative_deviation((4 * once[1] - once[0]) / 3, exact) < 1e-5
