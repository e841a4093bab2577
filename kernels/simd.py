"""Vector code from plain Python formulas.

A formula such as `def f(x, y): return x * y + 1.0` is written once, on values that support arithmetic. `elementwise`
turns it into a loop over arrays that compiled code can call: the formula is traced with `Vector` values, each of which
emits one packed machine instruction, so that vectorisation does not depend on what the compiler can prove. Where the
compiler is switched off (NUMBA_DISABLE_JIT=1) the same formula runs on NumPy arrays.

`formula_loops` compiles formulas that are only known at run time, such as an activation of the user's, into functions that
kernels call by address.
"""

from typing import ClassVar

import numpy as np
from llvmlite import ir
from numba import types

from dfc_numba.kernels.emit import (
    CONTRACT,
    REGISTER_BYTES,
    WORD,
    Tile,
    call_packed,
    element_dtype,
    emit_loop,
    span_pointer,
    splat,
    with_signature,
)
from dfc_numba.kernels.jit import JIT_DISABLED


class FormulaError(TypeError):
    """A formula uses something that cannot be traced."""


_SCALAR_ONLY = (
    "a formula is traced once, for all values at a time: {0}; write where(condition, yes, no), and take functions from "
    "dfc_numba.formulas"
)


class Mask:
    """Packed truth values in the code that is being emitted: what a comparison of `Vector` values gives."""

    __array_ufunc__ = None

    def __init__(self, like, value):
        self.like = like
        self.value = value

    def _combined(self, other, emit):
        if not isinstance(other, Mask):
            raise FormulaError(f"a condition is combined with {other!r}; combine conditions with & and |")
        return Mask(self.like, emit(self.value, other.value))

    def __and__(self, other):
        return self._combined(other, self.like.builder.and_)

    def __or__(self, other):
        return self._combined(other, self.like.builder.or_)

    def __invert__(self):
        return Mask(self.like, self.like.builder.not_(self.value))

    def __bool__(self):
        raise FormulaError(
            _SCALAR_ONLY.format(
                "`if`, `and`, `or`, `not`, min() and max() have no single truth value to go by"
            )
        )


class Vector:
    """A packed value in the code that is being emitted; arithmetic on it emits instructions."""

    flags = CONTRACT
    functions: ClassVar[
        dict
    ] = {}  # name of a NumPy function -> the function of `functions` that takes its place in a formula

    def __init__(self, builder, value, dtype):
        self.builder = builder
        self.value = value
        self.dtype = np.dtype(dtype)

    def _like(self, value):
        return type(self)(self.builder, value, self.dtype)

    def _operand(self, other):
        if isinstance(other, Vector):
            return other.value
        try:
            number = float(other)
        except (TypeError, ValueError):
            raise FormulaError(f"a formula computes with {other!r}, which is not a number") from None
        return ir.Constant(self.value.type, [number] * self.value.type.count)

    def constant(self, number):
        """Return the same number in every lane."""
        return self._like(self._operand(number))

    def _binary(self, emit, left, right):
        return self._like(emit(self._operand(left), self._operand(right), flags=self.flags))

    def __add__(self, other):
        return self._binary(self.builder.fadd, self, other)

    def __radd__(self, other):
        return self._binary(self.builder.fadd, other, self)

    def __sub__(self, other):
        return self._binary(self.builder.fsub, self, other)

    def __rsub__(self, other):
        return self._binary(self.builder.fsub, other, self)

    def __mul__(self, other):
        return self._binary(self.builder.fmul, self, other)

    def __rmul__(self, other):
        return self._binary(self.builder.fmul, other, self)

    def __truediv__(self, other):
        return self._binary(self.builder.fdiv, self, other)

    def __rtruediv__(self, other):
        return self._binary(self.builder.fdiv, other, self)

    def __neg__(self):
        return self._like(self.builder.fneg(self.value))

    def __pos__(self):
        return self

    def __abs__(self):
        return self._like(call_packed(self.builder, "fabs", self.value))

    def __pow__(self, exponent):
        return self.functions["power"](self, exponent)

    def __rpow__(self, base):
        return self.functions["power"](self.constant(base), self)

    def _compared(self, operator, other):
        return Mask(self, self.builder.fcmp_ordered(operator, self.value, self._operand(other)))

    def __lt__(self, other):
        return self._compared("<", other)

    def __gt__(self, other):
        return self._compared(">", other)

    def __le__(self, other):
        return self._compared("<=", other)

    def __ge__(self, other):
        return self._compared(">=", other)

    def __bool__(self):
        raise FormulaError(_SCALAR_ONLY.format("`if`, `and` and `or` cannot branch on a value"))

    def __float__(self):
        raise FormulaError(_SCALAR_ONLY.format("float() and the functions of `math` take single numbers"))

    __int__ = __index__ = __float__

    def __array__(self, *_, **__):
        raise FormulaError(_SCALAR_ONLY.format("NumPy cannot make an array of a traced value"))

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        if method != "__call__" or options or ufunc.__name__ not in self.functions:
            raise FormulaError(_SCALAR_ONLY.format(f"numpy.{ufunc.__name__} is not available"))
        return self.functions[ufunc.__name__](*inputs)


