"""Activation functions of the kernels, their differences and derivatives: error bounds, NaN, infinity."""

import numpy as np
import pytest
from compiled_calls import call_kind, call_loop

from dfc_numba.kernels import elementwise as loops
from dfc_numba.kernels import forms, units
from dfc_numba.registry import ACTIVATIONS, PLASTICITY_RULES

# activation -> slope in the difference formulas. Error bounds are multiples of eps, the spacing at 1
LOGISTIC = {"tanh": 2.0, "sigmoid": 1.0}
PIECEWISE = {"linear": 1.0, "relu": 0.0, "leakyrelu": 0.2}
DTYPES = ["float32", "float64"]
EXTENDED = np.finfo(np.longdouble).eps < np.finfo(np.float64).eps

# without the compiler NumPy warns of overflow and NaN
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
each_dtype = pytest.mark.parametrize("dtype", [np.dtype(name) for name in DTYPES], ids=DTYPES)
each_logistic = pytest.mark.parametrize("name", LOGISTIC)
each_piecewise = pytest.mark.parametrize("name", PIECEWISE)


def wide(array):
    """An array in a precision beyond its own, for references."""
    if array.dtype == np.float64 and not EXTENDED:
        pytest.skip("this platform has no long double to compare float64 with")
    return array.astype(np.longdouble)


def limits(dtype):
    """(eps, smallest normal number) of a dtype."""
    return np.finfo(dtype).eps, np.finfo(dtype).tiny


def signed(magnitudes, dtype):
    """Both signs of some magnitudes."""
    return np.concatenate([magnitudes, -magnitudes]).astype(dtype)


def everywhere(dtype):
    """Arguments over the whole range: denormals, small, ordinary, saturating, overflowing, infinite."""
    info = np.finfo(dtype)
    dense = np.linspace(-60, 60, 60001).astype(dtype)
    spread = signed(np.geomspace(info.tiny, 1e4, 20001), dtype)
    special = [
        0.0,
        info.smallest_subnormal,
        1e3 * info.smallest_subnormal,
        info.tiny,
        87.5,
        88.5,
        89.5,
        709.5,
        746,
        info.max,
        np.inf,
    ]
    return np.concatenate([dense, spread, signed(np.array(special), dtype)])


def relative_error(found, exact, dtype):
    """Largest error in units of eps, relative to the exact value or to the smallest normal number."""
    eps, tiny = limits(dtype)
    return float(np.max(np.abs(found - exact) / np.maximum(np.abs(exact), tiny)) / eps)


def exact_rate(name, v):
    if name in PIECEWISE:
        return np.where(v < 0, 0 * np.minimum(v, 1) if name == "relu" else PIECEWISE[name] * v, v)
    with np.errstate(over="ignore"):
        return np.tanh(v) if name == "tanh" else 1 / (1 + np.exp(-v))


def rate(name, v):
    """The activation function of the kernels."""
    return call_kind(units.RATE, units.rate_loop(form(name), v.dtype), v)


def form(name):
    return ACTIVATIONS[name].form


RULE = PLASTICITY_RULES["nonlinear_difference"].postsynaptic


# --- activation functions ----------------------------------------------------------------------------------


@each_dtype
def test_tanh(dtype):
    v = everywhere(dtype)
    found = rate("tanh", v)
    assert relative_error(found, exact_rate("tanh", wide(v)), dtype) < 2
    assert np.abs(found).max() == 1
    np.testing.assert_array_equal(rate("tanh", np.array([np.inf, -np.inf, 0], dtype)), [1, -1, 0])


@each_dtype
def test_sigmoid(dtype):
    v = everywhere(dtype)
    found, exact = rate("sigmoid", v), exact_rate("sigmoid", wide(v))
    _, tiny = limits(dtype)
    normal = exact >= tiny
    assert relative_error(found[normal], exact[normal], dtype) < 2
    assert np.abs(found - exact)[~normal].max() < tiny
    assert found.min() >= 0 and found.max() == 1
    np.testing.assert_array_equal(rate("sigmoid", np.array([np.inf, -np.inf, 0], dtype)), [1, 0, 0.5])


@each_piecewise
@each_dtype
def test_piecewise_linear_functions_are_exact(dtype, name):
    v = everywhere(dtype)
    v = v[np.isfinite(v)]
    slope = dtype.type(PIECEWISE[name])
    np.testing.assert_array_equal(rate(name, v), np.where(v < 0, slope * v, v))


