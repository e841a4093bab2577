"""Conditions of the theorems: against plain NumPy, for feedback weights that meet them by construction, where undefined."""

from dataclasses import fields

import numpy as np
import oracle_analysis
import pytest
from problems import NETWORKS, inputs, parameters, probabilities

import dfc_numba as dfc
from dfc_numba.analysis import conditions as module
from dfc_numba.analysis.conditions import conditions, null_space_fraction
from dfc_numba.analysis.directions import reference_update
from dfc_numba.model import jacobian
from dfc_numba.support import memory

SAMPLES = 5


def problem(name="tanh", samples=SAMPLES):
    net = dfc.Network(**NETWORKS[name])
    return net, inputs(samples, net.sizes[0])


def values(found):
    """The attributes by name."""
    return {field.name: getattr(found, field.name) for field in fields(found)}


def with_feedback(net, feedback):
    net.feedback.fill(np.split(feedback, np.cumsum(net.sizes[1:])[:-1]))
    return net


def dead_network():
    """No slope in the output layer: J is zero."""
    arguments = parameters([6, 8, 4])
    arguments["biases"][-1][:] = -100.0
    return dfc.Network(**arguments, output_activation="relu")


@pytest.mark.parametrize("name", NETWORKS)
def test_conditions_are_those_of_whole_matrices(name):
    net, x = problem(name)
    for damping in (0.0, 0.1, 5.0):
        ours = values(conditions(net, x, damping=damping))
        for attribute, expected in vars(oracle_analysis.conditions(net, x, damping=damping)).items():
            np.testing.assert_allclose(ours[attribute], expected, rtol=1e-10, err_msg=attribute)
        assert np.all(ours["damping"] == damping) and ours["mean_damping"] == damping


def test_condition_1_holds_for_equal_norms():
    net = dfc.Network(
        weights=[np.eye(3)] * 3, biases=None, feedback=[np.eye(3)] * 3, hidden_activation="linear"
    )
    found = conditions(net, inputs(4, 3))
    assert np.array_equal(found.input_norms[:, 0], found.input_norms[:, 2]) and (found.dev_r < 1e-15).all()


def test_condition_2_holds_for_feedback_in_the_row_space_and_fails_outside():
    net, x = problem(samples=1)
    j = dfc.output_jacobian(net, x)[0]
    within = j.T @ inputs(4, 4, seed=5)
    outside = inputs(19, 4, seed=6)
    outside -= np.linalg.pinv(j) @ j @ outside
    for feedback, expected in ((within, 1.0), (outside, 0.0)):
        assert conditions(with_feedback(net, feedback), x).condition_2[0] == pytest.approx(
            expected, abs=1e-13
        )


@pytest.mark.parametrize("gamma", [1e-4, 0.1, 30.0])
def test_the_fitted_damping_is_that_which_the_feedback_was_made_with(gamma):
    net, x = problem(samples=1)
    net.set_feedback("jacobian_damped_pinv", x, damping=gamma)
    found = conditions(net, x)
    assert found.damping[0] == pytest.approx(gamma, rel=1e-4) and found.angle_damped[0] < 1e-4
    assert found.condition_2[0] == pytest.approx(1.0, abs=1e-13)
    assert min(found.angle_transpose[0], found.angle_pinv[0]) > 10 * found.angle_damped[0]


@pytest.mark.parametrize("gamma", [0.01, 3.0])
def test_of_many_samples_the_mean_has_the_damping(gamma):
    net, x = problem(samples=40)
    net.set_feedback("jacobian_damped_pinv", x, damping=gamma)
    found = conditions(net, x)
    assert found.mean_damping == pytest.approx(gamma, rel=1e-4) and found.mean_angle_damped < 1e-4
    assert (found.angle_damped > 1.0).all()


@pytest.mark.parametrize("kind, gamma", [("jacobian_transpose", np.inf), ("jacobian_pinv", 0.0)])
def test_the_limits_of_the_damping_are_among_the_candidates(kind, gamma):
    net, x = problem(samples=1)
    net.set_feedback(kind, x)
    found = conditions(net, x)
    assert found.damping[0] == gamma == found.mean_damping
    assert max(found.angle_damped[0], found.mean_angle_damped) < 1e-12


