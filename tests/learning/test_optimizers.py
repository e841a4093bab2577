"""The optimisers against textbook formulas, written down independently with explicit moments."""

from types import SimpleNamespace

import numpy as np
import pytest

from dfc_numba.learning.descent import Descent, clip_factors, per_layer, squared_norm

SHAPES = [[(4, 3), (4,)], [(2, 4), (2,)]]
STEPS = 5


def options(name="adam", **changes):
    values = {
        "name": name,
        "learning_rate": 0.1,
        "momentum": 0.0,
        "beta1": 0.9,
        "beta2": 0.99,
        "epsilon": 1e-3,
        "weight_decay": 0.0,
        "clip_norm": None,
        "clip_scope": "layer",
    }
    return SimpleNamespace(**{**values, **changes})


def layers(seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return [[rng.normal(size=shape).astype(dtype) for shape in layer] for layer in SHAPES]


def run(parameters, settings, **arguments):
    """Five steps of the optimiser under test, along fixed gradients."""
    optimizer = Descent(parameters, settings, **arguments)
    for step in range(STEPS):
        optimizer.step(layers(100 + step, parameters[0][0].dtype))
    return optimizer


def sgd(theta, gradients, o, rate, _epsilon):
    buffer = None
    for g in gradients:
        g = g + o.weight_decay * theta
        buffer = g if buffer is None else o.momentum * buffer + g
        theta = theta - rate * buffer
    return theta


def nesterov(theta, gradients, o, rate, _epsilon):
    buffer = 0.0
    for g in gradients:
        g = g + o.weight_decay * theta
        buffer = o.momentum * buffer + g
        theta = theta - rate * (g + o.momentum * buffer)
    return theta


def adam(theta, gradients, o, rate, epsilon):
    m = v = 0.0
    for step, g in enumerate(gradients, start=1):
        g = g + o.weight_decay * theta
        m = o.beta1 * m + (1 - o.beta1) * g
        v = o.beta2 * v + (1 - o.beta2) * g**2
        m_hat, v_hat = m / (1 - o.beta1**step), v / (1 - o.beta2**step)
        theta = theta - rate * m_hat / (np.sqrt(v_hat) + epsilon)
    return theta


def rmsprop(theta, gradients, o, rate, epsilon):
    mean = square = buffer = 0.0
    for g in gradients:
        g = g + o.weight_decay * theta
        mean = o.beta2 * mean + (1 - o.beta2) * g
        square = o.beta2 * square + (1 - o.beta2) * g**2
        buffer = o.momentum * buffer + g / (np.sqrt(square - mean**2) + epsilon)
        theta = theta - rate * buffer
    return theta


FORMULAS = {"sgd": sgd, "nesterov": nesterov, "adam": adam, "rmsprop": rmsprop}
SETTINGS = {
    "sgd": [{}, {"momentum": 0.7}, {"momentum": 0.7, "weight_decay": 0.02}],
    "nesterov": [{}, {"momentum": 0.7}, {"momentum": 0.7, "weight_decay": 0.02}],
    "adam": [{}, {"weight_decay": 0.02}, {"beta1": 0.99, "beta2": 0.99, "epsilon": 1e-8}],
    "rmsprop": [
        {"beta2": 0.95, "epsilon": 0.03},
        {"beta2": 0.95, "epsilon": 0.03, "momentum": 0.5, "weight_decay": 0.02},
    ],
}
CASES = [(name, changes) for name, list_ in SETTINGS.items() for changes in list_]


@pytest.mark.parametrize(("name", "changes"), CASES)
@pytest.mark.parametrize("rate", [0.1, [0.1, 0.03]])
def test_steps_follow_the_formula(name, changes, rate):
    o = options(name, learning_rate=rate, **changes)
    ours, start = layers(0), layers(0)
    run(ours, o)
    for i, layer in enumerate(start):
        for j, theta in enumerate(layer):
            gradients = [layers(100 + step)[i][j] for step in range(STEPS)]
            expected = FORMULAS[name](theta, gradients, o, np.broadcast_to(rate, 2)[i], o.epsilon)
            np.testing.assert_allclose(ours[i][j], expected, rtol=1e-13, atol=1e-14)


def test_epsilon_may_differ_between_layers():
    ours = layers(0)
    run(ours, options(epsilon=[1e-3, 1.0]))
    single = [layers(0), layers(0)]
    run(single[0], options(epsilon=1e-3))
    run(single[1], options(epsilon=1.0))
    assert np.array_equal(ours[0][0], single[0][0][0]) and np.array_equal(ours[1][0], single[1][1][0])


@pytest.mark.parametrize("name", FORMULAS)
def test_float32_stays_float32_and_close_to_float64(name):
    single, double = layers(0, np.float32), layers(0)
    optimizer = run(single, options(name))
    run(double, options(name))
    assert all(array.dtype == np.float32 for key, array in optimizer.arrays().items() if key != "steps")
    np.testing.assert_allclose(single[0][0], double[0][0], rtol=3e-5, atol=3e-6)


def test_views_are_changed_in_place_and_gradients_stay():
    pack = np.arange(12.0)
    gradient = np.ones((2, 3))
    optimizer = Descent([[pack[6:].reshape(2, 3)]], options("sgd", clip_norm=0.5))
    optimizer.step([[gradient]])
    assert np.array_equal(pack[:6], np.arange(6.0)) and np.all(pack[6:] < np.arange(6.0, 12.0))
    assert np.array_equal(gradient, np.ones((2, 3)))


def test_an_empty_layer_is_frozen():
    parameters = layers(0)
    optimizer = Descent([parameters[0], []], options(learning_rate=[0.1, 0.2]))
    optimizer.step([layers(1)[0], []])
    assert np.array_equal(parameters[1][0], layers(0)[1][0])
    assert not np.array_equal(parameters[0][0], layers(0)[0][0])


def test_nesterov_steps_by_the_gradient_at_the_look_ahead():
    """The parameters are those of the look-ahead: w - momentum v, with v = momentum v + rate g(w - momentum v), w -= v."""
    curvature, rate, momentum = np.array([1.0, 3.0, 0.2]), 0.1, 0.8
    w, v, ours = np.array([2.0, -1.0, 0.5]), np.zeros(3), np.array([2.0, -1.0, 0.5])
    optimizer = Descent([[ours]], options("nesterov", momentum=momentum))
    for _ in range(6):
        v = momentum * v + rate * curvature * (w - momentum * v)
        w = w - v
        optimizer.step([[curvature * ours]])
        np.testing.assert_allclose(ours, w - momentum * v, rtol=1e-13)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("keep_norm", [None, 3.0])
def test_restored_state_continues_bit_for_bit(name, keep_norm):
    settings, whole, parts = options(name, momentum=0.5, weight_decay=0.01), layers(0), layers(0)
    reference = Descent(whole, settings, keep_norm=keep_norm)
    first = Descent(parts, settings, keep_norm=keep_norm)
    for step in range(3):
        reference.step(layers(step))
        first.step(layers(step))
    stored = {key: array.copy() for key, array in first.arrays().items()}
    second = Descent(parts, settings, keep_norm=None if keep_norm is None else squared_norm(parts))
    for key, array in second.arrays().items():
        array[...] = stored[key]
    for step in range(3, 6):
        reference.step(layers(step))
        second.step(layers(step))
    assert all(
        np.array_equal(a, b) for x, y in zip(whole, parts, strict=True) for a, b in zip(x, y, strict=True)
    )


@pytest.mark.parametrize(("name", "changes"), [("sgd", {"momentum": 0.7}), ("adam", {})])
def test_homeostatic_decay_adds_the_parameters_in_proportion_to_the_excess_of_their_norm(name, changes):
    """Recomputed step by step: an L2 term whose factor is weight_decay (||theta||^2 - c), of all layers jointly."""
    kept, decay, rate = 2.5, 0.03, 0.1
    o = options(name, weight_decay=decay, **changes)
    ours, theirs = layers(0), [array for layer in layers(0) for array in layer]
    optimizer, moments = Descent(ours, o, keep_norm=kept), [[0.0, 0.0] for _ in theirs]
    for step in range(1, STEPS + 1):
        gradients = layers(100 + step)
        optimizer.step(gradients)
        beta = decay * (sum(np.sum(theta**2) for theta in theirs) - kept)
        for theta, g, m in zip(
            theirs, (array for layer in gradients for array in layer), moments, strict=True
        ):
            g = g + beta * theta
            if name == "sgd":
                m[0] = o.momentum * m[0] + g
                theta -= rate * m[0]
            else:
                m[0], m[1] = o.beta1 * m[0] + (1 - o.beta1) * g, o.beta2 * m[1] + (1 - o.beta2) * g**2
                root = np.sqrt(m[1] / (1 - o.beta2**step)) + o.epsilon
                theta -= rate * m[0] / (1 - o.beta1**step) / root
    for array, theta in zip((array for layer in ours for array in layer), theirs, strict=True):
        np.testing.assert_allclose(array, theta, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("start", [0.3, 3.0])
def test_homeostatic_decay_brings_the_norm_to_what_it_keeps(start):
    parameters = [[start * array for array in layer] for layer in layers(0)]
    optimizer = Descent(parameters, options("sgd", learning_rate=0.01, weight_decay=0.2), keep_norm=4.0)
    directions = [array / np.linalg.norm(array) for layer in parameters for array in layer]
    assert abs(squared_norm(parameters) - 4.0) > 1.5
    for _ in range(3000):
        optimizer.step([[np.zeros_like(array) for array in layer] for layer in parameters])
    assert squared_norm(parameters) == pytest.approx(4.0, rel=1e-9)
    for array, direction in zip((array for layer in parameters for array in layer), directions, strict=True):
        np.testing.assert_allclose(array / np.linalg.norm(array), direction, atol=1e-12)


def norm(arrays):
    return np.sqrt(sum(np.sum(array**2) for array in arrays))


def test_clipping_by_layer_tensor_or_everything():
    gradients = layers(3)
    together = norm([array for layer in gradients for array in layer])
    expected = {
        "layer": lambda layer, array: norm(layer),
        "tensor": lambda layer, array: norm([array]),
        "all": lambda layer, array: together,
    }
    for scope, norm_of in expected.items():
        factors = clip_factors(gradients, 0.2, scope)
        for layer, row in zip(gradients, factors, strict=True):
            for array, factor in zip(layer, row, strict=True):
                assert factor == pytest.approx(0.2 / (norm_of(layer, array) + 1e-6), rel=1e-14)


def test_short_gradients_are_not_clipped():
    assert clip_factors(layers(3), 1e6, "layer") == [[1.0, 1.0], [1.0, 1.0]]
    assert clip_factors(layers(3), None, "layer") == [[1.0, 1.0], [1.0, 1.0]]


def test_clipping_acts_before_weight_decay():
    parameters, gradients = layers(0), layers(3)
    factor = clip_factors(gradients, 0.2, "layer")[0][0]
    Descent(parameters, options("sgd", weight_decay=0.5, clip_norm=0.2)).step(gradients)
    start = layers(0)[0][0]
    expected = start - 0.1 * (factor * gradients[0][0] + 0.5 * start)
    np.testing.assert_allclose(parameters[0][0], expected, rtol=1e-14)


def test_centred_rmsprop_survives_a_constant_gradient():
    parameters = [[np.zeros(3)]]
    optimizer = Descent(parameters, options("rmsprop", beta2=0.5, epsilon=0.03))
    for _ in range(200):  # the variance falls to 0 and rounding may take it below
        optimizer.step([[np.full(3, 0.1)]])
    assert np.isfinite(parameters[0][0]).all()


@pytest.mark.parametrize("name", FORMULAS)
def test_non_finite_gradients_are_not_hidden(name):
    parameters = [[np.zeros(3)]]
    Descent(parameters, options(name)).step([[np.array([0.0, np.nan, 1.0])]])
    assert np.isnan(parameters[0][0][1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "lbfgs"}, "optimizer.name is 'lbfgs'; allowed are 'sgd', 'adam', 'rmsprop'"),
        ({"clip_scope": "weights"}, "optimizer.clip_scope is 'weights'"),
        ({"learning_rate": [0.1, 0.2, 0.3]}, "learning_rate has 3 values for 2 layers"),
        ({"epsilon": [0.1]}, "epsilon has 1 values for 2 layers"),
    ],
)
def test_wrong_options_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Descent(layers(0), options(**arguments))


def test_wrong_arrays_are_refused():
    with pytest.raises(ValueError, match="C-contiguous"):
        Descent([[np.zeros((3, 4)).T]], options())
    optimizer = Descent(layers(0), options())
    with pytest.raises(ValueError, match="gradient of shape"):
        optimizer.step([[np.zeros((3, 4)), np.zeros(4)], layers(0)[1]])


def test_a_single_rate_is_that_of_every_layer():
    assert per_layer(0.5, 2, "x") == [0.5, 0.5]
    assert per_layer((1, 2), 2, "x") == [1.0, 2.0]
