"""Products with weights that change as they are used: one sweep applies an update and takes the product.

    W <- keep W + sum over samples of post pre^T,        out += x W^T

A block of weights stays in vector registers while all samples take their part of the product, after the change that all
of them want has been summed up there, so that W is read and written once, however many samples there are, and rounded
once. It is packed as in `multiply`. Changes are summed in the order of the samples, products in the order of the blocks: a
sample's product depends on the others through W alone, and an update that is applied without a product leaves the same
bits.
"""

from functools import partial

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from dfc_numba.kernels.jit import JIT_DISABLED, jit
from dfc_numba.kernels.multiply import TILE_ROWS, TILE_VECTORS, panel_width
from dfc_numba.kernels.simd import (
    CONTRACT,
    FUSED_MULTIPLY_ADD,
    INDEX,
    call_packed,
    data_pointer,
    emit_loop,
    lanes,
    splat,
    vector_type,
)

BLOCK_SIZES = (TILE_ROWS[0], 1)  # inner indices whose weights are in registers at a time


class _LearningPanel:
    """Emits the sweep over one panel of packed weights, block by block."""

    def __init__(self, context, builder, signature, values):
        def pointer(argument):
            array = data_pointer(context, builder, signature.args[argument], values[argument])
            return builder.gep(array, [values[argument + 1]])

        dtype = np.dtype(str(signature.args[0].dtype))
        self.builder, self.itemsize, self.lanes = builder, dtype.itemsize, lanes(dtype)
        self.kind = vector_type(dtype)
        self.packed, self.post, self.pre, self.x, self.out = map(pointer, (0, 3, 6, 10, 13))
        self.keep, self.post_stride, self.pre_stride = splat(builder, values[2]), values[5], values[8]
        self.learners, self.x_stride, self.out_stride = values[9], values[12], values[15]
        self.rows, self.inner = values[16:]

    def emit(self):
        """Blocks of the larger size while they fit, then the remaining indices one by one."""
        first = None
        for size in BLOCK_SIZES:
            first, _ = emit_loop(self.builder, self.inner, size, partial(self._block, size), first=first)

    def _block(self, size, k):
        builder, width = self.builder, ir.Constant(INDEX, TILE_VECTORS * self.lanes)
        start = builder.gep(self.packed, [builder.mul(k, width)])
        places = self._vectors(start, size * TILE_VECTORS)
        nothing = [ir.Constant(self.kind, [0.0] * self.lanes)] * len(places)
        _, changes = emit_loop(builder, self.learners, 1, partial(self._learn, k), carried=nothing)
        weights = [
            self._multiply_add(self.keep, w, d) for w, d in zip(self._load(places), changes, strict=True)
        ]
        with builder.if_then(builder.icmp_signed(">", self.learners, ir.Constant(INDEX, 0))):
            self._store(weights, places)
        emit_loop(builder, self.rows, 1, partial(self._add_product, k, weights))

    def _learn(self, k, sample, *changes):
        """The changes of a block's weights with the part of one sample."""
        post = self._load(self._vectors(self._row(self.post, sample, self.post_stride), TILE_VECTORS))
        pre = self._elements(self._row(self.pre, sample, self.pre_stride), k, len(changes) // TILE_VECTORS)
        return [
            self._multiply_add(pre[m // TILE_VECTORS], post[m % TILE_VECTORS], d)
            for m, d in enumerate(changes)
        ]

    def _add_product(self, k, weights, sample):
        """out += what the inner indices of a block contribute for one sample, summed up among themselves before."""
        builder = self.builder
        x = self._elements(self._row(self.x, sample, self.x_stride), k, len(weights) // TILE_VECTORS)
        sums = [builder.fmul(x[0], w, flags=CONTRACT) for w in weights[:TILE_VECTORS]]
        for m, w in enumerate(weights[TILE_VECTORS:], TILE_VECTORS):
            j = m % TILE_VECTORS
            sums[j] = self._multiply_add(x[m // TILE_VECTORS], w, sums[j])
        places = self._vectors(self._row(self.out, sample, self.out_stride), TILE_VECTORS)
        totals = [
            builder.fadd(old, new, flags=CONTRACT) for old, new in zip(self._load(places), sums, strict=True)
        ]
        self._store(totals, places)

    def _row(self, pointer, sample, stride):
        return self.builder.gep(pointer, [self.builder.mul(sample, stride)])

    def _elements(self, row, k, count):
        """`count` elements of a row from k on, each in all lanes."""
        builder = self.builder
        start = builder.gep(row, [k])
        return [
            splat(builder, builder.load(builder.gep(start, [ir.Constant(INDEX, m)]))) for m in range(count)
        ]

    def _vectors(self, start, count):
        """Pointers to `count` vectors in a row."""
        builder = self.builder
        places = (builder.gep(start, [ir.Constant(INDEX, j * self.lanes)]) for j in range(count))
        return [builder.bitcast(place, self.kind.as_pointer()) for place in places]

    def _load(self, places):
        return [self.builder.load(place, align=self.itemsize) for place in places]

    def _store(self, values, places):
        for value, place in zip(values, places, strict=True):
            self.builder.store(value, place, align=self.itemsize)

    def _multiply_add(self, x, y, z):
        if FUSED_MULTIPLY_ADD:
            return call_packed(self.builder, "fma", x, y, z)
        return self.builder.fadd(self.builder.fmul(x, y, flags=CONTRACT), z, flags=CONTRACT)


def _numpy_sweep(
    packed, packed_start, keep, post, post_start, post_stride, pre, pre_start, pre_stride, learners,
    x, x_start, x_stride, out, out_start, out_stride, rows, inner,
):  # fmt: skip
    """The sweep over one panel in NumPy."""
    width = panel_width(packed.dtype)

    def matrix(array, start, shape, stride):
        strides = stride * array.itemsize, array.itemsize
        return np.lib.stride_tricks.as_strided(array[start:], shape, strides)

    weights = matrix(packed, packed_start, (inner, width), width)
    if learners > 0:
        post = matrix(post, post_start, (learners, width), post_stride)
        pre = matrix(pre, pre_start, (learners, inner), pre_stride)
        weights[:] = packed.dtype.type(keep) * weights + pre.T @ post
    matrix(out, out_start, (rows, width), out_stride)[:] += (
        matrix(x, x_start, (rows, inner), x_stride) @ weights
    )


def _compiled_sweep():
    @intrinsic
    def sweep(
        typingctx, packed, packed_start, keep, post, post_start, post_stride, pre, pre_start, pre_stride, learners,
        x, x_start, x_stride, out, out_start, out_stride, rows, inner,
    ):  # fmt: skip
        index = types.intp
        signature = types.void(
            packed, index, packed.dtype, post, index, index, pre, index, index, index,
            x, index, index, out, index, index, index, index,
        )  # fmt: skip

        def generate(context, builder, sig, values):
            _LearningPanel(context, builder, sig, values).emit()
            return context.get_dummy_value()

        return signature, generate

    return sweep


_sweep = _numpy_sweep if JIT_DISABLED else _compiled_sweep()


def _width(array):
    return panel_width(array.dtype)


@overload(_width)
def _compiled_width(array):
    width = panel_width(str(array.dtype))
    return lambda array: width


@jit
def learn_and_multiply(
    packed, start, keep, post, post_start, pre, pre_start, pre_stride, learners,
    x, x_start, x_stride, out, out_start, out_stride, rows, inner,
):  # fmt: skip
    """W <- keep W + sum of post pre^T over `learners` samples, then out += x W^T for `rows` samples.

    Args:
        packed: W (outputs, inner), from `layout.pack`, beginning at `start`; untouched for learners = 0.
        post: rows of the stride of `out`; pre, x: rows of at least `inner` elements.
        out: rows of out_stride units, padding included.
    """
    width = _width(packed)
    kept = keep if learners > 0 else 1.0
    for column in range(0, out_stride - width + 1, width):
        _sweep(
            packed, start + column * inner, kept, post, post_start + column, out_stride,
            pre, pre_start, pre_stride, learners, x, x_start, x_stride,
            out, out_start + column, out_stride, rows, inner,
        )  # fmt: skip
