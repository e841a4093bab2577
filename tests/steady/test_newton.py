"""The exact steady state: a root of its equations, where simulations end, whatever it was found with."""

import numpy as np
import pytest
from oracle import ACTIVATIONS
from problems import inputs, label, parameters, probabilities, relative_deviation, stable_parameters
from scipy.optimize import root

import dfc_numba as dfc
from dfc_numba.kernels import steady_response as kernel
from dfc_numba.steady import krylov, newton, rest_equation
from dfc_numba.steady.response import Response

SIZES, SAMPLES = [5, 9, 8, 4], 21
DEPTHS = [[5, 4], [5, 9, 4], SIZES, [5, 9, 8, 7, 4]]
NAMES = ["tanh", "sigmoid", "relu", "leakyrelu", "linear"]
SMOOTH = ["tanh", "sigmoid"]
ERRORS = ["difference", "softmax"]
RULES = ["nonlinear_difference", "voltage_difference", "derivative_matrix"]
LONG = {"dt": 0.05, "steps": 6000, "tau_v": 0.1, "k_p": 0.5}


def problem(
    activation="tanh", *, error="difference", size=1.0, sizes=SIZES, dtype=np.float64, build=stable_parameters
):
    """A network, inputs, and a target that lies `size` away from the output, or soft labels."""
    net = dfc.Network(**build(sizes, activation=activation, dtype=dtype))
    x = inputs(SAMPLES, sizes[0])
    if error == "softmax":
        return net, x, probabilities(SAMPLES, sizes[-1])
    return net, x, net.predict(x, dtype="float64") + size * inputs(SAMPLES, sizes[-1], seed=5)


def controller(error="difference", **options):
    return dfc.Controller(**{**LONG, "alpha": 0.1, "error": error, **options})


def exact(net, x, target, c, **options):
    return dfc.steady_state(net, x, target, c, method="newton", **options)


def leak(c):
    return c.alpha / (1 + c.alpha * c.k_p) if c.leak == "integral" else c.alpha


# --- the plain equations ----------------------------------------------------------------------------------------


def state(net, x, u):
    """Voltages and rates of the chain, layer by layer, in the precision of u."""
    v, r, below = [], [], x.astype(u.dtype)
    for i, name in enumerate(net.activations):
        v.append(
            below @ net.weights[i].T + (0 if net.biases is None else net.biases[i]) + u @ net.feedback[i].T
        )
        r.append(ACTIVATIONS[name](v[-1]))
        below = r[-1]
    return v, r


def residual(net, x, target, c, u):
    """F(u) = e - alpha u."""
    output = state(net, x, u)[1][-1]
    if c.error == "softmax":
        output = np.exp(output - output.max(axis=1, keepdims=True))
        output /= output.sum(axis=1, keepdims=True)
    return target - output - leak(c) * u


def initial_error(net, x, target, c):
    return np.linalg.norm(residual(net, x, target, c, np.zeros(target.shape)), axis=1)


def roots(net, x, target, c):
    """u by SciPy's root finder, sample by sample; NaN where it finds none."""
    found = np.full(target.shape, np.nan)
    for b in range(len(x)):
        one = slice(b, b + 1)
        result = root(
            lambda u, one=one: residual(net, x[one], target[one], c, u[None])[0],
            np.zeros(target.shape[1]),
            tol=1e-13,
        )
        if np.linalg.norm(result.fun) < 1e-12:
            found[b] = result.x
    return found


def slopes(net, x, target, c, u, h=1e-6):
    """F'(u) by differences, (B, n_L, n_L)."""
    columns = [
        (residual(net, x, target, c, u + h * d) - residual(net, x, target, c, u - h * d)) / (2 * h)
        for d in np.eye(u.shape[1])
    ]
    return np.stack(columns, axis=2)


