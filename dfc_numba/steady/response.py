"""The response of a network at rest to a control signal: states and slopes for Newton's method, sharded over threads."""

from typing import NamedTuple

import numpy as np

from dfc_numba.kernels import steady_response as kernel
from dfc_numba.kernels.layout import dense_views, layout, pack
from dfc_numba.kernels.units import constants_loop, derivative_of_rate_loop, step_loop
from dfc_numba.model.activations import addresses
from dfc_numba.model.network import feedforward_state
from dfc_numba.registry import PLASTICITY_RULES
from dfc_numba.support import memory, threads


class RestState(NamedTuple):
    """A state at rest: lists of (B, n_i), deviations from the feedforward state."""

    v: list
    rate: list
    drive: list  # Q_i u
    factor: list  # phi(v) - phi(v - Q_i u)


class Response:
    """The rates r_L(u) of a minibatch's controlled network, v_i = W_i phi(v_{i-1}) + b_i + Q_i u, in float64.

    Samples are addressed by number, any selection at a time; what a sample gets does not depend on the others. The state
    of a sample is that of the u last asked for, at first that of u = 0.

    Attributes:
        x: inputs (B, n_0). feedforward: `Activity` without control.
    """

    def __init__(self, network, x):
        """Check the inputs, pack the network.

        Raises:
            ValueError, TypeError: for a network that is none, or inputs that do not fit.
        """
        self.x, self.feedforward = feedforward_state(network, x)
        self._network, self._chains, self._workspaces = network, {}, {}
        self._work = 2.0 * sum(array.size for array in (*network.weights[1:], *network.feedback))
        self._u = np.zeros((len(self.x), network.sizes[-1]))
        self._v, self._slope = (np.empty(len(self.x) * sum(network.sizes[1:])) for _ in range(2))
        self._constants = self._begin()

    def _chain(self, dtype):
        """Return the packed network in `dtype`, created at the first use."""
        if dtype not in self._chains:
            network, places = self._network, layout(self._network.sizes, dtype)
            weights = pack(network.weights[1:], places.stride[2:], dtype)
            feedback = pack(network.feedback, places.stride[1:], dtype)
            self._chains[dtype] = kernel.Chain(places, *self._loops(), weights, feedback)
        return self._chains[dtype]

    def _loops(self):
        """Return the loops of `kernel.Chain`, for the states, which are in float64."""
        rule, double = PLASTICITY_RULES["nonlinear_difference"].postsynaptic, np.dtype(np.float64)
        return (
            addresses(self._network, constants_loop, double),
            addresses(self._network, step_loop, double, rule),
            addresses(self._network, step_loop, double),
            addresses(self._network, derivative_of_rate_loop, double),
        )

    def _begin(self):
        """Put all samples into the feedforward state; returns the constants that differences from it are made with."""
        chain = self._chain(np.dtype(np.float64))
        voltages = np.concatenate([v.ravel() for v in self.feedforward.v])
        constants = np.empty(3 * len(self.x) * chain.layout.rows[-1])

        def run(first, count):
            kernel.begin(chain, voltages, constants, self._v, self._slope, first, count)

        self._run(run, len(self.x), 1)
        return constants

    def outputs(self, u, chosen):
        """Return r_L(u) - r_L(0), (n, n_L), for the control signals u (n, n_L) of the n samples `chosen`."""
        chain, out = self._chain(np.dtype(np.float64)), np.empty(u.size)
        self._u[chosen] = u

        def run(first, count, workspace):
            kernel.respond(
                chain, self._constants, chosen, u.ravel(), self._v, self._slope, out, first, count, workspace
            )

        self._run_in_workspaces(run, len(chosen), 1, chain)
        return out.reshape(u.shape)

    def push_forward(self, directions, chosen, dtype, *, mean=False):
        """Return (d r_L / d u) d in the present state, (n, k, n_L) in float64, computed in `dtype`.

        Args:
            directions: k directions d for each of the n samples `chosen`, (n, k, n_L), or (1, k, n_L) for all of them.
            mean: take one sample, with the mean phi'(v) of those chosen.
        """
        chain, each, shared = self._chain(np.dtype(dtype)), directions.shape[1], len(directions) == 1
        slope = self._slope
        if mean:
            means = [layer[chosen].mean(axis=0) for layer in self._layers(slope)]
            slope, chosen = np.concatenate(means), np.zeros(1, np.int64)
        out = np.empty((len(chosen), *directions.shape[1:]))
        given = np.require(directions, requirements="CW").ravel(), each, shared, out.reshape(-1)

        def run(first, count, workspace):
            kernel.push_forward(chain, slope, chosen, *given, first, count, workspace)

        self._run_in_workspaces(run, len(chosen), each, chain)
        return out

    def _run(self, function, count, rows):
        """Call function(first, count) for the shards of `count` samples of `rows` rows each."""
        shards = threads.shards(count)
        threads.run(len(shards), lambda k: function(*shards[k]), work=count * rows * self._work)

    def _run_in_workspaces(self, function, count, rows, chain):
        """Run a function in workspaces, which are kept: fresh pages would cost more than the work."""
        length = kernel.workspace_length(chain.layout, rows * min(count, threads.SHARD_SAMPLES))
        free = self._workspaces.setdefault((length, chain.weights.dtype), [])

        def run(first, count):
            workspace = free.pop() if free else memory.in_large_pages(length, chain.weights.dtype)
            function(first, count, workspace)
            free.append(workspace)

        self._run(run, count, rows)

    def state(self):
        """Return the present `RestState`."""
        chain = self._chain(np.dtype(np.float64))
        drive, rate, factor = (np.empty_like(self._v) for _ in range(3))

        def run(first, count, workspace):
            kernel.finish(
                chain, self._constants, self._u.ravel(), self._v, drive, rate, factor, first, count, workspace
            )

        self._run_in_workspaces(run, len(self.x), 1, chain)
        return RestState(*(self._layers(flat) for flat in (self._v, rate, drive, factor)))

    def _layers(self, flat):
        return dense_views(flat, len(self.x), self._network.sizes)