def test_a_scan_takes_the_best_of_its_candidates():
    net, x = problem()
    net.set_feedback("jacobian_damped_pinv", x, damping=0.1)
    scanned, fitted = conditions(net, x, damping=[0.0, 0.01, 0.1, 1.0, 1e6]), conditions(net, x)
    alone = np.array([conditions(net, x, damping=gamma).angle_damped for gamma in (0.0, 0.01, 0.1, 1.0, 1e6)])
    assert np.array_equal(scanned.angle_damped, alone.min(axis=0))
    assert scanned.mean_damping == 0.1 and scanned.mean_angle_damped < 1e-12
    assert (fitted.angle_damped <= scanned.angle_damped).all()


def test_equal_singular_values_need_no_damping():
    """One output, or orthogonal weights: all dampings give the same direction."""
    net, x = problem("one output")
    orthogonal = [np.linalg.qr(inputs(2, 2, seed))[0] for seed in range(3, 6)]
    feedback = [inputs(2, 2, seed) for seed in range(3, 6)]
    isometry = dfc.Network(weights=orthogonal, biases=None, feedback=feedback, hidden_activation="linear")
    for found in (conditions(net, x[:1]), conditions(isometry, inputs(4, 2))):
        assert not found.damping.any() and found.mean_damping == 0
        np.testing.assert_allclose(found.angle_transpose, found.angle_pinv, rtol=1e-12)


# ------------------------------------------------------------------------------------------------ undefined, refused


def test_without_feedback_nothing_has_an_angle():
    net, x = problem()
    found = values(conditions(with_feedback(net, np.zeros((19, 4))), x))
    defined = {name for name, value in found.items() if np.isfinite(value).all()}
    assert defined == {"input_norms", "dev_r"}


def test_without_slopes_there_is_no_row_space():
    found = conditions(dead_network(), inputs(SAMPLES, 6))
    assert not found.condition_2.any()
    undefined = (found.angle_transpose, found.angle_pinv, found.angle_damped, found.damping)
    assert np.isnan(undefined).all() and np.isnan([found.mean_angle_damped, found.mean_damping]).all()


def test_dead_outputs_do_not_count():
    """The condition of the outputs that live is that of a network without the others."""
    arguments = parameters([6, 8, 4])
    arguments["biases"][-1][:] = [100.0, -100.0, 100.0, -100.0]
    net, x = dfc.Network(**arguments, output_activation="relu"), inputs(SAMPLES, 6)
    jacobians, q = dfc.output_jacobian(net, x), np.concatenate(net.feedback)
    expected = [np.linalg.norm(np.linalg.pinv(j) @ j @ q) / np.linalg.norm(q) for j in jacobians]
    found = conditions(net, x)
    np.testing.assert_allclose(found.condition_2, expected, rtol=1e-12)
    assert np.isfinite(found.angle_pinv).all()


@pytest.mark.parametrize(
    "damping, message",
    [
        (-0.1, "damping is -0.1"),
        ([], "damping is empty"),
        ([0.1, np.nan], "damping is nan"),
        ("fit", "did you mean 'fitted'"),
    ],
)
def test_dampings_are_numbers_from_zero(damping, message):
    with pytest.raises(ValueError, match=message):
        conditions(*problem(), damping=damping)


def test_a_jacobian_that_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 100)
    with pytest.raises(MemoryError, match="Jacobian of one sample .* needs 2.43 kB"):
        conditions(*problem())


# ------------------------------------------------------------------------------------------------ the null space


@pytest.mark.parametrize("name", NETWORKS)
def test_the_share_in_the_null_space_is_that_of_whole_jacobians(name):
    net, x = problem(name, samples=2)
    for kind in ("mn", "gn"):
        update = reference_update(net, inputs(3, net.sizes[0], seed=7), probabilities(3, net.sizes[-1]), kind)
        ours, expected = (
            f(net, x, update) for f in (null_space_fraction, oracle_analysis.null_space_fraction)
        )
        np.testing.assert_allclose(ours, expected, atol=1e-12)


