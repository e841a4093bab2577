"""The waveform integrator for networks with more linear outputs than it takes otherwise, such as autoencoders."""

import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import problems
import pytest
from waveform_updates import by_threads, deviations, errors, of_vanishing_steps, solved, within_rtol

import dfc_numba as dfc
from dfc_numba.configuration.config_file import load_config
from dfc_numba.errors import ConfigurationError
from dfc_numba.learning import baselines
from dfc_numba.runs.experiment import create_network, load_data

SIZES, SAMPLES = (
    [30, 24, 8, 24, 70],
    21,
)  # the preset's autoencoder, reduced; two shards, the last one smaller
BASE = {"dt": 0.02, "steps": 400, "alpha": 0.03, "k_p": 2.0, "tau_v": 0.2}
OPTIONS = {
    "not proactive": {"proactive": False},
    "integral control": {"k_p": 0.0, "dt": 0.05, "steps": 200},
    "leak of the integral": {"leak": "integral", "alpha": 0.2},
    "delayed transmission": {"instant_transmission": False},
    "filters": {"tau_apical": 0.1, "tau_control": 0.1},
    "published with fixed feedback": {"dt": 0.0005, "steps": 1999, "alpha": 1.9e-4},
}
MNIST = Path(os.environ.get("DFC_DATA_DIR", "no data")) / "train-images-idx3-ubyte.gz"


@cache
def network(feedback="weight_product", dtype="float64"):
    """A small autoencoder, with feedback weights that are small enough for a well damped loop."""
    net = dfc.Network.create(
        SIZES, hidden_activation=["tanh", "linear", "tanh"], output_activation="linear", feedback_init=feedback, seed=3,
        dtype=dtype,
    )  # fmt: skip
    for q in net.feedback[:-1]:
        q *= 0.4 if feedback == "weight_product" else 0.3
    return net


