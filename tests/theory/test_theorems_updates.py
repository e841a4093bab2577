"""DFC's updates are minimum-norm (MN) and Gauss-Newton (GN) updates: where the theory says so, and how fast.

DFC: Meulemans et al. 2021, its lemma 1 (steady state) and theorem 2 (conditions 1 and 2). The rates are derived here.
"""

from functools import partial

import numpy as np
import oracle
import pytest
from problems import inputs
from theorems import (
    STABILISING,
    between_directions,
    controlled_rates,
    distance,
    feedback_in_row_space,
    feedforward_rates,
    gauss_newton,
    halving,
    jacobian,
    linear_minibatch,
    minimum_norm,
    one_sample,
    outer,
    rate,
    set_feedback,
    stacked_feedback,
    vector,
)

import dfc_numba as dfc
from dfc_numba.analysis.alignment import alignment
from dfc_numba.analysis.conditions import conditions
from dfc_numba.analysis.directions import reference_update

PROBLEMS = {
    "one sample, tanh": one_sample,
    "one sample, sigmoid": partial(one_sample, activation="sigmoid"),
    "linear minibatch": linear_minibatch,
}
ALPHAS = (1e-3, 0.1, 2.0)
SIMULATED = {"dt": 0.05, "steps": 1500, "k_p": 0.0, "instant_dynamics": True}


def update(net, x, delta, *, readout="analytic", rule="voltage_difference", **options):
    target = net.predict(x) + delta
    found = dfc.forward_update(net, x, target, dfc.Controller(**options), readout=readout, rule=rule)
    return vector(found)


def predicted(net, x, delta, damping=0.0, *, controlled=True):
    """The MN update, with the presynaptic rates that its own voltage changes lead to, or with the feedforward ones."""
    changes = minimum_norm(net, x, delta, damping)
    return outer(
        net, x, changes, controlled_rates(net, x, changes) if controlled else feedforward_rates(net, x)
    )


# --- minimum norm -----------------------------------------------------------------------------------------------


@rate("DFC -> MN as alpha -> 0, Q = J^T M", 1, [(p, m) for p in PROBLEMS for m in STABILISING])
def test_the_update_tends_to_that_of_minimum_norm(case):
    """For Q = J^T M with any stabilising M, the update tends to the undamped MN update like alpha^1.

    Q (J Q + alpha I)^{-1} = J^T M (G M + alpha I)^{-1} = J^T G^{-1} (I + alpha (G M)^{-1})^{-1}
                           = J^+ - alpha J^T G^{-1} (G M)^{-1} + O(alpha^2)         with G = J J^T, J^+ = J^T G^{-1},
    so the voltage changes, and with them the presynaptic rates, differ by O(alpha) from those of MN, whatever M is.
    Source: DFC, lemma 1, condition 2.
    """
    problem, stabiliser = case
    net, x, direction = PROBLEMS[problem]()
    set_feedback(net, feedback_in_row_space(net, x, stabiliser))
    expected, alphas = predicted(net, x, 0.1 * direction), halving(0.01)
    return alphas, [distance(update(net, x, 0.1 * direction, alpha=alpha), expected) for alpha in alphas]


@pytest.mark.parametrize("stabiliser", STABILISING)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_update_is_that_of_minimum_norm_without_leak(problem, stabiliser):
    """At alpha = 0 they are the same: J^T M (G M)^{-1} = J^T G^{-1} for every invertible M (DFC, condition 2)."""
    net, x, direction = PROBLEMS[problem]()
    set_feedback(net, feedback_in_row_space(net, x, stabiliser))
    assert distance(update(net, x, 0.1 * direction, alpha=0.0), predicted(net, x, 0.1 * direction)) < 1e-12


@pytest.mark.parametrize("jacobian_feedback", [False, True])
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_leak_is_the_damping_where_feedback_is_the_transpose(problem, alpha, jacobian_feedback):
    """For Q = J^T the update is the MN update damped by gamma = alpha, for every alpha.

    Q (J Q + alpha I)^{-1} = J^T (G + alpha I)^{-1}: nothing is neglected (DFC, lemma 1).
    """
    net, x, direction = PROBLEMS[problem]()
    set_feedback(net, jacobian(net, x).T)
    found = update(net, x, 0.1 * direction, alpha=alpha, jacobian_feedback=jacobian_feedback)
    assert distance(found, predicted(net, x, 0.1 * direction, damping=alpha)) < 1e-12
    assert distance(found, predicted(net, x, 0.1 * direction, damping=1.01 * alpha)) > 1e-6


