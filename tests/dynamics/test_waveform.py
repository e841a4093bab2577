"""The waveform integrator: the update of the Euler method, or of the differential equations, within rtol."""

from functools import cache

import numpy as np
import oracle
import problems
import pytest
from waveform_updates import by_threads, deviations, errors, of_vanishing_steps, solved, within_rtol

import dfc_numba as dfc
from dfc_numba.dynamics.waveform import _Solver

SIZES, SAMPLES = [12, 20, 16, 5], 37  # three shards, the last ones smaller
BASE = {"dt": 0.02, "steps": 400, "alpha": 0.01, "k_p": 2.0, "tau_v": 0.2}
OPTIONS = {
    "published": {},
    "not proactive": {"proactive": False},
    "integral control": {"k_p": 0.0},
    "leak of the integral": {"leak": "integral", "alpha": 0.2},
    "delayed transmission": {"instant_transmission": False},
    "apical compartment": {"tau_apical": 0.1},
    "filtered control": {"tau_control": 0.1, "proactive": False},
    "all filters": {
        "tau_apical": 0.05,
        "tau_control": 0.05,
        "instant_transmission": False,
        "leak": "integral",
    },
    "instant dynamics": {"instant_dynamics": True, "k_p": 0.0},
    "softmax": {"error": "softmax"},
}


@cache
def network(activation="tanh", feedback="weight_product", dtype="float64"):
    """A small network."""
    make = problems.stable_parameters if feedback == "weight_product" else problems.parameters
    return dfc.Network(**make(SIZES, activation=activation, dtype=dtype))


def problem(net, *, step=0.05, error="difference", **options):
    """(x, target, controller by the Euler method)."""
    x, y = problems.inputs(SAMPLES, SIZES[0]), problems.probabilities(SAMPLES, SIZES[-1])
    strong = error == "softmax"
    target = 0.9 * y + 0.02 if strong else dfc.output_target(net, x, y, loss="cross_entropy", step=step)
    return x, target, dfc.Controller(**{**BASE, "error": error, **options})


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("readout", ["average", "final"])
@pytest.mark.parametrize("rtol", [1e-2, 1e-3, 1e-4])
def test_update_is_that_of_the_euler_method_within_rtol_for_every_option(options, readout, rtol):
    net = network()
    x, target, controller = problem(net, **options)
    update, _ = within_rtol(net, x, target, controller, rtol=rtol, readout=readout)
    if readout == "average" and rtol >= 1e-3 and "error" not in options:
        assert not update.fallback.any()


@pytest.mark.parametrize("rule", ["voltage_difference", "derivative_matrix"])
@pytest.mark.parametrize("readout", ["average", "final"])
def test_every_rule_of_plasticity_has_its_update_within_rtol(rule, readout):
    net = network()
    x, target, controller = problem(net, instant_transmission=False)
    reference = dfc.forward_update(net, x, target, controller, readout=readout, rule=rule)
    update = solved(net, x, target, controller, readout=readout, rule=rule)
    assert (errors(update, reference) <= 1e-3).all()
    for ours, theirs in zip(update.biases, reference.biases, strict=True):
        assert problems.relative_deviation(ours, theirs) < 2e-3


@pytest.mark.parametrize(("scale", "seed", "rtol"), [
    (0.5, 1, 1e-3), (0.5, 3, 1e-4), (1.0, 1, 1e-3), (1.0, 3, 1e-2), (1.0, 3, 1e-4),
    (2.0, 1, 1e-4), (2.0, 3, 1e-3), (3.0, 2, 1e-4),
])  # fmt: skip
def test_the_expected_error_holds_far_from_linear(scale, seed, rtol):
    """Large targets: rates change as much as they are, so that products with the correction and the response in time matter."""
    net, rng = dfc.Network.create([15, 20, 20, 4], seed=seed), np.random.default_rng(seed)
    for w in net.weights:
        w *= scale
    x = rng.standard_normal((16, 15))
    net.set_feedback("jacobian_transpose", rng.standard_normal((200, 15)))
    target = 2.0 * np.eye(4)[rng.integers(0, 4, 16)] - 0.5
    controller = dfc.Controller(dt=0.001, steps=499, alpha=0.0013, k_p=0.1, tau_v=0.0074)
    update, reference = within_rtol(net, x, target, controller, rtol=rtol)
    assert not update.fallback.any()
    assert (errors(update, reference) <= update.estimated_error.max()).all()


def test_update_agrees_with_the_literal_recurrence_of_the_oracle():
    net = network()
    x, target, controller = problem(net)
    names = ("dt", "steps", "alpha", "k_p", "tau_v")
    plain = oracle.Controller(**{name: getattr(controller, name) for name in names})
    reference = oracle.forward_update(net, x, target, plain)
    assert (errors(solved(net, x, target, controller, rtol=1e-5), reference) <= 1e-5).all()


