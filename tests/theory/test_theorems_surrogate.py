"""Strong-DFC learns to need less control: its updates descend along a surrogate loss, and come to rest where that does.

Strong-DFC (Meulemans et al. 2022): H(W) = mean_b |Q u|^2 / 2, u the control that holds the output at its target. With
v = W r + v_fb and v_fb = Q u, a change of W moves the output by J (Q du + dW r), which control balances:

    (J Q + alpha I) du = -J dW r,    so   -dH/dW_i = p_i r_{i-1}^T,   p = J^T (J Q + alpha I)^{-T} Q^T Q u,

J and r of the controlled network. Where Q = J^T M (condition 2), G = J J^T and alpha -> 0,

    p = J^T (M^T G)^{-1} M^T G M u = J^T M u = v_fb:   the update mean_b v_fb_i r_{i-1}^T is minus the gradient of H.

For Q = J^T this is exact at every alpha, for F = min over v_fb of |v_fb|^2 / 2 + loss / alpha, e = -dloss/dr_L: F is least
where v_fb = J^T e / alpha = J^T u, the steady state, and as F is least in v_fb, -dF/dW_i = J_i^T e / alpha r_{i-1}^T.
"""

import numpy as np
import oracle
import pytest
from problems import inputs, probabilities
from scipy.optimize import minimize
from theorems import (
    STABILISING,
    controlled_rates,
    distance,
    halving,
    jacobian,
    one_sample,
    rate,
    set_feedback,
    split,
    stacked_feedback,
    vector,
)

import dfc_numba as dfc
from dfc_numba.analysis.control import effort_update

SIZES = (2, 3, 3, 2)


def problem(activation, samples):
    """A network, inputs, and targets that are far away."""
    net, x, direction = one_sample(SIZES, activation=activation, samples=samples)
    return net, x, net.predict(x) + direction


def parameters(net):
    return [*net.weights, *net.biases]


def descent(net, energy, h=1e-5):
    """-d energy() / d (weights, biases) by central differences, as one vector."""
    slopes = []
    for array in parameters(net):
        for index in np.ndindex(array.shape):
            before, values = array[index], []
            for sign in (1, -1):
                array[index] = before + sign * h
                values.append(energy())
            array[index] = before
            slopes.append((values[1] - values[0]) / (2 * h))
    return np.array(slopes)


def effort(net, x, target, c):
    """H, with u of the exact steady state."""
    u = dfc.steady_state(net, x, target, c, method="newton", tolerance=1e-14).u
    return 0.5 * np.mean(np.sum((u @ stacked_feedback(net).T) ** 2, axis=1))


def update(net, x, target, c, rule="voltage_difference"):
    return vector(dfc.forward_update(net, x, target, c, readout="newton", rule=rule))


def controlled_jacobian(net, x, target, c):
    """J of the first sample in its steady state."""
    v = dfc.steady_state(net, x, target, c, method="newton").v
    return np.concatenate(oracle.jacobian_blocks(net, v), axis=2)[0]


def set_consistent_feedback(net, x, target, c, stabiliser):
    """Q = J^T M with J of the very steady state that Q leads to."""
    for _ in range(100):
        j = controlled_jacobian(net, x, target, c)
        q = j.T @ STABILISING[stabiliser](j @ j.T)
        change = distance(stacked_feedback(net), q)
        set_feedback(net, q)
        if change < 1e-13:
            return
    raise AssertionError("no consistent feedback weights")


# --- the gradient -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "linear"])
def test_the_gradient_of_the_effort_is_the_derived_one(activation):
    """-dH/dW_i = p_i r_{i-1}^T, for any fixed Q, any alpha and several samples: against differences of H."""
    net, x, target = problem(activation, 3)
    set_feedback(
        net, stacked_feedback(net) + 0.1 * np.random.default_rng(2).normal(size=stacked_feedback(net).shape)
    )
    c = dfc.Controller(alpha=0.2)
    u = dfc.steady_state(net, x, target, c, method="newton").u
    found = vector(effort_update(net, x, u, c))
    assert distance(found, descent(net, lambda: effort(net, x, target, c))) < 1e-8


@rate("Strong-DFC: |update + dH/dW| / |dH/dW|, Q = J^T M, in alpha", 1,
      [(activation, m) for activation in ("linear", "tanh") for m in ("I", "G^-1", "damped")])  # fmt: skip
def test_the_update_tends_to_the_descent_of_the_effort(case):
    """For Q = J^T M, in a linear network or for one sample, the update tends to -dH/dW like alpha^1.

    p = J^T (M^T G + alpha I)^{-1} M^T G M u = v_fb - alpha J^T (M^T G)^{-1} M u + O(alpha^2). The target is not near, and J
    is that of the controlled network. Source: Strong-DFC, its theorem on the surrogate loss; the order is derived here.
    """
    activation, stabiliser = case
    alphas, found = halving(0.01, 4), []
    net, x, target = problem(activation, 4 if activation == "linear" else 1)
    for alpha in alphas:
        c = dfc.Controller(alpha=alpha)
        set_consistent_feedback(net, x, target, c, stabiliser)
        expected = descent(net, lambda: effort(net, x, target, c))
        found.append(distance(update(net, x, target, c), expected))
    return alphas, found


