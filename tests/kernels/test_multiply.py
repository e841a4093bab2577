"""Matrix products of the kernels on packed weights, and the layout that they rely on."""

import numpy as np
import pytest

from dfc_numba.kernels import layout as layouts
from dfc_numba.kernels.jit import JIT_DISABLED
from dfc_numba.kernels.layout import dense_views, layout, pack, padded_rows, row_stride, unpack
from dfc_numba.kernels.multiply import add_outer, multiply, multiply_add, panel_width

DTYPES = ["float32", "float64"]
needs_compiler = pytest.mark.skipif(JIT_DISABLED, reason="NumPy sums in an order of its own")
each_dtype = pytest.mark.parametrize("dtype", [np.dtype(name) for name in DTYPES], ids=DTYPES)
UNTOUCHED = 7.0

# (rows, inner, outputs): every number of rows about the tiles' sizes, widths that are no multiple of a panel
SHAPES = [(rows, 13, 21) for rows in range(1, 41)]
SHAPES += [
    (5, 1, 1),
    (16, 1, 50),
    (3, 50, 1),
    (7, 2, 127),
    (12, 256, 10),
    (16, 100, 256),
    (40, 31, 33),
    (1, 300, 97),
    (17, 511, 20),
    (9, 512, 20),
    (20, 700, 300),
]


