"""The time operators of a controller for growing numbers of nodes, flat, as the kernels of the waveform integrator take them.

How many nodes a shard needs is found by climbing this ladder (`kernels.control_space.choose_nodes`).
"""

from functools import lru_cache

import numpy as np

from dfc_numba.dynamics import wide_outputs
from dfc_numba.dynamics.time_operators import time_operators
from dfc_numba.kernels.control_space import Ladder

RUNGS = (5, 6, 7, 8, 10, 12, 14, 16, 18, 20, 24, 28, 32)  # numbers of nodes
MOST_OUTPUTS = 64  # beyond which the control error is eliminated, see `wide_outputs`
MOST_UNKNOWNS = 900  # of a sample's system


@lru_cache(maxsize=64)
def ladder(controller, depth, outputs, dtype, final=False):
    """Return the time operators of a controller for a network of `depth` layers, for all numbers of nodes, as kernels take them.

    Args:
        final: whether the state at T matters, rather than the sum over time.
    """
    if outputs > MOST_OUTPUTS:
        rungs = wide_outputs.rungs_of(controller)
    else:
        rungs = [m for m in RUNGS if m * outputs <= MOST_UNKNOWNS]
        if controller.limit == "published":
            rungs = [m for m in rungs if m <= controller.steps]
    operators = [time_operators(controller, m) for m in rungs]
    m = np.array(rungs, np.int64)

    def ends(lengths):
        return np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)

    def flat(arrays):
        return np.concatenate([np.ravel(a) for a in arrays]).astype(dtype)

    response, response_start = zip(*(_responses(o, depth) for o in operators), strict=True)
    readout = [np.eye(len(o.total))[-1] if final else o.total for o in operators]
    return Ladder(
        nodes=m,
        square=ends(m * m),
        vector=ends(m),
        response=flat(r.transpose(2, 1, 0) for r in response),
        response_start=flat(response_start),
        average=flat(w @ r for w, r in zip(readout, response, strict=True)),
        average_start=flat(r @ w for w, r in zip(readout, response_start, strict=True)),
        soma=flat(o.soma for o in operators),
        basal=flat(o.basal for o in operators),
        control=flat(o.control for o in operators),
        control_start=flat(o.control_start for o in operators),
        last_control=flat(o.last_control for o in operators),
        last_control_start=flat([o.last_control_start] for o in operators),
        total=flat(o.total for o in operators),
        root=flat(_root(o.products) for o in operators),
        delayed=not controller.transmission_is_instant and controller.limit == "published",
    )


def _responses(operators, depth):
    """Return A_k (L, m, m) and a_k (L, m): the filtered control signal, k layers on."""
    matrices, vectors = [operators.control], [operators.control_start]
    for _ in range(depth - 1):
        matrices.append(operators.soma @ matrices[-1])
        vectors.append(operators.soma @ vectors[-1])
    return np.stack(matrices), np.stack(vectors)


def _root(products):
    """Return R with R^T R = products, which rounding may leave with eigenvalues below zero."""
    values, vectors = np.linalg.eigh(products)
    return np.sqrt(np.maximum(values, 0.0))[:, np.newaxis] * vectors.T
