"""The loops of a layer's units that kernels call by address: rates, Euler steps, derivatives, formulas of units.

Each is traced from a form (`forms`) and, where a plasticity rule or a recorded variable comes in, from its formula, into
one pass over the units of a layer.

Voltages in a feedback phase are deviations from the feedforward pass (names: v, basal; the apical compartment starts at 0);
while weights change there is no fixed state to deviate from, and loops of `ONLINE` kinds take v_ff itself and the difference
d = v - v_ff.
"""

import inspect
from functools import lru_cache

import numpy as np

from dfc_numba.kernels.forms import ARGUMENT_LIMIT, Piecewise
from dfc_numba.kernels.formula_loops import LoopKind
from dfc_numba.kernels.simd import FormulaError

# names that formulas of a unit may use
UNIT_SYMBOLS = ("v", "v_ff", "v_fb", "dv", "dr", "r", "r_ff", "slope", "slope_ff", "slope_0")
# of these, what needs the feedforward state itself: its voltage, rate and derivative
AT_START = frozenset({"v", "v_ff", "r", "r_ff", "slope_0"})


# --- formulas of units: postsynaptic factors, presynaptic factors, variables -------------------------------------------


@lru_cache(maxsize=1024)
def arguments(formula):
    """Return the names of the arguments of a formula."""
    return tuple(inspect.signature(formula).parameters)


def returns_argument(formula, name):
    """Return whether a formula is `lambda name: name`."""
    if arguments(formula) != (name,):
        return False
    marker = object()
    try:
        return formula(marker) is marker
    except Exception:  # noqa: BLE001 (it computes with its argument, which this one does not allow)
        return False


def evaluate(formula, symbols):
    """Return the value of a formula, given its symbols by name."""
    return formula(**{name: symbols[name] for name in arguments(formula)})


class _Symbols:
    """Values of `UNIT_SYMBOLS`, each computed when a formula asks for it."""

    def __init__(self, **getters):
        self._getters, self._values = getters, {}

    def __getitem__(self, name):
        if name not in self._getters:
            raise FormulaError(
                f"a formula uses {name!r}, which is not known here; known: {', '.join(self._getters)}"
            )
        if name not in self._values:
            self._values[name] = self._getters[name]()
        return self._values[name]


def _phase_symbols(form, p, v, change, difference):
    """Return the symbols in a feedback phase; `change` and `difference` give phi(v) - phi(a) and phi(v) - phi(v_ff)."""
    return _Symbols(
        v=lambda: p.reference[0] + v,
        v_ff=lambda: p.reference[0] + p.basal,
        v_fb=lambda: p.apical,
        dv=lambda: v - p.basal,
        dr=difference,
        r=lambda: p.reference[1] + change(),
        r_ff=lambda: p.reference[1] + (change() - difference()),
        slope=lambda: form.derivative(p, v),
        slope_ff=lambda: form.derivative(p, p.basal),
        slope_0=lambda: p.reference[2],
    )


def _online_symbols(form, difference, v_ff, apical, rates):
    """Return the symbols while weights change; `rates` gives phi(v) and phi(v) - phi(v_ff)."""
    return _Symbols(
        v=lambda: v_ff + difference,
        v_ff=lambda: v_ff,
        v_fb=lambda: apical,
        dv=lambda: difference,
        dr=lambda: rates()[1],
        r=lambda: rates()[0],
        r_ff=lambda: rates()[0] - rates()[1],
        slope=lambda: form.online_derivative(difference, v_ff),
        slope_ff=lambda: form.online_derivative(0.0 * difference, v_ff),
        # there is no feedforward pass whose state stays: the derivative at v_ff of the same time
        slope_0=lambda: form.online_derivative(0.0 * difference, v_ff),
    )


# --- kinds of loops ----------------------------------------------------------------------------------------------------
# v, basal, apical, rate are deviations from the feedforward state; factor: the postsynaptic factor of a plasticity rule;
# seen: what its presynaptic factor deviates by; reference: voltage, rate and derivative at the feedforward state.

