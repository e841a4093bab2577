"""Equilibrium propagation: phases beside a plain version, the update beside the adjoint gradient, tiny nudges, refusals."""

from dataclasses import replace

import numpy as np
import pytest
import relatives_oracle as oracle

import dfc_numba as dfc
from dfc_numba.relatives import equilibrium_energy as energy
from dfc_numba.relatives import equilibrium_newton as newton
from dfc_numba.relatives import equilibrium_propagation as ep
from dfc_numba.relatives.continual import continual_updates

SIZES = [6, 5, 4, 3]
NONLINEARITIES = ["tanh", "sigmoid", "steepsigmoid", "hardsigmoid", "relu", "linear"]


def problem(*, sizes=SIZES, count=5, scale=1.0, dtype="float64", backward=False, **values):
    net = dfc.Network.create(sizes, seed=1, dtype=dtype)
    rng = np.random.default_rng(2)
    for w, b in zip(net.weights, net.biases, strict=True):
        w *= scale
        b[...] = 0.3 * rng.standard_normal(b.shape)
    if backward:
        net.backward = [
            0.3 * rng.standard_normal(shape) for shape in zip(sizes[1:-1], sizes[2:], strict=True)
        ]
    options = ep.EquilibriumPropagation(**values)
    return net, options, rng.standard_normal((count, sizes[0])), rng.uniform(0.2, 0.8, (count, sizes[-1]))


def plain_steps(net, x, options, states, steps, beta=0.0, y=None):
    """The dynamics in plain NumPy, from the equations of the kernels' docstring."""
    phi = oracle.ACTIVATIONS[options.nonlinearity]
    slope = lambda v: (phi(v + 1e-6) - phi(v - 1e-6)) / 2e-6  # noqa: E731
    above = net.backward or [w.T for w in net.weights[1:]]
    for _ in range(steps):
        rates = [phi(u) for u in states] if options.form != "prototypical" else states
        below = [x, *rates[:-1]]
        basal = [r @ w.T + b for r, w, b in zip(below, net.weights, net.biases, strict=True)]
        cost = np.zeros_like(states[-1])
        if beta:
            output = states[-1] if options.loss == "mse" else oracle.softmax(states[-1])
            cost = beta * (y - output)
        if options.form == "gaussian":
            errors = [u - a for u, a in zip(states, basal, strict=True)]
            back = [e @ w for e, w in zip(errors[1:], net.weights[1:], strict=True)] + [0.0]
            flow = [2 * (slope(u) * t - e) for u, t, e in zip(states, back, errors, strict=True)]
        else:
            drive = [
                a + (rates[i + 1] @ above[i].T if i + 1 < len(basal) else 0.0) for i, a in enumerate(basal)
            ]
            if options.form == "prototypical":
                states = [phi(d) for d in drive[:-1]]
                states.append(drive[-1] + cost if options.loss == "cross_entropy" else phi(drive[-1] + cost))
                continue
            flow = [slope(u) * d - u for u, d in zip(states, drive, strict=True)]
        flow[-1] = flow[-1] + cost
        states = [u + options.gain * f for u, f in zip(states, flow, strict=True)]
    return states


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("form", ["prototypical", "hopfield", "gaussian"])
def test_both_phases_follow_the_equations(form, nonlinearity, loss):
    net, options, x, y = problem(
        form=form, nonlinearity=nonlinearity, loss=loss, scale=0.5, beta=0.4, free_steps=9, nudged_steps=7
    )
    initial = [0.1 * np.ones((len(x), n)) for n in SIZES[1:]]
    free = ep.free_phase(net, x, options, initial=initial)
    expected = plain_steps(net, x, options, initial, 9)
    if form == "gaussian":
        expected = feedforward_voltages(net, x, nonlinearity)
    assert all(map(lambda a, b: np.allclose(a, b, atol=1e-8), free.states, expected))
    nudged = ep.nudged_phase(net, x, y, free, options, record=True)
    ends = plain_steps(net, x, options, free.states, 7, options.beta, y)
    for state, d, end, points in zip(free.states, nudged.deviations, ends, nudged.trajectory, strict=True):
        assert np.allclose(state + d, end, atol=1e-8)
        assert np.array_equal(points[0], state)
        assert np.allclose(points[-1], end, atol=1e-8)


