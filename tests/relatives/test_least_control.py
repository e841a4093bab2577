"""Least control: phases beside a plain version, its optimum, its kinship with DFC, refusals."""

from dataclasses import replace

import numpy as np
import pytest
import relatives_oracle as oracle

import dfc_numba as dfc
from dfc_numba.relatives import control_learning as cl
from dfc_numba.relatives import least_control as lc
from dfc_numba.relatives.energy_control import EnergyControl, energy_control

SIZES = [6, 5, 4, 3]


def problem(*, count=5, recurrent=False, dtype="float64", **values):
    rng = np.random.default_rng(2)
    if recurrent:
        net = lc.RecurrentNetwork.create([6, 7, 3], seed=1)
        net.weights *= 0.5
    else:
        net = dfc.Network.create(SIZES, seed=1, dtype=dtype)
        for b in net.biases:
            b[...] = 0.3 * rng.standard_normal(b.shape)
    return net, lc.LeastControl(**values), rng.standard_normal((count, 6)), np.arange(count) % 3


def blocks(net):
    """A feedforward network as a recurrent one: (U, W, D, b, c), W block sub-diagonal."""
    hidden = net.sizes[1:-1]
    total, starts = sum(hidden), np.cumsum([0, *hidden])
    u, w, d = np.zeros((total, net.sizes[0])), np.zeros((total, total)), np.zeros((net.sizes[-1], total))
    u[: hidden[0]] = net.weights[0]
    for i in range(1, len(hidden)):
        w[starts[i] : starts[i + 1], starts[i - 1] : starts[i]] = net.weights[i]
    d[:, starts[-2] :] = net.weights[-1]
    return u, w, d, np.concatenate(net.biases[:-1]), net.biases[-1]


def plain(parts, x, y, options, steps):
    """The Euler steps of "di" in plain NumPy, dense, from the module's equations."""
    u_in, w, d, b, c = parts
    v, e = np.zeros((len(x), len(w))), np.zeros((len(x), len(w)))
    o, integral = np.zeros((len(x), len(d))), np.zeros((len(x), len(d)))
    one_hot, dt = np.eye(len(d))[y], options.dt
    for _ in range(steps):
        down = (one_hot - oracle.softmax(o)) / len(x)
        u = options.k_i * integral + options.k_p * down
        r = np.tanh(v)
        v, e, o, integral = (
            v + dt / options.tau_v * (r @ w.T + x @ u_in.T + b - v + e),
            e + dt / options.tau_e * ((1 - r**2) * (e @ w + u @ d) - e),
            o + dt / options.tau_v * (r @ d.T + c - o + u),
            integral + dt / options.tau_u * (down - options.alpha * integral),
        )
    return v, e, o, integral


@pytest.mark.parametrize("recurrent", [False, True])
def test_the_phase_follows_the_equations(recurrent):
    net, options, x, y = problem(
        recurrent=recurrent, dt=0.4, steps=30, tau_v=1.5, tau_e=2.0, k_p=0.3, tolerance=0.0
    )
    if recurrent:
        parts = (
            net.input_weights,
            net.weights,
            net.output_weights,
            net.input_biases + net.biases,
            net.output_biases,
        )
    else:
        parts = blocks(net)
    state = lc.controlled_phase(net, x, y, options)
    expected = plain(parts, x, y, options, 30)
    ours = np.concatenate(state.v, axis=1), np.concatenate(state.e, axis=1), state.o, state.u_int
    assert all(np.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(ours, expected, strict=True))


def test_at_rest_the_control_is_the_transposed_jacobian_times_u():
    net, options, x, y = problem(steps=5000, tolerance=1e-14, alpha=1.0, dt=0.5)
    state = lc.controlled_phase(net, x, y, options)
    assert state.converged.all()
    v = [*state.v, state.o]
    slopes = [1 - np.tanh(a) ** 2 for a in v[:-1]]
    back = state.u
    for w, slope, e in zip(net.weights[:0:-1], slopes[::-1], state.e[::-1], strict=True):
        back = slope * (back @ w)
        assert np.allclose(e, back, atol=1e-12)


