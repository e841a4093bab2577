"""Activations, plasticity rules, controller terms and variables from outside: the formulas of a user inside the kernels."""

import os
import subprocess
import sys

import numpy as np
import oracle
import pytest
from problems import inputs, parameters, relative_deviation, stable_parameters

import dfc_numba as dfc
from dfc_numba import formulas as f
from dfc_numba import registry
from dfc_numba.kernels.jit import JIT_DISABLED

SIZES, SAMPLES = (9, 14, 11, 5), 20
CONTROLLER = dfc.Controller(dt=0.05, steps=40, alpha=0.01, k_p=1.0)

SOFTSIGN = dfc.Activation(
    "softsign",
    phi=lambda v: v / (1 + abs(v)),
    derivative=lambda v: 1 / (1 + abs(v)) ** 2,
    summary="v / (1 + |v|)",
)
# tanh once more, by formulas: what is computed should be what the built-in one computes
OWN_TANH = dfc.Activation(
    "own_tanh",
    phi=f.tanh,
    derivative=lambda v: 1 - f.tanh(v) ** 2,
    second_derivative=lambda v: -2 * f.tanh(v) * (1 - f.tanh(v) ** 2),
    difference=lambda a, d: f.tanh(d) * (1 - f.tanh(a) ** 2) / (1 + f.tanh(a) * f.tanh(d)),
)
# every symbol, and a separate presynaptic factor
EVERYTHING = dfc.PlasticityRule(
    "everything",
    postsynaptic=lambda v, v_ff, v_fb, dv, dr, r, r_ff, slope, slope_ff, slope_0: (
        dr * slope + 0.1 * dv * slope_ff * slope_0 + 0.01 * v_fb * v * v_ff + 0.1 * (r - r_ff) * r
    ),
    presynaptic=lambda r: r * r + 0.5,
)
HEBB = dfc.PlasticityRule("hebb", postsynaptic=lambda dr: dr, presynaptic=lambda r: r)
RATE_FEEDBACK = dfc.PlasticityRule(
    "rate_feedback",
    postsynaptic=lambda dr, slope_0: -dr * slope_0,
    presynaptic=lambda u, u_slow: f.tanh(u - u_slow),
    weights="feedback",
)
DENDRITIC = dfc.Variable("dendritic_error", formula=lambda v, v_ff: v - v_ff, summary="v - v_ff")
DERIVATIVE_TERM = dfc.ControllerTerm("derivative", control=lambda de, k_d: k_d * de, parameters={"k_d": 0.05})
SATURATION = dfc.ControllerTerm(
    "saturation", limit=lambda u, u_max: f.clip(u, -u_max, u_max), parameters={"u_max": 0.3}
)
ANTI_WINDUP = dfc.ControllerTerm(
    "anti_windup", integral=lambda u, u_free, k_w: k_w * (u - u_free), parameters={"k_w": 2.0}
)
ITEMS = (
    SOFTSIGN,
    OWN_TANH,
    EVERYTHING,
    HEBB,
    RATE_FEEDBACK,
    DENDRITIC,
    DERIVATIVE_TERM,
    SATURATION,
    ANTI_WINDUP,
)


@pytest.fixture(scope="module", autouse=True)
def registered():
    dfc.register(*ITEMS)
    oracle.ACTIVATIONS["softsign"] = lambda v: v / (1 + np.abs(v))
    oracle.DERIVATIVES["softsign"] = lambda v: 1 / (1 + np.abs(v)) ** 2
    yield
    for item in ITEMS:
        item.registry.remove(item.name)
    del oracle.ACTIVATIONS["softsign"], oracle.DERIVATIVES["softsign"]


def network(activation="softsign", dtype="float64", **options):
    return dfc.Network(**parameters(SIZES, activation=activation, **options), dtype=dtype)


def stable_network(activation="softsign"):
    return dfc.Network(**stable_parameters(SIZES, activation=activation))


def task(net, nudge=0.1):
    x = inputs(SAMPLES, SIZES[0])
    labels = np.arange(SAMPLES) % SIZES[-1]
    return x, dfc.output_target(net, x, labels, loss="cross_entropy", step=nudge)


