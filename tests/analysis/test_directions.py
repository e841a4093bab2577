"""Reference updates: against plain NumPy with whole Jacobians, matrices against products, degenerate networks."""

import itertools

import numpy as np
import oracle_analysis
import pytest
from problems import NETWORKS, inputs, parameters, probabilities, relative_deviation

import dfc_numba as dfc
from dfc_numba.analysis import least_norm
from dfc_numba.analysis.directions import reference_update
from dfc_numba.model import jacobian
from dfc_numba.support import memory

METHODS = {
    "bp": {"kind": "bp"},
    "gn": {"kind": "gn"},
    "gn damped": {"kind": "gn", "damping": 0.3},
    "gn minibatch": {"kind": "gn", "per": "minibatch"},
    "gn minibatch damped": {"kind": "gn", "per": "minibatch", "damping": 0.3},
    "mn": {"kind": "mn"},
    "mn damped": {"kind": "mn", "damping": 0.3},
    "mn nonlinear": {"kind": "mn", "nonlinear": True, "step": 0.2},
}
SAMPLES = 5


def problem(name="tanh", **options):
    """A network, inputs, targets."""
    net = dfc.Network(**NETWORKS[name], **options)
    return net, inputs(SAMPLES, net.sizes[0]), probabilities(SAMPLES, net.sizes[-1])


def dead_output(hidden="tanh"):
    """A network whose output layer is rectified; its first unit is dead for every sample."""
    arguments = parameters([6, 8, 7, 4])
    arguments["biases"][-1][0] = -100.0
    net = dfc.Network(**arguments | {"hidden_activation": hidden}, output_activation="relu")
    return net, inputs(SAMPLES, 6), probabilities(SAMPLES, 4)


def arrays(update):
    return [*update.weights, *(update.biases or [])]


def deviation(ours, theirs):
    """The largest one, relative to the largest number of the update (absolute where all are 0)."""
    pairs = zip(arrays(ours), arrays(theirs), strict=True)
    scale = max(np.abs(array).max() for array in arrays(theirs))
    return max(np.abs(a - b).max() for a, b in pairs) / (scale or 1.0)


def same_bits(one, other):
    return all(np.array_equal(a, b) for a, b in zip(arrays(one), arrays(other), strict=True))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", NETWORKS)
def test_reference_updates_are_those_of_whole_jacobians(network, method):
    net, x, y = problem(network)
    for loss in ("mse", "cross_entropy"):
        arguments = {**METHODS[method], "loss": loss}
        expected = oracle_analysis.reference_update(net, x, y, **arguments)
        assert deviation(reference_update(net, x, y, **arguments), expected) < 1e-11


def test_the_rates_below_can_be_given():
    net, x, y = problem()
    rates = [inputs(SAMPLES, n, seed=9) for n in (8, 7)]
    ours, expected = (
        f(net, x, y, "mn", presynaptic=rates) for f in (reference_update, oracle_analysis.reference_update)
    )
    assert deviation(ours, expected) < 1e-12


def test_every_kind_is_proportional_to_the_step_and_descends():
    net, x, y = problem()
    for kind in ("bp", "gn", "mn"):
        small, large = (reference_update(net, x, y, kind, step=step) for step in (0.5, 1.0))
        assert deviation(large, reference_update(net, x, y, kind)) == 0
        assert all(
            np.allclose(2 * a, b, rtol=1e-13, atol=0)
            for a, b in zip(arrays(small), arrays(large), strict=True)
        )
        moved = net.copy()
        for weight, change in zip(moved.weights, large.weights, strict=True):
            weight += 1e-3 * change
        assert np.sum((moved.predict(x) - y) ** 2) < np.sum((net.predict(x) - y) ** 2)


