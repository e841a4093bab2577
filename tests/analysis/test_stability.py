"""Stability against what simulations do, against closed forms, and for input that has no answer."""

import re
from dataclasses import replace

import numpy as np
import pytest
from problems import inputs, label, parameters, stable_parameters

import dfc_numba as dfc
from dfc_numba.analysis import spectrum
from dfc_numba.analysis import stability as module
from dfc_numba.analysis.closed_loop import ClosedLoop, Flow
from dfc_numba.analysis.linearisation import Layers
from dfc_numba.analysis.published_systems import published_systems
from dfc_numba.analysis.spectrum import FINE, largest_stable_step
from dfc_numba.analysis.stability import stability
from dfc_numba.support.threads import one_thread

SIZES = [4, 6, 5, 3]
NUDGE = 1e-14  # small enough for a simulation to stay where it was linearised
OPTIONS = [
    {},
    {"k_p": 0.0},
    {"leak": "integral"},
    {"proactive": False},
    {"instant_transmission": False},
    {"instant_dynamics": True, "k_p": 0.0},
    {"tau_apical": 0.15},
    {"tau_control": 0.15},
    {"tau_apical": 0.15, "tau_control": 0.12, "instant_transmission": False, "proactive": False},
    {"jacobian_feedback": True},
]


def controller(**options):
    return dfc.Controller(**{"dt": 0.05, "steps": 1000, "alpha": 0.1, "k_p": 0.5, **options})


def problem(sizes=SIZES, samples=3, gain=1.0, size=0.3, **options):
    """A network with feedback weights of that gain, inputs, and a target that is `size` away."""
    net = dfc.Network(**stable_parameters(sizes, **options))
    for q in net.feedback:
        q *= gain
    x = inputs(samples, sizes[0])
    return net, x, net.predict(x, dtype="float64") + size * inputs(samples, sizes[-1], seed=5)


# --- measured rates --------------------------------------------------------------------------------------------------------


def measured_factor(signal):
    """By what a signal (T,), in the end a sum of few exponentials, grows or shrinks per step."""
    change = np.diff(signal)
    size = np.where(np.isfinite(change), np.abs(change), np.inf)
    if size[-1] > size[10]:
        stop = int(np.argmax(size > 1e5 * NUDGE))  # before it is nonlinear
    else:
        stop = len(size) - int(np.argmax(size[::-1] > 1e-6 * size.max()))  # before it is rounding
    start = max(stop - 40, 0)
    change = change[start:stop] / size[start:stop].max()
    for order in range(1, 5):
        root, residual = _recurrence(change, order)
        if residual < 1e-8:
            return root
    raise AssertionError("the signal is no sum of four exponentials")


def _recurrence(signal, order):
    """Largest root, and residual, of s_t = a_1 s_{t-1} + ... that fits best."""
    count = len(signal)
    past = np.stack([signal[order - 1 - k : count - 1 - k] for k in range(order)], axis=1)
    factors = np.linalg.lstsq(past, signal[order:], rcond=None)[0]
    residual = np.linalg.norm(past @ factors - signal[order:]) / np.linalg.norm(signal[order:])
    return np.abs(np.roots([1.0, *-factors])).max(), residual


def measured(net, x, target, c):
    """(B,) factors per step of the control signal's deviations; one output."""
    u = dfc.simulate(net, x, target, c, record=dfc.Record(variables=("u",))).u
    with np.errstate(over="ignore", invalid="ignore"):
        return np.array([measured_factor(u[:, b, 0]) for b in range(len(x))])


@pytest.mark.parametrize("gain", [1.0, -0.5])
@pytest.mark.parametrize("options", OPTIONS, ids=label)
def test_simulations_grow_and_decay_by_the_spectral_radius(options, gain):
    net, x, target = problem([4, 6, 5, 1], gain=gain, size=NUDGE)
    c = controller(**options)
    found = stability(net, x, target, c, at="feedforward")
    assert np.allclose(np.log(measured(net, x, target, c)), np.log(found.euler), rtol=1e-6, atol=0)
    grows = gain < 0 and not c.jacobian_feedback
    assert (found.euler > 1).all() == grows and set(found.verdict) == {"unstable" if grows else "stable"}