@pytest.mark.parametrize("options", [{}, {"leak": "integral", "alpha": 0.3}, {"alpha": 0.0}], ids=label)
@pytest.mark.parametrize("sizes", DEPTHS)
@pytest.mark.parametrize("activation", NAMES)
def test_the_steady_state_is_the_root_that_another_solver_finds(activation, sizes, options):
    net, x, target = problem(activation, sizes=sizes, size=0.3)
    c = controller(**options)
    steady, expected = exact(net, x, target, c), roots(net, x, target, c)
    assert steady.converged.all() and set(steady.status) == {"converged"}
    known = np.isfinite(expected).all(axis=1)
    assert known.sum() > SAMPLES // 2 and relative_deviation(steady.u[known], expected[known]) < 1e-9


@pytest.mark.parametrize("alpha", [0.1, 0.003])
@pytest.mark.parametrize("activation", NAMES)
def test_the_steady_state_with_the_softmax_error_is_the_root_that_another_solver_finds(activation, alpha):
    net, x, target = problem(activation, error="softmax")
    c = controller("softmax", alpha=alpha)
    steady, expected = exact(net, x, target, c), roots(net, x, target, c)
    known = np.isfinite(expected).all(axis=1)
    assert steady.converged.all()
    assert known.sum() > SAMPLES // 2 and relative_deviation(steady.u[known], expected[known]) < 1e-8


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("activation", NAMES)
def test_the_steady_state_satisfies_its_equations(activation, error, dtype):
    net, x, target = problem(activation, error=error, dtype=dtype)
    c = controller(error, leak="integral")
    steady, whole = exact(net, x, target, c), net.copy(dtype="float64")
    scale = initial_error(whole, x, target, c)
    assert steady.converged.all() and (steady.residual <= 1e-12 * scale).all()
    assert (np.linalg.norm(residual(whole, x, target, c, steady.u), axis=1) < 1e-11 * scale).all()
    v, r = state(whole, x, steady.u)
    for found, expected in zip([*steady.v, *steady.r], [*v, *r], strict=True):
        assert (
            found.dtype == np.float64
            and found.flags.c_contiguous
            and relative_deviation(found, expected) < 1e-14
        )
    for delta, q in zip(steady.delta_v, whole.feedback, strict=True):
        assert relative_deviation(delta, steady.u @ q.T) < 1e-14


def test_the_linear_steady_state_of_a_linear_network_is_the_exact_one():
    net, x, target = problem("linear")
    exact_, linear = exact(net, x, target, controller()), dfc.steady_state(net, x, target, controller())
    assert relative_deviation(exact_.u, linear.u) < 1e-12
    assert linear.status is None and linear.stable is None


@pytest.mark.parametrize("step", [6e-4, 0.08])
@pytest.mark.parametrize("activation", SMOOTH)
def test_small_nudges_take_few_steps(activation, step):
    net = dfc.Network.create([20, 40, 30, 10], hidden_activation=activation, seed=3)
    x = inputs(SAMPLES, 20)
    target = dfc.output_target(net, x, np.arange(SAMPLES) % 10, loss="cross_entropy", step=step)
    steady = exact(net, x, target, dfc.Controller())
    assert (
        steady.converged.all()
        and steady.stable.all()
        and 2 <= steady.iterations.min()
        and steady.iterations.max() <= 5
    )
    assert (steady.residual <= 1e-12 * np.linalg.norm(target - net.predict(x), axis=1)).all()


def test_a_target_that_is_reached_already_takes_none():
    net, x, _ = problem()
    steady = exact(net, x, net.predict(x), controller())
    assert (
        steady.converged.all()
        and not steady.iterations.any()
        and not steady.u.any()
        and not steady.residual.any()
    )


# --- simulations end there --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"size": 0.01},
        {"size": 2.0},
        {"size": 0.5, "leak": "integral"},
        {"size": 0.5, "k_p": 0.0, "alpha": 0.3},
    ],
    ids=label,
)
@pytest.mark.parametrize("sizes", DEPTHS[1:])
@pytest.mark.parametrize("activation", NAMES[:4])
def test_updates_of_the_final_step_tend_to_those_of_the_steady_state(activation, sizes, options):
    options = dict(options)
    problem_ = problem(activation, sizes=sizes, size=options.pop("size"))
    compare_updates(*problem_, controller(**options))


