"""Feedback matrices of dynamic inversion: their kinds, the descent towards stability and its end, networks."""

import numpy as np
import pytest
from reference_files import RESOURCES

import dfc_numba as dfc
from dfc_numba.inversion.feedback import (
    excess_and_gradient,
    initial_feedback,
    restabilised_feedback,
    stabilised_feedback,
)
from dfc_numba.inversion.loop_stability import feedback_loops, inversion_stability

SIZES = (5, 4, 3, 2)


def weights(sizes=SIZES, seed=0, scale=0.5):
    rng = np.random.default_rng(seed)
    return [scale * rng.normal(size=(n, m)) for m, n in zip(sizes[:-1], sizes[1:], strict=True)]


def unstable(sizes=SIZES, loop="sequential", seed=1):
    """W and feedback that grow in every loop: W^T."""
    w = weights(sizes, seed)
    return w, initial_feedback(w, "transpose", scale=1.0, loop=loop)


# --- kinds -----------------------------------------------------------------------------------------------


def test_random_feedback_is_uniform_and_drawn_from_its_seed():
    w = weights((3, 60, 50))
    (b,) = initial_feedback(w, "random", seed=[3, 1], bound=0.2)
    assert b.shape == (60, 50) and 0.19 < np.abs(b).max() <= 0.2 and abs(b.mean()) < 0.01
    assert np.array_equal(b, initial_feedback(w, "random", seed=[3, 1], bound=0.2)[0])
    assert not np.array_equal(b, initial_feedback(w, "random", seed=[4, 1], bound=0.2)[0])


def test_transposed_feedback_leads_from_layer_to_layer_or_from_the_output_to_the_first():
    w = weights()
    for b, above in zip(initial_feedback(w, "transpose", scale=-50.0), w[1:], strict=True):
        assert np.array_equal(b, -50 * above.T)
    (b,) = initial_feedback(w, "transpose", loop="single")
    np.testing.assert_allclose(b, -(w[1].T @ w[2].T), rtol=1e-15)


@pytest.mark.parametrize("loop", ["sequential", "single"])
def test_stable_feedback_is_stable(loop):
    w = weights(scale=0.05)
    b = initial_feedback(w, "stable", loop=loop, bound=0.01, rate=0.5, iterations=2000)
    assert inversion_stability(w, b, loop=loop).stable
    assert not np.allclose(b[0], initial_feedback(w, "random", loop=loop, bound=0.01)[0])


# --- the descent -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dt", [None, 0.3])
@pytest.mark.parametrize(
    ("sizes", "loop"),
    [((4, 3), "sequential"), ((3, 5), "sequential"), ((4, 3, 5), "single"), ((5, 2, 4, 3), "single")],
)
def test_the_gradient_is_that_of_finite_differences(sizes, loop, dt):
    w = weights((2, *sizes), scale=1.0)
    b = np.random.default_rng(7).normal(size=(sizes[0], sizes[-1]))

    def excess(matrix):
        return excess_and_gradient(feedback_loops(w, [matrix], alpha=0.1, loop=loop)[0], dt)

    found, gradient = excess(b)
    exact = inversion_stability(w, [b], 0.1, dt or 0.5, loop)
    assert found == pytest.approx(exact.abscissa[0] if dt is None else exact.radius[0] - 1)
    for index in np.ndindex(b.shape):
        step = np.zeros_like(b)
        step[index] = 1e-5
        assert gradient[index] == pytest.approx((excess(b + step)[0] - excess(b - step)[0]) / 2e-5, abs=1e-7)


@pytest.mark.parametrize("rate", ["0.05", "0.5"])
def test_ten_iterations_of_the_published_optimiser(rate):
    arrays = np.load(RESOURCES / "inversion" / "training" / "08_stability.npz")
    w, theirs = [np.zeros((20, 1)), arrays["ssa_W"]], arrays[f"ssa_B__lr{rate}"]
    for b, iterations in zip(theirs, (0, 5, 10), strict=True):
        (found,) = stabilised_feedback(w, [arrays["ssa_B0"]], rate=float(rate), iterations=iterations)
        assert np.abs(found.feedback - b).max() <= 1e-9 * np.abs(b).max()
        ours = np.array(found.excess)
        assert np.abs(ours - arrays[f"ssa_s__lr{rate}"][: iterations + 1]).max() <= 1e-9 * np.abs(ours).max()


@pytest.mark.parametrize("dt", [None, 0.5])
@pytest.mark.parametrize("loop", ["sequential", "single"])
def test_the_descent_stops_beyond_the_border_of_stability(loop, dt):
    w, b = unstable(loop=loop)
    for found in stabilised_feedback(w, b, loop=loop, dt=dt, rate=0.05, iterations=1000):
        assert found.stable and found.excess[-1] <= -0.01 < min(found.excess[:-1])
        assert len(found.excess) > 20  # a 20th of the iterations at least, and the one that it starts from


