"""The conditions of DFC's theorems, measured: equal input norms, feedback in the row space of J, near an inverse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from dfc_numba.analysis.alignment import WeightsLike, angle, unit_vector
from dfc_numba.analysis.least_norm import gram_of_layer
from dfc_numba.analysis.linear_response import (
    LinearResponse,
    Spectrum,
    by_layer,
    inverse_gains,
    jacobian_bytes,
)
from dfc_numba.model.network import Network
from dfc_numba.support import memory
from dfc_numba.support.array_types import Array, ArrayLike
from dfc_numba.support.ranges import Damping
from dfc_numba.support.shapes import html_repr, short_repr
from dfc_numba.support.threads import one_thread
from dfc_numba.support.validation import choice, number, silent

FEWER = "pass fewer samples"
KEPT_BYTES = 1e9  # of singular vectors; beyond, fitting a damping to the mean makes them again and again


@dataclass(frozen=True)
class Conditions:
    """Measures of a minibatch; of each of B samples where nothing else is said. Angles in degrees.

    NaN is undefined (an angle or a share of a matrix of zeros, a deviation from norms of 0), or too large for float64.

    Attributes:
        input_norms: (B, L) |r_{i-1}|, of the inputs first. dev_r: (B,) their standard deviation over layers, relative to
            their mean: 0 where condition 1 holds.
        condition_2: (B,) |P Q|_F / |Q|_F, with P on the row space of J: 1 where condition 2 holds, Col(Q) = Row(J).
        angle_transpose, angle_pinv, angle_damped: (B,) between Q and J^T, J^+, J^T (J J^T + gamma I)^{-1}.
        damping: (B,) gamma of angle_damped.
        mean_angle_transpose, mean_angle_pinv, mean_angle_damped, mean_damping: floats, likewise for the means over samples
            of these matrices.
    """

    __repr__, _repr_html_ = short_repr, html_repr

    input_norms: Array
    dev_r: Array
    condition_2: Array
    angle_transpose: Array
    angle_pinv: Array
    angle_damped: Array
    damping: Array
    mean_angle_transpose: float
    mean_angle_pinv: float
    mean_angle_damped: float
    mean_damping: float


@silent()
def conditions(
    network: Network, x: ArrayLike, *, damping: float | Sequence[float] | Literal["fitted"] = "fitted"
) -> Conditions:
    """Measure how far the conditions of the theorems hold at the feedforward state (Meulemans et al. 2021, conditions 1 and 2).

        condition 1   |r_{i-1}| is the same in every layer (of the network's rates; the 1 that a bias multiplies not counted)
        condition 2   Col(Q) = Row(J), with Q of all layers, (sum n_i, n_L), and J = d r_L / d v, (n_L, sum n_i)

    Learned feedback weights should resemble the mean of J^T (J J^T + gamma I)^{-1}, with J^T as gamma grows and J^+ as it
    vanishes.

    Args:
        x: inputs (B, n_0).
        damping: gamma, a number >= 0; or several to scan, of which the one with the smallest angle is taken; or "fitted":
            the best of all, 0 for J^+ and infinity for J^T among them. Separately for every sample, and for the mean.

    Returns:
        `Conditions`.

    Raises:
        ValueError, TypeError: for arguments that do not fit.
        MemoryError: if the Jacobian of one sample does not fit; it says how much it needs.
    """
    candidates = _candidates(damping)
    with one_thread():
        response = LinearResponse(network, x)
        feedback = np.concatenate(network.feedback).astype(np.float64)
        spectra = _Spectra(response)
        overlap = _Overlap.of(spectra, feedback)

        def mean_angle(gamma):
            return np.array([angle([feedback], [spectra.mean_inverse(float(np.squeeze(gamma)))])])

        scale = 2.0 * np.log10(overlap.values.max(axis=1))
        best = _best(overlap.angles, scale, candidates)
        best_of_mean = _best(mean_angle, scale.max(keepdims=True), candidates)
        norms = np.stack([np.linalg.norm(rates, axis=1) for rates in response.below], axis=1)
        return Conditions(
            input_norms=norms,
            dev_r=norms.std(axis=1) / norms.mean(axis=1),
            condition_2=overlap.share,
            angle_transpose=overlap.angles(np.inf),
            angle_pinv=overlap.angles(0.0),
            angle_damped=overlap.angles(best),
            damping=best,
            mean_angle_transpose=float(mean_angle(np.inf)[0]),
            mean_angle_pinv=float(mean_angle(0.0)[0]),
            mean_angle_damped=float(mean_angle(best_of_mean)[0]),
            mean_damping=float(best_of_mean[0]),
        )


def _candidates(damping):
    """Return a list of numbers, or None for all."""
    if isinstance(damping, str):
        choice("damping, if no number,", damping, ("fitted",))
        return None
    values = np.atleast_1d(damping).tolist()
    if not values:
        raise ValueError("damping is empty; give one number, several to scan, or 'fitted'")
    return [number("damping", value, Damping) for value in values]


class _Spectra:
    """The singular value decompositions of a minibatch's Jacobians, some samples at a time; kept where there is room."""

    def __init__(self, response):
        self._response, self._pieces, self._kept = response, response.pieces(FEWER), []
        self._keeps = 2 * len(response.x) * jacobian_bytes(response.network) <= KEPT_BYTES

    def __iter__(self):
        if not self._keeps:
            return map(self._piece, self._pieces)
        self._kept = self._kept or list(map(self._piece, self._pieces))
        return iter(self._kept)

    def _piece(self, piece):
        return Spectrum.of(self._response.jacobians(piece))

    def mean_inverse(self, damping):
        """Return the mean over samples of J^T (J J^T + damping I)^{-1}, (N, n_L), up to a factor if the damping is infinite."""
        total = 0.0
        for s in self:
            gains = inverse_gains(s.values, s.kept, damping)
            columns = (s.left * gains[:, np.newaxis]).transpose(0, 2, 1)
            total = total + s.right.reshape(-1, s.right.shape[2]).T @ columns.reshape(-1, columns.shape[2])
        return total / len(self._response.x)


@dataclass(frozen=True)
class _Overlap:
    """Q in the singular vectors of J = A diag(s) V^T: what angles of Q with V diag(f) A^T need.

    Attributes:
        values, kept: (B, k) of the `Spectrum`. diagonal: (B, k) of V^T Q A / |Q|. rest: (B,) norm of the rest of Q / |Q|.
        share: (B,) |P Q| / |Q| with P on Row(J).
    """

    values: Array
    kept: Array
    diagonal: Array
    rest: Array
    share: Array

    @classmethod
    def of(cls, spectra, feedback):
        feedback = feedback / np.linalg.norm(feedback)
        parts = [cls._of_piece(spectrum, feedback) for spectrum in spectra]
        return cls(*map(np.concatenate, zip(*parts, strict=True)))

    @staticmethod
    def _of_piece(spectrum, feedback):
        inside = spectrum.right @ feedback
        outside = feedback - spectrum.right.transpose(0, 2, 1) @ inside
        share = np.linalg.norm(inside * spectrum.kept[:, :, np.newaxis], axis=(1, 2))
        mixed = inside @ spectrum.left
        diagonal = np.einsum("bkk->bk", mixed).copy()
        np.einsum("bkk->bk", mixed)[...] = 0.0
        rest = np.hypot(np.linalg.norm(mixed, axis=(1, 2)), np.linalg.norm(outside, axis=(1, 2)))
        return spectrum.values, spectrum.kept, diagonal, rest, share

    def angles(self, damping):
        """Return (B,) angles between Q and J^T (J J^T + damping I)^{-1}, from the chord between their directions."""
        gains = inverse_gains(self.values, self.kept, damping)
        gains /= np.linalg.norm(gains, axis=1, keepdims=True)
        chord = np.hypot(np.linalg.norm(self.diagonal - gains, axis=1), self.rest)
        return np.degrees(2.0 * np.arcsin(np.minimum(chord / 2.0, 1.0)))


# --- the damping that fits best ------------------------------------------------------------------------------------------

DECADES = np.arange(-10.0, 4.0)  # of the damping over the square of the largest singular value
GOLDEN = (np.sqrt(5.0) - 1.0) / 2.0
REFINEMENTS = 22  # by the golden ratio each
TIE = 1e-9  # degrees by which an infinite damping has to be better than none, and a finite one than that


def _best(angles, scale, candidates):
    """Return the damping with the smallest angle, for every element of `scale`; NaN where there is none.

    Args:
        angles: function of dampings of the shape of `scale`. scale: decimal logarithm of the largest damping that matters.
        candidates: numbers to choose from; None for all.
    """
    if candidates is None:
        fitted = 10.0 ** _minimum(lambda exponent: angles(10.0**exponent), scale)
        limits = angles(np.zeros_like(scale)), angles(np.full_like(scale, np.inf)) + TIE
        found = [*limits, angles(fitted) + 2 * TIE]
        best = np.choose(np.argmin(found, axis=0), [0.0, np.inf, fitted])
    else:
        found = [angles(np.full_like(scale, candidate)) for candidate in candidates]
        best = np.take(candidates, np.argmin(found, axis=0))
    return np.where(np.isnan(found[0]), np.nan, best)


def _minimum(function, centre):
    """Minimise a function of elements near `centre`: the best of a grid, then sections by the golden ratio."""
    grid = [function(centre + decade) for decade in DECADES]
    low = centre + DECADES[np.argmin(grid, axis=0)] - 1.0
    high = low + 2.0
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(REFINEMENTS):
        lower = at_left < at_right
        low, high = np.where(lower, low, left), np.where(lower, right, high)
        new = np.where(lower, high - GOLDEN * (high - low), low + GOLDEN * (high - low))
        value = function(new)
        left, right = np.where(lower, new, right), np.where(lower, left, new)
        at_left, at_right = np.where(lower, value, at_right), np.where(lower, at_left, value)
    return (low + high) / 2.0


# --- updates that the outputs do not see ---------------------------------------------------------------------------------

PASSES = 4  # of the projection, each of which corrects the one before


@silent()
def null_space_fraction(network: Network, x: ArrayLike, update: WeightsLike) -> Array:
    """Return the share of each layer's update of the weights that moves no output of the minibatch, to first order.

        |Delta W_i - P Delta W_i|_F / |Delta W_i|_F   with P on the row space of d(r_L of all samples) / d W_i

    Args:
        x: inputs (B, n_0). update: a `ForwardUpdate`, or anything with a list .weights.

    Returns:
        (L,), NaN for a layer whose update is zero. Directions to which the outputs are less sensitive than to the
        most effective one by more than seven digits count as such that move none.

    Raises:
        ValueError, TypeError: for arguments that do not fit.
        MemoryError: if a matrix of (B n_L) x (B n_L) does not fit; it says how much it needs.
    """
    with one_thread():
        response = LinearResponse(network, x)
        _refuse_other_shapes(network, update)
        count = len(response.x) * network.sizes[-1]
        needed = 24 * count**2 + 2 * len(response.x) * jacobian_bytes(network)
        memory.require(needed, f"the projection on {count} outputs", FEWER)
        layers = zip(by_layer(network, response.jacobians()), response.below, update.weights, strict=True)
        return np.array([_invisible_share(*layer) for layer in layers])


def _refuse_other_shapes(network, update):
    shapes, expected = ([array.shape for array in arrays] for arrays in (update.weights, network.weights))
    if shapes != expected:
        raise ValueError(f"the update has weights of shapes {shapes}; expected {expected}")


def _invisible_share(jacobians, below, update):
    """Return |g - P g| / |g|: g loses what the outputs see of it, by a Cholesky factor of the damped Gram matrix."""
    left = unit_vector([update]).reshape(np.shape(update))
    if np.isnan(left).any() or not (jacobians.any() and below.any()):
        return np.linalg.norm(left)
    jacobians, below = (
        jacobians / np.abs(jacobians).max(),
        below / np.abs(below).max(),
    )  # no square of which overflows
    gram = gram_of_layer(jacobians, below, bias=False)
    damping = len(gram) * np.finfo(np.float64).eps * np.linalg.norm(gram)
    gram[np.diag_indices_from(gram)] += damping
    factor = cho_factor(gram.T, overwrite_a=True, check_finite=False)
    for _ in range(PASSES):
        seen = jacobians @ (below @ left.T)[:, :, np.newaxis]
        multipliers = cho_solve(factor, seen.ravel(), check_finite=False).reshape(seen.shape)
        left -= (jacobians.transpose(0, 2, 1) @ multipliers)[:, :, 0].T @ below
    return np.linalg.norm(left)
