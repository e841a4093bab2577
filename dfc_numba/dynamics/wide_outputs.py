"""The waveform integrator for networks with many linear outputs: prepares the reduced equation of `kernels.waveform_wide`."""

from functools import lru_cache, partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from dfc_numba.dynamics.time_operators import derivative, refinement, time_operators
from dfc_numba.kernels import units
from dfc_numba.kernels.layout import dense_views, pack
from dfc_numba.kernels.waveform_wide import Reduced
from dfc_numba.model.activations import addresses, phi_prime
from dfc_numba.model.products import row_products
from dfc_numba.support import threads

RUNGS = (5, 7, 10, 14, 20, 24, 28)  # numbers of nodes
MOST_UNITS = 512  # of the last hidden layer, whose linear response is inverted for every mode in time
OPERATORS = ("loop", "drive", "error", "error_start", "weight", "readout")  # see `Reduced`
MOST_MODES = 14  # nodes up to which a rung has its own modes


def obstacle(controller, network, learns):
    """Return why a network's outputs cannot be eliminated from the equation in time, as words for a message; "" where they can.

    Args:
        learns: whether the feedback weights of the output layer learn.
    """
    if network.activations[-1] != "linear":
        return f"output_activation = {network.activations[-1]!r}"
    if controller.error != "difference":
        return f"controller.error = {controller.error!r}"
    if len(network.sizes) < 3 or network.sizes[-2] > MOST_UNITS:
        return f"{network.sizes[-2]} units in the layer below"
    if learns:
        return "feedback.freeze_output = false"
    if learns:
        return "feedback.freeze_output = false"
    if not np.array_equal(network.feedback[-1], np.eye(network.sizes[-1])):
        return "feedback weights of the output layer that are not the identity"
    return ""


@lru_cache(maxsize=16)
def _operators(controller, final):
    """Return, per rung, loop, drive, error, error_start, weight and readout of the reduced equation, in float64."""
    rungs = []
    for m in rungs_of(controller):
        operators, identity = time_operators(controller, m), np.eye(m)
        closed = np.linalg.inv(identity + operators.control)
        error_start, error = closed @ (1.0 - operators.control_start), closed @ operators.soma
        drive, loop = operators.control @ error_start + operators.control_start, operators.control @ error
        readout = identity[-1] if final else operators.total
        weight = np.abs(operators.total)
        if final:
            weight[-1] += weight.sum()
        rungs.append((-loop, drive, -error, error_start, weight, readout))
    return rungs


def rungs_of(controller):
    """Return the numbers of nodes that a controller's phase may be solved at."""
    return [m for m in RUNGS if controller.limit == "continuous" or m <= controller.steps]


class _Modes(NamedTuple):
    """Functions of time that leak and loop leave as they are, but for a factor; of a conjugate pair one stands for both.

    Attributes:
        source: number of the rung whose modes they are. leak, gain: their factors, real ones first. singles: number of those.
        there, back: from nodes to modes and back, matrices in which a pair has two rows or columns, real and imaginary.
    """

    source: int
    leak: np.ndarray
    gain: np.ndarray
    singles: int
    there: np.ndarray
    back: np.ndarray


@lru_cache(maxsize=16)
def _modes(controller):
    """Return the `_Modes` of each rung: eigenvectors of the time derivative, with the factors that the operators have there.

    Rungs with many nodes take the modes of an earlier one; what these do not resolve is left to the iteration.
    """
    found, rungs = [], rungs_of(controller)
    for rung, m in enumerate(rungs):
        if m > MOST_MODES and found:
            own = found[found[-1].source]
            there, back = (
                refinement(controller, m, rungs[own.source]),
                refinement(controller, rungs[own.source], m),
            )
            found.append(own._replace(there=own.there @ there, back=back @ own.back))
            continue
        rates, vectors = np.linalg.eig(derivative(controller, m))
        inverse, loop = np.linalg.inv(vectors), -_operators(controller, False)[rung][0]
        leak, gain = (np.diag(inverse @ a @ vectors) for a in (time_operators(controller, m).soma, loop))
        real, pairs = np.flatnonzero(rates.imag == 0), np.flatnonzero(rates.imag > 0)
        order = np.concatenate([real, pairs])
        there, back = [inverse[real].real], [vectors.T[real].real]
        for k in pairs:  # which contribute twice the real part of their product
            there.append([inverse[k].real, inverse[k].imag])
            back.append([2.0 * vectors[:, k].real, -2.0 * vectors[:, k].imag])
        found.append(
            _Modes(rung, leak[order], gain[order], len(real), np.concatenate(there), np.concatenate(back).T)
        )
    return found