@pytest.mark.parametrize("alpha", [0.1, 0.02])
@pytest.mark.parametrize("activation", NAMES[:4])
def test_updates_of_the_final_step_tend_to_those_of_the_steady_state_with_the_softmax_error(
    activation, alpha
):
    compare_updates(*problem(activation, error="softmax"), controller("softmax", alpha=alpha, steps=12000))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_updates_of_the_final_step_tend_to_those_of_the_steady_state_by_every_rule(rule, dtype):
    bound = {np.float64: 1e-8, np.float32: 2e-5}[dtype]
    compare_updates(*problem(["tanh", "leakyrelu"], dtype=dtype), controller(), rule=rule, bound=bound)


def compare_updates(net, x, target, c, bound=1e-8, **options):
    """The updates of "newton" and "final" agree where the simulation has come to rest, which is nearly everywhere."""
    last = dfc.simulate(
        net.copy(dtype="float64"), x, target, c, record=dfc.Record(variables=("u",), every=c.steps // 2)
    ).u
    at_rest = np.abs(last[-1] - last[-2]).max(axis=1) < 1e-11 * np.abs(last[-1]).max(axis=1)
    assert at_rest.sum() > SAMPLES // 2
    problem_ = net, x[at_rest], target[at_rest], c
    assert relative_deviation(exact(*problem_).u, last[-1][at_rest]) < 1e-8 and exact(*problem_).stable.all()
    found = dfc.forward_update(*problem_, readout="newton", **options)
    expected = dfc.forward_update(*problem_, readout="final", **options)
    assert found.converged.all() and found.diverged is None
    for ours, theirs in zip(
        [*found.weights, *found.biases], [*expected.weights, *expected.biases], strict=True
    ):
        assert ours.dtype == net.dtype and relative_deviation(ours, theirs) < bound


@pytest.mark.parametrize("alpha", [0.0, 0.02])
def test_of_a_line_of_steady_states_newton_finds_the_one_that_simulations_reach(alpha):
    net, x, target = problem("sigmoid", error="softmax")
    target = 0.5 * target + 0.5 / SIZES[-1]
    c = controller("softmax", alpha=alpha, steps=20000)
    steady = exact(net, x, target, c)
    u = dfc.simulate(net, x, target, c, record=dfc.Record(variables=("u",), every=c.steps)).u[-1]
    assert relative_deviation(steady.u, u) < 1e-8 and steady.stable.all()
    kept = [status.endswith(", sum of u kept at 0") for status in steady.status]
    assert all(kept) if alpha == 0 else not any(kept)
    assert alpha or np.abs(steady.u.sum(axis=1)).max() < 1e-12


# --- small differences ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_small_nudges_lose_no_digits(dtype):
    net, x, target = problem(["tanh", "sigmoid"], size=1e-9, dtype=dtype)
    target = dfc.output_target(net, x, inputs(SAMPLES, SIZES[-1], seed=8), step=1e-9)
    update = dfc.forward_update(net, x, target, controller(), readout="newton")
    unit = dfc.steady_state(net, x, target, controller())  # for so small a nudge the linearised one is exact
    start = net.forward(x, dtype="float64")
    bound = 1e-6 if dtype == np.float32 else 2e-7  # the target itself has lost as much
    for i, (r, name) in enumerate(zip([x, *start.r[:-1]], net.activations, strict=True)):
        slope = {"tanh": lambda v: 1 - np.tanh(v) ** 2, "linear": np.ones_like}.get(
            name, lambda v: ACTIVATIONS["sigmoid"](v) * ACTIVATIONS["sigmoid"](-v)
        )(start.v[i])
        assert relative_deviation(update.weights[i], (slope * unit.delta_v[i]).T @ r / SAMPLES) < bound


@pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="long double is no longer than double here")
def test_factors_are_exact_to_rounding():
    net, x, target = problem("tanh", size=1e-4)
    c = controller()
    found = newton.solve(net, x, target, c, tolerance=1e-14)
    v, r = state(net, x, found.u.astype(np.longdouble))
    for i, factor in enumerate(found.equation.response.state().factor):
        drive = found.u.astype(np.longdouble) @ net.feedback[i].T
        phi = ACTIVATIONS[net.activations[i]]
        assert relative_deviation(factor, phi(v[i]) - phi(v[i] - drive)) < 3e-14


