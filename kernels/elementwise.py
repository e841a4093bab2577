"""Small passes over arrays that kernels inline: sums, products, filters, and normal deviates, in branch-free vector form."""

import math

from dfc_numba.kernels.functions import tanh
from dfc_numba.kernels.simd import elementwise, polynomial, rounded_each, split_exponent, square_root

# --- small linear passes ------------------------------------------------------------------------------------------------


@elementwise(outputs=["rate"], inputs=["v"])
def tanh_rate(v):
    """Return r = tanh(v)."""
    return tanh(v)


@elementwise(outputs=["out"], inputs=["x", "y"])
def subtract(x, y):
    """Return x - y."""
    return x - y


@elementwise(outputs=["out"], inputs=["x", "y"])
def multiply(x, y):
    """Return x * y."""
    return x * y


@elementwise(outputs=["out"], inputs=["x", "y"], scalars=["p", "q"])
def combine(x, y, p, q):
    """Return p x + q y: the Euler step of a low-pass filter with p = 1 - dt/tau, q = dt/tau, or a sum with p = q = 1."""
    return p * x + q * y


@elementwise(outputs=["out"], inputs=["x", "y", "noise"], scalars=["p", "q", "sigma"])
def combine_noisy(x, y, noise, p, q, sigma):
    """Return the same with noise."""
    return p * x + q * y + sigma * noise


@elementwise(outputs=["out"], inputs=["x"], scalars=["p"])
def scale(x, p):
    """Return p x."""
    return p * x


@elementwise(outputs=["watch_new"], inputs=["watch", "basal", "difference"])
def watch(watch, basal, difference):
    """Keep zeros while v = v_ff + d is finite; they become NaN for ever where it is not."""
    return watch + 0.0 * (basal + difference)


# --- normal deviates ------------------------------------------------------------------------------------------------------


def _log(x):
    """Return the natural logarithm in single precision, for positive normal x."""
    mantissa, exponent = split_exponent(x)
    ratio = (mantissa - 1.0) / (mantissa + 1.0)
    series = polynomial(ratio * ratio, [2.0 / (2 * k + 1) for k in range(5)])
    return exponent * math.log(2.0) + ratio * series


def _cos_sin(turns):
    """Return (cos, sin) of 2 pi turns for |turns| <= 1/2: series at a quarter of the angle, doubled twice."""
    angle = turns * (0.5 * math.pi)
    square = angle * angle
    sin = angle * polynomial(square, [(-1.0) ** k / math.factorial(2 * k + 1) for k in range(5)])
    cos = polynomial(square, [(-1.0) ** k / math.factorial(2 * k) for k in range(6)])
    for _ in range(2):
        sin, cos = 2.0 * sin * cos, (cos - sin) * (cos + sin)
    return cos, sin


@elementwise(outputs=["first", "second"], inputs=["unsigned", "signed"], registers=2)
def normal_pair(unsigned, signed):
    """Return two standard normal deviates from two random 32-bit words, one unsigned, one signed (Box and Muller 1958).

    No operation is contracted with another one: the same bits on every processor.
    """
    unsigned, signed = rounded_each(unsigned), rounded_each(signed)
    radius = square_root(-2.0 * _log((unsigned + 0.5) * 2.0**-32))
    cos, sin = _cos_sin(signed * 2.0**-32)
    return radius * cos, radius * sin
