"""float32 that can be trusted: updates against float64 with the same weights, at any nudge."""

from functools import cache
from itertools import product

import numpy as np
import problems
import pytest

import dfc_numba as dfc
from dfc_numba.dynamics.plasticity import READOUTS

RULES = ["nonlinear_difference", "voltage_difference", "derivative_matrix"]

# relative norm; what is promised is 2e-5
BOUND = 5e-6
SIZES, SAMPLES, STEPS = [40, 64, 64, 10], 32, 300
STATES = {"at initialisation": 0, "trained": 15}
SIMULATED = ("average", "final")
# name -> (loss or None for strong feedback, nudge, error of the controller)
TASKS = {f"nudge {step:g}": ("cross_entropy", step, "difference") for step in (6e-4, 1e-2, 0.08, 0.5)}
TASKS["nudge 0.08 of mse"] = ("mse", 0.08, "difference")
TASKS["strong"] = (None, None, "difference")
TASKS["strong softmax"] = (None, None, "softmax")

each_state = pytest.mark.parametrize("state", STATES)
each_activation = pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu"])
each_task = pytest.mark.parametrize("task", TASKS)


@cache
def data():
    """(x, labels) with labels that a small network can learn."""
    return problems.inputs(SAMPLES, SIZES[0]), np.random.default_rng(4).integers(0, SIZES[-1], SAMPLES)


@cache
def network(activation, state):
    """A float32 network, after some steps of training."""
    x, y = data()
    net = dfc.Network.create(SIZES, hidden_activation=activation, feedback_init="weight_product", seed=3)
    for _ in range(STATES[state]):
        target = dfc.output_target(net, x, y, loss="cross_entropy", step=0.1)
        update = dfc.forward_update(net, x, target, dfc.Controller(steps=100))
        for parameter, delta in zip(net.weights + net.biases, update.weights + update.biases, strict=True):
            parameter += 30 * delta
        net.set_feedback("weight_product")
    return net.copy(dtype="float32")


def test_training_moves_the_network():
    """So that the trained state is another one than the first."""
    x, y = data()
    before, after = (network("tanh", state).predict(x) for state in STATES)
    assert (after.argmax(axis=1) == y).mean() > 0.9 > (before.argmax(axis=1) == y).mean()


def problem(activation, state, task):
    """(float32 network, float64 network, x, target, controller)."""
    single = network(activation, state)
    double = single.copy(dtype="float64")
    loss, nudge, error = TASKS[task]
    x, y = data()
    wanted = 0.01 + 0.9 * np.eye(SIZES[-1])[y]
    target = wanted if loss is None else dfc.output_target(double, x, wanted, loss=loss, step=nudge)
    return single, double, x, target, dfc.Controller(steps=STEPS, error=error)


def flat(arrays):
    return np.concatenate([np.ravel(array) for array in arrays]).astype(np.float64)


def relative_norm(ours, theirs):
    """Norm of the difference of two lists of arrays over the norm of the second."""
    return np.linalg.norm(flat(ours) - flat(theirs)) / np.linalg.norm(flat(theirs))


def without_flips(single, double, x, target, controller):
    """The samples of which every unit is on the same side of its kink in either precision, at every step."""
    record = dfc.Record(variables=("v", "v_ff"))
    both = [dfc.simulate(net, x, target, controller, record=record) for net in (single, double)]
    ours, theirs = ([voltage > 0 for voltage in (*t.v[:-1], *t.v_ff[:-1])] for t in both)
    flips = np.array([(a != b).any(axis=(0, 2)) for a, b in zip(ours, theirs, strict=True)]).any(axis=0)
    assert flips.mean() < 0.1
    return ~flips


def compared(activation, state, task):
    """As `problem`, with the samples that may be compared."""
    single, double, x, target, controller = problem(activation, state, task)
    kept = without_flips(single, double, x, target, controller) if activation == "relu" else slice(None)
    return single, double, x[kept], target[kept], controller


@each_task
@each_state
@each_activation
def test_forward_updates_in_float32_are_close_to_float64(activation, state, task):
    single, double, x, target, controller = compared(activation, state, task)
    for readout, rule in product(SIMULATED if controller.error == "softmax" else READOUTS, RULES):
        ours, theirs = (
            dfc.forward_update(net, x, target, controller, readout=readout, rule=rule)
            for net in (single, double)
        )
        assert ours.weights[0].dtype == ours.biases[0].dtype == np.float32
        assert relative_norm(ours.weights, theirs.weights) < BOUND, (readout, rule)
        assert relative_norm(ours.biases, theirs.biases) < BOUND, (readout, rule)
        for i in range(len(SIZES) - 1):
            assert relative_norm(ours.weights[i : i + 1], theirs.weights[i : i + 1]) < 2 * BOUND, (
                readout,
                rule,
                i,
            )


