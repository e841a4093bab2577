"""What the units of a layer compute: activation functions, differences of them, and the loops that kernels call.

DFC learns from small differences phi(a + d) - phi(a), which vanish in rounding if they are taken from two large numbers.
A *form* evaluates an activation from the deviation d itself. `Logistic` has a relative error of a few units in the last
place (s = 2 for tanh, s = 1 for the logistic function):

    phi(a + d) - phi(a) = G E / (q + X),     E = exp(s d) - 1,  X = exp(s d),  q = exp(-s a),  G = s / (1 + exp(s a))

all of them positive, so that nothing cancels. The difference of two such differences, at the soma and at the basal
compartment, is s q (E_soma - E_basal) / ((q + X_soma) (q + X_basal)). `Piecewise` functions with slope s for negative
arguments (relu: 0, leakyrelu: 0.2, linear: 1) obey

    phi(a + d) - phi(a) = s d + (1 - s) (max(d, -a) + min(a, 0)).

`Traced` is an activation whose formulas a user has given.

Voltages in a feedback phase are deviations from the feedforward pass (names: v, basal; the apical compartment starts at 0);
while weights change there is no fixed state to deviate from, and loops of `Online` kind take the absolute basal voltage and
the difference d = v - v_ff. The functions at the end compile the loops of a layer.
"""

import inspect
from functools import lru_cache

import numpy as np
from dfc_numba.kernels import functions as f
from dfc_numba.kernels.loops import Kind
from dfc_numba.kernels.simd import FormulaError, clamp, select

# feedforward arguments s * v beyond this are saturated; the remainder is shifted into the deviation
ARGUMENT_LIMIT = {8: 300.0, 4: 26.0}

# names that formulas of a unit may use
UNIT_SYMBOLS = ("v", "v_ff", "v_fb", "dv", "dr", "r", "r_ff", "slope", "slope_ff", "slope_0")
# of these, what needs the feedforward state itself: its voltage, rate and derivative
AT_START = frozenset({"v", "v_ff", "r", "r_ff", "slope_0"})


# --- forms -----------------------------------------------------------------------------------------------------------
# `p` are the inputs of a loop; p.constants are three planes that `constants` makes of the feedforward voltage.


def logistic_terms(argument, q):
    """(E, X, q + X) of the difference formula; argument: s times the deviation, plus the shift if there is one."""
    limit = f.EXPONENT_LIMIT[argument.dtype.itemsize]
    expm1, power = f.expm1_and_exp(clamp(argument, -limit, limit))
    return expm1, power, q + power