@rate("Strong-DFC: |update + dH/dW|, in the part of Q outside Row(J)", 1)
def test_the_update_leaves_the_gradient_of_the_effort_outside_the_row_space():
    """With Q = J^T M + epsilon N, J N = 0, alpha = 0, the update leaves -dH/dW like epsilon^1 (condition 2 is needed).

    Q^T Q = M^T G M + epsilon^2 N^T N, so p = J^T M u + O(epsilon^2), while v_fb = J^T M u + epsilon N u.
    """
    net, x, target = problem("linear", 4)
    j, c = jacobian(net, x), dfc.Controller(alpha=0.0)
    n = np.random.default_rng(3).normal(size=j.T.shape)
    n -= np.linalg.pinv(j) @ (j @ n)
    sizes, found = halving(0.02), []
    for epsilon in sizes:
        set_feedback(net, j.T @ STABILISING["damped"](j @ j.T) + epsilon * n)
        expected = descent(net, lambda: effort(net, x, target, c))
        found.append(distance(update(net, x, target, c), expected))
    return sizes, found


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_the_rule_with_rates_descends_the_effort(activation):
    """phi(v) - phi(v_ff) has the signs of v_fb, so for one sample that update makes less than 90 degrees with -dH/dW.

    <phi(v) - phi(v_ff), v_fb> |r|^2 > 0 in every layer; the two are not parallel. Source: Strong-DFC; derived here.
    """
    net, x, target = problem(activation, 1)
    c = dfc.Controller(alpha=0.0)
    set_consistent_feedback(net, x, target, c, "I")
    expected = descent(net, lambda: effort(net, x, target, c))
    found = update(net, x, target, c, rule="nonlinear_difference")
    assert found @ expected > 0 and distance(found, expected) > 0.01
    assert distance(update(net, x, target, c), expected) < 1e-8


# --- exact at every leak ----------------------------------------------------------------------------------------

LOSSES = {
    "difference": lambda r, target: 0.5 * np.sum((target - r) ** 2),
    "softmax": lambda r, target: -np.sum(target * oracle.log_softmax(r)),
}
ERRORS = {
    "difference": lambda r, target: target - r,
    "softmax": lambda r, target: target - np.exp(oracle.log_softmax(r)),
}


def least_energy(net, x, target, c):
    """F = mean_b min over v_fb of |v_fb|^2 / 2 + loss / alpha, by a general minimiser."""
    shape = len(x), sum(net.sizes[1:])

    def energy(flat):
        v_fb = flat.reshape(shape)
        r = controlled_rates(net, x, v_fb)
        voltages = [
            below @ w.T + b + change
            for below, w, b, change in zip(
                [x, *r[:-1]], net.weights, net.biases, split(net, v_fb), strict=True
            )
        ]
        j = np.concatenate(oracle.jacobian_blocks(net, voltages), axis=2)
        pulled = np.einsum("bkn,bk->bn", j, ERRORS[c.error](r[-1], target)) / c.alpha
        loss = LOSSES[c.error](r[-1], target)
        return 0.5 * flat @ flat + loss / c.alpha, (v_fb - pulled).ravel()

    found = minimize(
        energy, np.zeros(np.prod(shape)), jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 2000}
    )
    return found.fun / len(x)


@pytest.mark.parametrize("alpha", [0.1, 1.0])
@pytest.mark.parametrize("error", LOSSES)
def test_the_update_with_transposed_jacobians_is_the_gradient_at_any_leak(error, alpha):
    """With v_fb = J(v)^T u the update is -dF/dW, for nonlinear networks, several samples, either error, any alpha.

    F is least in v_fb, so dF/dW is the derivative at fixed v_fb: -J_i^T e / alpha r_{i-1}^T = -v_fb_i r_{i-1}^T. The update
    is that of a simulation in its steady state, the derivative a difference of minima along random directions.
    """
    net, x, target = problem("tanh", 3)
    if error == "softmax":
        target = probabilities(3, 2)
    c = dfc.Controller(
        dt=0.02, steps=3000, alpha=alpha, k_p=0.0, tau_v=0.05, error=error, jacobian_feedback=True
    )
    found = vector(dfc.forward_update(net, x, target, c, readout="final", rule="voltage_difference"))
    start, rng, h = [p.copy() for p in parameters(net)], np.random.default_rng(5), 1e-4
    for _ in range(4):
        step = rng.normal(size=len(found))
        step += found / np.linalg.norm(found)
        values = []
        for sign in (1, -1):
            move(net, start, sign * h * step)
            values.append(least_energy(net, x, target, c))
        assert (values[1] - values[0]) / (2 * h) == pytest.approx(found @ step, rel=1e-5)


def move(net, start, step):
    """Sets weights and biases to start + step, a vector."""
    parts = np.split(step, np.cumsum([p.size for p in start])[:-1])
    for p, before, part in zip(parameters(net), start, parts, strict=True):
        p[...] = before + part.reshape(p.shape)