@pytest.mark.parametrize("name", ["linear", "leakyrelu", "relu"])
@each_dtype
def test_piecewise_linear_functions_of_infinity(dtype, name):
    expected = [np.inf, 0 if name == "relu" else -np.inf]
    np.testing.assert_array_equal(rate(name, np.array([np.inf, -np.inf], dtype)), expected)


@pytest.mark.parametrize("name", [*LOGISTIC, *PIECEWISE])
@each_dtype
def test_nan_stays_nan(dtype, name):
    v = np.linspace(-2, 2, 40).astype(dtype)
    v[[0, 17, 39]] = np.nan
    np.testing.assert_array_equal(np.isnan(rate(name, v)), np.isnan(v))


@each_dtype
def test_symmetry(dtype):
    eps, _ = limits(dtype)
    v = everywhere(dtype)
    tanh, sigmoid = rate("tanh", v), rate("sigmoid", v)
    np.testing.assert_allclose(rate("tanh", -v), -tanh, rtol=4 * eps, atol=0)
    np.testing.assert_allclose(rate("sigmoid", -v) + sigmoid, 1, rtol=2 * eps)


@each_logistic
@each_dtype
def test_rates_grow_with_the_voltage(dtype, name):
    eps, _ = limits(dtype)
    found = rate(name, np.sort(everywhere(dtype)))
    assert np.all(np.diff(found) >= -3 * eps * np.abs(found[1:]))


# --- differences from the feedforward state ----------------------------------------------------------------
# v_ff is exact; d the deviation of a voltage.


def constants(name, v_ff, dtype):
    """Constants of the difference formula (3, n), made in float64 and rounded, as in the feedback phase."""
    if name in PIECEWISE:
        return v_ff.astype(dtype)
    loop = units.constants_loop(form(name), np.dtype(dtype))
    return call_kind(units.CONSTANTS, loop, v_ff.astype(np.float64)).astype(dtype)


def unsaturated(name, dtype):
    """Largest feedforward voltage that the formula takes without clipping."""
    return forms.ARGUMENT_LIMIT[dtype.itemsize] / LOGISTIC[name]


def exact_difference(name, v_ff, d):
    """phi(v_ff + d) - phi(v_ff) = h sinh(h d) / (cosh(h v_ff) cosh(h (v_ff + d))), h half the slope."""
    h = np.longdouble(LOGISTIC[name]) / 2
    a, far = h * v_ff, np.abs(h * v_ff) + 50
    d = np.clip(h * d, -far, far)  # beyond, the rate is saturated
    with np.errstate(over="ignore"):
        return h * np.sinh(d) / (np.cosh(a) * np.cosh(a + d))


def exact_derivative(name, v):
    h = np.longdouble(LOGISTIC[name]) / 2
    with np.errstate(over="ignore"):
        return h**2 / np.cosh(h * np.clip(v, -3000, 3000)) ** 2


def voltages(dtype, largest, seed=1, count=40000):
    """Feedforward voltages up to `largest`, that either dtype can represent."""
    return np.random.default_rng(seed).uniform(-largest, largest, count).astype(np.float32).astype(np.float64)


def deviations(dtype, low, high, seed=2, count=40000):
    """Deviations of both signs, log-uniform in [low, high]."""
    rng = np.random.default_rng(seed)
    return (np.exp(rng.uniform(np.log(low), np.log(high), count)) * rng.choice([-1, 1], count)).astype(dtype)


def difference(name, v_ff, v, basal):
    """phi(v_ff + v) - phi(v_ff + basal) of the kernels."""
    loop = units.unit_loop(form(name), v.dtype, RULE)
    return call_kind(units.UNIT, loop, v, basal, None, constants(name, v_ff, v.dtype), None)


def slope_of(name):
    return {**LOGISTIC, **PIECEWISE}[name]


def derivative(name, v_ff, d):
    """phi'(v_ff + d) of the kernels."""
    loop = units.derivative_loop(form(name), d.dtype)
    return call_kind(units.UNIT, loop, d, None, None, constants(name, v_ff, d.dtype), None)


def step_rate(name, v_ff, v, basal, apical, gain=0.0):
    """(v, rate) after a step of a layer that needs no factor."""
    return step(name, v_ff, v, basal, apical, gain, rule=None)


def step(name, v_ff, v, basal, apical, gain=0.0, *, rule=RULE, saturated=True):
    """(v, rate, factor) after a step of a layer; no factor without a rule."""
    loop = units.step_loop(form(name), v.dtype, rule, saturated=saturated)
    computed = ["v_new", "rate", "factor"][: 2 if rule is None else 3]
    known = constants(name, v_ff, v.dtype)
    return call_kind(units.STEP, loop, v, basal, apical, known, None, scalars=[gain], computed=computed)


