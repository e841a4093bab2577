"""Exponentials, activation functions and their differences, in branch-free vector form.

DFC learns from small differences phi(a + d) - phi(a), which vanish in rounding if they are taken from two large numbers.
Here they are computed from the deviation d itself, with a relative error of a few units in the last place:

    tanh(a + d) - tanh(a) = G E / (q + X),     E = exp(2 d) - 1,  X = exp(2 d)

with q = exp(-2 a) and G = 2 / (1 + exp(2 a)), all of them positive, so that nothing cancels. The logistic function obeys
the same formula with d and a in place of 2 d and 2 a and G = 1 / (1 + exp(a)). Two such differences, of soma and basal
compartment, differ by slope q (E_soma - E_basal) / ((q + X_soma) (q + X_basal)). Piecewise linear functions with slope s
for negative arguments (relu: 0, leakyrelu: 0.2, linear: 1) obey

    phi(a + d) - phi(a) = s d + (1 - s) (max(d, -a) + min(a, 0)).
"""

import math

from dfc_numba.kernels.simd import (
    clamp,
    elementwise,
    polynomial,
    power_of_two,
    round_to_integer,
    rounded_each,
    select,
    split_exponent,
    square_root,
)

LN2_HIGH = {8: 0.6931471803691238, 4: 0.693359375}
LN2_LOW = {8: 1.9082149292705877e-10, 4: -2.12194440e-4}
# exp(f) - 1 = f + f^2 p(f) on |f| <= ln(2)/2, p interpolating at Chebyshev's points: relative error 4e-17 and 2.4e-8
EXPM1_TAIL = {
    8: (
        0.5000000000000001, 0.16666666666666669, 0.04166666666662413, 0.008333333333330062, 0.0013888888917213717,
        0.00019841269863053618, 2.4801521295954376e-05, 2.7557268459997064e-06, 2.7620088445409746e-07,
        2.510038549551032e-08,
    ),
    4: (0.5, 0.16666576989698775, 0.041666554617204574, 0.008363179052722578, 0.0013926183587713494),
}  # fmt: skip
# exp(EXPONENT_LIMIT) squared is still finite
EXPONENT_LIMIT = {8: 354.0, 4: 44.0}
# feedforward arguments slope * v beyond this are saturated; the remainder is shifted into the deviation
ARGUMENT_LIMIT = {8: 300.0, 4: 26.0}


def _reduced(x):
    """(2**n, exp(f) - 1) with x = n ln 2 + f and |f| <= ln(2)/2."""
    size = x.dtype.itemsize
    n = round_to_integer(x * math.log2(math.e))
    f = (x - n * LN2_HIGH[size]) - n * LN2_LOW[size]
    return power_of_two(n), f * f * polynomial(f, EXPM1_TAIL[size]) + f


def _expm1_and_exp(x):
    """(exp(x) - 1, exp(x)) for |x| within the range of normal numbers."""
    scale, small = _reduced(x)
    return scale * small + (scale - 1.0), scale * small + scale


def _exponential(x):
    """exp(x); inf where it overflows, the smallest normal number where it underflows."""
    low, high = {8: (-708.0, 710.0), 4: (-87.0, 89.0)}[x.dtype.itemsize]
    scale, small = _reduced(clamp(x, low, high))
    return scale * (1.0 + small)


# --- activation functions ---------------------------------------------------------------------------------------------


@elementwise(outputs=["rate"], inputs=["v"])
def tanh_rate(v):
    """r = tanh(v)."""
    limit = EXPONENT_LIMIT[v.dtype.itemsize]
    expm1, _ = _expm1_and_exp(clamp(v + v, -limit, limit))
    return expm1 / (expm1 + 2.0)


@elementwise(outputs=["rate"], inputs=["v"])
def sigmoid_rate(v):
    """r = 1 / (1 + exp(-v))."""
    return 1.0 / (1.0 + _exponential(-v))


@elementwise(outputs=["rate"], inputs=["v"])
def relu_rate(v):
    """r = max(v, 0)."""
    return select(v < 0.0, 0.0, v)


@elementwise(outputs=["rate"], inputs=["v"], scalars=["slope"])
def piecewise_rate(v, slope):
    """r = v for v > 0, slope v otherwise; slope 1 is the linear function, 0.2 leakyrelu."""
    return select(v < 0.0, slope * v, v)


