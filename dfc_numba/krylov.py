"""Matrices of many samples at once of which only products are known: linear systems, and eigenvalues at the edge.

A matrix is a function that takes vectors (B, n), a row for every sample, and returns its products with them.
"""

import numpy as np

INVARIANT = 1e-12  # part of a product outside a space that is left by rounding alone


def conjugate_residuals(multiply, right, *, tolerance, most, precondition):
    """x of A x = b for every sample, by generalised conjugate residuals (Eisenstat, Elman & Schultz 1983).

    x is P y with the smallest residual of all y in the span of b, A P b, (A P)^2 b, ..., as GMRES finds it.

    Args:
        multiply: the matrix A. right: b, (B, n). precondition: the matrix P, something like the inverse of A.
        tolerance: norm of the residual b - A x over that of b at which to stop.
        most: largest number of products; x is what has been reached by then.

    Returns:
        x, (B, n).
    """
    x, residual = np.zeros_like(right), right.copy()
    goal = tolerance * np.linalg.norm(right, axis=1)
    directions, images = (np.zeros((len(right), most, right.shape[1])) for _ in range(2))
    for k in range(most):
        if (np.linalg.norm(residual, axis=1) <= goal).all():
            break
        direction = precondition(residual)
        image = multiply(direction)
        overlap = _orthogonalise(image, images[:, :k])
        direction -= _combine(overlap, directions[:, :k])
        scale = _inverse(np.linalg.norm(image, axis=1))
        directions[:, k], images[:, k] = scale * direction, scale * image
        amount = np.einsum("bi,bi->b", residual, images[:, k])[:, None]
        x += amount * directions[:, k]
        residual -= amount * images[:, k]
    return x


def smallest_real_part(multiply, start, *, steps):
    """Smallest real part of the eigenvalues, (B,), as `steps` Arnoldi iterations from the vectors `start` (B, n) see them.

    The iterations find eigenvalues at the edge of the spectrum first.
    """
    basis = np.zeros((len(start), steps + 1, start.shape[1]))
    basis[:, 0] = start * _inverse(np.linalg.norm(start, axis=1))
    projected = np.zeros((len(start), steps + 1, steps))
    for k in range(steps):
        image = multiply(basis[:, k])
        whole = np.linalg.norm(image, axis=1)
        projected[:, : k + 1, k] = _orthogonalise(image, basis[:, : k + 1])
        size = np.linalg.norm(image, axis=1)
        size[size < INVARIANT * whole] = 0.0
        projected[:, k + 1, k] = size
        basis[:, k + 1] = image * _inverse(size)
    # a basis that spans an invariant space ends in zeros, which stand for no eigenvalue: put them out of the way
    ended = ~basis[:, :steps].any(axis=2)
    projected = projected[:, :steps]
    largest = np.abs(projected).max(axis=(1, 2))
    np.einsum("bkk->bk", projected)[...] += ended * largest[:, None]
    return np.linalg.eigvals(projected).real.min(axis=1)


def _orthogonalise(vectors, basis):
    """Take out of the vectors (B, n), in place, what lies in the span of a basis (B, k, n); returns how much, (B, k).

    The second round takes out what rounding left in.
    """
    overlap = np.zeros(basis.shape[:2])
    for _ in range(2):
        part = (basis @ vectors[:, :, None])[:, :, 0]
        vectors -= _combine(part, basis)
        overlap += part
    return overlap


def _combine(amounts, basis):
    """sum_k amounts_k basis_k, (B, n)."""
    return (amounts[:, None, :] @ basis)[:, 0]


def _inverse(sizes):
    """1 / size as a column, and 0 for what has no size."""
    return np.divide(1.0, sizes, out=np.zeros_like(sizes), where=sizes > 0)[:, None]