@each_logistic
def test_constants(name):
    v, slope = everywhere(np.float64), LOGISTIC[name]
    v = v[np.abs(v) <= 1e4]
    q, g, shift = constants(name, v, np.float64)
    limit = forms.ARGUMENT_LIMIT[8]
    clipped = np.clip(slope * wide(v), -limit, limit)
    # rounding of the clipped argument, up to 300, comes back as a relative error of its exponential
    assert relative_error(q, np.exp(-clipped), np.float64) < 3
    assert relative_error(g, slope / (1 + np.exp(clipped)), np.float64) < 4
    np.testing.assert_array_equal(shift, slope * v - np.clip(slope * v, -limit, limit))


def test_constants_keep_nan():
    v = np.linspace(-1, 1, 20)
    v[[3, 19]] = np.nan
    found = constants("tanh", v, np.float64)
    np.testing.assert_array_equal(np.isnan(found), np.tile(np.isnan(v), (3, 1)))


RANGES = {"tiny": (1e-12, 1e-6), "small": (1e-6, 1e-2), "moderate": (1e-2, 1.0), "large": (1.0, 1e3)}
each_range = pytest.mark.parametrize("low, high", RANGES.values(), ids=RANGES)


@each_range
@each_logistic
@each_dtype
def test_differences_keep_their_digits(dtype, name, low, high):
    """Relative error of a few eps, however small the deviation and however saturated the unit."""
    v_ff, d = voltages(dtype, unsaturated(name, dtype)), deviations(dtype, low, high)
    zero = np.zeros_like(d)
    exact = exact_difference(name, v_ff, wide(d))
    assert relative_error(difference(name, v_ff, d, zero), exact, dtype) < 6
    assert relative_error(step(name, v_ff, d, zero, zero)[1], exact, dtype) < 6
    v, rate = step_rate(name, v_ff, d, zero, zero)
    np.testing.assert_array_equal(v, d)
    assert relative_error(rate, exact, dtype) < 5


@each_logistic
@each_dtype
def test_no_deviation_gives_no_difference(dtype, name):
    v_ff = voltages(dtype, unsaturated(name, dtype))
    zero = np.zeros(v_ff.size, dtype)
    for array in (difference(name, v_ff, zero, zero), *step(name, v_ff, zero, zero, zero)):
        assert not array.any()


@each_logistic
@each_dtype
def test_denormal_deviations(dtype, name):
    v_ff = voltages(dtype, 3.0)
    eps, tiny = limits(dtype)
    d = deviations(dtype, tiny * eps, tiny)
    exact, zero = exact_difference(name, v_ff, wide(d)), np.zeros_like(d)
    assert np.abs(step_rate(name, v_ff, d, zero, zero)[1] - exact).max() <= 2 * tiny * eps


def towards_zero(v_ff, dtype, factor, seed=3):
    """Deviations against the sign of v_ff, up to `factor` times its size."""
    return (-v_ff * factor * np.random.default_rng(seed).random(v_ff.size)).astype(dtype)


# largest argument slope * v_ff of the units that follow
each_saturation = pytest.mark.parametrize("largest", [10.0, 40.0, 120.0, 800.0])


@each_dtype
@each_logistic
@pytest.mark.parametrize("largest", [40.0, 120.0, 800.0])
def test_rates_of_saturated_units_that_are_driven_back(dtype, name, largest):
    eps, _ = limits(dtype)
    v_ff = voltages(dtype, largest / LOGISTIC[name])
    d = towards_zero(v_ff, dtype, 3.0)
    zero, basal = np.zeros_like(d), towards_zero(v_ff, dtype, 2.0, seed=5)
    exact = exact_difference(name, v_ff, wide(d))
    for found in (
        step_rate(name, v_ff, d, basal, zero)[1],
        step(name, v_ff, d, basal, zero)[1],
        difference(name, v_ff, d, zero),
    ):
        assert np.abs(found - exact).max() < 8 * eps


@each_saturation
@each_logistic
@each_dtype
def test_rates_of_saturated_units_that_are_driven_on(dtype, name, largest):
    eps, _ = limits(dtype)
    v_ff = voltages(dtype, largest / LOGISTIC[name])
    d = np.sign(v_ff) * np.abs(deviations(dtype, 1e-6, 1e3))
    zero = np.zeros_like(d)
    exact = exact_difference(name, v_ff, wide(d))
    assert np.abs(step_rate(name, v_ff, d, zero, zero)[1] - exact).max() < 5 * eps
    assert np.abs(difference(name, v_ff, d, zero) - exact).max() < 5 * eps