class RoundedVector(Vector):
    """The same, of which every operation is rounded on its own: the same bits on every processor."""

    flags = (
        "nsz",
    )  # numba gives operations without any flag those of the whole kernel; this one changes no number


def rounded_each(x):
    """Return the value, with arithmetic that rounds every operation on its own."""
    return RoundedVector(x.builder, x.value, x.dtype) if isinstance(x, Vector) else x


class Words:
    """A packed value of 32-bit words, each in a 64-bit lane, in the code that is being emitted: two registers.

    A chain of products leaves the processor waiting; two chains in step fill the gaps of each other.
    """

    lanes = 2 * REGISTER_BYTES // 8
    kind = ir.VectorType(ir.IntType(64), lanes)

    def __init__(self, builder, value):
        self.builder = builder
        self.value = value

    @classmethod
    def splat(cls, builder, scalar):
        """Return the same 64-bit scalar in every lane."""
        empty, first = ir.Constant(cls.kind, ir.Undefined), ir.Constant(WORD, 0)
        mask = ir.Constant(ir.VectorType(WORD, cls.lanes), [0] * cls.lanes)
        return cls(builder, builder.shuffle_vector(builder.insert_element(empty, scalar, first), empty, mask))

    @classmethod
    def counting(cls, builder, first):
        """Return first, first + 1, ... across the lanes."""
        return cls(
            builder,
            builder.add(cls.splat(builder, first).value, ir.Constant(cls.kind, list(range(cls.lanes)))),
        )

    def _operand(self, other):
        return other.value if isinstance(other, Words) else ir.Constant(self.kind, [int(other)] * self.lanes)

    def __mul__(self, other):
        return Words(self.builder, self.builder.mul(self.value, self._operand(other)))

    def __add__(self, other):
        return Words(self.builder, self.builder.add(self.value, self._operand(other)))

    def __xor__(self, other):
        return Words(self.builder, self.builder.xor(self.value, self._operand(other)))

    def __and__(self, other):
        return Words(self.builder, self.builder.and_(self.value, self._operand(other)))

    def __rshift__(self, other):
        return Words(self.builder, self.builder.lshr(self.value, self._operand(other)))

    def to_single(self, signed):
        """Return the words as single-precision numbers, as many as there are lanes."""
        words = self.builder.trunc(self.value, ir.VectorType(WORD, self.lanes))
        convert = self.builder.sitofp if signed else self.builder.uitofp
        return convert(words, ir.VectorType(ir.FloatType(), self.lanes))


def _bits_type(x):
    return ir.VectorType(ir.IntType(8 * x.dtype.itemsize), x.value.type.count)


# --- operations beyond arithmetic, on Vector values and NumPy arrays alike -----------------------------------------


def select(condition, yes, no):
    """Return, elementwise, `yes if condition else no`. A comparison with NaN is false: let `no` be the operand to be kept."""
    if not isinstance(condition, Mask):
        return np.where(condition, yes, no)
    like = condition.like
    return like._like(like.builder.select(condition.value, like._operand(yes), like._operand(no)))


def clamp(x, low, high):
    """Limit x to [low, high]; NaN stays NaN."""
    x = select(x < low, low, x)
    return select(x > high, high, x)


def square_root(x):
    """Return the elementwise square root."""
    if not isinstance(x, Vector):
        return np.sqrt(x)
    return x._like(call_packed(x.builder, "sqrt", x.value))


def round_to_integer(x):
    """Round to the nearest integer, still a floating-point number; |x| must stay below 2**22 (float32) or 2**51."""
    if not isinstance(x, Vector):
        return np.rint(x)
    magic = ir.Constant(x.value.type, [1.5 * 2.0 ** np.finfo(x.dtype).nmant] * x.value.type.count)
    return x._like(x.builder.fsub(x.builder.fadd(x.value, magic), magic))


def power_of_two(n):
    """Return 2**n for integral-valued n in the range of normal numbers, by writing the exponent field."""
    if not isinstance(n, Vector):
        return np.ldexp(np.ones_like(n), np.nan_to_num(n).astype(np.int32))
    info = np.finfo(n.dtype)
    magic = ir.Constant(n.value.type, [1.5 * 2.0**info.nmant + (1 - info.minexp)] * n.value.type.count)
    shift = ir.Constant(_bits_type(n), [info.nmant] * n.value.type.count)
    bits = n.builder.bitcast(n.builder.fadd(n.value, magic), _bits_type(n))
    return n._like(n.builder.bitcast(n.builder.shl(bits, shift), n.value.type))