def problem(net, *, nudge=0.05, **options):
    """(x, target, controller by the Euler method)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SAMPLES, SIZES[0]))
    target = net.predict(x, dtype="float64") + nudge * rng.normal(size=(SAMPLES, SIZES[-1]))
    return x, target, dfc.Controller(**{**BASE, **options})


@pytest.mark.parametrize("feedback", ["weight_product", "xavier_normal"])
@pytest.mark.parametrize("readout", ["average", "final"])
@pytest.mark.parametrize("rtol", [1e-2, 1e-3, 1e-4])
def test_update_is_that_of_the_euler_method_within_rtol(feedback, readout, rtol):
    net = network(feedback)
    x, target, controller = problem(net)
    update, _ = within_rtol(net, x, target, controller, rtol=rtol, readout=readout)
    if readout == "average":
        assert not update.fallback.any()


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option_of_the_controller_is_honoured(options):
    net = network()
    x, target, controller = problem(net, **options)
    within_rtol(net, x, target, controller)


@pytest.mark.parametrize("rule", ["voltage_difference", "derivative_matrix"])
def test_every_rule_of_plasticity_has_its_update_within_rtol(rule):
    net = network()
    x, target, controller = problem(net)
    reference = dfc.forward_update(net, x, target, controller, rule=rule)
    update = solved(net, x, target, controller, rule=rule)
    assert (errors(update, reference) <= 1e-3).all()
    for ours, theirs in zip(update.biases, reference.biases, strict=True):
        assert problems.relative_deviation(ours, theirs) < 2e-3


def test_continuous_limit_is_what_euler_steps_of_vanishing_size_give():
    net = network()
    x, target, controller = problem(net)
    update = solved(net, x, target, controller, rtol=1e-4, limit="continuous")
    found = deviations(update.weights, of_vanishing_steps(net, x, target, controller))
    assert max(found) < 1e-4


def test_float32_is_within_rtol_of_the_euler_method():
    net = network(dtype="float32")
    x, target, controller = problem(net)
    update, reference = solved(net, x, target, controller), dfc.forward_update(net, x, target, controller)
    assert update.weights[0].dtype == np.float32
    assert (errors(update, reference) <= 1e-3).all()
    assert not update.fallback.any()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_bits_do_not_depend_on_the_number_of_threads(dtype):
    net = network(dtype=dtype)
    x, target, controller = problem(net)
    updates = by_threads(net, np.tile(x, (3, 1)), np.tile(target, (3, 1)), controller)
    for other in updates[1:]:
        found = [float(np.abs(a - b).max()) for a, b in zip(updates[0], other, strict=True)]
        assert found == [0.0] * len(found), (found, [u[-1] for u in updates])


@pytest.mark.parametrize("steps", [100, 400])
@pytest.mark.parametrize("samples", ["all", "converged"])
def test_flags_are_those_of_the_euler_method(steps, samples):
    net = network()
    x, target, controller = problem(net, steps=steps)
    reference = dfc.forward_update(net, x, target, controller, samples=samples)
    update = solved(net, x, target, controller, samples=samples)
    assert np.array_equal(update.converged, reference.converged)
    assert np.array_equal(update.diverged, reference.diverged)
    if reference.converged.any() or samples == "all":
        assert (errors(update, reference) <= 1e-3).all()


def test_a_loop_that_is_unstable_is_stepped():
    net = network().copy()
    for q in net.feedback[:-1]:
        q *= -3.0
    x, target, controller = problem(net, steps=100)
    update, reference = solved(net, x, target, controller), dfc.forward_update(net, x, target, controller)
    assert update.fallback.all()
    assert all(np.array_equal(a, b) for a, b in zip(update.weights, reference.weights, strict=True))


def test_trajectory_is_the_interpolant_of_the_nodes():
    net = network()
    x, target, controller = problem(net)
    reference = dfc.simulate(net, x, target, controller)
    found = dfc.simulate(net, x, target, replace(controller, integrator="waveform", rtol=1e-4))
    assert problems.relative_deviation(found.u, reference.u) < 1e-3
    assert problems.relative_deviation(found.v[0], reference.v[0]) < 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output_activation": "sigmoid"}, "70 outputs.*sigmoid.*at most 64"),
        ({"sizes": [30, 513, 70]}, "513 units.*at most 512"),
        ({"sizes": [30, 70]}, "at most 64"),
    ],
    ids=["not linear", "many units below", "no hidden layer"],
)
def test_networks_whose_outputs_cannot_be_eliminated_are_refused(change, message):
    sizes = change.pop("sizes", SIZES)
    net = dfc.Network.create(sizes, **{"output_activation": "linear", **change})
    with pytest.raises(ValueError, match=message):
        solved(net, np.zeros((2, sizes[0])), np.zeros((2, 70)), dfc.Controller())


def test_feedback_weights_of_the_output_layer_other_than_the_identity_are_refused():
    net = network().copy()
    net.feedback[-1][0, 1] = 0.1
    x, target, controller = problem(net)
    with pytest.raises(ValueError, match="identity"):
        solved(net, x, target, controller)


def test_softmax_error_of_many_outputs_is_refused():
    net = network()
    x, _, controller = problem(net)
    with pytest.raises(ValueError, match="softmax.*at most 64"):
        solved(net, x, np.full((SAMPLES, 70), 1 / 70), replace(controller, error="softmax"))


needs_mnist = pytest.mark.skipif(not MNIST.exists(), reason="DFC_DATA_DIR has no MNIST")


@needs_mnist
def test_learning_of_the_output_layers_feedback_is_refused_when_the_configuration_is_read():
    options = ["controller.integrator=waveform", "feedback.freeze_output=false"]
    config, _ = load_config("mnist-autoencoder-dfc", options)
    with pytest.raises(ConfigurationError, match="freeze_output"):
        create_network(config, load_data(config))


@needs_mnist
@pytest.mark.slow
@pytest.mark.parametrize("preset", ["mnist-autoencoder-dfc", "mnist-autoencoder-dfc-fixed"])
@pytest.mark.parametrize("trained", [False, True], ids=["initial", "trained"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_published_autoencoder_has_its_update_within_rtol(preset, trained, dtype):
    config, _ = load_config(preset, [f"training.dtype={dtype}"])
    dataset = load_data(config)
    net, images = create_network(config, dataset), dataset.train.x
    if trained:
        for step in range(100):
            x = images[64 * step : 64 * step + 64].astype(dtype)
            gradients = baselines.backpropagation(net, x, x, loss="mse")
            for w, change in zip(net.weights, gradients.weights, strict=True):
                w -= 0.02 * change
    x = images[-32:].astype(dtype)
    target = dfc.output_target(net, x, x, loss="mse", step=config.target.step / 128)
    reference = dfc.forward_update(net, x, target, config.controller)
    update = solved(net, x, target, config.controller)
    assert (errors(update, reference) <= 1e-3).all()
    assert (update.estimated_error <= 1e-3).all()
    assert not update.fallback.any()