class Logistic:
    """tanh (slope 2) and the logistic function (slope 1). Constants: q, G, and what is clipped off s v."""

    def __init__(self, slope):
        self.slope = float(slope)

    def compute(self, dtype):
        """The dtype of the arithmetic."""
        return dtype

    def rate(self, v):
        """phi(v)."""
        return f.tanh(v) if self.slope == 2.0 else f.sigmoid(v)

    def constants(self, v, limit):
        """The constants at the feedforward voltage v; limit: `ARGUMENT_LIMIT` of the dtype that they are meant for."""
        scaled = self.slope * v
        x = clamp(scaled, -limit, limit)
        return f.exp(-x), self.slope / (1.0 + f.exp(x)), scaled - x

    def _argument(self, p, deviation, saturated):
        # only units that are far in saturation have a shift; layers without such units do without it
        return self.slope * deviation + p.constants[2] if saturated else self.slope * deviation

    def change(self, p, v, saturated):
        """phi(v) - phi(a)."""
        expm1, _, denominator = logistic_terms(self._argument(p, v, saturated), p.constants[0])
        return expm1 * p.constants[1] / denominator

    def changes(self, p, v, basal, saturated):
        """(phi(v) - phi(a), phi(v) - phi(v_ff)), with one division."""
        q, g = p.constants[0], p.constants[1]
        soma_e, soma_x, soma_d = logistic_terms(self._argument(p, v, saturated), q)
        basal_e, basal_x, basal_d = logistic_terms(self._argument(p, basal, saturated), q)
        common = 1.0 / (soma_d * basal_d)
        # a difference of two exponentials, from whichever of exp(x) - 1 and exp(x) keeps its digits
        difference = select(soma_e < -0.5, soma_x - basal_x, soma_e - basal_e)
        return soma_e * basal_d * g * common, difference * (self.slope * q) * common

    def derivative(self, p, v):
        """phi'(v)."""
        _, power, denominator = logistic_terms(self._argument(p, v, True), p.constants[0])
        return (self.slope * (self.slope * p.constants[0]) / denominator) * (power / denominator)

    def derivative_of_rate(self, p, v, rate):
        """phi'(v) from the deviation of the rate: s^2 y (1 - y) with y = 1 / (1 + exp(-s v)).

        Saturated units lose digits to rounding, which are missed neither in a Newton step nor in a judgement of stability.
        """
        y = 1.0 / (1.0 + p.constants[0]) + rate / self.slope
        return self.slope * self.slope * y * (1.0 - y)

    def _online_terms(self, difference, basal):
        """(E, X) of the difference and (q - 1, q) of the basal voltage, whose saturated part goes to the former."""
        size = basal.dtype.itemsize
        scaled = self.slope * basal
        kept = clamp(scaled, -ARGUMENT_LIMIT[size], ARGUMENT_LIMIT[size])
        limit = f.EXPONENT_LIMIT[size]
        beyond = clamp(self.slope * difference + (scaled - kept), -limit, limit)
        return *f.expm1_and_exp(beyond), *f.expm1_and_exp(-kept)

    def online(self, difference, basal):
        """(phi(v), phi(v) - phi(v_ff)): for tanh (X - q) / (X + q) and 2 q E / ((1 + q) (X + q)), q = exp(-2 v_ff)."""
        soma_e, soma_x, basal_e, q = self._online_terms(difference, basal)
        common = 1.0 / ((soma_x + q) * (1.0 + q))
        above = soma_x
        if self.slope == 2.0:  # X - q from whichever of exp(x) - 1 and exp(x) keeps its digits
            above = select(soma_e < -0.5, soma_x - q, soma_e - basal_e)
        return above * (1.0 + q) * common, self.slope * q * soma_e * common

    def online_derivative(self, difference, basal):
        """phi'(v_ff + d)."""
        _, x, _, q = self._online_terms(difference, basal)
        return (self.slope * (self.slope * q) / (x + q)) * (x / (x + q))


class Piecewise:
    """Linear, relu and leakyrelu: slope s below zero, 1 above and at the kink. Constant: v_ff."""

    def __init__(self, slope):
        self.slope = float(slope)

    def compute(self, dtype):
        return dtype

    def rate(self, v):
        return v if self.slope == 1.0 else select(v < 0.0, self.slope * v if self.slope else 0.0, v)

    def constants(self, v, limit):
        return v, None, None

    def _difference(self, deviation, start):
        rectified = select(deviation < -start, -start, deviation) + select(start < 0.0, start, 0.0)
        return self.slope * deviation + (1.0 - self.slope) * rectified

    def change(self, p, v, saturated):
        return self._difference(v, p.constants[0])

    def changes(self, p, v, basal, saturated):
        rate = self._difference(v, p.constants[0])
        return rate, rate - self._difference(basal, p.constants[0])

    def derivative(self, p, v):
        return select(v + p.constants[0] < 0.0, self.slope, 1.0 + 0.0 * v)

    def derivative_of_rate(self, p, v, rate):
        return self.derivative(p, v)

    def online(self, difference, basal):
        v = basal + difference
        return select(v < 0.0, self.slope * v, v), self._difference(difference, basal)

    def online_derivative(self, difference, basal):
        return select(basal + difference < 0.0, self.slope, 1.0 + 0.0 * basal)


class Traced:
    """An activation given by formulas. Constant: v_ff.

    Where there is no formula for phi(a + d) - phi(a), differences are taken in float64, whatever the dtype of the network.
    """

    def __init__(self, phi, derivative, difference=None):
        self._phi, self._derivative, self._given = phi, derivative, difference

    def compute(self, dtype):
        return np.dtype(dtype) if self._given is not None else np.dtype(np.float64)

    def rate(self, v):
        return self._phi(v)

    def constants(self, v, limit):
        return v, None, None

    def _difference(self, start, deviation):
        if self._given is not None:
            return self._given(start, deviation)
        return self._phi(start + deviation) - self._phi(start)

    def change(self, p, v, saturated):
        return self._difference(p.constants[0], v)

    def changes(self, p, v, basal, saturated):
        start = p.constants[0]
        return self._difference(start, v), self._difference(start + basal, v - basal)

    def derivative(self, p, v):
        return self._derivative(p.constants[0] + v)

    def derivative_of_rate(self, p, v, rate):
        return self.derivative(p, v)

    def online(self, difference, basal):
        return self._phi(basal + difference), self._difference(basal, difference)

    def online_derivative(self, difference, basal):
        return self._derivative(basal + difference)


