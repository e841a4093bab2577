"""Online plasticity: against its oracle, against the accumulated updates, learning, divergence, float32."""

import itertools

import numpy as np
import online_streams as streams
import oracle
import oracle_online
import problems
import pytest
from online_streams import LEARNING, PARAMETERS, SHORT, SIZES, length, make_stream

import dfc_numba as dfc
from dfc_numba.kernels.jit import JIT_DISABLED
from dfc_numba.kernels.online import run_steps
from dfc_numba.online.learning import simulate_online
from dfc_numba.online.online_memory import OnlineMemory

each_controller = pytest.mark.parametrize("controller", streams.CONTROLLERS)
each_learner = pytest.mark.parametrize("learner", streams.LEARNERS)
each_dtype = pytest.mark.parametrize("dtype", ["float64", "float32"])


# --- the oracle ----------------------------------------------------------------------------------------------------------


def skip_contradictions(controller, learner):
    if streams.CONTROLLERS[controller].get("jacobian_feedback") and "tau_q" in streams.LEARNERS[learner]:
        pytest.skip("refused: the feedback weights are not used")


def compare(arguments, options, learner, count, sizes=SIZES):
    """Run package and oracle on a stream of all kinds of segments; every variable at every step."""
    options, stream = {**SHORT, **options}, make_stream(count, sizes)
    noisy = options.get("sigma", 0) > 0
    noise = streams.given_noise(length(stream), count, sizes) if noisy else None
    ours = simulate_online(
        dfc.Network(**arguments), stream, dfc.Controller(**options), noise=noise, record=dfc.Record(), record_weights=1,
        **learner,
    )  # fmt: skip
    theirs = oracle_online.simulate_online(
        oracle.Network(**arguments), stream, oracle.Controller(**options), noise=noise, **learner
    )
    assert (ours.status, ours.steps, ours.segments) == ("finished", length(stream), len(stream))
    streams.assert_same_trajectory(ours.trajectory, theirs)
    streams.assert_same_network(ours.network, theirs.network)
    streams.assert_same_network(ours.weights, theirs)


@each_controller
@each_learner
def test_online_learning_agrees_with_its_oracle(controller, learner):
    skip_contradictions(controller, learner)
    compare(problems.parameters(SIZES), streams.CONTROLLERS[controller], streams.LEARNERS[learner], count=3)


@pytest.mark.parametrize("activation", ["linear", "tanh", "relu", "leakyrelu", "sigmoid", ["tanh", "relu"]])
@pytest.mark.parametrize("count", [1, 9])
def test_the_oracle_agrees_for_all_activations(activation, count):
    arguments = problems.stable_parameters(SIZES, activation=activation, bias=count > 1)
    for learner in ("both", "derivatives"):
        compare(arguments, streams.CONTROLLERS["low-passed noise"], streams.LEARNERS[learner], count)
    compare(arguments, streams.CONTROLLERS["jacobian"], streams.LEARNERS["voltages"], count)


@pytest.mark.parametrize("sizes", [[3, 2], [1, 1, 1], [7, 40, 33, 5], [2, 9, 8, 7, 6, 17]])
@pytest.mark.parametrize("count", [1, 4, 17])
def test_the_oracle_agrees_for_all_sizes(sizes, count):
    compare(
        problems.parameters(sizes), streams.CONTROLLERS["white noise"], streams.LEARNERS["both"], count, sizes
    )
    compare(
        problems.parameters(sizes), streams.CONTROLLERS["jacobian"], streams.LEARNERS["forward"], count, sizes
    )


def test_weights_that_do_not_learn_give_the_simulation():
    for options in streams.CONTROLLERS.values():
        controller = dfc.Controller(**{**SHORT, **options})
        net, x = streams.network(), problems.inputs(5, SIZES[0])
        target, noise = problems.probabilities(5, SIZES[-1]), 7 if controller.noisy else None
        run = simulate_online(net, [(x, target)], controller, noise=noise, record=dfc.Record())
        streams.assert_same_trajectory(run.trajectory, dfc.simulate(net, x, target, controller, noise=noise))
        streams.assert_same_bits(run.network, net)


# --- the accumulated updates are the limit of slow learning -----------------------------------------------------------

SLOW = 10.0 ** np.arange(2, 6)