# --- what every sample says about itself ------------------------------------------------------------------------


def test_newton_continues_by_continuation_where_damping_fails(monkeypatch):
    net, x, target = problem(error="softmax")
    c = controller("softmax", alpha=0.02)
    expected = exact(net, x, target, c)
    monkeypatch.setattr(newton, "HALVINGS", 0)
    steady = exact(net, x, target, c)
    assert (
        set(steady.status) == {"converged by continuation"} and steady.converged.all() and steady.stable.all()
    )
    assert relative_deviation(steady.u, expected.u) < 1e-9 and (steady.iterations > expected.iterations).any()


def steep(target):
    """One steep sigmoid unit: the output responds to u around u = 0.09 only."""
    net = dfc.Network(
        weights=[np.ones((1, 1)), np.ones((1, 1))],
        biases=None,
        feedback=[np.full((1, 1), 100.0), np.zeros((1, 1))],
        hidden_activation="sigmoid",
    )
    return net, np.full((1, 1), -9.0), np.full((1, 1), target), controller(alpha=1e-3)


@pytest.mark.parametrize("target", [0.1, 0.9])
@pytest.mark.parametrize("halvings", [12, 0])
def test_steps_that_go_too_far_are_taken_back(halvings, target, monkeypatch):
    monkeypatch.setattr(newton, "HALVINGS", halvings)
    moves, move = [], newton._Search.move
    monkeypatch.setattr(
        newton._Search, "move", lambda *arguments: moves.append(move(*arguments)) or moves[-1]
    )
    steady = exact(*steep(target))
    assert steady.converged.all() and steady.status[0] == (
        "converged" if halvings else "converged by continuation"
    )
    u = steady.u[0, 0]
    assert target - 1 / (1 + np.exp(9 - 100 * u)) - 1e-3 * u == pytest.approx(0, abs=1e-12)
    assert any(moved.any() for moved in moves) and any(not moved.all() for moved in moves)


def test_slow_controllers_are_followed_to_the_end():
    """Confident outputs and weak feedback: a simulation would take thousands of time constants."""
    net = dfc.Network.create([30, 60, 50, 10], seed=1)
    net.weights[-1] *= 2.0
    for q in net.feedback:
        q *= 0.1
    x = inputs(40, 30)
    right = np.eye(10)[net.predict(x).argmax(axis=1)] > 0
    steady = exact(net, x, np.where(right, 0.99, 0.01 / 9), controller("softmax", alpha=0.0))
    assert steady.converged.all() and steady.stable.all()
    kinds = {"converged, sum of u kept at 0", "converged by continuation, sum of u kept at 0"}
    assert set(steady.status) == kinds


def unreachable():
    """alpha = 0, and targets that are no softmax: not positive, or of another sum."""
    net, x, target = problem(error="softmax")
    target[3] = np.eye(SIZES[-1])[1]
    target[5] *= 1.01
    return net, x, target, controller("softmax", alpha=0.0)


def test_targets_that_no_output_has_are_told():
    steady = exact(*unreachable())
    assert np.array_equal(np.flatnonzero(steady.status == "no steady state"), [3, 5])
    assert (
        not steady.converged[[3, 5]].any() and not steady.stable[[3, 5]].any() and not steady.u[[3, 5]].any()
    )
    assert steady.converged.sum() == SAMPLES - 2


def test_an_output_that_does_not_respond_is_told():
    net, x, target = problem()
    for q in net.feedback:
        q[:, 0] = 0
    steady = exact(net, x, target, controller(alpha=0.0))
    assert set(steady.status) == {"singular"} and not steady.converged.any() and np.isfinite(steady.u).all()
    assert exact(net, x, target, controller(alpha=0.1)).converged.all()


def test_an_error_that_overflows_is_told():
    net, x, target = problem()
    target[2] = 1e308
    steady = exact(net, x, target, controller())
    assert (
        steady.status[2] == "not finite"
        and steady.converged.sum() == SAMPLES - 1
        and np.isfinite(steady.u).all()
    )


