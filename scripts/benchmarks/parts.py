"""The parts of an Euler step of one shard, each alone, as subjects for timing; and NumPy on the same shapes.

A part is repeated inside compiled code, with operands that stay where they are: so these are times with warm caches.
"""

from typing import NamedTuple

import numpy as np

from dfc_numba.kernels import units
from dfc_numba.kernels.emit import at
from dfc_numba.kernels.formula_loops import function_at
from dfc_numba.kernels.jit import jit
from dfc_numba.kernels.layout import pack, row_stride
from dfc_numba.kernels.memory_plan import BLOCK_ROWS
from dfc_numba.kernels.multiply import add_outer, multiply
from dfc_numba.registry import ACTIVATIONS, PLASTICITY_RULES
from dfc_numba.support.threads import SHARD_SAMPLES

SOMA_GAIN = 0.1  # dt / tau_v of the published phase
DEVIATION = 1e-3  # about as large as a deviation from the feedforward state


class Part(NamedTuple):
    """A part of the step.

    Attributes:
        name: the equation. rows: samples of a shard, or samples x steps of a block. inner, outputs: n of both layers.
        calls: how often one update needs it.
    """

    name: str
    rows: int
    inner: int
    outputs: int
    calls: int

    @property
    def flop(self):
        """Floating-point operations of a product."""
        return 2 * self.rows * self.inner * self.outputs

    @property
    def elements(self):
        """Units x samples of an elementwise part."""
        return self.rows * self.outputs


LAYER, UPDATE, CONTROL, ACTIVATION = "W r", "update", "Q u", "activations"


def hidden_layer_parts(workload):
    """Return what one hidden layer above the first needs, for a network whose hidden layers are equally wide."""
    n, outputs = workload.sizes[1], workload.sizes[-1]
    steps = workload.controller.steps * -(-workload.samples // SHARD_SAMPLES)
    block = max(SHARD_SAMPLES, BLOCK_ROWS)
    return [
        Part(LAYER, SHARD_SAMPLES, n, n, steps),
        Part(UPDATE, block, n, n, -(-steps * SHARD_SAMPLES // block)),
        Part(CONTROL, SHARD_SAMPLES, outputs, n, steps),
        Part(ACTIVATION, SHARD_SAMPLES, n, n, steps),
    ]


@jit
def _repeat_multiply(times, out, out_stride, rows, x, x_stride, inner, packed):
    for _ in range(times):
        multiply(out, 0, out_stride, rows, x, 0, x_stride, inner, packed, 0)


@jit
def _repeat_add_outer(times, total, outputs, post, post_stride, pre, pre_stride, rows):
    for _ in range(times):
        add_outer(total, 0, outputs, 0, outputs, post, 0, post_stride, pre, 0, pre_stride, rows)


@jit
def _repeat_activations(times, loop, size, v, rate, factor, basal, apical, constants):
    for _ in range(times):
        units.run_step(
            loop, size, at(v, 0), at(rate, 0), at(factor, 0), at(factor, 0),
            at(v, 0), at(basal, 0), at(apical, 0), at(constants, 0), at(constants, 0), SOMA_GAIN,
        )  # fmt: skip


def our_part(part, dtype, times):
    """Prepare `times` calls of the package's kernel for a part."""
    make = {UPDATE: _our_outer, ACTIVATION: _our_activations}.get(part.name, _our_product)
    return make(part, np.dtype(dtype), times)


def _normal(shape, dtype):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def _our_product(part, dtype, times):
    wide, narrow = row_stride(part.outputs, dtype), row_stride(part.inner, dtype)
    packed = pack([_normal((part.outputs, part.inner), dtype)], [wide], dtype)
    x, out = _normal(part.rows * narrow, dtype), np.zeros(part.rows * wide, dtype)
    return lambda: _repeat_multiply(times, out, wide, part.rows, x, narrow, part.inner, packed)


def _our_outer(part, dtype, times):
    wide, narrow = row_stride(part.outputs, dtype), row_stride(part.inner, dtype)
    post, pre = (_normal(part.rows * stride, dtype) for stride in (wide, narrow))
    total = np.zeros(part.outputs * narrow, dtype)
    return lambda: _repeat_add_outer(times, total, part.outputs, post, wide, pre, narrow, part.rows)


def _our_activations(part, dtype, times):
    size = part.rows * row_stride(part.outputs, dtype)
    v, basal, apical = (DEVIATION * _normal(size, dtype) for _ in range(3))
    rate, factor, constants = np.zeros(size, dtype), np.zeros(size, dtype), np.zeros(3 * size, dtype)
    tanh, exact = ACTIVATIONS["tanh"].form, np.zeros(3 * size)
    compute_constants = function_at(units.constants_loop(tanh, dtype), units.CONSTANTS, np.float64)
    compute_constants(size, exact, _normal(size, np.dtype(np.float64)))
    constants[:] = exact
    rule = PLASTICITY_RULES["nonlinear_difference"].postsynaptic
    loop = units.step_loop(tanh, dtype, rule, saturated=False)
    return lambda: _repeat_activations(times, loop, size, v, rate, factor, basal, apical, constants)


def numpy_part(part, dtype, times):
    """Prepare the same work in NumPy, `times` times: one product, or the two tanh that the activations stand for."""
    if part.name == ACTIVATION:
        v, out = _normal((part.rows, part.outputs), dtype), np.empty((part.rows, part.outputs), dtype)
        return _repeated(2 * times, lambda: np.tanh(v, out=out))
    rows, inner, outputs = part[1:4]
    left, right = (
        ((outputs, rows), (rows, inner)) if part.name == UPDATE else ((rows, inner), (inner, outputs))
    )
    a, b, out = _normal(left, dtype), _normal(right, dtype), np.empty((left[0], right[1]), dtype)
    return _repeated(times, lambda: np.dot(a, b, out=out))


def _repeated(times, function):
    def run():
        for _ in range(times):
            function()

    return run