def test_dfc_with_transposed_jacobian_feedback_has_the_same_rest():
    """LCP-DI is DFC with J^T u, the softmax error, one-hot targets and a leak of alpha B."""
    net, options, x, y = problem(alpha=0.5)
    rest = lc.controlled_equilibrium(net, x, y, options, tolerance=1e-13)
    controller = dfc.Controller(
        jacobian_feedback=True,
        error="softmax",
        alpha=options.alpha * len(x),
        k_p=0.0,
        dt=0.02,
        steps=4000,
        tau_v=0.2,
    )
    trajectory = dfc.simulate(net, x, np.eye(3)[y], controller, record=dfc.Record(every=4000))
    assert np.allclose(trajectory.v[0][-1], rest.v[0], atol=1e-8)
    assert np.allclose(trajectory.u[-1], rest.u, atol=1e-8)
    update = dfc.forward_update(net, x, np.eye(3)[y], controller, readout="final", rule="voltage_difference")
    ours = cl.control_update(net, x, y, options, state=rest)
    for theirs, w in zip(update.weights, ours.weights, strict=True):
        assert np.allclose(
            theirs * len(x), w, atol=1e-7
        )  # DFC's update is a mean over samples, least control's a sum


def test_the_alternating_passes_find_the_rest_of_the_dynamics():
    for values in ({"loss": "mse"}, {"loss": "cross_entropy", "k_p": 0.2}):
        net, options, x, y = problem(steps=20_000, tolerance=1e-14, alpha=1.0, dt=0.3, **values)
        stepped = lc.controlled_phase(net, x, y, options)
        solved = lc.controlled_equilibrium(net, x, y, options, tolerance=1e-13)
        assert solved.converged.all()
        for a, b in zip([*stepped.v, stepped.u, *stepped.e], [*solved.v, solved.u, *solved.e], strict=True):
            assert np.allclose(a, b, atol=1e-10)


def test_the_update_descends_along_the_numerical_gradient_of_the_least_control_energy():
    """At the optimum dE/dtheta is its explicit part (envelope theorem): minus the update."""
    net, options, x, y = problem(alpha=1.0)

    def energy():
        state = lc.controlled_equilibrium(net, x, y, options, tolerance=1e-14)
        control = sum(np.sum(e**2) for e in [*state.e, state.u]) / 2
        return control - np.mean(np.log(oracle.softmax(state.o)[range(len(y)), y])) / options.alpha

    update = cl.control_update(
        net, x, y, options, state=lc.controlled_equilibrium(net, x, y, options, tolerance=1e-14)
    )
    for w, change in zip(net.weights, update.weights, strict=True):
        assert np.allclose(-change, oracle.numerical_gradient(energy, w, 1e-5), atol=1e-8)


def test_energy_control_comes_to_the_same_rest():
    net, options, x, y = problem(alpha=1.0)
    by_energy = energy_control(net, x, y, EnergyControl(alpha=1.0, learning_rate=3e-3, steps=6000))
    rest = lc.controlled_equilibrium(net, x, y, options)
    assert np.allclose(by_energy.state.v[0], rest.v[0], atol=1e-4)
    assert np.allclose(by_energy.state.u, rest.u, atol=1e-4)


def numerical_descent(net, x, y, loss):
    """Minus the numerical gradient of the mean loss of a recurrent network's free equilibrium, by name."""
    resting = lc.LeastControl(dt=1.0, steps=5000, tolerance=1e-15)

    def value():
        output = lc.free_equilibrium(net, x, resting).output
        if loss == "mse":
            return np.mean((output - np.eye(3)[y]) ** 2)
        return -np.mean(np.log(oracle.softmax(output)[range(len(y)), y]))

    return {name: -oracle.numerical_gradient(value, array, 1e-5) for name, array in net.parameters().items()}


