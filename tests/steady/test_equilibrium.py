"""The linearised steady state and the output Jacobian: what defines them, and what is refused."""

import numpy as np
import pytest
from problems import inputs, label, parameters, relative_deviation, stable_parameters

import dfc_numba as dfc

SIZES, SAMPLES = [4, 6, 5, 3], 7
ACTIVATIONS = ["linear", "tanh", "relu", "leakyrelu", "sigmoid"]
KINDS = [
    {"alpha": 0.2},
    {"alpha": 0.0, "k_p": 0.5},
    {"alpha": 0.2, "k_p": 0.5, "leak": "integral"},
    {"alpha": 0.2, "jacobian_feedback": True},
]


def problem(activation="tanh", dtype=np.float64, sizes=SIZES):
    net = dfc.Network(**stable_parameters(sizes, activation=activation, dtype=dtype))
    net.feedback[0] *= 1.3
    x = inputs(SAMPLES, sizes[0])
    return net, x, net.predict(x, dtype="float64") + 0.2 * inputs(SAMPLES, sizes[-1], seed=5)


def feedback(net, x, c):
    """(B or 1, sum n_i, n_L)."""
    jacobian = dfc.output_jacobian(net, x)
    return (
        jacobian.transpose(0, 2, 1)
        if c.jacobian_feedback
        else np.concatenate(net.feedback)[None].astype(float)
    )


def leak(c):
    return c.alpha / (1 + c.alpha * c.k_p) if c.leak == "integral" else c.alpha


@pytest.mark.parametrize("options", KINDS, ids=label)
def test_a_linear_network_is_at_rest_in_its_steady_state(options):
    net, x, target = problem("linear")
    c = dfc.Controller(**options)
    steady = dfc.steady_state(net, x, target, c)
    assert relative_deviation(leak(c) * steady.u, target - steady.r[-1], floor=1.0) < 1e-14
    assert steady.residual.max() < 1e-14 and steady.converged.all()


@pytest.mark.parametrize("options", [{"k_p": 0.0}, {"k_p": 0.5}, {"k_p": 0.5, "leak": "integral"}], ids=label)
def test_the_simulation_of_a_linear_network_ends_in_the_steady_state(options):
    net, x, target = problem("linear")
    c = dfc.Controller(dt=0.05, steps=1500, alpha=0.2, **options)
    steady = dfc.steady_state(net, x, target, c)
    found = dfc.simulate(net, x, target, c, record=dfc.Record(every=1500))
    assert relative_deviation(found.u[-1], steady.u) < 1e-12
    for a, b in zip([*found.v, *found.r], [*steady.v, *steady.r], strict=True):
        assert relative_deviation(a[-1], b) < 1e-12


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("options", KINDS, ids=label)
def test_the_steady_state_solves_the_linearised_equations(options, activation, dtype):
    net, x, target = problem(activation, dtype)
    c = dfc.Controller(**options)
    steady = dfc.steady_state(net, x, target, c, method="linear")
    q = feedback(net, x, c)
    jq = dfc.output_jacobian(net, x) @ q
    gap = target - net.predict(x, dtype="float64")
    assert relative_deviation((jq @ steady.u[..., None])[..., 0] + leak(c) * steady.u, gap) < 1e-11
    delta_v = np.split((q @ steady.u[..., None])[..., 0], np.cumsum(SIZES[1:])[:-1], axis=1)
    below = x
    for i in range(3):
        assert relative_deviation(steady.delta_v[i], delta_v[i]) < 1e-13
        basal = below @ net.weights[i].astype(float).T + net.biases[i]
        assert relative_deviation(steady.v[i], basal + delta_v[i]) < 1e-13
        below = steady.r[i]
    assert (
        relative_deviation(
            steady.residual, np.linalg.norm(target - steady.r[-1] - leak(c) * steady.u, axis=1), floor=1.0
        )
        < 1e-14
    )


def test_names_shapes_and_types_are_those_of_the_contract():
    steady = dfc.steady_state(*problem(dtype=np.float32), dfc.Controller())
    assert steady.u.shape == (SAMPLES, 3)
    for group in (steady.v, steady.r, steady.delta_v):
        assert [a.shape for a in group] == [(SAMPLES, n) for n in SIZES[1:]] and all(
            a.dtype == float for a in group
        )
        assert all(a.flags.c_contiguous for a in group)
    assert steady.converged.shape == steady.iterations.shape == steady.residual.shape == (SAMPLES,)
    assert steady.converged.dtype == bool and (steady.iterations == 1).all()


# --- the Jacobian -------------------------------------------------------------------------------------------


def outputs_of_shifted_voltages(net, x, layer, shift):
    """r_L where `shift` is added to the voltages of one layer."""
    functions = {
        "tanh": np.tanh,
        "leakyrelu": lambda v: np.where(v > 0, v, 0.2 * v),
        "sigmoid": lambda v: 1 / (1 + np.exp(-v)),
    }
    below = x
    for i, name in enumerate([*net.hidden_activations, net.output_activation]):
        v = below @ net.weights[i].T + net.biases[i] + (shift if i == layer else 0.0)
        below = functions[name](v)
    return below


