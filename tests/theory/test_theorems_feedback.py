"""Feedback weights that learn from noise: the mean of the rule, where it comes to rest, and what the theorem says.

Notation, equations, derivations: tests/helpers/theorems_feedback.py. DFC: Meulemans et al. 2021, Strong-DFC: Meulemans
et al. 2022.
"""

from functools import lru_cache

import numpy as np
import pytest
from problems import inputs
from theorems import distance, halving, jacobian, one_sample, rate, set_feedback, stacked_feedback
from theorems_feedback import at_rest, covariance_update, predicted, theorem

import dfc_numba as dfc

SIZES = (3, 3, 2, 2)
UNITS = sum(SIZES[1:])
SIGMA, TAU_NOISE = 0.1, 0.5
INSTANT = {"k_p": 0.0, "instant_dynamics": True, "sigma": SIGMA}
NOISE = {"white": {}, "low-passed": {"tau_noise": TAU_NOISE}}


def network():
    """A linear network and its Jacobian."""
    net, x, _ = one_sample(SIZES, activation="linear")
    return net, jacobian(net, x)


def update(net, c, noise, samples, **options):
    """Delta Q of the two-phase rule, stacked over the layers."""
    x = inputs(samples, SIZES[0])
    found = dfc.feedback_update(net, x, net.predict(x), c, noise=noise, **options)
    return np.concatenate(found.feedback)


# --- means without statistics: the update is a quadratic form in the draws, its mean that over impulses ---------


def impulses(steps, times):
    """Draws (T, B, n_i) whose second moments are those of white noise at `times`: one impulse of size sqrt(B) per sample."""
    count = len(times) * UNITS
    draws = np.zeros((steps + 1, count, UNITS))
    draws[np.repeat(times, UNITS), np.arange(count), np.tile(np.arange(UNITS), len(times))] = np.sqrt(count)
    return np.split(draws, np.cumsum(SIZES[1:])[:-1], axis=2), count


def mean_update(net, c, **options):
    """E[Delta Q] over the noise, exactly: the mean over impulses at every step that counts."""
    return update(net, c, *impulses(c.steps, np.arange(1, c.steps)), **options)


def stationary_update(net, c, **options):
    """E[Delta Q] after all transients: the response to noise of one step, summed over the whole phase."""
    return c.steps * update(net, c, *impulses(c.steps, [1]), **options)


MEANS = [
    *({"dt": dt, "steps": steps, **noise} for dt, steps in ((0.05, 60), (0.2, 7)) for noise in NOISE.values()),
    {"dt": 0.1, "steps": 40, "tau_noise": 0.2, "high_pass": 0.3},
]  # fmt: skip


@pytest.mark.parametrize("options", MEANS, ids=str)
def test_the_mean_of_the_rule_is_that_of_its_covariance(options):
    """E[Delta Q] = -mean_t E[v_fb(t) u(t+1)^T] / sigma^2, at finite dt and T, for any stabilising Q.

    The network is linear, so the covariance follows from one matrix, without closure. Nothing is neglected.
    """
    net, j = network()
    set_feedback(net, stacked_feedback(net) + 0.2 * np.random.default_rng(4).normal(size=(UNITS, SIZES[-1])))
    options = dict(options)
    learning = {"high_pass": options.pop("high_pass")} if "high_pass" in options else {}
    c = dfc.Controller(alpha=0.4, **INSTANT, **options)
    expected = covariance_update(j, stacked_feedback(net), c, **learning)
    assert distance(mean_update(net, c, **learning), expected) < 1e-11


@pytest.mark.parametrize("noise", NOISE)
def test_updates_from_random_noise_scatter_around_the_mean_of_the_rule(noise):
    """Over independent seeds the update scatters around that mean, within the error bars of these very seeds."""
    net, j = network()
    c = dfc.Controller(dt=0.05, steps=60, alpha=0.4, **INSTANT, **NOISE[noise])
    found = np.array([update(net, c, seed, 256) for seed in range(40)])
    bars = found.std(axis=0, ddof=1) / np.sqrt(len(found))
    expected = covariance_update(j, stacked_feedback(net), c)
    z = (found.mean(axis=0) - expected) / bars
    assert bars.max() < 0.03 * np.abs(expected).max()
    assert np.abs(z).max() < 4.5 and 0.5 < np.sqrt(np.mean(z**2)) < 1.6


