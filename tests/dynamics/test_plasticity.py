"""Updates are the means of their rules over simulated trajectories: recomputed here from `simulate` in plain NumPy."""

import inspect

import numpy as np
import pytest
from problems import draws, inputs, parameters, relative_deviation, stable_parameters

import dfc_numba as dfc
from dfc_numba.model.products import shards_of
from dfc_numba.support import memory
from dfc_numba.support.summation import tree_sum

SIZES, SAMPLES = [4, 6, 5, 3], 37
SHORT = {"dt": 0.05, "steps": 30, "alpha": 0.1, "k_p": 0.5}
NOISY = {**SHORT, "sigma": 0.1, "sigma_output": 0.07, "tau_noise": 0.2}
CONTROLLERS = {
    "plain": SHORT,
    "integral": {**SHORT, "k_p": 0.0, "leak": "integral"},
    "retarded": {**SHORT, "instant_transmission": False, "proactive": False},
    "instant soma": {**SHORT, "k_p": 0.0, "instant_dynamics": True},
    "slow apical, filtered control": {**SHORT, "tau_apical": 0.2, "tau_control": 0.3},
    "Jacobian feedback": {**SHORT, "jacobian_feedback": True},
    "softmax error": {**SHORT, "error": "softmax"},
    "noise": NOISY,
    "one step": {**SHORT, "steps": 1},
}
RULES = ["nonlinear_difference", "voltage_difference", "derivative_matrix"]
DERIVATIVES = {
    "tanh": lambda v: 1 - np.tanh(v) ** 2,
    "leakyrelu": lambda v: np.where(v > 0, 1.0, 0.2),
    "linear": np.ones_like,
}
FUNCTIONS = {"tanh": np.tanh, "leakyrelu": lambda v: np.where(v > 0, v, 0.2 * v), "linear": lambda v: v}
BOUND = {np.dtype("float64"): 1e-12, np.dtype("float32"): 2e-5}


def problem(dtype=np.float64, bias=True, n_samples=SAMPLES, build=parameters):
    """A network with two kinds of activations, inputs and a target."""
    net = dfc.Network(**build(SIZES, bias=bias, activation=["tanh", "leakyrelu"], dtype=dtype))
    x = inputs(n_samples, SIZES[0])
    return net, x, net.predict(x, dtype="float64") + 0.3 * inputs(n_samples, SIZES[-1], seed=5)


def in_double(net):
    """The same network, simulated in float64."""
    return net.copy(dtype="float64")


def factors_and_rates(net, x, found, readout, rule):
    """What the rule multiplies, per layer (time points, B, n_i) and (time points, B, n_{i-1})."""
    points = slice(None) if readout == "average" else slice(-1, None)
    below = [np.broadcast_to(x, (len(found.time), *x.shape))[points], *(r[points] for r in found.r[:-1])]
    pairs = []
    for i, name in enumerate([*net.hidden_activations, net.output_activation]):
        v, v_ff = found.v[i][points], found.v_ff[i][points]
        difference = v - v_ff
        if rule == "nonlinear_difference":
            if readout == "final":
                v_ff = below[i] @ net.weights[i].T + (0 if net.biases is None else net.biases[i])
            factor = FUNCTIONS[name](v_ff + difference) - FUNCTIONS[name](v_ff)
        else:
            factor = difference * (DERIVATIVES[name](found.v[i][0]) if rule == "derivative_matrix" else 1.0)
        pairs.append((factor, below[i]))
    return pairs


def recomputed_update(net, x, found, readout, rule, weight=None):
    """(weights, biases): means over time points and samples, of which each has a weight."""
    weight = np.ones(len(x)) if weight is None else weight
    pairs = factors_and_rates(net, x, found, readout, rule)
    counts = [len(factor) * len(x) for factor, _ in pairs]
    weights = [np.einsum("tbi,tbj,b->ij", f, r, weight) / n for (f, r), n in zip(pairs, counts, strict=True)]
    biases = [np.einsum("tbi,b->i", f, weight) / n for (f, _), n in zip(pairs, counts, strict=True)]
    return weights, None if net.biases is None else biases


