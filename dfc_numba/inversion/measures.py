"""Distance of recorded loops of dynamic inversion from rest, and the error of the inversion at any moment."""

from functools import partial

import numpy as np

from dfc_numba.inversion.dynamic_inversion import driven, hidden_errors
from dfc_numba.inversion.rules import backward_errors


def states_at_rest(trajectory):
    """Return r_x of the recorded samples when their loops are at rest (NDI), list of (B, n_i) in float64.

    Each loop of "di" receives the error that it received in the simulation.

    Args:
        trajectory: an `InversionTrajectory` with its recipe.

    Raises:
        ValueError: without a recipe. DivergenceError: where no state of rest is found.
    """
    network, inversion, slopes, deltas = _given(trajectory)
    rest = partial(
        backward_errors, rule=inversion.rule, alpha=inversion.alpha, steps=None, nonlinearity=inversion.nonlinearity,
        phi_prime="none",
    )  # fmt: skip
    if inversion.rule == "sldi":
        return rest(network.weights, network.backward, slopes, deltas[-1])
    return [
        rest(network.weights[i : i + 2], [network.backward[i]], [slopes[i]], deltas[i])[0]
        for i in range(len(slopes))
    ]


def distances_to_rest(trajectory):
    """Return |r_x(t) - r_x*| / |r_x*| with r_x* of `states_at_rest`: list of (T, B), one per hidden layer."""
    pairs = zip(_hidden(trajectory), states_at_rest(trajectory), strict=True)
    return [_relative(np.linalg.norm(r_x - rest, axis=2), rest) for r_x, rest in pairs]


def inversion_errors(trajectory):
    """Return how far W psi(r_x) is from the error it should equal, |W psi(r_x) - delta| / |delta|.

    Returns:
        list of (T, B): with "di" one for each hidden layer, with "sldi" one, for the weights of the output layer.
    """
    states = _hidden(trajectory)
    network, inversion, slopes, deltas = _given(trajectory)
    psi = {"linear": lambda r, slope: r, "tanh": lambda r, slope: np.tanh(r), "linearized": np.divide}
    found = []
    for i in range(len(slopes))[-len(deltas) :]:
        shown = psi[inversion.nonlinearity](states[i].astype(np.float64), slopes[i])
        delta = deltas[i - len(slopes)]
        found.append(_relative(np.linalg.norm(shown @ network.weights[i + 1].T - delta, axis=2), delta))
    return found


def _hidden(trajectory):
    """Return r_x; ValueError where it was not recorded."""
    if trajectory.r_x is None:
        raise ValueError("the trajectory has no r_x; record it")
    return trajectory.r_x


def _relative(norms, reference):
    """Return norms (T, B) over those of a reference (B, n)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return norms / np.linalg.norm(reference, axis=1)


def _given(trajectory):
    """Return (network, inversion, phi' of the hidden layers, errors that drive the loops) of the recorded samples, in float64.

    The errors are those of the layers above the loops: of all but the first hidden layer, then of the output.
    """
    recipe = trajectory.recipe
    if recipe is None:
        raise ValueError("the trajectory has no recipe, which holds its network, inputs and targets")
    network, inversion, chosen = recipe.network, recipe.inversion, trajectory.samples
    slopes, delta = driven(network, network.forward(recipe.x), recipe.target, inversion.loss)
    drive = [slope[chosen] for slope in slopes], delta[chosen]
    hidden, _ = hidden_errors(network, drive, inversion)
    above = hidden[1:] if inversion.rule == "di" else []
    slopes, deltas = (
        [array.astype(np.float64) for array in arrays] for arrays in (drive[0], [*above, drive[1]])
    )
    return network.copy(dtype="float64"), inversion, slopes, deltas