def test_stabilisation_ends_after_its_iterations():
    w, b = unstable((2, 4, 3))
    (found,) = stabilised_feedback(w, b, rate=1e-9, iterations=7)
    assert not found.stable and len(found.excess) == 8
    with pytest.raises(RuntimeError, match="loop 1 is not stable after 7 iterations; try more"):
        restabilised_feedback(w, b, rate=1e-9, iterations=7)


@pytest.mark.parametrize(
    ("w", "b", "stable"),
    [
        ([[1.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]], False),  # what B sees, W does not reach
        ([[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]], True),  # B sees nothing
        ([[1.0]], [[-0.25]], True),  # two modes are one, at lambda = -1/2
    ],
)
def test_stabilisation_ends_where_the_critical_mode_has_no_gradient(w, b, stable):
    w, b = np.array(w), np.array(b)
    (found,) = stabilised_feedback([np.zeros((len(w), 1)), w], [b], iterations=50)
    assert found.stable == stable and np.array_equal(found.feedback, b) and len(found.excess) == 1


def test_stabilisation_changes_unstable_loops_only():
    w, grows = unstable()
    calm = initial_feedback(w, "transpose", scale=-0.1)
    for i in range(len(calm)):
        given = [*calm[:i], grows[i], *calm[i + 1 :]]
        found = restabilised_feedback(w, given, rate=0.05, iterations=1000)
        assert [b is g for b, g in zip(found, given, strict=True)] == [j != i for j in range(len(calm))]
        assert found[i].shape == grows[i].shape and inversion_stability(w, found).stable


def test_the_published_script_stores_the_feedback_of_the_second_layer_as_that_of_the_first():
    """There the second layer stays unstable, and is optimised again and again; here one call is enough."""
    w, grows = unstable((2, 3, 3, 3))
    given = [-0.1 * w[1].T, grows[1]]
    ours = restabilised_feedback(w, given, rate=0.05, iterations=1000)
    assert inversion_stability(w, ours).stable
    theirs = [ours[1], given[1]]  # layers of one size: otherwise it does not even fit
    assert inversion_stability(w, theirs).abscissa[1] == inversion_stability(w, given).abscissa[1] > 0
    assert not np.array_equal(theirs[0], given[0])


def test_the_single_loop_is_judged_by_itself():
    """Published feedback with which each layer's own loop is stable and the single loop is not."""
    arrays = np.load(RESOURCES / "inversion" / "04_nonlinear.npz")
    w = [np.zeros((20, 1)), arrays["W1"], arrays["W2"]]
    assert inversion_stability(w, [arrays["B1_optim"], arrays["B2_optim"]]).stable
    assert not inversion_stability(w, [arrays["B_optim"]], loop="single").stable
    with pytest.raises(RuntimeError, match="loop 1 is not stable"):
        restabilised_feedback(w, [arrays["B_optim"]], loop="single", rate=0.05, iterations=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "stabel"}, "kind is 'stabel'.*did you mean 'stable'"),
        ({"loop": "both"}, "loop is 'both'"),
        ({"kind": "random", "bound": 0.0}, "bound is 0.0"),
        ({"kind": "stable", "rate": -1.0}, "rate is -1.0"),
        ({"kind": "stable", "iterations": 2.5}, "iterations is 2.5"),
    ],
)
def test_wrong_arguments_of_initial_feedback_are_refused(change, message):
    with pytest.raises((ValueError, TypeError), match=message):
        initial_feedback(**{"weights": weights(), "kind": "transpose", **change})


@pytest.mark.parametrize("dt", [None, 0.5])
def test_restabilising_has_the_defaults_of_stabilising(dt):
    w, grows = unstable((2, 4, 3))
    (ours,), (theirs,) = (
        function(w, grows, dt=dt) for function in (restabilised_feedback, stabilised_feedback)
    )
    assert theirs.stable and np.array_equal(ours, theirs.feedback)


@pytest.mark.parametrize("function", [restabilised_feedback, stabilised_feedback])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": -1.0}, "rate is -1.0"),
        ({"iterations": 2.5}, "iterations is 2.5"),
        ({"dt": 0.0}, "dt is 0.0"),
    ],
)
def test_options_are_refused_whether_loops_are_stable_or_not(function, change, message):
    w = weights()
    with pytest.raises((ValueError, TypeError), match=message):
        function(w, initial_feedback(w, "transpose"), **change)


# --- bottlenecks and feedback that lacks rank ------------------------------------------------------------

BOTTLENECK = (4, 10, 3, 6)


