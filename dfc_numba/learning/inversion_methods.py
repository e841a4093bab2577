"""Learning by dynamic inversion and the rules that it is compared with (Podlaski & Machens 2020).

The errors reach the hidden layers through the feedback matrices `network.backward`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dfc_numba.dynamics.plasticity import all_finite
from dfc_numba.errors import DivergenceError
from dfc_numba.inversion.dynamic_inversion import Inversion, checked, driven, hidden_errors
from dfc_numba.inversion.feedback import initial_feedback, restabilised_feedback
from dfc_numba.inversion.rules import backward_errors, refuse_divergence
from dfc_numba.inversion.trajectory import InversionTrajectory
from dfc_numba.learning.method import Gradients, PlannedUpdate
from dfc_numba.learning.modulation import factors_on_the_way
from dfc_numba.learning.signals import gradients, update_options
from dfc_numba.model.network import Network
from dfc_numba.model.recording import Record
from dfc_numba.model.targets import unit_of_error
from dfc_numba.support.array_types import ArrayLike, Layers
from dfc_numba.support.ranges import ClipError
from dfc_numba.support.shapes import html_repr, short_repr
from dfc_numba.support.validation import flag, number, silent

FEEDBACK_STREAM = 1  # of the random numbers of training.seed; that of the weights has no number
LOOP_OPTIONS = ("alpha", "dt", "steps", "nonlinearity")
RULE_OPTIONS = {"ndi": ("alpha",)}


@dataclass(frozen=True)
class InversionUpdate:
    """The change of weights and biases by dynamic inversion, per unit learning rate.

    Attributes:
        weights: list of (n_i, n_{i-1}). biases: list of (n_i,), or None for a network without.
        errors: delta_i of the hidden layers, list of (B, n_i). What has diverged is not finite.
        trajectory: the `InversionTrajectory`, without its recipe; None where it was not recorded.
        diverged: (B,) whether errors of a sample are not finite; all, where only the update is not.
    """

    __repr__, _repr_html_ = short_repr, html_repr

    weights: Layers
    biases: Layers | None
    errors: Layers
    trajectory: InversionTrajectory | None = None
    diverged: np.ndarray | None = None


@silent()
def inversion_update(
    network: Network,
    x: ArrayLike,
    y: ArrayLike,
    inversion: Inversion,
    *,
    clip_error: float | None = None,
    normalise: bool = False,
    record: Record | None = None,
) -> InversionUpdate:
    """Return the update of weights and biases by dynamic inversion (Podlaski & Machens 2020).

        Delta W_i = s / B sum_b delta_i r_{i-1}^T,    Delta b_i = s / B sum_b delta_i

    with the errors delta_i of `backward_errors`, and s = 2 / n_L for the squared error, 1 for the cross-entropy: minus the
    gradient of the mean loss, with other errors in the hidden layers.

    Args:
        x: inputs (B, n_0). network, y, inversion: as for `simulate_inversion`.
        clip_error: largest norm of a sample's delta_i in a hidden layer; None for no clipping.
        normalise: whether a sample's delta_i r_{i-1}^T, and delta_i for the biases, are divided by their norms.
        record: a `Record` of what to keep of the loops' states; None keeps nothing. The update has the same bits.

    Returns:
        an `InversionUpdate`.

    Raises:
        ValueError, TypeError: for arguments that do not fit.
    """
    x, y = checked(network, x, y, inversion)
    if clip_error is not None:
        clip_error = number("clip_error", clip_error, ClipError)
    flag("normalise", normalise)
    activity = network.forward(x)
    drive = driven(network, activity, y, inversion.loss)
    errors, trajectory = hidden_errors(network, drive, inversion, record)
    with np.errstate(over="ignore", invalid="ignore"):  # divergence is reported as such
        made = _gradients(
            network,
            x,
            activity,
            [*errors, drive[1]],
            inversion.loss,
            clip_error=clip_error,
            normalise=normalise,
        )
    lost = ~np.logical_and.reduce([np.isfinite(error).all(axis=1) for error in [*errors, drive[1]]])
    lost |= not lost.any() and not all_finite(made.weights, made.biases)
    return InversionUpdate(_negative(made.weights), _negative(made.biases), errors, trajectory, lost)


def from_loops(network, minibatch, config):
    """Return the gradient of the mean loss, with the errors of the hidden layers by dynamic inversion."""
    return PlannedUpdate(
        inversion_update, _loop_gradients, (minibatch.y, inversion_of(config)), update_options(config)
    )


def _loop_gradients(update):
    refuse_divergence(update.errors)
    return Gradients(weights=_negative(update.weights), biases=_negative(update.biases))


def from_errors(network, minibatch, config, *, rule):
    """Return the gradient of the mean loss, with the errors of the hidden layers by a rule of `backward_errors` without loops."""
    activity = network.forward(minibatch.x) if minibatch.activity is None else minibatch.activity
    loss = config.target.loss
    slopes, output = driven(network, activity, minibatch.y, loss)
    options = {name: getattr(config.inversion, name) for name in RULE_OPTIONS.get(rule, ())}
    if (factors := factors_on_the_way(network, config)) is not None:
        slopes = [slope * factor for slope, factor in zip(slopes, factors, strict=True)]
    hidden = backward_errors(network.weights, network.backward, slopes, output, rule=rule, **options)
    return _gradients(network, minibatch.x, activity, [*hidden, output], loss, **update_options(config))


def inversion_of(config):
    """Return the `Inversion` of a configuration."""
    options = {name: getattr(config.inversion, name) for name in LOOP_OPTIONS}
    return Inversion(rule=config.training.method, loss=config.target.loss, **options)


def _gradients(network, x, activity, errors, loss, **options):
    """Return the `Gradients` of the mean loss with these errors, target - output, of all layers."""
    unit = unit_of_error(loss, *errors[-1].shape)
    deltas = [np.asarray(-unit * delta, network.dtype) for delta in errors]
    return gradients(network, x, activity, deltas, loss=loss, **options)


def _negative(arrays):
    """Return the arrays, multiplied by -1 in place; None for None."""
    for array in arrays or []:
        np.negative(array, out=array)
    return arrays


def create_backward(network, config):
    """Give a network the feedback matrices that the section [inversion] describes.

    Raises:
        RuntimeError: if they could not be made stable.
    """
    method, options = config.training.method, config.inversion
    network.backward = initial_feedback(
        network.weights,
        options.feedback,
        loop=_loop(method),
        alpha=options.alpha
        if _loop(method) == "single"
        else 0.0,  # as published for the loop from layer to layer
        seed=[config.training.seed, FEEDBACK_STREAM],
        bound=options.feedback_range,
        scale=options.feedback_scale,
        rate=options.stabilising_rate,
        iterations=options.stabilising_iterations,
    )


def restabilise(network, config):
    """Optimise the feedback matrices of the loops that have become unstable, as [inversion] says.

    Raises:
        DivergenceError: if one of them does not become stable within the iterations.
    """
    options = config.inversion
    if options.restabilise == "never":
        return
    try:
        matrices = restabilised_feedback(
            network.weights,
            network.backward,
            alpha=options.alpha,
            dt=options.dt if options.restabilise == "euler" else None,
            loop=_loop(config.training.method),
            rate=options.stabilising_rate,
            iterations=options.stabilising_iterations,
        )
    except RuntimeError as error:
        raise DivergenceError(
            f"{error}; or raise inversion.alpha, or lower optimizer.learning_rate"
        ) from None
    network.backward.fill(matrices)


def _loop(method):
    return "single" if method == "sldi" else "sequential"