def largest_deviation(update, expected, factor=1.0):
    """The largest deviation of an update's arrays, each relative to the largest number expected there."""
    pairs = [(factor * update.weights[name], array) for name, array in expected.items()]
    return max(np.abs(ours - array).max() / np.abs(array).max() for ours, array in pairs)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_recurrent_backpropagation_descends_along_the_numerical_gradient(loss, activation, monkeypatch):
    net, options, x, y = problem(recurrent=True, loss=loss, steps=5000, tolerance=1e-14)
    net.activation = activation
    targets = np.eye(3)[y]
    expected = numerical_descent(net, x, y, loss)
    assert largest_deviation(cl.recurrent_backpropagation(net, x, targets, options), expected) < 1e-3
    monkeypatch.setattr(cl, "ADJOINT_TOLERANCE", 1e-13)
    update = cl.recurrent_backpropagation(net, x, targets, options)
    assert update.state.converged.all()
    assert largest_deviation(update, expected) < 1e-7


@pytest.mark.parametrize("values", [{}, {"k_i": 0.5, "k_p": 2e-4}])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_the_recurrent_update_at_rest_is_the_gradient_in_the_limit_of_weak_control(loss, values):
    """u* = -(k_i/alpha + k_p) dl/do, and e* = (I - J^T)^-1 (do/dv)^T u*: as alpha grows, the gain times the gradient."""
    deviations, expected = [], None
    for alpha in (1e2, 1e3, 1e4):
        scaled = {**values, "k_p": values.get("k_p", 0.0) * 1e4 / alpha}
        net, options, x, y = problem(
            recurrent=True, alpha=alpha, tau_u=alpha, dt=0.5, loss=loss, steps=5000, tolerance=1e-14, **scaled
        )
        expected = numerical_descent(net, x, y, loss) if expected is None else expected
        update = cl.control_update(net, x, np.eye(3)[y], options)
        assert update.state.converged.all()
        deviations.append(largest_deviation(update, expected, 1.0 / options.rest_gain))
    assert deviations[-1] < 1e-3
    ratios = np.divide(deviations[:-1], deviations[1:])
    assert np.all((ratios > 8.0) & (ratios < 12.5))  # the deviation is of first order in 1 / alpha


def test_kolen_pollack_makes_both_sides_of_a_pair_agree():
    net, options, x, y = problem(rule="kp", alpha=1.0, tolerance=1e-10, steps=3000, dt=0.5)
    pairs = cl.initial_transposed(net, seed=4)
    apart = []
    for _ in range(60):
        net, pairs = cl.decayed(net, pairs, 0.05)
        update = cl.control_update(net, x, y, options, transposed=pairs)
        apart.append(np.linalg.norm(net.weights[1].T - pairs[0]))
        for i, w in enumerate(net.weights):
            w += 0.1 * update.weights[i]
        pairs = [s + 0.1 * change for s, change in zip(pairs, update.transposed, strict=True)]
    assert apart[-1] < 0.1 * apart[0]


def test_linear_feedback_learns_towards_the_transposed_jacobian():
    net, options, x, y = problem(
        rule="lf", alpha=1.0, sigma=0.1, steps=400, tau_q=1e3, dt=0.5, tolerance=1e-9, count=150
    )
    q = cl.initial_feedback(net, seed=0)
    state = lc.controlled_phase(net, x, y, options, feedback=q)
    changes = [
        cl.noisy_feedback_update(net, x, y, options, state, feedback=q, noise=k).feedback
        for k in (3, 3, 4, 5)
    ]
    assert all(map(np.array_equal, changes[0], changes[1]))
    jacobian = (1 - np.tanh(state.v[1]) ** 2).mean(axis=0)[:, None] * net.weights[2].T
    decay = options.dt / options.tau_q * options.decay * q[1]
    learned = sum(change[1] + decay for change in changes[1:])
    cosine = np.sum(learned * jacobian) / np.linalg.norm(learned) / np.linalg.norm(jacobian)
    assert cosine > 0.5


def test_a_recurrent_network_without_equilibrium_is_flagged_per_sample_and_left_out():
    net, options, x, y = problem(recurrent=True, steps=300)
    net.weights *= 40.0
    net.activation = "linear"
    state = lc.controlled_phase(net, x, y, options)
    assert not state.converged.any()
    assert not state.finite.any()
    assert state.steps < 60
    update = cl.control_update(net, x, y, options, state=state)
    assert update.diverged.all()
    assert not any(np.any(change) for change in update.weights.values())
    with pytest.raises(ValueError, match="no stable equilibrium"):
        energy_control(net, x, y, EnergyControl(from_free_state=True))


