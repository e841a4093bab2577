"""Matrix products of a shard whose samples lie side by side in the registers: out = keep out + M x.

`multiply` fills its registers with outputs, of which small layers have too few: 10 outputs would take a panel of 16 or 32.
Here a tile is ROWS units by two registers of samples, `[unit][sample]`, so that the sizes of the layers leave nothing
unused; the numbers of M are spread to all lanes. The tile starts from keep out, which makes the Euler step
r <- (1 - dt lambda) r + (dt M) x one product. Where x has so few units that all of them fit into registers, they stay
there, and M is gone through row by row.

The matrix is cut into tiles of rows as even as possible, `packed[tile][input][row within the tile]`, or left as it is where
x stays in registers. The inner sum runs in the order of its index, and samples are lanes of their own: a sample's bits
do not depend on the samples beside it.
"""

from functools import partial
from itertools import pairwise, product

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from dfc_numba.kernels.emit import (
    CONTRACT,
    INDEX,
    MANY_REGISTERS,
    Tile,
    at,
    element_dtype,
    emit_loop,
    lanes,
    matrix_at,
    number_of_dtype,
    span_pointer,
    splat,
)
from dfc_numba.kernels.jit import JIT_DISABLED, jit_uncounted

TILE_ROWS = 12 if MANY_REGISTERS else 6
TILE_VECTORS = 2
FEW = 12 if MANY_REGISTERS else 5  # units of x that stay in registers
UNROLLED = 5  # steps of the inner sum of a tile


