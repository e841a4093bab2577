"""Alignment of a forward update with another one, and its first-order decrease of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dfc_numba.analysis.directions import reference_update
from dfc_numba.model.network import Network
from dfc_numba.model.targets import loss_value
from dfc_numba.support.array_types import Array, ArrayLike
from dfc_numba.support.ranges import Positive
from dfc_numba.support.shapes import html_repr, short_repr
from dfc_numba.support.threads import one_thread
from dfc_numba.support.validation import number, silent


class WeightsLike(Protocol):
    """Anything with the list `weights` of an update."""

    @property
    def weights(self) -> Sequence[Array]: ...


class UpdateLike(WeightsLike, Protocol):
    """Anything with the lists `weights` and `biases` (or None) of an update, such as a `ForwardUpdate`."""

    @property
    def biases(self) -> Sequence[Array] | None: ...


@dataclass(frozen=True)
class Alignment:
    """Angles between two updates in degrees, NaN where one of them is zero or not finite.

    Attributes:
        weights, biases: (L,) of each layer; biases is None for networks without. layers: (L,) both together.
        total: of all parameters. total_weights: of all weights.
    """

    __repr__, _repr_html_ = short_repr, html_repr

    weights: Array
    biases: Array | None
    layers: Array
    total: float
    total_weights: float


@silent()
def alignment(update: UpdateLike, reference: UpdateLike) -> Alignment:
    """Return the angles between two updates of the forward weights, such as those of DFC and of Gauss-Newton.

    Args:
        update, reference: anything with lists .weights, (n_i, n_{i-1}) each, and .biases (or None), such as
            `ForwardUpdate`. Both in the same sense: gradients point the other way.

    Returns:
        an `Alignment`; angles near 0 are exact to rounding.

    Raises:
        ValueError: for updates of networks that differ in sizes or biases.
        TypeError: for something else, such as updates of the feedback weights.
    """
    _check_alike(update, reference)
    pairs = list(zip(_layers(update), _layers(reference), strict=True))
    with one_thread():
        return Alignment(
            weights=np.array([angle(a[:1], b[:1]) for a, b in pairs]),
            biases=None if update.biases is None else np.array([angle(a[1:], b[1:]) for a, b in pairs]),
            layers=np.array([angle(a, b) for a, b in pairs]),
            total=angle(*(sum(_layers(one), []) for one in (update, reference))),
            total_weights=angle(update.weights, reference.weights),
        )


def _check_alike(update, reference):
    for one in (update, reference):
        if not (hasattr(one, "weights") and hasattr(one, "biases")):
            raise TypeError(
                "an update must be one of the forward weights, with .weights and .biases as a ForwardUpdate has them, "
                f"not a {type(one).__name__}; use what forward_update or reference_update returns"
            )
    if (update.biases is None) != (reference.biases is None):
        raise ValueError(
            "one of the updates has biases and the other has none; compare updates of the same network"
        )
    shapes = [[array.shape for layer in _layers(one) for array in layer] for one in (update, reference)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"the updates have shapes {shapes[0]} and {shapes[1]}; compare updates of the same network"
        )


def _layers(update):
    """Return the arrays of each layer: [weights] or [weights, biases]."""
    kinds = [update.weights] if update.biases is None else [update.weights, update.biases]
    return [list(map(np.asarray, arrays)) for arrays in zip(*kinds, strict=True)]


@silent()
def angle(first, second):
    """Return the angle in degrees between two lists of arrays, each taken as one vector; NaN where it is undefined.

    2 atan(|a - b| / |a + b|) of the unit vectors a, b is accurate for any angle, which acos(a b) is not (Kahan 2006).
    """
    a, b = unit_vector(first), unit_vector(second)
    return float(np.degrees(2.0 * np.arctan2(np.linalg.norm(a - b), np.linalg.norm(a + b))))


@silent()
def unit_vector(arrays):
    """Return the arrays as one vector of length 1; NaN where that is undefined."""
    vector = np.concatenate([np.ravel(array) for array in arrays]).astype(np.float64)
    vector /= np.abs(vector).max()  # whose square may under- or overflow
    return vector / np.linalg.norm(vector)


@silent()
def loss_decrease(
    network: Network,
    x: ArrayLike,
    y: ArrayLike,
    update: UpdateLike,
    *,
    loss: str = "mse",
    step: float | None = None,
) -> float:
    """Return how much the mean loss falls along an update, per unit of the length of the step.

        -(d loss / d(W, b)) . update / |update|,   or   (loss(W, b) - loss((W, b) + step update / |update|)) / step

    Args:
        x: inputs (B, n_0). y, loss: as for `reference_update`. update: a `ForwardUpdate`.
        step: length of a step that is taken indeed; None for the limit of a short one. The gradient's norm is the most that
            any direction has in that limit, and "bp" has it.

    Returns:
        a float, NaN for an update that is zero or not finite, or a loss that overflows; otherwise its length does not count.

    Raises:
        ValueError, TypeError: for arguments that do not fit.
    """
    descent = reference_update(network, x, y, "bp", loss=loss)
    _check_alike(update, descent)
    with one_thread():
        direction = unit_vector(_arrays(update))
        if step is None:
            return float(direction @ np.concatenate([array.ravel() for array in _arrays(descent)]))
    return _finite_decrease(network, x, y, direction, loss, number("step", step, Positive))


def _finite_decrease(network, x, y, direction, loss, step):
    if np.isnan(direction).any():
        return float("nan")
    moved = network.copy(dtype="float64")
    before = loss_value(moved.forward(x).r[-1], y, loss)
    parameters = [*moved.weights, *(moved.biases or [])]
    ends = np.cumsum([parameter.size for parameter in parameters])
    for parameter, change in zip(parameters, np.split(direction, ends[:-1]), strict=True):
        parameter += step * change.reshape(parameter.shape)
    return (before - loss_value(moved.forward(x).r[-1], y, loss)) / step


def _arrays(update):
    """Return weights of all layers, then biases."""
    return [np.asarray(array, np.float64) for array in (*update.weights, *(update.biases or []))]