def recomputed_feedback(found, sigmas, *, scales=(1, 1, 1), high_pass=None, weight=1.0):
    """-k_i / sigma_i^2 times the mean of v_fb_i(t) u(t+1)^T."""
    u = found.u[1:].copy()
    if high_pass is not None:
        slow = u.copy()
        for t in range(1, len(u)):
            slow[t] = high_pass * u[t] + (1 - high_pass) * slow[t - 1]
        u -= slow
    u *= weight
    count = u.shape[0] * u.shape[1]
    return [
        -k / sigma**2 * np.einsum("tbi,tbk->ik", v_fb[:-1], u) / count
        for k, sigma, v_fb in zip(scales, sigmas, found.v_fb, strict=True)
    ]


def assert_close(found, expected, bound):
    for a, b in zip(found, expected, strict=True):
        assert a.flags.c_contiguous and relative_deviation(a, b) < bound


# --- forward weights ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("readout", ["average", "final"])
@pytest.mark.parametrize("kind", CONTROLLERS)
def test_forward_updates_are_means_over_the_trajectory(kind, readout, rule, dtype):
    net, x, target = problem(dtype)
    c = dfc.Controller(**CONTROLLERS[kind])
    noise = draws(c, SIZES, SAMPLES) if c.noisy else None
    trajectory = dfc.simulate(in_double(net), x, target, c, noise=noise)
    weights, biases = recomputed_update(in_double(net), x, trajectory, readout, rule)
    found = dfc.forward_update(net, x, target, c, readout=readout, rule=rule, noise=noise)
    assert [w.shape for w in found.weights] == [w.shape for w in net.weights]
    assert [b.shape for b in found.biases] == [b.shape for b in net.biases]
    assert all(a.dtype == dtype for a in [*found.weights, *found.biases])
    assert_close([*found.weights, *found.biases], [*weights, *biases], BOUND[net.dtype])
    assert np.array_equal(found.converged, trajectory.converged)
    assert np.array_equal(found.diverged, trajectory.diverged)


def test_the_defaults_are_the_time_average_of_the_nonlinear_difference():
    arguments = *problem(), dfc.Controller(**SHORT)
    explicit = dfc.forward_update(
        *arguments, readout="average", rule="nonlinear_difference", samples="all", noise=None
    )
    assert all(
        np.array_equal(a, b)
        for a, b in zip(dfc.forward_update(*arguments).weights, explicit.weights, strict=True)
    )


@pytest.mark.parametrize("readout", ["average", "final", "analytic"])
@pytest.mark.parametrize("n_samples", [1, SAMPLES])
def test_a_network_without_biases_has_no_bias_update(readout, n_samples):
    net, x, target = problem(bias=False, n_samples=n_samples)
    c = dfc.Controller(**SHORT)
    found = dfc.forward_update(net, x, target, c, readout=readout)
    assert found.biases is None
    if readout != "analytic":
        trajectory = dfc.simulate(net, x, target, c)
        weights, _ = recomputed_update(net, x, trajectory, readout, "nonlinear_difference")
        assert_close(found.weights, weights, 1e-12)


@pytest.mark.parametrize("sizes", [[4, 3], [4, 6, 3], [9, 33, 50, 1, 17, 7]])
def test_an_update_is_the_mean_of_its_rule_at_any_depth(sizes):
    net, x = dfc.Network(**parameters(sizes, activation="tanh")), inputs(20, sizes[0])
    target, c = net.predict(x) + 0.1, dfc.Controller(**SHORT)
    weights, biases = recomputed_update(
        net, x, dfc.simulate(net, x, target, c), "average", "nonlinear_difference"
    )
    found = dfc.forward_update(net, x, target, c)
    assert_close([*found.weights, *found.biases], [*weights, *biases], 1e-12)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("jacobian_feedback", [False, True])
