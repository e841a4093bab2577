"""Dynamic inversion of one minibatch of a network: its options, and the states of its loops on record."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import AfterValidator

from dfc_numba.inversion.rules import loop_errors
from dfc_numba.inversion.trajectory import InversionTrajectory
from dfc_numba.model.activations import slope
from dfc_numba.model.network import Network
from dfc_numba.model.recording import InversionVariable, Recipe, Record
from dfc_numba.model.targets import as_targets, loss_gradient, unit_of_error
from dfc_numba.registry import LOSSES
from dfc_numba.support.array_types import ArrayLike
from dfc_numba.support.options import options
from dfc_numba.support.ranges import Leak, Steps, TimeStep
from dfc_numba.support.validation import instance, samples, silent

VARIABLES = get_args(InversionVariable)
LossName = Annotated[str, AfterValidator(lambda name: LOSSES.find(name, key="loss").name)]


@options
class Inversion:
    """Options of dynamic inversion, which brings errors to the hidden layers (Podlaski & Machens 2020).

    Args:
        rule: "di", one loop for each layer, or "sldi", one loop through all layers: see `backward_errors`.
        loss: "mse" or "cross_entropy": whether the error at the output is y - r_L or y - softmax(r_L); or a registered `Loss`.
        alpha: leak of the error populations.
        dt: Euler step, in units of the hidden layers' time constant. steps: their number.
        nonlinearity: psi of the loops: "linear", "tanh" or "linearized".

    Raises:
        ValueError: for numbers or names that are not allowed.
    """

    rule: Literal["di", "sldi"] = "di"
    loss: LossName = "mse"
    alpha: Leak = 0.0
    dt: TimeStep = 0.5
    steps: Steps = 999
    nonlinearity: Literal["linear", "tanh", "linearized"] = "linear"

    @property
    def time_points(self) -> int:
        """T, with the initial state."""
        return self.steps + 1

    @property
    def noisy(self) -> bool:
        """True if there is noise."""
        return False

    def loops(self) -> dict[str, Any]:
        """Return the options of `backward_errors` among these, as keyword arguments."""
        return {name: value for name, value in vars(self).items() if name != "loss"}


@silent()
def simulate_inversion(
    network: Network, x: ArrayLike, y: ArrayLike, inversion: Inversion, *, record: Record | None = None
) -> InversionTrajectory:
    """Simulate the loops that invert a network's weights for one minibatch (Podlaski & Machens 2020).

    The error y - r_L, or y - softmax(r_L), times phi'(v_L), drives them; equations and Euler steps are those of
    `backward_errors`.

    Args:
        network: a `Network` with feedback matrices `backward`.
        x: inputs (B, n_0). y: what the outputs should be, (B, n_L), or integer labels (B,).
        inversion: an `Inversion`.
        record: a `Record` with "r_x", "r_y"; None keeps both. Samples that are left out are not simulated.

    Returns:
        an `InversionTrajectory`. A loop that diverges holds non-finite numbers from some step on, and says so in
        `.diverged`.

    Raises:
        ValueError, TypeError: for arguments that do not fit.
        MemoryError: for states that do not fit into memory.
    """
    record = Record() if record is None else instance("record", record, Record)
    x, y = checked(network, x, y, inversion)
    drive = driven(network, network.forward(x), y, inversion.loss)
    trajectory = _recorded(network, drive, inversion, record)[1]
    recipe = Recipe(network=network.copy(), inversion=inversion, x=np.array(x), target=y)
    return replace(trajectory, recipe=recipe)


def checked(network, x, y, inversion):
    """Return inputs in the network's dtype, and targets (B, n_L) in float64.

    Raises:
        ValueError, TypeError: for arguments that do not fit.
    """
    instance("inversion", inversion, Inversion)
    if instance("network", network, Network).backward is None:
        raise ValueError(
            "network.backward is None; dynamic inversion needs feedback matrices B_i, such as network.backward = "
            "[-w.T for w in network.weights[1:]]"
        )
    x = samples("x", x, network.sizes[0], dtype=network.dtype)
    return x, as_targets(y, network.sizes[-1], count=len(x))


def driven(network, activity, y, loss):
    """Return (phi'(v_i) of the hidden layers, delta_L), which a minibatch hands to `backward_errors`.

    delta_L = phi_L'(v_L) o (y - r_L),  or with softmax(r_L) for the cross-entropy
    """
    output = activity.r[-1]
    error = -loss_gradient(output, y, loss) / unit_of_error(loss, *output.shape)
    delta = (error * slope(network, -1, activity)).astype(network.dtype, copy=False)
    return [slope(network, layer, activity) for layer in range(len(network.weights) - 1)], delta


def hidden_errors(network, drive, inversion, record=None):
    """Return (hidden layers' errors, `InversionTrajectory` without its recipe) of a minibatch; no trajectory for record None.

    What has diverged is not finite. The errors have the same bits with and without a record.

    Args:
        drive: from `driven`.

    Raises:
        ValueError: for samples that there are not. MemoryError: for states that do not fit into memory.
    """
    if record is None:
        return _errors(network, drive, inversion, slice(None))
    errors, trajectory = _recorded(network, drive, inversion, record)
    others = np.setdiff1d(np.arange(len(drive[1])), trajectory.samples)
    if len(others):
        rest, _ = _errors(network, drive, inversion, others)
        order = np.argsort(np.concatenate([trajectory.samples, others]))
        errors = [np.concatenate(parts)[order] for parts in zip(errors, rest, strict=True)]
    return errors, trajectory


def _errors(network, drive, inversion, chosen, trajectory=False):
    """Return (errors, trajectory) of some samples."""
    slopes, delta = drive
    return loop_errors(
        network.weights, network.backward, [slope[chosen] for slope in slopes], delta[chosen],
        trajectory=trajectory, **inversion.loops(),
    )  # fmt: skip


def _recorded(network, drive, inversion, record):
    """Return (errors, trajectory) of the samples that are recorded."""
    record.require_only(VARIABLES, "a dynamic inversion")
    chosen = record.positions(len(drive[1]))
    errors, states = _errors(network, drive, inversion, chosen, trajectory=True)
    every = slice(None, None, record.every)
    kept = {
        name: [np.ascontiguousarray(r[every]) for r in getattr(states, name)]
        for name in record.names(VARIABLES)
    }
    kept = dict.fromkeys(VARIABLES) | kept
    return errors, replace(states, **kept, time=states.time[every], step=states.step[every], samples=chosen)


def recorded_bytes(network, inversion, count, record):
    """Return the size of the trajectory of `count` samples in bytes."""
    hidden, above = network.sizes[1:-1], network.sizes[2:]
    units = {"r_x": sum(hidden), "r_y": sum(above if inversion.rule == "di" else above[-1:])}
    recorded = sum(units[name] for name in record.names(VARIABLES))
    return (inversion.steps // record.every + 1) * count * recorded * network.dtype.itemsize