def padded_samples(count, dtype):
    """Return `count` rounded up to whole registers."""
    return -(-count // lanes(dtype)) * lanes(dtype)


def tile_bounds(rows):
    """Return the first rows of the tiles, and the number of rows at the end."""
    tiles = -(-rows // TILE_ROWS)
    return [rows * t // tiles for t in range(tiles + 1)]


def pack(matrix, out):
    """Pack a matrix (rows, inner) into the flat array `out` of rows * inner elements."""
    rows, inner = matrix.shape
    if inner <= FEW:
        out[:] = matrix.ravel()
        return
    bounds = tile_bounds(rows)
    for first, last in pairwise(bounds):
        out[first * inner : last * inner].reshape(inner, last - first)[:] = matrix[first:last].T


class _Product(Tile):
    """Emits out = keep out + M x for some rows of M and 1 .. TILE_VECTORS registers of samples."""

    def __init__(self, builder, dtype, sizes, pointers, keep):
        super().__init__(builder, dtype)
        self.rows, self.vectors, self.width, self.inner = sizes
        self.out, self.x, self.m = pointers
        self.keep = splat(builder, keep)

    def emit_tile(self):
        """Emit a tile of 1 .. TILE_ROWS rows that stays in registers while the inner index runs."""
        self._emit_each(self.rows, TILE_ROWS, self._tile)

    def emit_rows(self):
        """Emit any number of rows, one after the other, while x of 1 .. FEW units stays in registers."""
        self._emit_each(self.inner, FEW, self._row_by_row)

    def _emit_each(self, size, largest, emit):
        """Emit a branch to code for the size and the number of registers at hand."""
        builder, end = self.builder, self.builder.append_basic_block()
        which = builder.add(builder.mul(self.vectors, ir.Constant(INDEX, largest)), size)
        switch = builder.switch(which, end)
        for vectors, known in product(range(1, TILE_VECTORS + 1), range(1, largest + 1)):
            block = builder.append_basic_block()
            switch.add_case(ir.Constant(INDEX, vectors * largest + known), block)
            builder.position_at_end(block)
            emit(known, vectors)
            builder.branch(end)
        builder.position_at_end(end)

    def _tile(self, rows, vectors):
        places = [place for m in range(rows) for place in self._unit(self.out, m, vectors)]
        sums, first = self._kept(places), None
        for steps in (UNROLLED, 1):
            body = partial(self._add_columns, rows, vectors, steps)
            first, sums = emit_loop(self.builder, self.inner, steps, body, first=first, carried=sums)
        self.store(sums, places)

    def _add_columns(self, rows, vectors, steps, first, *sums):
        """Return the sums of a tile after some columns of M."""
        for step in range(steps):
            k = self.builder.add(first, ir.Constant(INDEX, step))
            x = self.load(self._unit(self.x, k, vectors))
            column = self.offset(self.m, k, ir.Constant(INDEX, rows))
            parts = (sums[m * vectors : (m + 1) * vectors] for m in range(rows))
            sums = [s for m, part in enumerate(parts) for s in self._add_scaled(column, m, x, part)]
        return sums

    def _row_by_row(self, inner, vectors):
        x = [self.load(self._unit(self.x, k, vectors)) for k in range(inner)]

        def body(m):
            places = self._unit(self.out, m, vectors)
            row = self.offset(self.m, m, ir.Constant(INDEX, inner))
            sums = self._kept(places)
            for k in range(inner):
                sums = self._add_scaled(row, k, x[k], sums)
            self.store(sums, places)

        emit_loop(self.builder, self.rows, 1, body)

    def _add_scaled(self, numbers, index, x, sums):
        """Return sums + numbers[index] x, register by register."""
        element = self.spread(self.offset(numbers, index))
        return [self.multiply_add(element, *pair) for pair in zip(x, sums, strict=True)]

    def _unit(self, base, unit, vectors):
        """Return pointers to the registers of one unit."""
        return self.registers(self.offset(base, unit, self.width), vectors)

    def _kept(self, places):
        return [self.builder.fmul(self.keep, value, flags=CONTRACT) for value in self.load(places)]


def _numpy_product(packed_matrix):
    """Make the same in NumPy; packed_matrix(numbers, rows, inner) is M."""

    def run(rows, vectors, out, x, packed, width, inner, keep):
        samples = vectors * lanes(out.array.dtype)
        target, source = (matrix_at(span, (n, samples), (width, 1)) for span, n in ((out, rows), (x, inner)))
        numbers = packed.array[packed.start : packed.start + rows * inner]
        target[:] = keep * target + packed_matrix(numbers, rows, inner) @ source

    return run


def _compiled_product(emit):
    """Make the product an intrinsic; emit(a `_Product`)."""

    @intrinsic
    def run(typingctx, rows, vectors, out, x, packed, width, inner, keep):
        index, dtype = types.intp, element_dtype(out)
        signature = types.void(index, index, out, x, packed, index, index, dtype)

        def generate(context, builder, sig, values):
            rows, vectors, *spans, width, inner, keep = values
            pointers = [
                span_pointer(context, builder, *pair) for pair in zip((out, x, packed), spans, strict=True)
            ]
            emit(_Product(builder, dtype, (rows, vectors, width, inner), pointers, keep))
            return context.get_dummy_value()

        return signature, generate

    return run


if JIT_DISABLED:
    _tile = _numpy_product(lambda numbers, rows, inner: numbers.reshape(inner, rows).T)
    _row_by_row = _numpy_product(lambda numbers, rows, inner: numbers.reshape(rows, inner))
else:
    _tile, _row_by_row = _compiled_product(_Product.emit_tile), _compiled_product(_Product.emit_rows)

_lanes = number_of_dtype(lanes)


@jit_uncounted
def advance(out, out_start, rows, x, x_start, inner, packed, packed_start, width, keep):
    """Write out = keep out + M x: out (rows, width), x (inner, width) and the packed M (rows, inner) in flat arrays."""
    samples = TILE_VECTORS * _lanes(out)
    tiles = 1 if inner <= FEW else (rows + TILE_ROWS - 1) // TILE_ROWS
    for tile in range(tiles):
        first, last = rows * tile // tiles, rows * (tile + 1) // tiles
        begin, numbers, count = (
            out_start + first * width,
            at(packed, packed_start + first * inner),
            last - first,
        )
        for column in range(0, width, samples):
            vectors = min(samples, width - column) // _lanes(out)
            part, seen = at(out, begin + column), at(x, x_start + column)
            if inner <= FEW:
                _row_by_row(count, vectors, part, seen, numbers, width, inner, keep)
            else:
                _tile(count, vectors, part, seen, numbers, width, inner, keep)
