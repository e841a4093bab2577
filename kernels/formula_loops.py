"""Loops over arrays, compiled from formulas when the program runs and called by kernels through their address.

A `LoopKind` says which arrays and numbers a loop takes; `LoopKind.call(address, count, span, ..., number, ...)` is what
kernels call, `LoopKind.compile(formula, dtype)` makes the machine code of one formula and returns its address. A kernel is
therefore compiled once, whatever formulas a user adds. Machine code is kept by what it computes, the code that the trace
emits, so that the same formula under another name is compiled once; and kept on disk for other processes.

A formula takes one argument with the inputs as attributes, which are loaded where they are used, and returns its outputs
in their order, None for one that this loop does not write.
"""

import ctypes
import hashlib
from functools import cached_property
from itertools import count as numbers
from pathlib import Path

import llvmlite
import numba
import numpy as np
from llvmlite import ir
from numba import types

from dfc_numba.kernels.cache import keep_formula, kept_formula
from dfc_numba.kernels.emit import (
    INDEX,
    REGISTER_BYTES,
    Span,
    emit_loop,
    lanes,
    scalar_type,
    span_pointer,
    splat,
    with_signature,
)
from dfc_numba.kernels.jit import JIT_DISABLED
from dfc_numba.kernels.numba_internals import codegen, global_compiler_lock
from dfc_numba.kernels.simd import Argument, Vector

DOUBLE = ir.DoubleType()
PLACEHOLDER = "dfc_formula"  # name of the function while its digest is not known


class LoopKind:
    """The arguments that all loops of a kind have in common.

    Args:
        outputs, inputs: names of one-dimensional arrays of one floating dtype; "name*k" stands for k planes of `count`
            elements behind one start. scalars: names of numbers. `count` is a multiple of the register width.
    """

    def __init__(self, name, outputs, inputs, scalars=()):
        self.name, self.scalars = name, tuple(scalars)
        self.outputs, self.inputs = ([Argument(item) for item in group] for group in (outputs, inputs))

    @property
    def arguments(self):
        """Outputs and inputs."""
        return self.outputs + self.inputs

    @cached_property
    def call(self):
        """The call from compiled code: call(address, count, span, ..., scalar, ...), outputs before inputs."""
        if JIT_DISABLED:
            return lambda address, count, *values: _INTERPRETED[address](count, *values)

        def definition(typingctx, address, count, *values):
            spans = values[: len(self.arguments)]
            signature = types.void(types.intp, types.intp, *spans, *([types.float64] * len(self.scalars)))

            def generate(context, builder, sig, values):
                address, count, *values = values
                values[: len(spans)] = [
                    span_pointer(context, builder, *pair) for pair in zip(spans, values, strict=False)
                ]
                function = ir.FunctionType(ir.VoidType(), [INDEX, *(value.type for value in values)])
                builder.call(builder.inttoptr(address, function.as_pointer()), [count, *values])
                return context.get_dummy_value()

            return signature, generate

        names = ["address", "count", *(argument.name for argument in self.arguments), *self.scalars]
        return with_signature(definition, self.name, names)

    def compile(self, formula, dtype, *, compute=None):
        """Compile a formula and return the address of its machine code.

        Args:
            dtype: of the arrays. compute: of the arithmetic, float64 where rounding would matter; None for `dtype`.
        """
        dtype = np.dtype(dtype)
        compute = dtype if compute is None else np.dtype(compute)
        if JIT_DISABLED:
            return _interpreted(self, formula, compute)
        return _machine_code(*self.emitted(formula, dtype, compute))

    def trace(self, formula, dtype, compute):
        """Emit a formula without compiling it; raises what is wrong with it."""
        _emit(ir.Module(), "formula", self, formula, np.dtype(dtype), np.dtype(compute))

    @global_compiler_lock
    def emitted(self, formula, dtype, compute):
        """Return (name, text): the LLVM code of a formula, in which its function has a digest of it as name."""
        module = codegen().create_library(PLACEHOLDER).create_ir_module(PLACEHOLDER)
        _emit(module, PLACEHOLDER, self, formula, np.dtype(dtype), np.dtype(compute))
        text, surroundings = str(module), (str(codegen().magic_tuple()), str(REGISTER_BYTES))
        key = "\n".join([text, numba.__version__, llvmlite.__version__, *surroundings])
        name = "dfc_" + hashlib.sha256(key.encode()).hexdigest()
        return name, text.replace(PLACEHOLDER, name)


class _Inputs:
    """The inputs of a formula as attributes, loaded when they are first used."""

    def __init__(self, loaders):
        self._loaders, self._loaded = loaders, {}

    def __getattr__(self, name):
        if name.startswith("_") or name not in self._loaders:
            raise AttributeError(name)
        if name not in self._loaded:
            self._loaded[name] = self._loaders[name]()
        return self._loaded[name]


class _Planes:
    """Planes of one input, each loaded when it is first used."""

    def __init__(self, loaders):
        self._loaders, self._loaded = loaders, {}

    def __getitem__(self, k):
        if k not in self._loaded:
            self._loaded[k] = self._loaders[k]()
        return self._loaded[k]