def test_the_analytic_update_is_that_of_the_linearised_steady_state(rule, jacobian_feedback):
    net, x, target = problem()
    c = dfc.Controller(alpha=0.2, jacobian_feedback=jacobian_feedback)
    steady, start = dfc.steady_state(net, x, target, c), net.forward(x)
    below = [x, *steady.r[:-1]]
    found = dfc.forward_update(net, x, target, c, readout="analytic", rule=rule)
    for i, name in enumerate([*net.hidden_activations, net.output_activation]):
        factor = steady.delta_v[i]
        if rule == "nonlinear_difference":
            factor = FUNCTIONS[name](steady.v[i]) - FUNCTIONS[name](steady.v[i] - factor)
        elif rule == "derivative_matrix":
            factor = DERIVATIVES[name](start.v[i]) * factor
        assert relative_deviation(found.weights[i], factor.T @ below[i] / SAMPLES) < 1e-12
        assert relative_deviation(found.biases[i], factor.mean(axis=0)) < 1e-12
    assert found.converged is None and found.diverged is None


@pytest.mark.parametrize("readout", ["final", "analytic"])
def test_readouts_agree_in_the_limit_of_small_nudges_and_long_simulations(readout):
    net, x, _ = problem(build=stable_parameters)
    target = dfc.output_target(net, x, inputs(SAMPLES, 3, seed=6), step=1e-5)
    c = dfc.Controller(dt=0.1, steps=2000, alpha=0.1, k_p=0.5)
    reference = dfc.forward_update(net, x, target, c, readout="average")
    for a, b in zip(
        dfc.forward_update(net, x, target, c, readout=readout).weights, reference.weights, strict=True
    ):
        assert relative_deviation(a, b) < 0.02


# --- samples that have not converged ------------------------------------------------------------------------


def partly_converging():
    net, x, target = problem(build=stable_parameters)
    target[::3] += 2.5
    return net, x, target, dfc.Controller(dt=0.1, steps=300, alpha=0.1, k_p=0.0, convergence_epsilon=0.22)


@pytest.mark.parametrize("readout", ["average", "final"])
@pytest.mark.parametrize("rule", RULES)
def test_samples_that_have_not_converged_contribute_zero(readout, rule):
    net, x, target, c = partly_converging()
    trajectory = dfc.simulate(net, x, target, c)
    assert 5 < trajectory.converged.sum() < SAMPLES - 5
    weights, biases = recomputed_update(
        net, x, trajectory, readout, rule, weight=trajectory.converged.astype(float)
    )
    found = dfc.forward_update(net, x, target, c, readout=readout, rule=rule, samples="converged")
    assert np.array_equal(found.converged, trajectory.converged)
    assert_close([*found.weights, *found.biases], [*weights, *biases], 1e-12)


def test_without_a_converged_sample_the_update_is_zero():
    found = dfc.forward_update(*problem(), dfc.Controller(**{**SHORT, "steps": 2}), samples="converged")
    assert not found.converged.any() and not any(a.any() for a in [*found.weights, *found.biases])


def test_if_all_have_converged_nothing_changes():
    net, x, target, c = partly_converging()
    chosen = dfc.simulate(net, x, target, c).converged
    arguments = net, x[chosen], target[chosen], c
    whole, same = dfc.forward_update(*arguments), dfc.forward_update(*arguments, samples="converged")
    assert all(np.array_equal(a, b) for a, b in zip(whole.weights, same.weights, strict=True))


def test_a_diverging_sample_among_converged_ones_is_left_out():
    net, x, target, c = partly_converging()
    target[7] = 1e308
    found = dfc.forward_update(net, x, target, c, samples="converged")
    assert np.array_equal(np.flatnonzero(found.diverged), [7]) and np.isfinite(found.weights[-1]).all()
    assert not np.isfinite(dfc.forward_update(net, x, target, c).weights[-1]).any()


