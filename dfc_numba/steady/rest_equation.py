"""The equation of the steady state in the control signal u, n_L unknowns per sample, and its linear algebra.

    F(u) = e(r_L(u)) - alpha u,    e = r* - r_L  or  r* - softmax(r_L),    v_i = W_i phi(v_{i-1}) + b_i + Q_i u

Samples are addressed by number, any selection `chosen` at a time. Few outputs: matrices -F'(u) and elimination. Many: only
products with -F'(u), preconditioned with the inverse of one matrix that is typical of the minibatch.
"""

from contextlib import nullcontext
from functools import cached_property

import numpy as np
from scipy.special import softmax

from dfc_numba.kernels import steady_response as kernel
from dfc_numba.steady.krylov import edge_eigenvalues, least_residuals
from dfc_numba.steady.response import Response
from dfc_numba.support.threads import one_thread
from dfc_numba.support.validation import samples

DENSE_OUTPUTS = 32  # with more, matrices take longer than Krylov spaces
GROUP, KRYLOV_GROUP = 1024, 32  # samples whose matrices or Krylov spaces are kept at a time
PRODUCTS, ARNOLDI_STEPS = 80, 80  # most vectors of a Krylov space
TOLERANCE, ROUGH_TOLERANCE = 1e-4, 1e-2  # of a linear system, relative to its right-hand side
EXACT_TOLERANCE, ACCEPTED = 1e-13, 1e-10  # aimed at, and good enough


