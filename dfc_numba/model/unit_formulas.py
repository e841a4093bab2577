"""Formulas of the units of a layer: plasticity rules and recorded variables, one registered object each."""

from __future__ import annotations

from typing import Literal

from dfc_numba.kernels import units
from dfc_numba.model.formula_checks import Formula, require_formula, require_traceable
from dfc_numba.registry import PLASTICITY_RULES, VARIABLES, Extension, register_built_ins

# names of variables that kernels record without a formula
BUILT_IN_VARIABLES = ("u", "u_int", "e", "error", "v", "v_ff", "v_fb", "r", "noise", "r_x", "r_y")

SIGNAL_SYMBOLS = ("u", "u_slow")
NOISE_DRIVEN = "noise_driven"  # the published rule of the feedback weights, which kernels have built in


class PlasticityRule(Extension):
    """A plasticity rule: the product of a postsynaptic and a presynaptic factor, averaged over time and samples.

        dfc.PlasticityRule("hebb", postsynaptic=lambda dr: dr, presynaptic=lambda r: r)

        Delta W_i = mean of postsynaptic_i presynaptic(r_{i-1})^T      Delta Q_i = mean of postsynaptic_i presynaptic(u)^T

    (Delta Q_i divided by the variance of the noise, as in `feedback_update`). The formulas are traced into the kernels.

    Args:
        name: what it is called as `rule` and in configurations.
        postsynaptic: formula of any of v, v_ff, v_fb (somatic, basal, apical voltage), dv = v - v_ff and
            dr = phi(v) - phi(v_ff) (both without cancellation), r = phi(v), r_ff = phi(v_ff), slope = phi'(v),
            slope_ff = phi'(v_ff), slope_0 = phi' at the feedforward pass.
        presynaptic: formula of r of the layer below, or for feedback weights of the control signal u and u_slow, what
            `high_pass` subtracts (0 without it). None takes r, or u - u_slow.
        weights: which weights it is for, "forward" or "feedback".
        summary: a line of documentation.
    """

    registry = PLASTICITY_RULES

    def __init__(
        self,
        name: str,
        *,
        postsynaptic: Formula,
        presynaptic: Formula | None = None,
        weights: Literal["forward", "feedback"] = "forward",
        summary: str = "",
    ) -> None:
        self.name, self.summary, self.weights = name, summary, weights
        self.postsynaptic, self.presynaptic = postsynaptic, presynaptic

    @property
    def factor_is_rate(self) -> bool:
        """True if the postsynaptic factor is dr, which in the first layer is the deviation of the rate."""
        return units.returns_argument(self.postsynaptic, "dr")

    @property
    def factor_is_linear(self) -> bool:
        """True if the postsynaptic factor depends on v - v_ff alone, which does not change with the basal voltage."""
        return set(units.arguments(self.postsynaptic)) <= {"dv", "slope_0"}

    @property
    def presynaptic_formula(self) -> Formula | None:
        """The presynaptic formula, None where the factor is the rate, or u - u_slow."""
        plain = self.presynaptic is None or units.returns_argument(self.presynaptic, "r")
        return None if plain else self.presynaptic

    @property
    def needs_start(self) -> bool:
        """True if the formulas refer to the feedforward state."""
        used = units.AT_START & set(units.arguments(self.postsynaptic))
        return bool(used) or (self.weights == "forward" and self.presynaptic_formula is not None)

    def check(self) -> None:
        what = f"the plasticity rule {self.name!r}"
        if self.weights not in ("forward", "feedback"):
            raise ValueError(f"weights of {what} is {self.weights!r}; 'forward' and 'feedback' are allowed")
        require_formula(f"postsynaptic of {what}", self.postsynaptic, known=units.UNIT_SYMBOLS)
        require_traceable(f"postsynaptic of {what}", lambda: units.check_unit_formula(self.postsynaptic))
        if self.presynaptic is not None:
            known = ("r",) if self.weights == "forward" else SIGNAL_SYMBOLS
            require_formula(f"presynaptic of {what}", self.presynaptic, known=known)
            require_traceable(
                f"presynaptic of {what}", lambda: units.check_presynaptic(self.presynaptic, self.weights)
            )


class Variable(Extension):
    """A recorded variable of the units of a layer, as a formula.

        dfc.Variable("dendritic_error", formula=lambda v, v_ff: v - v_ff)

    Args:
        name: what it is called in `Record.variables` and log.variables.
        formula: of the symbols of `PlasticityRule.postsynaptic`; it is evaluated inside the kernel.
        summary: a line of documentation, the long_name in files. unit: its unit, "1" for none.
    """

    registry = VARIABLES

    def __init__(self, name: str, *, formula: Formula, summary: str = "", unit: str = "1") -> None:
        self.name, self.formula, self.summary, self.unit = name, formula, summary, unit

    @property
    def needs_start(self) -> bool:
        """True if the formula refers to the feedforward state."""
        return bool(units.AT_START & set(units.arguments(self.formula)))

    def check(self) -> None:
        what = f"the variable {self.name!r}"
        if self.name in BUILT_IN_VARIABLES:
            raise ValueError(f"{what} has the name of a built-in; choose another name")
        require_formula(f"formula of {what}", self.formula, known=units.UNIT_SYMBOLS)
        require_traceable(f"formula of {what}", lambda: units.check_unit_formula(self.formula))


register_built_ins(
    PlasticityRule(
        "nonlinear_difference", postsynaptic=lambda dr: dr, summary="phi(v) - phi(v_ff), the rule of DFC"
    ),
    PlasticityRule("voltage_difference", postsynaptic=lambda dv: dv, summary="v - v_ff"),
    PlasticityRule(
        "derivative_matrix",
        postsynaptic=lambda dv, slope_0: dv * slope_0,
        summary="phi'(v of the feedforward pass) (v - v_ff)",
    ),
    PlasticityRule(
        NOISE_DRIVEN,
        postsynaptic=lambda v_fb: -v_fb,
        weights="feedback",
        summary="-v_fb (u - u_slow)^T, the rule of DFC's feedback weights",
    ),
)