# --- feedback weights ---------------------------------------------------------------------------------------

FEEDBACK_OPTIONS = [
    ({}, {}),
    ({"high_pass": 0.25}, {"high_pass": 0.2}),
    ({"scaling": True}, {"scales": (4, 2, 1)}),
    ({"normalise": (0.3, 0.2)}, {"sigmas": (0.3, 0.3, 0.2)}),
    ({"normalise": (0.001, 0.0)}, {"sigmas": (0.01, 0.01, 0.01)}),
    ({"sigma_floor": 0.08}, {"sigmas": (0.1, 0.1, 0.08)}),
    (
        {"scaling": True, "high_pass": 0.25, "normalise": (0.3, 0.02), "sigma_floor": 0.05},
        {"scales": (4, 2, 1), "high_pass": 0.2, "sigmas": (0.3, 0.3, 0.05)},
    ),
]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("options", "meaning"), FEEDBACK_OPTIONS)
@pytest.mark.parametrize("kind", [{}, {"tau_apical": 0.2, "tau_control": 0.3, "proactive": False}])
def test_feedback_updates_are_correlations_of_apical_voltage_and_control(options, meaning, kind, dtype):
    net, x, target = problem(dtype)
    c = dfc.Controller(**NOISY, **kind)
    noise = draws(c, SIZES, SAMPLES)
    trajectory = dfc.simulate(in_double(net), x, target, c, noise=noise)
    expected = recomputed_feedback(trajectory, **{"sigmas": (0.1, 0.1, 0.07), **meaning})
    found = dfc.feedback_update(net, x, target, c, noise=noise, **options)
    assert [q.shape for q in found.feedback] == [q.shape for q in net.feedback]
    assert all(q.dtype == dtype for q in found.feedback)
    assert_close(found.feedback, expected, BOUND[net.dtype])


def test_the_shortest_high_pass_filter_leaves_nothing():
    found = dfc.feedback_update(*problem(), dfc.Controller(**NOISY), noise=1, high_pass=0.05)
    assert not any(q.any() for q in found.feedback)


def test_white_noise_and_sigmas_of_the_controller():
    net, x, target = problem()
    c = dfc.Controller(**{**NOISY, "tau_noise": None, "sigma": 0.002})
    trajectory = dfc.simulate(net, x, target, c, noise=4)
    found = dfc.feedback_update(net, x, target, c, noise=4)
    assert_close(found.feedback, recomputed_feedback(trajectory, (0.01, 0.01, 0.07)), 1e-12)


def test_the_default_noise_is_the_seed_zero():
    net, x, target = problem()
    c = dfc.Controller(**NOISY)
    for name in ("feedback_update", "forward_and_feedback_update"):
        ours, theirs = (getattr(dfc, name)(net, x, target, c, **noise) for noise in ({}, {"noise": 0}))
        last = (ours, theirs) if name == "feedback_update" else (ours[1], theirs[1])
        assert all(np.array_equal(a, b) for a, b in zip(last[0].feedback, last[1].feedback, strict=True))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("options", [options for options, _ in FEEDBACK_OPTIONS[::6]])