# --- formulas of units: postsynaptic factors, presynaptic factors, variables -------------------------------------------


@lru_cache(maxsize=1024)
def arguments(formula):
    """Names of the arguments of a formula."""
    return tuple(inspect.signature(formula).parameters)


def returns_argument(formula, name):
    """Whether a formula is `lambda name: name`."""
    marker = object()
    return arguments(formula) == (name,) and formula(marker) is marker


def evaluate(formula, symbols):
    """The value of a formula, given its symbols by name."""
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
    """Symbols in a feedback phase; `change` and `difference` give phi(v) - phi(a) and phi(v) - phi(v_ff)."""
    return _Symbols(
        v=lambda: p.start[0] + v,
        v_ff=lambda: p.start[0] + p.basal,
        v_fb=lambda: p.apical,
        dv=lambda: v - p.basal,
        dr=difference,
        r=lambda: p.start[1] + change(),
        r_ff=lambda: p.start[1] + (change() - difference()),
        slope=lambda: form.derivative(p, v),
        slope_ff=lambda: form.derivative(p, p.basal),
        slope_0=lambda: p.start[2],
    )


def _online_symbols(form, difference, basal, apical, rates):
    return _Symbols(
        v=lambda: basal + difference,
        v_ff=lambda: basal,
        v_fb=lambda: apical,
        dv=lambda: difference,
        dr=lambda: rates()[1],
        r=lambda: rates()[0],
        r_ff=lambda: rates()[0] - rates()[1],
        slope=lambda: form.online_derivative(difference, basal),
        slope_ff=lambda: form.online_derivative(0.0 * difference, basal),
        # there is no feedforward pass whose state stays: the derivative at the basal voltage of the same time
        slope_0=lambda: form.online_derivative(0.0 * difference, basal),
    )


# --- kinds of loops ----------------------------------------------------------------------------------------------------
# v, basal, apical, rate are deviations from the feedforward state; factor: the postsynaptic factor of a plasticity rule;
# seen: what its presynaptic factor deviates by; start: voltage, rate and derivative at the feedforward state.

RATE = Kind("rate_loop", ["rate"], ["v"])
CONSTANTS = Kind("constants_loop", ["constants*3"], ["v"])
STEP = Kind(
    "step_loop",
    ["v_new", "rate", "factor", "seen"],
    ["v", "basal", "apical", "constants*3", "start*3"],
    ["gain"],
)
UNIT = Kind("unit_loop", ["out"], ["v", "basal", "apical", "constants*3", "start*3"])
DERIVATIVE_OF_RATE = Kind("derivative_of_rate_loop", ["derivative"], ["v", "rate", "constants*3"])
ONLINE_STEP = Kind(
    "online_step_loop",
    ["difference_new", "basal_new", "rate", "factor", "seen"],
    ["difference", "basal", "before", "apical"],
    ["gain", "weight_gain"],
)
ONLINE_UNIT = Kind("online_unit_loop", ["out"], ["difference", "basal", "apical"])
CONTROL = Kind(
    "control_loop",
    ["u_new", "u_int_new", "e_int_new", "u_free_new"],
    ["e", "e_before", "e_int", "u", "u_int", "u_before", "u_free"],
)
PAIR = Kind("pair_loop", ["out"], ["u", "u_slow"])

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
    """rate = phi(v), v the voltage itself."""
    return RATE.compile(lambda p: form.rate(p.v), dtype)


@lru_cache(maxsize=1024)
def constants_loop(form, dtype):
    """The constants at the feedforward voltage, computed in float64 for loops of `dtype`."""
    return CONSTANTS.compile(
        lambda p: form.constants(p.v, ARGUMENT_LIMIT[np.dtype(dtype).itemsize]), np.float64
    )