def reduce(phase, final):
    """Return the `Reduced` equation of a phase whose network has no `obstacle`.

    Args:
        final: whether the state at T matters, rather than the sum over time.
    """
    network, controller, dtype = phase.network, phase.controller, phase.network.dtype
    below, strides = network.sizes[-2], phase.places.stride
    transposed = np.ascontiguousarray(network.weights[-1].T)
    feedback = [row_products(q, transposed) for q in network.feedback[:-1]]
    operators, modes = _operators(controller, final), _modes(controller)
    rungs, terms = rungs_of(controller), _loop_terms(phase, feedback)
    refine = [refinement(controller, a, b) for a, b in pairwise(rungs)]
    own = sorted({mode.source for mode in modes})
    with threads.one_thread():  # the same bits for any number of them
        responses = [_responses(modes[source], terms, strides[-2], dtype) for source in own]
    starts = np.cumsum([0] + [len(packed) for packed in responses])

    def flat(arrays):
        return np.concatenate([np.zeros(0), *(np.ravel(a) for a in arrays)]).astype(dtype)

    def ends(arrays):
        return np.concatenate([[0], np.cumsum([np.size(a) for a in arrays])[:-1]]).astype(np.int64)

    return Reduced(
        feedback=pack(feedback, strides[1:-1], dtype),
        feedback_start=np.concatenate([[0, 0], np.cumsum(strides[1:-1] * below)]).astype(np.int64),
        rate=addresses(network, partial(units.step_loop, first=True, saturated=False), dtype),
        rate_saturated=addresses(network, partial(units.step_loop, first=True, saturated=True), dtype),
        **{name: flat(arrays) for name, arrays in zip(OPERATORS, zip(*operators, strict=True), strict=True)},
        refine=flat(refine),
        refine_start=np.concatenate([[0], ends(refine)]) if refine else np.zeros(1, np.int64),
        to_modes=flat(mode.there for mode in modes),
        from_modes=flat(mode.back for mode in modes),
        modes_start=ends([mode.there for mode in modes]),
        modes=np.array([(mode.singles, len(mode.leak) - mode.singles) for mode in modes], np.int64),
        responses=np.concatenate(responses),
        responses_start=np.array([starts[own.index(mode.source)] for mode in modes], np.int64),
        regularisation=1e-10 if dtype == np.float64 else 1e-7,
    )


def _loop_terms(phase, feedback):
    """Return D_{L-1} W_{L-1} ... D_j K_j, j = L-1 .. 1, with mean slopes D; gain leak^k times these, summed, is a mode's loop."""
    network = phase.network
    voltages = dense_views(phase.minibatch.v_ff, phase.count, network.sizes)
    slopes = [
        phi_prime(name, v).mean(axis=0)
        for name, v in zip(network.activations[:-1], voltages[:-1], strict=True)
    ]
    terms = []
    with threads.one_thread():
        for j in range(len(feedback)):
            term = slopes[j][:, np.newaxis] * feedback[j].astype(np.float64)
            for i in range(j + 1, len(feedback)):
                term = slopes[i][:, np.newaxis] * (network.weights[i].astype(np.float64) @ term)
            terms.insert(0, term)
    return terms


def _responses(modes, terms, stride, dtype):
    """Return (I + sum of gain leak^k term_k)^-1 - I of each mode, packed: of complex ones A + iB the matrices A, B, -B."""
    matrices, identity = [], np.eye(len(terms[0]))
    for number, (leak, gain) in enumerate(zip(modes.leak, modes.gain, strict=True)):
        factors = gain * leak ** np.arange(len(terms))
        factors = factors.real if number < modes.singles else factors
        response = (
            np.linalg.inv(identity + sum(f * term for f, term in zip(factors, terms, strict=True))) - identity
        )
        matrices += [response] if number < modes.singles else [response.real, response.imag, -response.imag]
    return pack(matrices, [stride] * len(matrices), dtype)
