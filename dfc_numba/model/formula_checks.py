"""Checks of a user's formulas when they are registered: arguments, and whether they can be traced."""

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from dfc_numba.kernels.simd import FormulaError

Formula: TypeAlias = Callable[..., Any]  # plain Python on its named arguments, see `Activation`


def require_formula(what, formula, count=None, known=None):
    """Raise a TypeError or ValueError unless `formula` is a function of named arguments.

    Args:
        count: how many arguments it takes. known: the names that they may have.
    """
    if not callable(formula):
        raise TypeError(f"{what} is {formula!r}; a function is allowed, such as lambda v: v")
    if isinstance(formula, np.ufunc) and count == formula.nin:
        return
    try:
        parameters = list(inspect.signature(formula).parameters.values())
    except (TypeError, ValueError):
        raise TypeError(
            f"{what} is {formula!r}, whose arguments cannot be determined; write a lambda"
        ) from None
    names = [p.name for p in parameters]
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        raise ValueError(f"{what} takes *arguments; name them one by one")
    if count is not None and len(names) != count:
        raise ValueError(
            f"{what} takes the arguments ({', '.join(names)}); {count} is allowed" + "s" * (count > 1)
        )
    unknown = [name for name in names if known is not None and name not in known]
    if unknown:
        raise ValueError(
            f"{what} uses {unknown[0]!r}, which is not known there; known are {', '.join(known)}"
        )


def require_traceable(what, trace):
    """Run `trace` and turn whatever goes wrong into a ValueError with a sentence."""
    try:
        trace()
    except FormulaError as error:
        raise ValueError(f"{what}: {error}") from None
    except Exception as error:  # noqa: BLE001 (whatever a user's formula raises)
        raise ValueError(
            f"{what}: the formula cannot be traced ({type(error).__name__}: {error}); it may use arithmetic, abs, comparisons "
            "inside where(), and the functions of dfc_numba.formulas"
        ) from None
