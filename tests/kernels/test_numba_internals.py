"""Interfaces of numba that are not public: in one module, checked at the start, with a remedy."""

import ast
import subprocess
import sys

import pytest

from dfc_numba.kernels import numba_internals
from dfc_numba.kernels.cache import KERNELS

PUBLIC = {"numba", "numba.extending"}  # `numba.types` and `numba.config` are attributes of the first


def modules_of_numba(path):
    """Names of numba's modules that a file imports from."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (name for name in names if name.partition(".")[0] == "numba")


@pytest.mark.parametrize("path", sorted(KERNELS.glob("*.py")), ids=lambda path: path.stem)
def test_only_one_module_imports_what_is_not_public(path):
    private = set(modules_of_numba(path)) - PUBLIC
    assert private == set() or path.stem == "numba_internals"


def run_without(*lines):
    """The error output of a process that imports the kernels after some lines of code."""
    code = "\n".join([*lines, "import dfc_numba.kernels.multiply"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    return done.stderr


@pytest.mark.parametrize(
    "line",
    [
        "import numba.core.cgutils as module; del module.get_or_insert_function",
        "import numba.core.compiler_lock as module; del module.global_compiler_lock",
        "import numba.core.registry as module; module.cpu_target = object()",
    ],
)
def test_a_numba_without_what_the_kernels_need_is_refused_with_the_remedy(line):
    error = run_without(line).strip().splitlines()[-1]
    assert error.startswith("ImportError: numba ") and error.endswith(numba_internals.REMEDY)
    assert f"numba {numba_internals.OLDEST} to {numba_internals.NEWEST}" in error


def test_the_oldest_version_is_the_one_that_is_required():
    from importlib.metadata import requires

    assert f"numba>={numba_internals.OLDEST}" in requires("dfc-numba")