@pytest.mark.parametrize("options", OPTIONS, ids=label)
def test_beyond_the_largest_step_simulations_grow(options):
    """Just below largest_dt they decay, just above it they grow, by the spectral radius, which then lies above 1."""
    gain = 8.0 if options.get("k_p") == 0.0 else 1.6  # enough for some dt to be too large
    net, x, target = problem([4, 6, 5, 1], samples=1, gain=gain, size=NUDGE)
    c = controller(**{"k_p": 2.0, "tau_v": 0.3, **options})
    limit = stability(net, x, target, c, at="feedforward").largest_dt[0]
    for factor, verdict in ((0.97, "stable"), (1.03, "dt too large")):
        now = replace(c, dt=factor * limit, steps=4000)
        found = stability(net, x, target, now, at="feedforward")
        assert found.verdict == [verdict]
        assert found.largest_dt[0] == pytest.approx(limit, rel=1e-12)
        assert measured(net, x, target, now) == pytest.approx(found.euler, rel=1e-6)
        assert (found.euler[0] < 1) == (factor < 1)


# --- verdicts and largest steps --------------------------------------------------------------------------------------------


def loop_gain(net, x):
    """J Q, (B, n_L, n_L)."""
    return dfc.output_jacobian(net, x) @ np.concatenate(net.feedback)


def test_instantaneous_layers_have_closed_forms():
    """Pure integral control of layers at once: factors 1 - dt mu for the eigenvalues mu of J Q + alpha."""
    net, x, target = problem()
    c = controller(instant_dynamics=True, k_p=0.0)
    mu = np.linalg.eigvals(loop_gain(net, x) + c.alpha * np.eye(3))
    found = stability(net, x, target, c, at="feedforward")
    for rate in (found.instantaneous, found.integral, found.proportional):
        assert np.allclose(rate, -mu.real.min(axis=1), rtol=1e-12)
    assert np.allclose(found.euler, np.abs(1 - c.dt * mu).max(axis=1), rtol=1e-12)
    assert np.allclose(found.largest_dt, (2 * mu.real / np.abs(mu) ** 2).min(axis=1), rtol=1e-4)


def test_one_layer_has_closed_forms():
    """tau_v dv/dt = -v + u, du/dt = -v - alpha u: two eigenvalues for each of the outputs, which are the same."""
    net = dfc.Network(weights=[np.ones((2, 3))], biases=None, feedback=[np.eye(2)])
    x, tau_v, alpha = np.ones((1, 3)), 0.4, 0.3
    c = controller(alpha=alpha, tau_v=tau_v, k_p=0.0)
    found = stability(net, x, net.predict(x), c)
    rate = np.linalg.eigvals([[-1 / tau_v, 1 / tau_v], [-1.0, -alpha]]).real.max()
    assert found.integral == pytest.approx(rate, rel=1e-12) and found.instantaneous == pytest.approx(-1.3)
    gain, dt = c.dt / tau_v, c.dt
    step = [[1 - gain - gain * dt, gain * (1 - dt * alpha)], [-dt, 1 - dt * alpha]]  # v sees the new u
    assert found.euler == pytest.approx(np.abs(np.linalg.eigvals(step)).max(), rel=1e-12)
    assert found.largest_dt == tau_v  # every step that is allowed


@pytest.mark.parametrize("leak", ["total", "integral"])
def test_the_published_systems_have_the_same_leading_eigenvalues(leak):
    """A_PI describes a leak on the whole control; what leaks is none of the business of A_I and A_instI."""
    net, x, target = problem()
    c = controller(k_p=0.8, leak=leak)
    rest = dfc.steady_state(net, x, target, c, method="newton")
    systems = published_systems(net, rest.v, alpha=c.alpha, k_p=c.k_p, tau_v=c.tau_v)
    tilde_i, i, inst_i, pi = (np.linalg.eigvals(matrix).real.max(axis=1) for matrix in systems)
    found = stability(net, x, target, c)
    assert np.allclose(found.integral, i, rtol=1e-10) and np.allclose(found.integral, tilde_i, rtol=1e-10)
    assert np.allclose(found.instantaneous, inst_i, rtol=1e-10)
    assert np.allclose(found.proportional, pi, rtol=1e-10) == (leak == "total")