def _emit(module, name, kind, formula, dtype, compute):
    """Emit void name(count, output *, ..., input *, ..., double scalar, ...)."""
    element, arguments = scalar_type(dtype), kind.arguments
    parameters = [INDEX, *[element.as_pointer()] * len(arguments), *[DOUBLE] * len(kind.scalars)]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), parameters), name)
    builder = ir.IRBuilder(function.append_basic_block())
    count, *values = function.args
    pointers, packed = values[: len(arguments)], ir.VectorType(element, lanes(compute))
    widened = ir.VectorType(scalar_type(compute), lanes(compute))
    narrow = (lambda x: x) if compute.itemsize == 8 else lambda x: builder.fptrunc(x, scalar_type(compute))
    scalars = [Vector(builder, splat(builder, narrow(value)), compute) for value in values[len(arguments) :]]

    def place(argument, plane, index):
        start = builder.add(builder.mul(count, ir.Constant(INDEX, plane)), index) if plane else index
        return builder.bitcast(builder.gep(pointers[argument], [start]), packed.as_pointer())

    def load(argument, plane, index):
        value = builder.load(place(argument, plane, index), align=dtype.itemsize)
        return Vector(builder, value if dtype == compute else builder.fpext(value, widened), compute)

    def body(index):
        loaders = {
            name: (lambda value=value: value) for name, value in zip(kind.scalars, scalars, strict=True)
        }
        for k, argument in enumerate(kind.inputs, len(kind.outputs)):
            parts = [lambda k=k, p=p: load(k, p, index) for p in range(argument.planes)]
            loaders[argument.name] = (
                parts[0] if argument.planes == 1 else (lambda parts=parts: _Planes(parts))
            )
        outputs = _output_planes(kind, formula(_Inputs(loaders)))
        like = Vector(builder, ir.Constant(widened, [0.0] * lanes(compute)), compute)
        for argument, plane, result in outputs:
            value = result.value if isinstance(result, Vector) else like.constant(result).value
            value = value if dtype == compute else builder.fptrunc(value, packed)
            builder.store(value, place(argument, plane, index), align=dtype.itemsize)

    emit_loop(builder, count, lanes(compute), body)
    builder.ret_void()


def _output_planes(kind, results):
    """Return (output, plane, value) of all that a formula returns."""
    results = (results,) if len(kind.outputs) == 1 else results
    planes = [
        (k, plane, part)
        for k, (argument, result) in enumerate(zip(kind.outputs, results, strict=True))
        for plane, part in enumerate((result,) if argument.planes == 1 else result)
    ]
    return [(k, plane, part) for k, plane, part in planes if part is not None]


# --- machine code, by what it computes -------------------------------------------------------------------------------

_ADDRESSES, _LIBRARIES, _SOURCES = (
    {},
    {},
    {},
)  # by name; by address the libraries that own the code, and its source


@global_compiler_lock
def _machine_code(name, text):
    """Return the address of a function, which is compiled once per machine and loaded once per process."""
    if name not in _ADDRESSES:
        library = _kept_library(name) or _compiled_library(name, text)
        address = _ADDRESSES[name] = library.get_pointer_to_function(name)
        _LIBRARIES[address], _SOURCES[address] = library, (name, text)
    return _ADDRESSES[name]


def _kept_library(name):
    """Return the library that an earlier process kept on disk; None if there is none that can be used."""
    state = kept_formula(name, Path(__file__))
    if state is None:
        return None
    try:
        return codegen().unserialize_library(state)
    except Exception:  # noqa: BLE001 (whatever is wrong with it, it is recompiled)
        return None


def _compiled_library(name, text):
    library = codegen().create_library(name)
    library.enable_object_caching()
    library.add_llvm_module(llvmlite.binding.parse_assembly(text))
    library.finalize()
    keep_formula(name, library.serialize_using_object_code(), Path(__file__))
    return library


@global_compiler_lock
def assembly_at(address):
    """Return the machine code of the loop at an address, as text: compiled once more, since kept code cannot be shown."""
    name, text = _SOURCES[address]
    library = codegen().create_library(f"shown_{name}")
    library.add_llvm_module(llvmlite.binding.parse_assembly(text.replace(name, f"shown_{name}")))
    library.finalize()
    return library.get_asm_str()


def function_at(address, kind, dtype):
    """Return the loop at an address as a function of Python, for tests: f(count, array, ..., scalar, ...)."""
    arrays = len(kind.arguments)
    if JIT_DISABLED:
        run = _INTERPRETED[address]
        return lambda count, *values: run(
            count, *(Span(array, 0) for array in values[:arrays]), *values[arrays:]
        )
    pointer = ctypes.c_void_p
    function = ctypes.CFUNCTYPE(
        None, ctypes.c_int64, *[pointer] * arrays, *[ctypes.c_double] * len(kind.scalars)
    )(address)

    def run(count, *values):
        for array in values[:arrays]:
            assert array.dtype == dtype and array.flags.c_contiguous
        function(count, *(array.ctypes.data for array in values[:arrays]), *values[arrays:])

    return run


# --- the same without a compiler (NUMBA_DISABLE_JIT=1) ---------------------------------------------------------------

_INTERPRETED, _NEXT = {}, numbers(1)


def _interpreted(kind, formula, compute):
    """Return a number that stands for the address of a formula which runs on NumPy slices."""

    def run(count, *values):
        parts = [argument.slices(span, count) for argument, span in zip(kind.arguments, values, strict=False)]
        scalars = values[len(parts) :]
        loaders = {
            name: (lambda value=value: compute.type(value))
            for name, value in zip(kind.scalars, scalars, strict=True)
        }
        for argument, planes in zip(kind.inputs, parts[len(kind.outputs) :], strict=True):
            own = [lambda plane=plane: plane.astype(compute) for plane in planes]
            loaders[argument.name] = own[0] if argument.planes == 1 else (lambda own=own: _Planes(own))
        for k, plane, result in _output_planes(kind, formula(_Inputs(loaders))):
            parts[k][plane][:] = result

    address = next(_NEXT)
    _INTERPRETED[address] = run
    return address
