"""Reading the machine code of compiled loops: how many instructions of a kind it has."""

import platform
import re

import numpy as np
import pytest

from dfc_numba.kernels.jit import JIT_DISABLED

INSTRUCTIONS = {
    "x86": {
        "call": r"^\s+callq?\s",
        "packed": r"^\s+v?(?:add|sub|mul|fmadd|fmsub|fnmadd|max|cmp[a-z]*)\d*p{}\s",
        "scalar": r"^\s+v?(?:add|sub|mul|div|fmadd|fmsub|fnmadd)\d*s[sd]\s",
        "letters": {"float32": "s", "float64": "d"},
    },
    "aarch64": {
        "call": r"^\s+blr?\s",
        "packed": r"^\s+f(?:add|sub|mul|mla|mls|max|cm[a-z]+)(?:\.{0}\s|\s+v\d+\.{0}\b)",
        "scalar": r"^\s+f(?:n?madd|n?msub|add|sub|n?mul|div)\s+[sd]\d",
        "letters": {"float32": "4s", "float64": "2d"},
    },
}


def instructions():
    """The patterns for the machine that this runs on."""
    if JIT_DISABLED:
        pytest.skip("the compiler is switched off")
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        return INSTRUCTIONS["x86"]
    if machine in ("arm64", "aarch64"):
        return INSTRUCTIONS["aarch64"]
    pytest.skip(f"no patterns for the instructions of {machine}")


def found_in(code, kind, dtype="float64"):
    """How many instructions of a kind there are."""
    patterns = instructions()
    return len(
        re.findall(patterns[kind].format(patterns["letters"][np.dtype(dtype).name]), code, re.MULTILINE)
    )