def test_a_state_that_nothing_leads_to_is_not_invented():
    """With negative feedback through relu there is no root for half of the targets."""
    net = dfc.Network(
        weights=[np.ones((1, 1)), np.ones((1, 1))], biases=None, feedback=[np.full((1, 1), -1.0), np.zeros((1, 1))],
        hidden_activation="relu",
    )  # fmt: skip
    x, target = np.ones((2, 1)), np.array([[-0.5], [1.5]])
    steady = exact(net, x, target, controller(alpha=0.0))
    assert not steady.converged[0] and steady.status[0] in ("out of iterations", "singular")
    assert steady.converged[1] and not steady.stable[1] and steady.u[1] == pytest.approx(-0.5)


def test_newton_iterations_are_limited():
    net, x, target = problem(size=2.0)
    steady = exact(net, x, target, controller(), max_iterations=1)
    assert (
        set(steady.status) == {"out of iterations"}
        and (steady.iterations == 2).all()
        and not steady.stable.any()
    )
    few = exact(net, x, target, controller(), tolerance=1e-3)
    assert few.converged.all() and few.iterations.max() < exact(net, x, target, controller()).iterations.max()


# --- stability --------------------------------------------------------------------------------------------------


def partly_stable(error="difference"):
    """Random feedback weights: some of the steady states attract, some do not."""
    net = dfc.Network(**parameters(SIZES))
    net.feedback[-1] = 0.5 * np.eye(SIZES[-1])
    x = inputs(SAMPLES, SIZES[0])
    if error == "softmax":
        return net, x, probabilities(SAMPLES, SIZES[-1])
    return net, x, net.predict(x) + 0.1 * inputs(SAMPLES, SIZES[-1], seed=5)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("k_p", [0.0, 0.5])
def test_stability_is_that_of_the_controller_with_instantaneous_layers(k_p, error):
    net, x, target = partly_stable(error)
    c, identity = controller(error, k_p=k_p, alpha=0.05), np.eye(SIZES[-1])
    steady = exact(net, x, target, c)
    error_slope = slopes(net, x, target, c, steady.u) + c.alpha * identity
    for b in np.flatnonzero(steady.converged):
        # u = u_int + k_p e, so (1 - k_p de/du) du/dt = e - alpha u
        dynamics = np.linalg.solve(identity - k_p * error_slope[b], error_slope[b] - c.alpha * identity)
        well_posed = (k_p * np.linalg.eigvals(error_slope[b]).real < 1).all()
        assert steady.stable[b] == (well_posed and (np.linalg.eigvals(dynamics).real < 0).all())
    assert error == "softmax" or 0 < steady.stable.sum() < SAMPLES - 5


def test_simulations_stay_at_stable_states_and_leave_unstable_ones():
    net, x, target = partly_stable()
    c = controller(k_p=0.0, alpha=0.05, dt=0.01, tau_v=0.01, steps=20000)
    steady = exact(net, x, target, c)
    u = dfc.simulate(net, x, target, c, record=dfc.Record(variables=("u",), every=c.steps)).u[-1]
    arrives = np.abs(u - steady.u).max(axis=1) < 1e-3 * np.abs(steady.u).max(axis=1)
    assert steady.converged.all() and np.array_equal(steady.stable, arrives)


@pytest.mark.parametrize(("k_p", "stable"), [(0.0, False), (0.5, True), (2.0, True), (6.0, False)])
def test_proportional_control_can_stabilise_and_destabilise(k_p, stable):
    net = dfc.Network(weights=[np.eye(2)], biases=None, feedback=[np.array([[-0.2, 0.8], [-0.8, -0.2]])])
    c = controller(k_p=k_p, alpha=0.1, dt=0.002, tau_v=0.02, steps=30000)
    x, target = np.ones((1, 2)), np.full((1, 2), 1.1)
    steady = exact(net, x, target, c)
    assert steady.converged.all() and steady.stable[0] == stable
    u = dfc.simulate(net, x, target, c, record=dfc.Record(variables=("u",), every=c.steps)).u[-1]
    assert (relative_deviation(u, steady.u) < 1e-2) == stable