def of_rank(rank, shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1]))


@pytest.mark.parametrize("dt", [None, 0.1])
def test_feedback_of_more_rank_than_a_bottleneck_needs_a_leak(dt):
    w = weights(BOTTLENECK)
    drawn = initial_feedback(w, "random", loop="single", bound=0.01)
    options = {"loop": "single", "dt": dt, "rate": 0.01, "iterations": 3000}
    (found,) = stabilised_feedback(w, drawn, **options)
    assert not found.stable and len(found.excess) == 1 and np.array_equal(found.feedback, drawn[0])
    with pytest.raises(
        RuntimeError, match="cannot become stable: it has rank 6 and the smallest layer 3 units"
    ):
        restabilised_feedback(w, drawn, **options)
    (found,) = stabilised_feedback(w, drawn, alpha=0.05, **options)
    judged = inversion_stability(w, [found.feedback], 0.05, 0.1, "single")
    assert found.stable and (judged.stable if dt is None else judged.euler_stable)


def test_stable_feedback_is_refused_where_it_cannot_be():
    w = weights(BOTTLENECK)
    with pytest.raises(RuntimeError, match="3 modes of the errors above.* choose alpha > 0"):
        initial_feedback(w, "stable", loop="single", bound=0.01, rate=0.01, iterations=3000)


def test_stabilisation_ends_where_the_leak_alone_is_critical():
    w = weights(BOTTLENECK)
    drawn = initial_feedback(w, "random", loop="single", bound=0.01)
    (found,) = stabilised_feedback(w, drawn, loop="single", alpha=0.005, iterations=1000)
    assert found.stable and found.excess[-1] == -0.005 and len(found.excess) < 1000


@pytest.mark.parametrize(
    ("sizes", "loop", "rank"),
    [(BOTTLENECK, "single", 3), ((4, 5, 3), "sequential", 2), ((4, 3, 5), "sequential", 2)],
)
def test_feedback_that_lacks_rank_becomes_stable_within_its_rows(sizes, loop, rank):
    w = weights(sizes)
    grows = 0.1 * of_rank(rank, (sizes[1], sizes[-1]))
    assert not inversion_stability(w, [grows], loop=loop).stable
    (found,) = restabilised_feedback(w, [grows], loop=loop, iterations=1000)
    assert inversion_stability(w, [found], loop=loop).stable
    assert np.linalg.matrix_rank(found) == np.linalg.matrix_rank(np.vstack([found, grows])) == rank


@pytest.mark.parametrize("dt", [None, 0.3])
def test_the_gradient_within_the_rows_is_that_of_finite_differences(dt):
    w, b = weights((2, 4, 3), scale=1.0), of_rank(2, (4, 3), seed=7)

    def excess(matrix):
        return excess_and_gradient(feedback_loops(w, [matrix])[0], dt)

    _, gradient = excess(b)
    step = 1e-5 * np.random.default_rng(1).normal(size=(4, 4)) @ b
    assert np.sum(gradient * step) == pytest.approx((excess(b + step)[0] - excess(b - step)[0]) / 2, rel=1e-6)


def test_outputs_without_weights_do_not_make_the_transpose_unstable():
    """Their errors add up, and the negative transpose shows them to no hidden layer."""
    w = weights((2, 5, 3), scale=1.0)
    w[1][2] = 0.0
    given = [-w[1].T]
    assert restabilised_feedback(w, given)[0] is given[0]


# --- networks that keep them -----------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["sequential", "single"])
def test_a_network_its_copies_and_its_file_keep_the_feedback_matrices(tmp_path, loop):
    net = dfc.Network.create([5, 4, 3, 2], seed=1, dtype="float32")
    assert net.backward is None and net.copy().backward is None
    before = net.n_parameters
    net.backward = given = initial_feedback(net.weights, "transpose", loop=loop)
    assert net.n_parameters == before + sum(b.size for b in given)
    net.save(tmp_path / "net.h5")
    for other in (net.copy(), dfc.Network.load(tmp_path / "net.h5")):
        for ours, theirs in zip(other.backward, given, strict=True):
            assert ours.dtype == np.float32 and np.array_equal(ours, theirs.astype(np.float32))
    other = net.copy()
    other.backward[0][...] = 0
    assert net.backward[0].any()


def test_feedback_of_other_shapes_is_refused():
    net = dfc.Network.create([5, 4, 3, 2])
    with pytest.raises(ValueError, match=r"backward\[0\] has shape \(4, 2\); expected \(4, 3\)"):
        net.backward = [np.ones((4, 2)), np.ones((3, 2))]
    with pytest.raises(ValueError, match="backward has 1 entries for 2 layers"):
        net.backward = [np.ones((4, 3))]
    assert net.backward is None
