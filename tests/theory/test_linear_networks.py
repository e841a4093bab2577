"""A linear network has closed forms: powers of a matrix for the Euler steps, a matrix exponential for dt -> 0."""

from itertools import pairwise, product

import numpy as np
import pytest
from problems import inputs, label, relative_deviation, stable_parameters
from scipy.linalg import block_diag, expm

import dfc_numba as dfc

SIZES = [3, 5, 4, 2]
N, N_OUT, SAMPLES = sum(SIZES[1:]), SIZES[-1], 3
CUTS = np.cumsum([N, N, N_OUT, N_OUT, N_OUT])


def combinations(*, order_matters):
    """Controller options of all linear cases; transmission and proactivity only matter at finite dt."""
    either = (True, False) if order_matters else (True,)
    kinds = [
        {"k_p": 0.0},
        {"k_p": 0.5},
        {"k_p": 0.5, "leak": "integral"},
        {"k_p": 0.0, "instant_dynamics": True},
    ]
    return [
        dict(
            alpha=0.2,
            tau_v=0.2,
            tau_apical=tau_apical,
            tau_control=tau_control,
            instant_transmission=instant,
            proactive=proactive,
            **kind,
        )
        for kind, tau_apical, tau_control, instant, proactive in product(
            kinds, (None, 0.15), (None, 0.3), either, either
        )
    ]


def problem():
    """A linear network, inputs, a target and its difference from the feedforward output."""
    net = dfc.Network(**stable_parameters(SIZES, activation="linear"))
    x = inputs(SAMPLES, SIZES[0])
    delta = inputs(SAMPLES, N_OUT, seed=5)
    return net, x, net.forward(x).r[-1] + delta, delta


def transmission_matrix(net):
    """The layers' forward weights as one (N, N) matrix below the block diagonal."""
    below = np.zeros((N, N))
    below[SIZES[1] :, : -SIZES[-1]] = block_diag(*net.weights[1:])
    return below


def deviations(trajectory):
    """The state over time, (T, variables, B): v and v_fb of all layers, u_int, u; v as deviation from the first point."""
    v = np.concatenate([v - v[0] for v in trajectory.v], axis=2)
    stacked = np.concatenate([v, *trajectory.v_fb, trajectory.u_int, trajectory.u], axis=2)
    return stacked.transpose(0, 2, 1)


def euler_map(net, c, *, first):
    """One Euler step as a matrix on z = (v - v_start, v_fb, u_int, u, control, r* - r_start).

    Every variable is written as a matrix that acts on z. The filter of the control starts at its first value.
    """
    v, v_fb, u_int, u, control, delta = np.split(np.eye(CUTS[-1] + N_OUT), CUTS)
    below, q = transmission_matrix(net), np.concatenate(net.feedback)
    filtering = 1.0 if first or c.tau_control is None else c.dt / c.tau_control
    apical = 1.0 if c.tau_apical is None else c.dt / c.tau_apical
    soma = 1.0 if c.instant_dynamics else c.dt / c.tau_v
    error = delta - v[-N_OUT:]
    new_u_int = u_int + c.dt * (error - c.alpha * (u if c.leak == "total" else u_int))
    new_u = new_u_int + c.k_p * error
    new_control = filtering * new_u + (1 - filtering) * control
    new_v_fb = (1 - apical) * v_fb + apical * q @ (new_control if c.proactive else control)
    early, late = (0.0, soma) if c.instant_transmission or c.instant_dynamics else (soma, 0.0)
    new_v = np.linalg.solve(np.eye(N) - late * below, (1 - soma) * v + early * below @ v + soma * new_v_fb)
    return np.vstack([new_v, new_v_fb, new_u_int, new_u, new_control, delta])


@pytest.mark.parametrize("options", combinations(order_matters=True), ids=label)
def test_euler_steps_are_powers_of_a_matrix(options):
    net, x, target, delta = problem()
    controller = dfc.Controller(dt=0.05, steps=120, **options)
    ours = deviations(dfc.simulate(net, x, target, controller))
    start = np.vstack([np.zeros((CUTS[-1], SAMPLES)), delta.T])
    step, after_first = (
        euler_map(net, controller, first=False),
        euler_map(net, controller, first=True) @ start,
    )
    for t in (1, 2, 3, 10, 40, 120):
        expected = (np.linalg.matrix_power(step, t - 1) @ after_first)[: CUTS[3]]
        assert relative_deviation(ours[t], expected) < 1e-12


def generator(net, c):
    """dz/dt as a matrix on z = (v - v_start, v_fb, u_int, control, r* - r_start), and (v, v_fb, u_int, u) from z.

    Variables without dynamics of their own are eliminated in the order u, control, v_fb, v.
    """
    cuts = np.cumsum([N, N, N_OUT, N_OUT])
    v, v_fb, u_int, control, delta = np.split(np.eye(cuts[-1] + N_OUT), cuts)
    below, q = transmission_matrix(net), np.concatenate(net.feedback)
    u = u_int + c.k_p * (delta - v[-N_OUT:])
    control = u if c.tau_control is None else control
    v_fb = q @ control if c.tau_apical is None else v_fb
    v = np.linalg.solve(np.eye(N) - below, v_fb) if c.instant_dynamics else v
    error = delta - v[-N_OUT:]
    rates = [
        np.zeros_like(v) if c.instant_dynamics else (below @ v + v_fb - v) / c.tau_v,
        np.zeros_like(v) if c.tau_apical is None else (q @ control - v_fb) / c.tau_apical,
        error - c.alpha * (u if c.leak == "total" else u_int),
        np.zeros_like(u) if c.tau_control is None else (u - control) / c.tau_control,
        np.zeros_like(delta),
    ]
    return np.vstack(rates), np.vstack([v, v_fb, u_int, u])


def closed_form(net, c, delta, time):
    """(v, v_fb, u_int, u) at `time`; the filtered control starts at the first u, which is k_p times the error."""
    rates, observe = generator(net, c)
    start = np.vstack([np.zeros((2 * N + N_OUT, SAMPLES)), c.k_p * delta.T, delta.T])
    return observe @ expm(rates * time) @ start


@pytest.mark.parametrize("options", combinations(order_matters=False), ids=label)
def test_small_steps_reach_the_matrix_exponential(options):
    net, x, target, delta = problem()
    found, time = [], 1.0
    for steps in (400, 800, 1600):
        controller = dfc.Controller(dt=time / steps, steps=steps, **options)
        found.append(deviations(dfc.simulate(net, x, target, controller))[-1])
    exact = closed_form(net, controller, delta, time)
    errors = [relative_deviation(ours, exact) for ours in found]
    np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 2.0, atol=0.1)
    once = [2 * fine - coarse for coarse, fine in pairwise(found)]
    assert relative_deviation((4 * once[1] - once[0]) / 3, exact) < 1e-6


@pytest.mark.parametrize("k_p", [0.0, 0.5])
def test_the_closed_form_ends_in_the_linear_steady_state(k_p):
    net, x, target, delta = problem()
    controller = dfc.Controller(dt=0.05, steps=1, alpha=0.2, k_p=k_p, tau_v=0.2)
    steady = dfc.steady_state(net, x, target, controller, method="linear")
    v, _, _, u = np.split(closed_form(net, controller, delta, 200.0), CUTS[:3])
    assert relative_deviation(steady.u, u.T) < 1e-11
    start = np.concatenate(net.forward(x).v, axis=1)
    assert relative_deviation(np.concatenate(steady.v, axis=1) - start, v.T) < 1e-11