def test_what_moves_the_outputs_is_not_in_the_null_space_and_the_rest_is():
    net, x = problem()
    seen = reference_update(net, x, probabilities(SAMPLES, 4), "gn", per="minibatch")
    np.testing.assert_allclose(null_space_fraction(net, x, seen), 0.0, atol=1e-11)
    across = inputs(6, 6, seed=8)  # an orthogonal complement of the inputs of 5 samples
    across -= across @ np.linalg.pinv(x) @ x
    unseen = dfc.ForwardUpdate([inputs(8, 6) @ across, *seen.weights[1:]], None)
    assert null_space_fraction(net, x, unseen)[0] == pytest.approx(1.0, abs=1e-12)


def test_outputs_that_feel_little_count_as_well():
    """The second sample's inputs are a hundred thousand times smaller than the first one's."""
    net, x = problem("without biases", samples=2)
    x[1] *= 1e-5
    update = dfc.ForwardUpdate([np.outer(np.ones(6), x[1]), *net.weights[1:]], None)
    jacobians = dfc.output_jacobian(net, x)[1, :, :6]
    update.weights[0] *= (jacobians.T @ [1.0, -1.0, 0.5])[:, np.newaxis]
    assert null_space_fraction(net, x, update)[0] < 1e-9


def test_more_outputs_than_weights_leave_no_null_space():
    net, x = problem("without biases", samples=60)
    assert (null_space_fraction(net, x, reference_update(net, x, probabilities(60, 3), "mn")) < 1e-9).all()


def test_layers_that_do_not_change_have_no_share_and_dead_ones_the_whole():
    net, x = problem()
    update = reference_update(net, x, probabilities(SAMPLES, 4), "mn")
    fractions = null_space_fraction(
        net, x, dfc.ForwardUpdate([0 * update.weights[0], *update.weights[1:]], None)
    )
    assert np.isnan(fractions[0]) and np.isfinite(fractions[1:]).all()
    dead = dead_network()
    ones = dfc.ForwardUpdate([np.ones(weight.shape) for weight in dead.weights], None)
    np.testing.assert_allclose(null_space_fraction(dead, x, ones), 1.0, rtol=1e-15)


def test_samples_that_occur_twice_change_nothing():
    net, x = problem()
    update = reference_update(net, inputs(3, 6, seed=7), probabilities(3, 4), "mn")
    once, twice = (null_space_fraction(net, x[i], update) for i in ([0, 1], [0, 1, 0]))
    np.testing.assert_allclose(twice, once, rtol=1e-10)


def test_a_projection_that_does_not_fit_and_other_shapes_are_refused(monkeypatch):
    net, x = problem()
    update = reference_update(net, x, probabilities(SAMPLES, 4), "mn")
    with pytest.raises(ValueError, match="expected"):
        null_space_fraction(net, x, dfc.ForwardUpdate(update.weights[1:], None))
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    with pytest.raises(MemoryError, match="20 outputs needs .* kB, .* fewer samples"):
        null_space_fraction(net, x, update)


# ------------------------------------------------------------------------------------------------ numbers


def test_float32_networks_are_measured_in_float64():
    net = dfc.Network(**NETWORKS["tanh"], dtype="float32")
    found = [values(conditions(one, problem()[1])) for one in (net, net.copy(dtype="float64"))]
    for name, value in found[0].items():
        np.testing.assert_allclose(value, found[1][name], rtol=1e-12)


def test_neither_threads_nor_pieces_count(monkeypatch):
    net, x = problem(samples=20)
    update = reference_update(net, x, probabilities(20, 4), "mn")
    expected, fractions = values(conditions(net, x)), null_space_fraction(net, x, update)
    with dfc.limit_threads(1):
        assert all(
            np.array_equal(value, expected[name]) for name, value in values(conditions(net, x)).items()
        )
        assert np.array_equal(null_space_fraction(net, x, update), fractions)
    monkeypatch.setattr(jacobian, "PIECE_BYTES", 1)
    in_pieces = values(conditions(net, x))
    for name, value in in_pieces.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-9 if "mean_damping" in name else 1e-13)
    monkeypatch.setattr(module, "KEPT_BYTES", 0)
    assert all(np.array_equal(value, in_pieces[name]) for name, value in values(conditions(net, x)).items())