# --- many outputs -----------------------------------------------------------------------------------------------


@pytest.fixture
def without_matrices(monkeypatch):
    monkeypatch.setattr(rest_equation, "DENSE_OUTPUTS", 0)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("alpha", [0.1, 0.0])
def test_the_steady_state_without_matrices_is_the_same(error, alpha, monkeypatch):
    arguments = *problem(error=error), controller(error, alpha=alpha)
    expected = exact(*arguments)
    monkeypatch.setattr(rest_equation, "DENSE_OUTPUTS", 0)
    steady = exact(*arguments)
    assert steady.converged.all() and np.array_equal(steady.stable, expected.stable)
    assert relative_deviation(steady.u, expected.u) < 1e-9


def test_continuation_works_without_matrices(without_matrices, monkeypatch):
    arguments = *problem(error="softmax"), controller("softmax", alpha=0.02)
    monkeypatch.setattr(newton, "HALVINGS", 0)
    steady = exact(*arguments)
    assert set(steady.status) == {"converged by continuation"}


def test_a_singular_system_without_matrices_runs_out_of_iterations(without_matrices):
    net, x, target = problem()
    for q in net.feedback:
        q[:] = 0
    steady = exact(net, x, target, controller(alpha=0.0), max_iterations=3)
    assert set(steady.status) == {"out of iterations"}


def autoencoder(count=40, dtype="float32"):
    """More outputs than are solved densely, more samples than a group."""
    net = dfc.Network.create(
        [90, 30, 8, 30, 90], hidden_activation=["tanh", "linear", "tanh"], seed=2, dtype=dtype
    )
    x = inputs(count, 90)
    return net, x, dfc.output_target(net, x, x, step=1.0)


def test_the_steady_state_of_an_autoencoder_is_where_the_simulation_ends():
    net, x, target = autoencoder()
    assert net.sizes[-1] > rest_equation.DENSE_OUTPUTS and len(x) > rest_equation.KRYLOV_GROUP
    c = controller(alpha=0.04, k_p=2.0)
    steady = exact(net, x, target, c)
    assert steady.converged.all() and steady.stable.all() and steady.iterations.max() <= 5
    found = dfc.forward_update(net, x, target, c, readout="newton")
    expected = dfc.forward_update(net.copy(dtype="float64"), x, target, c, readout="final")
    for a, b in zip([*found.weights, *found.biases], [*expected.weights, *expected.biases], strict=True):
        assert relative_deviation(a, b) < 2e-6


# --- updates ----------------------------------------------------------------------------------------------------


def test_samples_that_have_not_converged_contribute_zero():
    net, x, target, c = unreachable()
    found = dfc.forward_update(net, x, target, c, readout="newton", samples="converged")
    good = np.setdiff1d(np.arange(SAMPLES), [3, 5])
    alone = dfc.forward_update(net, x[good], target[good], c, readout="newton")
    assert np.array_equal(np.flatnonzero(~found.converged), [3, 5])
    for a, b in zip([*found.weights, *found.biases], [*alone.weights, *alone.biases], strict=True):
        assert relative_deviation(a, b * len(good) / SAMPLES) < 1e-14


def test_the_steady_state_of_a_network_without_biases_is_where_the_simulation_ends():
    net, x, _ = problem()
    net = dfc.Network(**stable_parameters(SIZES, bias=False))
    target = net.predict(x) + 0.1
    found = dfc.forward_update(net, x, target, controller(), readout="newton")
    expected = dfc.forward_update(net, x, target, controller(), readout="final")
    assert found.biases is None
    assert all(relative_deviation(a, b) < 1e-8 for a, b in zip(found.weights, expected.weights, strict=True))


def updates(build):
    """Arrays of an update and of a steady state, to be compared bit for bit."""
    net, x, target = build()
    error = "softmax" if build is labelled else "difference"
    c = controller(error, alpha=0.02)
    update, steady = dfc.forward_update(net, x, target, c, readout="newton"), exact(net, x, target, c)
    return [
        *update.weights,
        *update.biases,
        steady.u,
        *steady.v,
        steady.residual,
        steady.iterations,
        steady.stable,
    ]


