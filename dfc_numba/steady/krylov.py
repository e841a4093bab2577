"""Matrices of many samples at once of which only products are known: linear systems, and eigenvalues at the edge.

A matrix is a function that takes vectors (B, n), a row for every sample, and returns its products with them.
"""

import numpy as np

ROUNDING = 1e-12  # part of a vector that rounding may leave outside a space that it lies in


def least_residuals(multiply, right, *, tolerance, most, precondition):
    """Solve A x = b for every sample: x = P y with the smallest residual of all y in the span of b, A P b, (A P)^2 b, ...

    This is GMRES in the form of Walker & Zhou (1994, "A simpler GMRES"), which keeps the residual at hand.

    Args:
        multiply: the matrix A. right: b, (B, n). precondition: the matrix P, something like the inverse of A.
        tolerance: norm of the residual b - A x over that of b at which to stop.
        most: largest number of products; x is what has been reached by then.

    Returns:
        x, (B, n).
    """
    scale = np.linalg.norm(right, axis=1)
    vectors = np.zeros((len(right), most + 1, right.shape[1]))  # b, and an orthogonal basis of its images
    triangle, amounts = np.zeros((len(right), most, most)), np.zeros((len(right), most))
    vectors[:, 0], residual, count = right * _inverse(scale), right.copy(), 0
    while count < most and (np.linalg.norm(residual, axis=1) > tolerance * scale).any():
        image = multiply(precondition(vectors[:, count]))
        triangle[:, :count, count], size = _orthogonalise(image, vectors[:, 1 : count + 1])
        triangle[:, count, count] = np.where(size > 0, size, 1.0)
        vectors[:, count + 1] = image = image * _inverse(size)
        amounts[:, count] = np.einsum("bi,bi->b", residual, image)
        residual -= amounts[:, count, None] * image
        count += 1
    y = np.linalg.solve(triangle[:, :count, :count], amounts[:, :count, None])[:, :, 0]
    return precondition(_combine(y, vectors[:, :count]))


def edge_eigenvalues(multiply, start, *, steps):
    """Approximate eigenvalues, (B, steps), by as many Arnoldi iterations from the vectors `start` (B, n).

    Those at the edge of the spectrum come out first and best. Where `start` lies in a smaller invariant space, there are
    fewer, and the rest is filled up with a number that is positive and larger than all of them.
    """
    basis = np.zeros((len(start), steps + 1, start.shape[1]))
    basis[:, 0] = start * _inverse(np.linalg.norm(start, axis=1))
    projected = np.zeros((len(start), steps + 1, steps))
    for k in range(steps):
        image = multiply(basis[:, k])
        projected[:, : k + 1, k], size = _orthogonalise(image, basis[:, : k + 1])
        projected[:, k + 1, k] = size
        basis[:, k + 1] = image * _inverse(size)
    projected, ended = projected[:, :steps], ~basis[:, :steps].any(axis=2)
    np.einsum("bkk->bk", projected)[...] += ended * (1.0 + np.abs(projected).sum(axis=(1, 2)))[:, None]
    return np.linalg.eigvals(projected)


def _orthogonalise(vectors, basis):
    """Take out of the vectors (B, n), in place, what lies in the span of a basis (B, k, n).

    Returns:
        how much of each basis vector that was, (B, k), and the norm of the rest, (B,), zero where it is mere rounding.
    """
    whole, overlap = np.linalg.norm(vectors, axis=1), np.zeros(basis.shape[:2])
    for _ in range(2):  # the second round takes out what rounding left in
        part = (basis @ vectors[:, :, None])[:, :, 0]
        vectors -= _combine(part, basis)
        overlap += part
    size = np.linalg.norm(vectors, axis=1)
    size[size < ROUNDING * whole] = 0.0
    return overlap, size


def _combine(amounts, basis):
    """Return sum_k amounts_k basis_k, (B, n)."""
    return (amounts[:, None, :] @ basis)[:, 0]


def _inverse(sizes):
    """Return 1 / size as a column, and 0 where the size is zero."""
    return np.divide(1.0, sizes, out=np.zeros_like(sizes), where=sizes > 0)[:, None]
