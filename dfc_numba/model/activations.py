"""Activation functions: one registered object each, which carries its formulas, derivatives and the form that kernels use.

A user adds one by `dfc.register(dfc.Activation(...))`; the built-ins at the end of this file go the same way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import expit

from dfc_numba.kernels import forms, units
from dfc_numba.kernels import functions as formulas
from dfc_numba.model.formula_checks import Formula, require_formula, require_traceable
from dfc_numba.registry import ACTIVATIONS, Extension, register_built_ins
from dfc_numba.support.array_types import Array

# where formulas are compared with finite differences: [-8, 8], no round numbers, at which kinks lie
GRID = np.linspace(-8, 8, 801) + 1.7e-3
STEP = 1e-6
DERIVATIVE_TOLERANCE, SECOND_TOLERANCE, DIFFERENCE_TOLERANCE = 1e-6, 1e-5, 1e-9


class Activation(Extension):
    """An activation function phi, by name.

        dfc.Activation("softsign", phi=lambda v: v / (1 + abs(v)), derivative=lambda v: 1 / (1 + abs(v)) ** 2)

    Formulas are plain Python on their arguments: arithmetic, `abs`, and the functions of `dfc_numba.formulas`. They are
    traced once into vector machine code that runs inside the kernels.

    Args:
        name: what it is called in networks, configurations and files.
        phi: formula of the voltage v.
        derivative: formula phi'(v); at a kink either side.
        second_derivative: formula phi''(v), which the stability of J^T u feedback depends on; None takes central
            differences of `derivative`.
        difference: formula (a, d) of phi(a + d) - phi(a) without cancellation at small d; None takes the difference in
            float64, also for a float32 network, which keeps its digits and costs twice the time.
        summary: a line of documentation.

    Raises (when it is registered):
        ValueError: for a formula that cannot be traced, is not finite on [-8, 8], or contradicts finite differences of
            phi there (the derivative by more than 1e-6).
    """

    registry = ACTIVATIONS

    def __init__(
        self,
        name: str,
        *,
        phi: Formula,
        derivative: Formula,
        second_derivative: Formula | None = None,
        difference: Formula | None = None,
        summary: str = "",
        _form: Any = None,
    ) -> None:
        self.name, self.summary = name, summary
        self.phi, self.derivative = phi, derivative
        self.second_derivative, self.difference = second_derivative, difference
        self._form = _form

    @property
    def form(self) -> Any:
        """The form that loops of kernels are compiled from, see `kernels.forms`."""
        if self._form is None:
            self._form = forms.Traced(self.phi, self.derivative, self.difference)
        return self._form

    def rates(self, v: Array) -> Array:
        """Return phi(v) of an array, in its dtype."""
        return _like(v, self.phi(v))

    def slopes(self, v: Array) -> Array:
        """Return phi'(v) of an array, in its dtype."""
        return _like(v, self.derivative(v))

    def curvatures(self, v: Array) -> Array:
        """Return phi''(v) of an array, in its dtype."""
        if self.second_derivative is not None:
            return _like(v, self.second_derivative(v))
        h = np.cbrt(np.finfo(np.float64).eps) * np.maximum(1.0, np.abs(v))
        return _like(v, (self.derivative(v + h) - self.derivative(v - h)) / (2 * h))

    def check(self) -> None:
        what = f"the activation {self.name!r}"
        for role, count in (("phi", 1), ("derivative", 1), ("second_derivative", 1), ("difference", 2)):
            formula = getattr(self, role)
            if formula is not None or role in ("phi", "derivative"):
                require_formula(f"{role} of {what}", formula, count)
        if self._form is None:
            require_traceable(what, lambda: units.check_form(self.form))
        self._check_values(what)

    def _check_values(self, what):
        with np.errstate(all="ignore"):
            phi, slope = (
                _values(what, "phi", self.phi, GRID),
                _values(what, "derivative", self.derivative, GRID),
            )
            above, below = self.phi(GRID + STEP), self.phi(GRID - STEP)
            _require_close(
                what, "derivative", "phi", slope, (above - below) / (2 * STEP), DERIVATIVE_TOLERANCE
            )
            if self.second_derivative is not None:
                bend = _values(what, "second_derivative", self.second_derivative, GRID)
                above, below = self.derivative(GRID + STEP), self.derivative(GRID - STEP)
                estimate = (above - below) / (2 * STEP)
                _require_close(what, "second_derivative", "the derivative", bend, estimate, SECOND_TOLERANCE)
            if self.difference is not None:
                for d in (-3.0, -0.1, 0.1, 3.0):
                    change = _values(what, "difference", lambda v, d=d: self.difference(v, 0.0 * v + d), GRID)
                    difference = self.phi(GRID + d) - phi
                    _require_close(what, "difference", "phi", change, difference, DIFFERENCE_TOLERANCE)