def deviations(changes, update):
    """Relative deviation of scaled changes of the parameters (one list per time constant) from an update."""
    flat = [np.concatenate([np.ravel(a) for a in arrays]) for arrays in (*changes, update)]
    return [np.linalg.norm(change - flat[-1]) / np.linalg.norm(flat[-1]) for change in flat[:-1]]


def order(deviations):
    """Slope of a straight line through the logarithms of time constants and deviations."""
    return -np.polyfit(np.log(SLOW), np.log(deviations), 1)[0]


def slow_problem(options):
    controller = dfc.Controller(**{**SHORT, "steps": 40, "sigma": 0.05, **options})
    net, x = streams.network(), problems.inputs(3, SIZES[0])
    target = problems.probabilities(3, SIZES[-1])
    return net, x, target, controller


def scaled_changes(problem, names, points, **learning):
    """(parameters after a run - before) tau / (dt T) for every time constant; `learning` names the constant as tau."""
    net, x, target, controller = problem
    name = learning.pop("tau")
    for tau in SLOW:
        run = simulate_online(net, [(x, target)], controller, noise=7, **{name: tau}, **learning)
        pairs = [zip(getattr(run.network, n), getattr(net, n), strict=True) for n in names]
        yield [(a - b) * (tau / (controller.dt * points)) for a, b in itertools.chain(*pairs)]


@pytest.mark.parametrize("rule", ["nonlinear_difference", "voltage_difference"])
@pytest.mark.parametrize(
    "options", [{}, {"tau_noise": 0.2, "tau_apical": 0.1, "proactive": False}], ids=problems.label
)
def test_slow_forward_weights_take_the_accumulated_update_at_first_order(rule, options):
    problem = slow_problem(options)
    update = dfc.forward_update(*problem, rule=rule, noise=7)
    points = problem[-1].time_points
    changes = scaled_changes(problem, ("weights", "biases"), points, tau="tau_w", rule=rule)
    found = deviations(changes, update.weights + update.biases)
    assert order(found) == pytest.approx(1, abs=0.1)
    assert found[-1] < 1e-4


@pytest.mark.parametrize("high_pass", [None, 0.5])
@pytest.mark.parametrize("sigma_output", [None, 0.1])
def test_slow_feedback_weights_take_the_accumulated_update_at_first_order(high_pass, sigma_output):
    problem = slow_problem({"sigma_output": sigma_output})
    update = dfc.feedback_update(*problem, noise=7, high_pass=high_pass)
    controller = problem[-1]
    variances = [controller.sigma**2] * 2 + [controller.output_sigma**2]
    literal = [variance * q for variance, q in zip(variances, update.feedback, strict=True)]
    changes = scaled_changes(problem, ("feedback",), controller.steps, tau="tau_q", high_pass=high_pass)
    found = deviations(changes, literal)
    assert order(found) == pytest.approx(1, abs=0.1)
    assert found[-1] < 1e-4


def test_feedback_weights_decay_exponentially():
    net, x = streams.network(), problems.inputs(1, SIZES[0])
    controller = dfc.Controller(dt=0.01, steps=500, alpha=0.1, k_p=0.5)
    calm = simulate_online(net, [(x, net.predict(x))], controller, tau_q=2.0, feedback_decay=1.5)
    for found, before in zip(calm.network.feedback, net.feedback, strict=True):
        np.testing.assert_allclose(found, before * (1 - 0.01 * 1.5 / 2) ** 500, rtol=1e-10)


# --- learning ------------------------------------------------------------------------------------------------------------


def linear_teacher(count=1, seed=4):
    """(linear network, function from inputs to targets, endless stream of random inputs with their targets)."""
    rng = np.random.default_rng(seed)
    net = dfc.Network.create([5, 8, 3], hidden_activation="linear", feedback_init="weight_product", seed=seed)
    teacher = rng.normal(size=(3, 5)) / np.sqrt(5)
    inputs = (rng.normal(size=(count, 5)) for _ in itertools.count())
    return net, lambda x: x @ teacher.T, ((x, x @ teacher.T) for x in inputs)


@pytest.mark.parametrize("count", [1, 8])
def test_a_linear_network_learns_a_linear_teacher_online(count):
    net, teach, stream = linear_teacher(count)
    controller = dfc.Controller(dt=0.05, steps=20, alpha=0.01, k_p=2.0)
    run = simulate_online(net, stream, controller, tau_w=5.0, steps=60_000)
    assert run.status == "finished" and run.steps == 60_000
    assert wrong(run.network, teach) < wrong(net, teach) / 100


