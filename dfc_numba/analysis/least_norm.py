"""Least-norm changes that move the output by a given d: of the voltages of a sample, of the parameters for a minibatch.

    c = argmin |d - J c|^2 + damping |c|^2 = J^T (J J^T + damping I)^{-1} d          (J^+ d without damping)

With solver="dense" by matrices, with "matrix_free" from products with J and J^T alone (LSQR, Paige & Saunders 1982).
"""

import numpy as np
from scipy.linalg import eigh, lapack
from scipy.sparse.linalg import LinearOperator, lsqr

from dfc_numba.analysis.linear_response import Spectrum, by_layer, inverse_gains, jacobian_bytes
from dfc_numba.support import memory

SOLVERS = ("dense", "matrix_free")
MATRIX_FREE = 'pass solver="matrix_free", which needs products with the Jacobian only, or fewer samples'
TOLERANCE = 1e-14  # of LSQR, relative
MOST_STEPS = 20  # of LSQR, per number that is to be met
WELL_CONDITIONED = 1e-8  # reciprocal condition number above which a Cholesky factor is good enough
WHOLE_BYTES = 4e6  # up to which J_W of a minibatch is made as a whole
GRAMS = 3  # matrices of that size that a dense solution holds at a time


def in_voltages(response, output, damping, solver, norms=None):
    """Return changes p_i of the voltages, for each sample separately: list of (B, n_i).

    Args:
        response: a `LinearResponse`. output: d, (B, n_L).
        norms: (B, L) numbers s_i; then p = argmin |d - sum_i J_i s_i^2 p_i|^2 + damping sum_i |s_i p_i|^2, which are changes
            p_i r^T of weights whose inputs r have the norms s_i. None for 1.
    """
    network = response.network
    shape = len(output), sum(network.sizes[1:])
    columns = np.ones(shape) if norms is None else np.repeat(norms, network.sizes[1:], axis=1)
    solve = _dense if solver == "dense" else _matrix_free
    changes = solve(response, output, damping, columns)
    return by_layer(network, np.divide(changes, columns, out=np.zeros(shape), where=columns > 0))


def _dense(response, output, damping, columns):
    """Return c (B, N) of least norm with J diag(columns) c = d, from the singular values of that matrix."""
    found = []
    for piece in response.pieces(MATRIX_FREE):
        spectrum = Spectrum.of(response.jacobians(piece) * columns[piece, np.newaxis])
        parts = spectrum.left.transpose(0, 2, 1) @ output[piece, :, np.newaxis]
        parts *= inverse_gains(spectrum.values, spectrum.kept, damping)[:, :, np.newaxis]
        found.append((spectrum.right.transpose(0, 2, 1) @ parts)[:, :, 0])
    return np.concatenate(found)


def _matrix_free(response, output, damping, columns):
    """Return the same for all samples together: their Jacobians are the blocks of one matrix."""

    def forward(changes):
        changes = columns * changes.reshape(columns.shape)
        return response.push_forward(by_layer(response.network, changes)).ravel()

    def backward(output_change):
        pulled = response.pull_back(output_change.reshape(output.shape))
        return (columns * np.concatenate(pulled, axis=1)).ravel()

    return _lsqr(forward, backward, columns.size, output, damping).reshape(columns.shape)


def in_parameters(response, output, damping, solver):
    """Return changes of weights and biases (None for a network without) that move the outputs of all samples: lists."""
    if solver == "matrix_free":
        return _matrix_free_parameters(response, output, damping)
    parameters = sum(weight.size for weight in response.network.weights)
    whole = 8 * output.size * parameters <= WHOLE_BYTES
    return (_whole_parameters if whole else _gram_parameters)(response, output, damping)


def _whole_parameters(response, output, damping):
    """Return the solution from the singular values of J_W."""
    network, rows = response.network, output.size
    jacobians = by_layer(network, response.jacobians())
    columns = [
        np.einsum("bkn,bm->bknm", j, below).reshape(rows, -1)
        for j, below in zip(jacobians, response.below, strict=True)
    ]
    columns += [] if network.biases is None else [j.reshape(rows, -1) for j in jacobians]
    spectrum = Spectrum.of(np.concatenate(columns, axis=1)[np.newaxis])
    parts = inverse_gains(spectrum.values, spectrum.kept, damping)[0] * (output.ravel() @ spectrum.left[0])
    return _arrays(network, parts @ spectrum.right[0])


