"""Losses and output targets against their formulas and finite differences."""

import numpy as np
import pytest
from problems import inputs, parameters, probabilities, relative_deviation

import dfc_numba as dfc
from dfc_numba.model.targets import as_targets, mean_loss, output_gradient

SIZES = [4, 6, 3]
X, Y, LABELS = inputs(5, 4), inputs(5, 3, seed=4), np.array([2, 0, 1, 1, 2])


def network(**options):
    return dfc.Network(**parameters(SIZES, **options))


def softmax(v):
    return np.exp(v) / np.exp(v).sum(axis=1, keepdims=True)


def test_target_of_the_squared_error():
    net = network()
    output = net.predict(X)
    expected = output - 0.3 * 2 * (output - Y) / 3
    assert relative_deviation(dfc.output_target(net, X, Y, loss="mse", step=0.3), expected) < 1e-14


def test_target_of_the_cross_entropy():
    net, y = network(), probabilities(5, 3)
    output = net.predict(X)
    expected = output - 0.3 * (softmax(output) - y)
    assert relative_deviation(dfc.output_target(net, X, y, loss="cross_entropy", step=0.3), expected) < 1e-14


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_labels_are_one_hot_targets(loss):
    net, one_hot = network(), np.eye(3)[LABELS]
    expected = dfc.output_target(net, X, one_hot, loss=loss)
    for labels in (LABELS, LABELS.tolist(), LABELS.astype(np.uint8)):
        assert np.array_equal(dfc.output_target(net, X, labels, loss=loss), expected)


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_the_gradient_is_that_of_the_mean_loss(loss):
    output, y, h = inputs(4, 3), probabilities(4, 3), 1e-6
    gradient = output_gradient(output, y, loss)
    for place in np.ndindex(output.shape):
        shift = np.zeros_like(output)
        shift[place] = h
        slope = (mean_loss(output + shift, y, loss) - mean_loss(output - shift, y, loss)) / (2 * h)
        assert gradient[place] == pytest.approx(slope, abs=1e-9)


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_a_sample_is_nudged_alike_in_any_batch(loss):
    net, y = network(), probabilities(5, 3)
    whole = dfc.output_target(net, X, y, loss=loss, step=0.1)
    part = dfc.output_target(net, X[1:3], y[1:3], loss=loss, step=0.1)
    assert relative_deviation(part, whole[1:3]) < 1e-15


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_target_is_float64_whatever_the_network(dtype):
    net = network(dtype=dtype)
    target = dfc.output_target(net, X.astype(dtype), Y, step=1e-9)
    assert target.dtype == np.float64 and target.shape == (5, 3) and target.flags.c_contiguous
    output = net.predict(X.astype(dtype), dtype="float64")
    assert relative_deviation(target - output, -1e-9 * 2 * (output - Y) / 3) < 1e-6


def test_no_step_gives_the_feedforward_output():
    net = network()
    assert np.array_equal(dfc.output_target(net, X, Y, step=0), net.predict(X))


def test_losses_of_large_outputs_stay_finite():
    output = np.array([[1e4, 0.0, -1e4]])
    assert mean_loss(output, [2], "cross_entropy") == pytest.approx(2e4)
    assert np.isfinite(output_gradient(output, [2], "cross_entropy")).all()


def test_targets_are_one_hot_labels_or_what_was_given_in_float64():
    assert np.array_equal(as_targets([1, 0], 3), np.eye(3)[[1, 0]])
    assert as_targets(np.ones((2, 3), np.float32), 3).dtype == np.float64


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"y": [0, 1, 2, 3, 0]}, ValueError, "y holds labels from 0 to 3; with 3 outputs 0 to 2 are allowed"),
        ({"y": [0, 1, -1, 1, 0]}, ValueError, "y holds labels from -1 to 1; with 3 outputs 0 to 2"),
        ({"y": [0, 1]}, ValueError, "y has 2 labels for 5 samples"),
        (
            {"y": np.full(5, 0.5)},
            TypeError,
            "y holds 0.5; class labels must be whole numbers",
        ),
        ({"y": list("abcde")}, TypeError, "y must be a one-dimensional array of integers"),
        ({"y": Y[:4]}, ValueError, r"y has shape \(4, 3\); expected \(5, 3\)"),
        ({"y": Y[:, :2]}, ValueError, r"y has shape \(5, 2\); expected \(5, 3\)"),
        ({"y": np.where(Y == Y[3, 2], np.nan, Y)}, ValueError, r"y\[3, 2\] is nan"),
        ({"y": [[1, 2, 3], [1]]}, TypeError, "y must be an array of numbers"),
        ({"y": None}, TypeError, "y must be an array of numbers"),
        ({"x": X[:, :3]}, ValueError, r"x has shape \(5, 3\); expected \(any, 4\)"),
        ({"loss": "crossentropy"}, ValueError, "loss is 'crossentropy'; .*did you mean 'cross_entropy'"),
        ({"step": -0.1}, ValueError, "step is -0.1; a finite number >= 0"),
        ({"step": np.nan}, ValueError, "step is nan; a finite number >= 0"),
        ({"step": "0.1"}, TypeError, "step is '0.1'; a finite number >= 0"),
        ({"network": None}, TypeError, "network must be a Network, not None"),
    ],
)
def test_labels_and_targets_that_do_not_fit_are_refused(options, error, message):
    arguments = {"network": network(), "x": X, "y": Y, **options}
    with pytest.raises(error, match=message):
        dfc.output_target(**arguments)


def test_outputs_that_overflow_are_refused_by_their_layer():
    net = network(activation="linear")
    net.weights[0] = np.full((6, 4), 1e200)
    net.weights[1] = np.full((3, 6), 1e200)
    with pytest.raises(ValueError, match=r"feedforward voltage of layer 2, \[0, 0\] is (inf|-inf|nan)"):
        dfc.output_target(net, X, Y)
