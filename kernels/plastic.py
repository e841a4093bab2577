"""Products with weights that change as they are used: one sweep applies an update and takes the product.

    W <- keep W + sum over samples of post pre^T,        out += x W^T

A block of weights stays in vector registers while all samples take their part of the product, after the change that all
of them want has been summed up there, so that W is read and written once, however many samples there are, and rounded
once. It is packed as in `multiply`. Changes are summed in the order of the samples, products in the order of the blocks: a
sample's product depends on the others through W alone, and an update that is applied without a product leaves the same
bits.
"""

from functools import partial

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from dfc_numba.kernels.emit import (
    CONTRACT,
    INDEX,
    Tile,
    element_dtype,
    emit_loop,
    matrix_at,
    rows_at,
    span_pointer,
    splat,
)
from dfc_numba.kernels.jit import JIT_DISABLED, jit_uncounted
from dfc_numba.kernels.multiply import TILE_ROWS, TILE_VECTORS, _width

BLOCK_SIZES = (TILE_ROWS[0], 1)  # inner indices whose weights are in registers at a time


class _LearningPanel(Tile):
    """Emits the sweep over one panel of W; see `learn_and_multiply`."""

    def __init__(self, builder, dtype, pointers, strides, keep, counts):
        super().__init__(builder, dtype)
        self.packed, self.post, self.pre, self.x, self.out = pointers
        self.width, self.post_stride, self.pre_stride, self.x_stride, self.out_stride = strides
        self.keep = splat(builder, keep)
        self.learners, self.rows, self.inner = counts

    def emit(self):
        """Emit blocks of the larger size while they fit, then the remaining indices one by one."""
        first = None
        for size in BLOCK_SIZES:
            first, _ = emit_loop(self.builder, self.inner, size, partial(self._block, size), first=first)

    def _block(self, size, k):
        places = self.registers(self.offset(self.packed, k, self.width), size * TILE_VECTORS)
        nothing = [self.zero] * len(places)
        _, changes = emit_loop(self.builder, self.learners, 1, partial(self._learn, k), carried=nothing)
        pairs = zip(self.load(places), changes, strict=True)
        weights = [self.multiply_add(self.keep, w, change) for w, change in pairs]
        with self.builder.if_then(self.builder.icmp_signed(">", self.learners, ir.Constant(INDEX, 0))):
            self.store(weights, places)
        emit_loop(self.builder, self.rows, 1, partial(self._add_product, k, weights))

    def _learn(self, k, sample, *changes):
        """Return the changes of a block's weights with the part of one sample."""
        post = self.load(self.registers(self.offset(self.post, sample, self.post_stride), TILE_VECTORS))
        pre = self._elements(self.offset(self.pre, sample, self.pre_stride), k, len(changes) // TILE_VECTORS)
        return [
            self.multiply_add(pre[m // TILE_VECTORS], post[m % TILE_VECTORS], change)
            for m, change in enumerate(changes)
        ]

    def _add_product(self, k, weights, sample):
        """Add what a block's inner indices contribute for one sample to `out`, summed up among themselves before."""
        builder = self.builder
        x = self._elements(self.offset(self.x, sample, self.x_stride), k, len(weights) // TILE_VECTORS)
        sums = [builder.fmul(x[0], w, flags=CONTRACT) for w in weights[:TILE_VECTORS]]
        for m, w in enumerate(weights[TILE_VECTORS:], TILE_VECTORS):
            j = m % TILE_VECTORS
            sums[j] = self.multiply_add(x[m // TILE_VECTORS], w, sums[j])
        places = self.registers(self.offset(self.out, sample, self.out_stride), TILE_VECTORS)
        pairs = zip(self.load(places), sums, strict=True)
        self.store([builder.fadd(old, new, flags=CONTRACT) for old, new in pairs], places)

    def _elements(self, row, k, count):
        """Return `count` elements of a row from k on, each in all lanes."""
        start = self.offset(row, k)
        return [self.spread(self.offset(start, m)) for m in range(count)]


def _numpy_sweep(packed, keep, post, pre, learners, x, out, rows, inner):
    """Do the sweep over one panel in NumPy."""
    width = packed.stride
    weights = matrix_at(packed, (inner, width), (width, 1))
    if learners > 0:
        changes = matrix_at(pre, (learners, inner), (pre.stride, 1)).T @ matrix_at(
            post, (learners, width), (post.stride, 1)
        )
        weights[:] = packed.array.dtype.type(keep) * weights + changes
    products = matrix_at(x, (rows, inner), (x.stride, 1)) @ weights
    matrix_at(out, (rows, width), (out.stride, 1))[:] += products


def _compiled_sweep():
    @intrinsic
    def sweep(typingctx, packed, keep, post, pre, learners, x, out, rows, inner):
        index = types.intp
        signature = types.void(packed, element_dtype(packed), post, pre, index, x, out, index, index)

        def generate(context, builder, sig, values):
            keep, learners, rows, inner = (values[k] for k in (1, 4, 7, 8))
            operands = [(sig.args[k], values[k]) for k in (0, 2, 3, 5, 6)]
            pointers = [span_pointer(context, builder, *pair) for pair in operands]
            strides = [builder.extract_value(value, 2) for _, value in operands]
            panel = _LearningPanel(
                builder, element_dtype(packed), pointers, strides, keep, (learners, rows, inner)
            )
            panel.emit()
            return context.get_dummy_value()

        return signature, generate

    return sweep


_sweep = _numpy_sweep if JIT_DISABLED else _compiled_sweep()


@jit_uncounted
def learn_and_multiply(packed, keep, post, pre, learners, x, out, rows, inner):
    """Write W <- keep W + sum of post pre^T over `learners` samples, then out += x W^T for `rows` samples.

    Args:
        packed: `Span` of W (outputs, inner), from `layout.pack`; untouched for learners = 0.
        post, out: `Rows` of as many elements as their common stride, padding included.
        pre, x: `Rows` of at least `inner` elements.
    """
    width = _width(packed.array)
    kept = keep if learners > 0 else 1.0
    for column in range(0, out.stride - width + 1, width):
        _sweep(
            rows_at(packed.array, packed.start + column * inner, width), kept,
            rows_at(post.array, post.start + column, post.stride), pre, learners,
            x, rows_at(out.array, out.start + column, out.stride), rows, inner,
        )  # fmt: skip