RUNAWAY = np.arange(5) == 1


def excitable(**values):
    """(network, options, x, y, x without the runaway): unit 0 excites itself threefold once sample 1 has opened it."""
    net, options, x, y = problem(recurrent=True, alpha=1.0, **{"dt": 0.5, "steps": 2000, **values})
    net.activation = "relu"
    net.weights[0], net.input_weights[0], net.input_biases[0], net.biases[0] = 0.0, 0.0, 0.0, 0.0
    net.weights[0, 0], net.input_weights[0, 0] = 3.0, 1.0
    x[:, 0] = -2.0
    calm = x.copy()
    x[RUNAWAY, 0] = 2.0
    return net, options, x, y, calm


def feedback_of(net, rule):
    pairs = cl.initial_transposed(net, seed=3)
    given = {
        "kp": {"transposed": pairs},
        "lf": {"feedback": [0.1 * q for q in cl.initial_feedback(net, seed=3)]},
    }
    return given.get(rule, {})


@pytest.mark.parametrize("rule", ["di", "kp", "lf"])
@pytest.mark.parametrize("steps", [20, 60, 1500])
def test_a_runaway_sample_does_not_affect_the_states_of_the_others(rule, steps):
    net, options, x, y, calm = excitable(rule=rule, tolerance=0.0, steps=steps)
    given = feedback_of(net, rule)
    state = lc.controlled_phase(net, x, y, options, record=True, **given)
    twin = lc.controlled_phase(net, calm, y, options, record=True, **given)
    assert state.steps == twin.steps == steps
    assert twin.finite.all()
    assert np.array_equal(state.finite, ~RUNAWAY if steps > 50 else np.ones(5, bool))
    for name, arrays in state.trajectory.items():
        for ours, theirs in zip(arrays, twin.trajectory[name], strict=True):
            assert np.isfinite(ours).all()
            assert np.array_equal(ours[:, ~RUNAWAY], theirs[:, ~RUNAWAY])


@pytest.mark.parametrize("rule", ["di", "kp", "lf"])
def test_a_runaway_sample_neither_ends_the_phase_nor_takes_part_in_the_update(rule):
    net, options, x, y, calm = excitable(rule=rule, tolerance=1e-12)
    given = feedback_of(net, rule)
    state, twin = (lc.controlled_phase(net, inputs, y, options, **given) for inputs in (x, calm))
    assert np.array_equal(state.finite, ~RUNAWAY)
    assert np.array_equal(state.converged, ~RUNAWAY)
    assert state.steps < options.steps
    update = cl.control_update(net, x, y, options, state=state, **given)
    assert np.array_equal(update.diverged, RUNAWAY)
    without = cl.control_update(net, calm, y, options, state=replace(twin, finite=~RUNAWAY), **given)
    for name, change in update.weights.items():
        assert np.allclose(change, without.weights[name], rtol=1e-6, atol=1e-9)
        assert np.any(change)
    if rule == "kp":
        for change, expected in zip(update.transposed, without.transposed, strict=True):
            assert np.allclose(change, expected, rtol=1e-6, atol=1e-9)


def test_a_runaway_sample_takes_no_part_in_the_learning_of_linear_feedback():
    net, options, x, y, calm = excitable(rule="lf", tolerance=0.0, steps=60)
    given = feedback_of(net, "lf")
    state, twin = (lc.controlled_phase(net, inputs, y, options, **given) for inputs in (x, calm))
    noisy = cl.noisy_feedback_update(net, x, y, options, state, noise=4, **given)
    calm_noisy = cl.noisy_feedback_update(net, calm, y, options, twin, noise=4, **given)
    rate = options.dt / options.tau_q
    expected = rate * (
        calm_noisy.correlation[0][~RUNAWAY].mean(axis=0) - options.decay * given["feedback"][0]
    )
    assert np.allclose(noisy.feedback[0], expected, rtol=1e-12, atol=0)


