"""The emitter: registers of this processor, pointers into arrays, loops, and tiles of numbers that stay in registers.

Everything that writes LLVM code writes it with what is here: packed loops from formulas (`simd`, `formula_loops`), copies
(`rows`), random words (`noise`), and the matrix products (`multiply`, `plastic`, `columns`), whose blocks are `Tile`s.
Kernels name a place in an array by a `Span`, which they hand over as one argument and the emitted code takes apart.
"""

import inspect
import platform
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic, overload

from dfc_numba.kernels.jit import JIT_DISABLED
from dfc_numba.kernels.numba_internals import get_host_cpu_features, get_or_insert_function, impl_ret_borrowed

INDEX, WORD = ir.IntType(64), ir.IntType(32)
CONTRACT = ("contract",)
AVX = {"avx", "avx2", "fma", "f16c"}  # each brings AVX, which a list of features need not name then

# --- the registers of this processor ------------------------------------------------------------------------------------


def _features():
    """Return the names of the processor's features that the compiler may use (NUMBA_CPU_FEATURES, else the host's)."""
    chosen = config.CPU_FEATURES
    listed = get_host_cpu_features() if chosen is None else chosen
    return {name[1:] for name in listed.split(",") if name.startswith("+")}


def _register_bytes(features):
    """Return the width of the vector registers in bytes; wider vectors would only be split."""
    if "avx512f" in features:
        return 64
    return 32 if AVX & features else 16


_ARM = platform.machine().lower() in ("arm64", "aarch64")
REGISTER_BYTES = _register_bytes(_features())
MANY_REGISTERS = REGISTER_BYTES == 64 or _ARM
FUSED_MULTIPLY_ADD = _ARM or not {"fma", "avx512f"}.isdisjoint(_features())


def lanes(dtype):
    """Return the number of elements of `dtype` in one vector register."""
    return REGISTER_BYTES // np.dtype(dtype).itemsize


def number_of_dtype(function):
    """Make function(dtype) into a function of an array, which compiled code replaces by the number."""

    def number(array):
        return function(array.dtype)

    @overload(number)
    def compiled_number(array):
        value = function(str(array.dtype))
        return lambda array: value

    return number


# --- packed values ------------------------------------------------------------------------------------------------------


def scalar_type(dtype):
    """Return the LLVM type of one element of `dtype`."""
    return ir.DoubleType() if np.dtype(dtype).itemsize == 8 else ir.FloatType()


def vector_type(dtype, registers=1):
    """Return the LLVM type of one register of `dtype`, or of several as one value."""
    return ir.VectorType(scalar_type(dtype), registers * lanes(dtype))


def splat(builder, scalar, registers=1):
    """Broadcast a scalar to all lanes of a register, or of several."""
    dtype = "f8" if isinstance(scalar.type, ir.DoubleType) else "f4"
    empty = ir.Constant(vector_type(dtype, registers), ir.Undefined)
    first = builder.insert_element(empty, scalar, ir.Constant(WORD, 0))
    mask = ir.Constant(ir.VectorType(WORD, registers * lanes(dtype)), [0] * registers * lanes(dtype))
    return builder.shuffle_vector(first, empty, mask)


def call_packed(builder, name, *values):
    """Call an LLVM intrinsic such as `fma` or `sqrt` on packed values, or on scalars."""
    kind = values[0].type
    lanes, element = (f"v{kind.count}", kind.element) if isinstance(kind, ir.VectorType) else ("", kind)
    suffix = f"{lanes}f{64 if isinstance(element, ir.DoubleType) else 32}"
    declared = ir.FunctionType(kind, [kind] * len(values))
    return builder.call(get_or_insert_function(builder.module, declared, f"llvm.{name}.{suffix}"), values)


def multiply_add(builder, x, y, z):
    """Emit x y + z of packed values or scalars, rounded once where the processor can."""
    if FUSED_MULTIPLY_ADD:
        return call_packed(builder, "fma", x, y, z)
    return builder.fadd(builder.fmul(x, y, flags=CONTRACT), z, flags=CONTRACT)


@intrinsic
def _compiled_fused(typingctx, x, y, z):
    def generate(context, builder, sig, values):
        return multiply_add(builder, *values)

    return types.float64(*[types.float64] * 3), generate


# x y + z of numbers in float64, rounded once where the processor can; of a sum of two products, it says which is not rounded
fused = (lambda x, y, z: x * y + z) if JIT_DISABLED else _compiled_fused


# --- places in arrays ---------------------------------------------------------------------------------------------------


class Span(NamedTuple):
    """A place in a flat array: the elements from `start` on."""

    array: np.ndarray
    start: int


