"""Further terms of the controller, given by formulas: one registered object each.

With terms, a step of the controller is (tau_u = 1; `controller` has the built-in part)

    u_int += dt (e - alpha u + sum of integral terms)
    u = u_int + k_p e + sum of control terms,  then  u <- limit(u) for each term with a limit, in their order
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from dfc_numba.kernels import units
from dfc_numba.model.formula_checks import Formula, require_formula, require_traceable
from dfc_numba.registry import CONTROLLER_TERMS, Extension

SYMBOLS = ("e", "de", "e_int", "u", "du", "u_int", "u_free", "dt")
LINEAR = 1e-9  # relative deviation of a step from superposition that rounding explains


class ControllerTerm(Extension):
    """A term of the controller, as formulas of each component of its signals.

        dfc.ControllerTerm("derivative", control=lambda de, k_d: k_d * de, parameters={"k_d": 0.1})
        dfc.ControllerTerm("saturation", limit=lambda u, u_max: formulas.clip(u, -u_max, u_max), parameters={"u_max": 1.0})
        dfc.ControllerTerm("anti_windup", integral=lambda u, u_free, k_w: k_w * (u - u_free), parameters={"k_w": 1.0})

    Formulas take any of e (the control error), de (its change per unit time), e_int (its integral), u and u_int (before the
    step; in `limit`, u is the value to be limited), du (the change of u per unit time in the step before), u_free (what u
    was before limits), dt, and their parameters by name. They run in float64 inside the kernel.

    Args:
        name: what it is called in `Controller(terms={name: {...}})` and configurations.
        control: formula that is added to u. integral: formula that is added to du_int/dt. limit: formula that u becomes.
        parameters: default values by name.
        summary: a line of documentation.
    """

    registry = CONTROLLER_TERMS

    def __init__(
        self,
        name: str,
        *,
        control: Formula | None = None,
        integral: Formula | None = None,
        limit: Formula | None = None,
        parameters: Mapping[str, float] | None = None,
        summary: str = "",
    ) -> None:
        self.name, self.summary = name, summary
        self.control, self.integral, self.limit = control, integral, limit
        self.parameters = dict(parameters or {})

    def check(self) -> None:
        what = f"the controller term {self.name!r}"
        formulas = {role: getattr(self, role) for role in ("control", "integral", "limit")}
        if not any(formulas.values()):
            raise ValueError(f"{what} has no formula; give control, integral or limit")
        for name, value in self.parameters.items():
            if not isinstance(name, str) or not name.isidentifier() or name in SYMBOLS:
                raise ValueError(
                    f"{what} has a parameter {name!r}; a name other than {', '.join(SYMBOLS)} is allowed"
                )
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"parameter {name} of {what} is {value!r}; a number is allowed")
        known = (*SYMBOLS, *self.parameters)
        for role, formula in formulas.items():
            if formula is not None:
                require_formula(f"{role} of {what}", formula, known=known)
        parts = (((self.control, self.integral, self.limit), tuple(self.parameters.items())),)
        require_traceable(what, lambda: units.control_loop(parts, 0.1, 0.0, 1.0, False, compiled=False))


class Terms(dict):
    """Terms by name with their parameters; not to be changed, so that a `Controller` can be compared and hashed."""

    def __hash__(self):
        return hash(tuple((name, tuple(values.items())) for name, values in self.items()))


def checked_terms(value):
    """Return the terms with all their parameters; a list of names takes the defaults.

    Raises:
        ValueError: for an unknown term or parameter.
    """
    if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
        value = {name: {} for name in value}
    if not isinstance(value, dict):
        raise ValueError(
            'must be a table of terms with their parameters, such as {"derivative": {"k_d": 0.1}}'
        )
    terms = Terms()
    for name, given in value.items():
        term = CONTROLLER_TERMS.find(name, "controller.terms")
        if not isinstance(given, dict):
            raise ValueError(
                f"terms.{name} is {given!r}; a table of parameters is allowed, such as {{k_d = 0.1}}"
            )
        unknown = [key for key in given if key not in term.parameters]
        if unknown:
            known = ", ".join(term.parameters) or "none"
            raise ValueError(f"terms.{name} has no parameter {unknown[0]!r}; its parameters: {known}")
        wrong = [
            key
            for key, number in given.items()
            if isinstance(number, bool) or not isinstance(number, int | float)
        ]
        if wrong:
            raise ValueError(f"terms.{name}.{wrong[0]} is {given[wrong[0]]!r}; a number is allowed")
        terms[name] = {key: float(number) for key, number in {**term.parameters, **given}.items()}
    return terms


def compiled_terms(terms, dt, alpha, k_p, leaks_integral):
    """Return the address of a controller's step with terms."""
    return _compiled(_formulas(terms), dt, alpha, k_p, leaks_integral)


@lru_cache(maxsize=256)
def _compiled(*arguments):
    return units.control_loop(*arguments)


def _formulas(terms):
    """Return the formulas of terms with their parameters, as `units.advance_control` takes them."""
    found = [(CONTROLLER_TERMS.find(name, "controller.terms"), values) for name, values in terms.items()]
    return tuple(((t.control, t.integral, t.limit), tuple(values.items())) for t, values in found)


def nonlinear_term(terms, dt):
    """Return the name of a term that is not linear in the controller's signals; None where all are."""
    a, b = np.random.default_rng(0).standard_normal((2, 7, 64)) * np.logspace(-9, 9, 64)
    for name, values in terms.items():
        alone = _formulas({name: values})

        def step(state, term=alone):
            return np.stack(np.broadcast_arrays(*units.advance_control(state, term, dt, 0.0, 1.0, False)))

        with np.errstate(all="ignore"):
            parts = step(a), step(b), -step(a + b), step(-a), step(a)
            size = sum(np.abs(part) for part in parts)
            superposed = np.abs(sum(parts[:3])) + np.abs(sum(parts[3:])) <= LINEAR * size
        if not superposed.all():
            return name
    return None


def response_to_errors(terms, errors, dt, alpha, k_p, leaks_integral):
    """Return (u, u_int), each (T + 1, n), after each step of a controller with linear terms, from its errors (T, n)."""
    formulas, zero = _formulas(terms), np.zeros_like(errors[0])
    state, before = (zero, zero, zero, zero), errors[0]
    u_before, course = zero, [(zero, zero)]
    for e in errors:
        u, u_int, e_int, u_free = state
        state = units.advance_control(
            (e, before, e_int, u, u_int, u_before, u_free), formulas, dt, alpha, k_p, leaks_integral
        )
        before, u_before = e, u
        course.append(state[:2])
    return tuple(np.stack(values) for values in zip(*course, strict=True))
