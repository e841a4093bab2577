"""The network linearised at its feedforward state: products with the Jacobian J = d r_L / d v, and its singular values.

B samples, layers i = 1..L, N = sum n_i; J of a sample is (n_L, N), the layers side by side. Everything is in float64.
"""

from typing import NamedTuple

import numpy as np

from dfc_numba.model import jacobian
from dfc_numba.model.activations import phi_prime
from dfc_numba.model.network import feedforward_state
from dfc_numba.support import memory
from dfc_numba.support.validation import finite

COPIES = 4  # of the Jacobian that a singular value decomposition holds at a time


class LinearResponse:
    """The feedforward state of a minibatch, and products with its Jacobians that need no matrix.

    Attributes:
        network, x: as given. v, r: lists of (B, n_i). below: x and the rates of the hidden layers, (B, n_{i-1}).
    """

    def __init__(self, network, x):
        """Run the feedforward pass of `x`; raise ValueError or TypeError for a network or inputs that do not fit."""
        self.x, activity = feedforward_state(network, x)
        self.network, self.v, self.r = network, activity.v, activity.r
        self.below = [self.x, *self.r[:-1]]
        names = network.activations
        self._slopes = [phi_prime(name, v) for name, v in zip(names, self.v, strict=True)]
        self._weights = [weight.astype(np.float64) for weight in network.weights]

    def push_forward(self, changes):
        """Return J c: the change of the output (B, n_L) for changes c of the voltages, a list of (B, n_i)."""
        rates = self._slopes[0] * changes[0]
        for slope, weight, change in zip(self._slopes[1:], self._weights[1:], changes[1:], strict=True):
            rates = slope * (rates @ weight.T + change)
        return rates

    def pull_back(self, output):
        """Return J^T d: a list of (B, n_i) for d (B, n_L); for the gradient of a loss this is backpropagation."""
        found = [output * self._slopes[-1]]
        for slope, weight in zip(self._slopes[-2::-1], self._weights[:0:-1], strict=True):
            found.insert(0, found[0] @ weight * slope)
        return found

    def jacobians(self, piece=slice(None)):
        """Return j of some of the samples, (b, n_L, N).

        Raises:
            ValueError: where it overflows.
        """
        found = jacobian.of_output(self.network, [v[piece] for v in self.v])
        return finite("d r_L / d v", found)

    def pieces(self, remedy):
        """Return slices of samples whose Jacobians fit into `jacobian.PIECE_BYTES`, at least one sample each.

        Raises:
            MemoryError: where there is no room for those of one sample; it says how much they need, and the remedy.
        """
        each = jacobian_bytes(self.network)
        memory.require(COPIES * each, "the Jacobian of one sample and its singular vectors", remedy)
        at_a_time = max(1, int(jacobian.PIECE_BYTES / each))
        return [slice(first, first + at_a_time) for first in range(0, len(self.x), at_a_time)]


def jacobian_bytes(network):
    """Return the size of the Jacobian of one sample in bytes."""
    return 8 * network.sizes[-1] * sum(network.sizes[1:])


def by_layer(network, columns):
    """Return the columns (..., N) of all layers side by side as a list with those of each layer."""
    return np.split(columns, np.cumsum(network.sizes[1:])[:-1], axis=-1)


class Spectrum(NamedTuple):
    """Singular value decompositions J = A diag(s) V^T of some samples: A (b, n_L, k), s (b, k), V^T (b, k, N)."""

    left: np.ndarray
    values: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, jacobians):
        """Return the decompositions of Jacobians (b, n_L, N)."""
        return cls(*np.linalg.svd(jacobians, full_matrices=False))

    @property
    def kept(self):
        """(b, k) booleans: the singular values that rounding does not account for."""
        cutoff = max(self.left.shape[1], self.right.shape[2]) * np.finfo(np.float64).eps
        return self.values > cutoff * self.values[:, :1]


@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def inverse_gains(values, kept, damping):
    """Return (b, k) gains f of J^T (J J^T + damping I)^{-1} = V diag(f) A^T, that is of J^+ where damping is 0.

    Args:
        values, kept: of a `Spectrum`. damping: a number or (b,); where it is infinite the gains are those of J^T.
    """
    damping = np.broadcast_to(damping, len(values))[:, np.newaxis]
    regular = np.where(damping > 0, values > 0, kept)
    inverse = np.where(regular, 1.0 / (values + damping / values), 0.0)
    return np.where(np.isinf(damping), values, inverse)
