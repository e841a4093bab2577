"""Measures of the control signal: the update that lowers its effort against finite differences, and the other measures."""

import numpy as np
import oracle_analysis
import pytest
from problems import inputs, probabilities, stable_parameters

import dfc_numba as dfc
from dfc_numba.analysis.control import control_effort, distance_to_linear, effort_update, feedback_ratio

SIZES = [5, 6, 4, 3]
STEP = 1e-5  # of finite differences
X = inputs(4, SIZES[0])
Y = probabilities(4, SIZES[-1])
CONTROLLER = dfc.Controller(dt=0.02, steps=300, alpha=0.05)


def controller(**options):
    return dfc.Controller(dt=0.02, steps=300, **{"alpha": 0.05, **options})


def network(**options):
    return dfc.Network(**stable_parameters(SIZES, **options))


def at_rest(net, control):
    return dfc.steady_state(net, X, Y, control, method="newton", tolerance=1e-14)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"alpha": 0.0},
        {"alpha": 0.3, "k_p": 1.5, "leak": "integral"},
        {"error": "softmax"},
        {"error": "softmax", "alpha": 0.0},
    ],
    ids=str,
)
def test_the_update_descends_along_the_effort_of_the_steady_states(options):
    net, control = network(), controller(**options)
    steady = at_rest(net, control)
    assert steady.converged.all()
    update = effort_update(net, X, steady.u, control)

    parameters = [*net.weights, *net.biases]
    descent = np.concatenate([array.ravel() for array in (*update.weights, *update.biases)])

    def effort(change):
        ends = np.cumsum([array.size for array in parameters])[:-1]
        moved = net.copy()
        for array, part in zip([*moved.weights, *moved.biases], np.split(change, ends), strict=True):
            array += part.reshape(array.shape)
        return control_effort(net, at_rest(moved, control).u).mean()

    for direction in inputs(6, len(descent), seed=5):
        slope = (effort(STEP * direction) - effort(-STEP * direction)) / (2 * STEP)
        assert slope == pytest.approx(-direction @ descent, rel=1e-6)


def test_a_small_nudge_leaves_the_feedforward_state_as_good():
    net, distances = network(), []
    for step in (1e-2, 1e-3):
        target = dfc.output_target(net, X, Y, step=step)
        u = dfc.steady_state(net, X, target, CONTROLLER, method="newton").u
        here, there = (effort_update(net, X, u, CONTROLLER, at=at) for at in ("steady_state", "feedforward"))
        distances.append(max(np.abs(a / b - 1).max() for a, b in zip(here.biases, there.biases, strict=True)))
        expected = oracle_analysis.effort_update(net, X, u, CONTROLLER, at="feedforward")
        for ours, theirs in zip(
            [*there.weights, *there.biases], [*expected.weights, *expected.biases], strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    assert 5 < distances[0] / distances[1] < 20


def test_effort_and_ratio_are_those_of_plain_numpy():
    u = inputs(4, 3, seed=4)
    for net in (network(), network(bias=False)):
        np.testing.assert_allclose(control_effort(net, u), oracle_analysis.control_effort(net, u), rtol=1e-13)
        np.testing.assert_allclose(
            feedback_ratio(net, X, u), oracle_analysis.feedback_ratio(net, X, u), rtol=1e-13
        )


def test_feedback_without_feedforward_input_is_infinitely_larger_and_nothing_is_undefined():
    net, x, u = network(bias=False), X.copy(), inputs(4, 3, seed=4)
    x[0], u[1], x[2], u[2] = 0, 0, 0, 0
    ratio = feedback_ratio(net, x, u)
    assert (
        np.isposinf(ratio[0]).all()
        and not ratio[1].any()
        and np.isnan(ratio[2]).all()
        and np.isfinite(ratio[3]).all()
    )


def test_the_distance_is_0_at_the_linear_steady_state_and_1_without_control():
    net = network()
    outputs = [dfc.steady_state(net, X, Y, CONTROLLER).r[-1], net.predict(X)]
    distances = [distance_to_linear(net, X, Y, CONTROLLER, output) for output in outputs]
    np.testing.assert_array_equal(distances, [[0.0] * 4, [1.0] * 4])
    trajectory = dfc.simulate(net, X, Y, CONTROLLER)
    ours, expected = (
        f(net, X, Y, CONTROLLER, trajectory.r[-1][-1])
        for f in (distance_to_linear, oracle_analysis.distance_to_linear)
    )
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


def test_without_a_nudge_there_is_no_distance():
    net = network()
    output = net.predict(X)
    assert np.isnan(distance_to_linear(net, X, output, CONTROLLER, output)).all()


def test_float32_networks_are_measured_in_float64():
    net, u = dfc.Network(**stable_parameters(SIZES), dtype="float32"), inputs(4, 3, seed=4)
    ours, expected = (effort_update(one, X, u, CONTROLLER) for one in (net, net.copy(dtype="float64")))
    assert all(np.allclose(a, b, rtol=1e-12) for a, b in zip(ours.weights, expected.weights, strict=True))
    assert ours.weights[0].dtype == np.float64


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"controller": controller(jacobian_feedback=True)}, "use a controller with jacobian_feedback=False"),
        ({"at": "start"}, "at is 'start'"),
        ({"u": np.ones((3, 3))}, r"x has shape \(4, 5\)"),
        ({"u": np.ones((4, 2))}, r"u has shape \(4, 2\)"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message):
    arguments = {"u": np.ones((4, 3)), "controller": CONTROLLER, **arguments}
    with pytest.raises(ValueError, match=message):
        effort_update(network(), X, **arguments)


def test_control_that_the_outputs_do_not_feel_is_refused():
    parameters = stable_parameters(SIZES)
    parameters["feedback"] = [0 * q for q in parameters["feedback"]]
    with pytest.raises(ValueError, match="singular .* larger alpha"):
        effort_update(dfc.Network(**parameters), X, np.ones((4, 3)), controller(alpha=0.0))
