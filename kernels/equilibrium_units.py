"""Units of equilibrium propagation: their nonlinearities, and one step of each kind of state, in branch-free vector form.

    logistic   phi(v) = a / (1 + exp(c - k v)) + b          clipped   phi(v) = min(max(v, low), high)

Differences phi(v0 + d) - phi(v0) come from d itself; `forms` has the formula and its constants q, G and shift.
"""

from dfc_numba.kernels.forms import logistic_terms
from dfc_numba.kernels.functions import exp
from dfc_numba.kernels.simd import clamp, elementwise, select

LOGISTIC, CLIPPED = 0, 1
INFINITY = float("inf")
# name -> (family, parameters): logistic phi(v) = a / (1 + exp(c - k v)) + b as (k, c, a, b), clipped min(max(v, low), high)
NONLINEARITIES = {
    "linear": (CLIPPED, (-INFINITY, INFINITY, 0.0, 0.0)),
    "relu": (CLIPPED, (0.0, INFINITY, 0.0, 0.0)),
    "hardsigmoid": (CLIPPED, (0.0, 1.0, 0.0, 0.0)),
    "tanh": (LOGISTIC, (2.0, 0.0, 2.0, -1.0)),
    "sigmoid": (LOGISTIC, (1.0, 0.0, 1.0, 0.0)),
    "steepsigmoid": (LOGISTIC, (4.0, 2.0, 1.0, 0.0)),
}


@elementwise(outputs=["rate"], inputs=["v"], scalars=["k", "c", "a", "b"])
def logistic_rate(v, k, c, a, b):
    """Return phi(v)."""
    return a / (1.0 + exp(c - k * v)) + b


@elementwise(outputs=["rate"], inputs=["v"], scalars=["low", "high"])
def clipped_rate(v, low, high):
    """Return phi(v)."""
    return clamp(v, low, high)


@elementwise(outputs=["constants*3"], inputs=["v"], scalars=["k", "c", "a", "limit"])
def logistic_constants(v, k, c, a, limit):
    """Return q, G and shift of the difference formula at v (see `forms.Logistic`)."""
    scaled = k * v - c
    x = clamp(scaled, -limit, limit)
    return exp(-x), a / (1.0 + exp(x)), scaled - x


@elementwise(outputs=["slope"], inputs=["v", "rate"], scalars=["k", "a", "b"])
def logistic_slope(v, rate, k, a, b):
    """Return phi'(v) from the rate."""
    p = (rate - b) / a
    return k * a * p * (1.0 - p) + 0.0 * v


def _inside(v, low, high):
    return select(v < low, 0.0, select(v > high, 0.0, 1.0 + 0.0 * v))


@elementwise(outputs=["slope"], inputs=["v"], scalars=["low", "high"])
def clipped_slope(v, low, high):
    """Return phi'(v): 1 inside the bounds, and on them."""
    return _inside(v, low, high)


@elementwise(outputs=["u_new"], inputs=["u", "slope", "drive"], scalars=["gain"])
def hopfield_step(u, slope, drive, gain):
    """Return u + gain (-u + phi'(u) D): a step down the Hopfield energy (Scellier & Bengio 2017)."""
    return u + gain * (slope * drive - u)


@elementwise(outputs=["d_new"], inputs=["change", "residual", "constants*3"], scalars=["k"])
def logistic_jump(change, residual, q, g, shift, k):
    """Return residual + phi(D0 + change) - phi(D0): a step of the prototypical form (Ernoult et al. 2019) from its free state."""
    expm1, _, denominator = logistic_terms(k * change + shift, q)
    return residual + g * expm1 / denominator


@elementwise(outputs=["d_new"], inputs=["change", "residual", "base"], scalars=["low", "high"])
def clipped_jump(change, residual, base, low, high):
    """Return the same for a clipped nonlinearity; base: D0."""
    rate = clamp(base, low, high)
    return residual + clamp(change + (base - rate), low - rate, high - rate)


@elementwise(
    outputs=["d_new", "rate_new"],
    inputs=["d", "rate", "change", "drive", "residual", "constants*3"],
    scalars=["gain", "k", "a"],
)
def logistic_flow(d, rate, change, drive, residual, q, g, shift, gain, k, a):
    """Return d + gain (residual - d + phi'(u0 + d) change + (phi'(u0 + d) - phi'(u0)) D0), and the rate's deviation with it.

    It is `hopfield_step` (Scellier & Bengio 2017) less the free state u0, of which residual is what it lacks of rest.
    """
    p0, p = 1.0 / (1.0 + q), rate / a
    slope, slope_change = k * a * (p0 + p) * (1.0 - p0 - p), k * a * p * (1.0 - 2.0 * p0 - p)
    d = d + gain * (residual - d + slope * change + slope_change * drive)
    expm1, _, denominator = logistic_terms(k * d + shift, q)
    return d, g * expm1 / denominator


@elementwise(
    outputs=["d_new", "rate_new"],
    inputs=["d", "change", "drive", "residual", "base"],
    scalars=["gain", "low", "high"],
)
def clipped_flow(d, change, drive, residual, base, gain, low, high):
    """Return the same for a clipped nonlinearity; base: u0."""
    slope, still = _inside(base + d, low, high), _inside(base, low, high)
    d = d + gain * (residual - d + slope * change + (slope - still) * drive)
    rate = clamp(base, low, high)
    return d, clamp(d + (base - rate), low - rate, high - rate)


@elementwise(
    outputs=["d_new", "rate_new"],
    inputs=["d", "rate", "error", "back", "constants*3"],
    scalars=["gain", "k", "a"],
)
def logistic_descent(d, rate, error, back, q, g, shift, gain, k, a):
    """Return d + gain (2 phi'(u0 + d) back - 2 error), and the rate's deviation with it: a step down the Gaussian energy.

    error: e_i = u_i - W_i r_{i-1} - b_i; back: W_{i+1}^T e_{i+1} (see `equilibrium_phases`).
    """
    p0, p = 1.0 / (1.0 + q), rate / a
    slope = k * a * (p0 + p) * (1.0 - p0 - p)
    d = d + gain * (2.0 * (slope * back - error))
    expm1, _, denominator = logistic_terms(k * d + shift, q)
    return d, g * expm1 / denominator


@elementwise(
    outputs=["d_new", "rate_new"], inputs=["d", "error", "back", "base"], scalars=["gain", "low", "high"]
)
def clipped_descent(d, error, back, base, gain, low, high):
    """Return the same for a clipped nonlinearity; base: u0."""
    d = d + gain * (2.0 * (_inside(base + d, low, high) * back - error))
    rate = clamp(base, low, high)
    return d, clamp(d + (base - rate), low - rate, high - rate)


@elementwise(outputs=["out"], inputs=["x", "y"])
def subtract(x, y):
    """Return x - y."""
    return x - y