def phi(name, v):
    """Return phi(v) of an array, by the name of the activation."""
    return ACTIVATIONS[name].rates(v)


def phi_prime(name, v):
    """Return phi'(v) of an array, by the name of the activation."""
    return ACTIVATIONS[name].slopes(v)


def phi_second(name, v):
    """Return phi''(v) of an array, by the name of the activation."""
    return ACTIVATIONS[name].curvatures(v)


def slope(network, layer, activity):
    """Return phi_i'(v_i) of a layer i = 1..L, which is `layer` = i - 1: (B, n_i)."""
    return phi_prime(network.activations[layer], activity.v[layer])


def addresses(network, loop, *arguments):
    """Return the addresses of a loop of `kernels.units` for each layer, (L+1,); index 0 is unused.

    Args:
        loop: function of (form, *arguments).
    """
    forms = [ACTIVATIONS[name].form for name in network.activations]
    return np.array([0] + [loop(form, *arguments) for form in forms], np.int64)


def _like(v, values):
    values = np.asarray(values, v.dtype)
    return values if values.shape == v.shape else np.broadcast_to(values, v.shape).copy()


def _values(what, role, formula, grid):
    values = np.asarray(formula(grid))
    if values.shape not in ((), grid.shape) or values.dtype.kind not in "fiub":
        raise ValueError(
            f"{role} of {what} gives an array of shape {values.shape} and type {values.dtype} for {grid.size} voltages; "
            "a formula gives one number for each"
        )
    values = np.broadcast_to(values.astype(np.float64), grid.shape)
    if not np.isfinite(values).all():
        v = grid[~np.isfinite(values)][0]
        raise ValueError(
            f"{role} of {what} is {values[~np.isfinite(values)][0]:g} at v = {v:.3g}; it has to be finite on [-8, 8]"
        )
    return values


def _require_close(what, role, of, values, expected, tolerance):
    deviation = np.abs(values - expected) / np.maximum(1.0, np.abs(expected))
    worst = np.argmax(deviation)
    if not deviation[worst] <= tolerance:
        raise ValueError(
            f"{role} of {what} is {values[worst]:.9g} at v = {GRID[worst]:.4g}, where finite differences of {of} give "
            f"{expected[worst]:.9g}; they may differ by {tolerance:g}"
        )


# at v = 0 the piecewise linear functions have the slope of positive v
register_built_ins(
    Activation(
        "linear",
        phi=lambda v: v,
        derivative=lambda v: np.ones_like(v),
        second_derivative=lambda v: np.zeros_like(v),
        summary="v",
        _form=forms.Piecewise(1.0),
    ),
    Activation(
        "tanh",
        phi=np.tanh,
        derivative=lambda v: 1 - np.tanh(v) ** 2,
        second_derivative=lambda v: -2 * np.tanh(v) * (1 - np.tanh(v) ** 2),
        summary="tanh(v)",
        _form=forms.Logistic(2.0),
    ),
    Activation(
        "relu",
        phi=lambda v: np.where(v >= 0, v, v.dtype.type(0)),
        derivative=lambda v: (v >= 0).astype(v.dtype),
        second_derivative=lambda v: np.zeros_like(v),
        summary="max(v, 0)",
        _form=forms.Piecewise(0.0),
    ),
    Activation(
        "leakyrelu",
        phi=lambda v: np.where(v >= 0, v, v.dtype.type(0.2) * v),
        derivative=lambda v: np.where(v >= 0, v.dtype.type(1), v.dtype.type(0.2)),
        second_derivative=lambda v: np.zeros_like(v),
        summary="v above 0, 0.2 v below",
        _form=forms.Piecewise(0.2),
    ),
    Activation(
        "sigmoid",
        phi=expit,
        derivative=lambda v: expit(v) * expit(-v),
        second_derivative=lambda v: expit(v) * expit(-v) * (1 - 2 * expit(v)),
        summary="1 / (1 + exp(-v))",
        _form=forms.Logistic(1.0),
    ),
    Activation(
        "hardsigmoid",
        phi=lambda v: formulas.clip(v, 0.0, 1.0),
        derivative=lambda v: formulas.where(
            v < 0.0, 0.0 * v, formulas.where(v > 1.0, 0.0 * v, 1.0 + 0.0 * v)
        ),
        second_derivative=lambda v: 0.0 * v,
        summary="v between 0 and 1, which bound it",
    ),
    Activation(
        "steepsigmoid",
        phi=lambda v: formulas.sigmoid(4.0 * v - 2.0),
        derivative=lambda v: 4.0 * formulas.sigmoid(4.0 * v - 2.0) * formulas.sigmoid(2.0 - 4.0 * v),
        summary="1 / (1 + exp(-4 (v - 0.5)))",
    ),
)