class RestEquation:
    """F(u) and its derivative for the samples of a minibatch.

    Attributes:
        response: the `Response` of the network. alpha: leak at rest.
        softmax: which error. shape: (B, n_L).
        sum_kept: without a leak nothing moves the sum of u, along which softmax does not see r_L; then it stays zero.
    """

    def __init__(self, network, x, target, controller):
        """Check and pack the arguments.

        Raises:
            ValueError, TypeError: for shapes that do not fit, or numbers that are not finite.
        """
        self.response = Response(network, x)
        self.target = samples("target", target, network.sizes[-1], count=len(self.response.x))
        self.shape = self.target.shape
        self.alpha, self.softmax = controller.steady_leak, controller.error == "softmax"
        self.sum_kept = self.softmax and self.alpha == 0
        self._output = self.response.feedforward.r[-1]
        self._gap = self.target - self._output
        self._probability = softmax(self._output, axis=1) if self.softmax else np.empty(self.shape)

    @property
    def dense(self):
        """True if matrices are formed."""
        return self.shape[1] <= DENSE_OUTPUTS

    def first_residual(self):
        """Return F(0), (B, n_L)."""
        return self.target - self._probability if self.softmax else self._gap.copy()

    def residual(self, u, chosen):
        """Return F(u), (n, n_L), of the n samples `chosen`; their derivatives are then those at u, at first those at 0."""
        if not len(chosen):
            return np.zeros(u.shape)
        change = self.response.outputs(u, chosen)
        if not self.softmax:
            return self._gap[chosen] - change - self.alpha * u
        self._probability[chosen] = softmax(self._output[chosen] + change, axis=1)
        return self.target[chosen] - self._probability[chosen] - self.alpha * u

    def unreachable(self, goal):
        """Return (B,) whether no u can bring |F| down to `goal`: softmax lies in (0, 1) and sums to one, and nothing leaks."""
        if not self.sum_kept:
            return np.zeros(self.shape[0], np.bool_)
        return (self.target <= 0).any(axis=1) | (np.abs(self.target.sum(axis=1) - 1) > goal)

    # --- the derivative ----------------------------------------------------------------------------------------------

    def multiply(self, directions, chosen, dtype):
        """Return -F'(u) d, (n, k, n_L), for k directions d of each sample, (n, k, n_L), or (1, k, n_L), computed in `dtype`.

        Where the sum of u is kept, the mean of d is added, which makes F' regular and steps of zero sum.
        """
        product = self.response.push_forward(directions, chosen, dtype)
        return self._of_error(product, directions, self._probability[chosen])

    def _of_error(self, product, directions, probability):
        """Return -F'(u) d from d r_L."""
        if self.softmax:
            p = probability[:, None, :]
            product = p * (product - (p * product).sum(axis=2, keepdims=True))
        product += self.alpha * directions
        if self.sum_kept:
            product += directions.mean(axis=2, keepdims=True)
        return product

    def matrices(self, chosen, dtype):
        """Return -F'(u), (n, n_L, n_L)."""
        return np.ascontiguousarray(self.multiply(np.eye(self.shape[1])[None], chosen, dtype).swapaxes(1, 2))

    @cached_property
    def _typical_inverse(self):
        """The inverse of -F'(u) for mean slopes and probabilities, at the u where this is first asked for."""
        identity = np.eye(self.shape[1])[None]
        product = self.response.push_forward(identity, np.arange(self.shape[0]), np.float32, mean=True)
        matrix = self._of_error(product, identity, self._probability.mean(axis=0, keepdims=True))[0].T
        try:
            return np.linalg.inv(matrix)
        except np.linalg.LinAlgError:
            return identity[0]

    # --- linear algebra ----------------------------------------------------------------------------------------------

    def linear_algebra(self):
        """Return a context for the methods below, in which their bits do not depend on the threads of NumPy's library."""
        return nullcontext() if self.dense else one_thread()

    def newton_step(self, f, chosen):
        """Return -F'(u)^{-1} f of the chosen samples; not finite where that is singular.

        In float32, which costs a digit or two of the step, but none of F.
        """
        if self.dense:
            return self._dense_step(f, chosen, np.zeros(len(f)), np.float32)
        none = np.zeros(len(f))
        return self._krylov_step(
            f, chosen, none, np.float32, TOLERANCE, lambda d: d @ self._typical_inverse.T
        )

    def exact_step(self, f, chosen):
        """Return -F'(u)^{-1} f to the last digits; not finite where singular, or where products alone do not lead there."""
        none = np.zeros(len(f))
        if self.dense:
            return self._dense_step(f, chosen, none, np.float64)
        step = self._krylov_step(
            f, chosen, none, np.float64, EXACT_TOLERANCE, lambda d: d @ self._typical_inverse.T
        )
        left = np.linalg.norm(self._product(step, chosen, np.float64) - f, axis=1)
        step[left > ACCEPTED * np.linalg.norm(f, axis=1)] = np.nan
        return step

    def shifted_step(self, f, chosen, shift):
        """Return (-F'(u) + shift)^{-1} f, shift (n,)."""
        if self.dense:
            return self._dense_step(f, chosen, shift, np.float64)
        return self._krylov_step(f, chosen, shift, np.float64, ROUGH_TOLERANCE, lambda d: d)

    def _dense_step(self, f, chosen, shift, dtype):
        identity, steps = np.eye(self.shape[1]), f.copy()

        def solve(part):
            matrices = self.matrices(chosen[part], dtype) + shift[part, None, None] * identity
            kernel.solve(matrices, steps[part])
            return steps[part]

        return _in_groups(len(f), GROUP, solve)

    def _krylov_step(self, f, chosen, shift, dtype, tolerance, precondition):
        def solve(part):
            return least_residuals(
                lambda d: self._product(d, chosen[part], dtype) + shift[part, None] * d,
                f[part], tolerance=tolerance, most=PRODUCTS, precondition=precondition,
            )  # fmt: skip

        return _in_groups(len(f), KRYLOV_GROUP, solve)

    def _product(self, d, chosen, dtype):
        """Return -F'(u) d for one direction of each sample, (n, n_L)."""
        return self.multiply(d[:, None, :], chosen, dtype)[:, 0]

    def eigenvalues(self, chosen):
        """Return eigenvalues of -F'(u), (n, n_L); for many outputs (n, ARNOLDI_STEPS), which stand for the spectrum's edge."""
        if self.dense:
            return _in_groups(
                len(chosen), GROUP, lambda part: np.linalg.eigvals(self.matrices(chosen[part], np.float64))
            )
        start = np.random.default_rng(0).standard_normal(self.shape[1])

        def approximate(part):
            return edge_eigenvalues(
                lambda d: self._product(d, chosen[part], np.float64),
                np.tile(start, (len(chosen[part]), 1)), steps=min(self.shape[1], ARNOLDI_STEPS),
            )  # fmt: skip

        return _in_groups(len(chosen), KRYLOV_GROUP, approximate)

    def singular(self, chosen):
        """Return (n,) whether -F'(u) lacks full rank; False where there are no matrices, or no finite ones."""
        if not self.dense:
            return np.zeros(len(chosen), np.bool_)

        def lacking(part):
            matrices = self.matrices(chosen[part], np.float64)
            matrices[~np.isfinite(matrices).all(axis=(1, 2))] = np.eye(self.shape[1])
            return np.linalg.matrix_rank(matrices) < self.shape[1]

        return _in_groups(len(chosen), GROUP, lacking)


def _in_groups(count, size, function):
    """Return function(slice) for groups of `size` samples, side by side in one array."""
    parts = [slice(first, first + size) for first in range(0, count, size)]
    return np.concatenate([function(part) for part in parts])
