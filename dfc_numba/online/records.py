"""The records of an online simulation: voltages and control, which the kernel writes, and the weights now and then."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from dfc_numba import registry
from dfc_numba.dynamics.simulation import Trajectory
from dfc_numba.kernels.layout import dense_views
from dfc_numba.kernels.online_state import OnlineRecords
from dfc_numba.kernels.units import online_unit_loop
from dfc_numba.model.activations import addresses
from dfc_numba.model.recording import Record
from dfc_numba.support import memory
from dfc_numba.support.array_types import Array, Layers
from dfc_numba.support.ranges import Count
from dfc_numba.support.shapes import html_repr, short_repr
from dfc_numba.support.validation import choice, instance, whole_number

OUTPUT_VARIABLES, LAYER_VARIABLES = ("u", "u_int", "error"), ("v", "v_ff", "v_fb", "r")
VARIABLES = OUTPUT_VARIABLES + LAYER_VARIABLES


@dataclass(frozen=True)
class WeightTrajectory:
    """Parameters at T time points of an online simulation; lists with an array per layer.

    Attributes:
        time: (T,) in units of tau_u. step: (T,) number of the Euler step.
        weights: list of (T, n_i, n_{i-1}). biases: list of (T, n_i), or None. feedback: list of (T, n_i, n_L).
    """

    __repr__, _repr_html_ = short_repr, html_repr

    time: Array
    step: Array
    weights: Layers
    biases: Layers | None
    feedback: Layers


class Recorder:
    """Room for the recorded variables of some steps; `every` is 0 and the room empty if there is nothing to record.

    Attributes:
        records: where the kernel writes.
    """

    def __init__(self, record, network, samples, steps):
        self._sizes = network.sizes
        if record is None:
            self.every, self.records = 0, _allocate((), np.full(samples, -1), 0, network)
            return
        self.every = instance("record", record, Record).every
        wanted = VARIABLES if record.variables is None else record.variables
        for variable in wanted:
            choice("a variable of record", variable, (*VARIABLES, *registry.VARIABLES))
        self._names = [name for name in wanted if name not in VARIABLES]
        self.records = _allocate(wanted, _rows(record.samples, samples), steps // self.every + 1, network)

    def trajectory(self, steps, first_step, dt):
        """Return the `Trajectory` of the steps that were taken, or None if there is nothing to record."""
        if not self.every:
            return None
        points = steps // self.every + 1
        arrays = {name: self._array(name, points) for name in VARIABLES}
        step = first_step + np.arange(points) * self.every
        arrays = dict.fromkeys(field.name for field in fields(Trajectory)) | arrays
        return Trajectory(**arrays | {"time": step * dt, "step": step, "formulas": self._formulas(points)})

    def _formulas(self, points):
        """Return the variables that are formulas, by name."""
        flats = self.records.formulas.reshape(len(self._names), -1) if self._names else ()
        views = (dense_views(flat, self.records.count, self._sizes, self.records.times) for flat in flats)
        pairs = zip(self._names, views, strict=True)
        return {name: [layer[:points] for layer in layers] for name, layers in pairs}

    def _array(self, name, points):
        """Return a variable as the user sees it."""
        flat, count = getattr(self.records, name), self.records.count
        if not flat.size:
            return None
        if name in LAYER_VARIABLES:
            return [layer[:points] for layer in dense_views(flat, count, self._sizes, self.records.times)]
        shape = (count,) if name == "error" else (count, self._sizes[-1])
        return flat.reshape(-1, *shape)[:points]


def _allocate(wanted, rows, times, network):
    """Return arrays for the kernel, empty for variables that are not wanted."""
    count, units = int((rows >= 0).sum()), sum(network.sizes[1:])
    lengths = (
        dict.fromkeys(LAYER_VARIABLES, units)
        | dict.fromkeys(("u", "u_int"), network.sizes[-1])
        | {"error": 1}
    )
    kinds = {name: np.dtype(np.float64) if name in OUTPUT_VARIABLES else network.dtype for name in VARIABLES}
    memory.require(
        times
        * count
        * sum(lengths.get(name, units) * kinds.get(name, network.dtype).itemsize for name in wanted),
        f"a trajectory of {times} time points, {count} samples, {units} units",
        "record fewer variables, samples or time points with record=Record(...)",
    )
    sizes = {name: times * count * lengths[name] if name in wanted else 0 for name in VARIABLES}
    arrays = {name: np.zeros(sizes[name], kinds[name]) for name in VARIABLES}
    formulas = [registry.VARIABLES[name].formula for name in wanted if name not in VARIABLES]
    loops = [addresses(network, online_unit_loop, network.dtype, formula) for formula in formulas]
    return OnlineRecords(
        rows, count, times, **arrays, formulas=np.zeros(len(formulas) * times * count * units, network.dtype),
        variables=np.array(loops, np.int64).reshape(-1, len(network.sizes)).T.copy(),
    )  # fmt: skip


def _rows(chosen, samples):
    """Return each sample's index among the recorded ones, or -1."""
    if chosen is None:
        return np.arange(samples)
    if not chosen or len(set(chosen)) < len(chosen) or max(chosen) >= samples:
        raise ValueError(
            f"Record.samples is {chosen}; different positions from 0 to {samples - 1} are allowed"
        )
    rows = np.full(samples, -1)
    rows[list(chosen)] = np.arange(len(chosen))
    return rows


class WeightRecorder:
    """Room for the parameters at every n-th time point."""

    def __init__(self, every, network, steps):
        self._every, self._kept = whole_number("record_weights", every, Count), 0
        times = steps // self._every + 1
        memory.require(
            times * network.n_parameters * network.dtype.itemsize,
            f"keeping {network.n_parameters} parameters at {times} time points",
            "keep them less often with a larger record_weights",
        )
        self._arrays = {
            name: [np.zeros((times, *array.shape), network.dtype) for array in arrays]
            for name, arrays in _parameters(network)
        }

    @property
    def next_step(self):
        """Step at which the weights are to be kept next."""
        return self._kept * self._every

    def keep(self, network):
        """Keep the weights as they are."""
        for name, arrays in _parameters(network):
            for kept, array in zip(self._arrays[name], arrays, strict=True):
                kept[self._kept] = array
        self._kept += 1

    def trajectory(self, first_step, dt):
        """Return the `WeightTrajectory` of what was kept."""
        step = first_step + np.arange(self._kept) * self._every
        kept = {name: [array[: self._kept] for array in arrays] for name, arrays in self._arrays.items()}
        return WeightTrajectory(time=step * dt, step=step, **{"biases": None, **kept})


def _parameters(network):
    """Return names and lists of the network's parameters."""
    names = ["weights", "feedback"] + ["biases"] * (network.biases is not None)
    return [(name, getattr(network, name)) for name in names]