def labelled():
    net = dfc.Network.create([30, 60, 50, 10], seed=1, feedback_init="weight_product")
    return net, inputs(100, 30), probabilities(100, 10)


@pytest.mark.parametrize("build", [labelled, autoencoder])
@pytest.mark.parametrize("threads", [2, 3, 8])
def test_the_bits_do_not_depend_on_the_threads(build, threads, monkeypatch):
    monkeypatch.setattr("dfc_numba.support.threads.SMALLEST_WORK_PER_THREAD", 1.0)
    results = []
    for count in (1, threads):
        with dfc.limit_threads(count):
            results.append(updates(build))
    for one, many in zip(*results, strict=True):
        assert np.array_equal(one, many)


def test_a_sample_does_not_depend_on_those_beside_it():
    net, x, target = labelled()
    c = controller("softmax", alpha=0.02)
    whole, part = exact(net, x, target, c), exact(net, x[37:41], target[37:41], c)
    assert np.array_equal(whole.u[37:41], part.u) and np.array_equal(whole.iterations[37:41], part.iterations)


# --- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solve", [exact, lambda *problem_: dfc.forward_update(*problem_, readout="newton")])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"sigma": 0.1},
            "sigma = 0.1, sigma_output = 0.1, and with noise there is no steady state; set sigma to 0",
        ),
        ({"sigma_output": 0.2}, "sigma = 0, sigma_output = 0.2"),
    ],
)
def test_controllers_without_such_a_steady_state_are_refused(options, message, solve):
    with pytest.raises(ValueError, match=message):
        solve(*problem(), controller(**options))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tolerance": 0.0}, ValueError, "tolerance is 0.0; a finite number > 0 is allowed"),
        ({"tolerance": "small"}, TypeError, "tolerance is 'small'"),
        ({"max_iterations": 0}, ValueError, "max_iterations is 0; a whole number from 1"),
        ({"controller": None}, TypeError, "controller must be a Controller, not None"),
        ({"network": 1}, TypeError, "network must be a Network, not 1"),
        ({"target": inputs(2, 4)}, ValueError, r"target has shape \(2, 4\); expected \(21, 4\)"),
        ({"target": np.full((SAMPLES, 4), np.inf)}, ValueError, r"target\[0, 0\] is inf"),
        ({"x": inputs(SAMPLES, 4)}, ValueError, r"x has shape \(21, 4\); expected \(any, 5\)"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options, error, message):
    arguments = dict(zip(("network", "x", "target"), problem(), strict=True))
    with pytest.raises(error, match=message):
        dfc.steady_state(**{**arguments, "controller": controller(), "method": "newton", **options})


def test_noise_is_refused():
    with pytest.raises(
        ValueError,
        match="readout='newton' solves for the steady state and simulates nothing; leave out noise",
    ):
        dfc.forward_update(*problem(), controller(), readout="newton", noise=0)


# --- parts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", [*NAMES, ["tanh", "relu"]])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_products_with_the_slope_are_those_of_differences(activation, dtype):
    net, x, target = problem(activation, size=0.5)
    c, everyone = controller(), np.arange(SAMPLES)
    equation = rest_equation.RestEquation(net, x, target, c)
    u = 0.1 * inputs(SAMPLES, SIZES[-1], seed=9)
    for at in (np.zeros_like(u), u):
        if at is u:
            equation.residual(u, everyone)
        expected = -slopes(net, x, target, c, at)
        assert relative_deviation(equation.matrices(everyone, dtype), expected) < (
            1e-6 if dtype == np.float32 else 1e-8
        )
    some = np.array([17, 3, 8])
    directions = inputs(3, SIZES[-1], seed=4)[:, None, :]
    expected = np.einsum("bij,bkj->bki", -slopes(net, x, target, c, u)[some], directions)
    assert relative_deviation(equation.multiply(directions, some, dtype), expected) < 1e-6


