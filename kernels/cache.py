"""Compiled kernels on disk, such that stale machine code never runs.

An entry is a separate file, named by a hash of all that its machine code depends on: the sources of all kernels, the
function and its argument types, the processor, the versions of Python, numba, llvmlite and NumPy, and the compiler's settings.
It is written under a temporary name and then renamed, so that processes may start side by side, and begins with a checksum:
what is damaged, or belongs to another user, is recompiled. Where nothing can be written, kernels are compiled in every process,
and a warning says so once.
"""

import hashlib
import os
import pickle
import platform
import sys
import tempfile
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

import llvmlite
import numba
import numpy as np
from numba import config

from dfc_numba import kernels
from dfc_numba.kernels import numba_internals
from dfc_numba.kernels.numba_internals import AppDirs, CompileResult, NullCache, _Cache, dumps

KERNELS = Path(__file__).parent
SUFFIX = ".nbc"
MAGIC = b"dfc-numba kernel 1\n"
CHECKSUM = hashlib.sha256
# settings of numba that change what is compiled
SETTINGS = (
    "BOUNDSCHECK",
    "OPT",
    "DEBUG_ARRAY_OPT",
    "DEBUGINFO_DEFAULT",
    "LOOP_VECTORIZE",
    "SLP_VECTORIZE",
    "ENABLE_AVX",
)


class KernelCache(_Cache):
    """The entries of one function; what a dispatcher of numba asks for, and gives what it has compiled."""

    def __init__(self, function):
        self._function, self._source = function, Path(function.__code__.co_filename)
        self._name = f"{self._source.stem}.{function.__qualname__.replace('<', '').replace('>', '')}"
        self._enabled = True

    @property
    def cache_path(self):
        """The folder that an entry would be written to, as a text."""
        return str(folders(self._source)[0])

    def enable(self):
        self._enabled = True

    def disable(self):
        self._enabled = False

    def flush(self):
        """Remove the entries of this function."""
        for folder in folders(self._source):
            for path in folder.glob(f"{self._name}-*{SUFFIX}"):
                path.unlink(missing_ok=True)

    def load_overload(self, sig, target_context):
        """Return the compiled function of a signature; None if there is none that is sound."""
        if not self._enabled:
            return None
        target_context.refresh()
        key = self._key(sig, target_context.codegen())
        for folder in folders(self._source):
            reduced = _read(folder / self._file_name(key), key)
            if reduced is not None:
                try:
                    return CompileResult._rebuild(target_context, *reduced)
                except Exception:  # noqa: BLE001 (whatever is wrong with it, it is recompiled)
                    continue
        _announce()
        return None

    def save_overload(self, sig, data):
        """Keep a compiled function."""
        if (
            not self._enabled
            or any(not lifted.can_cache for lifted in data.lifted)
            or data.library.has_dynamic_globals
        ):
            return
        key = self._key(sig, data.codegen)
        content, problem = _content(key, data._reduce()), None
        for folder in folders(self._source):
            try:
                _write(folder / self._file_name(key), content)
            except OSError as error:
                problem = problem or f"{folder}: {error.strerror}"
            else:
                self._remove_outdated(folder)
                return
        _say_once(f"compiled kernels cannot be kept ({problem})")

    def _key(self, sig, codegen):
        """Return all that machine code depends on, as text."""
        code = self._function.__code__
        own = () if self._source.parent == KERNELS else (_digest(self._source),)
        body = (self._name, code.co_firstlineno, CHECKSUM(code.co_code).hexdigest(), *own)
        settings = tuple(getattr(config, name, None) for name in SETTINGS)
        return repr((sources_digest(), versions(), body, sig, codegen.magic_tuple(), settings))

    def _file_name(self, key):
        return f"{self._name}-{sources_digest()[:12]}-{CHECKSUM(key.encode()).hexdigest()[:24]}{SUFFIX}"

    def _remove_outdated(self, folder):
        """Remove what was compiled from other sources, which would only add up."""
        for path in folder.glob(f"{self._name}-*{SUFFIX}"):
            if not path.name.startswith(f"{self._name}-{sources_digest()[:12]}-"):
                with suppress(OSError):
                    path.unlink()