RATE = LoopKind("rate_loop", ["rate"], ["v"])
CONSTANTS = LoopKind("constants_loop", ["constants*3"], ["v"])
STEP = LoopKind(
    "step_loop",
    ["v_new", "rate", "factor", "seen"],
    ["v", "basal", "apical", "constants*3", "reference*3"],
    ["gain"],
)
UNIT = LoopKind("unit_loop", ["out"], ["v", "basal", "apical", "constants*3", "reference*3"])
DERIVATIVE_OF_RATE = LoopKind("derivative_of_rate_loop", ["derivative"], ["v", "rate", "constants*3"])
ONLINE_STEP = LoopKind(
    "online_step_loop",
    ["difference_new", "v_ff_new", "rate", "factor", "seen"],
    ["difference", "v_ff", "v_ff_before", "apical"],
    ["gain", "weight_gain"],
)
ONLINE_UNIT = LoopKind("online_unit_loop", ["out"], ["difference", "v_ff", "apical"])
# planes of u, u_int, e_int, u_free after the step; of e, e_before, e_int, u, u_int, u_before, u_free before it
CONTROL = LoopKind("control_loop", ["after*4"], ["before*7"])
PAIR = LoopKind("pair_loop", ["out"], ["u", "u_slow"])

# their calls from kernels: run_...(address, count, array, start, ..., number, ...)
run_rate, run_constants, run_step, run_unit = RATE.call, CONSTANTS.call, STEP.call, UNIT.call
run_derivative_of_rate, run_online_step, run_online_unit = (
    DERIVATIVE_OF_RATE.call,
    ONLINE_STEP.call,
    ONLINE_UNIT.call,
)
run_control, run_pair = CONTROL.call, PAIR.call


@lru_cache(maxsize=1024)
def rate_loop(form, dtype):
    """Compile the loop of rate = phi(v), v the voltage itself."""
    return RATE.compile(lambda p: form.rate(p.v), dtype)


@lru_cache(maxsize=1024)
def constants_loop(form, dtype):
    """Compile the loop of the constants at the feedforward voltage, computed in float64 for loops of `dtype`."""
    return CONSTANTS.compile(
        lambda p: form.constants(p.v, ARGUMENT_LIMIT[np.dtype(dtype).itemsize]), np.float64
    )


@lru_cache(maxsize=1024)
def derivative_loop(form, dtype):
    """Compile the loop of phi'(v); v is a deviation."""
    return UNIT.compile(lambda p: form.derivative(p, p.v), dtype, compute=form.compute(dtype))


@lru_cache(maxsize=1024)
def derivative_of_rate_loop(form, dtype):
    """Compile the loop of phi'(v) with the deviation of the rate at hand."""
    return DERIVATIVE_OF_RATE.compile(
        lambda p: form.derivative_of_rate(p, p.v, p.rate), dtype, compute=form.compute(dtype)
    )


def somatic_step(v, compartments, gain):
    """Return the somatic voltage after an Euler step of tau_v dv/dt = -v + v_ff + v_fb (DFC, Meulemans et al. 2021).

    Args:
        compartments: v_ff + v_fb, both relative to what v is relative to. gain: dt / tau_v.
    """
    return (1.0 - gain) * v + gain * compartments


@lru_cache(maxsize=1024)
def step_loop(form, dtype, postsynaptic=None, presynaptic=None, *, first=False, saturated=True):
    """Compile an Euler step of the somatic voltages as deviations from the feedforward state, and the plasticity rule's factors.

    Args:
        postsynaptic: formula of the factor, None for none. presynaptic: formula of r, None where that is r itself.
        first: of the first layer, whose basal voltage stays. saturated: whether there are units far in saturation.
    """

    def formula(p):
        v = somatic_step(p.v, p.apical + p.basal, p.gain)
        alone = first or postsynaptic is None
        rate, difference = (
            (form.change(p, v, saturated),) * 2 if alone else form.changes(p, v, p.basal, saturated)
        )
        symbols = _phase_symbols(form, p, v, lambda: rate, lambda: difference)
        factor = None if postsynaptic is None else evaluate(postsynaptic, symbols)
        seen = None
        if (
            presynaptic is not None
        ):  # its rounding is small beside that of presynaptic(r) in the feedforward state
            seen = presynaptic(p.reference[1] + rate) - presynaptic(p.reference[1])
        return v, rate, factor, seen

    return STEP.compile(formula, dtype, compute=form.compute(dtype))


@lru_cache(maxsize=1024)
def unit_loop(form, dtype, formula):
    """Compile the loop of a formula of `UNIT_SYMBOLS` at the present state of a feedback phase."""

    def value(p):
        changes = _once(lambda: form.changes(p, p.v, p.basal, True))
        symbols = _phase_symbols(form, p, p.v, lambda: changes()[0], lambda: changes()[1])
        return evaluate(formula, symbols)

    return UNIT.compile(value, dtype, compute=form.compute(dtype))