def test_responses_are_those_of_the_plain_network():
    net, x, _ = problem(["tanh", "leakyrelu"])
    response, u = Response(net, x), inputs(SAMPLES, SIZES[-1], seed=9)
    some = np.array([20, 0, 11])
    change = response.outputs(u[some], some)
    v, r = state(net, x, u)
    assert relative_deviation(change, (r[-1] - net.predict(x))[some]) < 1e-13
    for found, expected, start in zip(response.state().v, v, response.feedforward.v, strict=True):
        assert relative_deviation(found[some], (expected - start)[some]) < 1e-13
        assert not np.delete(found, some, axis=0).any()


def test_one_compilation_serves_every_network():
    for sizes in ([5, 4], SIZES, [3, 70]):
        net = dfc.Network(**stable_parameters(sizes))
        x = inputs(2, sizes[0])
        exact(net, x, net.predict(x) + 0.1, controller())
        exact(net, x[:1], net.predict(x[:1]) + 0.1, controller())
    if hasattr(kernel.respond, "signatures"):
        assert (
            len(kernel.respond.signatures)
            == len(kernel.begin.signatures)
            == len(kernel.solve.signatures)
            == 1
        )
        assert len(kernel.push_forward.signatures) <= 2


def test_small_systems_are_solved_like_numpy_solves_them():
    rng = np.random.default_rng(0)
    matrices, right = rng.standard_normal((7, 5, 5)), rng.standard_normal((7, 5))
    matrices[2, 0, 0] = 0.0
    expected = np.linalg.solve(matrices, right[:, :, None])[:, :, 0]
    matrices[4] = np.outer(right[4], right[5])
    matrices[5] = 0.0
    solutions = right.copy()
    with np.errstate(all="ignore"):
        kernel.solve(matrices, solutions)
    regular = [0, 1, 2, 3, 6]
    assert relative_deviation(solutions[regular], expected[regular]) < 1e-12
    assert not np.isfinite(solutions[5]).all()


def products(matrices):
    return lambda d: np.einsum("bij,bj->bi", matrices, d)


def test_least_residuals_solve_linear_systems():
    rng = np.random.default_rng(1)
    matrices, right = np.eye(30) + 0.15 * rng.standard_normal((6, 30, 30)), rng.standard_normal((6, 30))
    right[3] = 0
    inverse = np.linalg.inv(matrices.mean(axis=0)).T
    counts = []
    for precondition in (lambda d: d, lambda d: d @ inverse):
        calls = []
        x = krylov.least_residuals(
            lambda d, calls=calls: calls.append(1) or products(matrices)(d),
            right, tolerance=1e-6, most=40, precondition=precondition,
        )  # fmt: skip
        left = np.linalg.norm(right - products(matrices)(x), axis=1)
        assert (left <= 1.001e-6 * np.linalg.norm(right, axis=1)).all() and not x[3].any()
        counts.append(len(calls))
    assert counts[1] <= counts[0] <= 31
    rough = krylov.least_residuals(
        products(matrices), right, tolerance=1e-6, most=3, precondition=lambda d: d
    )
    assert 1e-6 < np.linalg.norm(right - products(matrices)(rough)) < np.linalg.norm(right)


def test_eigenvalues_at_the_edge():
    rng = np.random.default_rng(2)
    matrices = np.eye(60) + 0.05 * rng.standard_normal((4, 60, 60))
    matrices[1] -= 2.0 * np.outer(rng.standard_normal(60), rng.standard_normal(60)) / 60
    expected = np.linalg.eigvals(matrices).real.min(axis=1)
    start = rng.standard_normal((4, 60))
    found = krylov.edge_eigenvalues(products(matrices), start, steps=60)
    assert found.shape == (4, 60) and relative_deviation(found.real.min(axis=1), expected) < 1e-9
    early = krylov.edge_eigenvalues(products(matrices), start, steps=35)
    assert relative_deviation(early.real.min(axis=1), expected) < 0.03


def test_eigenvalues_of_a_space_that_is_found_whole():
    matrices = np.stack([2.0 * np.eye(20), np.diag([-1.0] * 10 + [3.0] * 10)])
    found = krylov.edge_eigenvalues(products(matrices), np.ones((2, 20)), steps=8)
    assert np.allclose(found.real.min(axis=1), [2.0, -1.0])