def test_forward_and_feedback_updates_from_one_simulation_are_those_from_two(rule, options):
    arguments = *problem(), dfc.Controller(**NOISY)
    forward, feedback = dfc.forward_and_feedback_update(*arguments, rule=rule, noise=5, **options)
    alone = dfc.forward_update(*arguments, rule=rule, noise=5)
    assert all(np.array_equal(a, b) for a, b in zip(forward.weights, alone.weights, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(forward.biases, alone.biases, strict=True))
    alone = dfc.feedback_update(*arguments, noise=5, **options)
    assert all(np.array_equal(a, b) for a, b in zip(feedback.feedback, alone.feedback, strict=True))


def test_forward_and_feedback_updates_may_take_the_converged_samples_only():
    net, x, target, c = partly_converging()
    trajectory = dfc.simulate(net, x, target, c)
    converged = trajectory.converged.astype(float)
    forward, feedback = dfc.forward_and_feedback_update(
        net, x, target, c, samples="converged", normalise=(0.1, 0.2)
    )
    weights, _ = recomputed_update(net, x, trajectory, "average", "nonlinear_difference", weight=converged)
    assert_close(forward.weights, weights, 1e-12)
    expected = recomputed_feedback(trajectory, (0.1, 0.1, 0.2), weight=converged[:, None])
    assert_close(feedback.feedback, expected, 1e-12)


# --- independence of threads and memory ---------------------------------------------------------------------


def both_updates(sizes=(10, 60, 50, 5)):
    net, x = dfc.Network(**parameters(list(sizes))), inputs(100, 10)
    arguments = net, x, inputs(100, 5, seed=6), dfc.Controller(**NOISY)
    forward, feedback = dfc.forward_and_feedback_update(*arguments, noise=3)
    final = dfc.forward_update(*arguments, noise=3, readout="final")
    return [*forward.weights, *forward.biases, *feedback.feedback, *final.weights]


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_threads_do_not_change_a_bit(threads):
    expected = both_updates()
    with dfc.limit_threads(threads):
        found = both_updates()
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_an_update_is_the_tree_sum_of_the_updates_of_its_shards():
    """So processes that own some of the shards find the same bits."""
    net, x = dfc.Network(**parameters([10, 60, 50, 5])), inputs(128, 10)
    target, c = inputs(128, 5, seed=6), dfc.Controller(**{**NOISY, "steps": 15})  # T = 16: divided exactly
    shards = shards_of(net, len(x))
    keys = [dfc.NoiseKey(3, 0, np.arange(first, first + count)) for first, count in shards]
    parts = [
        dfc.forward_update(net, x[f : f + n], target[f : f + n], c, noise=key)
        for (f, n), key in zip(shards, keys, strict=True)
    ]
    full = dfc.forward_update(net, x, target, c, noise=dfc.NoiseKey(3, 0, np.arange(128)))
    for kind in ("weights", "biases"):
        for layer, array in enumerate(getattr(full, kind)):
            sums = [16 * n * getattr(part, kind)[layer] for part, (_, n) in zip(parts, shards, strict=True)]
            assert np.array_equal(array, tree_sum(sums) / (16 * 128))
    assert [count for _, count in shards] == [16] * 8, (
        "divisors are powers of two, so that nothing is rounded twice"
    )


def test_sums_of_a_wide_network_do_not_exist_once_per_shard(monkeypatch):
    """As many as threads and levels of the tree, however many shards there are."""
    made = []
    create = memory.in_large_pages
    monkeypatch.setattr(memory, "in_large_pages", lambda *args: made.append(args[0]) or create(*args))
    net, x = dfc.Network(**parameters([10, 200, 200, 5])), inputs(16 * 32, 10)
    with dfc.limit_threads(2):
        dfc.forward_update(net, x, inputs(16 * 32, 5, seed=6), dfc.Controller(steps=10))
    sums = [length for length in made if length == max(made)]
    assert len(shards_of(net, len(x))) == 32 and 2 <= len(sums) <= 2 + 2 * 5


# --- what goes wrong ----------------------------------------------------------------------------------------


def test_a_diverging_simulation_leaves_numbers_that_are_not_finite():
    net, x, target = problem(build=stable_parameters)
    net = dfc.Network(**stable_parameters(SIZES, activation="linear"))
    for q in net.feedback:
        q *= -100
    c = dfc.Controller(dt=0.02, steps=2000)
    for readout in ("average", "final"):
        found = dfc.forward_update(net, x, target, c, readout=readout)
        assert found.diverged.all() and not np.isfinite(found.weights[-1]).any()


@pytest.mark.parametrize("function", ["forward_update", "feedback_update", "forward_and_feedback_update"])
def test_options_are_keyword_only(function):
    kinds = [parameter.kind for parameter in inspect.signature(getattr(dfc, function)).parameters.values()]
    assert kinds[:4] == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 4
    assert set(kinds[4:]) == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("function", ["forward_update", "feedback_update", "forward_and_feedback_update"])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"network": "net"}, TypeError, "network must be a Network, not 'net'"),
        ({"controller": None}, TypeError, "controller must be a Controller, not None"),
        ({"x": inputs(37, 3)}, ValueError, r"x has shape \(37, 3\); expected \(any, 4\)"),
        ({"target": inputs(36, 3)}, ValueError, r"target has shape \(36, 3\); expected \(37, 3\)"),
        ({"target": inputs(37, 3) * np.inf}, ValueError, r"target\[0, 0\] is -?inf"),
        ({"noise": "white"}, TypeError, "noise is str; expected an int seed"),
        ({"noise": None}, ValueError, "noise is None; pass noise=<int seed>"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(function, change, error, message):
    arguments = dict(zip(("network", "x", "target"), problem(), strict=True))
    arguments |= {"controller": dfc.Controller(**NOISY), "noise": 1, **change}
    with pytest.raises(error, match=message):
        getattr(dfc, function)(**arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"readout": "avrage"}, "readout is 'avrage'; .*did you mean 'average'"),
        ({"rule": "nonlinear"}, "rule is 'nonlinear'; .*did you mean 'nonlinear_difference'"),
        ({"samples": "convergd"}, "samples is 'convergd'; .*did you mean 'converged'"),
        ({"readout": "analytic", "noise": 3}, "readout='analytic' solves for the steady state .*leave out noise"),
        ({"readout": "analytic", "samples": "converged"}, "samples='converged' needs 'average' or 'final'"),
        ({"readout": "analytic", "controller": dfc.Controller(error="softmax")}, "error='softmax' the error is not linear"),
    ],
)  # fmt: skip
def test_options_of_the_forward_update_that_cannot_be_honoured_are_refused(options, message):
    arguments = dict(zip(("network", "x", "target"), problem(), strict=True))
    with pytest.raises(ValueError, match=message):
        dfc.forward_update(**{**arguments, "controller": dfc.Controller(**SHORT), **options})


