"""Machine code of the kernels' inner loops: packed arithmetic, and nothing else."""

import math
import os
import subprocess
import sys

import numba
import numpy as np
import pytest
from compiled_calls import assembly, compiled
from machine_code import found_in, instructions
from numba import types

from dfc_numba.kernels import elementwise as loops
from dfc_numba.kernels import multiply as products
from dfc_numba.kernels import units
from dfc_numba.kernels.formula_loops import assembly_at
from dfc_numba.kernels.numba_internals import UNCOUNTED
from dfc_numba.registry import ACTIVATIONS, PLASTICITY_RULES

DTYPES = ["float32", "float64"]
each_dtype = pytest.mark.parametrize("dtype", [np.dtype(name) for name in DTYPES], ids=DTYPES)
# name -> (loop, number of array arguments, of scalars)
LOOPS = {
    "filter": (loops.combine, 3, 2),
    "filter with noise": (loops.combine_noisy, 4, 3),
    "noise": (loops.normal_pair, 4, 0),
}


@pytest.mark.parametrize("name", LOOPS)
@each_dtype
def test_loops_are_packed_arithmetic_without_calls(dtype, name):
    instructions()
    loop, arrays, scalars = LOOPS[name]
    code = assembly(loop, dtype, arrays=arrays, scalars=scalars)
    assert found_in(code, "packed", dtype) > 0
    assert found_in(code, "scalar") == 0
    assert found_in(code, "call") == 0


DIFFERENCE = PLASTICITY_RULES["nonlinear_difference"].postsynaptic
# name -> function of (form, dtype) that compiles a loop of units
UNIT_LOOPS = {
    "rate": units.rate_loop,
    "constants": lambda form, dtype: units.constants_loop(form, np.dtype(dtype)),
    "step": lambda form, dtype: units.step_loop(form, dtype, DIFFERENCE, saturated=False),
    "step in saturation": lambda form, dtype: units.step_loop(form, dtype, DIFFERENCE),
    "step without factor": lambda form, dtype: units.step_loop(form, dtype),
    "difference": lambda form, dtype: units.unit_loop(form, dtype, DIFFERENCE),
    "derivative": units.derivative_loop,
    "online step": lambda form, dtype: units.online_step_loop(form, dtype, DIFFERENCE),
    "online derivative": lambda form, dtype: units.online_unit_loop(form, dtype, units.slope_at_soma),
}


@pytest.mark.parametrize("name", UNIT_LOOPS)
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu", "leakyrelu"])
@each_dtype
def test_loops_of_units_are_packed_arithmetic_without_calls(dtype, activation, name):
    instructions()
    code = assembly_at(UNIT_LOOPS[name](ACTIVATIONS[activation].form, dtype))
    computed = "float64" if name == "constants" else dtype
    copies = activation in ("relu", "leakyrelu") and name in ("constants", "rate")  # a copy, a maximum
    assert copies or found_in(code, "packed", computed) > 0
    assert found_in(code, "scalar") == 0
    assert found_in(code, "call") == 0


def _tanh_of_libm(count, out, v):
    for k in range(count):
        out.array[out.start + k] = math.tanh(v.array[v.start + k])


def _scalar_recurrence(count, out, v):
    for k in range(1, count):
        v.array[v.start + k] = 0.5 * v.array[v.start + k - 1] + v.array[v.start + k]


def test_the_patterns_see_a_call_and_scalar_arithmetic():
    instructions()
    assert found_in(assembly(compiled(_tanh_of_libm), "float64", arrays=2), "call") > 0
    assert found_in(assembly(compiled(_scalar_recurrence), "float64", arrays=2), "scalar") > 0


PRODUCTS = {"multiply": products.multiply, "add_outer": products.add_outer}


def product_assembly(product, dtype):
    """The machine code of a matrix product."""
    names = product.__code__.co_varnames[: product.__code__.co_argcount]
    arrays = ("out", "x", "packed", "total", "post", "pre")
    signature = [
        types.Array(numba.from_dtype(dtype), 1, "C") if name in arrays else types.intp for name in names
    ]
    entry = compiled(product, no_cpython_wrapper=True, no_cfunc_wrapper=True, **UNCOUNTED)
    entry.compile(tuple(signature))
    return entry.inspect_asm(entry.signatures[-1])


@pytest.mark.parametrize("name", PRODUCTS)
@each_dtype
def test_products_are_packed_arithmetic_without_calls(dtype, name):
    instructions()
    code = product_assembly(PRODUCTS[name].py_func, dtype)
    assert found_in(code, "packed", dtype) > 0
    assert found_in(code, "scalar") == 0
    assert found_in(code, "call") == 0


def test_products_call_nothing_on_any_processor():
    """With NUMBA_CPU_NAME=generic, which shares one cache between different machines."""
    instructions()
    environment = {**os.environ, "NUMBA_CPU_NAME": "generic"}
    arguments = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        __file__,
        "-k",
        "without_calls",
    ]
    finished = subprocess.run(arguments, check=False, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout
