"""Simulated trajectories: contract, the equations of a step, what is recorded, how runs end, and what is refused."""

import inspect

import numpy as np
import pytest
from problems import draws, inputs, label, parameters, probabilities, relative_deviation, stable_parameters
from simulations import (
    LAYER_VARIABLES,
    NOISY,
    OUTPUT_VARIABLES,
    SAMPLES,
    SHORT,
    SIZES,
    assert_same_bits,
    problem,
    simulate,
    variables,
)

import dfc_numba as dfc

# --- contract -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_samples", [1, SAMPLES])
def test_names_shapes_and_types_are_those_of_the_contract(dtype, n_samples):
    found = simulate(dtype=dtype, n_samples=n_samples)
    assert found.time.shape == found.step.shape == (31,)
    assert found.u.shape == found.u_int.shape == (31, n_samples, 3) and found.error.shape == (31, n_samples)
    for name in LAYER_VARIABLES:
        arrays = getattr(found, name)
        assert [a.shape for a in arrays] == [(31, n_samples, n) for n in SIZES[1:]]
        assert all(a.dtype == dtype for a in arrays)
    assert found.u.dtype == found.u_int.dtype == found.error.dtype == np.float64
    assert found.converged.shape == found.diverged.shape == (n_samples,)
    assert found.converged.dtype == found.diverged.dtype == bool
    assert all(array.flags.c_contiguous for array in variables(found).values())


def test_time_counts_steps():
    found = simulate({**SHORT, "dt": 0.1})
    assert np.array_equal(found.step, np.arange(31))
    assert np.array_equal(found.time, 0.1 * np.arange(31))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_first_point_is_the_feedforward_state(dtype):
    net, x, target = problem(dtype)
    found = dfc.simulate(net, x, target, dfc.Controller(**SHORT))
    activity = net.forward(x, dtype="float64")
    for i in range(3):
        assert np.array_equal(found.v[i][0], activity.v[i].astype(dtype))
        assert np.array_equal(found.v_ff[i][0], activity.v[i].astype(dtype))
        assert np.array_equal(found.r[i][0], activity.r[i].astype(dtype))
        assert not found.v_fb[i][0].any()
    assert not found.u[0].any() and not found.u_int[0].any()


def test_a_target_at_the_feedforward_output_needs_no_control():
    net, x, _ = problem()
    found = dfc.simulate(net, x, net.predict(x), dfc.Controller(**SHORT))
    assert not found.u.any() and not found.error.any()
    assert all(np.array_equal(v, np.broadcast_to(v[:1], v.shape)) for v in found.v)


def test_arguments_stay_as_they_are():
    net, x, target = problem()
    before = x.copy(), target.copy(), net.weights[0].base.copy()
    dfc.simulate(net, x, target, dfc.Controller(**NOISY), noise=1)
    assert all(np.array_equal(a, b) for a, b in zip(before, (x, target, net.weights[0].base), strict=True))


# --- the equations of a step --------------------------------------------------------------------------------


