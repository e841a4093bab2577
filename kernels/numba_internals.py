"""The interfaces of numba and llvmlite that are not public and that the kernels depend on, in one place.

They were tried with the versions from `OLDEST` to `NEWEST`. What the kernels cannot do without is checked when this module is
imported: an ImportError names what is missing and the versions to install. Without what the cache on disk needs, `CACHING`
says what is missing, and kernels are compiled in every process.
"""

import numba

OLDEST, NEWEST = "0.59", "0.68"
REMEDY = f"pip install 'numba>={OLDEST},<0.{int(NEWEST.partition('.')[2]) + 1}'"

# options of `numba.jit` for functions that do not count references; such a function cannot create arrays
UNCOUNTED = {"_nrt": False}

try:
    from numba.core.cgutils import get_or_insert_function
    from numba.core.codegen import get_host_cpu_features
    from numba.core.compiler_lock import global_compiler_lock
    from numba.core.imputils import impl_ret_borrowed
    from numba.core.registry import cpu_target

    cpu_target.target_context.codegen  # noqa: B018 (what `codegen` below needs)
    numba.jit(**UNCOUNTED)
except (ImportError, AttributeError, KeyError, TypeError) as error:
    raise ImportError(
        f"numba {numba.__version__} lacks what the kernels need ({error}); they were tried with numba {OLDEST} to {NEWEST}: "
        f"{REMEDY}"
    ) from error

try:
    from numba.core.caching import NullCache, _Cache
    from numba.core.compiler import CompileResult
    from numba.core.serialize import dumps
    from numba.misc.appdirs import AppDirs

    CACHING = [
        f"CompileResult.{name}" for name in ("_reduce", "_rebuild") if not hasattr(CompileResult, name)
    ]
except ImportError as error:
    CACHING, NullCache, _Cache, CompileResult, dumps, AppDirs = [str(error)], None, object, None, None, None

__all__ = [
    "CACHING", "NEWEST", "OLDEST", "REMEDY", "UNCOUNTED", "AppDirs", "CompileResult", "NullCache", "_Cache", "codegen", "dumps",
    "get_host_cpu_features", "get_or_insert_function", "global_compiler_lock",
    "impl_ret_borrowed",
]  # fmt: skip


def codegen():
    """Return what makes libraries of machine code for this processor."""
    return cpu_target.target_context.codegen()