def test_gauss_newton_of_a_minibatch_moves_every_output_by_its_step():
    """To first order: the error of a step shortened to a tenth falls to a hundredth."""
    net, x, y = problem()
    remaining = []
    for step in (1e-3, 1e-4):
        update, moved = reference_update(net, x, y, "gn", per="minibatch", step=step), net.copy()
        for old, change in zip([*moved.weights, *moved.biases], arrays(update), strict=True):
            old += change
        target = dfc.output_target(net, x, y, step=step)
        remaining.append(np.linalg.norm(moved.predict(x) - target))
    assert 80 < remaining[0] / remaining[1] < 120


# ------------------------------------------------------------------------------------------------ matrix-free


@pytest.mark.parametrize("kind, per", [("gn", "sample"), ("gn", "minibatch"), ("mn", "sample")])
@pytest.mark.parametrize("damping", [0.0, 1e-3, 10.0])
def test_solvers_by_matrices_and_by_products_agree(kind, per, damping):
    for net, x, y in (problem(), problem("without biases"), problem("one output"), dead_output()):
        found = [
            reference_update(net, x, y, kind, per=per, damping=damping, solver=solver)
            for solver in least_norm.SOLVERS
        ]
        assert deviation(found[1], found[0]) < 1e-9


def test_a_search_that_does_not_end_is_reported(monkeypatch):
    monkeypatch.setattr(least_norm, "MOST_STEPS", 0.1)
    with pytest.raises(np.linalg.LinAlgError, match="has not converged after .* damping > 0, fewer samples"):
        reference_update(*problem(), "mn", solver="matrix_free")


@pytest.mark.parametrize(
    "kind, per, size", [("gn", "minibatch", "160 x 160"), ("mn", "sample", "one sample")]
)
def test_what_does_not_fit_says_how_much_it_needs_and_what_does_without(monkeypatch, kind, per, size):
    monkeypatch.setattr(least_norm, "WHOLE_BYTES", 0)
    net, x, y = dfc.Network(**NETWORKS["tanh"]), inputs(40, 6), probabilities(40, 4)
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    with pytest.raises(MemoryError, match=rf"{size}.* needs .* kB, .*solver=\"matrix_free\""):
        reference_update(net, x, y, kind, per=per)
    assert np.isfinite(reference_update(net, x, y, kind, per=per, solver="matrix_free").weights[0]).all()


# ------------------------------------------------------------------------------------------------ degenerate networks


@pytest.mark.parametrize("damping", [0.0, 0.1])
def test_dead_outputs_leave_the_others_what_the_pseudoinverse_gives(damping):
    net, x, y = dead_output()
    jacobians = dfc.output_jacobian(net, x)
    assert not jacobians[:, 0].any()
    delta = dfc.output_target(net, x, y, step=1.0) - net.predict(x)
    changes = [oracle_analysis.inverse(j, damping) @ d for j, d in zip(jacobians, delta, strict=True)]
    factors = np.split(np.array(changes), np.cumsum(net.sizes[1:])[:-1], axis=1)
    update = reference_update(net, x, y, "mn", damping=damping)
    below = [x, *net.forward(x).r[:-1]]
    for weight, factor, rates in zip(update.weights, factors, below, strict=True):
        assert relative_deviation(weight, factor.T @ rates / SAMPLES) < 1e-12


@pytest.mark.parametrize("method", METHODS)
def test_a_network_without_any_slope_gets_no_update(method):
    arguments = parameters([6, 8, 4])
    arguments["biases"][-1][:] = -100.0
    net = dfc.Network(**arguments, output_activation="relu")
    update = reference_update(net, inputs(SAMPLES, 6), probabilities(SAMPLES, 4), **METHODS[method])
    assert not any(array.any() for array in arrays(update))


def test_inputs_that_are_zero_change_no_weight():
    net, x, y = problem("without biases")
    x[0] = 0.0
    for kind in ("gn", "mn"):
        ours = reference_update(net, x, y, kind)
        assert deviation(ours, oracle_analysis.reference_update(net, x, y, kind)) < 1e-12
    assert not reference_update(net, 0 * x, y, "gn").weights[0].any()


