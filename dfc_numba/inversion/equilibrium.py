"""Loops of populations at rest, and least squares of many samples by one factorisation."""

import numpy as np
from scipy.linalg import lapack, lstsq

from dfc_numba.model.jacobian import one_thread


def pseudo_inverse_product(matrix, rows):
    """rows (B, n) times the transposed pseudo-inverse of `matrix` (n, m): the solutions of least norm, (B, m)."""
    with one_thread():
        return _least_squares(matrix.astype(np.float64), rows.T).T.astype(rows.dtype)


def sequential_rest(weights, feedback, leak, delta):
    """r_x at rest of one layer's linear loop, (B, n_in), by the smaller of two linear systems for all samples:

        r_x = B (W B - alpha I)^{-1} delta    if n_out <= n_in,    r_x = (B W - alpha I)^{-1} B delta    otherwise

    A singular system is solved in the sense of least squares, by the solution of least norm.

    Args:
        weights: W (n_out, n_in). feedback: B (n_in, n_out). leak: alpha. delta: (B, n_out).
    """
    w, b, d = (a.astype(np.float64) for a in (weights, feedback, delta.T))
    with one_thread():
        if len(w) <= len(b):
            rest = b @ _solve(w @ b - leak * np.eye(len(w)), d)
        else:
            rest = _solve(b @ w - leak * np.eye(len(b)), b @ d)
    return np.ascontiguousarray(rest.T, delta.dtype)


def _solve(matrix, columns):
    """matrix^{-1} columns, or the least squares solution of least norm where the matrix is singular to working precision."""
    factors, pivots, failed = lapack.dgetrf(matrix)
    if not failed:
        inverse_condition, _ = lapack.dgecon(factors, np.abs(matrix).sum(axis=0).max())
        if inverse_condition > len(matrix) * np.finfo(np.float64).eps:
            return lapack.dgetrs(factors, pivots, columns)[0]
    return _least_squares(matrix, columns)


def _least_squares(matrix, columns):
    return lstsq(matrix, columns, cond=np.finfo(np.float64).eps, check_finite=False)[0]
