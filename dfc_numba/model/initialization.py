"""Initial forward and feedback weights."""

from typing import Literal, get_args

import numpy as np

from dfc_numba.support.validation import choice

Initialisation = Literal["xavier_normal", "xavier", "orthogonal", "orthonormal", "uniform", "he_uniform"]
FeedbackInit = Literal["xavier_normal", "xavier", "orthogonal", "weight_product"]
WEIGHT_INITS = get_args(Initialisation)
FEEDBACK_INITS = get_args(FeedbackInit)


def initial_matrix(kind, rows, columns, rng, half_width=0.01):
    """Return a (rows, columns) matrix of random weights.

    "xavier_normal" has standard deviation sqrt(2 / (rows + columns)), "xavier" is uniform in
    +- sqrt(6 / (rows + columns)) (Glorot & Bengio 2010), "orthogonal" has orthonormal rows or columns times that bound,
    "orthonormal" has them as they are, "uniform" is uniform in +- half_width, "he_uniform" in +- sqrt(6 / columns).
    """
    bound = np.sqrt(6.0 / (rows + columns))
    if choice("init", kind, WEIGHT_INITS) == "xavier_normal":
        return rng.standard_normal((rows, columns)) * np.sqrt(2.0 / (rows + columns))
    if kind in ("xavier", "uniform", "he_uniform"):
        bound = {"xavier": bound, "uniform": half_width, "he_uniform": np.sqrt(6.0 / columns)}[kind]
        return rng.uniform(-bound, bound, (rows, columns))
    return (bound if kind == "orthogonal" else 1.0) * _orthogonal(rows, columns, rng)


def _orthogonal(rows, columns, rng):
    """Return a matrix with orthonormal rows or columns, uniform among them (QR of a Gaussian matrix, signs fixed)."""
    gaussian = rng.standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(gaussian)
    q *= np.sign(np.diag(r))
    return q if rows >= columns else q.T


def weight_product(weights):
    """Return feedback weights Q_i = W_{i+1}^T ... W_L^T; the identity for the output layer."""
    products = [np.eye(len(weights[-1]))]
    for matrix in reversed(weights[1:]):
        products.insert(0, matrix.T @ products[0])
    return products
