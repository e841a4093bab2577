"""Loops at rest, and least squares of many samples by one factorisation.

With r_y eliminated, or r_x where it is the smaller, the rest of a loop is one equation for the state z of one population,

    M f_K(... C_2 f_1(C_1 z)) - alpha z = e,

a linear system for all samples at once where f is the identity, one for each sample where f has other slopes, and
otherwise one to solve for each sample by Newton's method. Linear systems that are singular have a least squares solution.
"""

from dataclasses import dataclass

import numpy as np

from dfc_numba.errors import DivergenceError
from dfc_numba.support.threads import one_thread

PIECE_BYTES = 64e6  # of the derivatives that are held at a time
MAX_ITERATIONS, HALVINGS = 100, 30
SUFFICIENT, ENOUGH = 1e-13, 1e-9  # of |e|: where Newton's method ends, and what it must reach
EPS = np.finfo(np.float64).eps


@dataclass(frozen=True)
class Rest:
    """The equation above.

    Attributes:
        chain: C_1 .. C_K, list of matrices. last: M.
        scales: per hidden layer what f multiplies by, (B, n_k), or None for the identity. tanh: whether f is tanh.
        leak: alpha. drive: e, (B, n).
    """

    chain: list
    last: np.ndarray
    scales: list
    tanh: bool
    leak: float
    drive: np.ndarray

    def states(self):
        """Return C_1 z, C_2 f_1(C_1 z), ... at rest: list of (B, n_k).

        Raises:
            DivergenceError: for samples for which no state of rest is found, with tanh.
        """
        linear = not self.tanh and self.scales[0] is None
        z = self._linear() if linear else self._in_pieces(self._newton if self.tanh else self._scaled)
        return [states for states, _ in self._forward(z, slice(None))]

    def _linear(self):
        product = self.chain[0]
        for matrix in [*self.chain[1:], self.last]:
            product = matrix @ product
        return solve(product - self.leak * np.eye(len(product)), self.drive.T).T

    def _forward(self, z, chosen):
        """Return each hidden layer's states and what it shows of them, for chosen samples."""
        shown, found = z, []
        for matrix, scale in zip(self.chain, self.scales, strict=True):
            r = shown @ matrix.T
            shown = np.tanh(r) if self.tanh else (r if scale is None else r * scale[chosen])
            found.append((r, shown))
        return found

    def _residual(self, z, chosen):
        """Return the residual of the equation, and the layers."""
        layers = self._forward(z, chosen)
        return layers[-1][1] @ self.last.T - self.leak * z - self.drive[chosen], layers

    def _derivative(self, layers, chosen):
        """Return the derivative of the residual with respect to z, (B, n, n)."""
        product = self.chain[0]
        for (_, shown), scale, matrix in zip(layers, self.scales, [*self.chain[1:], self.last], strict=True):
            slope = 1.0 - shown**2 if self.tanh else scale[chosen]
            product = matrix @ (slope[:, :, None] * product)
        return product - self.leak * np.eye(len(self.last))

    def _in_pieces(self, method):
        """Return z of all samples, by a method for chosen ones."""
        count, n = self.drive.shape
        at_a_time = max(1, int(PIECE_BYTES / (8 * n * max(len(c) for c in [*self.chain, self.last]))))
        pieces = (np.arange(k, min(k + at_a_time, count)) for k in range(0, count, at_a_time))
        with np.errstate(all="ignore"):  # what is not finite is not stepped to
            return np.concatenate([method(piece) for piece in pieces])

    def _scaled(self, chosen):
        """Return z of chosen samples where f only scales: the derivative is the matrix of their linear system."""
        drive = self.drive[chosen]
        matrices = self._derivative(self._forward(np.zeros_like(drive), chosen), chosen)
        return _solve_each(matrices, drive, _singular(matrices))

    def _newton(self, chosen):
        """Return z of chosen samples, from z = 0 by Newton steps that are halved until the residual falls."""
        z = np.zeros((len(chosen), self.drive.shape[1]))
        scale = np.linalg.norm(self.drive[chosen], axis=1)
        residual, layers = self._residual(z, chosen)
        norm, moving = np.linalg.norm(residual, axis=1), np.ones(len(chosen), np.bool_)
        for _ in range(MAX_ITERATIONS):
            moving &= norm > SUFFICIENT * scale
            if not moving.any():
                break
            step = -_solve_each(self._derivative(layers, chosen), residual)
            z, moving = self._halved(z, step, norm, moving, chosen)
            residual, layers = self._residual(z, chosen)
            norm = np.linalg.norm(residual, axis=1)
        _refuse(chosen[~(norm <= ENOUGH * scale)], len(self.drive))
        return z

    def _halved(self, z, step, norm, moving, chosen):
        """Return z after the longest of the steps 1, 1/2, 1/4, ... that lowers the residual, and which samples took one."""
        moved, length = np.zeros_like(moving), 1.0
        for _ in range(HALVINGS):
            trial = z + length * step
            falls = np.linalg.norm(self._residual(trial, chosen)[0], axis=1) < norm
            taken = moving & ~moved & falls
            z = np.where(taken[:, None], trial, z)
            moved |= taken
            if not (moving & ~moved).any():
                break
            length *= 0.5
        return z, moved