class Rows(NamedTuple):
    """Rows in a flat array, from `start` on, one every `stride` elements."""

    array: np.ndarray
    start: int
    stride: int


def _constructor(place):
    """Return the constructor of a `Span` or of `Rows` for compiled code: numbers become indices, whatever their type."""
    if JIT_DISABLED:
        return place
    numbers = [types.intp] * (len(place._fields) - 1)

    def definition(typingctx, array, *_):
        made = types.NamedTuple((array, *numbers), place)

        def generate(context, builder, sig, values):
            return impl_ret_borrowed(context, builder, made, context.make_tuple(builder, made, values))

        return made(array, *numbers), generate

    return with_signature(definition, place.__name__, place._fields)


def with_signature(definition, name, arguments):
    """Make the definition of an intrinsic of any number of arguments into one with arguments of these names."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    names = ["typingctx", *arguments]
    definition.__signature__ = inspect.Signature([inspect.Parameter(item, kind) for item in names])
    definition.__name__ = definition.__qualname__ = name
    return intrinsic(definition)


at, rows_at = _constructor(Span), _constructor(Rows)


def element_dtype(span):
    """Return the numba type of the elements of a `Span` or of `Rows`."""
    return span.types[0].dtype


def data_pointer(context, builder, array_type, array):
    """Return a pointer to the first element of an array argument."""
    return context.make_array(array_type)(context, builder, array).data


def span_pointer(context, builder, span_type, span):
    """Return a pointer to the first element of a `Span` or of `Rows`."""
    array, start = (builder.extract_value(span, k) for k in range(2))
    return builder.gep(data_pointer(context, builder, span_type.types[0], array), [start])


def matrix_at(span, shape, strides):
    """Return what lies at a span as a NumPy matrix with strides in elements, for code without the compiler."""
    strides = [stride * span.array.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(span.array[span.start :], shape, strides)


# --- loops --------------------------------------------------------------------------------------------------------------


def emit_loop(builder, count, step, emit_body, *, first=None, carried=()):
    """Emit `for i in range(first, count - step + 1, step): carried = emit_body(i, *carried)`.

    Returns:
        the index after the last whole step, and the list of carried values.
    """
    first, step = ir.Constant(INDEX, 0) if first is None else first, ir.Constant(INDEX, step)
    head, body, end = (builder.append_basic_block() for _ in range(3))
    before = builder.basic_block
    builder.branch(head)
    builder.position_at_end(head)
    index, phis = builder.phi(INDEX), [builder.phi(value.type) for value in carried]
    after = builder.add(index, step)
    builder.cbranch(builder.icmp_signed("<=", after, count), body, end)
    builder.position_at_end(body)
    results = emit_body(index, *phis) or ()
    for phi, start, result in zip([index, *phis], [first, *carried], [after, *results], strict=True):
        phi.add_incoming(start, before)
        phi.add_incoming(result, builder.basic_block)
    builder.branch(head)
    builder.position_at_end(end)
    return index, phis


class Tile:
    """Code for a block of numbers of one dtype that stays in registers: its pointers, loads, stores and multiply-adds.

    What it calls a register may be several that are treated as one.
    """

    def __init__(self, builder, dtype, registers=1):
        dtype = np.dtype(str(dtype))
        self.builder, self.itemsize = builder, dtype.itemsize
        self.kind, self.lanes = vector_type(dtype, registers), registers * lanes(dtype)
        self.zero = ir.Constant(self.kind, [0.0] * self.lanes)

    def offset(self, pointer, count, stride=None):
        """Return the pointer, `count` elements or rows of a stride further on; count: an LLVM value or a number."""
        index = ir.Constant(INDEX, count) if isinstance(count, int) else count
        return self.builder.gep(pointer, [index if stride is None else self.builder.mul(index, stride)])

    def registers(self, start, count):
        """Return pointers to `count` registers that follow each other."""
        places = (self.offset(start, j * self.lanes) for j in range(count))
        return [self.builder.bitcast(place, self.kind.as_pointer()) for place in places]

    def load(self, places):
        """Load the registers at some places."""
        return [self.builder.load(place, align=self.itemsize) for place in places]

    def store(self, values, places):
        """Store registers at their places."""
        for value, place in zip(values, places, strict=True):
            self.builder.store(value, place, align=self.itemsize)

    def spread(self, pointer):
        """Load the element at a pointer into all lanes."""
        return splat(self.builder, self.builder.load(pointer))

    def multiply_add(self, x, y, z):
        """Emit x y + z."""
        return multiply_add(self.builder, x, y, z)
