"""Matrix products of a shard: a register-blocked micro-kernel on packed weights.

A tile of ROWS samples by PANEL outputs stays in vector registers while the inner index runs, so that nearly every
instruction is a fused multiply-add. The inner sum runs in the order of its index, one element after the other, whatever
the tile: a sample's result does not depend on the samples beside it. `kernels/README.md` has the measurements.

Weights W (outputs x inputs) are packed in panels of PANEL outputs, `packed[panel, input, output within the panel]`,
padded with zeros; sums of outer products lie in panels as well. Rows of activities have a stride that is a multiple of PANEL
(see `layout`).
"""

from functools import partial

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from dfc_numba.kernels.jit import JIT_DISABLED, jit, jit_part
from dfc_numba.kernels.numba_internals import get_or_insert_function
from dfc_numba.kernels.rows import add, move
from dfc_numba.kernels.simd import (
    CONTRACT,
    FUSED_MULTIPLY_ADD,
    INDEX,
    MANY_REGISTERS,
    REGISTER_BYTES,
    call_packed,
    data_pointer,
    emit_loop,
    lanes,
    splat,
    vector_type,
)

TILE_VECTORS = 2 if REGISTER_BYTES == 64 else (4 if MANY_REGISTERS else 3)
TILE_ROWS = (8, 4, 1) if REGISTER_BYTES == 64 else (4, 1)

CACHE_LINE = 64
INNER_BLOCK = 256  # inner indices of a panel that are multiplied with all rows before the next
OUTPUT_BLOCK = 256  # outputs whose part of `post` stays in the second cache
AHEAD_TILES = 2


def panel_width(dtype):
    """Outputs per panel of packed weights."""
    return TILE_VECTORS * lanes(dtype)


def _multiply_add(builder, x, y, z):
    if FUSED_MULTIPLY_ADD:
        return call_packed(builder, "fma", x, y, z)
    return builder.fadd(builder.fmul(x, y, flags=CONTRACT), z, flags=CONTRACT)


