"""How a network at rest responds to a control signal: states and slopes for Newton's method, in shards over threads."""

import numpy as np

from dfc_numba import memory, threads
from dfc_numba.kernels import newton as kernel
from dfc_numba.kernels.elementwise import ARGUMENT_LIMIT
from dfc_numba.kernels.layout import layout, pack
from dfc_numba.network import feedforward_state


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
        self._rest = kernel.Rest(*np.zeros((4, len(self.x) * sum(network.sizes[1:]))))
        self._constants = self._begin()

    def _chain(self, dtype):
        """The packed network in `dtype`, made when it is first needed."""
        if dtype not in self._chains:
            network, places = self._network, layout(self._network.sizes, dtype)
            families, slopes = network.activation_codes(dtype)
            weights = pack(network.weights[1:], places.stride[2:], dtype)
            feedback = pack(network.feedback, places.stride[1:], dtype)
            self._chains[dtype] = kernel.Chain(places, families, slopes, weights, feedback)
        return self._chains[dtype]

    def _begin(self):
        """Put all samples into the feedforward state; returns the constants that differences from it are made with."""
        chain = self._chain(np.dtype(np.float64))
        places = chain.layout
        voltages = np.zeros((len(self.x), places.rows[-1]))
        for i, v in enumerate(self.feedforward.v, 1):
            voltages[:, places.rows[i] : places.rows[i] + v.shape[1]] = v
        constants, voltages = np.empty(3 * voltages.size), voltages.ravel()

        def run(first, count):
            kernel.begin(chain, voltages, ARGUMENT_LIMIT[8], constants, self._rest.slope, first, count)

        self._run(run, len(self.x), 1)
        return constants

    def outputs(self, u, chosen):
        """r_L(u) - r_L(0), (n, n_L), for the control signals u (n, n_L) of the n samples `chosen`."""
        chain, out = self._chain(np.dtype(np.float64)), np.empty(u.size)

        def run(first, count, workspace):
            kernel.respond(
                chain, self._constants, chosen, u.ravel(), self._rest, out, first, count, workspace
            )

        self._run_in_workspaces(run, len(chosen), 1, chain)
        return out.reshape(u.shape)

    def push_forward(self, directions, chosen, dtype, *, mean=False):
        """(d r_L / d u) d in the present state, (n, k, n_L) in float64, computed in `dtype`.

        Args:
            directions: k directions d for each of the n samples `chosen`, (n, k, n_L).
            mean: take one sample, with the mean phi'(v) of those chosen.
        """
        chain, shape = self._chain(np.dtype(dtype)), directions.shape
        directions, out = np.require(directions, requirements="CW").ravel(), np.empty(directions.size)
        slope = self._rest.slope
        if mean:
            slope, chosen = slope.reshape(len(self.x), -1)[chosen].mean(axis=0), np.zeros(1, np.int64)

        def run(first, count, workspace):
            kernel.push_forward(chain, slope, chosen, directions, shape[1], out, first, count, workspace)

        self._run_in_workspaces(run, shape[0], shape[1], chain)
        return out.reshape(shape)

    def _run(self, function, count, rows):
        """Call function(first, count) for the shards of `count` samples of `rows` rows each."""
        shards = threads.shards(count)
        threads.run(len(shards), lambda k: function(*shards[k]), work=count * rows * self._work)

    def _run_in_workspaces(self, function, count, rows, chain):
        """The same with memory to work in, which stays: fresh pages would cost more than the work."""
        length = kernel.workspace_length(chain.layout, rows * min(count, threads.SHARD_SAMPLES))
        free = self._workspaces.setdefault((length, chain.weights.dtype), [])

        def run(first, count):
            workspace = free.pop() if free else memory.in_large_pages(length, chain.weights.dtype)
            function(first, count, workspace)
            free.append(workspace)

        self._run(run, count, rows)

    def factors(self):
        """phi(v) - phi(v - Q_i u) in the present state, list of (B, n_i), taken from deviations."""
        chain, out = self._chain(np.dtype(np.float64)), np.empty_like(self._rest.v)

        def run(first, count):
            kernel.differences(chain, self._constants, self._rest, out, first, count)

        self._run(run, len(self.x), 1)
        return self._by_layer(out)

    def layers(self, name):
        """A variable of the state last asked for, list of (B, n_i) deviations from the feedforward state.

        Args:
            name: "drive" (Q_i u), "v" or "rate".
        """
        return self._by_layer(getattr(self._rest, name))

    def _by_layer(self, flat):
        flat = flat.reshape(len(self.x), -1)
        parts = np.split(flat, np.cumsum(self._network.sizes[1:])[:-1], axis=1)
        return [np.ascontiguousarray(part) for part in parts]
