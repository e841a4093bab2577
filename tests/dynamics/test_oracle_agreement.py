"""Random configurations: the package against the oracle, every option, readout and rule, float64 and float32."""

import numpy as np
import oracle
import problems
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dfc_numba as dfc

DOUBLE = 1e-11
SINGLE_TRAJECTORY, SINGLE_UPDATE, SINGLE_SMALL_NUDGE = 1e-5, 2e-5, 1e-6
ACTIVATIONS = st.sampled_from(["linear", "tanh", "relu", "leakyrelu", "sigmoid"])
RULES = st.sampled_from(["nonlinear_difference", "voltage_difference", "derivative_matrix"])


def random_cases(max_examples):
    """Hypothesis settings: always the same examples, compilation takes its time."""
    return settings(
        max_examples=max_examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@st.composite
def networks(draw, dtype=np.float64):
    """Keyword arguments of a network with 1 to 4 hidden layers of odd and even widths, and a number of samples."""
    hidden = draw(st.lists(st.integers(1, 37), min_size=1, max_size=4))
    sizes = [draw(st.integers(1, 11)), *hidden, draw(st.integers(1, 7))]
    names = draw(st.one_of(ACTIVATIONS, st.lists(ACTIVATIONS, min_size=len(hidden), max_size=len(hidden))))
    seed, bias = draw(st.integers(0, 10_000)), draw(st.booleans())
    return problems.parameters(sizes, seed, bias=bias, activation=names, feedback_gain=0.3, dtype=dtype)


@st.composite
def controllers(draw, *, learns_feedback=False):
    """Keyword arguments of a controller that keeps the loop stable; time constants from one to several steps.

    Learning the feedback weights takes noise, and layers that receive Q u.
    """
    either = st.booleans()
    dt = draw(st.sampled_from([0.01, 0.03, 0.05]))
    instant_dynamics = draw(st.sampled_from([False, False, False, True]))
    noise = {}
    if learns_feedback or draw(either):
        noise = {
            "sigma": draw(st.sampled_from([0.0, 0.005, 0.1])),
            "sigma_output": 0.07,
            "tau_noise": draw(time_constants(dt)),
        }
        noise |= draw(st.sampled_from([{}, {"sigma": 0.08, "sigma_output": None}]))
    k_p = 0.0 if instant_dynamics else draw(st.sampled_from([0.0, 0.2, 0.5]))
    return dict(
        dt=dt,
        steps=draw(st.integers(1, 25)),
        alpha=draw(st.sampled_from([0.0, 0.01, 0.5])),
        k_p=k_p,
        tau_v=0.2 if k_p else draw(st.sampled_from([dt, 0.2])),
        tau_apical=draw(time_constants(dt)),
        tau_control=draw(time_constants(dt)),
        instant_transmission=draw(either),
        instant_dynamics=instant_dynamics,
        proactive=draw(either),
        error=draw(st.sampled_from(["difference", "softmax"])),
        jacobian_feedback=not learns_feedback and draw(st.sampled_from([False, False, True])),
        leak=draw(st.sampled_from(["total", "integral"])),
        **noise,
    )


def time_constants(dt):
    """None, the step itself, or a few steps."""
    return st.sampled_from([None, dt, 0.15])


SAMPLES = st.sampled_from([1, 5, 37])


class Problem:
    """One random case for both implementations."""

    def __init__(self, network, controller, n_samples):
        self.net, self.controller = dfc.Network(**network), dfc.Controller(**controller)
        self.slow_net, self.slow_controller = oracle.Network(**network), oracle.Controller(**controller)
        sizes = self.net.sizes
        self.x = problems.inputs(n_samples, sizes[0]).astype(network["weights"][0].dtype)
        nudged = self.slow_net.forward(self.x).r[-1] + 0.2 * problems.inputs(n_samples, sizes[-1], seed=5)
        softmax = self.controller.error == "softmax"
        self.target = problems.probabilities(n_samples, sizes[-1]) if softmax else nudged
        self.noise = problems.draws(self.controller, sizes, n_samples) if self.controller.noisy else None

    def both(self, name, **options):
        """Call one function of the package and of the oracle."""
        ours = getattr(dfc, name)(self.net, self.x, self.target, self.controller, **options)
        theirs = getattr(oracle, name)(self.slow_net, self.x, self.target, self.slow_controller, **options)
        return ours, theirs


def assert_same_arrays(ours, theirs, bound):
    """Lists of arrays (or None) agree relative to their largest value; all-zero ones to the scale of the state."""
    assert (ours is None) == (theirs is None)
    for found, expected in zip(ours or [], theirs or [], strict=True):
        assert problems.relative_deviation(found, expected, floor=1e-3) < bound


def assert_same_trajectory(ours, theirs, bound):
    for name in ("v", "v_ff", "v_fb", "r"):
        assert_same_arrays(getattr(ours, name), getattr(theirs, name), bound)
    for name in ("time", "u", "u_int", "error"):
        assert_same_arrays([getattr(ours, name)], [getattr(theirs, name)], bound)


@random_cases(150)
@given(networks(), controllers(), SAMPLES)
def test_simulate_agrees_with_the_oracle(network, controller, n_samples):
    problem = Problem(network, controller, n_samples)
    ours, theirs = problem.both("simulate", noise=problem.noise)
    assert_same_trajectory(ours, theirs, DOUBLE)
    np.testing.assert_array_equal(ours.converged, theirs.converged)
    np.testing.assert_array_equal(ours.diverged, theirs.diverged)


@random_cases(150)
@given(networks(), controllers(), SAMPLES, st.sampled_from(["average", "final"]), RULES)
def test_forward_update_from_a_simulation(network, controller, n_samples, readout, rule):
    problem = Problem(network, controller, n_samples)
    ours, theirs = problem.both("forward_update", readout=readout, rule=rule, noise=problem.noise)
    assert_same_arrays(ours.weights, theirs.weights, DOUBLE)
    assert_same_arrays(ours.biases, theirs.biases, DOUBLE)


@pytest.mark.parametrize("rule", ["nonlinear_difference", "voltage_difference", "derivative_matrix"])
@pytest.mark.parametrize("readout", ["average", "final"])
def test_forward_update_of_the_converged_samples(readout, rule):
    network = problems.stable_parameters([4, 7, 5, 3])
    controller = {
        "dt": 0.1,
        "steps": 150,
        "alpha": 0.1,
        "k_p": 0.0,
        "tau_v": 0.2,
        "convergence_epsilon": 0.22,
    }
    problem = Problem(network, controller, 21)
    problem.target[::3] += 2.5
    ours, theirs = problem.both("forward_update", readout=readout, rule=rule, samples="converged")
    assert 0 < theirs.converged.sum() < 21
    np.testing.assert_array_equal(ours.converged, theirs.converged)
    assert_same_arrays(ours.weights, theirs.weights, DOUBLE)
    assert_same_arrays(ours.biases, theirs.biases, DOUBLE)


LINEAR_CONTROLLERS = st.fixed_dictionaries(
    {
        "dt": st.just(0.05),
        "steps": st.just(1),
        "alpha": st.just(0.3),
        "k_p": st.sampled_from([0.0, 2.0]),
        "leak": st.sampled_from(["total", "integral"]),
        "jacobian_feedback": st.booleans(),
    }
)


@random_cases(80)
@given(networks(), SAMPLES, RULES, LINEAR_CONTROLLERS)
def test_analytic_update_and_steady_state(network, n_samples, rule, controller):
    problem = Problem(network, controller, n_samples)
    ours, theirs = problem.both("forward_update", readout="analytic", rule=rule)
    assert_same_arrays(ours.weights, theirs.weights, DOUBLE)
    assert_same_arrays(ours.biases, theirs.biases, DOUBLE)
    ours, theirs = problem.both("steady_state", method="linear")
    for name in ("v", "r", "delta_v"):
        assert_same_arrays(getattr(ours, name), getattr(theirs, name), DOUBLE)
    assert_same_arrays([ours.u], [theirs.u], DOUBLE)
    theirs = oracle.output_jacobian(problem.slow_net, problem.x)
    assert_same_arrays([dfc.output_jacobian(problem.net, problem.x)], [theirs], DOUBLE)


@st.composite
def feedback_options(draw, controller):
    """Options of the feedback update that suit a controller."""
    return {
        "high_pass": draw(st.sampled_from([None, controller["dt"], 0.5])),
        "scaling": controller["tau_noise"] is not None and draw(st.booleans()),
        "normalise": draw(st.sampled_from([None, (0.05, 0.2), (0.002, 0.003)])),
        "sigma_floor": draw(st.sampled_from([0.01, 0.06])),
    }


@random_cases(150)
@given(networks(), controllers(learns_feedback=True), SAMPLES, st.data())
def test_feedback_update_agrees_with_the_oracle(network, controller, n_samples, data):
    problem = Problem(network, controller, n_samples)
    options = data.draw(feedback_options(controller))
    ours, theirs = problem.both("feedback_update", noise=problem.noise, **options)
    assert_same_arrays(ours.feedback, theirs.feedback, DOUBLE)


@random_cases(100)
@given(networks(), controllers(learns_feedback=True), SAMPLES, RULES, st.data())
def test_forward_and_feedback_update(network, controller, n_samples, rule, data):
    problem = Problem(network, controller, n_samples)
    options = data.draw(feedback_options(controller))
    ours, theirs = problem.both("forward_and_feedback_update", rule=rule, noise=problem.noise, **options)
    assert_same_arrays(ours[0].weights, theirs[0].weights, DOUBLE)
    assert_same_arrays(ours[0].biases, theirs[0].biases, DOUBLE)
    assert_same_arrays(ours[1].feedback, theirs[1].feedback, DOUBLE)


@random_cases(40)
@given(networks(), SAMPLES, st.sampled_from(["mse", "cross_entropy"]), st.booleans())
def test_output_target_agrees_with_the_oracle(network, n_samples, loss, labels):
    net, slow_net = dfc.Network(**network), oracle.Network(**network)
    x, n_outputs = problems.inputs(n_samples, net.sizes[0]), net.sizes[-1]
    y = problems.probabilities(n_samples, n_outputs)
    if labels and loss == "cross_entropy":
        y = y.argmax(axis=1)
        expected = oracle.output_target(slow_net, x, np.eye(n_outputs)[y], loss=loss, step=0.3)
    else:
        expected = oracle.output_target(slow_net, x, y, loss=loss, step=0.3)
    ours = dfc.output_target(net, x, y, loss=loss, step=0.3)
    assert ours.dtype == np.float64
    assert problems.relative_deviation(ours, expected) < DOUBLE


@random_cases(80)
@given(networks(dtype=np.float32), controllers(), SAMPLES)
def test_simulate_in_single_precision(network, controller, n_samples):
    problem = Problem(network, controller, n_samples)
    ours, theirs = problem.both("simulate", noise=problem.noise)
    assert ours.v[0].dtype == np.float32
    assert_same_trajectory(ours, theirs, SINGLE_TRAJECTORY)


@random_cases(80)
@given(networks(dtype=np.float32), controllers(learns_feedback=True), SAMPLES, RULES)
def test_updates_in_single_precision(network, controller, n_samples, rule):
    problem = Problem(network, controller, n_samples)
    ours, theirs = problem.both("forward_and_feedback_update", rule=rule, noise=problem.noise)
    assert_same_arrays(ours[0].weights, theirs[0].weights, SINGLE_UPDATE)
    assert_same_arrays(ours[0].biases, theirs[0].biases, SINGLE_UPDATE)
    assert_same_arrays(ours[1].feedback, theirs[1].feedback, SINGLE_UPDATE)
    ours, theirs = problem.both("forward_update", readout="final", rule=rule, noise=problem.noise)
    assert_same_arrays(ours.weights, theirs.weights, SINGLE_UPDATE)


def relative_norm(ours, theirs):
    """Norm of the difference of two lists of arrays over the norm of the second."""
    flat = [np.concatenate([np.ravel(a) for a in arrays]) for arrays in (ours, theirs)]
    return np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[1])


@pytest.mark.parametrize("nudge", [0.078, 6e-4])
@pytest.mark.parametrize("readout", ["average", "final", "analytic"])
def test_single_precision_keeps_the_digits_of_small_nudges(readout, nudge):
    network = problems.stable_parameters([20, 33, 30, 29, 10], dtype=np.float32)
    network["feedback"] = [np.asarray(q, np.float32) for q in network["feedback"]]
    net, slow_net = dfc.Network(**network), oracle.Network(**network)
    x, y = problems.inputs(18, 20).astype(np.float32), problems.probabilities(18, 10)
    target = oracle.output_target(slow_net, x, y, loss="cross_entropy", step=nudge)
    options = {"dt": 0.02, "steps": 300, "alpha": 0.0014, "k_p": 2.0, "tau_v": 0.2}
    ours = dfc.forward_update(net, x, target, dfc.Controller(**options), readout=readout)
    theirs = oracle.forward_update(slow_net, x, target, oracle.Controller(**options), readout=readout)
    assert relative_norm(ours.weights, theirs.weights) < SINGLE_SMALL_NUDGE
    assert relative_norm(ours.biases, theirs.biases) < SINGLE_SMALL_NUDGE