class _Panel:
    """Emits C (+)= A B for one panel of columns: all rows of A, tile by tile, the inner index innermost.

    With `inner_contiguous`, A(m, k) lies at m * stride + k (rows of samples), otherwise at k * stride + m (columns of a
    block whose rows are summed over).
    """

    def __init__(self, context, builder, signature, values, inner_contiguous):
        self.builder, self.inner_contiguous = builder, inner_contiguous
        dtype = np.dtype(str(signature.args[0].dtype))
        self.kind, self.itemsize, self.lanes = vector_type(dtype), dtype.itemsize, lanes(dtype)
        c, c_start, self.c_stride, a, a_start, self.a_stride, b, b_start, self.b_stride = values[:9]
        self.rows, self.inner, self.add, ahead = values[9:]
        self.c = builder.gep(data_pointer(context, builder, signature.args[0], c), [c_start])
        self.a = builder.gep(data_pointer(context, builder, signature.args[3], a), [a_start])
        b = data_pointer(context, builder, signature.args[6], b)
        self.b = builder.gep(b, [b_start])
        self.next_b = builder.gep(b, [ahead])
        self.next_c = builder.gep(self.c, [ahead])

    def emit(self):
        """Tiles of the largest size while they fit, then of the smaller ones."""
        row = None
        for size in TILE_ROWS:
            row, _ = emit_loop(self.builder, self.rows, size, partial(self._tile, size), first=row)

    def _tile(self, size, row):
        builder = self.builder
        c = builder.gep(self.c, [builder.mul(row, self.c_stride)])
        a = builder.gep(self.a, [builder.mul(row, self.a_stride) if self.inner_contiguous else row])
        c_rows = [self._offset(c, m, self.c_stride) for m in range(size)]
        sums = self._first_sums(c_rows)
        ahead = self._ahead(size, row)
        _, sums = emit_loop(builder, self.inner, 1, partial(self._multiply_add, a, ahead), carried=sums)
        for m, target in enumerate(c_rows):
            for place, value in zip(
                self._vectors(target), sums[m * TILE_VECTORS : (m + 1) * TILE_VECTORS], strict=False
            ):
                builder.store(value, place, align=self.itemsize)

    def _ahead(self, size, row):
        """Where a tile of rows begins to fetch the panel to come, each of the tiles another cache line of every inner index.

        A tile of columns fetches the sums that one of the next tiles begins with, all at once.
        """
        builder = self.builder
        if not self.inner_contiguous:
            next_c = builder.gep(self.next_c, [builder.mul(row, self.c_stride)])
            for start in range(0, size * TILE_VECTORS * self.lanes * self.itemsize, CACHE_LINE):
                self._prefetch(self._offset(next_c, start // self.itemsize))
            return None
        line = CACHE_LINE // self.itemsize
        lines = ir.Constant(INDEX, max(1, TILE_VECTORS * self.lanes // line))
        tile = builder.urem(builder.udiv(row, ir.Constant(INDEX, size)), lines)
        return builder.gep(self.next_b, [builder.mul(tile, ir.Constant(INDEX, line))])

    def _prefetch(self, pointer):
        builder, word = self.builder, ir.IntType(32)
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        function = get_or_insert_function(builder.module, kind, "llvm.prefetch")
        read, near, data = (ir.Constant(word, number) for number in (0, 3, 1))
        builder.call(function, [builder.bitcast(pointer, byte), read, near, data])

    def _offset(self, pointer, count, stride=None):
        index = ir.Constant(INDEX, count)
        return self.builder.gep(pointer, [index if stride is None else self.builder.mul(index, stride)])

    def _vectors(self, row):
        """Pointers to the vectors of one row of B or C."""
        places = (self._offset(row, j * self.lanes) for j in range(TILE_VECTORS))
        return [self.builder.bitcast(place, self.kind.as_pointer()) for place in places]

    def _load(self, row):
        return [self.builder.load(place, align=self.itemsize) for place in self._vectors(row)]

    def _first_sums(self, c_rows):
        """The sums to begin with: C where it is added to, else zero."""
        builder, zero = self.builder, ir.Constant(self.kind, [0.0] * self.lanes)
        before = builder.basic_block
        with builder.if_then(self.add):
            loaded = [value for row in c_rows for value in self._load(row)]
            inside = builder.basic_block
        return [self._merge(zero, before, value, inside) for value in loaded]

    def _merge(self, first, first_block, second, second_block):
        phi = self.builder.phi(self.kind)
        phi.add_incoming(first, first_block)
        phi.add_incoming(second, second_block)
        return phi

    def _multiply_add(self, a, ahead, k, *sums):
        builder = self.builder
        if ahead is not None:
            self._prefetch(builder.gep(ahead, [builder.mul(k, self.b_stride)]))
        b = self._load(builder.gep(self.b, [builder.mul(k, self.b_stride)]))
        column = builder.gep(a, [k if self.inner_contiguous else builder.mul(k, self.a_stride)])
        result = []
        for m in range(len(sums) // TILE_VECTORS):
            place = self._offset(column, m, self.a_stride if self.inner_contiguous else None)
            element = splat(builder, builder.load(place))
            result += [
                _multiply_add(builder, element, b[j], sums[m * TILE_VECTORS + j]) for j in range(TILE_VECTORS)
            ]
        return result


def _numpy_panel(inner_contiguous):
    """The same product in NumPy, of which a row does not depend on the others, as BLAS would have it."""

    def product(c, c_start, c_stride, a, a_start, a_stride, b, b_start, b_stride, rows, inner, add, ahead):
        def matrix(array, start, shape, strides):
            strides = [s * array.itemsize for s in strides]
            return np.lib.stride_tricks.as_strided(array[start:], shape, strides)

        target = matrix(c, c_start, (rows, panel_width(c.dtype)), (c_stride, 1))
        left = matrix(a, a_start, (rows, inner), (a_stride, 1) if inner_contiguous else (1, a_stride))
        right = matrix(b, b_start, (inner, panel_width(c.dtype)), (b_stride, 1))
        target[:] = (target if add else 0.0) + np.einsum("ri,io->ro", left, right)

    return product


def _panel(inner_contiguous):
    if JIT_DISABLED:
        return _numpy_panel(inner_contiguous)

    @intrinsic
    def product(
        typingctx, c, c_start, c_stride, a, a_start, a_stride, b, b_start, b_stride, rows, inner, add, ahead
    ):
        place = (types.intp, types.intp)
        signature = types.void(
            c, *place, a, *place, b, *place, types.intp, types.intp, types.boolean, types.intp
        )

        def generate(context, builder, sig, values):
            _Panel(context, builder, sig, values, inner_contiguous).emit()
            return context.get_dummy_value()

        return signature, generate

    return product


_panel_of_rows = _panel(inner_contiguous=True)
_panel_of_columns = _panel(inner_contiguous=False)


def _width(array):
    return panel_width(array.dtype)


@overload(_width)
def _compiled_width(array):
    width = panel_width(str(array.dtype))
    return lambda array: width


@jit
def multiply(out, out_start, out_stride, rows, x, x_start, x_stride, inner, packed, packed_start):
    """out = x W^T for the rows of a shard: x (rows, inner), `out_stride` outputs (padding included), W packed."""
    _multiply(out, out_start, out_stride, rows, x, x_start, x_stride, inner, packed, packed_start, False)


@jit
def multiply_add(out, out_start, out_stride, rows, x, x_start, x_stride, inner, packed, packed_start):
    """out += x W^T, arguments as in `multiply`."""
    _multiply(out, out_start, out_stride, rows, x, x_start, x_stride, inner, packed, packed_start, True)


@jit_part
def _multiply(out, out_start, out_stride, rows, x, x_start, x_stride, inner, packed, packed_start, add):
    """out (+)= x W^T, in blocks of the inner index where it is long: a piece of a panel stays in the first cache."""
    width = _width(out)
    block = INNER_BLOCK if inner >= 2 * INNER_BLOCK else inner
    for first in range(0, max(inner, 1), max(block, 1)):
        length = min(block, inner - first)
        for column in range(0, out_stride - width + 1, width):
            weights = packed_start + column * inner + first * width
            _panel_of_rows(
                out, out_start + column, out_stride, x, x_start + first, x_stride, packed, weights, width,
                rows, length, add or first > 0, weights + width * inner,
            )  # fmt: skip


@jit
def add_outer(
    total, start, outputs, first, count, post, post_start, post_stride, pre, pre_start, pre_stride, rows
):
    """total += post^T pre, summed over `rows` rows (samples and steps), for outputs first .. first + count.

    post is (rows, outputs), pre (rows, inputs); total is in panels, `[panel of inputs][output][input within the panel]`,
    so that a tile is one piece of memory.
    """
    width = _width(total)
    for begin in range(first, first + count, OUTPUT_BLOCK):
        block = min(OUTPUT_BLOCK, first + count - begin)
        for column in range(0, pre_stride - width + 1, width):
            _panel_of_columns(
                total, start + column * outputs + begin * width, width, post, post_start + begin, post_stride,
                pre, pre_start + column, pre_stride, block, rows, True, AHEAD_TILES * TILE_ROWS[0] * width,
            )  # fmt: skip


def sum_outer_work(count, shards, dtype):
    """Elements of work space that `sum_outer` needs."""
    return (1 + int(shards).bit_length()) * count * panel_width(dtype)


@jit
def sum_outer(out, inputs, post, post_stride, pre, pre_stride, ends, first, count, work):
    """out = sum over shards of post_s^T pre_s, for outputs first .. first + count, in the order of a binary tree.

    The sums of two shards are added up, then those of two pairs, and so on: see `dfc_numba/support/summation.py`.

    Args:
        out: flat (outputs, inputs). post, pre: flat rows of samples, (samples, outputs) and (samples, inputs).
        ends: (shards + 1,) first sample of each shard, and the number of samples. work: see `sum_outer_work`.
    """
    width = _width(out)
    tile = count * width
    for column in range(0, inputs, width):
        open_nodes = 0
        for shard in range(ends.size - 1):
            start = ends[shard]
            _panel_of_columns(
                work, open_nodes * tile, width, post, start * post_stride + first, post_stride,
                pre, start * pre_stride + column, pre_stride, count, ends[shard + 1] - start, False, 0,
            )  # fmt: skip
            open_nodes += 1
            done = shard + 1
            while done % 2 == 0:
                open_nodes -= 1
                _add_tile(work, open_nodes * tile, tile)
                done //= 2
        while open_nodes > 1:
            open_nodes -= 1
            _add_tile(work, open_nodes * tile, tile)
        for m in range(count):
            move(min(width, inputs - column), out, (first + m) * inputs + column, work, m * width)


@jit_part
def _add_tile(work, start, tile):
    """Add a tile to the one before it."""
    add(tile, work, start - tile, work, start)


@jit
def mix(
    out,
    out_start,
    out_stride,
    rows,
    coefficients,
    first,
    first_stride,
    inner,
    x,
    x_start,
    x_stride,
    columns,
    add,
):
    """out (+)= C x with a small matrix C (rows, inner) and rows x of `columns` elements, a multiple of the panel width.

    Args:
        coefficients: C from `first` on, in rows of `first_stride`. add: whether to add to `out`.
    """
    width = _width(out)
    for column in range(0, columns - width + 1, width):
        _panel_of_rows(
            out, out_start + column, out_stride, coefficients, first, first_stride,
            x, x_start + column, x_stride, rows, inner, add, x_start + column + width,
        )  # fmt: skip