@rate("Q = J^T: DFC -> backpropagation as 1/alpha -> 0", 1, list(PROBLEMS))
def test_a_strong_leak_gives_backpropagation(case):
    """For Q = J^T and r* = r_L - lambda B dloss/dr_L, alpha / lambda times the update tends to -dloss/dW like alpha^-1.

    alpha J^T (G + alpha I)^{-1} = J^T - J^T G / alpha + O(alpha^-2), and J_i^T dloss/dr_L r_{i-1}^T is what backpropagation
    computes; the presynaptic rates are off by O(u) = O(1 / alpha) too. Source: derived here.
    """
    net, x, _ = PROBLEMS[case]()
    set_feedback(net, jacobian(net, x).T)
    y, step = inputs(len(x), net.sizes[-1], seed=7), 0.3
    gradient, target = oracle.backpropagation_gradient(net, x, y), dfc.output_target(net, x, y, step=step)
    inverses = halving(1e-2)
    scaled = [update(net, x, target - net.predict(x), alpha=1 / i) / (i * step) for i in inverses]
    return inverses, [distance(found, -vector(gradient)) for found in scaled]


# --- how good that is for nonlinear networks --------------------------------------------------------------------

NUDGED = [("newton", m) for m in STABILISING] + [("final", "G^-1"), ("final", "rotating")]


def deviations(readout, stabiliser, nudges):
    """|update - MN update|, and that relative to the MN update, for the steady states of nonlinear networks."""
    net, x, direction = one_sample()
    set_feedback(net, feedback_in_row_space(net, x, stabiliser))
    options = SIMULATED if readout == "final" else {}
    relative = [
        distance(
            update(net, x, nudge * direction, readout=readout, alpha=0.0, **options),
            predicted(net, x, nudge * direction, controlled=False),
        )
        for nudge in nudges
    ]
    norms = [np.linalg.norm(predicted(net, x, nudge * direction, controlled=False)) for nudge in nudges]
    return np.multiply(relative, norms), np.array(relative)


@rate("nonlinear steady state: |DFC - MN| / |MN|, in the nudge", 1, NUDGED)
def test_the_nonlinear_update_tends_to_that_of_minimum_norm(case):
    """At the exact steady state (alpha = 0) the update tends to the MN update like lambda^1, relative to it.

    r_L(u) = r_L + J Q u + O(|u|^2) = r*, so u = (J Q)^{-1} delta + O(lambda^2), dv = J^+ delta + O(lambda^2); presynaptic
    rates are r_{i-1} + O(lambda). The update is of order lambda: its error is lambda^2, relative to it lambda^1. "final"
    simulates: a stabilising M is what makes the controller arrive there. Source: DFC, lemma 1 and theorem 2 (lambda -> 0).
    """
    nudges = halving(0.02)
    return nudges, deviations(*case, nudges)[1]


@rate("nonlinear steady state: |DFC - MN|, in the nudge", 2, NUDGED)
def test_the_error_of_the_update_is_of_second_order(case):
    """The same error, not divided by the size of the update: lambda^2, by the derivation above."""
    nudges = halving(0.02)
    return nudges, deviations(*case, nudges)[0]


@rate("nonlinear difference: |DFC - phi' MN| / |phi' MN|, in the nudge", 1, ["tanh", "sigmoid"])
def test_the_rule_with_rates_weighs_the_update_with_the_slopes(case):
    """With phi(v) - phi(v_ff) as postsynaptic factor the update tends to phi'(v) dv r^T, dv of MN, like lambda^1.

    phi(v_ff + dv) - phi(v_ff) = phi'(v_ff) dv + O(lambda^2), and v_ff of the controlled network is that of the feedforward
    pass + O(lambda). So this rule follows MN only up to a positive factor per unit (1 in the linear output layer).
    Source: DFC, the rule of its equation for plasticity; derived here.
    """
    net, x, direction = one_sample(activation=case)
    set_feedback(net, feedback_in_row_space(net, x, "rotating"))
    start, nudges, found = oracle.Network.forward(net, x), halving(0.02), []
    slopes = np.concatenate(
        [oracle.DERIVATIVES[n](v) for n, v in zip(net.activations, start.v, strict=True)], axis=1
    )
    for nudge in nudges:
        expected = outer(net, x, slopes * minimum_norm(net, x, nudge * direction), start.r)
        ours = update(net, x, nudge * direction, readout="newton", rule="nonlinear_difference", alpha=0.0)
        found.append(distance(ours, expected))
    return nudges, found


@rate("steady state: |u - (JQ + alpha I)^-1 delta|, in the nudge", 2,
      [(a, leak) for a in ("tanh", "sigmoid") for leak in ("total", "integral")])  # fmt: skip