def feedforward_voltages(net, x, nonlinearity):
    return oracle.feedforward(net.weights, net.biases, [nonlinearity] * len(net.weights), x)[0]


@pytest.mark.parametrize(
    ("form", "loss", "nonlinearity"),
    [
        ("prototypical", "mse", "tanh"),
        ("prototypical", "cross_entropy", "steepsigmoid"),
        ("hopfield", "mse", "sigmoid"),
        ("hopfield", "cross_entropy", "tanh"),
        ("gaussian", "mse", "sigmoid"),
        ("gaussian", "cross_entropy", "tanh"),
    ],
)
@pytest.mark.parametrize("sides", [1, 2])
def test_the_update_approaches_the_adjoint_gradient_with_order_one_or_two(form, loss, nonlinearity, sides):
    """The error of a one-sided nudge falls as beta, of a two-sided one as beta^2; `pytest -s` prints the slopes."""
    values = {"form": form, "loss": loss, "nonlinearity": nonlinearity, "sides": sides, "scale": 0.4}
    betas, errors = [0.04, 0.02, 0.01], []
    for beta in betas:
        net, options, x, y = problem(beta=beta, free_steps=1500, nudged_steps=1500, **values)
        update = ep.equilibrium_update(net, x, y, options)
        exact = adjoint(net, x, y, options)
        errors.append(distance(update.weights + update.biases, exact))
    slopes = np.diff(np.log(errors)) / np.diff(np.log(betas))
    print(form, loss, nonlinearity, "sides", sides, "slopes", slopes.round(3), "errors", np.array(errors))
    assert np.allclose(slopes, sides, atol=0.1), (slopes, errors)


def adjoint(net, x, y, options):
    """Return the gradient of the cost at the free equilibrium, weights then biases.

    The Gaussian form rests at the feedforward state: there it is backpropagation with a linear output, in plain NumPy.
    """
    if options.form != "gaussian":
        exact = newton.equilibrium_gradient(net, x, y, options)
        assert exact.converged.all()
        return exact.weights + exact.biases
    voltages = feedforward_voltages(net, x, options.nonlinearity)
    rates = [x, *[energy.rate_of(options, v) for v in voltages[:-1]]]
    delta = (oracle.softmax(voltages[-1]) if options.loss == "cross_entropy" else voltages[-1]) - y
    weights, biases = [], []
    for i in reversed(range(len(voltages))):
        weights.insert(0, delta.T @ rates[i] / len(x))
        biases.insert(0, delta.mean(axis=0))
        if i:
            delta = (delta @ net.weights[i]) * energy.slope_of(options, voltages[i - 1])
    return weights + biases


def distance(update, gradient):
    """|update + gradient| / |gradient|."""
    flat = [np.concatenate([a.ravel() for a in arrays]) for arrays in (update, gradient)]
    return np.linalg.norm(flat[0] + flat[1]) / np.linalg.norm(flat[1])


@pytest.mark.parametrize("form", ["prototypical", "hopfield"])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_the_adjoint_gradient_is_the_numerical_one(form, loss):
    net, options, x, y = problem(form=form, loss=loss, scale=0.4)
    exact = newton.equilibrium_gradient(net, x, y, options)

    def mean_cost():
        return energy.cost(newton.equilibrium(net, x, options)[0][-1], y, loss).mean()

    for i, w in enumerate(net.weights):
        assert np.allclose(exact.weights[i], oracle.numerical_gradient(mean_cost, w, 1e-5), atol=1e-8)
        assert np.allclose(
            exact.biases[i], oracle.numerical_gradient(mean_cost, net.biases[i], 1e-5), atol=1e-8
        )