def minibatch_solutions(monkeypatch, net, x, y, damping=0.0):
    """Gauss-Newton of a minibatch by J_W as a whole, by its matrix of Gram, and by products."""
    arguments = {"kind": "gn", "per": "minibatch", "damping": damping}
    yield reference_update(net, x, y, **arguments)
    with monkeypatch.context() as patch:
        patch.setattr(least_norm, "WHOLE_BYTES", 0)
        yield reference_update(net, x, y, **arguments)
    yield reference_update(net, x, y, solver="matrix_free", **arguments)


@pytest.mark.parametrize("damping", [0.0, 0.3])
@pytest.mark.parametrize("network", NETWORKS)
def test_all_ways_to_solve_for_a_minibatch_agree(monkeypatch, network, damping):
    """A matrix of Gram has half the digits where it is singular."""
    net, x, y = problem(network)
    expected, *others = minibatch_solutions(monkeypatch, net, x, y, damping)
    assert all(deviation(other, expected) < 1e-9 for other in others)


@pytest.mark.parametrize("seed", range(12))
def test_a_sample_with_several_targets_gets_their_mean(monkeypatch, seed):
    """The matrix of Gram is singular, which rounding hides from a Cholesky factor for some of these networks."""
    net, x, y = dfc.Network(**parameters([4, 5, 1], seed)), inputs(4, 4, seed + 1), inputs(4, 1, seed + 2)
    means = np.stack([y[:3].mean(axis=0), y[3]])
    expected = reference_update(net, x[[0, 3]], means, "gn", per="minibatch")
    for update in minibatch_solutions(monkeypatch, net, x[[0, 0, 0, 3]], y):
        assert deviation(update, expected) < 1e-9


# ------------------------------------------------------------------------------------------------ numbers and arguments


@pytest.mark.parametrize("method", METHODS)
def test_float32_networks_are_measured_in_float64(method):
    net, x, y = problem(dtype="float32")
    ours, expected = (
        reference_update(one, x, y, **METHODS[method]) for one in (net, net.copy(dtype="float64"))
    )
    assert arrays(ours)[0].dtype == np.float64 and deviation(ours, expected) < 1e-12


def test_neither_threads_nor_pieces_change_a_bit(monkeypatch):
    net, x, y = problem()
    for method, solver in itertools.product(("gn", "mn damped", "gn minibatch"), least_norm.SOLVERS):
        arguments = {**METHODS[method], "solver": solver}
        expected = reference_update(net, x, y, **arguments)
        with dfc.limit_threads(1):
            assert same_bits(reference_update(net, x, y, **arguments), expected)
        with monkeypatch.context() as patch:
            patch.setattr(jacobian, "PIECE_BYTES", 1)
            assert same_bits(reference_update(net, x, y, **arguments), expected)


@pytest.mark.parametrize(
    "kind, arguments, message",
    [
        ("bq", {}, "kind is 'bq'; allowed are 'bp', 'gn', 'mn'"),
        ("bp", {"damping": 0.1}, "damping has no meaning for 'bp', only for 'gn' and 'mn'"),
        ("bp", {"solver": "matrix_free"}, "solver has no meaning for 'bp'"),
        ("mn", {"per": "minibatch"}, "per has no meaning for 'mn', only for 'gn'"),
        ("gn", {"nonlinear": True}, "nonlinear has no meaning for 'gn', only for 'mn'"),
        ("gn", {"presynaptic": []}, "presynaptic has no meaning for 'gn'"),
        ("mn", {"presynaptic": [np.ones((5, 8))]}, "the rates of the 2 hidden layers"),
        ("mn", {"presynaptic": [np.ones((5, 8)), np.ones((4, 7))]}, r"presynaptic\[1\] has shape \(4, 7\)"),
        ("mn", {"damping": -1.0}, "damping is -1.0"),
        ("mn", {"step": 0.0}, "step is 0.0"),
        ("mn", {"loss": "cross"}, "loss is 'cross'"),
        ("mn", {"solver": "sparse"}, "solver is 'sparse'"),
    ],
)
def test_what_a_kind_cannot_honour_is_refused(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        reference_update(*problem(), kind, **arguments)
