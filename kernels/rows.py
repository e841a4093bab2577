"""Copies between pieces of flat arrays, with a change of dtype where they differ, and their inner products.

They are emitted as loops over plain pointers: a slice would be an object of its own, whose references are counted.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from dfc_numba.kernels.emit import CONTRACT, WORD, Tile, data_pointer, emit_loop
from dfc_numba.kernels.jit import JIT_DISABLED, jit_part


def _numpy_copy(accumulate):
    """Make the same in NumPy."""

    def copy(count, out, out_start, x, x_start):
        target, source = out[out_start : out_start + count], x[x_start : x_start + count]
        target[:] = target + source if accumulate else source

    return copy


def _copy(accumulate):
    if JIT_DISABLED:
        return _numpy_copy(accumulate)

    @intrinsic
    def copy(typingctx, count, out, out_start, x, x_start):
        signature = types.void(types.intp, out, types.intp, x, types.intp)

        def generate(context, builder, sig, values):
            count, target, target_start, source, source_start = values
            target = builder.gep(data_pointer(context, builder, out, target), [target_start])
            source = builder.gep(data_pointer(context, builder, x, source), [source_start])

            def body(j):
                place = builder.gep(target, [j])
                value = context.cast(builder, builder.load(builder.gep(source, [j])), x.dtype, out.dtype)
                builder.store(builder.fadd(builder.load(place), value) if accumulate else value, place)

            emit_loop(builder, count, 1, body)
            return context.get_dummy_value()

        return signature, generate

    return copy


_move, _add = _copy(accumulate=False), _copy(accumulate=True)


@jit_part
def move(count, out, out_start, x, x_start):
    """Write out[out_start + j] = x[x_start + j] for `count` elements."""
    _move(count, out, out_start, x, x_start)


@jit_part
def add(count, out, out_start, x, x_start):
    """Add x[x_start + j] to out[out_start + j] for `count` elements."""
    _add(count, out, out_start, x, x_start)


def _numpy_fill(count, out, out_start, value):
    out[out_start : out_start + count] = value


@intrinsic
def _compiled_fill(typingctx, count, out, out_start, value):
    def generate(context, builder, sig, values):
        count, target, start, constant = values
        target = builder.gep(data_pointer(context, builder, out, target), [start])
        constant = context.cast(builder, constant, value, out.dtype)
        emit_loop(builder, count, 1, lambda j: builder.store(constant, builder.gep(target, [j])) and None)
        return context.get_dummy_value()

    return types.void(types.intp, out, types.intp, value), generate


_fill = _numpy_fill if JIT_DISABLED else _compiled_fill


@jit_part
def fill(count, out, out_start, value):
    """Write out[out_start + j] = value for `count` elements."""
    _fill(count, out, out_start, value)


def _numpy_dot(count, x, x_start, y, y_start):
    return x[x_start : x_start + count] @ y[y_start : y_start + count]


@intrinsic
def _compiled_dot(typingctx, count, x, x_start, y, y_start):
    def generate(context, builder, sig, values):
        count, first, first_start, second, second_start = values
        first = builder.gep(data_pointer(context, builder, x, first), [first_start])
        second = builder.gep(data_pointer(context, builder, y, second), [second_start])
        tile = Tile(builder, x.dtype)

        def body(j, *sums):
            left, right = (
                tile.load(tile.registers(tile.offset(array, j), len(sums))) for array in (first, second)
            )
            products = [builder.fmul(*pair, flags=CONTRACT) for pair in zip(left, right, strict=True)]
            return [builder.fadd(*pair, flags=CONTRACT) for pair in zip(sums, products, strict=True)]

        end, sums = emit_loop(builder, count, 4 * tile.lanes, body, carried=[tile.zero] * 4)
        _, sums[:1] = emit_loop(builder, count, tile.lanes, body, first=end, carried=sums[:1])
        total = builder.fadd(builder.fadd(sums[0], sums[1]), builder.fadd(sums[2], sums[3]))
        elements = [builder.extract_element(total, ir.Constant(WORD, k)) for k in range(tile.lanes)]
        while len(elements) > 1:
            elements = [builder.fadd(a, b) for a, b in zip(elements[::2], elements[1::2], strict=True)]
        return elements[0]

    return x.dtype(types.intp, x, types.intp, y, types.intp), generate


_dot = _numpy_dot if JIT_DISABLED else _compiled_dot


@jit_part
def dot(count, x, x_start, y, y_start):
    """Sum of x[x_start + j] y[y_start + j] over `count` elements, a multiple of the register width, in a fixed order."""
    return _dot(count, x, x_start, y, y_start)