def test_the_adjoint_gradient_of_a_vector_field_is_the_numerical_one():
    net, _, x, y = problem(backward=True, scale=0.5)
    options = ep.EquilibriumPropagation(backward="separate")
    exact = newton.equilibrium_gradient(net, x, y, options)

    def mean_cost():
        return energy.cost(newton.equilibrium(net, x, options)[0][-1], y, "mse").mean()

    for gradient, b in zip(exact.backward, net.backward, strict=True):
        assert np.allclose(gradient, oracle.numerical_gradient(mean_cost, b, 1e-5), atol=1e-8)
    assert np.allclose(
        exact.weights[1], oracle.numerical_gradient(mean_cost, net.weights[1], 1e-5), atol=1e-8
    )


@pytest.mark.parametrize("form", ["prototypical", "hopfield"])
@pytest.mark.parametrize("sides", [1, 2])
def test_newtons_method_gives_the_update_of_phases_that_have_come_to_rest(form, sides):
    net, options, x, y = problem(form=form, sides=sides, scale=0.4, free_steps=1500, nudged_steps=1500)
    stepped, solved = ep.equilibrium_update(net, x, y, options), newton.newton_update(net, x, y, options)
    assert solved.free.settled.all()
    assert all(map(lambda a, b: np.allclose(a, b, atol=1e-12), stepped.weights, solved.weights))


@pytest.mark.parametrize("form", ["prototypical", "hopfield", "gaussian"])
def test_a_nudge_of_a_millionth_keeps_its_digits_in_single_precision(form):
    """The update with beta = 1e-6 in float32 agrees with that of float64 as well as float32 can."""
    updates = []
    for dtype in ("float64", "float32"):
        net, options, x, y = problem(
            form=form,
            beta=1e-6,
            scale=0.4,
            free_steps=1500,
            nudged_steps=300,
            dtype=dtype,
            sizes=[20, 40, 30, 5],
        )
        update = ep.equilibrium_update(net, x, y, options)
        assert update.weights[0].dtype == dtype
        updates.append(update.weights)
    for double, single in zip(*updates, strict=True):
        assert np.linalg.norm(single - double) < 3e-6 * np.linalg.norm(double)


def test_the_bits_do_not_depend_on_threads_or_on_the_other_samples():
    net, options, x, y = problem(sizes=[20, 70, 50, 5], count=70, tolerance=1e-6, scale=0.5)
    with dfc.limit_threads(1):
        one = ep.equilibrium_update(net, x, y, options)
    with dfc.limit_threads(3):
        three = ep.equilibrium_update(net, x, y, options)
    assert all(map(np.array_equal, one.weights, three.weights))
    part = ep.free_phase(net, x[40:45], options)
    assert all(np.array_equal(a, b[40:45]) for a, b in zip(part.states, one.free.states, strict=True))


def test_a_sample_stops_when_it_has_settled():
    net, options, x, _ = problem(tolerance=1e-8, free_steps=400, scale=0.5)
    free = ep.free_phase(net, x, options, record=True)
    assert free.settled.all()
    assert len(set(free.steps)) > 1
    every = ep.free_phase(net, x, ep.EquilibriumPropagation(free_steps=400), record=True)
    for b, steps in enumerate(free.steps):
        assert np.array_equal(free.states[1][b], every.trajectory[1][steps, b])
        change = [np.abs(p[steps, b] - p[steps - 1, b]).max() for p in every.trajectory]
        before = [np.abs(p[steps - 1, b] - p[steps - 2, b]).max() for p in every.trajectory]
        assert max(change) <= 1e-8 < max(before)


def test_a_network_without_equilibrium_is_flagged():
    net, options, x, _ = problem(nonlinearity="linear", tolerance=1e-9, free_steps=200, scale=3.0)
    with np.errstate(over="ignore", invalid="ignore"):
        assert not ep.free_phase(net, x, options).settled.any()