@cache
def sources_digest():
    """Return a hash of the sources of all kernels, in hexadecimal digits."""
    total = CHECKSUM()
    for path in sorted(KERNELS.glob("*.py")):
        total.update(f"{path.name}\0{_digest(path)}\0".encode())
    return total.hexdigest()


@cache
def _digest(path):
    try:
        return CHECKSUM(path.read_bytes()).hexdigest()
    except OSError:  # a function without a file
        return ""


@cache
def versions():
    """Return the versions that machine code depends on."""
    return platform.python_version(), numba.__version__, llvmlite.__version__, np.__version__


def folders(source):
    """Return where a source file's entries are looked for and, in this order, written to: NUMBA_CACHE_DIR alone if it is set."""
    parent = source.resolve().parent
    subfolder = f"{parent.name}_{hashlib.sha1(str(parent).encode(), usedforsecurity=False).hexdigest()}"
    if config.CACHE_DIR:
        return [Path(config.CACHE_DIR) / subfolder]
    return [
        parent / "__pycache__",
        Path(AppDirs(appname="numba", appauthor=False).user_cache_dir) / subfolder,
    ]


def kept_formula(name, source):
    """Return what `keep_formula` kept under this name, None if nothing is sound; `source`: path of the module."""
    for folder in folders(source):
        found = _read(folder / f"formula-{name}{SUFFIX}", name)
        if found is not None:
            return found
    return None


def keep_formula(name, data, source):
    """Keep the machine code of a formula, whose name is a digest of all that it depends on."""
    problem = None
    for folder in folders(source):
        try:
            _write(folder / f"formula-{name}{SUFFIX}", _content(name, data))
        except OSError as error:
            problem = problem or f"{folder}: {error.strerror}"
        else:
            return
    _say_once(f"compiled formulas cannot be kept ({problem})")


def _content(key, reduced):
    payload = dumps((key, reduced))
    return MAGIC + CHECKSUM(payload).digest() + payload


def _read(path, key):
    """Return what an entry holds; None if it is missing, damaged or of somebody else."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    start = len(MAGIC) + CHECKSUM().digest_size
    payload = content[start:]
    if content[:start] != MAGIC + CHECKSUM(payload).digest():
        return None
    try:
        stored, reduced = pickle.loads(payload)  # noqa: S301 (numba's caches are pickles as well)
    except Exception:  # noqa: BLE001 (types that are gone, for example)
        return None
    return reduced if stored == key else None


def _write(path, content):
    """Write a file that is seen either as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f"{path.stem}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@cache
def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


_said = set()


def _say_once(text):
    if not _said:
        _said.add(text)
        remedy = "set NUMBA_CACHE_DIR to a folder that can be written"
        warnings.warn(f"{text}: every process recompiles them; {remedy}", RuntimeWarning, stacklevel=1)


def _announce():
    """Say once that something is compiled, which may take a while without another sign of life."""
    if kernels.announces_compilation:
        kernels.announces_compilation = False
        print("dfc-numba: compiling kernels, the first time on this machine ...", file=sys.stderr, flush=True)


def install(dispatcher):
    """Let a compiled function keep its machine code on disk; the dispatcher."""
    lacking = numba_internals.CACHING
    if lacking or not isinstance(getattr(dispatcher, "_cache", None), NullCache):
        missing = ", ".join(lacking) or "Dispatcher._cache"
        if not _said:
            _said.add(missing)
            warnings.warn(
                f"numba {numba.__version__} lacks what keeps compiled kernels on disk ({missing}): every process compiles them "
                f"anew; install a version that this package was tried with, {numba_internals.REMEDY}",
                RuntimeWarning,
                stacklevel=2,
            )
        return dispatcher
    sources_digest()  # now, while the sources are those that this process runs
    dispatcher._cache = KernelCache(dispatcher.py_func)
    return dispatcher
