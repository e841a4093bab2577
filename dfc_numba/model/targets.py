"""Losses, and the output targets that the controller drives the network to. B samples, n_L outputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

import numpy as np
from scipy.special import expit, log_softmax

from dfc_numba.model.network import Network, feedforward_state
from dfc_numba.registry import LOSSES, Extension, register_built_ins
from dfc_numba.support.array_types import Array, ArrayLike
from dfc_numba.support.ranges import NudgeStep
from dfc_numba.support.validation import as_array, finite_result, floats, labels, number, silent

SAMPLES, OUTPUTS, STEP, TOLERANCE = 5, 3, 1e-6, 1e-6  # of the check of a gradient
SMALLEST_RATE = 1e-15  # that the binary cross-entropy tells from 0, and from 1


@dataclass(frozen=True, eq=False)
class Loss(Extension):
    """A loss of the outputs r_L, a mean over the samples of a minibatch.

    Args:
        name: by which `target.loss` chooses it. summary: one line of documentation.
        value: function of (output, y), two float64 arrays (B, n_L), that returns the mean loss, a number.
        gradient: function of (output, y) that returns d(mean loss) / d output, (B, n_L); checked by finite differences.
        classes: whether it is for classes only: y are one-hot, or soft labels, whose rows sum to 1.
        softmax: whether softmax(r_L) - y is its gradient, so that a controller may pursue y with error = "softmax".
        one_output: whether it is for two classes at one output, whose sign decides; y is the probability of class 1.
        output: name of the output activation that it is for; None for any.
        unit: function of n_L: size of the gradient of a sample's loss for an error of 1, by which errors are scaled.

    Raises (when it is registered):
        ValueError: for functions whose results have other shapes, or a gradient that finite differences contradict.
    """

    name: str
    _: KW_ONLY
    summary: str = ""
    value: Callable[[Array, Array], float]
    gradient: Callable[[Array, Array], Array]
    classes: bool = False
    softmax: bool = False
    one_output: bool = False
    output: str | None = None
    unit: Callable[[int], float] = lambda outputs: 1.0

    registry = LOSSES

    def check(self) -> None:
        """Raise a ValueError where value or gradient are not what they have to be."""
        random = np.random.RandomState(0)
        output, y = random.uniform(0.1, 0.9, (2, SAMPLES, OUTPUTS))
        y /= y.sum(axis=1, keepdims=True)
        value, gradient = self._evaluated("value", output, y), self._evaluated("gradient", output, y)
        if np.ndim(value) != 0 or not np.isfinite(value):
            raise ValueError(
                f"loss {self.name!r}: value returns {value!r}; a finite number is needed, the mean over samples"
            )
        if np.shape(gradient) != output.shape:
            raise ValueError(
                f"loss {self.name!r}: gradient returns shape {np.shape(gradient)} for outputs (B, n_L) = {output.shape}; the "
                "same shape is needed"
            )
        differences = np.empty_like(output)
        for place in np.ndindex(output.shape):
            above, below = output.copy(), output.copy()
            above[place] += STEP
            below[place] -= STEP
            differences[place] = (self.value(above, y) - self.value(below, y)) / (2 * STEP)
        error = np.max(np.abs(gradient - differences))
        if not error <= TOLERANCE:
            raise ValueError(
                f"loss {self.name!r}: gradient differs from finite differences of value by {error:.2g}; it has to be d(mean "
                "loss) / d output, with the division by the number of samples"
            )

    def _evaluated(self, part, output, y):
        try:
            return getattr(self, part)(output.copy(), y.copy())
        except Exception as error:
            raise ValueError(
                f"loss {self.name!r}: {part}(output, y) fails for arrays (B, n_L) = {output.shape}: "
                f"{type(error).__name__}: {error}"
            ) from error


def as_targets(y, n_outputs, *, count=None):
    """Return targets (B, n_L) in float64: labels (B,) become one-hot, with one output 0 or 1; arrays (B, n_L) stay.

    Raises:
        ValueError, TypeError: for labels out of range, a wrong shape, or numbers that are not finite.
    """
    y = as_array("y", y)
    if y.ndim == 1:
        numbers = labels("y", y, max(n_outputs, 2), count=count)
        return np.eye(n_outputs)[numbers] if n_outputs > 1 else numbers[:, np.newaxis].astype(np.float64)
    return floats("y", y, (count, n_outputs))


@silent()
def mean_loss(output: ArrayLike, y: ArrayLike, loss: str) -> float:
    """Return the mean loss of outputs (B, n_L): squared error over samples and outputs, or cross-entropy of softmax(output).

    Args:
        output: output rates (B, n_L). y: targets (B, n_L), or class labels (B,). loss: "mse", "cross_entropy", or the name of
            a registered `Loss`.

    Raises:
        ValueError, TypeError: for an unknown loss, or arrays that do not fit.
    """
    output = floats("output", output, (None, None))
    return finite_result("the mean loss", loss_value(output, y, loss))


@silent()
def output_gradient(output: ArrayLike, y: ArrayLike, loss: str) -> Array:
    """Return d(mean loss) / d output, (B, n_L) in float64; arguments and errors as for `mean_loss`."""
    output = floats("output", output, (None, None))
    return finite_result("the gradient of the loss", loss_gradient(output, y, loss))


def loss_value(output, y, loss):
    """Return `mean_loss` of outputs (B, n_L) that may have diverged: not finite then."""
    loss = LOSSES.find(loss, key="loss")
    return float(loss.value(*_with_targets(output, y)))


def loss_gradient(output, y, loss):
    """Return `output_gradient` of outputs (B, n_L) that may have diverged: not finite then."""
    loss = LOSSES.find(loss, key="loss")
    return loss.gradient(*_with_targets(output, y))


def unit_of_error(loss, count, outputs):
    """Return s / B: what an error r_L - y, or softmax(r_L) - y, of 1 of one of B samples is in `output_gradient`."""
    return LOSSES.find(loss, key="loss").unit(outputs) / count


class _LeftOut(str):
    """The value of an argument that was left out."""

    __slots__ = ()


MSE_LEFT_OUT = _LeftOut("mse")


def warn_of_default_loss(loss: str, y: ArrayLike, stacklevel: int = 4) -> None:
    """Warn where classes meet a loss that was left out."""
    if isinstance(loss, _LeftOut) and np.ndim(y) == 1:
        warnings.warn(
            "y holds class labels, and loss was left out, which means 'mse'; state loss='cross_entropy' for classes, or "
            "loss='mse'",
            UserWarning, stacklevel=stacklevel,
        )  # fmt: skip


@silent()
def output_target(
    network: Network, x: ArrayLike, y: ArrayLike, *, loss: str = MSE_LEFT_OUT, step: float = 0.1
) -> Array:
    """Return the output target of weak feedback, a small step down the loss from the feedforward output.

        r* = r_L - step * B * d(mean loss) / d r_L          (the output target of DFC, Meulemans et al. 2021)

    Args:
        x: inputs (B, n_0); y: targets (B, n_L), or class labels (B,): integers, booleans or whole floats.
        loss: "mse", "cross_entropy" (of softmax(r_L)), "binary_cross_entropy" (of sigmoid(r_L), one output), or a registered
            `Loss`, by its name.
        step: the nudge lambda per sample, a number >= 0; 0 gives the feedforward output itself.

    Returns:
        r*, (B, n_L), in float64 for either dtype of the network.

    Raises:
        ValueError, TypeError: for arguments that do not fit.
    """
    number("step", step, NudgeStep)
    LOSSES.find(loss, key="loss")
    x, activity = feedforward_state(network, x)
    given, y = y, as_targets(y, network.sizes[-1], count=len(x))
    warn_of_default_loss(loss, given)
    output = activity.r[-1]
    target = output - step * len(x) * loss_gradient(output, y, loss)
    return finite_result(
        "the output target", target, "choose a smaller step, or scale x, y or the network down"
    )


def _with_targets(output, y):
    output = np.asarray(output, np.float64)
    return output, as_targets(y, output.shape[1], count=len(output))


# --- the built-in losses -------------------------------------------------------------------------------------------------


def _squared_error(output, y):
    return np.mean((output - y) ** 2)


def _squared_error_gradient(output, y):
    return 2.0 * (output - y) / output.size


def _cross_entropy(output, y):
    return -np.mean(np.sum(y * log_softmax(output, axis=1), axis=1))


def _cross_entropy_gradient(output, y):
    return (np.exp(log_softmax(output, axis=1)) * y.sum(axis=1, keepdims=True) - y) / len(output)


def _binary_cross_entropy(output, y):
    return np.mean(np.sum(np.logaddexp(0.0, output) - y * output, axis=1))


def _binary_cross_entropy_gradient(output, y):
    return (expit(output) - y) / len(output)


def _inside(output):
    """Keep rates of a sigmoid off 0 and 1, since the loss takes their logarithms."""
    return np.clip(output, SMALLEST_RATE, 1.0 - SMALLEST_RATE)


def _elementwise_cross_entropy(output, y):
    r = _inside(output)
    return -np.mean(np.sum(y * np.log(r) + (1.0 - y) * np.log1p(-r), axis=1))


def _elementwise_cross_entropy_gradient(output, y):
    r = _inside(output)
    return (r - y) / (r * (1.0 - r)) / len(output)


register_built_ins(
    Loss(
        "mse", summary="squared error, mean over samples and outputs", value=_squared_error,
        gradient=_squared_error_gradient, unit=lambda outputs: 2.0 / outputs,
    ),
    Loss(
        "cross_entropy", summary="cross-entropy of softmax(r_L), mean over samples", value=_cross_entropy,
        gradient=_cross_entropy_gradient, classes=True, softmax=True,
    ),
    Loss(
        "binary_cross_entropy", summary="cross-entropy of sigmoid(r_L), for two classes at one output",
        value=_binary_cross_entropy, gradient=_binary_cross_entropy_gradient, classes=True, one_output=True,
    ),
    Loss(
        "elementwise_cross_entropy", summary="cross-entropy of each sigmoid output, summed over outputs, mean over samples",
        value=_elementwise_cross_entropy, gradient=_elementwise_cross_entropy_gradient, output="sigmoid",
    ),
)  # fmt: skip
