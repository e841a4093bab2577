"""Copies between pieces of flat arrays, with a change of dtype where they differ.

Plain loops: assignment to a slice compiles to the same copy plus a great deal of code for errors that cannot occur.
"""

from dfc_numba.kernels.jit import jit_part


@jit_part
def move(count, out, out_start, x, x_start):
    """out[out_start + j] = x[x_start + j] for `count` elements."""
    for j in range(count):
        out[out_start + j] = x[x_start + j]


@jit_part
def add(count, out, out_start, x, x_start):
    """out[out_start + j] += x[x_start + j] for `count` elements."""
    for j in range(count):
        out[out_start + j] += x[x_start + j]


@jit_part
def fill(count, out, out_start, value):
    """out[out_start + j] = value for `count` elements."""
    for j in range(count):
        out[out_start + j] = value