def _gram_parameters(response, output, damping):
    """Return J_W^T (J_W J_W^T + damping I)^{-1} d, where J_W is long: the Gram matrix has an entry per pair of outputs.

    Without damping it loses twice the digits that the condition number of J_W costs.
    """
    network, count = response.network, output.size
    needed = 8 * GRAMS * count**2 + 2 * len(output) * jacobian_bytes(network)
    purpose = f"Gauss-Newton for {len(output)} samples at once, a matrix of {count} x {count},"
    memory.require(needed, purpose, MATRIX_FREE)
    jacobians = by_layer(network, response.jacobians())
    gram = sum(
        gram_of_layer(j, below, network.biases is not None)
        for j, below in zip(jacobians, response.below, strict=True)
    )
    multipliers = _solve_semidefinite(gram, output.ravel(), damping).reshape(output.shape)
    return outer_sums(network, response.pull_back(multipliers), response.below)


def _arrays(network, flat):
    """Return the weights of all layers and, lying behind them, the biases; None for a network without biases."""
    biases = network.biases or []
    parts = np.split(flat, np.cumsum([array.size for array in (*network.weights, *biases)])[:-1])
    weights = [
        part.reshape(weight.shape) for part, weight in zip(parts, network.weights, strict=False)
    ]  # biases are left
    return weights, parts[len(weights) :] or None


def gram_of_layer(jacobians, below, bias):
    """Return scalar products of d r_L / d(W_i, b_i) of all samples and outputs: (J_i J_i^T) (r^T r + 1 with bias).

    Args:
        jacobians: J_i, (B, n_L, n_i). below: r_{i-1}, (B, n_{i-1}).

    Returns:
        (B n_L, B n_L)
    """
    count, outputs = jacobians.shape[:2]
    rows = jacobians.reshape(count * outputs, -1)
    gram, inputs = rows @ rows.T, below @ below.T + float(bias)
    blocks = gram.reshape(count, outputs, count, outputs)
    blocks *= inputs[:, np.newaxis, :, np.newaxis]
    return gram


def _solve_semidefinite(gram, right, damping):
    """Return (G + damping I)^{-1} b, the least-norm solution where damping is 0."""
    gram[np.diag_indices_from(gram)] += damping
    factor, failed = lapack.dpotrf(gram.T)
    if not failed and (damping > 0 or lapack.dpocon(factor, np.linalg.norm(gram, 1))[0] > WELL_CONDITIONED):
        return lapack.dpotrs(factor, right)[0]
    values, vectors = eigh(gram.T, overwrite_a=True)
    kept = values > len(values) * np.finfo(np.float64).eps * values[-1]
    return vectors[:, kept] @ (vectors[:, kept].T @ right / values[kept])


def outer_sums(network, factors, below):
    """Return weights and biases that are sums over samples of p_i r_{i-1}^T and p_i."""
    weights = [factor.T @ rates for factor, rates in zip(factors, below, strict=True)]
    return weights, None if network.biases is None else [factor.sum(axis=0) for factor in factors]


def _matrix_free_parameters(response, output, damping):
    network = response.network

    def forward(flat):
        weights, biases = _arrays(network, flat)
        changes = [below @ weight.T for below, weight in zip(response.below, weights, strict=True)]
        if biases is not None:
            changes = [change + bias for change, bias in zip(changes, biases, strict=True)]
        return response.push_forward(changes).ravel()

    def backward(output_change):
        factors = response.pull_back(output_change.reshape(output.shape))
        weights, biases = outer_sums(network, factors, response.below)
        return np.concatenate([array.ravel() for array in (*weights, *(biases or []))])

    unknowns = sum(array.size for array in (*network.weights, *(network.biases or [])))
    return _arrays(network, _lsqr(forward, backward, unknowns, output, damping))


def _lsqr(forward, backward, unknowns, output, damping):
    """Return the solution of least norm by LSQR.

    Raises:
        LinAlgError: if it takes too many steps.
    """
    shape = (output.size, unknowns)
    matrix = LinearOperator(shape, matvec=forward, rmatvec=backward, dtype=np.float64)
    solution, reason, steps, *_ = lsqr(
        matrix, output.ravel(), damp=np.sqrt(damping), atol=TOLERANCE, btol=TOLERANCE, conlim=0,
        iter_lim=MOST_STEPS * output.size,
    )  # fmt: skip
    if reason == 7:
        raise np.linalg.LinAlgError(
            f"the matrix-free solution has not converged after {steps} steps, so its Jacobian is close to singular; use "
            f"damping > {damping:g}, fewer samples, or solver='dense'"
        )
    return solution
