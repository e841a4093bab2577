"""`EquilibriumTrajectory`: the recorded states of equilibrium propagation, and the update of a minibatch that is recorded."""

from dataclasses import dataclass, field, replace
from typing import get_args

import numpy as np

from dfc_numba.model.network import Network
from dfc_numba.model.recording import EquilibriumVariable, Recipe, Record, Storable
from dfc_numba.model.shared_passes import earlier_pass, shared_pass
from dfc_numba.model.targets import as_targets
from dfc_numba.relatives.equilibrium_propagation import (
    EquilibriumPropagation,
    equilibrium_update,
    free_phase,
    nudged_phase,
)
from dfc_numba.support import memory
from dfc_numba.support.shapes import short_repr
from dfc_numba.support.validation import instance, samples

VARIABLES = get_args(EquilibriumVariable)


@dataclass(frozen=True, kw_only=True)
class EquilibriumTrajectory(Storable):
    """Recorded phases of equilibrium propagation: T time points, B samples, layers i = 1..L (lists are 0-based).

    The free phase takes the first `recipe.equilibrium.free_points` - 1 steps; the nudged phases follow from its end.

    Attributes:
        time: (T,) in units of the time constant (prototypical form: steps). step: (T,) number of the step.
        s: list of (T, B, n_i), s_i or u_i: free, then nudged by beta. s_minus: the same, nudged by -beta; None for one side.
        converged: (B,) whether a sample has settled in the free phase, where it then stays; None without a tolerance.
        diverged: (B,) whether some state is not finite at the end, or a nudge still drives it away (`NudgedState.growing`).
        samples: (B,) positions of the samples in the minibatch.
        recipe: the `Recipe` of the simulation, with copies of the parameters; None if it is not known.

    A variable that was not recorded is None.
    """

    __repr__ = short_repr

    time: np.ndarray
    step: np.ndarray
    s: list | None
    s_minus: list | None
    converged: np.ndarray | None
    diverged: np.ndarray
    samples: np.ndarray | None = None
    recipe: Recipe | None = field(default=None, repr=False)


def simulate_equilibrium(network, x, y, options, *, record=None):
    """Relax a network and nudge it, and keep the states.

    Args:
        network, x, y, options: as for `equilibrium_update`. record: a `Record` with "s", "s_minus"; None keeps both. Samples
            that are left out are not simulated.

    Returns:
        an `EquilibriumTrajectory`.

    Raises:
        ValueError, TypeError: for arguments that do not fit. MemoryError: for states that do not fit into memory.
    """
    record = Record() if record is None else instance("record", record, Record)
    instance("network", network, Network)
    instance("options", options, EquilibriumPropagation)
    x = samples("x", x, network.sizes[0])
    y = as_targets(y, network.sizes[-1], count=len(x))
    recipe = Recipe(network=network.copy(), equilibrium=options, x=np.array(x), target=y)
    return replace(recorded(network, x, y, options, record), recipe=recipe)


def recorded_equilibrium_update(network, x, y, options, *, record=None):
    """Return the `EquilibriumUpdate` of a minibatch, sharing its free phase with its prediction (see `settled_state`).

    Before the prediction, free and nudged phases are one kernel.

    Args:
        record: a `Record` of what to keep of the states, in `trajectory`; None keeps nothing. The update has the same bits.
    """
    update = equilibrium_update(network, x, y, options, free=earlier_pass(options, network, x))
    shared_pass(lambda: update.free, options, network, x)
    if record is None:
        return update
    return replace(update, trajectory=recorded(network, x, y, options, record))


def recorded(network, x, y, options, record):
    """Return the `EquilibriumTrajectory` of the samples that are recorded, without its recipe.

    A sample's states do not depend on the samples beside it.
    """
    names = names_of(options)
    record.require_only(names if record.variables else VARIABLES, "equilibrium propagation with these sides")
    chosen, wanted = record.positions(len(x)), [name for name in names if name in record.names(VARIABLES)]
    size = recorded_bytes(network, options, len(chosen), Record())
    memory.require(size, "the states of both phases", "record fewer samples or steps")
    x, y = np.asarray(x, np.float64)[chosen], np.asarray(as_targets(y, network.sizes[-1]))[chosen]
    free = free_phase(network, x, options, record=True)
    every, kept = slice(None, None, record.every), dict.fromkeys(VARIABLES)
    sound = np.ones(len(chosen), bool)
    for name in names:
        beta = options.beta if name == "s" else -options.beta
        found = nudged_phase(network, x, y, free, options, beta=beta, record=True)
        nudged = found.trajectory
        sound &= np.all([np.isfinite(states[-1]).all(axis=1) for states in nudged], axis=0)
        if found.growing is not None:
            sound &= ~found.growing
        if name in wanted:
            parts = zip(free.trajectory, nudged, strict=True)
            kept[name] = [np.concatenate([one, two[1:]])[every] for one, two in parts]
    step = np.arange(options.time_points)[every]
    return EquilibriumTrajectory(
        time=step * options.gain, step=step, **kept, converged=free.settled, diverged=~sound, samples=chosen
    )


def names_of(options):
    """Return the variables that phases with these options have."""
    return VARIABLES if options.sides == 2 else VARIABLES[:1]


def recorded_bytes(network, options, count, record):
    """Return the size of the trajectory of `count` samples in bytes, in float64."""
    names = [name for name in names_of(options) if name in record.names(VARIABLES)]
    points = (options.time_points - 1) // record.every + 1
    return 8 * len(names) * points * count * sum(network.sizes[1:])
