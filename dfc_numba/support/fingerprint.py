"""Fingerprints of values: functions by their code and what it reads, arrays by their bytes, objects by attributes."""

import sys
import types
from collections.abc import Mapping
from functools import partial

import numpy as np

LIBRARIES = {
    *sys.stdlib_module_names,
    "dfc_numba",
    "numpy",
    "scipy",
    "numba",
    "h5py",
    "pydantic",
    "sklearn",
    "torch",
    "jax",
} - {"__main__"}


def fingerprint(value):
    """Return something hashable that is equal for values that do the same.

    A function counts by its code, constants, defaults, closure and the globals that it reads, one of a library by its name;
    an array by its type and bytes, another object by its class and attributes. What occurs again counts once.
    """
    return _Walk().of(value)


class _Walk:
    """A walk through a value and all that it refers to; each object is taken apart once."""

    def __init__(self):
        self._seen, self._kept = {}, []

    def of(self, value):
        """Return the fingerprint of a value, or its number if it was met before."""
        if value is None or isinstance(value, str | bytes | bool | int | complex):
            return type(value).__name__, value
        if isinstance(value, float):
            return "float", value.hex()
        if id(value) in self._seen:
            return "again", self._seen[id(value)]
        self._seen[id(value)] = len(self._seen)
        self._kept.append(value)  # so that no other object gets its id meanwhile
        if isinstance(value, np.ndarray | np.generic):
            return "array", str(value.dtype), np.shape(value), np.asarray(value).tobytes()
        if isinstance(value, Mapping):
            entries = sorted(value.items(), key=lambda entry: repr(entry[0]))
            return "mapping", tuple((self.of(key), self.of(entry)) for key, entry in entries)
        if isinstance(value, set | frozenset):
            return "set", tuple(self.of(entry) for entry in sorted(value, key=repr))
        if isinstance(value, list | tuple):
            return "list", tuple(self.of(entry) for entry in value)
        return self._of_code(value)

    def _of_code(self, value):
        """Return the fingerprint of a function, class, module or other object."""
        if isinstance(value, types.ModuleType):
            return "module", value.__name__
        if _is_of_library(value):
            return "library", value.__module__, value.__qualname__
        if isinstance(value, types.CodeType):
            return "code", value.co_code, self.of(value.co_consts), value.co_names, value.co_varnames
        if isinstance(value, types.FunctionType):
            return "function", self.of(_parts(value))
        if isinstance(value, types.MethodType):
            return "method", self.of([value.__func__, value.__self__])
        if isinstance(value, partial):
            return "partial", self.of([value.func, value.args, value.keywords])
        if hasattr(value, "py_func"):  # compiled by numba
            return "compiled", self.of(value.py_func)
        if isinstance(value, type):
            return "class", value.__module__, value.__qualname__, self.of(_members(value))
        state = getattr(value, "__dict__", None)
        if state is None:
            return "object", type(value).__qualname__, getattr(value, "__name__", None) or repr(value)
        return "object", self.of(type(value)), self.of(state)


def _is_of_library(value):
    """Return whether it is a function or class that a library has by its name."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    named = isinstance(module, str) and isinstance(name, str) and "<" not in name
    return named and module.partition(".")[0] in LIBRARIES


def _parts(function):
    """Return what decides what a function does."""
    read = {
        name: function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__
    }
    cells = [_contents(cell) for cell in function.__closure__ or ()]
    return [function.__code__, function.__defaults__, function.__kwdefaults__, cells, read]


def _names(code):
    """Return the names that code, and code inside it, may look up in its globals."""
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