@each_logistic
@each_dtype
def test_layers_without_saturated_units_need_no_shift(dtype, name):
    v_ff = voltages(dtype, 5.0)
    v, basal, apical = (deviations(dtype, 1e-6, 10.0, seed=seed) for seed in range(3))
    assert not np.any(constants(name, v_ff, dtype)[2])
    for rule in (RULE, None):
        expected = step(name, v_ff, v, basal, apical, 0.1, rule=rule)
        found = step(name, v_ff, v, basal, apical, 0.1, rule=rule, saturated=False)
        np.testing.assert_array_equal(found, expected)


def both_factors(name, v_ff, v, basal):
    """phi(v) - phi(v_ff) of the step and of the readout at the end."""
    return step(name, v_ff, v, basal, np.zeros_like(v))[2], difference(name, v_ff, v, basal)


@each_range
@each_logistic
@each_dtype
def test_factors_between_two_deviations(dtype, name, low, high):
    """The factor is the difference of two differences: its error is small beside those."""
    eps, _ = limits(dtype)
    high = min(high, 1.0)
    v_ff = voltages(dtype, 3.0 / LOGISTIC[name])
    v, basal = deviations(dtype, low, high, seed=4), deviations(dtype, low, high, seed=5)
    first, second = exact_difference(name, v_ff, wide(v)), exact_difference(name, v_ff, wide(basal))
    for found in both_factors(name, v_ff, v, basal):
        assert np.max(np.abs(found - (first - second)) / (np.abs(first) + np.abs(second))) < 8 * eps


@each_saturation
@each_logistic
@each_dtype
def test_factors_between_two_large_deviations(dtype, name, largest):
    eps, _ = limits(dtype)
    v_ff = voltages(dtype, largest / LOGISTIC[name])
    v, basal = towards_zero(v_ff, dtype, 2.0, seed=4), towards_zero(v_ff, dtype, 2.0, seed=5)
    exact = exact_difference(name, v_ff + wide(basal), wide(v) - wide(basal))
    for found in both_factors(name, v_ff, v, basal):
        assert np.abs(found - exact).max() < 8 * eps


@each_range
@each_piecewise
@each_dtype
def test_piecewise_differences(dtype, name, low, high):
    eps, _ = limits(dtype)
    v_ff, slope = voltages(dtype, 3.0), np.longdouble(dtype.type(PIECEWISE[name]))
    v_ff[:100] = 0
    v, basal = deviations(dtype, low, high, seed=4), deviations(dtype, low, high, seed=5)

    def exact(d):
        before, after = v_ff, v_ff + wide(d)
        kept = np.where(before < 0, slope, 1) * wide(d)
        crossing = np.where(after < 0, slope * after, after) - np.where(before < 0, slope * before, before)
        return np.where((before < 0) == (after < 0), kept, crossing)

    new, rate, factor = step(name, v_ff, v, basal, np.zeros_like(v))
    np.testing.assert_array_equal(new, v)
    scale = np.abs(exact(v)) + np.abs(exact(basal))
    # across the kink the result is a difference of v_ff and d, with the rounding of the larger
    rounding = np.where((v_ff < 0) == (v_ff + v < 0), 0, np.abs(v)) + np.where(
        (v_ff < 0) == (v_ff + basal < 0), 0, np.abs(basal)
    )
    assert np.all(np.abs(rate - exact(v)) <= 3 * eps * (scale + rounding))
    assert np.all(np.abs(factor - (exact(v) - exact(basal))) <= 3 * eps * (scale + rounding))
    np.testing.assert_array_equal(difference(name, v_ff, v, basal), factor)


@each_range
@each_logistic
@each_dtype
def test_derivatives(dtype, name, low, high):
    v_ff, d = voltages(dtype, 8.0 / LOGISTIC[name]), deviations(dtype, low, min(high, 10.0))
    exact = exact_derivative(name, v_ff + wide(d))
    assert relative_error(derivative(name, v_ff, d), exact, dtype) < 6


@each_dtype
@each_logistic
@pytest.mark.parametrize("largest", [40.0, 120.0, 800.0])
def test_derivatives_of_saturated_units(dtype, name, largest):
    eps, _ = limits(dtype)
    v_ff = voltages(dtype, largest / LOGISTIC[name])
    d = towards_zero(v_ff, dtype, 3.0)
    assert np.abs(derivative(name, v_ff, d) - exact_derivative(name, v_ff + wide(d))).max() < 3 * eps


