"""What makes two values the same: functions by their code and what it reads, arrays by their bytes, objects by attributes."""

import types
from collections.abc import Mapping
from functools import partial

import numpy as np


def fingerprint(value, _inside=()):
    """Return something hashable that is equal for values that do the same.

    A function counts by its code, constants, defaults, closure and the globals that it reads, an array by type and bytes,
    another object by its class and attributes; what contains itself counts once.
    """
    if id(value) in _inside:
        return ("again", _inside.index(id(value)))
    inside = (*_inside, id(value))
    if value is None or isinstance(value, str | bytes | bool | int | complex):
        return type(value).__name__, value
    if isinstance(value, float):
        return "float", value.hex()
    if isinstance(value, np.ndarray | np.generic):
        return "array", str(value.dtype), np.shape(value), np.asarray(value).tobytes()
    if isinstance(value, Mapping):
        entries = ((fingerprint(key, inside), fingerprint(entry, inside)) for key, entry in value.items())
        return "mapping", frozenset(entries)
    if isinstance(value, set | frozenset):
        return "set", frozenset(fingerprint(entry, inside) for entry in value)
    if isinstance(value, list | tuple):
        return "list", tuple(fingerprint(entry, inside) for entry in value)
    return _fingerprint_of_code(value, inside)


def _fingerprint_of_code(value, inside):
    """As `fingerprint`, for functions, classes, modules and other objects."""
    if isinstance(value, types.CodeType):
        constants = fingerprint(value.co_consts, inside)
        return "code", value.co_code, constants, value.co_names, value.co_varnames, value.co_flags
    if isinstance(value, types.FunctionType):
        cells = value.__closure__ or ()
        closure = [_contents(cell) for cell in cells]
        read = {name: value.__globals__[name] for name in _names(value.__code__) if name in value.__globals__}
        parts = (value.__code__, value.__defaults__, value.__kwdefaults__, closure, read)
        return "function", fingerprint(parts, inside)
    if isinstance(value, types.MethodType):
        return "method", fingerprint((value.__func__, value.__self__), inside)
    if isinstance(value, partial):
        return "partial", fingerprint((value.func, value.args, value.keywords), inside)
    if isinstance(value, types.ModuleType):
        return "module", value.__name__
    if hasattr(value, "py_func"):  # compiled by numba
        return "compiled", fingerprint(value.py_func, inside)
    if isinstance(value, type):
        own = {} if value.__module__.startswith(("dfc_numba", "numpy", "builtins")) else _members(value)
        return "class", value.__module__, value.__qualname__, fingerprint(own, inside)
    state = getattr(value, "__dict__", None)
    if state is None:
        return "object", type(value).__qualname__, getattr(value, "__name__", None) or repr(value)
    return "object", fingerprint(type(value), inside), fingerprint(state, inside)


def _names(code):
    """Names that code, and code inside it, may look up in its globals."""
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return {*code.co_names}.union(*map(_names, inner))


def _contents(cell):
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _members(cls):
    skipped = {"__dict__", "__weakref__", "__doc__", "__module__", "__firstlineno__", "__static_attributes__"}
    return {
        name: member.__func__ if isinstance(member, staticmethod | classmethod) else member
        for name, member in vars(cls).items()
        if name not in skipped
    }
