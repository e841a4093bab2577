"""Backpropagation and direct feedback alignment against finite differences and reference values."""

import os
from pathlib import Path

import numpy as np
import oracle
import problems
import pytest

import dfc_numba as dfc
from dfc_numba.learning.baselines import backpropagation, direct_feedback_alignment
from dfc_numba.model.targets import mean_loss, output_gradient

SIZES = [5, 7, 6, 3]
KINDS = {"weights": "W", "biases": "b", "feedback": "Q"}
RESOURCES = Path(__file__).parents[1] / "resources" / "reference"
X = problems.inputs(4, SIZES[0])
TARGETS = {
    "mse": problems.inputs(4, SIZES[-1], seed=8),
    "cross_entropy": problems.probabilities(4, SIZES[-1]),
}


def network(activation="tanh", **options):
    bias = options.pop("bias", True)
    return dfc.Network(**problems.parameters(SIZES, seed=4, activation=activation, bias=bias), **options)


def assert_gradient(function, arrays, gradients):
    for array, gradient in zip(arrays, gradients, strict=True):
        expected = problems.finite_differences(function, array)
        assert np.abs(gradient - expected).max() < 1e-8 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("loss", TARGETS)
@pytest.mark.parametrize("activation", ["linear", "tanh", "relu", "leakyrelu", "sigmoid", ["tanh", "relu"]])
def test_backpropagation_is_the_gradient_of_the_mean_loss(loss, activation):
    net, y = network(activation), TARGETS[loss]
    gradients = backpropagation(net, X, y, loss=loss)
    assert_gradient(lambda: mean_loss(net.predict(X), y, loss), net.weights, gradients.weights)
    assert_gradient(lambda: mean_loss(net.predict(X), y, loss), net.biases, gradients.biases)


def test_backpropagation_without_biases_through_an_output_activation():
    net, y = network(bias=False, output_activation="sigmoid"), TARGETS["mse"]
    gradients = backpropagation(net, X, y, loss="mse")
    assert gradients.biases is None
    assert_gradient(lambda: mean_loss(net.predict(X), y, "mse"), net.weights, gradients.weights)


@pytest.mark.parametrize("loss", TARGETS)
@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid"])
def test_direct_feedback_alignment_climbs_what_its_feedback_makes_of_the_error(loss, activation):
    """Layer i climbs sum_b phi_i(v_i) . (Q_i delta_L) with delta_L and the rates below held fixed."""
    net, y = network(activation), TARGETS[loss]
    gradients = direct_feedback_alignment(net, X, y, loss=loss)
    activity = net.forward(X)
    error = output_gradient(activity.r[-1], y, loss)
    below = [X, *activity.r]
    for i, feedback in enumerate(net.feedback[:-1]):
        signal, phi = error @ feedback.T, oracle.ACTIVATIONS[activation]

        def pursued(i=i, signal=signal, phi=phi):
            return np.sum(signal * phi(below[i] @ net.weights[i].T + net.biases[i]))

        assert_gradient(pursued, [net.weights[i], net.biases[i]], [gradients.weights[i], gradients.biases[i]])


def test_the_output_layer_learns_alike():
    net, y = network(), TARGETS["mse"]
    ours, theirs = (rule(net, X, y, loss="mse") for rule in (direct_feedback_alignment, backpropagation))
    assert np.array_equal(ours.weights[-1], theirs.weights[-1])
    assert np.array_equal(ours.biases[-1], theirs.biases[-1])


def test_with_the_transposed_chain_as_feedback_a_linear_network_backpropagates():
    net = dfc.Network(**problems.stable_parameters(SIZES, activation="linear"))
    ours, theirs = (
        rule(net, X, TARGETS["mse"], loss="mse") for rule in (direct_feedback_alignment, backpropagation)
    )
    for a, b in zip(ours.weights + ours.biases, theirs.weights + theirs.biases, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-14)


def test_integer_labels_are_one_hot_targets():
    net, labels = network(), np.array([2, 0, 1, 1])
    ours = backpropagation(net, X, labels, loss="cross_entropy")
    theirs = backpropagation(net, X, np.eye(3)[labels], loss="cross_entropy")
    assert all(np.array_equal(a, b) for a, b in zip(ours.weights, theirs.weights, strict=True))


def test_a_known_activity_saves_the_forward_pass():
    net, y = network(), TARGETS["mse"]
    ours = backpropagation(net, X, y, loss="mse", activity=net.forward(X))
    theirs = backpropagation(net, X, y, loss="mse")
    assert all(np.array_equal(a, b) for a, b in zip(ours.weights, theirs.weights, strict=True))


def test_float32_stays_float32():
    net = dfc.Network(**problems.parameters(SIZES, dtype=np.float32))
    for rule in (backpropagation, direct_feedback_alignment):
        gradients = rule(net, X.astype(np.float32), TARGETS["mse"], loss="mse")
        assert {array.dtype for array in gradients.weights + gradients.biases} == {np.dtype(np.float32)}


def reference_cases():
    """(file, suffix of its array names): the resources, and those of a folder of more files."""
    folders = [RESOURCES, os.environ.get("DFC_REFERENCE_DIR")]
    paths = [path for folder in folders if folder for path in sorted(Path(folder).glob("bp_dfa_*.npz"))]
    suffixes = ("", "_relu", "_intlabels")
    return [(path, suffix) for path in paths for suffix in suffixes if f"gW0_bp{suffix}" in np.load(path)]


@pytest.mark.parametrize(
    ("path", "suffix"), reference_cases(), ids=lambda value: getattr(value, "stem", value)
)
def test_baselines_reproduce_the_reference_values(path, suffix):
    """The published direct feedback alignment leaves out phi', and here the oracle too; ours does not."""
    with np.load(path) as archive:
        arrays = dict(archive)
    loss = "mse" if "mse" in path.stem else "cross_entropy"
    parameters = {kind: [arrays[f"{letter}{i}"] for i in range(3)] for kind, letter in KINDS.items()}
    net = dfc.Network(**parameters, hidden_activation="relu" if suffix == "_relu" else "tanh")
    y = arrays["labels"] if suffix == "_intlabels" else arrays["y"]
    one_hot = np.eye(net.sizes[-1])[y] if suffix == "_intlabels" else y
    pairs = {
        "bp": backpropagation(net, arrays["x"], y, loss=loss),
        "dfa": oracle.direct_feedback_gradient(net, arrays["x"], one_hot, loss=loss, derivative=False),
    }
    for name, gradients in pairs.items():
        for letter, list_ in (("W", gradients.weights), ("b", gradients.biases)):
            for i, gradient in enumerate(list_):
                theirs = arrays[f"g{letter}{i}_{name}{suffix}"]
                assert problems.relative_deviation(gradient, theirs) < 1e-12
    ours = direct_feedback_alignment(net, arrays["x"], y, loss=loss)
    with_derivative = oracle.direct_feedback_gradient(net, arrays["x"], one_hot, loss=loss)
    assert all(
        problems.relative_deviation(a, b) < 1e-12
        for a, b in zip(ours.weights, with_derivative.weights, strict=True)
    )
