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
from numba.extending import intrinsic

from dfc_numba.kernels.emit import (
    INDEX,
    MANY_REGISTERS,
    REGISTER_BYTES,
    WORD,
    Tile,
    element_dtype,
    emit_loop,
    lanes,
    matrix_at,
    number_of_dtype,
    rows_at,
    span_pointer,
)
from dfc_numba.kernels.jit import JIT_DISABLED, jit_part, jit_uncounted
from dfc_numba.kernels.numba_internals import get_or_insert_function
from dfc_numba.kernels.rows import add, fill, move

TILE_VECTORS = 2 if REGISTER_BYTES == 64 else (4 if MANY_REGISTERS else 3)
TILE_ROWS = (8, 4, 1) if REGISTER_BYTES == 64 else (4, 1)

CACHE_LINE = 64
INNER_BLOCK = 256  # inner indices of a panel that are multiplied with all rows before the next
OUTPUT_BLOCK = 256  # outputs whose part of `post` stays in the second cache
AHEAD_TILES = 2


def panel_width(dtype):
    """Return the number of outputs per panel of packed weights."""
    return TILE_VECTORS * lanes(dtype)


_width = number_of_dtype(panel_width)


class _Panel(Tile):
    """Emits C (+)= A B for one panel of columns: all rows of A, tile by tile, the inner index innermost.

    With `inner_contiguous`, A(m, k) lies at m * stride + k (rows of samples), otherwise at k * stride + m (columns of a
    block whose rows are summed over).
    """

    def __init__(self, builder, dtype, inner_contiguous, pointers, strides, rest):
        super().__init__(builder, dtype)
        self.inner_contiguous = inner_contiguous
        self.c, self.a, self.b = pointers
        self.c_stride, self.a_stride, self.b_stride = strides
        self.rows, self.inner, self.add, ahead = rest
        self.next_b, self.next_c = self.offset(self.b, ahead), self.offset(self.c, ahead)

    def emit(self):
        """Emit tiles of the largest size while they fit, then of the smaller ones."""
        row = None
        for size in TILE_ROWS:
            row, _ = emit_loop(self.builder, self.rows, size, partial(self._tile, size), first=row)

    def _tile(self, size, row):
        c = self.offset(self.c, row, self.c_stride)
        a = self.offset(self.a, row, self.a_stride if self.inner_contiguous else None)
        places = [
            p for m in range(size) for p in self.registers(self.offset(c, m, self.c_stride), TILE_VECTORS)
        ]
        sums = self._first_sums(places)
        ahead = self._ahead(size, row)
        _, sums = emit_loop(self.builder, self.inner, 1, partial(self._add_products, a, ahead), carried=sums)
        self.store(sums, places)

    def _ahead(self, size, row):
        """Return where a row tile begins to fetch the panel to come, each of the tiles another cache line of every inner index.

        A tile of columns fetches the sums that one of the next tiles begins with, all at once.
        """
        builder = self.builder
        if not self.inner_contiguous:
            next_c = self.offset(self.next_c, row, self.c_stride)
            for start in range(0, size * TILE_VECTORS * self.lanes * self.itemsize, CACHE_LINE):
                self._prefetch(self.offset(next_c, start // self.itemsize))
            return None
        line = CACHE_LINE // self.itemsize
        lines = ir.Constant(INDEX, max(1, TILE_VECTORS * self.lanes // line))
        tile = builder.urem(builder.udiv(row, ir.Constant(INDEX, size)), lines)
        return self.offset(self.next_b, tile, ir.Constant(INDEX, line))

    def _prefetch(self, pointer):
        builder, byte = self.builder, ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, WORD, WORD, WORD])
        function = get_or_insert_function(builder.module, kind, "llvm.prefetch")
        read, near, data = (ir.Constant(WORD, number) for number in (0, 3, 1))
        builder.call(function, [builder.bitcast(pointer, byte), read, near, data])

    def _first_sums(self, places):
        """Return the sums to begin with: C where it is added to, else zero."""
        before = self.builder.basic_block
        with self.builder.if_then(self.add):
            loaded = self.load(places)
            inside = self.builder.basic_block
        sums = [self.builder.phi(self.kind) for _ in loaded]
        for phi, value in zip(sums, loaded, strict=True):
            phi.add_incoming(self.zero, before)
            phi.add_incoming(value, inside)
        return sums

    def _add_products(self, a, ahead, k, *sums):
        """Return the sums of a tile with the products of one inner index."""
        if ahead is not None:
            self._prefetch(self.offset(ahead, k, self.b_stride))
        b = self.load(self.registers(self.offset(self.b, k, self.b_stride), TILE_VECTORS))
        column = self.offset(a, k, None if self.inner_contiguous else self.a_stride)
        result = []
        for m in range(len(sums) // TILE_VECTORS):
            element = self.spread(self.offset(column, m, self.a_stride if self.inner_contiguous else None))
            row = sums[m * TILE_VECTORS : (m + 1) * TILE_VECTORS]
            result += [self.multiply_add(element, *pair) for pair in zip(b, row, strict=True)]
        return result


def _numpy_panel(inner_contiguous):
    """Make the same product in NumPy, of which a row does not depend on the others, as BLAS would have it."""

    def product(c, a, b, rows, inner, add, ahead):
        width = panel_width(c.array.dtype)
        target = matrix_at(c, (rows, width), (c.stride, 1))
        left = matrix_at(a, (rows, inner), (a.stride, 1) if inner_contiguous else (1, a.stride))
        right = matrix_at(b, (inner, width), (b.stride, 1))
        target[:] = (target if add else 0.0) + np.einsum("ri,io->ro", left, right)

    return product


def _panel(inner_contiguous):
    """Make product(c, a, b, rows, inner, add, ahead): C (+)= A B for `Rows` c, a, b; what lies `ahead` elements on is fetched."""
    if JIT_DISABLED:
        return _numpy_panel(inner_contiguous)

    @intrinsic
    def product(typingctx, c, a, b, rows, inner, add, ahead):
        signature = types.void(c, a, b, types.intp, types.intp, types.boolean, types.intp)

        def generate(context, builder, sig, values):
            operands = list(zip((c, a, b), values, strict=False))
            pointers = [span_pointer(context, builder, *pair) for pair in operands]
            strides = [builder.extract_value(value, 2) for _, value in operands]
            _Panel(builder, element_dtype(c), inner_contiguous, pointers, strides, values[3:]).emit()
            return context.get_dummy_value()

        return signature, generate

    return product


_panel_of_rows = _panel(inner_contiguous=True)
_panel_of_columns = _panel(inner_contiguous=False)


@jit_uncounted
def multiply(out, out_start, out_stride, rows, x, x_start, x_stride, inner, packed, packed_start):
    """Write out = x W^T for the rows of a shard: x (rows, inner), `out_stride` outputs (padding included), W packed."""
    _multiply(out, out_start, out_stride, rows, x, x_start, x_stride, inner, packed, packed_start, False)


@jit_uncounted
def multiply_add(out, out_start, out_stride, rows, x, x_start, x_stride, inner, packed, packed_start):
    """Add x W^T to `out`, arguments as in `multiply`."""
    _multiply(out, out_start, out_stride, rows, x, x_start, x_stride, inner, packed, packed_start, True)


@jit_part
def _multiply(out, out_start, out_stride, rows, x, x_start, x_stride, inner, packed, packed_start, add):
    """Write out (+)= x W^T, in blocks of the inner index where it is long: a piece of a panel stays in the first cache."""
    width = _width(out)
    block = INNER_BLOCK if inner >= 2 * INNER_BLOCK else inner
    for first in range(0, max(inner, 1), max(block, 1)):
        length = min(block, inner - first)
        for column in range(0, out_stride - width + 1, width):
            weights = packed_start + column * inner + first * width
            _panel_of_rows(
                rows_at(out, out_start + column, out_stride), rows_at(x, x_start + first, x_stride),
                rows_at(packed, weights, width), rows, length, add or first > 0, width * inner,
            )  # fmt: skip


@jit_uncounted
def add_outer(
    total, start, outputs, first, count, post, post_start, post_stride, pre, pre_start, pre_stride, rows
):
    """Add post^T pre to `total`, summed over `rows` rows (samples and steps), for outputs first .. first + count.

    post is (rows, outputs), pre (rows, inputs); total is in panels, `[panel of inputs][output][input within the panel]`,
    so that a tile is one piece of memory.
    """
    width = _width(total)
    for begin in range(first, first + count, OUTPUT_BLOCK):
        block = min(OUTPUT_BLOCK, first + count - begin)
        for column in range(0, pre_stride - width + 1, width):
            _panel_of_columns(
                rows_at(total, start + column * outputs + begin * width, width), rows_at(post, post_start + begin, post_stride),
                rows_at(pre, pre_start + column, pre_stride), block, rows, True, AHEAD_TILES * TILE_ROWS[0] * width,
            )  # fmt: skip


def sum_outer_work(count, shards, dtype):
    """Return the elements of work space that `sum_outer` needs."""
    return (1 + int(shards).bit_length()) * count * panel_width(dtype)


@jit_uncounted
def sum_outer(out, inputs, post, post_stride, pre, pre_stride, ends, first, count, work):
    """Write out = sum over shards of post_s^T pre_s, for outputs first .. first + count, in the order of a binary tree.

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
                rows_at(work, open_nodes * tile, width), rows_at(post, start * post_stride + first, post_stride),
                rows_at(pre, start * pre_stride + column, pre_stride), count, ends[shard + 1] - start, False, 0,
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


@jit_uncounted
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
    """Write out (+)= C x with a small matrix C (rows, inner) and rows x of `columns` elements.

    Args:
        coefficients: C from `first` on, in rows of `first_stride`. columns: what exceeds whole panels is taken for padding, and
            zero in `out` (rows of samples end with as much padding, see `layout.row_stride`). add: whether to add to `out`.
    """
    width = _width(out)
    rest = columns % width
    for row in range(rows if rest > 0 and not add else 0):
        fill(rest, out, out_start + row * out_stride + columns - rest, 0.0)
    for column in range(0, columns - width + 1, width):
        _panel_of_rows(
            rows_at(out, out_start + column, out_stride), rows_at(coefficients, first, first_stride),
            rows_at(x, x_start + column, x_stride), rows, inner, add, width,
        )  # fmt: skip