def test_the_steady_state_is_the_linear_one(case):
    """The exact steady state differs from u = (J Q + alpha I)^{-1} delta by O(lambda^2), for any stabilising Q.

    0 = r* - r_L(u) - alpha u = delta - J Q u - alpha u + O(|u|^2) with |u| = O(lambda). A leak that acts on u_int alone is
    weaker: u_int' = 0 means e = alpha u_int = alpha (u - k_p e), so e = alpha / (1 + alpha k_p) u. Source: DFC, lemma 1.
    """
    activation, leak = case
    net, x, direction = one_sample(activation=activation, samples=4)
    c = dfc.Controller(alpha=0.3, k_p=0.7, leak=leak)
    alpha = 0.3 if leak == "total" else 0.3 / (1 + 0.3 * 0.7)
    gain = oracle.output_jacobian(net, x) @ stacked_feedback(net) + alpha * np.eye(3)
    linear = np.linalg.solve(gain, direction[:, :, None])[:, :, 0]
    nudges = halving(0.1)
    states = [
        dfc.steady_state(net, x, net.predict(x) + nudge * direction, c, method="newton") for nudge in nudges
    ]
    return nudges, [np.linalg.norm(s.u - nudge * linear) for s, nudge in zip(states, nudges, strict=True)]


@rate("time average -> steady state, in 1/T", 1, ["linear minibatch", "one sample, tanh"])
def test_the_average_over_time_tends_to_the_steady_state(case):
    """The update averaged over a phase of length T tends to that of the steady state like T^-1.

    (1/T) int_0^T U(t) dt = U_ss + (1/T) int_0^T (U(t) - U_ss) dt, and the last integral converges exponentially fast to a
    number, the transient. Source: DFC averages over time; derived here.
    """
    net, x, direction = PROBLEMS[case]()
    set_feedback(net, feedback_in_row_space(net, x, "G^-1"))
    delta, options = 0.1 * direction, {"alpha": 0.1, "dt": 0.05, "k_p": 0.5}
    steps = np.array([500, 1000, 2000, 4000])
    steady = update(net, x, delta, readout="newton", **options)
    averages = [update(net, x, delta, readout="average", steps=int(n), **options) for n in steps]
    return 1 / (steps + 1), [distance(average, steady) for average in averages]


def test_an_unstable_steady_state_is_not_reached():
    """With M = -G^{-1} the same update solves the steady-state equations, but the simulation runs away from it.

    The controller obeys u' = delta - J Q u = delta + u, which grows like e^t. Source: DFC, condition for stability.
    """
    net, x, direction = one_sample()
    set_feedback(net, -feedback_in_row_space(net, x, "G^-1"))
    delta = 1e-3 * direction
    expected = predicted(net, x, delta, controlled=False)
    assert distance(update(net, x, delta, readout="newton", alpha=0.0), expected) < 1e-2
    found = [update(net, x, delta, readout="final", alpha=0.0, **{**SIMULATED, "steps": n}) for n in (40, 80)]
    assert distance(found[1], expected) > 2 * distance(found[0], expected) > 2


# --- outside the row space --------------------------------------------------------------------------------------


def leaving_the_row_space(epsilon):
    """The update with Q = J^T M + epsilon N, J N = 0, alpha = 0; that of MN; both as voltage changes (sum n_i,)."""
    net, x, direction = one_sample()
    j = jacobian(net, x)
    n = np.random.default_rng(3).normal(size=j.T.shape)
    n -= np.linalg.pinv(j) @ (j @ n)
    set_feedback(net, feedback_in_row_space(net, x, "rotating") + epsilon * n)
    steady = dfc.steady_state(net, x, net.predict(x) + direction, dfc.Controller(alpha=0.0))
    return np.concatenate(steady.delta_v, axis=1)[0], minimum_norm(net, x, direction)[0]


@rate("|dv - J^+ delta|, in the part of Q outside Row(J)", 1)
def test_feedback_outside_the_row_space_moves_the_update():
    """With Q = J^T M + epsilon N, J N = 0, the voltage changes leave those of MN like epsilon^1 (condition 2 is needed).

    J Q = G M as before, so dv = Q (G M)^{-1} delta = J^+ delta + epsilon N (G M)^{-1} delta. Source: DFC, condition 2.
    """
    sizes = halving(0.5)
    return sizes, [distance(*leaving_the_row_space(epsilon)) for epsilon in sizes]


@rate("|dv|^2 - |J^+ delta|^2, in the part of Q outside Row(J)", 2)
def test_updates_with_feedback_outside_the_row_space_are_longer_than_minimum_norm_ones():
    """They reach the target all the same, with voltage changes whose squared norm exceeds the least one by epsilon^2.

    J^+ delta lies in Row(J), N (G M)^{-1} delta is orthogonal to it, so the squares add up. Source: what MN means.
    """
    sizes = halving(0.5)
    pairs = [leaving_the_row_space(epsilon) for epsilon in sizes]
    return sizes, [dv @ dv - least @ least for dv, least in pairs]