@lru_cache(maxsize=1024)
def derivative_loop(form, dtype):
    """phi'(v); v is a deviation."""
    return UNIT.compile(lambda p: form.derivative(p, p.v), dtype, compute=form.compute(dtype))


@lru_cache(maxsize=1024)
def derivative_of_rate_loop(form, dtype):
    """phi'(v) with the deviation of the rate at hand."""
    return DERIVATIVE_OF_RATE.compile(
        lambda p: form.derivative_of_rate(p, p.v, p.rate), dtype, compute=form.compute(dtype)
    )


@lru_cache(maxsize=1024)
def step_loop(form, dtype, postsynaptic=None, presynaptic=None, *, first=False, saturated=True):
    """One Euler step of tau_v dv/dt = -v + v_ff + v_fb, gain = dt / tau_v, with what a plasticity rule makes of it.

    Args:
        postsynaptic: formula of the factor, None for none. presynaptic: formula of r, None where that is r itself.
        first: of the first layer, whose basal voltage stays. saturated: whether there are units far in saturation.
    """

    def formula(p):
        v = (1.0 - p.gain) * p.v + p.gain * (p.apical + p.basal)
        alone = first or postsynaptic is None
        rate, difference = (
            (form.change(p, v, saturated),) * 2 if alone else form.changes(p, v, p.basal, saturated)
        )
        symbols = _phase_symbols(form, p, v, lambda: rate, lambda: difference)
        factor = None if postsynaptic is None else evaluate(postsynaptic, symbols)
        seen = None
        if presynaptic is not None:
            seen = presynaptic(p.start[1] + rate) - presynaptic(p.start[1])
        return v, rate, factor, seen

    compute = form.compute(dtype) if presynaptic is None else np.float64
    return STEP.compile(formula, dtype, compute=compute)


@lru_cache(maxsize=1024)
def unit_loop(form, dtype, formula):
    """A formula of `UNIT_SYMBOLS` at the present state of a feedback phase."""

    def value(p):
        changes = _once(lambda: form.changes(p, p.v, p.basal, True))
        symbols = _phase_symbols(form, p, p.v, lambda: changes()[0], lambda: changes()[1])
        return evaluate(formula, symbols)

    return UNIT.compile(value, dtype, compute=form.compute(dtype))


@lru_cache(maxsize=1024)
def online_step_loop(form, dtype, postsynaptic=None, presynaptic=None):
    """One Euler step to a new basal voltage; the factor is scaled by weight_gain.

    d <- (1 - gain) (d - (change of v_ff)) + gain v_fb           (the Euler step of v, minus the new v_ff)
    """

    def formula(p):
        difference = (1.0 - p.gain) * (p.difference - (p.basal - p.before)) + p.gain * p.apical
        rates = form.online(difference, p.basal)
        symbols = _online_symbols(form, difference, p.basal, p.apical, lambda: rates)
        factor = None if postsynaptic is None else p.weight_gain * evaluate(postsynaptic, symbols)
        seen = None if presynaptic is None else presynaptic(rates[0])
        return difference, p.basal, rates[0], factor, seen

    return ONLINE_STEP.compile(formula, dtype, compute=form.compute(dtype))


@lru_cache(maxsize=1024)
def online_unit_loop(form, dtype, formula):
    """A formula of `UNIT_SYMBOLS` at the present state of an online simulation."""

    def value(p):
        rates = _once(lambda: form.online(p.difference, p.basal))
        return evaluate(formula, _online_symbols(form, p.difference, p.basal, p.apical, rates))

    return ONLINE_UNIT.compile(value, dtype, compute=form.compute(dtype))


def slope_at_soma(slope):
    """phi'(v), as a formula of units."""
    return slope


def slope_at_basal(slope_ff):
    """phi'(v_ff), as a formula of units."""
    return slope_ff


def _once(function):
    """The function, called at most once."""
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
    """The presynaptic factor of the feedback weights as a formula of u and u_slow, in float64."""

    def value(p):
        return evaluate(formula, {"u": p.u, "u_slow": p.u_slow})

    return PAIR.compile(value, np.float64) if compiled else PAIR.trace(value, np.float64, np.float64)
