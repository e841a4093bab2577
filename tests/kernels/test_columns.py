"""Matrix products with the samples side by side in the registers."""

import numba
import numpy as np
import pytest
from compiled_calls import compiled
from machine_code import found_in, instructions
from numba import types

from dfc_numba.kernels import columns
from dfc_numba.kernels.columns import TILE_ROWS, advance, pack, padded_samples, tile_bounds
from dfc_numba.kernels.jit import JIT_DISABLED

DTYPES = ["float32", "float64"]
each_dtype = pytest.mark.parametrize("dtype", [np.dtype(name) for name in DTYPES], ids=DTYPES)
UNTOUCHED = 7.0

# (rows, inner, samples): every size of a tile, tiles of different sizes, whole and single registers
SHAPES = [(rows, 5, 3) for rows in range(1, 2 * TILE_ROWS + 2)]
SHAPES += [(10, 1000, 16), (1000, 10, 40), (7, 1, 100), (1, 33, 9), (53, 20, 33)]


def random(shape, dtype, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def product(matrix, x, out, keep, start=0):
    """keep out + M x by the kernel, everything `start` elements into its array; x (inner, n), out (rows, n)."""
    dtype, (rows, inner), samples = matrix.dtype, matrix.shape, x.shape[1]
    width = padded_samples(samples, dtype)

    def flat(array):
        padded = np.zeros((len(array), width), dtype)
        padded[:, :samples] = array
        return np.concatenate(
            [np.full(start, UNTOUCHED, dtype), padded.ravel(), np.full(3, UNTOUCHED, dtype)]
        )

    packed = np.full(start + rows * inner, UNTOUCHED, dtype)
    pack(matrix, packed[start:])
    found = flat(out)
    advance(found, start, rows, flat(x), start, inner, packed, start, width, dtype.type(keep))
    assert np.all(found[:start] == UNTOUCHED) and np.all(found[-3:] == UNTOUCHED)
    found = found[start:-3].reshape(rows, width)
    assert not found[:, samples:].any(), "the padding stays zero"
    return found[:, :samples]


@pytest.mark.parametrize("rows, inner, samples", SHAPES)
@pytest.mark.parametrize("keep", [0.0, 0.7, 1.0])
@each_dtype
def test_advance(dtype, keep, rows, inner, samples):
    matrix, x, out = (
        random((rows, inner), dtype),
        random((inner, samples), dtype, 1),
        random((rows, samples), dtype, 2),
    )
    found = product(matrix, x, out, keep, start=5)
    keep = dtype.type(keep)
    exact = keep * out.astype(np.longdouble) + matrix.astype(np.longdouble) @ x
    terms = np.abs(keep * out) + np.abs(matrix) @ np.abs(x)
    assert np.all(np.abs(found - exact) <= (inner + 2) * np.finfo(dtype).eps * terms)


@pytest.mark.skipif(JIT_DISABLED, reason="NumPy sums in an order of its own")
@each_dtype
def test_a_sample_does_not_depend_on_the_samples_beside_it(dtype):
    matrix, x, out = random((30, 57), dtype), random((57, 70), dtype, 1), random((30, 70), dtype, 2)
    together = product(matrix, x, out, 0.5)
    for s in range(70):
        np.testing.assert_array_equal(product(matrix, x[:, [s]], out[:, [s]], 0.5)[:, 0], together[:, s])
    np.testing.assert_array_equal(product(matrix, x[:, ::-1], out[:, ::-1], 0.5), together[:, ::-1])


@each_dtype
def test_nan_reaches_its_own_sample_and_row_only(dtype):
    matrix, x = random((20, 12), dtype), random((12, 40), dtype, 1)
    x[3, 4] = matrix[7, 2] = np.nan
    expected = np.zeros((20, 40), bool)
    expected[7], expected[:, 4] = True, True
    width = padded_samples(40, dtype)
    found, packed = np.zeros(20 * width, dtype), np.empty(240, dtype)
    pack(matrix, packed)
    columns_of_x = np.zeros((12, width), dtype)
    columns_of_x[:, :40] = x
    advance(found, 0, 20, columns_of_x.ravel(), 0, 12, packed, 0, width, dtype.type(0.0))
    np.testing.assert_array_equal(np.isnan(found.reshape(20, width)[:, :40]), expected)


@pytest.mark.parametrize("rows", [1, 5, 12, 13, 25, 784, 1000])
def test_tiles_are_even_and_small(rows):
    bounds = tile_bounds(rows)
    sizes = np.diff(bounds)
    assert bounds[0] == 0 and bounds[-1] == rows
    assert 1 <= sizes.min() and sizes.max() <= min(TILE_ROWS, sizes.min() + 1)


@each_dtype
def test_the_product_is_packed_arithmetic_without_calls(dtype):
    instructions()
    arrays = ("out", "x", "packed")
    names = advance.py_func.__code__.co_varnames[: advance.py_func.__code__.co_argcount]
    kinds = {"keep": numba.from_dtype(dtype)} | dict.fromkeys(
        arrays, types.Array(numba.from_dtype(dtype), 1, "C")
    )
    entry = compiled(advance.py_func, no_cpython_wrapper=True, no_cfunc_wrapper=True)
    entry.compile(tuple(kinds.get(name, types.intp) for name in names))
    code = entry.inspect_asm(entry.signatures[-1])
    assert found_in(code, "packed", dtype) > 2 * columns.TILE_VECTORS * TILE_ROWS
    assert found_in(code, "scalar") == 0
    assert found_in(code, "call") == 0
