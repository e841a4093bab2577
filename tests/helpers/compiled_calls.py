"""Calling the parts of the compiled layer from Python, by wrappers that are never cached."""

from functools import cache

import numba
import numpy as np
from numba import types

from dfc_numba.kernels.emit import Span
from dfc_numba.kernels.formula_loops import function_at
from dfc_numba.kernels.jit import FLAGS

LONGEST_REGISTER = (
    16  # elements; the length of the arrays of an elementwise loop is a multiple of the register's
)


def compiled(function, **flags):
    """`function` compiled with the flags of the project; a cache would miss changes in the kernels."""
    return numba.jit(**{**FLAGS, "cache": False, **flags})(function)


@cache
def _entry(loop, **flags):
    def call(count, arguments):
        loop(count, *arguments)

    return compiled(call, **flags)


def call_loop(loop, *inputs, scalars=(), outputs=1):
    """The outputs of an elementwise loop for inputs (n,), or (planes, n), of any length: one array or a list.

    Inputs and scalars take the dtype of the first input; an output may be given by its number of planes.
    """
    dtype, count = inputs[0].dtype, inputs[0].shape[-1]
    padded = -(-count // LONGEST_REGISTER) * LONGEST_REGISTER
    results = [np.full(padded * planes, 7.0, dtype) for planes in _planes(outputs)]
    arguments = [Span(array, 0) for array in results]
    for array in inputs:
        rows = np.zeros((*array.shape[:-1], padded), dtype)
        rows[..., :count] = array
        arguments.append(Span(rows.ravel(), 0))
    _entry(loop)(padded, (*arguments, *(dtype.type(scalar) for scalar in scalars)))
    shaped = [array.reshape(-1, padded)[:, :count].squeeze() for array in results]
    return shaped[0] if len(shaped) == 1 else shaped


def call_kind(kind, address, *inputs, scalars=(), computed=None):
    """The outputs of a loop that is called by address, as `call_loop` gives them; `computed` names those wanted.

    Inputs are given in the order of the kind; None stands for one that the formula does not use.
    """
    dtype, count = inputs[0].dtype, inputs[0].shape[-1]
    padded = -(-count // LONGEST_REGISTER) * LONGEST_REGISTER
    results = {output.name: np.full(padded * output.planes, 7.0, dtype) for output in kind.outputs}
    arrays = []
    for declared, array in zip(kind.inputs, inputs, strict=True):
        rows = np.zeros((declared.planes, padded), dtype)
        if array is not None:
            rows[: 1 if array.ndim == 1 else len(array), :count] = array
        arrays.append(rows.ravel())
    function_at(address, kind, dtype)(padded, *results.values(), *arrays, *map(float, scalars))
    shaped = {name: array.reshape(-1, padded)[:, :count].squeeze() for name, array in results.items()}
    wanted = list(shaped) if computed is None else computed
    return shaped[wanted[0]] if len(wanted) == 1 else [shaped[name] for name in wanted]


def _planes(outputs):
    return outputs if isinstance(outputs, tuple) else (1,) * outputs


def assembly(loop, dtype, *, arrays, scalars=0):
    """The machine code of an elementwise loop alone, with the given number of array and scalar arguments."""
    dtype = np.dtype(dtype)
    entry = _entry(loop, no_cpython_wrapper=True, no_cfunc_wrapper=True)
    signature = types.intp, numba.typeof((Span(np.zeros(1, dtype), 0),) * arrays + (dtype.type(0),) * scalars)
    entry.compile(signature)
    return entry.inspect_asm(entry.signatures[-1])