def test_a_linear_network_learns_from_a_series_that_never_holds_still():
    """x(t), r*(t) for a single sample, as one segment."""
    net, teach, _ = linear_teacher()
    time = 0.05 * np.arange(20_000)[:, None]
    x = np.sin(time * np.array([0.11, 0.23, 0.31, 0.47, 0.59]) + np.arange(5))[:, None]
    controller = dfc.Controller(dt=0.05, alpha=0.01, k_p=2.0)
    run = simulate_online(net, [(x, teach(x))], controller, tau_w=5.0)
    assert wrong(run.network, teach) < wrong(net, teach) / 50


def wrong(network, teach):
    """Root mean square error for new inputs."""
    x = problems.inputs(200, 5)
    return np.mean((network.predict(x) - teach(x)) ** 2) ** 0.5


def test_feedback_weights_learn_to_lead_back():
    """About the network's own output, noise turns random feedback weights towards W^T (the two-phase rule, online)."""
    net = dfc.Network.create([5, 20, 3], seed=1)
    inputs = np.random.default_rng(0).normal(size=(500, 8, 5))
    stream = [(x, lambda network, x: network.predict(x)) for x in inputs]
    controller = dfc.Controller(dt=0.05, steps=40, alpha=0.5, k_p=0.0, tau_v=0.05, sigma=0.1)
    run = simulate_online(net, stream, controller, tau_q=1.0, feedback_decay=0.002, noise=1)
    cosines = [
        np.sum(n.feedback[0] * n.weights[1].T) / np.linalg.norm(n.feedback[0]) / np.linalg.norm(n.weights[1])
        for n in (net, run.network)
    ]
    assert cosines[0] < 0.2 and cosines[1] > 0.95


def test_nudged_targets_are_made_with_the_weights_of_the_moment():
    net, x = streams.network(), problems.inputs(2, SIZES[0])
    y, controller = problems.probabilities(2, SIZES[-1]), dfc.Controller(**SHORT)

    def nudged(network, x):
        seen.append(network.weights[0].copy())
        return dfc.output_target(network, x, y, step=0.5)

    seen = []
    whole = simulate_online(net, [(x, nudged)] * 3, controller, **LEARNING)
    assert not np.array_equal(seen[0], seen[1]) and np.array_equal(seen[0], net.weights[0])
    step, state = net, None
    for k in range(3):
        target = dfc.output_target(step, x, y, step=0.5)
        run = simulate_online(step, [(x, target)], controller, state=state, **LEARNING)
        step, state = run.network, run.state
        assert k == 2 or np.array_equal(step.weights[0], seen[k + 1])
    streams.assert_same_bits(whole.network, step)


# --- divergence ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 9])
def test_divergence_is_told_and_leaves_finite_weights(count):
    arguments = problems.parameters(SIZES, activation="linear", feedback_gain=-40.0)
    net, stream = dfc.Network(**arguments), make_stream(count) * 20
    with np.errstate(over="ignore", invalid="ignore"):  # NumPy would warn where the compiler is switched off
        run = simulate_online(
            net, stream, dfc.Controller(**SHORT), record=dfc.Record(), record_weights=1, tau_w=1.0, tau_q=1.0
        )
    assert run.status == "diverged" and run.state is None
    assert 0 < run.steps < length(stream) and run.segments <= len(stream)
    finite = [np.isfinite(v).all(axis=(1, 2)) for v in run.trajectory.v]
    assert len(run.trajectory.v[0]) == run.steps + 1
    assert np.all(finite[0][:-1] & finite[1][:-1] & finite[2][:-1]) and not np.all([f[-1] for f in finite])
    last = len(run.weights.step) - 1
    assert run.weights.step[-1] == run.steps - 1
    for name in PARAMETERS:
        for kept, array in zip(getattr(run.weights, name), getattr(run.network, name), strict=True):
            assert np.array_equal(kept[last], array) and np.isfinite(array).all(), name


# --- float32 ---------------------------------------------------------------------------------------------------------------

ROUNDING = 2.0**-24
SINGLE_STATE, SINGLE_CHANGE = 1e-5, 1e-5