def test_too_large_a_step_is_told_from_an_unstable_network():
    net, x, target = problem()
    too_large = stability(net, x, target, controller(dt=0.2, k_p=2.0))
    assert set(too_large.verdict) == {"dt too large"} and (too_large.euler > 1).all()
    assert (too_large.proportional < 0).all()
    assert set(
        stability(net, x, target, controller(dt=0.9 * too_large.largest_dt.min(), k_p=2.0)).verdict
    ) == {"stable"}
    for q in net.feedback:
        q *= -1.0
    unstable = stability(net, x, target, controller(alpha=0.01), at="feedforward")
    assert set(unstable.verdict) == {"unstable"} and (unstable.largest_dt == 0).all()
    assert (unstable.instantaneous > 0).all() and (unstable.proportional > 0).all()


def test_a_run_can_be_stable_where_the_network_is_not():
    """The step takes the new control at once, which damps: what grows slowly in continuous time can decay in steps."""
    net, x, target = problem(gain=60.0, size=NUDGE)
    x, target = x[1:2], target[1:2]
    runs = {dt: controller(dt=dt, k_p=0.0, tau_v=0.05, alpha=0.0, steps=2000) for dt in (0.04, 0.01, 1e-4)}
    found = {dt: stability(net, x, target, c, at="feedforward") for dt, c in runs.items()}
    assert [one.verdict[0] for one in found.values()] == ["unstable", "stable", "unstable"]
    assert all(one.proportional[0] > 0 and one.largest_dt[0] == 0 for one in found.values())
    error = {dt: dfc.simulate(net, x, target, runs[dt]).error[:, 0] for dt in (0.04, 0.01)}
    assert error[0.01][-1] < 1e-3 * error[0.01][0]
    assert error[0.04][-1] > error[0.04][0]


@pytest.mark.parametrize("limit", [1.0, 30.0])
def test_the_search_stops_below_the_first_unstable_step(limit):
    """Bands of instability above the first one, and one far below the scan, for samples side by side."""
    edges = np.array([0.3, 0.041, 2e-5, 100.0, 0.2])

    def radius(dt, chosen):
        return np.where((dt > edges[chosen]) & ~((dt > 0.5) & (chosen == 0)), 1.2, 0.9)

    start = np.array([True, True, True, True, False])
    found = largest_stable_step(radius, np.full(5, limit), start, FINE)
    expected = np.array([0.3, 0.041, 2e-5, limit, 0.0])
    assert np.allclose(found, expected, rtol=1e-3) and (found <= np.minimum(expected, limit)).all()


# --- states ----------------------------------------------------------------------------------------------------------------


def test_a_simulated_state_is_that_of_rest():
    net, x, target = problem()
    c = controller(alpha=0.3)
    rest, simulated = stability(net, x, target, c), stability(net, x, target, c, at="simulation")
    assert set(rest.status) == {"converged"} and set(simulated.status) == {"settled"}
    for name in ("instantaneous", "integral", "proportional", "euler"):
        assert np.allclose(getattr(rest, name), getattr(simulated, name), rtol=1e-9)
    early = stability(net, x, target, replace(c, steps=3), at="simulation")
    assert set(early.status) == {"not settled"} and np.isfinite(early.euler).all()


def test_stability_ignores_noise():
    net, x, target = problem()
    noisy = controller(sigma=0.3, tau_noise=0.1)
    for at in module.PLACES:
        with_noise, without = (stability(net, x, target, c, at=at) for c in (noisy, controller()))
        assert np.array_equal(with_noise.euler, without.euler)
    assert (with_noise.largest_dt <= 0.1).all()  # the filter of the noise allows no longer ones


def test_a_sample_without_a_steady_state_says_so():
    """A target that saturated outputs cannot reach, for one sample of three."""
    arguments = parameters(SIZES)
    net = dfc.Network(**arguments, output_activation="tanh")
    net.feedback[0][:], net.feedback[1][:] = 0.0, 0.0
    x = inputs(3, SIZES[0])
    target = net.predict(x)
    target[1] = 2.0
    found = stability(net, x, target, controller(alpha=0.0))
    assert list(found.verdict != "no steady state") == [True, False, True]
    assert np.isnan(found.euler[1]) and np.isnan(found.largest_dt[1]) and found.status[1] != "converged"
    assert np.isfinite(np.delete(found.euler, 1)).all()
    assert set(stability(net, x, target, controller(alpha=0.0), at="feedforward").status) == {"feedforward"}