# --- learning ---------------------------------------------------------------------------------------------------


def test_learning_lowers_the_surrogate_until_no_control_is_needed():
    """A student that can reach its targets: F = H + alpha |u|^2 / 2 falls at every step, towards zero with the loss."""
    net, x, _ = problem("tanh", 6)
    teacher, _, _ = problem("tanh", 1)
    move(
        teacher,
        parameters(teacher),
        0.3 * np.random.default_rng(8).normal(size=sum(p.size for p in parameters(net))),
    )
    target = teacher.predict(x)
    c = dfc.Controller(dt=0.05, steps=300, alpha=0.05, k_p=0.0, tau_v=0.05, jacobian_feedback=True)
    record, energies, losses = dfc.Record(every=c.steps), [], []
    for _ in range(300):
        found = dfc.forward_update(
            net, x, target, c, readout="final", rule="voltage_difference", record=record
        )
        v_fb = np.concatenate([v[-1] for v in found.trajectory.v_fb], axis=1)
        energies.append((np.sum(v_fb**2) + c.alpha * np.sum(found.trajectory.u[-1] ** 2)) / (2 * len(x)))
        losses.append(np.mean((net.predict(x) - target) ** 2))
        move(net, [p.copy() for p in parameters(net)], 0.5 * vector(found))
    assert (np.diff(energies) < 0).all() and energies[-1] < 1e-3 * energies[0]
    assert losses[-1] < 1e-3 * losses[0]


def quadratic_energy(net, x, target, alpha):
    """F of a linear network with Q = J^T: mean_b delta^T (G + alpha I)^{-1} delta / 2."""
    j, delta = jacobian(net, x), target - net.predict(x)
    return 0.5 * np.mean(np.sum(delta @ np.linalg.inv(j @ j.T + alpha * np.eye(len(j))) * delta, axis=1))


def linear_regression():
    """A linear network that cannot reach its targets."""
    net, x, _ = one_sample((2, 3, 2), activation="linear", samples=8)
    return net, x, x @ np.array([[1.0, 0.5], [-0.3, 0.8]]) + 0.4 * inputs(8, 2, seed=9)


def test_a_fixed_point_minimises_the_surrogate():
    """Learning with weight decay comes to rest where the gradient of F + decay |W|^2 / 2 vanishes, and that is least there.

    A linear network whose Q follows J^T. F depends on W through G = J J^T too, as Q changes: since F is least in v_fb,
    that adds nothing at fixed v_fb, and the update is the whole gradient. No start leads a general minimiser lower.
    """
    net, x, target = linear_regression()
    alpha, decay = 0.1, 0.05
    c = dfc.Controller(alpha=alpha)

    def energy():
        norm = sum(np.sum(p**2) for p in parameters(net))
        return quadratic_energy(net, x, target, alpha) + 0.5 * decay * norm

    def change():
        set_feedback(net, jacobian(net, x).T)
        return update(net, x, target, c) - decay * np.concatenate([p.ravel() for p in parameters(net)])

    start, energies = change(), [energy()]
    assert distance(start, descent(net, energy)) < 1e-8
    for _ in range(250):
        move(net, [p.copy() for p in parameters(net)], change())
        energies.append(energy())
    assert np.linalg.norm(change()) < 1e-6 * np.linalg.norm(start) and np.diff(energies).max() < 1e-12
    assert np.linalg.norm(descent(net, energy)) < 1e-6 * np.linalg.norm(start)
    zero, rng = [np.zeros_like(p) for p in parameters(net)], np.random.default_rng(1)

    def elsewhere(flat):
        move(net, zero, flat)
        return energy()

    lowest = [minimize(elsewhere, rng.normal(size=len(start)), method="BFGS").fun for _ in range(2)]
    assert lowest == pytest.approx([energies[-1]] * 2, rel=1e-6)


def test_without_decay_learning_rests_only_where_control_vanishes():
    """Without decay no fixed point of a linear network needs control of its hidden layer, for Q = J^T and any alpha.

    <dW_2, W_2> - <dW_1, W_1> - <db_1, b_1> = mean_b (<v_fb_2, W_2 r_1> - <v_fb_1, W_1 x + b_1>) = mean_b |v_fb_1|^2, as
    v_fb_1 = W_2^T v_fb_2 and r_1 = W_1 x + b_1 + v_fb_1. If W_2 has full row rank, a fixed point thus needs u = 0 for every
    sample. Targets that cannot be reached let W_2 grow instead: H falls as G rises, for ever. Source: derived here.
    """
    net, x, target = linear_regression()
    c = dfc.Controller(alpha=0.1)
    set_feedback(net, jacobian(net, x).T)
    found = dfc.forward_update(net, x, target, c, readout="newton", rule="voltage_difference")
    above = np.vdot(found.weights[1], net.weights[1])
    below = np.vdot(found.weights[0], net.weights[0]) + found.biases[0] @ net.biases[0]
    hidden = dfc.steady_state(net, x, target, c).delta_v[0]
    assert above - below == pytest.approx(np.mean(np.sum(hidden**2, axis=1)), rel=1e-12) and above > below