@pytest.mark.parametrize("tau_noise", [None, 0.1])
@each_state
@each_activation
def test_feedback_updates_in_float32_are_close_to_float64(activation, state, tau_noise):
    """Learning of the feedback weights from the same noise, about the feedforward output."""
    single, double, x, _, _ = problem(activation, state, "strong")
    controller = dfc.Controller(steps=48, sigma=0.05, tau_noise=tau_noise)
    target = double.predict(x)
    ours, theirs = (dfc.feedback_update(net, x, target, controller, noise=7) for net in (single, double))
    assert ours.feedback[0].dtype == np.float32
    assert relative_norm(ours.feedback, theirs.feedback) < BOUND


@each_state
@each_activation
def test_forward_and_feedback_updates_with_noise_in_float32_are_close_to_float64(activation, state):
    single, double, x, target, _ = problem(activation, state, "strong")
    controller = dfc.Controller(steps=100, sigma=0.01, tau_noise=0.1)
    both = [
        dfc.forward_and_feedback_update(net, x, target, controller, noise=7, high_pass=1.0)
        for net in (single, double)
    ]
    assert relative_norm(both[0][0].weights, both[1][0].weights) < BOUND
    assert relative_norm(both[0][1].feedback, both[1][1].feedback) < BOUND


@pytest.mark.parametrize("readout", SIMULATED)
@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_a_network_with_many_saturated_units(activation, readout):
    net = dfc.Network.create(SIZES, hidden_activation=activation, feedback_init="weight_product", seed=3)
    for bias in net.biases[:-1]:
        bias[:] = np.random.default_rng(0).uniform(-25, 25, bias.size)
    single = net.copy(dtype="float32")
    double = single.copy(dtype="float64")
    x, y = data()
    target = dfc.output_target(double, x, y, loss="cross_entropy", step=6e-4)
    controller = dfc.Controller(steps=STEPS)
    ours, theirs = (dfc.forward_update(n, x, target, controller, readout=readout) for n in (single, double))
    for found, expected in zip(ours.weights + ours.biases, theirs.weights + theirs.biases, strict=True):
        assert relative_norm([found], [expected]) < 2 * BOUND


def test_a_target_in_float32_costs_digits():
    """Why targets are float64: the nudge is a small difference of outputs."""
    single, double, x, target, controller = problem("tanh", "at initialisation", "nudge 0.0006")
    rounded = dfc.forward_update(single, x, target.astype(np.float32), controller)
    assert relative_norm(rounded.weights, dfc.forward_update(double, x, target, controller).weights) > BOUND


# --- differences from the feedforward state through the whole feedback phase -------------------------------


def difference(activation, v_ff, deviation, readout, dtype):
    """phi(v_ff + d) - phi(v_ff): the update of a hidden layer that noise moves by d in the only step."""
    n = len(v_ff)
    net = dfc.Network(
        weights=[np.zeros((n, 1)), np.zeros((1, n))], biases=[v_ff, np.zeros(1)],
        feedback=[np.zeros((n, 1)), np.zeros((1, 1))], hidden_activation=activation, dtype=dtype,
    )  # fmt: skip
    controller = dfc.Controller(dt=1, steps=1, alpha=0, k_p=0, instant_dynamics=True, sigma=1)
    noise = [np.zeros((2, 1, n)), np.zeros((2, 1, 1))]
    noise[0][1, 0] = deviation
    update = dfc.forward_update(net, [[1.0]], [[0.0]], controller, noise=noise, readout=readout)
    return update.weights[0][:, 0] * (controller.time_points if readout == "average" else 1)


def exact_difference(activation, v_ff, deviation):
    half = 1.0 if activation == "tanh" else 0.5
    return half * np.sinh(half * deviation) / (np.cosh(half * v_ff) * np.cosh(half * (v_ff + deviation)))


each_readout = pytest.mark.parametrize("readout", SIMULATED)


@each_readout
@pytest.mark.parametrize("size", [1e-9, 1e-6, 1e-3, 1.0])
@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_small_differences_keep_their_digits(activation, size, readout):
    rng = np.random.default_rng(0)
    v_ff, d = (
        rng.uniform(-10, 10, 500).astype(np.float32),
        (size * rng.standard_normal(500)).astype(np.float32),
    )
    exact = exact_difference(activation, v_ff.astype(float), d.astype(float))
    found = difference(activation, v_ff, d, readout, "float32")
    assert np.max(np.abs(found - exact) / np.abs(exact)) < 1e-6


@each_readout
@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_saturated_units_that_are_driven_back(activation, readout):
    v_ff = np.linspace(-60, 60, 501).astype(np.float32)
    d = (-1.5 * v_ff).astype(np.float32)
    exact = exact_difference(activation, v_ff.astype(float), d.astype(float))
    np.testing.assert_allclose(difference(activation, v_ff, d, readout, "float64"), exact, atol=1e-15)
    np.testing.assert_allclose(difference(activation, v_ff, d, readout, "float32"), exact, atol=1e-6)