@lru_cache(maxsize=1024)
def online_step_loop(form, dtype, postsynaptic=None, presynaptic=None):
    """Compile an Euler step of the somatic voltages relative to v_ff, which moves; the factor is scaled by weight_gain."""

    def formula(p):
        difference = somatic_step(p.difference - (p.v_ff - p.v_ff_before), p.apical, p.gain)
        rates = form.online(difference, p.v_ff)
        symbols = _online_symbols(form, difference, p.v_ff, p.apical, lambda: rates)
        factor = None if postsynaptic is None else p.weight_gain * evaluate(postsynaptic, symbols)
        seen = None if presynaptic is None else presynaptic(rates[0])
        return difference, p.v_ff, rates[0], factor, seen

    return ONLINE_STEP.compile(formula, dtype, compute=form.compute(dtype))


@lru_cache(maxsize=1024)
def online_unit_loop(form, dtype, formula):
    """Compile the loop of a formula of `UNIT_SYMBOLS` at the present state of an online simulation."""

    def value(p):
        rates = _once(lambda: form.online(p.difference, p.v_ff))
        return evaluate(formula, _online_symbols(form, p.difference, p.v_ff, p.apical, rates))

    return ONLINE_UNIT.compile(value, dtype, compute=form.compute(dtype))


def advance_control(state, terms, dt, alpha, k_p, leaks_integral):
    """Take one step of the controller of DFC (Meulemans et al. 2021) with further terms.

        u_int += dt (e - alpha u + integral terms),   u = u_int + k_p e + control terms,   u <- limit(u)

    Args:
        state: e, e before the step before, the integral of e, u, u_int, u before the step before, u before limits; traced
            values or arrays.
        terms: ((control, integral, limit), ((name of a parameter, value), ...)) of each term, None for no formula.
        leaks_integral: whether u_int leaks instead of u.

    Returns:
        the new u, u_int, integral of e, and u before limits.
    """
    e, e_before, e_int, u_old, u_int, u_before, u_free = state
    e_int = e_int + dt * e
    symbols = {
        "e": e, "de": (e - e_before) / dt, "e_int": e_int, "u": u_old, "u_int": u_int,
        "du": (u_old - u_before) / dt, "u_free": u_free, "dt": dt,
    }  # fmt: skip
    change, u = e - alpha * (u_int if leaks_integral else u_old), k_p * e
    for (control, integral, _), parameters in terms:
        values = {**symbols, **dict(parameters)}
        change = change if integral is None else change + evaluate(integral, values)
        u = u if control is None else u + evaluate(control, values)
    u_int = u_int + dt * change
    u = u_free = u_int + u
    for (_, _, limit), parameters in terms:
        u = u if limit is None else evaluate(limit, {**symbols, **dict(parameters), "u": u})
    return u, u_int, e_int, u_free


def control_loop(terms, *options, compiled=True):
    """Make `advance_control` with these terms and options for all signals of a controller, in float64."""

    def formula(p):
        return advance_control([p.before[k] for k in range(7)], terms, *options)

    if not compiled:
        return CONTROL.trace(formula, np.float64, np.float64)
    return CONTROL.compile(formula, np.float64)


def slope_at_soma(slope):
    """Return phi'(v), as a formula of units."""
    return slope


def _once(function):
    """Return a function that calls this one at most once."""
    values = []

    def call():
        if not values:
            values.append(function())
        return values[0]

    return call


# --- checks of a user's formulas: the trace alone, without machine code ------------------------------------------------


def check_form(form):
    """Trace every formula of a form."""
    for dtype in map(np.dtype, ("f8", "f4")):
        RATE.trace(lambda p: form.rate(p.v), dtype, dtype)
        UNIT.trace(lambda p: form.changes(p, p.v, p.basal, True)[1], dtype, form.compute(dtype))
        UNIT.trace(lambda p: form.derivative(p, p.v), dtype, form.compute(dtype))


def check_unit_formula(formula):
    """Trace a formula of `UNIT_SYMBOLS`."""
    form = Piecewise(1.0)

    def value(p):
        return evaluate(formula, _phase_symbols(form, p, p.v, lambda: p.v, lambda: p.v - p.basal))

    UNIT.trace(value, np.float64, np.float64)


def check_presynaptic(formula, weights):
    """Trace a presynaptic formula, of r or of (u, u_slow)."""
    if weights == "forward":
        RATE.trace(lambda p: formula(p.v), np.float64, np.float64)
    else:
        signal_loop.__wrapped__(formula, compiled=False)


@lru_cache(maxsize=1024)
def signal_loop(formula, compiled=True):
    """Compile the loop of the feedback weights' presynaptic factor as a formula of u and u_slow, in float64."""

    def value(p):
        return evaluate(formula, {"u": p.u, "u_slow": p.u_slow})

    return PAIR.compile(value, np.float64) if compiled else PAIR.trace(value, np.float64, np.float64)