def _refuse(lost, count):
    if len(lost):
        raise DivergenceError(
            f"no state of rest was found for {len(lost)} of {count} samples, the first of them {lost[0]}: what tanh can "
            "show is bounded, so large errors may have none; scale the errors down, raise alpha, or run the dynamics",
            samples=lost.tolist(),
        )  # fmt: skip


def solve(matrix, columns):
    """Return matrix^{-1} columns for all columns at once; the least-norm least squares solution where `matrix` is singular."""
    return least_squares(matrix, columns) if _singular(matrix) else np.linalg.solve(matrix, columns)


def least_squares(matrix, columns):
    """Return the least squares solution of least norm, to working precision."""
    return np.linalg.lstsq(matrix, columns, rcond=EPS)[0]


def _singular(matrix):
    """Return whether a square matrix, or each of a stack, is singular to working precision."""
    with np.errstate(all="ignore"):
        return ~(np.linalg.cond(matrix, 1) < 1.0 / (matrix.shape[-1] * EPS))


def _solve_each(matrices, rows, singular=False):
    """Return matrices[b]^{-1} rows[b]; least-norm least squares solutions where one is `singular`, or has no solution."""
    try:
        found = np.linalg.solve(matrices, rows[:, :, None])[:, :, 0]
    except np.linalg.LinAlgError:
        found = np.full_like(rows, np.nan)
    for b in np.flatnonzero(singular | ~np.isfinite(found).all(axis=1)):
        if np.isfinite(matrices[b]).all() and np.isfinite(rows[b]).all():
            found[b] = least_squares(matrices[b], rows[b])
    return found


def pseudo_inverse_product(matrix, rows):
    """Return rows (B, n) times the transposed pseudo-inverse of `matrix` (n, m): solutions of least norm, (B, m)."""
    w, d = _in_double([matrix, rows.T])
    with one_thread():
        return np.ascontiguousarray(_pseudo_inverse_times(w, d).T, rows.dtype)


def _pseudo_inverse_times(matrix, columns):
    wide = matrix.shape[0] < matrix.shape[1]
    q, r = np.linalg.qr(matrix.T if wide else matrix)
    if _singular(r):
        return least_squares(matrix, columns)
    return q @ np.linalg.solve(r.T, columns) if wide else np.linalg.solve(r, q.T @ columns)


def layer_at_rest(weights, feedback, scale, tanh, leak, delta):
    """Return r_x of one layer's loop at rest, (B, n_in), by the smaller of two systems, in the linear case

        r_x = B (W B - alpha I)^{-1} delta    if n_out <= n_in,    r_x = (B W - alpha I)^{-1} B delta    otherwise

    Args:
        weights: W (n_out, n_in). feedback: B (n_in, n_out). scale: (B, n_in) or None. delta: (B, n_out).
    """
    w, b, d = _in_double([weights, feedback, delta])
    with one_thread():
        if len(w) <= len(b):
            rest = Rest([b], w, _in_double([scale]), tanh, leak, d)
        else:
            rest = Rest([np.eye(len(b))], b @ w, _in_double([scale]), tanh, leak, d @ b.T)
        return np.ascontiguousarray(rest.states()[0], delta.dtype)


def network_at_rest(weights, feedback, scales, tanh, leak, delta):
    """Return the hidden layers of the loop through all layers at rest, list of (B, n_i).

    Args:
        weights: W_2 .. W_L. feedback: B (n_1, n_L). scales: per hidden layer (B, n_i) or None. delta: (B, n_L).
    """
    chain = _in_double([feedback, *weights])
    rest = Rest(chain[:-1], chain[-1], _in_double(scales), tanh, leak, delta.astype(np.float64))
    with one_thread():
        return [np.ascontiguousarray(states, delta.dtype) for states in rest.states()]


def _in_double(arrays):
    return [None if array is None else array.astype(np.float64) for array in arrays]