@pytest.mark.parametrize("tolerance", [None, 1e-3])
@pytest.mark.parametrize(
    ("form", "beta", "rate"), [("hopfield", 19.0, 1.0), ("hopfield", -19.0, 1.0), ("gaussian", 18.0, 2.0)]
)
def test_a_nudge_that_euler_steps_cannot_carry_is_refused(form, beta, rate, tolerance):
    """The bound is that of the output's own step, 1 - (dt/tau)(rate + beta) >= -1; the largest beta is still taken."""
    net, options, x, y = problem(form=form, beta=beta, nudged_steps=3, tolerance=tolerance)
    assert options.gain * (rate + abs(beta)) == pytest.approx(2.0)
    ep.equilibrium_update(net, x, y, options)
    beyond = replace(options, beta=1.01 * beta)
    with pytest.raises(
        ValueError, match=rf"\(dt / tau\) \({rate:g} \+ \|beta\|\) = .* choose dt <= 0.09.*beta\| <= "
    ):
        ep.equilibrium_update(net, x, y, beyond)
    with pytest.raises(ValueError, match="is above 2"):
        ep.nudged_phase(net, x, y, ep.free_phase(net, x, options), options, beta=1.01 * beta)
    ep.equilibrium_update(net, x, y, replace(beyond, loss="cross_entropy"))  # which pulls by beta at most
    ep.equilibrium_update(net, x, y, replace(beyond, dt=0.09))


@pytest.mark.parametrize(("form", "rate"), [("hopfield", 1.0), ("gaussian", 2.0)])
def test_the_bound_on_a_nudge_is_where_euler_steps_begin_to_grow(form, rate, monkeypatch):
    """Without the refusal: deviations of a lone output layer stay below the bound, and explode above it."""
    monkeypatch.setattr(ep, "check_nudge", lambda options, beta: None)
    for factor, grows in [(0.99, False), (1.01, True)]:
        beta = factor * 20.0 - rate
        net, options, x, y = problem(
            form=form, sizes=[6, 3], nonlinearity="linear", beta=beta, nudged_steps=400, scale=0.1
        )
        update = ep.equilibrium_update(net, x, y, options)
        assert (np.abs(update.nudged[-1].deviations[-1]).max() > 100.0) == grows
        assert update.diverged.all() == grows
        assert update.diverged.any() == grows


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("form", "beta"), [("hopfield", -3.0), ("gaussian", -2.5)])
def test_a_nudge_that_drives_states_away_is_flagged(form, beta, dtype):
    """A negative nudge that outweighs the return to rest leaves the energy without a minimum."""
    values = {
        "form": form,
        "nonlinearity": "sigmoid",
        "nudged_steps": 50,
        "free_steps": 200,
        "tolerance": 1e-3,
    }
    net, options, x, y = problem(beta=beta, dtype=dtype, **values)
    update = ep.equilibrium_update(net, x, y, options)
    assert update.nudged[0].growing.all()
    assert update.diverged.all()
    both = ep.equilibrium_update(net, x, y, replace(options, beta=-beta, sides=2))
    assert both.diverged.all()
    assert not both.nudged[1].growing.any()
    harmless = ep.equilibrium_update(net, x, y, replace(options, beta=-beta))
    assert not harmless.diverged.any()


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("form", ["hopfield", "gaussian"])
@pytest.mark.parametrize("steps", [1, 5, 300])
def test_a_nudge_on_its_way_to_rest_is_not_flagged(form, nonlinearity, steps):
    for dtype in ("float64", "float32"):
        values = {"form": form, "nonlinearity": nonlinearity, "nudged_steps": steps, "free_steps": 400}
        net, options, x, y = problem(count=40, scale=0.4, dtype=dtype, **values)
        assert not ep.equilibrium_update(net, x, y, options).nudged[0].growing.any()


@pytest.mark.parametrize("tolerance", [None, 1e-3])
def test_the_gaussian_form_starts_at_rest(tolerance):
    net, options, x, y = problem(form="gaussian", tolerance=tolerance)
    free = ep.free_phase(net, x, options)
    assert free.settled is None if tolerance is None else free.settled.all()
    assert not free.moving.any()
    assert not free.steps.any()
    assert not ep.equilibrium_update(net, x, y, options).diverged.any()