def softmax(v):
    shifted = np.exp(v - v.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def basal(net, x, rates):
    """W_i r_{i-1} + b_i at all time points, from rates over time."""
    below = [np.broadcast_to(x, (len(rates[0]), *x.shape)), *rates[:-1]]
    return [r @ w.T + b for r, w, b in zip(below, net.weights, net.biases, strict=True)]


@pytest.mark.parametrize("error", ["difference", "softmax"])
@pytest.mark.parametrize("leak", ["total", "integral"])
def test_the_control_signal_integrates_the_error(error, leak):
    net, x, _ = problem()
    target, c = probabilities(SAMPLES, 3), dfc.Controller(**SHORT, error=error, leak=leak)
    found = dfc.simulate(net, x, target, c)
    output = softmax(found.r[-1]) if error == "softmax" else found.r[-1]
    e = target - output[:-1]
    leaking = found.u if leak == "total" else found.u_int
    assert relative_deviation(np.diff(found.u_int, axis=0), c.dt * (e - c.alpha * leaking[:-1])) < 1e-12
    assert relative_deviation(found.u[1:], found.u_int[1:] + c.k_p * e) < 1e-13
    monitor = (
        -np.sum(target * np.log(output), axis=2)
        if error == "softmax"
        else np.linalg.norm(target - output, axis=2)
    )
    assert relative_deviation(found.error, monitor) < 1e-13


@pytest.mark.parametrize("leak", ["total", "integral"])
def test_without_proportional_control_u_is_its_integral(leak):
    found = simulate({**SHORT, "k_p": 0.0, "leak": leak})
    assert np.array_equal(found.u, found.u_int) and found.u.any()


@pytest.mark.parametrize("instant", [True, False])
@pytest.mark.parametrize("instant_dynamics", [True, False])
def test_the_soma_follows_its_compartments(instant, instant_dynamics):
    net, x, target = problem()
    options = {**SHORT, "k_p": 0.0 if instant_dynamics else 0.5}
    c = dfc.Controller(**options, instant_transmission=instant, instant_dynamics=instant_dynamics)
    found = dfc.simulate(net, x, target, c)
    expected = basal(net, x, found.r)
    for i in range(3):
        source = slice(1, None) if instant or instant_dynamics else slice(None, -1)
        assert relative_deviation(found.v_ff[i][1:], expected[i][source]) < 1e-13
        gain, total = 1.0 if instant_dynamics else c.dt / c.tau_v, found.v_ff[i][1:] + found.v_fb[i][1:]
        assert relative_deviation(found.v[i][1:], (1 - gain) * found.v[i][:-1] + gain * total) < 1e-13
        assert relative_deviation(found.r[i], np.tanh(found.v[i]) if i < 2 else found.v[i]) < 1e-13


@pytest.mark.parametrize("proactive", [True, False])
@pytest.mark.parametrize("tau_apical", [None, 0.2])
@pytest.mark.parametrize("tau_control", [None, 0.3])
def test_the_apical_compartments_receive_the_control(proactive, tau_apical, tau_control):
    net, x, target = problem()
    c = dfc.Controller(**SHORT, proactive=proactive, tau_apical=tau_apical, tau_control=tau_control)
    found = dfc.simulate(net, x, target, c)
    control = found.u.copy()
    for t in range(1, c.steps if tau_control else 0):
        control[t + 1] = control[t] + c.dt / tau_control * (found.u[t + 1] - control[t])
    used = control[1:] if proactive else control[:-1]
    gain = c.dt / tau_apical if tau_apical else 1.0
    for q, v_fb in zip(net.feedback, found.v_fb, strict=True):
        assert relative_deviation(v_fb[1:], (1 - gain) * v_fb[:-1] + gain * used @ q.T) < 1e-13


@pytest.mark.parametrize("n_samples", [1, SAMPLES])
def test_jacobian_feedback_follows_the_voltages(n_samples):
    net, x, target = problem(n_samples=n_samples)
    found = dfc.simulate(net, x, target, dfc.Controller(**SHORT, jacobian_feedback=True))
    slopes = [1 - np.tanh(v) ** 2 for v in found.v[:2]]
    drive = [found.u[1:]]
    for i in (1, 0):
        drive.insert(0, (drive[0] @ net.weights[i + 1]) * slopes[i][:-1])
    for v_fb, expected in zip(found.v_fb, drive, strict=True):
        assert relative_deviation(v_fb[1:], expected) < 1e-12


# --- independence of samples, threads and types -------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("chosen", [[0], [36], [20, 3], list(range(36, -1, -1))], ids=str)
def test_a_sample_has_the_same_bits_in_any_batch(dtype, chosen):
    net, x, target = problem(dtype, 37)
    c = dfc.Controller(**NOISY)
    whole = dfc.simulate(net, x, target, c, noise=dfc.NoiseKey(3, 4), record=dfc.Record(samples=chosen))
    part = dfc.simulate(net, x[chosen], target[chosen], c, noise=dfc.NoiseKey(3, 4, chosen))
    assert_same_bits(part, whole)


def test_a_sample_that_overflows_leaves_the_others_alone():
    net, x, target = problem(n_samples=20)
    c, others = dfc.Controller(**SHORT), [i for i in range(20) if i != 7]
    before = dfc.simulate(net, x, target, c, record=dfc.Record(samples=others))
    target[7] = 1e308
    found = dfc.simulate(net, x, target, c)
    assert_same_bits(dfc.simulate(net, x, target, c, record=dfc.Record(samples=others)), before)
    assert not np.isfinite(found.error[-1, 7]) and np.array_equal(np.flatnonzero(found.diverged), [7])


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_any_number_of_threads_gives_the_same_bits(threads):
    sizes = [10, 60, 50, 5]
    net, x = dfc.Network(**parameters(sizes)), inputs(100, 10)
    arguments = net, x, inputs(100, 5, seed=6), dfc.Controller(**NOISY)
    with dfc.limit_threads(threads):
        found = dfc.simulate(*arguments, noise=3)
    assert_same_bits(found, dfc.simulate(*arguments, noise=3))


def test_a_float32_network_takes_float64_data():
    double, single = simulate(dtype=np.float64), simulate(dtype=np.float32)
    for name, array in variables(single).items():
        assert relative_deviation(array, variables(double)[name]) < 1e-5


# --- what is recorded ---------------------------------------------------------------------------------------

RECORDS = [
    {"variables": ["u"]},
    {"variables": ("r", "v_fb", "error")},
    {"variables": ["u_int", "v", "v_ff"]},
    {"samples": [3, 0]},
    {"every": 7},
    {"every": 30},
    {"every": 1000},
    {"variables": ["v", "u"], "samples": np.array([4]), "every": 4},
    {"variables": []},
]


@pytest.mark.parametrize("options", RECORDS, ids=label)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_what_is_recorded_are_slices_of_the_whole(options, dtype):
    whole = simulate(NOISY, noise=2, dtype=dtype)
    found = simulate(NOISY, noise=2, dtype=dtype, record=dfc.Record(**options))
    every, samples = options.get("every", 1), list(options.get("samples", range(SAMPLES)))
    wanted = options.get("variables", OUTPUT_VARIABLES + LAYER_VARIABLES)
    assert np.array_equal(found.step, whole.step[::every]) and np.array_equal(found.time, whole.time[::every])
    expected = {name: a for name, a in variables(whole).items() if name.split("[")[0] in wanted}
    assert variables(found).keys() == expected.keys()
    for name, array in variables(found).items():
        assert np.array_equal(array, expected[name][::every][:, samples]), name
    assert np.array_equal(found.converged, whole.converged[samples])
    assert all(
        getattr(found, name) is None for name in OUTPUT_VARIABLES + LAYER_VARIABLES if name not in wanted
    )


@pytest.mark.parametrize("error", ["difference", "softmax"])
def test_the_control_error_is_that_of_the_recorded_output(error):
    net, x, _ = problem()
    target, c = probabilities(SAMPLES, 3), dfc.Controller(**SHORT, error=error)
    found = dfc.simulate(net, x, target, c)
    output = softmax(found.r[-1]) if error == "softmax" else found.r[-1]
    assert relative_deviation(found.e, target - output) < 1e-13
    if error == "difference":
        assert relative_deviation(np.linalg.norm(found.e, axis=2), found.error) < 1e-13
    alone = dfc.simulate(net, x, target, c, record=dfc.Record(variables=["e"], samples=[3, 0], every=7))
    assert np.array_equal(alone.e, found.e[::7][:, [3, 0]]) and alone.r is None and alone.u is None


@pytest.mark.parametrize("error", ["difference", "softmax"])
def test_a_float32_network_keeps_the_digits_of_the_control_error(error):
    double = dfc.Network(**stable_parameters(SIZES, dtype=np.float32)).copy(dtype="float64")
    x, y = inputs(SAMPLES, 4).astype(np.float32), probabilities(SAMPLES, 3)
    target = dfc.output_target(double, x, y, loss="cross_entropy", step=6e-4) if error == "difference" else y
    c = dfc.Controller(error=error)
    single, exact = (dfc.simulate(net, x, target, c).e for net in (double.copy(dtype="float32"), double))
    assert single.dtype == np.float64 and relative_deviation(single[-1], exact[-1]) < 1e-3


def test_recorded_noise_drives_the_same_simulation():
    net, x, target = problem()
    c, key = dfc.Controller(**NOISY), dfc.NoiseKey(3, 4, [7, 2, 9, 0, 5])
    everything = dfc.Record(variables=[*OUTPUT_VARIABLES, *LAYER_VARIABLES, "noise"])
    found = dfc.simulate(net, x, target, c, noise=key, record=everything)
    assert [draws.shape for draws in found.noise] == [(31, SAMPLES, n) for n in SIZES[1:]]
    assert not any(draws[0].any() for draws in found.noise) and all(
        np.ptp(draws[1:]) > 1 for draws in found.noise
    )
    again = dfc.simulate(net, x, target, c, noise=found.noise, record=everything)
    assert_same_bits(again, found)
    assert all(np.array_equal(a, b) for a, b in zip(again.noise, found.noise, strict=True))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_noise_is_recorded_for_what_is_chosen(dtype):
    net, x, target = problem(dtype)
    c = dfc.Controller(**NOISY)
    given = draws(c, SIZES, SAMPLES)
    for noise in (5, given):
        whole = dfc.simulate(net, x, target, c, noise=noise, record=dfc.Record(variables=["noise"]))
        part = dfc.Record(variables=["noise"], samples=[4, 1], every=6)
        part = dfc.simulate(net, x, target, c, noise=noise, record=part)
        for ours, theirs in zip(part.noise, whole.noise, strict=True):
            assert ours.dtype == dtype and np.array_equal(ours, theirs[::6][:, [4, 1]])
    for ours, theirs in zip(whole.noise, given, strict=True):
        assert np.array_equal(ours[1:], theirs[1:].astype(dtype))


def test_noise_that_there_is_not_cannot_be_recorded():
    with pytest.raises(
        ValueError, match="Record.variables has 'noise', but the controller has none; leave it out, or set"
    ):
        simulate(record=dfc.Record(variables=["noise"]))
    assert simulate(NOISY, noise=1).noise is None  # only on request


def test_a_trajectory_tells_its_samples_and_what_it_was_made_of():
    net, x, target = problem()
    found = dfc.simulate(net, x, target, dfc.Controller(**SHORT), record=dfc.Record(samples=[3, 0]))
    assert found.samples.tolist() == [3, 0] and simulate().samples.tolist() == list(range(SAMPLES))
    recipe = found.recipe
    assert np.array_equal(recipe.x, x) and np.array_equal(recipe.target, target)
    assert recipe.network is not net and np.array_equal(recipe.network.weights[1], net.weights[1])


def test_a_trajectory_too_large_for_memory_is_refused_with_its_size(monkeypatch):
    with pytest.raises(
        MemoryError, match=r"2147483648 time points, 5 samples, 14 units needs 5\.\d+ TB.*record=Record"
    ):
        simulate({**SHORT, "steps": 2**31 - 1})
    monkeypatch.setattr("dfc_numba.support.memory.available_bytes", lambda: 5000)
    with pytest.raises(MemoryError, match=r"needs 81.8 kB, but only 5 kB is available"):
        simulate()
    assert simulate(record=dfc.Record(variables=["u"])).u is not None


def test_memory_that_is_not_known_stops_nothing(monkeypatch):
    monkeypatch.setattr("dfc_numba.support.memory.available_bytes", lambda: None)
    assert simulate().u is not None


# --- how runs end -------------------------------------------------------------------------------------------


def monitor(target, output, error):
    if error == "difference":
        return np.linalg.norm(target - output, axis=1)
    return -np.sum(target * np.log(softmax(output)), axis=1)


@pytest.mark.parametrize("error", ["difference", "softmax"])
@pytest.mark.parametrize("leak", ["total", "integral"])
@pytest.mark.parametrize("steps", [1, 20, 900])
def test_convergence_is_judged_by_residual_and_remaining_error(error, leak, steps):
    net = dfc.Network(**stable_parameters(SIZES))
    x, target = inputs(12, 4), probabilities(12, 3)
    c = dfc.Controller(
        dt=0.05, steps=steps, alpha=0.3, k_p=0.5, leak=leak, error=error, convergence_epsilon=0.35
    )
    found = dfc.simulate(net, x, target, c)
    leaking = c.alpha if leak == "total" else c.alpha / (1 + c.alpha * c.k_p)
    start, end = found.r[-1][0], found.r[-1][-1]
    residual = monitor(target - leaking * found.u[-1], end, error) / np.linalg.norm(start, axis=1)
    improved = monitor(target, end, error) < 0.35**2 * monitor(target, start, error)
    assert np.array_equal(found.converged, (residual < 1e-5) & improved)
    assert np.array_equal(found.diverged, residual > 1)
    if (error, steps) == ("difference", 900):
        assert found.converged.any() and not found.converged.all()


def unstable():
    """A linear network whose controller pushes the wrong way."""
    net = dfc.Network(**stable_parameters(SIZES, activation="linear"))
    for q in net.feedback:
        q *= -100.0
    return net


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("error", ["difference", "softmax"])
def test_a_diverging_simulation_says_so_and_holds_numbers_that_are_not_finite(dtype, error):
    net, x = unstable().copy(dtype=dtype), inputs(3, 4)
    c = dfc.Controller(dt=0.02, steps=2000, error=error)
    found = dfc.simulate(net, x, probabilities(3, 3), c, record=dfc.Record(variables=["v", "u"]))
    assert found.diverged.all() and not found.converged.any()
    if error == "difference":
        assert not np.isfinite(found.u[-1]).any() and not np.isfinite(found.v[-1][-1]).any()
    assert np.isfinite(found.u[:3]).all()


def test_an_output_of_zero_that_stays_is_neither_converged_nor_diverged():
    net = dfc.Network(**parameters(SIZES, bias=False))
    found = dfc.simulate(net, np.zeros((2, 4)), np.zeros((2, 3)), dfc.Controller(**SHORT))
    assert not found.diverged.any() and not found.converged.any()


# --- what is refused ----------------------------------------------------------------------------------------

BAD = np.array([0.0, np.nan, 0.0])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"network": None}, TypeError, "network must be a Network, not None"),
        ({"x": problem()[1][:, :3]}, ValueError, r"x has shape \(5, 3\); expected \(any, 4\)"),
        ({"x": np.full((5, 4), np.inf)}, ValueError, r"x\[0, 0\] is inf"),
        ({"target": problem()[2][:2]}, ValueError, r"target has shape \(2, 3\); expected \(5, 3\)"),
        ({"target": problem()[2] + BAD}, ValueError, r"target\[0, 1\] is nan"),
        ({"target": [0, 1, 2, 0, 1]}, ValueError, r"target has shape \(5,\); expected \(5, 3\)"),
        ({"controller": {"dt": 0.1}}, TypeError, "controller must be a Controller, not {'dt': 0.1}"),
        ({"record": "u"}, TypeError, "record must be a Record, not 'u'"),
        ({"record": dfc.Record(samples=[0, 5])}, ValueError, r"Record.samples is \(0, 5\); different positions from 0 to 4"),
        ({"record": dfc.Record(samples=[1, 1])}, ValueError, "different positions"),
        ({"record": dfc.Record(samples=[])}, ValueError, "different positions"),
        ({"noise": "white"}, TypeError, "noise is str; expected an int seed, a NoiseKey, or a list of 3 arrays"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit_are_refused(change, error, message):
    arguments = dict(zip(("network", "x", "target"), problem(), strict=True))
    arguments |= {"controller": dfc.Controller(**SHORT), **change}
    with pytest.raises(error, match=message):
        dfc.simulate(**arguments)


def test_options_are_keyword_only():
    kinds = [parameter.kind for parameter in inspect.signature(dfc.simulate).parameters.values()]
    assert kinds == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 4 + [inspect.Parameter.KEYWORD_ONLY] * 3


def test_parameters_that_are_not_finite_are_refused_by_their_layer():
    net, x, target = problem()
    net.weights[1][0, 0] = np.nan
    with pytest.raises(ValueError, match=r"feedforward voltage of layer 2, \[0, 0\] is nan"):
        dfc.simulate(net, x, target, dfc.Controller(**SHORT))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variables": ["uu"]}, r"Record.variables\[0\] is 'uu'; it must be 'u', .*did you mean 'u'"),
        ({"variables": "u"}, "Record.variables is 'u'; it must be a list"),
        ({"samples": [-1]}, r"Record.samples\[0\] is -1"),
        ({"samples": [0.5]}, r"Record.samples\[0\] is 0.5; it must be an integer"),
        ({"samples": 3}, "Record.samples is 3; it must be a list"),
        ({"every": 0}, "Record.every is 0; it must be greater than or equal to 1"),
        ({"every": 1.5}, "Record.every is 1.5; it must be an integer"),
        ({"sample": [1]}, "Record has no option 'sample'; did you mean 'samples'"),
    ],
)
def test_wrong_records_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        dfc.Record(**options)
