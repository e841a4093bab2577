"""Finds non-finite numbers during training, and says where they are and what to change; counts diverged feedback phases."""

from dataclasses import dataclass, replace

import numpy as np

from dfc_numba.dynamics.phase import CONTROL_REMEDY
from dfc_numba.errors import DivergenceError
from dfc_numba.kernels.optimizers import sum_of_squares

FORWARD_REMEDY = (
    "lower optimizer.learning_rate, set optimizer.clip_norm, or (DFC methods) lower target.step, "
    "controller.dt or controller.k_p, or raise controller.alpha"
)
FEEDBACK_REMEDY = (
    "lower feedback_optimizer.learning_rate or pretraining_learning_rate, set feedback_optimizer.clip_norm, "
    "lower feedback_controller.dt or feedback_controller.k_p, or raise feedback_controller.alpha"
)
WARNED = 0.05  # fraction of diverged samples above which an epoch is worth a warning: more than published settings have


@dataclass
class Tally:
    """Counts the samples whose simulated feedback phase diverged, or that a method flagged: their updates may well be finite.

    Attributes:
        samples: those of which it is known, of the minibatches counted so far.
        diverged: how many of them diverged, see `Trajectory.diverged`.
        fallback, estimated_error: of the waveform integrator, see `Counters`.
        reason: `Method.flagged`; "" for the feedback phases of the DFC family.
    """

    samples: int = 0
    diverged: int = 0
    fallback: int = 0
    estimated_error: float = 0.0
    reason: str = ""

    @property
    def worth_a_warning(self):
        """True if these are more than a few."""
        return self.diverged > WARNED * self.samples

    def text(self, epoch):
        """Return how many feedback phases of an epoch diverged, or what a method flagged, and the remedy."""
        of = f"{self.diverged} of {self.samples} samples ({100 * self.diverged / self.samples:.3g} %)"
        if self.reason:
            return f"in epoch {epoch} {of} {self.reason}"
        return (
            f"in epoch {epoch} the feedback phase diverged for {of}: at its end, the residual exceeded the feedforward output; "
            f"try {CONTROL_REMEDY}, or more controller.steps where the error still falls; "
            "`dfc analyze RUN --what stability` says whether dt is to blame, and the largest stable one"
        )

    def flag(self, flags):
        """Add the samples of a minibatch, (B,) booleans; None adds none."""
        if flags is not None:
            self.samples += len(flags)
            self.diverged += int(np.count_nonzero(flags))

    def count(self, *updates):
        """Add the samples of the forward updates that were simulated; a feedback update may share their simulation."""
        for update in (update for update in updates if hasattr(update, "weights")):
            self.flag(getattr(update, "diverged", None))
            if getattr(update, "fallback", None) is not None:
                self.fallback += int(update.fallback.sum())
                self.estimated_error = max(self.estimated_error, float(update.estimated_error.max()))


def check_loss(loss, activity, minibatch):
    """Raise a `DivergenceError` where the loss of a minibatch is not finite."""
    if np.isfinite(loss):
        return
    bad = [~np.isfinite(rates).all(axis=1) for rates in activity.r]
    layer = next((number for number, rows in enumerate(bad, start=1) if rows.any()), len(bad))
    _raise(f"the loss is {loss}", layer, minibatch, np.flatnonzero(bad[layer - 1]))


def check_gradients(gradients, minibatch, recompute):
    """Raise a `DivergenceError` where a gradient is not finite.

    Args:
        gradients: the `Gradients` of the minibatch.
        minibatch: a `Minibatch`.
        recompute: function from a minibatch to its gradients, by which the samples are found: one at a time.
    """
    layer = _first_bad_layer(gradients.weights, gradients.biases, gradients.feedback)
    if layer is None:
        return
    singles = (recompute(_only(minibatch, sample)) for sample in range(len(minibatch.x)))
    layers = [_first_bad_layer(one.weights, one.biases, one.feedback) for one in singles]
    bad = [sample for sample, found in enumerate(layers) if found is not None]
    _raise(f"the update of layer {layer} is not finite", layer, minibatch, bad)


def check_parameters(network, minibatch):
    """Raise a `DivergenceError` where a step of an optimiser has left parameters that are not finite."""
    layer = _first_bad_layer(network.weights, network.biases, network.feedback)
    if layer is not None:
        what = f"the parameters of layer {layer} are not finite after the optimiser's step"
        _raise(what, layer, minibatch, [])


def _first_bad_layer(*kinds):
    """Return the number (from 1) of the first layer with a non-finite number in any of the lists, or None."""
    for layer, arrays in enumerate(zip(*(kind for kind in kinds if kind is not None), strict=True), start=1):
        if not all(np.isfinite(sum_of_squares(array.reshape(-1))) for array in arrays):
            return layer
    return None


def _only(minibatch, sample):
    """Return the minibatch reduced to one sample, with that sample's noise."""
    one, noise = slice(sample, sample + 1), minibatch.noise
    if isinstance(noise, list | tuple):
        noise = [draws[..., one, :] for draws in noise]
    elif noise is not None:
        noise = replace(noise, samples=noise.samples[one])
    rows = {name: getattr(minibatch, name)[one] for name in ("indices", "x", "y")}
    return replace(minibatch, **rows, noise=noise, activity=None)


def _raise(what, layer, minibatch, samples):
    remedy = FORWARD_REMEDY if minibatch.phase == "forward" else FEEDBACK_REMEDY
    numbers = minibatch.indices
    named = ", ".join(f"{sample} (number {numbers[sample]} of the training set)" for sample in samples[:3])
    more = f" and {len(samples) - 3} more" if len(samples) > 3 else ""
    raise DivergenceError(
        f"training diverged in the {minibatch.phase} phase, epoch {minibatch.epoch}, minibatch "
        f"{minibatch.position}{', sample ' * bool(named)}{named}{more}: {what}; {remedy}",
        layer=layer,
        epoch=minibatch.epoch,
        minibatch=minibatch.position,
        samples=map(int, samples),
    )
