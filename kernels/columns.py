"""Matrix products of a shard whose samples lie side by side in the registers: out = keep out + M x.

`multiply` fills its registers with outputs, of which small layers have too few: 10 outputs would take a panel of 16 or 32.
Here a tile is ROWS units by two registers of samples, `[unit][sample]`, so that the sizes of the layers leave nothing
unused; the numbers of M are spread to all lanes. The tile starts from keep out, which makes the Euler step
r <- (1 - dt lambda) r + (dt M) x one product.

The matrix is cut into tiles of rows as even as possible, `packed[tile][input][row within the tile]`. The inner sum runs in
the order of its index, and samples are lanes of their own: a sample's bits do not depend on the samples beside it.
"""

from functools import partial

import numpy as np
from dfc_numba.kernels.jit import JIT_DISABLED, jit
from dfc_numba.kernels.simd import (
    CONTRACT,
    INDEX,
    MANY_REGISTERS,
    call_packed,
    data_pointer,
    emit_loop,
    lanes,
    splat,
    vector_type,
)
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

TILE_ROWS = 12 if MANY_REGISTERS else 6
TILE_VECTORS = 2


def padded_samples(count, dtype):
    """`count` rounded up to whole registers."""
    return -(-count // lanes(dtype)) * lanes(dtype)


def tile_bounds(rows):
    """First rows of the tiles, and the number of rows at the end."""
    tiles = -(-rows // TILE_ROWS)
    return [rows * t // tiles for t in range(tiles + 1)]


def pack(matrix, out):
    """Pack a matrix (rows, inner) into the flat array `out` of rows * inner elements."""
    rows, inner = matrix.shape
    bounds = tile_bounds(rows)
    for first, last in zip(bounds[:-1], bounds[1:], strict=True):
        out[first * inner : last * inner].reshape(inner, last - first)[:] = matrix[first:last].T


class _Tile:
    """Emits one tile for every number of rows and of registers that it may have."""

    def __init__(self, context, builder, signature, values):
        self.builder = builder
        dtype = np.dtype(str(signature.args[2].dtype))
        self.kind, self.itemsize, self.lanes = vector_type(dtype), dtype.itemsize, lanes(dtype)
        self.rows, self.vectors, out, out_start, x, x_start, m, m_start, self.width, self.inner, keep = values
        self.out = builder.gep(data_pointer(context, builder, signature.args[2], out), [out_start])
        self.x = builder.gep(data_pointer(context, builder, signature.args[4], x), [x_start])
        self.m = builder.gep(data_pointer(context, builder, signature.args[6], m), [m_start])
        self.keep = splat(builder, keep)

    def emit(self):
        """A branch to the code for the sizes at hand."""
        builder = self.builder
        end = builder.append_basic_block()
        sizes = [
            (rows, vectors) for vectors in range(1, TILE_VECTORS + 1) for rows in range(1, TILE_ROWS + 1)
        ]
        which = builder.add(builder.mul(self.vectors, ir.Constant(INDEX, TILE_ROWS)), self.rows)
        switch = builder.switch(which, end)
        for rows, vectors in sizes:
            block = builder.append_basic_block()
            switch.add_case(ir.Constant(INDEX, vectors * TILE_ROWS + rows), block)
            builder.position_at_end(block)
            self._tile(rows, vectors)
            builder.branch(end)
        builder.position_at_end(end)

    def _tile(self, rows, vectors):
        builder = self.builder
        places = [
            place for m in range(rows) for place in self._vectors(self.out, ir.Constant(INDEX, m), vectors)
        ]
        sums = [builder.fmul(self.keep, self._load(place), flags=CONTRACT) for place in places]
        _, sums = emit_loop(builder, self.inner, 1, partial(self._multiply_add, rows, vectors), carried=sums)
        for place, value in zip(places, sums, strict=True):
            builder.store(value, place, align=self.itemsize)

    def _vectors(self, base, row, vectors):
        """Pointers to the registers of one unit."""
        start = self.builder.gep(base, [self.builder.mul(row, self.width)])
        offsets = (ir.Constant(INDEX, j * self.lanes) for j in range(vectors))
        return [self.builder.bitcast(self.builder.gep(start, [o]), self.kind.as_pointer()) for o in offsets]

    def _load(self, place):
        return self.builder.load(place, align=self.itemsize)

    def _multiply_add(self, rows, vectors, k, *sums):
        builder = self.builder
        x = [self._load(place) for place in self._vectors(self.x, k, vectors)]
        column = builder.gep(self.m, [builder.mul(k, ir.Constant(INDEX, rows))])
        result = []
        for m in range(rows):
            element = splat(builder, builder.load(builder.gep(column, [ir.Constant(INDEX, m)])))
            result += [
                call_packed(builder, "fmuladd", element, x[j], sums[m * vectors + j]) for j in range(vectors)
            ]
        return result


def _numpy_tile(rows, vectors, out, out_start, x, x_start, packed, packed_start, width, inner, keep):
    """The same in NumPy."""

    def matrix(array, start, rows):
        strides = width * array.itemsize, array.itemsize
        return np.lib.stride_tricks.as_strided(array[start:], (rows, vectors * lanes(out.dtype)), strides)

    target, m = matrix(out, out_start, rows), packed[packed_start : packed_start + rows * inner]
    target[:] = keep * target + m.reshape(inner, rows).T @ matrix(x, x_start, inner)


@intrinsic
def _compiled_tile(
    typingctx, rows, vectors, out, out_start, x, x_start, packed, packed_start, width, inner, keep
):
    whole = types.intp
    signature = types.void(whole, whole, out, whole, x, whole, packed, whole, whole, whole, out.dtype)

    def generate(context, builder, sig, values):
        _Tile(context, builder, sig, values).emit()
        return context.get_dummy_value()

    return signature, generate


_tile = _numpy_tile if JIT_DISABLED else _compiled_tile


def _lanes(array):
    return lanes(array.dtype)


@overload(_lanes)
def _compiled_lanes(array):
    count = lanes(str(array.dtype))
    return lambda array: count


@jit
def advance(out, out_start, rows, x, x_start, inner, packed, packed_start, width, keep):
    """out = keep out + M x: out (rows, width), x (inner, width) and the packed M (rows, inner) in flat arrays."""
    register, tiles = _lanes(out), (rows + TILE_ROWS - 1) // TILE_ROWS
    for tile in range(tiles):
        first, last = rows * tile // tiles, rows * (tile + 1) // tiles
        for column in range(0, width, TILE_VECTORS * register):
            vectors = min(TILE_VECTORS, (width - column) // register)
            _tile(
                last - first, vectors, out, out_start + first * width + column, x, x_start + column,
                packed, packed_start + first * inner, width, inner, keep,
            )  # fmt: skip
