"""One Euler step of the units of a layer whose weights change: soma, rate and postsynaptic factor, in vector form.

There is no fixed feedforward state to deviate from, so voltages are absolute; but the difference d = v - v_ff, from which
the weights learn, is evolved itself,

    d <- (1 - dt/tau_v) (d - (change of v_ff)) + dt/tau_v v_fb        (the Euler step of v, minus the new v_ff)

and phi(v_ff + d) - phi(v_ff) is computed from d as in `elementwise`: with E = exp(2 d) - 1, X = exp(2 d) and
q = exp(-2 v_ff), for tanh

    phi(v) = (X - q) / (X + q),     phi(v) - phi(v_ff) = 2 q E / ((1 + q) (X + q)),     phi'(v) = 4 q X / (X + q)^2

and for the logistic function, with d and v_ff in place of 2 d and 2 v_ff,

    phi(v) = X / (X + q),           phi(v) - phi(v_ff) = q E / ((1 + q) (X + q)),       phi'(v) = q X / (X + q)^2.
"""

from dfc_numba.kernels.elementwise import (
    ARGUMENT_LIMIT,
    EXPONENT_LIMIT,
    _expm1_and_exp,
    _piecewise_difference,
)
from dfc_numba.kernels.simd import clamp, elementwise, select


def _relaxed(difference, basal, before, apical, gain):
    return (1.0 - gain) * (difference - (basal - before)) + gain * apical


def _terms(difference, basal, slope):
    """(E, X) of the difference and (q - 1, q) of the basal voltage; what saturates of the latter goes to the former."""
    size = basal.dtype.itemsize
    scaled = slope * basal
    kept = clamp(scaled, -ARGUMENT_LIMIT[size], ARGUMENT_LIMIT[size])
    beyond = clamp(slope * difference + (scaled - kept), -EXPONENT_LIMIT[size], EXPONENT_LIMIT[size])
    return *_expm1_and_exp(beyond), *_expm1_and_exp(-kept)


@elementwise(
    outputs=["difference_new", "basal_new", "rate", "factor"],
    inputs=["difference", "basal", "before", "apical"],
    scalars=["gain", "slope", "weight_gain"],
)
def advance_logistic(difference, basal, before, apical, gain, slope, weight_gain):
    """Step of a tanh (slope 2) or sigmoid (slope 1) layer to a new basal voltage; the factor is scaled by weight_gain."""
    difference = _relaxed(difference, basal, before, apical, gain)
    soma_e, soma_x, basal_e, q = _terms(difference, basal, slope)
    common = 1.0 / ((soma_x + q) * (1.0 + q))
    tanh = slope - 1.0
    # X - q from whichever of exp(x) - 1 and exp(x) keeps its digits
    above = tanh * select(soma_e < -0.5, soma_x - q, soma_e - basal_e) + (1.0 - tanh) * soma_x
    rate = above * (1.0 + q) * common
    return difference, basal, rate, weight_gain * (slope * q * soma_e * common)


@elementwise(
    outputs=["difference_new", "basal_new", "rate", "factor"],
    inputs=["difference", "basal", "before", "apical"],
    scalars=["gain", "slope", "weight_gain"],
)
def advance_piecewise(difference, basal, before, apical, gain, slope, weight_gain):
    """The same for a linear, relu or leakyrelu layer, of slope 1, 0 or 0.2 below zero."""
    difference = _relaxed(difference, basal, before, apical, gain)
    v = basal + difference
    rate = select(v < 0.0, slope * v, v)
    return difference, basal, rate, weight_gain * _piecewise_difference(difference, basal, slope)


@elementwise(outputs=["derivative"], inputs=["difference", "basal"], scalars=["slope", "share"])
def derivative_logistic(difference, basal, slope, share):
    """phi'(v_ff + share d): of the soma for share 1, of the basal voltage for share 0."""
    _, x, _, q = _terms(share * difference, basal, slope)
    return (slope * (slope * q) / (x + q)) * (x / (x + q))


@elementwise(outputs=["derivative"], inputs=["difference", "basal"], scalars=["slope", "share"])
def derivative_piecewise(difference, basal, slope, share):
    """The same for a linear, relu or leakyrelu layer; 1 at the kink."""
    return select(basal + share * difference < 0.0, slope, 1.0 + 0.0 * basal)


@elementwise(outputs=["out"], inputs=["x"], scalars=["p"])
def scale(x, p):
    """p x."""
    return p * x


@elementwise(outputs=["watch_new"], inputs=["watch", "basal", "difference"])
def watch(watch, basal, difference):
    """Zeros stay zeros while v = v_ff + d is finite, and become NaN for ever where it is not."""
    return watch + 0.0 * (basal + difference)