@rate("E[Delta Q] of a phase -> stationary E[Delta Q], in 1/T", 1, list(NOISE))
def test_the_transient_fades_like_the_inverse_duration(case):
    """The mean over a phase of n steps, started at rest, differs from the stationary mean by n^-1.

    Sum_t E[v_fb(t) u(t+1)^T] is n times its stationary value plus a number, as covariances converge exponentially.
    """
    net, _ = network()
    controllers = [
        dfc.Controller(dt=0.1, steps=n, alpha=1.0, **INSTANT, **NOISE[case]) for n in (40, 80, 160, 320)
    ]
    stationary = stationary_update(net, controllers[-1])
    return [1 / c.steps for c in controllers], [
        distance(mean_update(net, c), stationary) for c in controllers
    ]


# --- where it comes to rest -------------------------------------------------------------------------------------


def learned(net, c, beta, *, eta=0.7, **options):
    """Q <- Q + (eta / beta) (E[Delta Q] - beta Q) until it rests, from random feedback weights."""
    start = np.random.default_rng(6).normal(size=(UNITS, SIZES[-1]))
    set_feedback(net, 0.1 * start / beta)
    for _ in range(200):
        step = (stationary_update(net, c, **options) / beta - stacked_feedback(net)) * eta
        set_feedback(net, stacked_feedback(net) + step)
        if np.abs(step).max() < 1e-10 / beta:
            return stacked_feedback(net)
    raise AssertionError("the feedback weights do not come to rest")


def outside(j, q):
    """The share of Q outside of Row(J)."""
    return np.linalg.norm(q - np.linalg.pinv(j) @ (j @ q)) / np.linalg.norm(q)


@rate("E[Delta Q] - beta Q at the predicted Q, in dt", 1, list(NOISE))
def test_the_predicted_weights_are_at_rest_as_dt_vanishes(case):
    """At Q = J^T M with the predicted M the mean change is of order dt^1, for any alpha and beta.

    Euler steps see the decay of u and noise within a step at its start instead: every term is off by O(a dt), O(dt / tau_n).
    """
    net, j = network()
    alpha, beta = 0.7, 0.3
    q = predicted(j, alpha, beta, **NOISE[case])
    set_feedback(net, q)
    sizes, found = halving(0.01), []
    for dt in sizes:
        c = dfc.Controller(dt=dt, steps=int(40 / dt), alpha=alpha, **INSTANT, **NOISE[case])
        found.append(distance(stationary_update(net, c), beta * q))
    return sizes, found


@pytest.mark.parametrize("dt", [0.01, 0.1])
@pytest.mark.parametrize("noise", NOISE)
def test_feedback_weights_are_at_rest_with_the_steps_accounted_for(noise, dt):
    """At finite dt the same balance holds with the terms of `balance`, which neglect nothing."""
    net, j = network()
    q = predicted(j, 0.7, 0.3, dt=dt, **NOISE[noise])
    set_feedback(net, q)
    c = dfc.Controller(dt=dt, steps=int(40 / dt), alpha=0.7, **INSTANT, **NOISE[noise])
    assert distance(stationary_update(net, c), 0.3 * q) < 1e-9


KAPPAS = halving(0.05)


@lru_cache
def at_large_leak(noise, kappa):
    """Learned Q, what the theorem says, and J, for kappa = |G| / (alpha beta)."""
    net, j = network()
    alpha, dt = 1.0, 0.02
    beta = np.linalg.norm(j @ j.T, 2) / (alpha * kappa)
    c = dfc.Controller(dt=dt, steps=1000, alpha=alpha, **INSTANT, **NOISE[noise])
    return learned(net, c, beta), theorem(j, alpha, beta, dt=dt, **NOISE[noise]), j


@rate("learned Q -> c J^T (JJ^T + gamma I)^-1, in |G|/(alpha beta)", 2, list(NOISE))
def test_learned_weights_are_the_predicted_multiple_of_the_damped_pseudoinverse(case):
    """Learned from noise, Q tends to c J^T (G + gamma I)^{-1} with the multiple c and gamma of large leaks, like kappa^2.

    White, m = mu / beta, kappa = g / (alpha beta): kappa mu^2 + (1 - kappa/2) mu = 1, mu = 1 - kappa/2 + 3 kappa^2/4 + ..,
    while 2 alpha / (g + gamma) is (1 - kappa/2 + kappa^2/4 + ..) / beta. Direction and size agree up to kappa^2 / 2.
    Source: DFC, its theorem on learning Q (alpha large beside J Q); constants, order and low-passed noise derived here.
    """
    found = [at_large_leak(case, kappa) for kappa in KAPPAS]
    return KAPPAS, [distance(q, expected) for q, expected, _ in found]