def split_exponent(x):
    """Return (m, n) with x = m * 2**n and m in [sqrt(1/2), sqrt(2)), for positive normal x."""
    if not isinstance(x, Vector):
        m, n = np.frexp(x)
        small = m < np.sqrt(0.5)
        return np.where(small, 2 * m, m).astype(x.dtype), (n - small).astype(x.dtype)
    builder, kind, bits = x.builder, x.value.type, _bits_type(x)
    info = np.finfo(x.dtype)

    def constant(number):
        return ir.Constant(bits, [int(number)] * x.value.type.count)

    raw = builder.bitcast(x.value, bits)
    root = constant(np.sqrt(x.dtype.type(0.5)).view(f"i{x.dtype.itemsize}"))
    n = builder.ashr(builder.sub(raw, root), constant(info.nmant))
    mantissa = builder.bitcast(builder.sub(raw, builder.shl(n, constant(info.nmant))), kind)
    return x._like(mantissa), x._like(builder.sitofp(n, kind))


def polynomial(x, coefficients):
    """Evaluate a polynomial by Horner's scheme; at least two `coefficients`, from the constant term upwards."""
    result = coefficients[-1] * x + coefficients[-2]
    for coefficient in reversed(coefficients[:-2]):
        result = result * x + coefficient
    return result


# --- loops over arrays ------------------------------------------------------------------------------------------------


class Argument:
    """An array argument of a loop as declared: "name", or "name*k" for k planes of as many elements that follow each other."""

    def __init__(self, declared):
        self.name, _, planes = declared.partition("*")
        self.planes = int(planes or 1)

    def slices(self, span, count):
        """Return the planes that lie at a span, as NumPy slices."""
        starts = (span.start + plane * count for plane in range(self.planes))
        return [span.array[start : start + count] for start in starts]


def _numpy_version(formula, outputs, inputs):
    """Make the same loop on NumPy slices."""

    def run(count, *values):
        spans = dict(zip([*outputs, *inputs], values, strict=False))
        targets, sources = (
            [part for argument in group for part in argument.slices(spans[argument], count)]
            for group in (outputs, inputs)
        )
        scalars = [sources[0].dtype.type(value) for value in values[len(spans) :]]
        results = formula(*sources, *scalars)
        for target, result in zip(
            targets, results if isinstance(results, tuple) else (results,), strict=True
        ):
            target[:] = result

    return run


def _emit_elementwise(builder, formula, outputs, inputs, dtype, registers, count, pointers, scalars):
    """Emit the loop of `elementwise`."""
    tile, bases = Tile(builder, dtype, registers), []
    for argument, pointer in zip(outputs + inputs, pointers, strict=True):
        bases += [tile.offset(pointer, plane, count) for plane in range(argument.planes)]
    written = sum(argument.planes for argument in outputs)
    scalars = [Vector(builder, splat(builder, value, registers), str(dtype)) for value in scalars]

    def body(index):
        places = [place for base in bases for place in tile.registers(tile.offset(base, index), 1)]
        loaded = [Vector(builder, value, str(dtype)) for value in tile.load(places[written:])]
        results = formula(*loaded, *scalars)
        results = results if isinstance(results, tuple) else (results,)
        tile.store([result.value for result in results], places[:written])

    emit_loop(builder, count, tile.lanes, body)


def elementwise(outputs, inputs, scalars=(), *, registers=1):
    """Make a formula into `f(count, output, ..., input, ..., scalar, ...)` for compiled code.

    Outputs and inputs are `Span`s of arrays of one floating dtype. An output may be the same span as an input. "name*k"
    declares k planes of `count` elements, one behind the other. The formula takes inputs, then scalars, and returns its
    output or a tuple of them.

    Args:
        registers: how many a long formula takes in step, so that the processor works on one while it waits for another;
            `count` is a multiple of what they hold.
    """
    outputs, inputs = [Argument(name) for name in outputs], [Argument(name) for name in inputs]
    arguments = outputs + inputs

    def decorate(formula):
        if JIT_DISABLED:
            return _numpy_version(formula, outputs, inputs)

        def definition(typingctx, count, *values):
            spans, dtype = values[: len(arguments)], element_dtype(values[0])
            signature = types.void(types.intp, *spans, *([dtype] * len(scalars)))

            def generate(context, builder, sig, values):
                count, *values = values
                pointers = [
                    span_pointer(context, builder, *pair) for pair in zip(spans, values, strict=False)
                ]
                numbers = values[len(spans) :]
                _emit_elementwise(
                    builder, formula, outputs, inputs, dtype, registers, count, pointers, numbers
                )
                return context.get_dummy_value()

            return signature, generate

        names = ["count", *(argument.name for argument in arguments), *scalars]
        definition.__doc__ = formula.__doc__
        return with_signature(definition, formula.__name__, names)

    return decorate
