"""Functions that formulas of activations, plasticity rules, controller terms and variables may use.

A formula is plain Python on its arguments: arithmetic, `abs`, comparisons inside `where`, and these functions. It is
traced once into vector machine code, and works on NumPy arrays as it stands. Each is accurate to a few units in the last
place, in float64 and float32.
"""

from dfc_numba.kernels.functions import (
    absolute,
    clip,
    exp,
    expm1,
    log,
    log1p,
    maximum,
    minimum,
    power,
    sigmoid,
    sign,
    sqrt,
    square,
    tanh,
    where,
)
from dfc_numba.kernels.simd import FormulaError

__all__ = [
    "FormulaError", "absolute", "clip", "exp", "expm1", "log", "log1p", "maximum", "minimum", "power", "sigmoid", "sign",
    "sqrt", "square", "tanh", "where",
]  # fmt: skip
