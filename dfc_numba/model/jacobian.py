"""The Jacobian of the output with respect to the voltages, and the feedback weights that are functions of it."""

import numpy as np

from dfc_numba.model.activations import phi_prime

PIECE_BYTES = 64e6  # of the Jacobians that are held at a time


def of_output(network, voltages):
    """Return J = d r_L / d v at given voltages (list of (B, n_i)): (B, n_L, sum n_i) in float64, layers side by side.

    J_L = diag(phi'(v_L)),  J_i = J_{i+1} W_{i+1} diag(phi'(v_i))
    """
    slopes = [phi_prime(name, v) for name, v in zip(network.activations, voltages, strict=True)]
    blocks = [np.eye(network.sizes[-1]) * slopes[-1][:, None, :]]
    for i in reversed(range(len(slopes) - 1)):
        above = network.weights[i + 1].astype(np.float64)
        blocks.insert(0, blocks[0] @ above * slopes[i][:, None, :])
    return np.concatenate(blocks, axis=2)


def mean_feedback(network, voltages, kind, damping):
    """Return the mean over samples of J^T, J^+ or J^T (J J^T + damping I)^{-1}: (sum n_i, n_L), a few samples at a time."""
    count = len(voltages[0])
    at_a_time = max(1, int(PIECE_BYTES / (8 * network.sizes[-1] * sum(network.sizes[1:]))))
    pieces = (slice(first, first + at_a_time) for first in range(0, count, at_a_time))
    jacobians = (of_output(network, [v[piece] for v in voltages]) for piece in pieces)
    return sum(_summed_feedback(jacobian, kind, damping) for jacobian in jacobians) / count


def _summed_feedback(jacobian, kind, damping):
    if kind == "jacobian_transpose":
        return jacobian.sum(axis=0).T
    if kind == "jacobian_pinv":
        return np.linalg.pinv(jacobian).sum(axis=0)
    gram = jacobian @ jacobian.transpose(0, 2, 1) + damping * np.eye(jacobian.shape[1])
    return np.linalg.solve(gram, jacobian).sum(axis=0).T