def test_the_jacobian_is_the_slope_of_the_output():
    net = dfc.Network(**parameters(SIZES, activation=["tanh", "leakyrelu"]), output_activation="sigmoid")
    x, h, columns = inputs(SAMPLES, 4), 1e-6, []
    for layer, n in enumerate(SIZES[1:]):
        for unit in np.eye(n):
            above, below = (outputs_of_shifted_voltages(net, x, layer, sign * h * unit) for sign in (1, -1))
            columns.append((above - below) / (2 * h))
    jacobian = dfc.output_jacobian(net, x)
    assert jacobian.shape == (SAMPLES, 3, 14) and jacobian.flags.c_contiguous
    assert relative_deviation(jacobian, np.stack(columns, axis=2)) < 1e-8


@pytest.mark.parametrize("sizes", [[4, 3], [4, 6, 3]])
def test_the_jacobian_of_few_layers(sizes):
    net, x, _ = problem(sizes=sizes)
    jacobian = dfc.output_jacobian(net, x)
    assert jacobian.shape == (SAMPLES, 3, sum(sizes[1:]))
    assert np.array_equal(jacobian[:, :, -3:], np.broadcast_to(np.eye(3), (SAMPLES, 3, 3)))


def test_the_jacobian_is_float64_whatever_the_network():
    net, x, _ = problem(dtype=np.float32)
    jacobian = dfc.output_jacobian(net, x)
    assert jacobian.dtype == np.float64
    assert relative_deviation(jacobian, dfc.output_jacobian(net.copy(dtype="float64"), x)) < 1e-14


# --- what is refused ----------------------------------------------------------------------------------------


def test_a_singular_system_names_sample_rank_and_remedy():
    net, x, target = problem()
    for q in net.feedback:
        q[:, 0] = 0
    with pytest.raises(
        ValueError, match=r"J Q \+ alpha I is singular \(sample 0: rank 2 of 3\).*use alpha > 0 or other"
    ):
        dfc.steady_state(net, x, target, dfc.Controller(alpha=0))
    assert dfc.steady_state(net, x, target, dfc.Controller(alpha=0.1)).converged.all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"network": None}, TypeError, "network must be a Network, not None"),
        ({"x": inputs(SAMPLES, 3)}, ValueError, r"x has shape \(7, 3\); expected \(any, 4\)"),
        ({"target": inputs(2, 3)}, ValueError, r"target has shape \(2, 3\); expected \(7, 3\)"),
        ({"target": np.full((SAMPLES, 3), np.nan)}, ValueError, r"target\[0, 0\] is nan"),
        ({"controller": 3}, TypeError, "controller must be a Controller, not 3"),
        (
            {"controller": dfc.Controller(error="softmax")},
            ValueError,
            "use error='difference', Newton's method .*, or simulate",
        ),
        ({"method": "linaer"}, ValueError, "method is 'linaer'; .*did you mean 'linear'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change, error, message):
    arguments = dict(zip(("network", "x", "target"), problem(), strict=True))
    with pytest.raises(error, match=message):
        dfc.steady_state(**{**arguments, "controller": dfc.Controller(), **change})


@pytest.mark.parametrize(
    ("network", "x", "error", "message"),
    [
        (None, inputs(2, 4), TypeError, "network must be a Network"),
        (problem()[0], inputs(2, 3), ValueError, r"x has shape \(2, 3\); expected \(any, 4\)"),
        (problem()[0], np.full((2, 4), np.nan), ValueError, r"x\[0, 0\] is nan"),
    ],
)
def test_a_jacobian_of_what_does_not_fit_is_refused(network, x, error, message):
    with pytest.raises(error, match=message):
        dfc.output_jacobian(network, x)


@pytest.mark.parametrize("options", KINDS, ids=label)
def test_the_steady_state_has_the_same_bits_for_any_number_of_threads(options):
    net = dfc.Network.create([30, 200, 200, 10], hidden_activation="tanh", seed=0)
    x, target = inputs(40, 30), inputs(40, 10, seed=5)
    c, found = dfc.Controller(**options), []
    for count in (1, 2, 3):
        with dfc.limit_threads(count):
            update = dfc.forward_update(net, x, target, c, readout="analytic")
            found.append([dfc.output_jacobian(net, x), *update.weights, *update.biases])
    for others in found[1:]:
        for a, b in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(a, b)


def test_many_outputs_are_solved_without_matrices():
    net = dfc.Network.create([20, 60, 90], feedback_init="weight_product", seed=0)
    x, target = inputs(5, 20), inputs(5, 90, seed=5)
    c = dfc.Controller(alpha=0.1)
    jacobian, stacked = dfc.output_jacobian(net, x), np.concatenate(net.feedback)
    exact = np.linalg.solve(jacobian @ stacked + 0.1 * np.eye(90), (target - net.predict(x))[:, :, None])[
        :, :, 0
    ]
    assert relative_deviation(dfc.steady_state(net, x, target, c).u, exact) < 1e-10