@pytest.mark.parametrize("function", ["feedback_update", "forward_and_feedback_update"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"high_pass": 0.04}, "high_pass, a time constant that dt has to resolve, is 0.04; a finite number >= 0.05"),
        ({"high_pass": 0}, "high_pass, .* is 0;"),
        ({"high_pass": np.inf}, "high_pass, .* is inf;"),
        ({"high_pass": True}, "high_pass, .* is True;"),
        ({"normalise": 0.1}, r"normalise has shape \(1,\); expected \(2\)"),
        ({"normalise": (0.1, -0.1)}, r"normalise\[1\] is .*-0.1.*; a finite number >= 0"),
        ({"normalise": (np.nan, 0.1)}, r"normalise\[0\] is nan"),
        ({"sigma_floor": 0}, "sigma_floor is 0; a finite number > 0"),
        ({"sigma_floor": np.inf}, "sigma_floor is inf"),
        ({"sigma_floor": "a"}, "sigma_floor is 'a'"),
        ({"scaling": "yes"}, "scaling is 'yes'; True or False"),
        ({"scaling": True, "controller": dfc.Controller(sigma=0.1)}, "set tau_noise, or scaling=False"),
        ({"controller": dfc.Controller(sigma=0.1, jacobian_feedback=True)}, "feedback weights are not used; they cannot be"),
    ],
)  # fmt: skip
def test_options_of_the_feedback_update_that_cannot_be_honoured_are_refused(function, options, message):
    arguments = dict(zip(("network", "x", "target"), problem(), strict=True))
    with pytest.raises((ValueError, TypeError), match=message):
        getattr(dfc, function)(**{**arguments, "controller": dfc.Controller(**NOISY), **options})
