"""Continual equilibrium propagation: weights learn at every step of the nudged phase (Ernoult et al. 2020, arXiv:2005.04168)."""

from dataclasses import dataclass

import numpy as np

from dfc_numba.model.network import Network
from dfc_numba.relatives.equilibrium_contrast import contrast
from dfc_numba.relatives.equilibrium_propagation import (
    EquilibriumPropagation,
    FreeState,
    free_phase,
    nudged_phase,
)
from dfc_numba.relatives.finiteness import Flagged
from dfc_numba.support.ranges import Positive
from dfc_numba.support.validation import instance, number, silent


@dataclass(frozen=True)
class ContinualStep(Flagged):
    """One nudged step of continual equilibrium propagation; lists over the layers.

    Attributes:
        states: (B, n_i) after the step. weights, biases: what the step adds, per unit learning rate.
        new_weights, new_biases: the parameters after it; biases None for a network without.
        diverged: whether some number of it is not finite.
    """

    states: list
    weights: list
    biases: list | None
    new_weights: list
    new_biases: list | None


@silent()
def continual_updates(network, x, y, options, *, learning_rate, free=None):
    """Nudge a network whose weights move at every step by the change of its states in that step.

        Delta W_i(t) = 1/beta mean_b [s_i(t+1) s_{i-1}(t+1)^T - s_i(t) s_{i-1}(t)^T],  step t+1 -> t+2 with the moved weights

    Args:
        x, y, options: as for `equilibrium_update`; one-sided, transposed backward weights.
        learning_rate: of plain gradient descent. free: a `FreeState`; None runs the free phase.

    Returns:
        list of `ContinualStep`, one for each nudged step; the network stays as it is.

    Raises:
        ValueError, TypeError: for arguments that do not fit.
    """
    number("learning_rate", learning_rate, Positive)
    instance("network", network, Network)
    instance("options", options, EquilibriumPropagation)
    if options.sides != 1 or options.backward != "transposed" or options.form != "prototypical":
        raise ValueError(
            "continual learning follows one nudged phase of the prototypical form with transposed weights; set sides = 1, "
            "form = 'prototypical', backward = 'transposed'"
        )
    network = network.copy()
    free = free_phase(network, x, options) if free is None else free
    state, found = free.states, []
    for _ in range(options.nudged_steps):
        nudged = nudged_phase(network, x, y, _at(network, x, state), options, steps=1)
        change = contrast(network, x, options, _at(network, x, state), (nudged,))
        for arrays, updates in zip((network.weights, network.biases), change[:2], strict=True):
            for array, update in zip(arrays or [], updates or [], strict=True):
                array += network.dtype.type(learning_rate) * update
        state = [s + d for s, d in zip(state, nudged.deviations, strict=True)]
        biases = network.biases and [b.copy() for b in network.biases]
        found.append(ContinualStep(state, *change[:2], [w.copy() for w in network.weights], biases))
    return found


def _at(network, x, states):
    """Return a `FreeState` at given states, with the drives of the network as it is."""
    below, above = [np.asarray(x, np.float64), *states[:-1]], states[1:]
    drives = [r @ w.T.astype(np.float64) for w, r in zip(network.weights, below, strict=True)]
    for i, (w, s) in enumerate(zip(network.weights[1:], above, strict=True)):
        drives[i] = drives[i] + s @ w.astype(np.float64)
    if network.biases is not None:
        drives = [drive + b for drive, b in zip(drives, network.biases, strict=True)]
    return FreeState(states, states, drives, np.zeros(len(x), np.int64), None)
