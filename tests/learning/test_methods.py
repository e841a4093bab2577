"""The learning methods: each phase descends along the updates of the public functions that it stands for."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from small_runs import NEEDS, SIZES, configuration, network

import dfc_numba as dfc
from dfc_numba.dynamics.plasticity import one_shot_feedback_update
from dfc_numba.learning.baselines import backpropagation, direct_feedback_alignment
from dfc_numba.learning.method import Minibatch
from dfc_numba.learning.methods import find
from dfc_numba.learning.phases import simulated_steps
from dfc_numba.registry import METHODS

READOUTS = {"dfc": "average", "dfc-ss": "final", "dfc-ss-newton": "newton", "dfc-ssa": "analytic"}
BASELINES = {"bp": backpropagation, "dfa": direct_feedback_alignment}
FEEDBACK = {"scaling": True, "high_pass": 0.4, "sigma_floor": 0.02}
STRENGTHS = ["weak", "strong"]
LOW_PASSED = {"tau_noise": 0.1}
SINGLE = "dfc-single-phase"
FEEDBACK_PHASES = [
    (name, phase) for name in ("dfc", SINGLE) for phase in METHODS[name].phases if phase != "forward"
]


def minibatch(phase="forward", count=9, dtype=np.float64, **changes):
    rng = np.random.default_rng(5)
    x, y = (
        rng.normal(size=(count, SIZES[0])).astype(dtype),
        np.eye(SIZES[-1])[rng.integers(SIZES[-1], size=count)],
    )
    named = {
        "phase": phase,
        "epoch": 1,
        "position": 1,
        "number": 4,
        "indices": np.arange(count),
        "x": x,
        "y": y,
    }
    return Minibatch(**{**named, "noise": dfc.NoiseKey(3, 4), "nudge": 0.2, **changes})


def configured(method, strength="weak", /, **sections):
    """A configuration of a method, with what it needs."""
    target = {"feedback": strength, "class_value": 0.9 if strength == "strong" else 1.0}
    needed = {key: {**table, **sections.pop(key, {})} for key, table in NEEDS.get(method, {}).items()}
    return configuration(training={"method": method}, target=target, **needed, **sections)


def gradients(config, batch, net=None):
    return find(config.training.method).gradients(net or network(), batch, config)


def pursued(config, net, batch, what="target"):
    """The output target r*."""
    if what == "output":
        return net.predict(batch.x, dtype="float64")
    if config.target.feedback == "strong":
        return batch.y
    return dfc.output_target(net, batch.x, batch.y, loss="cross_entropy", step=batch.nudge)


def assert_same(found, expected, factor):
    assert len(found) == len(expected) == len(SIZES) - 1
    assert all(
        np.array_equal(ours, factor * theirs) and ours.any()
        for ours, theirs in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize(
    ("method", "strength"), sorted(set(product(READOUTS, STRENGTHS)) - {("dfc-ssa", "strong")})
)
def test_two_phase_methods_differ_in_the_readout_of_the_forward_phase(method, strength):
    net, config, batch = network(feedback_init="weight_product"), configured(method, strength), minibatch()
    target = pursued(config, net, batch)
    expected = dfc.forward_update(net, batch.x, target, config.controller, readout=READOUTS[method])
    found = gradients(config, batch, net)
    assert_same(found.weights, expected.weights, -2)
    assert_same(found.biases, expected.biases, -2)
    assert found.feedback is None


@pytest.mark.parametrize("method", BASELINES)
def test_baselines_descend_the_loss(method):
    net, batch = network(), minibatch()
    expected = BASELINES[method](net, batch.x, batch.y, loss="cross_entropy")
    found = gradients(configured(method), batch, net)
    assert_same(found.weights, expected.weights, 1)
    assert found.feedback is None


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("rule", ["nonlinear_difference", "voltage_difference"])
def test_a_single_phase_learns_everything_from_one_simulation(strength, dtype, rule):
    net, batch = network(dtype=dtype), minibatch(dtype=dtype)
    config = configured(SINGLE, strength, feedback=FEEDBACK, feedback_controller=LOW_PASSED)
    config = config.model_copy(update={"training": config.training.model_copy(update={"rule": rule})})
    forward, feedback = dfc.forward_and_feedback_update(
        net, batch.x, pursued(config, net, batch), config.controller, rule=rule, noise=batch.noise, **FEEDBACK
    )
    found = gradients(config, batch, net)
    assert_same(found.weights, forward.weights, -2)
    assert_same(found.biases, forward.biases, -2)
    assert_same(found.feedback, feedback.feedback, -1)
    assert {array.dtype for array in [*found.weights, *found.biases, *found.feedback]} == {np.dtype(dtype)}


def test_a_single_phase_with_fixed_feedback_learns_forward_weights_from_the_same_simulation():
    both = gradients(configured(SINGLE), minibatch())
    forward = gradients(configured(SINGLE, feedback={"train": False}), minibatch())
    assert forward.feedback is None
    assert_same(forward.weights, both.weights, 1)


def section_of(method, phase):
    """The controller that a feedback phase runs."""
    return "controller" if (method, phase) == (SINGLE, "extra feedback") else "feedback_controller"


@pytest.mark.parametrize("pursue", ["output", "target"])
@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize(("method", "phase"), FEEDBACK_PHASES)
def test_feedback_phases_run_their_controller_towards_what_they_pursue(method, phase, strength, pursue):
    net, batch = network(), minibatch(phase)
    config = configured(
        method, strength, feedback={"pursue": pursue, **FEEDBACK}, feedback_controller=LOW_PASSED
    )
    controller = getattr(config, section_of(method, phase))
    target = pursued(config, net, batch, pursue)
    expected = dfc.feedback_update(net, batch.x, target, controller, noise=batch.noise, **FEEDBACK)
    found = gradients(config, batch, net)
    assert_same(found.feedback, expected.feedback, -1)
    assert found.weights is None and found.biases is None


@pytest.mark.parametrize("phase", ["pretraining", "extra feedback"])
def test_pretraining_may_have_a_target_other_than_that_of_feedback_epochs(phase):
    """The published option of single-phase learning concerns the pre-training alone."""
    net, batch = network(), minibatch(phase)
    config = configured(SINGLE, "strong", feedback={"pretraining_pursue": "output"})
    controller = getattr(config, section_of(SINGLE, phase))
    target = pursued(config, net, batch, "output" if phase == "pretraining" else "target")
    expected = dfc.feedback_update(net, batch.x, target, controller, noise=batch.noise)
    assert_same(gradients(config, batch, net).feedback, expected.feedback, -1)


@pytest.mark.parametrize("method", ["dfc", SINGLE])
def test_pretraining_controls_the_difference_where_training_controls_the_softmax(method):
    net, softmax = network(), {"error": "softmax"}
    sections = {"feedback_controller": softmax} if method == "dfc" else {"controller": softmax}
    config = configured(method, "strong", **sections)
    for phase in ("pretraining", "extra feedback"):
        batch = minibatch(phase)
        controller = getattr(config, section_of(method, phase))
        assert phase == "pretraining" or controller.error == "softmax"
        controller = replace(controller, error="difference" if phase == "pretraining" else "softmax")
        expected = dfc.feedback_update(net, batch.x, batch.y, controller, noise=batch.noise)
        assert_same(gradients(config, batch, net).feedback, expected.feedback, -1)


@pytest.mark.parametrize("phase", ["pretraining", "feedback", "extra feedback"])
def test_feedback_phases_can_learn_by_the_one_shot_rule(phase):
    net, batch = network(), minibatch(phase)
    config = configured(
        "dfc", feedback={"rule": "one_shot", "sigma_floor": 0.1}, feedback_controller={"sigma": 0.2}
    )
    expected = one_shot_feedback_update(net, batch.x, sigma=0.2, noise=batch.noise, sigma_floor=0.1)
    assert_same(gradients(config, batch, net).feedback, expected.feedback, -1)


def test_steps_are_those_of_the_controller_that_a_phase_simulates():
    def steps(method, phase, **sections):
        return simulated_steps(phase, configured(method, **sections))

    forward, feedback = configuration().controller.steps, configuration().feedback_controller.steps
    assert forward != feedback
    for method in READOUTS:
        assert steps(method, "forward") == (forward if method in ("dfc", "dfc-ss") else 0)
        assert (
            steps(method, "pretraining")
            == steps(method, "feedback")
            == steps(method, "extra feedback")
            == feedback
        )
    assert steps("dfc", "pretraining", feedback={"rule": "one_shot"}) == 0
    assert (steps(SINGLE, "forward"), steps(SINGLE, "extra feedback")) == (forward, forward)
    assert steps(SINGLE, "pretraining") == feedback
    assert steps("bp", "forward") == steps("dfa", "forward") == 0


def test_an_unknown_method_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="training.method is 'dfc-sa'; .*did you mean 'dfc-ss"):
        find("dfc-sa")
