"""Parameters and state of an online simulation as the kernels keep them, and as the user sees them."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from dfc_numba.kernels import online_state as kernel
from dfc_numba.kernels.layout import pack, unpack
from dfc_numba.kernels.memory_plan import LAYER_NAMES, plan_online
from dfc_numba.kernels.noise import scratch
from dfc_numba.support import memory
from dfc_numba.support.array_types import Array, Layers
from dfc_numba.support.shapes import html_repr, short_repr
from dfc_numba.support.validation import floats

# variables of the state, and their names in the kernel: of the layers, and of the controller
LAYER_STATE = {"v_ff": "v_ff", "difference": "difference", "v_fb": "apical", "noise": "noise", "r": "rate"}
OUTPUT_STATE = ("u", "u_int", "u_filtered", "u_slow")


@dataclass(frozen=True)
class OnlineState:
    """The state of an online simulation of B samples, besides the weights: what the next one needs to continue it.

    Attributes:
        step: Euler steps since the very first. age: the same since the last restart.
        v_ff, v_fb, r: lists of (B, n_i) basal and apical voltages, and rates. difference: v - v_ff. noise: its filter.
        u, u_int: (B, n_L) control signal and integral part. u_filtered: what `tau_control` makes of u.
        u_slow: what `high_pass` subtracts from u.
    """

    __repr__, _repr_html_ = short_repr, html_repr

    step: int
    age: int
    v_ff: Layers
    difference: Layers
    v_fb: Layers
    r: Layers
    noise: Layers
    u: Array
    u_int: Array
    u_filtered: Array
    u_slow: Array


class OnlineMemory:
    """The memory of a simulation, with the parameters of a network and no activity.

    Attributes:
        arrays: what the kernels take, `kernel.Memory`. places: where things lie in it. layers: for each its numbers in `LAYER`.
    """

    def __init__(self, network, layout, count, *, transposed, presynaptic):
        table, self.places, work, signals = plan_online(layout, count, transposed, presynaptic)
        # much faster to read than records, in Python
        self.layers = [
            SimpleNamespace(**dict(zip(LAYER_NAMES, row, strict=True))) for row in table[1:].tolist()
        ]
        work, draws = memory.in_large_pages(work, network.dtype), scratch(layout.widest)
        self.arrays = kernel.Memory(work, np.zeros(signals), np.zeros(3, np.int64), table, draws)
        self.arrays.work[:] = 0
        for i, layer in enumerate(self.layers):
            self._pack(layer.weights, network.weights[i], layer)
            self._pack(layer.feedback, network.feedback[i], layer)
            self._write(layer.biases, network.biases[i] if network.biases is not None else [])
            if transposed and i + 1 < len(self.layers):
                self._pack(layer.transposed, network.weights[i + 1].T, layer)

    def _write(self, start, values):
        self.arrays.work[start : start + len(values)] = values

    def _pack(self, start, matrix, layer):
        self._write(start, pack([matrix], [layer.stride], self.arrays.work.dtype))

    def copy(self):
        """Return the same with an independent copy of everything mutable, in the network's dtype."""
        other = copy(self)
        other.arrays = self.arrays._replace(work=self.arrays.work.copy())
        return other

    def write_to(self, network):
        """Write the parameters, without what is pending, into the arrays of a network."""
        work, outputs = self.arrays.work, self.places.outputs
        for i, layer in enumerate(self.layers):
            network.weights[i][...] = unpack(work[layer.weights :], layer.inputs, layer.units).T
            network.feedback[i][...] = unpack(work[layer.feedback :], outputs, layer.units).T
            if network.biases is not None:
                network.biases[i][...] = work[layer.biases :][: layer.units]
        return network

    def state(self):
        """Return the `OnlineState`; nothing may be pending."""
        layers = {name: [rows.copy() for rows in self._rows(name)] for name in LAYER_STATE}
        outputs = {name: self._outputs(name).copy() for name in OUTPUT_STATE}
        step, age, _ = map(int, self.arrays.clock)
        return OnlineState(step=step, age=age, **layers, **outputs)

    def resume(self, state):
        """Write an `OnlineState` into the memory.

        Raises:
            ValueError: for one of another network or number of samples.
        """
        self.arrays.clock[: kernel.PENDING] = state.step, state.age
        for name in LAYER_STATE:
            for i, rows in enumerate(self._rows(name)):
                rows[...] = floats(
                    f"state.{name}[{i}]", getattr(state, name)[i], rows.shape, dtype=rows.dtype
                )
        for name in OUTPUT_STATE:
            rows = self._outputs(name)
            rows[...] = floats(f"state.{name}", getattr(state, name), rows.shape)

    def _rows(self, name):
        """Yield a variable of each layer as (B, n_i), views; of the rates, those of the last step."""
        slot, count = int(self.arrays.clock[kernel.STEP] % 2), self.places.count
        for layer in self.layers:
            start = getattr(layer, LAYER_STATE[name]) + (slot * layer.slot if name == "r" else 0)
            rows = self.arrays.work[start : start + count * layer.stride]
            yield rows.reshape(count, layer.stride)[:, : layer.units]

    def _outputs(self, name):
        """Return a variable of the controller as (B, n_L), a view."""
        start, shape = getattr(self.places, name), (self.places.count, self.places.outputs)
        return self.arrays.signals[start : start + shape[0] * shape[1]].reshape(shape)
