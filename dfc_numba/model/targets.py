"""Losses, and the output targets that the controller drives the network to. B samples, n_L outputs."""

import numpy as np
from scipy.special import log_softmax

from dfc_numba.model.network import feedforward_state
from dfc_numba.support.validation import as_array, choice, floats, labels, number

LOSSES = ("mse", "cross_entropy")


def as_targets(y, n_outputs, *, count=None):
    """Targets (B, n_L) in float64: integer labels (B,) become one-hot, arrays (B, n_L) stay.

    Raises:
        ValueError, TypeError: for labels out of range, a wrong shape, or numbers that are not finite.
    """
    y = as_array("y", y)
    if y.ndim == 1:
        return np.eye(n_outputs)[labels("y", y, n_outputs, count=count)]
    return floats("y", y, (count, n_outputs))


def mean_loss(output, y, loss):
    """Return the mean loss of outputs (B, n_L): squared error over samples and outputs, or cross-entropy of softmax(output).

    Args:
        output: output rates (B, n_L). y: targets (B, n_L), or class labels (B,). loss: "mse" or "cross_entropy".

    Raises:
        ValueError, TypeError: for an unknown loss, or arrays that do not fit.
    """
    output, y = _checked(output, y, loss)
    if loss == "mse":
        return float(np.mean((output - y) ** 2))
    return float(-np.mean(np.sum(y * log_softmax(output, axis=1), axis=1)))


def output_gradient(output, y, loss):
    """Return d(mean loss) / d output, (B, n_L) in float64; arguments and errors as for `mean_loss`."""
    output, y = _checked(output, y, loss)
    if loss == "mse":
        return 2.0 * (output - y) / output.size
    return (np.exp(log_softmax(output, axis=1)) * y.sum(axis=1, keepdims=True) - y) / len(output)


def unit_of_error(loss, count, outputs):
    """s / B: what an error r_L - y, or softmax(r_L) - y, of 1 of one of B samples is in `output_gradient`."""
    return (2.0 / outputs if loss == "mse" else 1.0) / count


def output_target(network, x, y, *, loss="mse", step=0.1):
    """The output target of weak feedback, a small step down the loss from the feedforward output.

        r* = r_L - step * B * d(mean loss) / d r_L          (the output target of DFC, Meulemans et al. 2021)

    Args:
        x: inputs (B, n_0); y: targets (B, n_L), or integer labels (B,).
        loss: "mse" or "cross_entropy" (of softmax(r_L)).
        step: the nudge lambda per sample, a number >= 0; 0 gives the feedforward output itself.

    Returns:
        r*, (B, n_L), in float64 for either dtype of the network.

    Raises:
        ValueError, TypeError: for arguments that do not fit.
    """
    number("step", step)
    choice("loss", loss, LOSSES)
    x, activity = feedforward_state(network, x)
    y = as_targets(y, network.sizes[-1], count=len(x))
    output = activity.r[-1]
    return output - step * len(x) * output_gradient(output, y, loss)


def _checked(output, y, loss):
    choice("loss", loss, LOSSES)
    output = np.asarray(output, np.float64)
    return output, as_targets(y, output.shape[1], count=len(output))
