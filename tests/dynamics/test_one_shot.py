"""The one-shot rule for feedback weights: its formula, what it is on average, where its noise comes from."""

import inspect

import numpy as np
import pytest
from problems import inputs, parameters, relative_deviation

import dfc_numba as dfc
from dfc_numba.dynamics.plasticity import one_shot_feedback_update

SIZES, SAMPLES = [4, 6, 5, 3], 37
FUNCTIONS = {"tanh": np.tanh, "leakyrelu": lambda v: np.where(v > 0, v, 0.2 * v), "linear": lambda v: v}


def problem(dtype=np.float64, bias=True, sizes=SIZES):
    """A network with two kinds of activations, inputs, and draws (B, n_i) per layer."""
    activation = ["tanh", "leakyrelu"][: len(sizes) - 2]
    net = dfc.Network(**parameters(sizes, bias=bias, activation=activation, dtype=dtype))
    rng = np.random.default_rng(8)
    return net, inputs(SAMPLES, sizes[0]), [rng.normal(size=(SAMPLES, n)) for n in sizes[1:]]


def output(net, x, added):
    """The output where `added` is added to the voltages of every layer."""
    for i, (name, extra) in enumerate(
        zip([*net.hidden_activations, net.output_activation], added, strict=True)
    ):
        bias = 0.0 if net.biases is None else net.biases[i].astype(float)
        x = FUNCTIONS[name](x @ net.weights[i].T.astype(float) + bias + extra)
    return x


def formula(net, x, draws, sigma, divisor):
    """eps (r~_L - r_L)^T / divisor^2, the mean over samples."""
    noise = [sigma * draw for draw in draws]
    change = output(net, x, noise) - output(net, x, [0.0] * len(noise))
    return [eps.T @ change / (len(x) * divisor**2) for eps in noise]


@pytest.mark.parametrize(("dtype", "bound"), [(np.float64, 1e-12), (np.float32, 2e-6)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("sigma", "floor", "divisor"), [(0.3, 0.01, 0.3), (0.002, 0.01, 0.01), (0.2, 0.5, 0.5)]
)
def test_updates_correlate_noise_with_what_it_changes(dtype, bound, bias, sigma, floor, divisor):
    net, x, draws = problem(dtype, bias)
    found = one_shot_feedback_update(net, x, sigma=sigma, noise=draws, sigma_floor=floor)
    for ours, expected in zip(found.feedback, formula(net, x, draws, sigma, divisor), strict=True):
        assert ours.dtype == dtype and ours.flags.c_contiguous
        assert relative_deviation(ours, expected) < bound


@pytest.mark.parametrize("sizes", [[4, 3], [4, 6, 3], [9, 1, 3]])
def test_the_one_shot_rule_follows_its_formula_at_any_depth(sizes):
    net, x, draws = problem(sizes=sizes)
    found = one_shot_feedback_update(net, x, sigma=0.1, noise=draws)
    for ours, expected in zip(found.feedback, formula(net, x, draws, 0.1, 0.1), strict=True):
        assert relative_deviation(ours, expected) < 1e-12


def test_small_noise_gives_the_transposed_jacobian_on_average():
    """The update of a sample is eps eps^T J^T / sigma^2: its mean is J^T, its variance |J_k|^2 + J_ki^2."""
    net, x, _ = problem()
    copies, seeds = 1000, range(8)
    each = dfc.output_jacobian(net, x)
    spread = np.sqrt(((each**2).sum(axis=2, keepdims=True) + each**2).mean(axis=0) / (copies * SAMPLES))
    options = {"sigma": 1e-4, "sigma_floor": 1e-9}
    updates = [
        one_shot_feedback_update(net, np.repeat(x, copies, axis=0), noise=seed, **options) for seed in seeds
    ]
    found = np.array([np.concatenate(update.feedback).T for update in updates])
    errors = (found - each.mean(axis=0)) / spread
    assert np.abs(errors).max() < 4.5 and 0.85 < np.sqrt(np.mean(errors**2)) < 1.15
    assert relative_deviation(found.mean(axis=0), each.mean(axis=0)) < 0.03


def test_noise_is_drawn_from_its_key():
    net, x, _ = problem()

    def update(noise, samples=slice(None)):
        return one_shot_feedback_update(net, x[samples], sigma=0.1, noise=noise).feedback

    def same(ours, theirs):
        return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))

    assert same(one_shot_feedback_update(net, x, sigma=0.1).feedback, update(0)) and same(
        update(7), update(dfc.NoiseKey(7))
    )
    assert not same(update(7), update(8)) and not same(update(7), update(dfc.NoiseKey(7, 1)))
    half = update(dfc.NoiseKey(7, samples=np.arange(20, SAMPLES)), slice(20, None))
    rest = update(7, slice(20))
    together = [(20 * a + 17 * b) / SAMPLES for a, b in zip(rest, half, strict=True)]
    assert all(relative_deviation(a, b) < 1e-12 for a, b in zip(together, update(7), strict=True))


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_threads_do_not_change_a_bit(threads):
    net = dfc.Network(**parameters([10, 300, 200, 5]))
    x = inputs(128, 10)
    expected = one_shot_feedback_update(net, x, sigma=0.1, noise=3).feedback
    with dfc.limit_threads(threads):
        found = one_shot_feedback_update(net, x, sigma=0.1, noise=3).feedback
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_options_are_keyword_only():
    kinds = [parameter.kind for parameter in inspect.signature(one_shot_feedback_update).parameters.values()]
    assert kinds == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 2 + [inspect.Parameter.KEYWORD_ONLY] * 3


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"network": "net"}, TypeError, "network must be a Network, not 'net'"),
        ({"x": inputs(37, 3)}, ValueError, r"x has shape \(37, 3\); expected \(any, 4\)"),
        ({"sigma": 0}, ValueError, "sigma is 0; a finite number > 0"),
        ({"sigma": np.nan}, ValueError, "sigma is nan"),
        ({"sigma": None}, TypeError, "sigma is None"),
        ({"sigma_floor": 0}, ValueError, "sigma_floor is 0; a finite number > 0"),
        ({"noise": None}, TypeError, r"noise is NoneType; expected an int seed, .* list of 3 arrays \(B, n_i\)"),
        ({"noise": [np.zeros((37, 6))]}, TypeError, r"or a list of 3 arrays \(B, n_i\)"),
        ({"noise": [np.zeros((37, n)) for n in (6, 5, 4)]}, ValueError, r"noise\[2\] has shape \(37, 4\)"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit_are_refused(change, error, message):
    net, x, draws = problem()
    with pytest.raises(error, match=message):
        one_shot_feedback_update(**{"network": net, "x": x, "sigma": 0.1, "noise": draws, **change})