# --- Gauss-Newton -----------------------------------------------------------------------------------------------


SQUARED_NORM = 2.5  # of a layer's input and the 1 for its bias


def with_rates(spread):
    """A network and one input, whose layers' inputs have the squared norms SQUARED_NORM (1 + spread d_i).

    The biases are chosen such that the rates are given vectors.
    """
    net, x, direction = one_sample()
    rates = [
        np.random.default_rng(i).uniform(0.2, 1, size=n) * (-1) ** np.arange(n)
        for i, n in enumerate(net.sizes[:-1])
    ]
    norms = [SQUARED_NORM * (1 + d * spread) - 1 for d in (0.0, 0.8, -0.5)]
    rates = [r * np.sqrt(norm / (r @ r)) for r, norm in zip(rates, norms, strict=True)]
    for i, r in enumerate(rates[1:]):
        net.biases[i][...] = np.arctanh(r) - net.weights[i] @ rates[i]
    return net, rates[0][None], direction


@rate(
    "condition 1: |DFC - C GN| / |C GN|, in the nudge",
    1,
    [("rotating", 0.0), ("G^-1", 0.0), ("I", 0.1), ("I", 2.0)],
)
def test_equal_norms_of_the_layers_inputs_give_gauss_newton(case):
    """Where |r_{i-1}|^2 + 1 = C in all layers, the update tends to C times the GN update of one sample, like lambda^1.

    GN: J_W J_W^T = sum_i J_i J_i^T (|r_{i-1}|^2 + 1) = C G, so dW_i = J_i^T (C G + gamma' I)^{-1} delta r_{i-1}^T, which is
    1/C times MN damped by gamma = gamma' / C: undamped for alpha = 0, and for Q = J^T with gamma' = C alpha. What is left
    is the nonlinearity, lambda^1 as for MN. Source: DFC, theorem 2, conditions 1 and 2.
    """
    stabiliser, alpha = case
    net, x, direction = with_rates(0.0)
    set_feedback(net, feedback_in_row_space(net, x, stabiliser))
    nudges = halving(0.02)
    found = [update(net, x, nudge * direction, readout="newton", alpha=alpha) for nudge in nudges]
    c = SQUARED_NORM
    expected = [c * gauss_newton(net, x, nudge * direction, damping=c * alpha) for nudge in nudges]
    return nudges, [distance(ours, theirs) for ours, theirs in zip(found, expected, strict=True)]


@rate("condition 1 broken: angle of DFC with GN, in the spread of norms", 1)
def test_unequal_norms_turn_the_update_away_from_gauss_newton():
    """With |r_{i-1}|^2 + 1 = C (1 + epsilon d_i) the angle between the update and that of GN is of order epsilon^1.

    (sum_i (1 + epsilon d_i) J_i J_i^T)^{-1} = G^{-1} - epsilon G^{-1} (sum_i d_i J_i J_i^T) G^{-1} + O(epsilon^2) is no
    multiple of G^{-1} unless the d_i are equal. The nudge, 1e-7, adds 1e-7. Source: DFC, condition 1.
    """
    spreads, angles = halving(0.1), []
    for spread in spreads:
        net, x, direction = with_rates(spread)
        set_feedback(net, feedback_in_row_space(net, x, "rotating"))
        ours = update(net, x, 1e-7 * direction, readout="newton", alpha=0.0)
        angles.append(between_directions(ours, gauss_newton(net, x, 1e-7 * direction)))
    return spreads, angles


def test_the_analysis_measures_zero_degrees_where_the_theorems_say_so():
    """The package's reference directions, angles and conditions say so too: 0 degrees to MN and GN where they are due."""
    net, x, direction = with_rates(0.0)
    set_feedback(net, feedback_in_row_space(net, x, "rotating"))
    y, step = net.predict(x) + direction, 1e-7
    c, target = dfc.Controller(alpha=0.0), dfc.output_target(net, x, y, step=step)
    found = dfc.forward_update(net, x, target, c, readout="newton", rule="voltage_difference")
    for kind in ("mn", "gn"):
        expected = reference_update(net, x, y, kind, step=step)
        assert alignment(found, expected).total < 1e-4
        factor = 1.0 if kind == "mn" else SQUARED_NORM
        assert distance(vector(found), factor * vector(expected)) < 1e-6
    assert alignment(found, reference_update(net, x, y, "bp", step=step)).total > 5
    holding = conditions(net, x)
    assert abs(holding.condition_2[0] - 1) < 1e-12 and holding.dev_r[0] < 1e-7