@each_piecewise
@each_dtype
def test_piecewise_derivatives(dtype, name):
    v_ff = np.array([-2, -2, -2, 1, 1, 1, 0, 0])
    d = np.array([-1, 1.5, 2, -0.5, -1, -3, 0, -1], dtype)
    slope = dtype.type(PIECEWISE[name])
    np.testing.assert_array_equal(derivative(name, v_ff, d), [slope, slope, 1, 1, 1, slope, 1, slope])


@pytest.mark.parametrize("gain", [0.02, 0.1, 1.0])
@pytest.mark.parametrize("name", ["tanh", "linear"])
@each_dtype
def test_voltage_step(dtype, name, gain):
    """v + gain (v_ff + v_fb - v)."""
    eps, _ = limits(dtype)
    v, basal, apical = (deviations(dtype, 1e-6, 1.0, seed=seed) for seed in (4, 5, 6))
    v_ff = voltages(dtype, 3.0)
    g = np.longdouble(dtype.type(gain))
    bound = 2 * eps * (np.abs(v) + gain * (np.abs(basal) + np.abs(apical)))
    exact = (1 - g) * wide(v) + g * (wide(basal) + wide(apical))
    for found in (step(name, v_ff, v, basal, apical, gain), step_rate("tanh", v_ff, v, basal, apical, gain)):
        assert np.all(np.abs(found[0] - exact) <= bound)


@each_dtype
def test_small_linear_passes(dtype):
    eps, _ = limits(dtype)
    x, y, z = (deviations(dtype, 1e-3, 1.0, seed=seed) for seed in (4, 5, 6))
    np.testing.assert_array_equal(call_loop(loops.subtract, x, y), x - y)
    np.testing.assert_array_equal(call_loop(loops.multiply, x, y), x * y)
    p, q, sigma = (wide(np.array(number, dtype)) for number in (0.9, 0.1, 0.3))
    bound = 2 * eps * (np.abs(x) + np.abs(y) + np.abs(z))
    found = call_loop(loops.combine, x, y, scalars=[0.9, 0.1])
    assert np.all(np.abs(found - (p * x + q * y)) <= bound)
    found = call_loop(loops.combine_noisy, x, y, z, scalars=[0.9, 0.1, 0.3])
    assert np.all(np.abs(found - (p * x + q * y + sigma * z)) <= bound)


# --- numbers that are not finite ---------------------------------------------------------------------------


def marked(count, place, value, dtype):
    """Small deviations with one other value."""
    array = np.linspace(-0.1, 0.1, count).astype(dtype)
    array[place] = value
    return array


@pytest.mark.parametrize("name", [*LOGISTIC, *PIECEWISE])
@pytest.mark.parametrize("gain", [0.1, 1.0])
@pytest.mark.parametrize("carrier", ["v", "basal", "apical"])
@each_dtype
def test_nan_in_any_voltage_reaches_every_result_of_its_unit_alone(dtype, carrier, gain, name):
    count, place = 37, 11
    given = {
        key: marked(count, place, np.nan if key == carrier else 0.1, dtype)
        for key in ("v", "basal", "apical")
    }
    v_ff = np.linspace(-30, 30, count)
    expected = np.arange(count) == place
    for found in step(name, v_ff, **given, gain=gain):
        np.testing.assert_array_equal(np.isnan(found), expected)
    if carrier != "apical":
        found = difference(name, v_ff, given["v"], given["basal"])
        np.testing.assert_array_equal(np.isnan(found), expected)
    if carrier == "v":
        np.testing.assert_array_equal(np.isnan(derivative(name, v_ff, given["v"])), expected)
    if name in LOGISTIC:
        for found in step_rate(name, v_ff, **given, gain=gain):
            np.testing.assert_array_equal(np.isnan(found), expected)


@pytest.mark.parametrize("name", [*LOGISTIC, *PIECEWISE])
@pytest.mark.parametrize("value", [np.inf, -np.inf])
@each_dtype
def test_an_infinite_voltage_stays_visible(dtype, value, name):
    """The voltage stays infinite; its rate is the limit, or NaN, but no other number."""
    v_ff = np.linspace(-8, 8, 40)
    d = np.full(40, value, dtype)
    zero = np.zeros(40, dtype)
    v, rate, factor = step(name, v_ff, d, zero, zero)
    np.testing.assert_array_equal(v, d)
    limit = {"tanh": np.sign(value) - np.tanh(v_ff), "sigmoid": (value > 0) - 1 / (1 + np.exp(-v_ff))}
    slope = slope_of(name)
    expected = limit.get(name, value if value > 0 or slope else -np.maximum(v_ff, 0))
    for found in (rate, factor):
        close = np.isclose(found, expected, rtol=0, atol=4 * limits(dtype)[0])
        assert np.all(close | np.isnan(found))