def random(shape, dtype, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def rows_at(array, stride, start, dtype):
    """Flat rows of `stride` elements that begin at `start`; the padding is zero, what lies before is marked."""
    return np.concatenate([np.full(start, UNTOUCHED, dtype), padded_rows(array, stride, dtype)])


def product(x, weights, *, start=0):
    """x W^T by the kernel with everything `start` elements into its array: (rows, stride of the outputs)."""
    dtype, (rows, inner), outputs = x.dtype, x.shape, len(weights)
    strides = row_stride(inner, dtype), row_stride(outputs, dtype)
    packed = np.concatenate([np.full(start, UNTOUCHED, dtype), pack([weights], [strides[1]], dtype)])
    out = np.full(start + rows * strides[1] + 5, UNTOUCHED, dtype)
    left = rows_at(x, strides[0], start, dtype)
    multiply(out, start, strides[1], rows, left, start, strides[0], inner, packed, start)
    assert np.all(out[:start] == UNTOUCHED) and np.all(out[-5:] == UNTOUCHED)
    return out[start:-5].reshape(rows, strides[1])


def outer(post, pre, total, *, start=0):
    """total + post^T pre by the kernel: (outputs, whole panels of inputs); total is (outputs, inputs)."""
    dtype, (rows, outputs), inputs = post.dtype, post.shape, pre.shape[1]
    strides, width = (row_stride(outputs, dtype), row_stride(inputs, dtype)), panel_width(dtype)
    whole = strides[1] // width
    padded = np.zeros((outputs, whole * width), dtype)
    padded[:, :inputs] = total
    panels = padded.reshape(outputs, whole, width).transpose(1, 0, 2).ravel()
    sums = np.concatenate(
        [np.full(start, UNTOUCHED, dtype), panels, np.full(strides[1] * outputs, UNTOUCHED, dtype)]
    )
    left, right = rows_at(post, strides[0], start, dtype), rows_at(pre, strides[1], start, dtype)
    add_outer(sums, start, outputs, 0, outputs, left, start, strides[0], right, start, strides[1], rows)
    assert np.all(sums[:start] == UNTOUCHED)
    return unpack(sums[start:], outputs, whole * width)


def exact_and_bound(left, right, terms):
    """left @ right in extended precision, and what rounding may do to it in the dtype of the factors."""
    a, b = left.astype(np.longdouble), right.astype(np.longdouble)
    return a @ b, (terms + 2) * np.finfo(left.dtype).eps * (np.abs(a) @ np.abs(b))


@pytest.mark.parametrize("rows, inner, outputs", SHAPES)
@each_dtype
def test_multiply(dtype, rows, inner, outputs):
    x, weights = random((rows, inner), dtype), random((outputs, inner), dtype, 1)
    found = product(x, weights, start=3)
    exact, bound = exact_and_bound(x, weights.T, inner)
    assert np.all(np.abs(found[:, :outputs] - exact) <= bound)


@pytest.mark.parametrize("rows, inner, outputs", SHAPES)
@each_dtype
def test_add_outer(dtype, rows, inner, outputs):
    post, pre = random((rows, outputs), dtype), random((rows, inner), dtype, 1)
    total = random((outputs, inner), dtype, 2)
    found = outer(post, pre, total, start=3)
    exact, bound = exact_and_bound(post.T, pre, rows)
    slack = (rows + 2) * np.finfo(dtype).eps * np.abs(total)
    assert np.all(np.abs(found[:, :inner] - (total + exact)) <= bound + slack)


@pytest.mark.parametrize("outputs", [1, 7, 10, 24, 63, 64, 65, 256])
@each_dtype
def test_padding_stays_zero(dtype, outputs):
    """Zero wherever whole panels reach; what is left of a row is not written."""
    found = product(random((9, 17), dtype), random((outputs, 17), dtype, 1))
    whole = found.shape[1] // panel_width(dtype) * panel_width(dtype)
    assert not found[:, outputs:whole].any()
    assert np.all(found[:, whole:] == UNTOUCHED)
    total = outer(random((9, 17), dtype), random((9, outputs), dtype, 1), np.zeros((17, outputs), dtype))
    assert not total[:, outputs:].any()


@needs_compiler
@pytest.mark.parametrize("inner", [300, 511, 512, 513, 1000])
@each_dtype
def test_blocks_of_the_inner_index_keep_the_order_of_the_sum(dtype, inner):
    """The same bits as in any other blocks."""
    x, weights = random((19, inner), dtype), random((30, inner), dtype, 1)
    stride = row_stride(30, dtype)
    out = np.zeros(19 * stride, dtype)
    for number, (first, end) in enumerate([(0, 100), (100, 299), (299, inner)]):
        below = row_stride(end - first, dtype)
        packed, left = (
            pack([weights[:, first:end]], [stride], dtype),
            padded_rows(x[:, first:end], below, dtype),
        )
        (multiply_add if number else multiply)(out, 0, stride, 19, left, 0, below, end - first, packed, 0)
    np.testing.assert_array_equal(out.reshape(19, stride)[:, :30], product(x, weights)[:, :30])


@needs_compiler
@each_dtype
def test_blocks_of_outputs_do_not_change_a_sum(dtype):
    post, pre = random((64, 600), dtype), random((64, 70), dtype, 1)
    strides, together, apart = [row_stride(n, dtype) for n in (600, 70)], *np.zeros((2, 600 * 128), dtype)
    left, right = (
        padded_rows(rows, stride, dtype) for rows, stride in zip((post, pre), strides, strict=True)
    )
    add_outer(together, 0, 600, 0, 600, left, 0, strides[0], right, 0, strides[1], 64)
    for first in range(0, 600, 40):
        add_outer(apart, 0, 600, first, 40, left, 0, strides[0], right, 0, strides[1], 64)
    np.testing.assert_array_equal(together, apart)
    assert together.any()


@needs_compiler
@pytest.mark.parametrize("rows", [2, 3, 5, 8, 15, 16, 33])
@each_dtype
def test_a_row_does_not_depend_on_the_rows_beside_it(dtype, rows):
    x, weights = random((rows, 57), dtype), random((30, 57), dtype, 1)
    together = product(x, weights)
    for row in range(rows):
        np.testing.assert_array_equal(product(x[row : row + 1], weights)[0], together[row])
    np.testing.assert_array_equal(product(x[::-1].copy(), weights), together[::-1])


@needs_compiler
@each_dtype
def test_an_output_does_not_depend_on_the_outputs_beside_it(dtype):
    post, pre = random((64, 30), dtype), random((64, 57), dtype, 1)
    together = outer(post, pre, np.zeros((30, 57), dtype))
    for k in range(30):
        alone = outer(post[:, k : k + 1].copy(), pre, np.zeros((1, 57), dtype))
        np.testing.assert_array_equal(alone[0], together[k])


@needs_compiler
@each_dtype
def test_blocks_of_rows_add_up_as_one(dtype):
    """The sum over samples and steps may be cut into blocks anywhere: it has the same bits."""
    post, pre = random((64, 11), dtype), random((64, 37), dtype, 1)
    total = np.zeros((11, 37), dtype)
    together = outer(post, pre, total)[:, :37]
    for block in (1, 5, 16, 63):
        total = np.zeros((11, 37), dtype)
        for first in range(0, 64, block):
            total = outer(post[first : first + block].copy(), pre[first : first + block].copy(), total)[
                :, :37
            ].copy()
        np.testing.assert_array_equal(total, together)


@each_dtype
def test_nan_reaches_its_own_row_and_output_only(dtype):
    x, weights = random((9, 12), dtype), random((20, 12), dtype, 1)
    x[4, 3] = np.nan
    weights[7, 2] = np.nan
    expected = np.zeros((9, 20), bool)
    expected[4], expected[:, 7] = True, True
    np.testing.assert_array_equal(np.isnan(product(x, weights)[:, :20]), expected)


# --- layout ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [*range(1, 70), 127, 128, 129, 255, 256, 257, 784, 1024, 4096])
@each_dtype
def test_row_stride(dtype, size):
    stride, width = row_stride(size, dtype), panel_width(dtype)
    line = layouts.CACHE_LINE // dtype.itemsize
    assert stride // width * width >= size, "whole panels hold the row"
    assert stride % line or stride // line % 2, "rows lie an odd number of cache lines apart"
    assert stride < size + width + 2 * line


@each_dtype
def test_layout_places_follow_each_other(dtype):
    sizes = (5, 40, 1, 33, 10)
    places = layout(sizes, dtype)
    strides = [row_stride(n, dtype) for n in sizes]
    np.testing.assert_array_equal(places.stride, strides)
    assert places.widest == max(strides[1:])
    lengths = {
        "rows": [strides[i] for i in range(1, 5)],
        "dense": [sizes[i] for i in range(1, 5)],
        "weights": [strides[i] * sizes[i - 1] for i in range(1, 5)],
        "feedback": [strides[i] * sizes[-1] for i in range(1, 5)],
        "transposed": [strides[i] * sizes[i + 1] for i in range(1, 4)] + [0],
        "outer": [sizes[i] * strides[i - 1] for i in range(1, 5)],
        "outer_shard": [0] + [sizes[i] * strides[i - 1] for i in range(2, 5)],
        "outer_feedback": [sizes[-1] * strides[i] for i in range(1, 5)],
    }
    for name, expected in lengths.items():
        starts = getattr(places, name)
        np.testing.assert_array_equal(np.diff(starts[1:]), expected, err_msg=name)
        assert starts[0] == starts[1] == 0


@pytest.mark.parametrize("outputs, inputs", [(1, 1), (7, 3), (24, 5), (50, 2), (129, 4)])
@each_dtype
def test_pack(dtype, outputs, inputs):
    """packed[panel, input, output within the panel], zeros beyond the last output."""
    matrix, width, stride = random((outputs, inputs), dtype), panel_width(dtype), row_stride(outputs, dtype)
    packed = pack([matrix, 2 * matrix], [stride, stride], dtype)
    assert packed.shape == (2 * stride * inputs,) and packed.dtype == dtype
    for scale, part in zip((1, 2), np.split(packed, 2)):
        expected = np.zeros_like(part)
        for o in range(outputs):
            for k in range(inputs):
                panel, within = divmod(o, width)
                expected[(panel * inputs + k) * width + within] = scale * matrix[o, k]
        np.testing.assert_array_equal(part, expected)


def test_padded_rows():
    rows = padded_rows(np.arange(6.0).reshape(2, 3), 5, "float32")
    np.testing.assert_array_equal(rows, [0, 1, 2, 0, 0, 3, 4, 5, 0, 0])
    assert rows.dtype == np.float32


@pytest.mark.parametrize("times", [None, 3])
def test_dense_views(times):
    lead = (2,) if times is None else (times, 2)
    arrays = [np.random.default_rng(i).random((*lead, n)) for i, n in enumerate((4, 1, 3))]
    flat = np.concatenate([array.ravel() for array in arrays])
    views = dense_views(flat, 2, (9, 4, 1, 3), times)
    for view, array in zip(views, arrays, strict=True):
        np.testing.assert_array_equal(view, array)
        assert np.shares_memory(view, flat)