@pytest.mark.parametrize("tau", [2.0, 200.0, 20_000.0])
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "linear"])
def test_float32_stays_near_float64(activation, tau):
    """The state to 1e-5; what weights have learned to 1e-5, and to the rounding of the weights in every step."""
    arguments = problems.stable_parameters([20, 30, 30, 10], activation=activation, dtype=np.float32)
    single = dfc.Network(**arguments)
    stream = [(x.astype(np.float32), target) for x, target in make_stream(4, single.sizes)]
    controller = dfc.Controller(**{**SHORT, "steps": 50}, sigma=0.05)
    runs = [
        simulate_online(net, stream, controller, noise=5, tau_w=tau, tau_q=tau, record=dfc.Record())
        for net in (single, single.copy(dtype="float64"))
    ]
    assert runs[0].network.dtype == runs[0].trajectory.v[0].dtype == np.float32
    streams.assert_same_trajectory(runs[0].trajectory, runs[1].trajectory, SINGLE_STATE)
    for name in PARAMETERS:
        triples = zip(*(getattr(net, name) for net in (single, *(run.network for run in runs))), strict=True)
        for before, ours, theirs in triples:
            learned, size = np.abs(theirs - before).max(), np.abs(theirs).max()
            assert np.abs(ours - theirs).max() < SINGLE_CHANGE * learned + runs[0].steps * ROUNDING * size, (
                name
            )


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_saturated_units_that_are_driven_back(activation):
    """Rates far beyond saturation, which an apical noise of opposite sign brings back to the middle."""
    v_ff = np.linspace(-600, 600, 61)
    for dtype, bound in (("float64", 1e-12), ("float32", 1e-5)):
        net = dfc.Network(
            weights=[np.zeros((61, 1)), np.zeros((1, 61))], biases=[v_ff, np.zeros(1)],
            feedback=[np.zeros((61, 1)), np.zeros((1, 1))], hidden_activation=activation, dtype=dtype,
        )  # fmt: skip
        controller = dfc.Controller(dt=1, steps=1, alpha=0, k_p=0, instant_dynamics=True, sigma=1)
        noise = [np.zeros((2, 1, 61)), np.zeros((2, 1, 1))]
        noise[0][1, 0] = -1.01 * v_ff
        run = simulate_online(
            net, [([[1.0]], [[0.0]])], controller, noise=noise, tau_w=1.0, record=dfc.Record(variables=("r",))
        )
        phi = oracle.ACTIVATIONS[activation]
        with np.errstate(over="ignore"):
            before, after = phi(v_ff), phi(v_ff + noise[0][1, 0])
        np.testing.assert_allclose(run.trajectory.r[0][1, 0], after, atol=bound)
        np.testing.assert_allclose(
            run.network.biases[0] - net.biases[0].astype(float), after - before, atol=600 * bound
        )


def test_the_padding_of_weights_stays_zero(monkeypatch):
    """Padded units of a sigmoid layer have a rate, yet neither weights nor voltages."""
    seen = []
    monkeypatch.setattr(OnlineMemory, "state", lambda self: seen.append((self.arrays.work, self.layers)))
    streams.call(net=streams.network(activation="sigmoid"), controller={"jacobian_feedback": True}, tau_w=1.0)
    ((work, layers),) = seen
    for layer, field in itertools.product(layers, ("v_ff", "difference", "apical", "drive")):
        rows = work[getattr(layer, field) :][: 2 * layer.stride].reshape(2, layer.stride)
        assert np.all(rows[:, : layer.units]) and not np.any(rows[:, layer.units :]), field


# --- the compiled code ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(JIT_DISABLED, reason="the compiler is switched off")
@each_dtype
def test_another_network_or_option_compiles_nothing(dtype):
    streams.call(net=streams.network(dtype=dtype))
    compiled = len(run_steps.signatures)
    frozen = [(x.copy(), target.copy()) for x, target in make_stream(3)]
    for array in itertools.chain(*frozen):
        array.flags.writeable = False
    kept = {"noise": 1, "record": dfc.Record(variables=("u",)), "record_weights": 9}
    mixed = streams.network(dtype=dtype, activation=["relu", "sigmoid"], bias=False)
    for controller, learner in itertools.product(streams.CONTROLLERS.values(), streams.LEARNERS.values()):
        if not ("jacobian_feedback" in controller and "tau_q" in learner):
            streams.call(frozen, controller, mixed, **kept, **learner)
    other = dfc.Network(**problems.parameters([2, 9, 3], dtype=dtype))
    streams.call(make_stream(1, other.sizes), net=other, **LEARNING)
    assert len(run_steps.signatures) == compiled