# --- activations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("readout", ["average", "final"])
@pytest.mark.parametrize("rule", ["nonlinear_difference", "voltage_difference", "derivative_matrix"])
def test_a_registered_activation_gives_the_updates_of_the_oracle(readout, rule):
    net = network()
    x, target = task(net)
    controller = oracle.Controller(dt=0.05, steps=40, alpha=0.01, k_p=1.0)
    expected = oracle.forward_update(net, x, target, controller, readout=readout, rule=rule)
    found = dfc.forward_update(net, x, target, CONTROLLER, readout=readout, rule=rule)
    for ours, theirs in zip(found.weights + found.biases, expected.weights + expected.biases, strict=True):
        assert relative_deviation(ours, theirs) < 1e-12


def test_simulations_with_an_own_activation_end_at_its_steady_state():
    net = stable_network()
    x, target = task(net, 0.02)
    long = dfc.Controller(dt=0.05, steps=4000, alpha=0.01, k_p=1.0)
    newton = dfc.steady_state(net, x, target, long, method="newton")
    end = dfc.simulate(net, x, target, long, record=dfc.Record(variables=["u"], every=4000))
    assert newton.converged.all()
    np.testing.assert_allclose(newton.u, end.u[-1], rtol=0, atol=1e-9 * np.abs(newton.u).max())
    final = dfc.forward_update(net, x, target, long, readout="final")
    for ours, theirs in zip(
        dfc.forward_update(net, x, target, long, readout="newton").weights, final.weights, strict=True
    ):
        assert relative_deviation(ours, theirs) < 1e-7


def test_the_jacobian_of_an_own_activation_agrees_with_finite_differences():
    net = network()
    x = inputs(3, SIZES[0])
    jacobian, h = dfc.output_jacobian(net, x), 1e-6
    shifted = net.copy()
    for k in (0, 7):
        shifted.biases[0][k] = net.biases[0][k] + h
        above = shifted.predict(x)
        shifted.biases[0][k] = net.biases[0][k] - h
        below = shifted.predict(x)
        shifted.biases[0][k] = net.biases[0][k]
        np.testing.assert_allclose(jacobian[:, :, k], (above - below) / (2 * h), atol=1e-8)