def test_a_simulation_that_overflows_has_no_state():
    net, x, target = problem(gain=-3.0, activation="linear")
    found = stability(net, x, target, controller(steps=5000), at="simulation")
    assert set(found.status) == {"not finite"} and set(found.verdict) == {"no steady state"}


@pytest.mark.parametrize("dense", [True, False])
def test_a_linearisation_that_overflows_has_no_state(dense, monkeypatch):
    """The hidden units of the second sample are off, and the output keeps its own loop; in the first the gains overflow."""
    if not dense:
        monkeypatch.setattr(module, "DENSE_SIZE", 5)
        monkeypatch.setattr(spectrum, "DENSE_SIZE", 5)
    net, _, _ = problem([1, 2, 3, 3], activation="relu")
    values = [1.0, 1e200, 1e200, 0.0, -1.0, 0.0, 1.0, 1.0]
    for parameter, value in zip([*net.weights, *net.biases, *net.feedback[:2]], values, strict=True):
        parameter[:] = value
    x = np.array([[1e-150], [-1e-150]])
    target = np.zeros((2, 3))
    for samples in (slice(None), slice(0, 1), slice(1, 2)):
        found = stability(net, x[samples], target[samples], controller(), at="feedforward")
        assert list(found.verdict) == ["no steady state", "stable"][samples]
        numbers = [
            getattr(found, name)
            for name in ("instantaneous", "integral", "proportional", "euler", "largest_dt")
        ]
        assert np.array_equal(np.isnan(numbers), np.tile(np.array([True, False])[samples], (5, 1)))


# --- peculiar networks -----------------------------------------------------------------------------------------------------


def test_more_outputs_than_units_below_leave_directions_to_the_leak():
    """J Q of rank 2 with Q_L = 0: without a leak some directions of u never decay, and no dt is stable."""
    net, x, target = problem([4, 2, 5])
    net.feedback[-1][:] = 0.0
    leaky = stability(net, x, target, controller(alpha=0.2), at="feedforward")
    assert np.allclose(leaky.instantaneous, -0.2) and set(leaky.verdict) == {"stable"}
    assert np.allclose(leaky.euler, 1 - 0.2 * 0.05)
    neutral = stability(net, x, target, controller(alpha=0.0), at="feedforward")
    assert np.abs(neutral.instantaneous).max() < 1e-12 and set(neutral.verdict) == {"unstable"}
    assert (neutral.largest_dt == 0).all()


def test_dead_units_leave_the_others():
    net, x, target = problem(activation="relu")
    net.biases[0][:] = -100.0
    net.biases[1][:] = np.where(np.arange(5) < 2, -100.0, 100.0)
    found = stability(net, x, target, controller(), at="feedforward")
    gain = loop_gain(net, x) + 0.1 * np.eye(3)
    assert np.allclose(found.instantaneous, -np.linalg.eigvals(gain).real.min(axis=1))
    assert set(found.verdict) == {"stable"}


def test_one_softmax_output_controls_nothing():
    net, x, _ = problem([3, 2, 1])
    found = stability(net, x, np.ones((3, 1)), controller(error="softmax", alpha=0.0), at="feedforward")
    assert (found.instantaneous == -np.inf).all() and set(found.verdict) == {"stable"}


def test_the_kept_sum_of_u_is_left_out():
    """The softmax does not see a shift of all rates; without a leak, that of u is no instability."""
    net, x, _ = problem()
    target = np.full((3, 3), 1 / 3)
    kept = stability(net, x, target, controller(error="softmax", alpha=0.0))
    leaking = stability(net, x, target, controller(error="softmax", alpha=1e-9), at="feedforward")
    assert set(kept.verdict) == {"stable"} and (kept.instantaneous < -1e-3).all()
    assert np.allclose(leaking.instantaneous, -1e-9)


def test_single_precision_networks_are_judged_in_double():
    net, x, target = problem(dtype=np.float32)
    single, double = (stability(n, x, target, controller()) for n in (net, net.copy(dtype="float64")))
    assert single.euler.dtype == np.float64 and np.allclose(single.euler, double.euler, rtol=1e-12)