@pytest.mark.parametrize("values", [{}, {"form": "hopfield"}, {"form": "gaussian"}, {"backward": "separate"}])
def test_a_sample_that_is_not_finite_takes_no_part_and_is_flagged(values):
    net, _, x, y = problem(scale=0.5, backward="backward" in values)
    options = ep.EquilibriumPropagation(nonlinearity="relu", sides=2, tolerance=1.0, free_steps=100, **values)
    net.weights[0][0] = 1.0
    x[2] = 1.7e308  # whose drives overflow
    update = ep.equilibrium_update(net, x, y, options)
    assert list(np.flatnonzero(update.diverged)) == [2]
    others = [0, 1, 3, 4]
    alone = ep.equilibrium_update(net, x[others], y[others], options)
    for kind in ("weights", "biases", "backward"):
        for part, full in zip(getattr(alone, kind) or [], getattr(update, kind) or [], strict=True):
            assert np.allclose(full, part * 4 / 5, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("form", ["hopfield", "gaussian"])
def test_targets_beyond_the_range_of_the_rates_are_for_energies_alone(form):
    """The prototypical form refuses them (below); voltages are not bounded."""
    net, options, x, y = problem(form=form, nonlinearity="sigmoid", free_steps=100)
    update = ep.equilibrium_update(net, x, y + 5.0, options)
    assert not update.diverged.any()


def test_samples_that_still_move_are_known_without_a_tolerance():
    net, options, x, y = problem(count=30, scale=0.5, free_steps=6)
    free = ep.free_phase(net, x, options, record=True)
    assert free.settled is None
    speeds = np.max([np.abs(p[-1] - p[-2]).max(axis=1) for p in free.trajectory], axis=0)
    assert np.array_equal(free.speeds, speeds)
    assert free.moving.any()
    assert not free.moving.all()
    assert np.array_equal(free.moving, speeds > ep.MOVING)
    assert np.array_equal(ep.equilibrium_update(net, x, y, options).diverged, free.moving)
    hopfield = ep.EquilibriumPropagation(form="hopfield", free_steps=6, dt=0.2, tau=2.0)
    free = ep.free_phase(net, x, hopfield, record=True)
    speeds = np.max([np.abs(p[-1] - p[-2]).max(axis=1) for p in free.trajectory], axis=0)
    assert np.allclose(free.speeds, speeds / 0.1, rtol=1e-12)


def test_continual_learning_with_a_vanishing_rate_adds_up_to_the_update_of_the_phases():
    net, options, x, y = problem(beta=0.2, free_steps=500, nudged_steps=8, scale=0.4)
    steps = continual_updates(net, x, y, options, learning_rate=1e-12)
    update = ep.equilibrium_update(net, x, y, options)
    for i, w in enumerate(update.weights):
        assert np.allclose(sum(step.weights[i] for step in steps), w, atol=1e-10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ep.EquilibriumPropagation(beta=0.0), "finite number other than"),
        (lambda: ep.EquilibriumPropagation(form="hopfeild"), "'hopfield'"),
        (lambda: ep.EquilibriumPropagation(dt=0.1), "has no meaning for form = 'prototypical'"),
        (lambda: ep.EquilibriumPropagation(form="hopfield", dt=2.0), "choose dt <= tau"),
        (lambda: ep.EquilibriumPropagation(form="hopfield", backward="separate"), "symmetric weights"),
        (lambda: ep.EquilibriumPropagation(same_update=True), "leave it out"),
        (lambda: updated(5.0), "would drive them out of range"),
        (lambda: updated(0.5, backward="separate"), "needs network.backward"),
        (lambda: updated(0.5, initial=[np.zeros(3)]), "list of 3 arrays"),
        (lambda: continual_updates(*pair(sides=2), learning_rate=0.1), "set sides = 1"),
        (lambda: newton.equilibrium(*pair(form="gaussian")[:2], pair(form="gaussian")[3]), "needs no solver"),
    ],
)
def test_bad_input_is_refused_with_its_reason(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def pair(**values):
    net, options, x, y = problem(**values)
    return net, x, y, options


def updated(target, initial=None, **values):
    net, x, y, _ = pair()
    options = ep.EquilibriumPropagation(nonlinearity="sigmoid", **values)
    return ep.equilibrium_update(net, x, np.full_like(y, target), options, initial=initial)