@rate("learned Q -> multiple of J^T only, in |G|/(alpha beta)", 1, list(NOISE))
def test_feedback_weights_come_to_rest_at_the_damped_pseudoinverse_and_not_at_the_transpose(case):
    """The best multiple of J^T is off by kappa^1: the damped pseudoinverse, off by kappa^2, is seen to be better.

    J^T (G + gamma I)^{-1} = J^T (I - G / gamma) / gamma + O(kappa^2), and G is no multiple of I.
    """
    found = [at_large_leak(case, kappa) for kappa in KAPPAS]
    return KAPPAS, [distance(j.T * np.vdot(j.T, q) / np.vdot(j, j), q) for q, _, j in found]


@rate("white noise: E[Delta Q] - beta Q at Q = J^T / (2 beta), in alpha", 1)
def test_without_leak_white_noise_leads_to_the_transpose():
    """For alpha -> 0, at any beta, the weights at rest tend to J^T / (2 beta) like alpha^1, not to the pseudoinverse.

    beta g m^2 + (alpha beta - g/2) m - alpha = 0 has m = 1 / (2 beta) + alpha / g + O(alpha^2); at m = 1 / (2 beta) the
    change of Q is of the same order. Source: derived here.
    """
    alphas, beta, dt, found = halving(0.1), 0.5, 4e-4, []
    net, j = network()
    set_feedback(net, j.T / (2 * beta))
    for alpha in alphas:
        c = dfc.Controller(dt=dt, steps=int(15 / dt), alpha=alpha, **INSTANT)
        found.append(distance(stationary_update(net, c) / beta, stacked_feedback(net)))
    return alphas, found


@pytest.mark.parametrize("alpha", [0.3, 1.0, 10.0])
def test_white_noise_leads_nearer_to_the_transpose_than_to_the_pseudoinverse(alpha):
    """M of the learned Q = J^T M has eigenvalues between 1 / (2 beta) and 1 / beta: 1 - g m / (2 a) > 1/2, as g m < a.

    The predicted spread of the pseudoinverse's M, that of 1 / g, is not approached. Source: derived here.
    """
    net, _ = network()
    for layer in (1, 2):
        net.weights[layer][...] *= 2
    j, beta = jacobian(net, inputs(1, SIZES[0])), 0.5
    c = dfc.Controller(dt=0.01, steps=600, alpha=alpha, **INSTANT)
    m = np.linalg.eigvals(np.linalg.pinv(j.T) @ learned(net, c, beta, eta=0.2)).real * beta
    g = np.linalg.eigvalsh(j @ j.T)
    assert 0.5 < m.min() and m.max() < 1 and g.max() > 4 * g.min()


@pytest.mark.parametrize("alpha", [1.0, 4.0])
@pytest.mark.parametrize("noise", NOISE)
def test_learned_weights_lie_in_the_row_space(noise, alpha):
    """Q at rest is J^T M exactly, wherever it started: condition 2, for instant layers at any leak, decay and dt."""
    net, j = network()
    c = dfc.Controller(dt=0.05, steps=400, alpha=alpha, **INSTANT, **NOISE[noise])
    assert outside(j, learned(net, c, 0.5, eta=0.3)) < 1e-9


@rate("share of learned Q outside Row(J), in tau_v - dt", 1)
def test_slow_layers_take_the_feedback_weights_out_of_the_row_space():
    """With layers of time constant tau_v condition 2 is violated like tau_v^1.

    Noise of layer i reaches the output with the weight 1 / (1 + tau_v / tau_n)^(L - i + 1), so what Q learns is
    D J^T M with D = I - (tau_v / tau_n) diag(L - i + 1) + .., and D J^T does not span Row(J); Euler steps have tau_v - dt
    for tau_v. Source: Strong-DFC's scaling.
    """
    sizes, found, dt = halving(0.04), [], 0.01
    for size in sizes:
        net, j = network()
        c = dfc.Controller(
            dt=dt, steps=1500, alpha=1.0, tau_v=size + dt, k_p=0.0, sigma=SIGMA, tau_noise=TAU_NOISE
        )
        found.append(outside(j, learned(net, c, 5.0)))
    return sizes, found


SCALED = {
    "scaled": {"tau_noise": TAU_NOISE, "scaling": True},
    "unscaled": {"tau_noise": TAU_NOISE},
    "high-passed": {"tau_noise": TAU_NOISE, "scaling": True, "high_pass": 0.9},
    "slow apical": {"tau_apical": TAU_NOISE},
    "proportional": {"tau_noise": TAU_NOISE, "scaling": True, "k_p": 0.3},
}


