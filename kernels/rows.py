"""Copies between pieces of flat arrays, with a change of dtype where they differ.

Loops over slices: an index that starts at 0 needs no test for negative ones and vectorises, and assignment to a slice
would compile to a great deal of code for errors that cannot occur.
"""

from dfc_numba.kernels.jit import jit_part


@jit_part
def move(count, out, out_start, x, x_start):
    """out[out_start + j] = x[x_start + j] for `count` elements."""
    target, source = out[out_start : out_start + count], x[x_start : x_start + count]
    for j in range(count):
        target[j] = source[j]


@jit_part
def add(count, out, out_start, x, x_start):
    """out[out_start + j] += x[x_start + j] for `count` elements."""
    target, source = out[out_start : out_start + count], x[x_start : x_start + count]
    for j in range(count):
        target[j] += source[j]


@jit_part
def fill(count, out, out_start, value):
    """out[out_start + j] = value for `count` elements."""
    target = out[out_start : out_start + count]
    for j in range(count):
        target[j] = value