def test_samples_do_not_depend_on_each_other(monkeypatch):
    net, x, target = problem(samples=7)
    whole = stability(net, x, target, controller(), at="feedforward")
    monkeypatch.setattr(module, "PIECE_BYTES", 1.0)
    alone = stability(net, x, target, controller(), at="feedforward")
    for name in ("instantaneous", "integral", "proportional", "euler", "largest_dt", "verdict"):
        assert np.array_equal(getattr(whole, name), getattr(alone, name)), name


def test_large_states_are_judged_by_products(monkeypatch):
    """What is done with many outputs, done with few."""
    net, x, target = problem()
    c = controller(k_p=2.0)
    dense = stability(net, x, target, c)
    monkeypatch.setattr(module, "DENSE_SIZE", 5)
    monkeypatch.setattr(spectrum, "DENSE_SIZE", 5)
    monkeypatch.setattr(spectrum, "VECTORS", 10)
    monkeypatch.setattr(ClosedLoop, "matrices", None)
    products = stability(net, x, target, c)
    for name, rtol in (("integral", 1e-8), ("proportional", 1e-8), ("euler", 1e-8), ("largest_dt", 1e-2)):
        assert np.allclose(getattr(products, name), getattr(dense, name), rtol=rtol), name
    assert (products.largest_dt != dense.largest_dt).all() and np.array_equal(products.verdict, dense.verdict)


def pairs_side_by_side():
    """A large loop whose leading eigenvalues are a complex pair, with another near it that products find as soon."""
    rng = np.random.default_rng(5)
    weights = [rng.normal(size=(300, 20)) / np.sqrt(20), rng.normal(size=(250, 300)) / np.sqrt(300)]
    feedback = [0.06 * rng.normal(size=(300, 250)), np.eye(250)]
    return weights, feedback, rng.normal(size=(1, 20)), dfc.Controller(dt=0.02, steps=50, k_p=0.0)


def neutral_directions():
    """A large loop with many outputs that the controller cannot reach: without a leak they stay what they are."""
    rng = np.random.default_rng(2)
    weights = [rng.normal(size=(20, 5)), rng.normal(size=(300, 20)) / 5]
    feedback = [weights[1].T.copy(), np.zeros((300, 300))]
    return weights, feedback, np.ones((1, 5)), dfc.Controller(dt=0.02, steps=50, k_p=0.5, alpha=0.0)


@pytest.mark.parametrize("example", [pairs_side_by_side, neutral_directions])
def test_products_do_not_miss_the_leading_eigenvalue(example):
    weights, feedback, x, c = example()
    net = dfc.Network(weights=weights, biases=None, feedback=feedback, hidden_activation="tanh")
    loop = Flow(Layers(net, net.forward(x).v, np.zeros((1, net.sizes[-1])), c).reduced(), c)
    assert loop.size > spectrum.DENSE_SIZE
    with one_thread():
        expected = np.linalg.eigvals(loop.matrices()).real.max(axis=1)
        assert spectrum.abscissa(loop) == pytest.approx(expected, rel=1e-8, abs=1e-12)


# --- refusals --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, words",
    [
        ({"at": "steady"}, "did you mean 'steady_state'"),
        ({"controller": 1}, "must be a Controller"),
        ({"target": np.zeros((2, 3))}, "expected (3, 3)"),
        ({"x": np.zeros((3, 5))}, "expected (any, 4)"),
        ({"controller": controller(jacobian_feedback=True)}, "at='simulation'"),
    ],
)
def test_arguments_of_stability_that_do_not_fit_are_refused(change, words):
    net, x, target = problem()
    arguments = {"x": x, "target": target, "controller": controller(), **change}
    with pytest.raises((ValueError, TypeError), match=re.escape(words)):
        stability(net, **arguments)


@pytest.mark.parametrize(
    "change", [{"voltages": []}, {"voltages": None}, {"tau_v": 0.0}, {"alpha": -1.0}], ids=label
)
def test_published_systems_refuse_what_does_not_fit(change):
    net, x, _ = problem()
    arguments = {"voltages": net.forward(x).v, "alpha": 0.1, "k_p": 0.0, "tau_v": 0.2, **change}
    with pytest.raises(ValueError, match=next(iter(change))):
        published_systems(net, **arguments)
