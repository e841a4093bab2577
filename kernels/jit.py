"""The compile decorators of the project and their one table of flags.

Fast-math is limited to contraction into fused multiply-adds: a diverging network must show up as NaN, so the flags that
let a compiler assume finite numbers are out, and a fixed order of summation keeps the same bits for every thread count.
"""

import numba
from numba.extending import register_jitable

from dfc_numba.kernels.cache import install
from dfc_numba.kernels.numba_internals import UNCOUNTED

FLAGS = {
    "nopython": True,
    "nogil": True,  # threads run kernels side by side
    "error_model": "numpy",  # no branch at every division
    "fastmath": {"contract"},
}

FLAGS_OF_PARTS = {
    **FLAGS,
    "forceinline": True,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}

JIT_DISABLED = bool(numba.config.DISABLE_JIT)


def jit(function):
    """Compile a module-level function with the flags of this project, once per machine: see `cache`."""
    return function if JIT_DISABLED else install(numba.jit(**FLAGS)(function))


def jit_uncounted(function):
    """Do the same for a kernel that creates no arrays, and so need not count references to those that it is given."""
    return function if JIT_DISABLED else install(numba.jit(**FLAGS, **UNCOUNTED)(function))


def jit_part(function):
    """Do the same for a part of one kernel, which only compiled code calls: no entry from Python, no cache for it alone.

    A part does not count references, since its arguments outlive it: counting those of every array in its arguments
    would cost as much as a small product. So it cannot create arrays.
    """
    return numba.jit(**FLAGS_OF_PARTS, **UNCOUNTED)(function)


def jit_creating_part(function):
    """Do the same for a part that creates arrays."""
    return numba.jit(**FLAGS_OF_PARTS)(function)


def jit_shared(function):
    """Register a short function that compiled code and Python both call; in Python it stays what it is."""
    return register_jitable(function)