def test_a_runaway_sample_is_frozen_in_the_free_phase_and_left_out_of_recurrent_backpropagation():
    net, options, x, y, calm = excitable()
    free, twin = lc.free_equilibrium(net, x, options), lc.free_equilibrium(net, calm, options)
    assert np.array_equal(free.finite, ~RUNAWAY)
    assert np.array_equal(free.converged, ~RUNAWAY)
    assert twin.converged.all()
    assert np.isfinite(free.output).all()
    fixed = replace(options, tolerance=0.0, steps=80)
    states = [lc.free_equilibrium(net, inputs, fixed) for inputs in (x, calm)]
    assert np.array_equal(states[0].v[0][~RUNAWAY], states[1].v[0][~RUNAWAY])
    update = cl.recurrent_backpropagation(net, x, y, options)
    assert np.array_equal(update.diverged, RUNAWAY)
    assert np.array_equal(update.state.finite, ~RUNAWAY)
    others = cl.recurrent_backpropagation(net, x[~RUNAWAY], y[~RUNAWAY], options)
    for name, change in update.weights.items():
        assert np.allclose(5 * change, 4 * others.weights[name], rtol=1e-3, atol=1e-6), name
        assert np.any(change)


def test_alternating_passes_that_run_away_are_flagged_and_left_out():
    options, targets = lc.LeastControl(loss="mse", alpha=0.05), np.eye(3)[np.arange(5) % 3]
    net = dfc.Network.create(SIZES, seed=1, dtype="float64", hidden_activation="relu")
    for w, b in zip(net.weights, net.biases, strict=True):
        w *= 3.0
        b[...] = -1.0
    x = np.where(RUNAWAY[:, None], np.sign(net.weights[0][0]), 0.0)  # 0 opens no unit
    state = lc.controlled_equilibrium(net, x, targets, options, iterations=400)
    assert np.array_equal(state.finite, ~RUNAWAY)
    assert np.array_equal(state.converged, ~RUNAWAY)
    assert state.steps < 400
    update = cl.control_update(net, x, targets, options, state=state)
    assert np.array_equal(update.diverged, RUNAWAY)
    assert max(np.abs(change).max() for change in update.weights) < 10.0


def test_an_adjoint_that_runs_away_stops_that_sample_only(monkeypatch):
    """W^T phi' has an eigenvalue of 3 at the free equilibrium given, but for the others' zero slopes."""
    net, options, x, y, calm = excitable()
    free = lc.free_equilibrium(net, calm, options)
    free.v[0][RUNAWAY, 0] = 1.0
    monkeypatch.setattr(cl, "ADJOINT_TOLERANCE", 1e-12)
    update = cl.recurrent_backpropagation(net, calm, y, options, free=free)
    assert np.array_equal(update.state.finite, ~RUNAWAY)
    assert np.array_equal(update.state.converged, ~RUNAWAY)
    others = cl.recurrent_backpropagation(net, calm[~RUNAWAY], y[~RUNAWAY], options)
    assert np.allclose(5 * update.weights["weights"], 4 * others.weights["weights"], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lc.LeastControl(alpha=0.0), "alpha is 0.0"),
        (lambda: lc.LeastControl(dt=2.0), "choose dt <= tau_v"),
        (lambda: lc.LeastControl(k_i=0.0), "exerts no control"),
        (lambda: lc.LeastControl(rule="ls"), "'lf'"),
        (lambda: phase(rule="kp"), "needs transposed"),
        (lambda: phase(transposed=[np.zeros((5, 4))]), "has no transposed"),
        (lambda: phase(rule="lf", feedback=[np.zeros((5, 3))]), "list of 2 arrays"),
        (lambda: phase(rule="lf", feedback=[np.zeros((5, 3)), np.zeros((4, 2))]), r"feedback\[1\] has shape"),
        (
            lambda: lc.controlled_phase(relu_output(), np.zeros((2, 6)), [0, 1], lc.LeastControl()),
            "reads out linearly",
        ),
        (lambda: passes(recurrent=True), "use controlled_phase"),
    ],
)
def test_bad_input_is_refused_with_its_reason(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def phase(transposed=None, feedback=None, **values):
    net, options, x, y = problem(**values)
    return lc.controlled_phase(net, x, y, options, transposed=transposed, feedback=feedback)


def passes(**values):
    net, options, x, y = problem(**values)
    return lc.controlled_equilibrium(net, x, y, options)


def relu_output():
    return dfc.Network.create(SIZES, output_activation="relu")
