"""Forms: how an activation evaluates differences phi(a + d) - phi(a) of rates from the deviation d itself.

DFC learns from such differences, which vanish in rounding if they are taken from two large numbers. `Logistic` has a
relative error of a few units in the last place (s = 2 for tanh, s = 1 for the logistic function):

    phi(a + d) - phi(a) = G E / (q + X),     E = exp(s d) - 1,  X = exp(s d),  q = exp(-s a),  G = s / (1 + exp(s a))

all of them positive, so that nothing cancels. The difference of two such differences, at the soma and at the basal
compartment, is s q (E_soma - E_basal) / ((q + X_soma) (q + X_basal)). `Piecewise` functions, s v for negative
arguments (relu: s = 0, leakyrelu: 0.2, linear: 1), obey

    phi(a + d) - phi(a) = s d + (1 - s) (max(d, -a) + min(a, 0)).

`Traced` is an activation whose formulas a user has given.

A form is traced by the loops of `units`: its methods take `p`, the inputs of a loop, of which p.constants are three planes
that `constants` makes of the feedforward voltage a.
"""

import numpy as np

from dfc_numba.kernels import functions as f
from dfc_numba.kernels.simd import clamp, select

# feedforward arguments s * v beyond this are saturated; the remainder is shifted into the deviation
ARGUMENT_LIMIT = {8: 300.0, 4: 26.0}


def logistic_terms(argument, q):
    """Return (E, X, q + X) of the difference formula; argument: s times the deviation, plus the shift if there is one."""
    limit = f.EXPONENT_LIMIT[argument.dtype.itemsize]
    expm1, power = f.expm1_and_exp(clamp(argument, -limit, limit))
    return expm1, power, q + power


class Logistic:
    """tanh (steepness s = 2) and the logistic function (s = 1). Constants: q, G, and what is clipped off s v."""

    def __init__(self, steepness):
        self.steepness = float(steepness)

    def compute(self, dtype):
        """Return the dtype of the arithmetic."""
        return dtype

    def rate(self, v):
        """Return phi(v)."""
        return f.tanh(v) if self.steepness == 2.0 else f.sigmoid(v)

    def constants(self, v, limit):
        """Return the constants at the feedforward voltage v; limit: `ARGUMENT_LIMIT` of the dtype that they are meant for."""
        scaled = self.steepness * v
        x = clamp(scaled, -limit, limit)
        return f.exp(-x), self.steepness / (1.0 + f.exp(x)), scaled - x

    def _argument(self, p, deviation, saturated):
        # only units that are far in saturation have a shift; layers without such units do without it
        return self.steepness * deviation + p.constants[2] if saturated else self.steepness * deviation

    def change(self, p, v, saturated):
        """Return phi(v) - phi(a)."""
        expm1, _, denominator = logistic_terms(self._argument(p, v, saturated), p.constants[0])
        return expm1 * p.constants[1] / denominator

    def changes(self, p, v, basal, saturated):
        """Return (phi(v) - phi(a), phi(v) - phi(v_ff)), with one division."""
        q, g = p.constants[0], p.constants[1]
        soma_e, soma_x, soma_d = logistic_terms(self._argument(p, v, saturated), q)
        basal_e, basal_x, basal_d = logistic_terms(self._argument(p, basal, saturated), q)
        common = 1.0 / (soma_d * basal_d)
        # a difference of two exponentials, from whichever of exp(x) - 1 and exp(x) keeps its digits
        difference = select(soma_e < -0.5, soma_x - basal_x, soma_e - basal_e)
        return soma_e * basal_d * g * common, difference * (self.steepness * q) * common

    def derivative(self, p, v):
        """Return phi'(v)."""
        _, power, denominator = logistic_terms(self._argument(p, v, True), p.constants[0])
        return (self.steepness * (self.steepness * p.constants[0]) / denominator) * (power / denominator)

    def derivative_of_rate(self, p, v, rate):
        """Return phi'(v) from the deviation of the rate: s^2 y (1 - y) with y = 1 / (1 + exp(-s v)).

        Saturated units lose digits to rounding, which are missed neither in a Newton step nor in a judgement of stability.
        """
        y = 1.0 / (1.0 + p.constants[0]) + rate / self.steepness
        return self.steepness * self.steepness * y * (1.0 - y)

    def _online_terms(self, difference, v_ff):
        """Return (E, X) of the difference and (q - 1, q) of v_ff, whose saturated part goes to the former."""
        size = v_ff.dtype.itemsize
        scaled = self.steepness * v_ff
        kept = clamp(scaled, -ARGUMENT_LIMIT[size], ARGUMENT_LIMIT[size])
        limit = f.EXPONENT_LIMIT[size]
        beyond = clamp(self.steepness * difference + (scaled - kept), -limit, limit)
        return *f.expm1_and_exp(beyond), *f.expm1_and_exp(-kept)

    def online(self, difference, v_ff):
        """Return (phi(v), phi(v) - phi(v_ff)): for tanh (X - q) / (X + q) and 2 q E / ((1 + q) (X + q)), q = exp(-2 v_ff)."""
        soma_e, soma_x, basal_e, q = self._online_terms(difference, v_ff)
        common = 1.0 / ((soma_x + q) * (1.0 + q))
        above = soma_x
        if self.steepness == 2.0:  # X - q from whichever of exp(x) - 1 and exp(x) keeps its digits
            above = select(soma_e < -0.5, soma_x - q, soma_e - basal_e)
        return above * (1.0 + q) * common, self.steepness * q * soma_e * common

    def online_derivative(self, difference, v_ff):
        """Return phi'(v_ff + d)."""
        _, x, _, q = self._online_terms(difference, v_ff)
        return (self.steepness * (self.steepness * q) / (x + q)) * (x / (x + q))


class Piecewise:
    """Linear, relu and leakyrelu: `below` times v below zero, v above and at the kink. Constant: v_ff."""

    def __init__(self, below):
        self.below = float(below)

    def compute(self, dtype):
        return dtype

    def rate(self, v):
        return v if self.below == 1.0 else select(v < 0.0, self.below * v if self.below else 0.0, v)

    def constants(self, v, limit):
        return v, None, None

    def _difference(self, deviation, start):
        rectified = select(deviation < -start, -start, deviation) + select(start < 0.0, start, 0.0)
        return self.below * deviation + (1.0 - self.below) * rectified

    def change(self, p, v, saturated):
        return self._difference(v, p.constants[0])

    def changes(self, p, v, basal, saturated):
        rate = self._difference(v, p.constants[0])
        return rate, rate - self._difference(basal, p.constants[0])

    def derivative(self, p, v):
        return select(v + p.constants[0] < 0.0, self.below, 1.0 + 0.0 * v)

    def derivative_of_rate(self, p, v, rate):
        return self.derivative(p, v)

    def online(self, difference, v_ff):
        v = v_ff + difference
        return select(v < 0.0, self.below * v, v), self._difference(difference, v_ff)

    def online_derivative(self, difference, v_ff):
        return select(v_ff + difference < 0.0, self.below, 1.0 + 0.0 * v_ff)


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

    def online(self, difference, v_ff):
        return self._phi(v_ff + difference), self._difference(v_ff, difference)

    def online_derivative(self, difference, v_ff):
        return self._derivative(v_ff + difference)