@pytest.mark.parametrize("options", [{}, {"k_p": 0.0}, {"tau_apical": 0.03, "tau_control": 0.03}], ids=str)
def test_continuous_limit_is_what_euler_steps_of_vanishing_size_give(options):
    net = network()
    x, target, controller = problem(net, **options)
    update = solved(net, x, target, controller, rtol=1e-5, limit="continuous")
    found = deviations(update.weights, of_vanishing_steps(net, x, target, controller))
    assert max(found) < 2e-5


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_bits_do_not_depend_on_the_number_of_threads(dtype):
    net = network(dtype=dtype)
    x, target, controller = problem(net)
    updates = by_threads(net, np.tile(x, (4, 1)), np.tile(target, (4, 1)), controller)
    for other in updates[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(updates[0], other, strict=True))


@pytest.mark.parametrize("step", [6e-4, 0.078])
def test_float32_agrees_with_float64(step):
    single = network(dtype="float32")
    x, target, controller = problem(single, step=step)
    update = solved(single, x, target, controller, rtol=1e-4)
    assert update.weights[0].dtype == np.float32
    assert errors(update, solved(single.copy(dtype="float64"), x, target, controller, rtol=1e-4)).max() < 2e-5


@pytest.mark.parametrize("feedback", ["weight_product", "random"])
@pytest.mark.parametrize(("step", "steps"), [(0.05, 100), (0.05, 400), (0.05, 800), (1e-3, 200), (1e-2, 400)])
@pytest.mark.parametrize("samples", ["all", "converged"])
def test_flags_are_those_of_the_euler_method(feedback, step, steps, samples):
    net = network(feedback=feedback)
    x, target, controller = problem(net, step=step, steps=steps)
    reference = dfc.forward_update(net, x, target, controller, samples=samples)
    update = solved(net, x, target, controller, samples=samples)
    assert np.array_equal(update.converged, reference.converged)
    assert np.array_equal(update.diverged, reference.diverged)
    if reference.converged.any() or samples == "all":
        assert (errors(update, reference) <= 1e-3).all()


@pytest.mark.parametrize(("step", "steps", "converged"), [(0.05, 800, 32), (1e-3, 200, 9), (0.05, 100, 0)])
@pytest.mark.parametrize("readout", ["average", "final"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_shards_are_solved_once_where_samples_are_excluded(
    monkeypatch, dtype, readout, step, steps, converged
):
    net = network(dtype=dtype)
    x, target, controller = problem(net, step=step, steps=steps)
    options = {"samples": "converged", "readout": readout}
    update = solved(net, x, target, controller, **options)
    monkeypatch.setattr(_Solver, "without", lambda self, mask: _Solver(self.whole.without(mask), self.asked))
    solved_twice = solved(net, x, target, controller, **options)
    assert update.converged.sum() == converged
    for name in ("weights", "biases"):
        for ours, theirs in zip(getattr(update, name), getattr(solved_twice, name), strict=True):
            assert np.array_equal(ours, theirs)
    for name in ("estimated_error", "fallback", "converged", "diverged"):
        assert np.array_equal(getattr(update, name), getattr(solved_twice, name)), name


def test_few_steps_are_taken_by_the_euler_method():
    net = network()
    x, target, controller = problem(net, steps=20)
    update, reference = solved(net, x, target, controller), dfc.forward_update(net, x, target, controller)
    assert update.fallback.all()
    assert all(np.array_equal(a, b) for a, b in zip(update.weights, reference.weights, strict=True))
    assert (update.estimated_error == 0).all()


@pytest.mark.parametrize("limit", ["published", "continuous"])
def test_a_loop_that_is_unstable_is_stepped(limit):
    net = network(feedback="weight_product").copy()
    for q in net.feedback:
        q *= -1.5
    x, target, controller = problem(net, steps=100)
    update = solved(net, x, target, controller, limit=limit)
    if limit == "published":
        assert (errors(update, dfc.forward_update(net, x, target, controller)) <= 1e-3).all()
    assert np.isfinite(update.weights[0]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0.1}, "sigma"),
        ({"jacobian_feedback": True}, "jacobian_feedback"),
        ({"rtol": 1e-7}, "rtol"),
        ({"rtol": 0.2}, "rtol"),
    ],
    ids=["noise", "jacobian_feedback", "rtol too small", "rtol too large"],
)
def test_a_controller_that_the_integrator_cannot_honour_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        dfc.Controller(integrator="waveform", **options)


def test_more_outputs_than_the_limit_are_refused():
    net = dfc.Network.create([5, 6, 65], output_activation="sigmoid")
    with pytest.raises(ValueError, match="at most 64"):
        solved(net, np.zeros((2, 5)), np.zeros((2, 65)), dfc.Controller())


def test_rtol_beyond_float32_is_refused():
    net = network(dtype="float32")
    x, target, controller = problem(net)
    with pytest.raises(ValueError, match="1e-05.*float64"):
        solved(net, x, target, controller, rtol=1e-5)