@elementwise(outputs=["constants*3"], inputs=["v"], scalars=["slope", "limit"])
def logistic_constants(v, slope, limit):
    """The constants q, G of the difference formula at the feedforward voltage v, and the clipped part of slope * v.

    slope is 2 for tanh and 1 for sigmoid. limit: `ARGUMENT_LIMIT` of the dtype that the constants are meant for, which
    need not be the one they are computed in.
    """
    scaled = slope * v
    x = clamp(scaled, -limit, limit)
    return _exponential(-x), slope / (1.0 + _exponential(x)), scaled - x


def _logistic_terms(argument, q):
    """(E, X, q + X) of the difference formula; argument: slope times the deviation, plus the shift if there is one."""
    limit = EXPONENT_LIMIT[argument.dtype.itemsize]
    expm1, power = _expm1_and_exp(clamp(argument, -limit, limit))
    return expm1, power, q + power


def _logistic_differences(soma, basal, q, g, slope):
    """(phi(v) - phi(a), phi(v) - phi(v_ff)) from the arguments of soma and basal compartment, with one division."""
    soma_e, soma_x, soma_d = _logistic_terms(soma, q)
    basal_e, basal_x, basal_d = _logistic_terms(basal, q)
    common = 1.0 / (soma_d * basal_d)
    # a difference of two exponentials, from whichever of exp(x) - 1 and exp(x) keeps its digits
    difference = select(soma_e < -0.5, soma_x - basal_x, soma_e - basal_e)
    return soma_e * basal_d * g * common, difference * (slope * q) * common


def _piecewise_difference(deviation, v_ff, slope):
    rectified = select(deviation < -v_ff, -v_ff, deviation) + select(v_ff < 0.0, v_ff, 0.0)
    return slope * deviation + (1.0 - slope) * rectified


def _relaxed(v, basal, apical, gain):
    """One Euler step of tau_v dv/dt = -v + v_ff + v_fb, gain = dt / tau_v; gain 1 gives v = v_ff + v_fb."""
    return (1.0 - gain) * v + gain * (apical + basal)


# --- one Euler step of a layer: soma, rate, postsynaptic factor -------------------------------------------------------
# v, basal, apical, rate are deviations from the feedforward state; `factor` is phi(v) - phi(v_ff).


# A unit that is far in saturation has a third constant, the shift; layers without such units do without it.


@elementwise(
    outputs=["v_new", "rate", "factor"],
    inputs=["v", "basal", "apical", "constants*2"],
    scalars=["gain", "slope"],
)
def step_logistic(v, basal, apical, q, g, gain, slope):
    """Step of a tanh or sigmoid layer."""
    v = _relaxed(v, basal, apical, gain)
    return v, *_logistic_differences(slope * v, slope * basal, q, g, slope)


@elementwise(
    outputs=["v_new", "rate", "factor"],
    inputs=["v", "basal", "apical", "constants*3"],
    scalars=["gain", "slope"],
)
def step_saturated(v, basal, apical, q, g, shift, gain, slope):
    """The same for a layer with units in saturation."""
    v = _relaxed(v, basal, apical, gain)
    return v, *_logistic_differences(slope * v + shift, slope * basal + shift, q, g, slope)


@elementwise(
    outputs=["v_new", "rate"], inputs=["v", "basal", "apical", "constants*2"], scalars=["gain", "slope"]
)
def step_logistic_rate(v, basal, apical, q, g, gain, slope):
    """Step of a tanh or sigmoid layer without the factor."""
    v = _relaxed(v, basal, apical, gain)
    expm1, _, denominator = _logistic_terms(slope * v, q)
    return v, expm1 * g / denominator


@elementwise(
    outputs=["v_new", "rate"], inputs=["v", "basal", "apical", "constants*3"], scalars=["gain", "slope"]
)
def step_saturated_rate(v, basal, apical, q, g, shift, gain, slope):
    """The same for a layer with units in saturation."""
    v = _relaxed(v, basal, apical, gain)
    expm1, _, denominator = _logistic_terms(slope * v + shift, q)
    return v, expm1 * g / denominator