def test_stability_knows_a_registered_activation():
    own, built_in = network("own_tanh"), network("tanh")
    x, target = task(built_in)
    for feedback in (False, True):
        controller = dfc.Controller(dt=0.05, steps=40, alpha=0.01, k_p=1.0, jacobian_feedback=feedback)
        at = "simulation" if feedback else "feedforward"
        ours, theirs = (dfc.stability(net, x, target, controller, at=at) for net in (own, built_in))
        np.testing.assert_allclose(ours.euler, theirs.euler, rtol=1e-9)
        np.testing.assert_allclose(ours.proportional, theirs.proportional, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("nudge", [6e-4, 0.08])
@pytest.mark.parametrize("activation", ["softsign", "own_tanh"])
def test_float32_keeps_the_digits_of_small_nudges(activation, nudge):
    exact, single = (network(activation, dtype) for dtype in ("float64", "float32"))
    exact = single.copy(dtype="float64")
    x, target = task(exact, nudge)
    expected = dfc.forward_update(exact, x, target, CONTROLLER)
    found = dfc.forward_update(single, x, target, CONTROLLER)
    for ours, theirs in zip(found.weights, expected.weights, strict=True):
        assert np.linalg.norm(ours - theirs) < 5e-6 * np.linalg.norm(theirs)


def test_an_activation_by_formulas_is_the_built_in_one():
    own, built_in = network("own_tanh"), network("tanh")
    x, target = task(built_in)
    ours, theirs = (dfc.forward_update(net, x, target, CONTROLLER) for net in (own, built_in))
    for a, b in zip(ours.weights, theirs.weights, strict=True):
        assert relative_deviation(a, b) < 1e-12


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_bits_do_not_depend_on_threads(dtype):
    net = network(dtype=dtype)
    x, target = task(net)
    updates = []
    for threads in (1, 2, 3):
        with dfc.limit_threads(threads):
            updates.append(dfc.forward_update(net, x, target, CONTROLLER, rule="everything"))
    for other in updates[1:]:
        for a, b in zip(updates[0].weights, other.weights, strict=True):
            assert a.tobytes() == b.tobytes()


def test_an_activation_in_the_output_layer():
    net = dfc.Network(**parameters(SIZES), output_activation="softsign")
    x = inputs(4, SIZES[0])
    below = net.forward(x)
    np.testing.assert_allclose(below.r[-1], below.v[-1] / (1 + np.abs(below.v[-1])), rtol=1e-14)


# --- plasticity rules ------------------------------------------------------------------------------------------------


def expected_update(rule, trajectory, x, phi, slope, final=False):
    """The mean of post pre^T over recorded time points and samples, from what was recorded."""
    last = [-1] if final else range(len(trajectory.time))
    weights, below = [], np.broadcast_to(x, (len(trajectory.time), *x.shape))
    for v, v_ff, v_fb, r in zip(trajectory.v, trajectory.v_ff, trajectory.v_fb, trajectory.r, strict=True):
        name = "linear" if v is trajectory.v[-1] else "softsign"
        p, d = phi[name], slope[name]
        post = rule.postsynaptic(
            v, v_ff, v_fb, v - v_ff, p(v) - p(v_ff), p(v), p(v_ff), d(v), d(v_ff), d(v[:1])
        )
        pre = rule.presynaptic(below)
        weights.append(sum(post[t].T @ pre[t] for t in last) / (len(last) * x.shape[0]))
        below = r
    return weights


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_rule_of_every_symbol_is_averaged_over_time_and_samples(dtype):
    net = network(dtype=dtype)
    x, target = task(net, 0.5)
    exact = net.copy(dtype="float64")
    trajectory = dfc.simulate(exact, x, target, CONTROLLER)
    expected = expected_update(EVERYTHING, trajectory, x, oracle.ACTIVATIONS, oracle.DERIVATIVES)
    found = dfc.forward_update(net, x, target, CONTROLLER, rule="everything")
    for ours, theirs in zip(found.weights, expected, strict=True):
        assert relative_deviation(ours, theirs) < (1e-12 if dtype == "float64" else 5e-6)


def test_the_same_rule_at_the_steady_state_by_three_readouts():
    net = stable_network()
    x, target = task(net, 0.02)
    long = dfc.Controller(dt=0.05, steps=4000, alpha=0.01, k_p=1.0)
    final, newton = (
        dfc.forward_update(net, x, target, long, readout=readout, rule="everything")
        for readout in ("final", "newton")
    )
    for ours, theirs in zip(final.weights, newton.weights, strict=True):
        assert relative_deviation(ours, theirs) < 1e-7
    analytic = dfc.forward_update(net, x, target, long, readout="analytic", rule="everything")
    for ours, theirs in zip(analytic.weights, newton.weights, strict=True):
        assert relative_deviation(ours, theirs) < 2e-2  # linearised


def test_a_rule_that_repeats_the_published_one_has_its_bits():
    net = network("tanh")
    x, target = task(net)
    for readout in ("average", "final", "newton"):
        ours, theirs = (
            dfc.forward_update(net, x, target, CONTROLLER, readout=readout, rule=rule)
            for rule in ("hebb", "nonlinear_difference")
        )
        for a, b in zip(ours.weights, theirs.weights, strict=True):
            assert a.tobytes() == b.tobytes()


def test_a_rule_of_the_feedback_weights():
    net = network("softsign")
    x, _ = task(net)
    noisy = dfc.Controller(dt=0.01, steps=30, alpha=0.1, k_p=0.5, tau_v=0.02, sigma=0.2)
    target = net.predict(x, dtype="float64")
    trajectory = dfc.simulate(net, x, target, noisy, noise=3)
    found = dfc.feedback_update(
        net, x, target, noisy, noise=3, feedback_rule="rate_feedback", normalise=(1.0, 1.0)
    )
    start = trajectory.v
    for i, q in enumerate(found.feedback):
        name = "linear" if i == len(found.feedback) - 1 else "softsign"
        p, d = oracle.ACTIVATIONS[name], oracle.DERIVATIVES[name]
        post = -(p(trajectory.v[i]) - p(trajectory.v_ff[i])) * d(start[i][:1])
        signal = np.tanh(trajectory.u)
        expected = sum(post[t].T @ signal[t + 1] for t in range(30)) / (30 * SAMPLES)
        assert relative_deviation(q, expected) < 1e-10


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_rule_learns_online_as_it_does_in_a_phase(dtype):
    """While the weights hardly change, T steps change W by dt (T + 1) / tau_w times the update of the phase."""
    net = network(dtype="float64")
    x, target = task(net, 0.5)
    tau_w = 1e7
    rule = dfc.PlasticityRule(
        "online_rule",
        postsynaptic=lambda dr, v_fb, slope_ff: dr * slope_ff + 0.1 * v_fb,
        presynaptic=lambda r: r * r,
    )
    dfc.register(rule)
    run = dfc.simulate_online(net, [(x, target)], CONTROLLER, tau_w=tau_w, rule="online_rule")
    update = dfc.forward_update(net, x, target, CONTROLLER, rule="online_rule")
    held = dfc.forward_update(net, x, target, CONTROLLER, rule="online_rule", readout="final")
    factor = CONTROLLER.dt * CONTROLLER.time_points / tau_w
    for before, after, change in zip(net.weights, run.network.weights, update.weights, strict=True):
        assert relative_deviation((after - before) / factor, change) < 1e-3
    assert held.weights[0].shape == update.weights[0].shape


# --- variables -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_variable_is_recorded_beside_the_built_in_ones(dtype):
    net = network(dtype=dtype)
    x, target = task(net)
    record = dfc.Record(variables=["v", "dendritic_error", "v_ff"], samples=(3, 17), every=4)
    trajectory = dfc.simulate(net, x, target, CONTROLLER, record=record)
    for v, v_ff, error in zip(
        trajectory.v, trajectory.v_ff, trajectory.formulas["dendritic_error"], strict=True
    ):
        assert error.shape == v.shape and error.dtype == np.dtype(dtype)
        np.testing.assert_allclose(error, v - v_ff, rtol=0, atol=2e-6 if dtype == "float32" else 1e-14)


def test_a_variable_is_stored_and_replayed(tmp_path):
    net = network()
    x, target = task(net)
    record = dfc.Record(variables=["v", "dendritic_error"], samples=(3, 17), every=4)
    trajectory = dfc.simulate(net, x, target, CONTROLLER, record=record)
    path = tmp_path / "trajectory.h5"
    trajectory.save(path)
    found = dfc.Trajectory.load(path)
    for ours, theirs in zip(
        found.formulas["dendritic_error"], trajectory.formulas["dendritic_error"], strict=True
    ):
        assert ours.tobytes() == theirs.tobytes()
    [replayed] = dfc.replay(path)
    assert not replayed.deviations and "formula_dendritic_error_2" in replayed.compared
    registry.VARIABLES.remove("dendritic_error")
    try:
        [replayed] = dfc.replay(path)
        assert "formula_dendritic_error_2" in replayed.left_out
        assert list(dfc.Trajectory.load(path).formulas) == ["dendritic_error"]
    finally:
        dfc.register(DENDRITIC)


def test_a_variable_is_recorded_online():
    net = network()
    x, target = task(net)
    record = dfc.Record(variables=["v", "v_ff", "dendritic_error"], every=5)
    run = dfc.simulate_online(net, [(x, target)], CONTROLLER, record=record)
    for v, v_ff, error in zip(
        run.trajectory.v, run.trajectory.v_ff, run.trajectory.formulas["dendritic_error"], strict=True
    ):
        np.testing.assert_allclose(error, v - v_ff, rtol=0, atol=1e-14)


def test_an_unknown_variable_names_the_nearest():
    with pytest.raises(ValueError, match="dendritic_error"):
        dfc.Record(variables=["dendritic_eror"])


# --- controller terms ------------------------------------------------------------------------------------------------


def literal_control(net, x, target, terms, steps=60, dt=0.05, alpha=0.01, k_p=1.0, tau_v=0.2):
    """u over time, step by step in NumPy, with the terms of this module."""
    weights, biases, feedback = net.weights, net.biases, net.feedback
    forward = net.forward(x)
    v, r = [a.copy() for a in forward.v], [a.copy() for a in forward.r]
    u = u_int = u_free = np.zeros_like(target)
    before, history = None, [u]
    for _ in range(steps):
        e = target - r[-1]
        de = np.zeros_like(e) if before is None else (e - before) / dt
        change = e - alpha * u
        if "anti_windup" in terms:
            change = change + terms["anti_windup"]["k_w"] * (u - u_free)
        u_int = u_int + dt * change
        u_free = u_int + k_p * e
        if "derivative" in terms:
            u_free = u_free + terms["derivative"]["k_d"] * de
        u = u_free
        if "saturation" in terms:
            u = np.clip(u, -terms["saturation"]["u_max"], terms["saturation"]["u_max"])
        before, below = e, x
        for i in range(len(weights)):
            v[i] = v[i] + dt / tau_v * (below @ weights[i].T + biases[i] + u @ feedback[i].T - v[i])
            r[i] = np.tanh(v[i]) if i < len(weights) - 1 else v[i]
            below = r[i]
        history.append(u)
    return np.array(history)


@pytest.mark.parametrize(
    "terms",
    [
        {"derivative": {"k_d": 0.1}},
        {"saturation": {"u_max": 0.05}},
        {"anti_windup": {"k_w": 2.0}, "saturation": {"u_max": 0.05}, "derivative": {"k_d": 0.02}},
    ],
    ids=lambda terms: "-".join(terms),
)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_controller_terms_act_as_their_formulas_say(terms, dtype):
    net = network("tanh", dtype)
    x, target = task(net, 1.0)
    controller = dfc.Controller(dt=0.05, steps=60, alpha=0.01, k_p=1.0, terms=terms)
    found = dfc.simulate(net, x, target, controller).u
    expected = literal_control(net.copy(dtype="float64"), x, target, terms)
    assert relative_deviation(found, expected) < (1e-12 if dtype == "float64" else 1e-5)


def test_terms_have_defaults_and_are_part_of_the_controller():
    controller = dfc.Controller(terms=["derivative"])
    assert controller.terms == {"derivative": {"k_d": 0.05}}
    assert controller == dfc.Controller(terms={"derivative": {}})
    assert hash(controller) == hash(dfc.Controller(terms={"derivative": {"k_d": 0.05}}))


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"derivativ": {}}, "did you mean 'derivative'"),
        ({"derivative": {"k": 1.0}}, "its parameters: k_d"),
        ({"derivative": {"k_d": "x"}}, "a number is allowed"),
        ({"derivative": 0.1}, "a table of parameters"),
        (3, "must be a table"),
    ],
)
def test_wrong_terms_are_refused(terms, message):
    with pytest.raises(ValueError, match=message):
        dfc.Controller(terms=terms)


