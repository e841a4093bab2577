"""Elementary functions in branch-free vector form, for traced `Vector` values and NumPy arrays alike.

    exp  expm1  log  log1p  tanh  sigmoid  sqrt  power  absolute  minimum  maximum  clip  where  sign

They are what formulas are made of, ours and the user's (`dfc_numba.formulas`). Relative errors are a few units in the
last place of the dtype. Exponentials reduce their argument, x = n ln 2 + f with |f| <= ln(2)/2, and take a polynomial in
f; the logarithm is the series of artanh((m - 1) / (m + 1)) in the mantissa m.
"""

import math

import numpy as np

from dfc_numba.kernels.simd import (
    FormulaError,
    Vector,
    clamp,
    polynomial,
    power_of_two,
    round_to_integer,
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
EXPONENT_RANGE = {8: (-708.0, 710.0), 4: (-87.0, 89.0)}
# artanh(z) = z (1 + z^2/3 + ...), |z| <= (sqrt(2) - 1) / (sqrt(2) + 1): terms that float64 and float32 need
LOG_TERMS = {8: 12, 4: 5}


def value_of(x):
    """Return x itself if it is traced or a floating-point array, else as float64."""
    if isinstance(x, Vector) or getattr(x, "dtype", None) in (np.float64, np.float32):
        return x
    return np.asarray(x, np.float64)


def reduced(x):
    """Return (2**n, exp(f) - 1) with x = n ln 2 + f and |f| <= ln(2)/2."""
    size = x.dtype.itemsize
    n = round_to_integer(x * math.log2(math.e))
    f = (x - n * LN2_HIGH[size]) - n * LN2_LOW[size]
    return power_of_two(n), f * f * polynomial(f, EXPM1_TAIL[size]) + f


def expm1_and_exp(x):
    """Return (exp(x) - 1, exp(x)) for |x| within the range of normal numbers."""
    scale, small = reduced(x)
    return scale * small + (scale - 1.0), scale * small + scale


def exp(x):
    """Return exp(x); inf where it overflows, the smallest normal number where it underflows."""
    x = value_of(x)
    scale, small = reduced(clamp(x, *EXPONENT_RANGE[x.dtype.itemsize]))
    return scale * (1.0 + small)


def expm1(x):
    """Return exp(x) - 1 without cancellation at small x."""
    x = value_of(x)
    low, high = EXPONENT_RANGE[x.dtype.itemsize]
    return expm1_and_exp(clamp(x, low, high - 1.0))[0]


def log(x):
    """Return the natural logarithm; -inf at 0 (and below the smallest normal number), NaN where x is negative."""
    x = value_of(x)
    if not isinstance(x, Vector):
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(x)
    tiny, largest = float(np.finfo(x.dtype).tiny), float(np.finfo(x.dtype).max)
    mantissa, exponent = split_exponent(select(x < tiny, tiny, x))
    ratio, size = (mantissa - 1.0) / (mantissa + 1.0), x.dtype.itemsize
    series = polynomial(ratio * ratio, [2.0 / (2 * k + 1) for k in range(LOG_TERMS[size])])
    value = exponent * LN2_HIGH[size] + (exponent * LN2_LOW[size] + ratio * series)
    value = select(x < tiny, -math.inf, value)
    value = select(x < 0.0, math.nan, value)
    return select(x <= largest, value, x + x)


def log1p(x):
    """Return log(1 + x) without cancellation at small x: log(u) + (x - (u - 1)) / u with u = 1 + x rounded."""
    x = value_of(x)
    if not isinstance(x, Vector):
        return np.log1p(x)
    u = 1.0 + x
    return log(u) + (x - (u - 1.0)) / u


def tanh(x):
    """Return the hyperbolic tangent."""
    x = value_of(x)
    limit = EXPONENT_LIMIT[x.dtype.itemsize]
    expm1, _ = expm1_and_exp(clamp(x + x, -limit, limit))
    return expm1 / (expm1 + 2.0)


def sigmoid(x):
    """Return the logistic function 1 / (1 + exp(-x))."""
    return 1.0 / (1.0 + exp(-x))


def sqrt(x):
    """Return the square root."""
    return square_root(x)


def absolute(x):
    """Return |x|."""
    return abs(x)


def minimum(x, y):
    """Return the smaller of two values; NaN where x is NaN."""
    return select(_greater(x, y), y, x)


def maximum(x, y):
    """Return the larger of two values; NaN where x is NaN."""
    return select(_greater(y, x), y, x)


def _greater(x, y):
    return x > y if isinstance(x, Vector) or not isinstance(y, Vector) else y < x


def clip(x, low, high):
    """Return x limited to [low, high]; NaN stays NaN."""
    return minimum(maximum(x, low), high)


def where(condition, yes, no):
    """Return, elementwise, `yes` where the condition holds, else `no`; both are evaluated."""
    return select(condition, yes, no)


def sign(x):
    """Return the sign: -1, 0 or 1."""
    return select(x > 0.0, 1.0 + 0.0 * x, select(x < 0.0, -1.0 + 0.0 * x, 0.0 * x))


def square(x):
    """Return x * x."""
    return x * x


def power(x, exponent):
    """Return x ** exponent: products for whole numbers, square roots for halves, else exp(exponent log(x)) for positive x."""
    if isinstance(exponent, int | float) and float(2 * exponent).is_integer() and abs(exponent) <= 64:
        whole = int(abs(exponent))
        result = square_root(x) if float(exponent) % 1 else None
        factor = x
        while whole:
            if whole & 1:
                result = factor if result is None else result * factor
            whole >>= 1
            factor = factor * factor if whole else factor
        result = 1.0 + 0.0 * x if result is None else result
        return 1.0 / result if exponent < 0 else result
    if not isinstance(x, Vector) and not isinstance(exponent, Vector):
        return np.power(x, exponent)
    base = x if isinstance(x, Vector) else exponent.constant(x)
    return exp(log(base) * exponent)


FUNCTIONS = {
    function.__name__: function
    for function in (
        exp, expm1, log, log1p, tanh, sigmoid, sqrt, absolute, minimum, maximum, clip, where, sign, square, power,
    )
}  # fmt: skip
# a formula may also call NumPy's functions of these names
Vector.functions = {**FUNCTIONS, "fabs": absolute, "float_power": power}
Vector.functions.update(
    add=lambda x, y: x + y,
    subtract=lambda x, y: x - y,
    multiply=lambda x, y: x * y,
    divide=lambda x, y: x / y,
    negative=lambda x: -x,
    positive=lambda x: x,
)

__all__ = [*FUNCTIONS, "FormulaError"]