@elementwise(
    outputs=["v_new", "rate", "factor"], inputs=["v", "basal", "apical", "v_ff"], scalars=["gain", "slope"]
)
def step_piecewise(v, basal, apical, v_ff, gain, slope):
    """Step of a linear, relu or leakyrelu layer."""
    v = _relaxed(v, basal, apical, gain)
    rate = _piecewise_difference(v, v_ff, slope)
    return v, rate, rate - _piecewise_difference(basal, v_ff, slope)


@elementwise(outputs=["factor"], inputs=["v", "basal", "constants*3"], scalars=["slope"])
def difference_logistic(v, basal, q, g, shift, slope):
    """phi(v) - phi(v_ff) of a tanh or sigmoid layer."""
    _, factor = _logistic_differences(slope * v + shift, slope * basal + shift, q, g, slope)
    return factor


@elementwise(outputs=["factor"], inputs=["v", "basal", "v_ff"], scalars=["slope"])
def difference_piecewise(v, basal, v_ff, slope):
    """phi(v) - phi(v_ff) of a linear, relu or leakyrelu layer."""
    return _piecewise_difference(v, v_ff, slope) - _piecewise_difference(basal, v_ff, slope)


# --- derivatives --------------------------------------------------------------------------------------------------------


@elementwise(outputs=["derivative"], inputs=["v", "constants*3"], scalars=["slope"])
def derivative_logistic(v, q, g, shift, slope):
    """phi'(v_ff + v) of a tanh or sigmoid layer, v the deviation."""
    _, power, denominator = _logistic_terms(slope * v + shift, q)
    return (slope * (slope * q) / denominator) * (power / denominator)


@elementwise(outputs=["derivative"], inputs=["v", "v_ff"], scalars=["slope"])
def derivative_piecewise(v, v_ff, slope):
    """phi'(v_ff + v) of a linear, relu or leakyrelu layer; 1 at the kink."""
    return select(v + v_ff < 0.0, slope, 1.0 + 0.0 * v)


# --- small linear passes ------------------------------------------------------------------------------------------------


@elementwise(outputs=["out"], inputs=["x", "y"])
def subtract(x, y):
    """x - y."""
    return x - y


@elementwise(outputs=["out"], inputs=["x", "y"])
def multiply(x, y):
    """x * y."""
    return x * y


@elementwise(outputs=["out"], inputs=["x", "y"], scalars=["p", "q"])
def combine(x, y, p, q):
    """p x + q y: the Euler step of a low-pass filter with p = 1 - dt/tau, q = dt/tau, or a sum with p = q = 1."""
    return p * x + q * y


@elementwise(outputs=["out"], inputs=["x", "y", "noise"], scalars=["p", "q", "sigma"])
def combine_noisy(x, y, noise, p, q, sigma):
    """The same with noise."""
    return p * x + q * y + sigma * noise


# --- normal deviates ------------------------------------------------------------------------------------------------------


def _log(x):
    """Natural logarithm in single precision, for positive normal x."""
    mantissa, exponent = split_exponent(x)
    ratio = (mantissa - 1.0) / (mantissa + 1.0)
    series = polynomial(ratio * ratio, [2.0 / (2 * k + 1) for k in range(5)])
    return exponent * math.log(2.0) + ratio * series


def _cos_sin(turns):
    """(cos, sin) of 2 pi turns for |turns| <= 1/2: series at a quarter of the angle, doubled twice."""
    angle = turns * (0.5 * math.pi)
    square = angle * angle
    sin = angle * polynomial(square, [(-1.0) ** k / math.factorial(2 * k + 1) for k in range(5)])
    cos = polynomial(square, [(-1.0) ** k / math.factorial(2 * k) for k in range(6)])
    for _ in range(2):
        sin, cos = 2.0 * sin * cos, (cos - sin) * (cos + sin)
    return cos, sin


@elementwise(outputs=["first", "second"], inputs=["unsigned", "signed"])
def normal_pair(unsigned, signed):
    """Two standard normal deviates from two random 32-bit words, one unsigned, one signed (Box and Muller 1958).

    No operation is contracted with another one: the same bits on every processor.
    """
    unsigned, signed = rounded_each(unsigned), rounded_each(signed)
    radius = square_root(-2.0 * _log((unsigned + 0.5) * 2.0**-32))
    cos, sin = _cos_sin(signed * 2.0**-32)
    return radius * cos, radius * sin