@rate("E[Delta Q] at Q = 0 -> predicted multiple of k_i J_i^T, in dt", 1, list(SCALED))
def test_without_feedback_the_rule_sees_the_transpose(case):
    """At Q = 0 the mean update of layer i tends to c f^(L - i) J_i^T like dt^1, f = 1 where the rule is scaled.

    Noise with covariance sigma^2 exp(-s / tau_n) / (2 tau_n), as by tau_apical = tau_n from white noise, meets the response
    of u to v_fb_i; the integral is its Laplace transform at p = 1 / tau_n, which is
    (1 + k_p p) / (p + alpha) J_i / (1 + tau_v p)^(L - i + 1), times p tau_f / (1 + p tau_f) if high-passed.
    So f = 1 / (1 + tau_v / tau_n), which the scaling k_i undoes, and
    c = f (1 + k_p / tau_n) / (2 (1 + alpha tau_n)), times tau_f / (tau_f + tau_n). Euler steps: O(dt).
    Source: Strong-DFC, the scaling of its learning rule; the rest is derived here.
    """
    net, j = network()
    set_feedback(net, np.zeros((UNITS, SIZES[-1])))
    learning = {name: value for name, value in SCALED[case].items() if name in ("scaling", "high_pass")}
    dynamics = {name: value for name, value in SCALED[case].items() if name not in learning}
    alpha, tau_v, k_p, f = 0.6, 0.2, dynamics.pop("k_p", 0.0), 1 / (1 + 0.2 / TAU_NOISE)
    c = f * (1 + k_p / TAU_NOISE) / (2 * (1 + alpha * TAU_NOISE))
    if "high_pass" in learning:
        c *= learning["high_pass"] / (learning["high_pass"] + TAU_NOISE)
    slowed = 1.0 if "scaling" in learning else f
    powers = np.repeat([len(SIZES) - 2 - i for i in range(len(SIZES) - 1)], SIZES[1:])
    expected = c * (slowed**powers)[:, None] * j.T
    sizes, found = halving(0.02), []
    for dt in sizes:
        controller = dfc.Controller(
            dt=dt, steps=int(40 / dt), alpha=alpha, tau_v=tau_v, k_p=k_p, sigma=SIGMA, **dynamics
        )
        found.append(distance(stationary_update(net, controller, **learning), expected))
    return sizes, found


# --- learning from random noise ---------------------------------------------------------------------------------


def chain(noise, seed, c, beta, rounds=36, samples=24):
    """The mean of Q over the second half of learning from random noise: Q <- Q + eta (Delta Q - beta Q)."""
    net, _ = network()
    set_feedback(net, np.zeros((UNITS, SIZES[-1])))
    eta, total = 0.3 / beta, 0.0
    for n in range(rounds):
        change = update(net, c, dfc.NoiseKey(seed, n), samples) - beta * stacked_feedback(net)
        set_feedback(net, stacked_feedback(net) + eta * change)
        total = total + (stacked_feedback(net) if 2 * n >= rounds else 0.0)
    return total / (rounds - rounds // 2)


def in_bars(found, expected=0.0):
    """(mean - expected) / standard error, over independent runs."""
    return (found.mean(axis=0) - expected) / (found.std(axis=0, ddof=1) / np.sqrt(len(found)))


@pytest.mark.parametrize("noise", NOISE)
def test_a_loop_of_updates_from_random_noise_ends_at_the_predicted_feedback_weights(noise):
    """A loop of feedback_update with weight decay ends at the predicted Q, within error bars of independent runs.

    The prediction is the root of the mean of the rule at this dt and T. The multiple of the theorem's
    J^T (G + gamma I)^{-1} is c within 5 % (kappa = 0.2, T = 12), and what tells that matrix from J^T is there, by more than
    four error bars.
    """
    alpha, beta = 3.0, 4.0
    c = dfc.Controller(dt=0.1, steps=120, alpha=alpha, **INSTANT, **NOISE[noise])
    found = np.array([chain(noise, seed, c, beta) for seed in range(9)])
    _, j = network()
    simple = theorem(j, alpha, beta, dt=c.dt, **NOISE[noise])
    expected = at_rest(j, c, beta, simple)
    z = in_bars(found, expected)
    assert np.abs(z).max() < 4.5 and 0.4 < np.sqrt(np.mean(z**2)) < 1.8
    multiples = np.tensordot(found, simple) / np.vdot(simple, simple)
    assert abs(multiples.mean() - 1) < 0.05
    damping = simple - j.T * np.vdot(j.T, simple) / np.vdot(j, j)
    shares = np.tensordot(found, damping)
    assert in_bars(shares) > 4 and abs(in_bars(shares, np.vdot(expected, damping))) < 4