@pytest.mark.parametrize("readout", ["newton", "analytic"])
def test_readouts_that_solve_refuse_terms(readout):
    net = network("tanh")
    x, target = task(net)
    with pytest.raises(ValueError, match="controller.terms"):
        dfc.forward_update(net, x, target, dfc.Controller(terms=["derivative"]), readout=readout)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (lambda: dfc.Activation("a", phi=lambda v: v if v > 0 else 0.0, derivative=lambda v: v), "where"),
        (
            lambda: dfc.Activation("a", phi=lambda v: v * v, derivative=lambda v: v),
            "finite differences of phi",
        ),
        (lambda: dfc.Activation("a", phi=lambda v: f.log(v), derivative=lambda v: 1 / v), "has to be finite"),
        (lambda: dfc.Activation("a", phi=lambda v, w: v, derivative=lambda v: v), r"\(v, w\); 1 is allowed"),
        (lambda: dfc.Activation("a", phi="tanh", derivative=lambda v: v), "a function is allowed"),
        (lambda: dfc.Activation("a", phi=lambda v: v @ v, derivative=lambda v: v), "cannot be traced"),
        (
            lambda: dfc.Activation(
                "a", phi=f.tanh, derivative=lambda v: 1 - f.tanh(v) ** 2, difference=lambda a, d: d
            ),
            "difference of the activation 'a'",
        ),
        (
            lambda: dfc.Activation(
                "a", phi=f.tanh, derivative=lambda v: 1 - f.tanh(v) ** 2, second_derivative=lambda v: v
            ),
            "second_derivative of the activation 'a'",
        ),
        (lambda: dfc.PlasticityRule("p", postsynaptic=lambda w: w), "known are v, v_ff"),
        (lambda: dfc.PlasticityRule("p", postsynaptic=lambda dr: float(dr)), "dfc_numba.formulas"),
        (lambda: dfc.PlasticityRule("p", postsynaptic=lambda dr: dr, presynaptic=lambda u: u), "known are r"),
        (
            lambda: dfc.PlasticityRule("p", postsynaptic=lambda dr: dr, weights="both"),
            "'forward' and 'feedback'",
        ),
        (lambda: dfc.Variable("x", formula=lambda y: y), "not known there"),
        (lambda: dfc.Variable("v", formula=lambda v: v), "built-in"),
        (lambda: dfc.ControllerTerm("t"), "no formula"),
        (lambda: dfc.ControllerTerm("t", control=lambda k: k), "known are e, de"),
        (lambda: dfc.ControllerTerm("t", control=lambda e: e, parameters={"u": 1.0}), "parameter 'u'"),
        (
            lambda: dfc.Activation("tanh", phi=f.tanh, derivative=lambda v: 1 - f.tanh(v) ** 2),
            "another activation",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_wrong_extensions_are_refused_when_they_are_registered(item, message):
    with pytest.raises((ValueError, TypeError), match=message):
        dfc.register(item())


def test_an_unknown_activation_says_how_to_load_an_extension():
    with pytest.raises(ValueError, match="softsign.*--extension"):
        dfc.Network.create([3, 4, 2], hidden_activation="softsing")


def test_a_feedback_rule_is_no_forward_rule():
    net = network()
    x, target = task(net)
    with pytest.raises(ValueError, match="rule of the feedback weights"):
        dfc.forward_update(net, x, target, CONTROLLER, rule="rate_feedback")


# --- machine code on disk --------------------------------------------------------------------------------------------

PROGRAM = """
import dfc_numba as dfc
from dfc_numba.kernels import cache, formula_loops as loops
compiled = []
original = loops._compiled_library
loops._compiled_library = lambda *arguments: compiled.append(arguments) or original(*arguments)
dfc.register(dfc.Activation({name!r}, phi=lambda v: v / (1 + abs(v)), derivative=lambda v: 1 / (1 + abs(v)) ** 2))
net = dfc.Network.create([3, 4, 2], hidden_activation={name!r}, seed=0)
result = net.predict([[0.1, 0.2, 0.3]]).tobytes().hex()
print(len(compiled), result)
"""


def run_program(folder, name):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
    arguments = [sys.executable, "-c", PROGRAM.format(name=name)]
    finished = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
    count, result = finished.stdout.split()
    return int(count), result


@pytest.mark.skipif(JIT_DISABLED, reason="the compiler is switched off")
def test_formulas_are_compiled_once_for_all_processes_whatever_they_are_called(tmp_path):
    compiled, result = run_program(tmp_path, "first")
    assert compiled > 0
    assert run_program(tmp_path, "first") == (0, result)
    assert run_program(tmp_path, "second") == (0, result)
    for path in tmp_path.rglob("formula-*"):
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert run_program(tmp_path, "first") == (compiled, result)
