"""Products with weights that change as they are used: exact, one order of summation, packed arithmetic."""

import machine_code
import numpy as np
import pytest
from compiled_calls import assembly, compiled
from numba import from_dtype, types

from dfc_numba.kernels import elementwise, plastic
from dfc_numba.kernels.emit import Rows, Span
from dfc_numba.kernels.jit import JIT_DISABLED
from dfc_numba.kernels.layout import pack, padded_rows, row_stride, unpack
from dfc_numba.kernels.numba_internals import UNCOUNTED

DTYPES = ["float32", "float64"]
needs_compiler = pytest.mark.skipif(JIT_DISABLED, reason="NumPy sums in an order of its own")
each_dtype = pytest.mark.parametrize("dtype", [np.dtype(name) for name in DTYPES], ids=DTYPES)
# (samples, inner, outputs): about the sizes of blocks and panels, and widths that are no multiple of a panel
SHAPES = [(samples, inner, 21) for samples in (1, 2, 7) for inner in range(1, 19)]
SHAPES += [(5, 1, 1), (16, 1, 50), (3, 50, 1), (1, 300, 97), (16, 256, 10), (40, 31, 33)]
UNTOUCHED = 7.0


def random(shape, dtype, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def behind(start, flat):
    """An array that begins with `start` marked elements."""
    return np.concatenate([np.full(start, UNTOUCHED, flat.dtype), flat])


def sweep(weights, post, pre, x, *, keep=1.0, learners=None, rows=None, start=3):
    """(W, out) after a sweep of the kernel over arrays that begin at `start`; out begins with ones."""
    dtype, (outputs, inner) = weights.dtype, weights.shape
    learners, rows = len(post) if learners is None else learners, len(x) if rows is None else rows
    stride, below = row_stride(outputs, dtype), row_stride(inner, dtype)
    packed = behind(start, pack([weights], [stride], dtype))
    out = behind(start, np.ones(len(x) * stride, dtype))
    post, pre, x = (
        Rows(behind(start, padded_rows(values, width, dtype)), start, width)
        for values, width in ((post, stride), (pre, below), (x, below))
    )
    plastic.learn_and_multiply(
        Span(packed, start), keep, post, pre, learners, x, Rows(out, start, stride), rows, inner
    )
    assert np.all(packed[:start] == UNTOUCHED) and np.all(out[:start] == UNTOUCHED)
    return unpack(packed[start:], inner, outputs).T, out[start:].reshape(-1, stride)[:, :outputs]


def problem(samples, inner, outputs, dtype):
    """W, post, pre, x."""
    shapes = (outputs, inner), (samples, outputs), (samples, inner), (samples, inner)
    return [random(shape, dtype, seed) for seed, shape in enumerate(shapes)]


def exact(left, right, terms):
    """left @ right in extended precision, and what rounding may do to it in the dtype of the factors."""
    a, b = left.astype(np.longdouble), right.astype(np.longdouble)
    return a @ b, (terms + 3) * np.finfo(left.dtype).eps * (np.abs(a) @ np.abs(b) + 1)


@pytest.mark.parametrize("samples, inner, outputs", SHAPES)
@each_dtype
def test_update_and_product(dtype, samples, inner, outputs):
    weights, post, pre, x = problem(samples, inner, outputs, dtype)
    keep = dtype.type(0.75)
    found, out = sweep(weights, post, pre, x, keep=keep)
    change, bound = exact(post.T, pre, samples)
    bound += np.finfo(dtype).eps * np.abs(weights)
    assert np.all(np.abs(found - (keep * weights.astype(np.longdouble) + change)) <= bound)
    product, bound = exact(x, np.ascontiguousarray(found.T), inner)
    assert np.all(np.abs(out - 1 - product) <= bound)


@each_dtype
def test_weights_that_do_not_learn_are_not_touched(dtype):
    weights, post, pre, x = problem(3, 20, 21, dtype)
    found, out = sweep(weights, post * np.nan, pre, x, keep=0.5, learners=0)
    assert np.array_equal(found, weights)
    product, bound = exact(x, np.ascontiguousarray(weights.T), 20)
    assert np.all(np.abs(out - 1 - product) <= bound)


@each_dtype
def test_an_update_without_a_product_leaves_the_same_bits(dtype):
    weights, post, pre, x = problem(5, 37, 40, dtype)
    alone, out = sweep(weights, post, pre, x, rows=0)
    assert np.array_equal(alone, sweep(weights, post, pre, x)[0])
    assert np.all(out == 1)


@needs_compiler
@each_dtype
def test_a_product_does_not_depend_on_the_samples_beside_it(dtype):
    weights, post, pre, x = problem(9, 37, 40, dtype)
    _, together = sweep(weights, post, pre, x)
    for sample in range(9):
        _, alone = sweep(weights, post, pre, x[sample : sample + 1])
        assert np.array_equal(alone[0], together[sample])


@needs_compiler
@each_dtype
def test_changes_are_summed_up_before_they_are_rounded_into_the_weights(dtype):
    """Many changes below half a unit in the last place of a weight that together are above it."""
    tiny = np.finfo(dtype).eps / 8
    post, pre = np.full((16, 1), tiny, dtype), np.ones((16, 9), dtype)
    found, _ = sweep(np.ones((1, 9), dtype), post, pre, pre)
    assert np.all(found == dtype.type(1) + dtype.type(16 * tiny))


@each_dtype
def test_sweeps_are_packed_arithmetic_without_calls(dtype):
    machine_code.instructions()
    function = plastic.learn_and_multiply.py_func
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    array = types.Array(from_dtype(dtype), 1, "C")
    span, rows = (
        types.NamedTuple((array, types.intp), Span),
        types.NamedTuple((array, types.intp, types.intp), Rows),
    )
    kinds = {"keep": types.float64, "packed": span} | dict.fromkeys(("post", "pre", "x", "out"), rows)
    entry = compiled(function, no_cpython_wrapper=True, no_cfunc_wrapper=True, **UNCOUNTED)
    entry.compile(tuple(kinds.get(name, types.intp) for name in names))
    code = entry.inspect_asm(entry.signatures[-1])
    assert machine_code.found_in(code, "packed", dtype) > 0
    assert machine_code.found_in(code, "scalar") == 0
    assert machine_code.found_in(code, "call") == 0


# name -> (loop, number of array arguments, of scalars)
LOOPS = {
    "scale": (elementwise.scale, 2, 1),
    "watch": (elementwise.watch, 4, 0),
}


@pytest.mark.parametrize("name", LOOPS)
@each_dtype
def test_passes_of_the_online_kernel_are_packed_arithmetic_without_calls(dtype, name):
    machine_code.instructions()
    loop, arrays, scalars = LOOPS[name]
    code = assembly(loop, dtype, arrays=arrays, scalars=scalars)
    assert machine_code.found_in(code, "packed", dtype) > 0
    assert machine_code.found_in(code, "scalar") == 0
    assert machine_code.found_in(code, "call") == 0
