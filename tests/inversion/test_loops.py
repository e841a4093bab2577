"""The loops of dynamic inversion: step by step, samples apart from each other, early ends, other environments."""

import inversion_cases as cases
import numpy as np
import problems
import pytest

import dfc_numba as dfc
from dfc_numba.inversion import loops
from dfc_numba.kernels import inversion as kernel
from dfc_numba.kernels.jit import JIT_DISABLED

SIZES = [[4, 6, 3], [2, 3, 9], [3, 8, 5, 2], [2, 5, 30, 14, 13, 3]]
BOUND = {dtype: 300 * np.finfo(dtype).eps for dtype in cases.DTYPES}  # 60 steps of 5 populations
needs_compiler = pytest.mark.skipif(JIT_DISABLED, reason="the compiler is switched off")
each_dtype = pytest.mark.parametrize("dtype", cases.DTYPES)
each_nonlinearity = pytest.mark.parametrize("nonlinearity", cases.NONLINEARITIES)


def assert_close(ours, theirs, dtype):
    assert ours.dtype == dtype
    assert problems.relative_deviation(ours, theirs) <= BOUND[dtype]


def as_double(*lists):
    return [[a.astype(np.float64) for a in arrays] for arrays in lists]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@each_nonlinearity
@each_dtype
def test_sequential_loops_step_by_step(sizes, nonlinearity, dtype):
    problem = cases.random_problem(sizes, 3, dtype)
    options = {"nonlinearity": nonlinearity, "alpha": 0.02, "dt": 0.3, "steps": 60}
    errors, states = dfc.backward_errors(*problem, rule="di", trajectory=True, **options)
    w, b, slopes, (delta,) = as_double(*problem[:3], problem[3:])
    for s in range(3):
        above = delta[s]
        for i in reversed(range(len(b))):
            r_x, r_y = cases.sequential_loop(w[i + 1], b[i], slopes[i][s], above, **options)
            assert_close(states.r_x[i][:, s], r_x, dtype)
            assert_close(states.r_y[i][:, s], r_y, dtype)
            above = slopes[i][s] * r_x[-1] if nonlinearity == "linear" else r_x[-1]
            assert_close(errors[i][s], above, dtype)
    assert not states.diverged.any()


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@each_nonlinearity
@each_dtype
def test_the_single_loop_step_by_step(sizes, nonlinearity, dtype):
    weights, _, derivatives, delta = cases.random_problem(sizes, 3, dtype)
    problem = weights, cases.single_feedback(weights), derivatives, delta
    options = {"nonlinearity": nonlinearity, "alpha": 0.02, "dt": 0.3, "steps": 60}
    errors, states = dfc.backward_errors(*problem, rule="sldi", trajectory=True, **options)
    w, (b,), slopes, (delta,) = as_double(weights, problem[1:2], derivatives, [delta])
    for s in range(3):
        *r_x, r_y = cases.single_loop(w[1:], b, [slope[s] for slope in slopes], delta[s], **options)
        assert_close(states.r_y[0][:, s], r_y, dtype)
        for i, r in enumerate(r_x):
            assert_close(states.r_x[i][:, s], r, dtype)
            assert_close(errors[i][s], r[-1], dtype)


@pytest.mark.parametrize("rule", ["di", "sldi"])
def test_a_trajectory_begins_at_zero_and_ends_in_the_errors(rule):
    weights, feedback, derivatives, delta = cases.random_problem([3, 8, 5, 2], 21)
    matrices = feedback if rule == "di" else cases.single_feedback(weights)
    call = {"rule": rule, "steps": 12, "phi_prime": "none"}
    errors, states = dfc.backward_errors(weights, matrices, derivatives, delta, trajectory=True, **call)
    for r in (*states.r_x, *states.r_y):
        assert r.shape[:2] == (13, 21) and not r[0].any() and r[1:].any()
    for error, r in zip(errors, states.r_x, strict=True):
        np.testing.assert_array_equal(error, r[-1])
    for error, again in zip(errors, dfc.backward_errors(weights, matrices, derivatives, delta, **call)):
        np.testing.assert_array_equal(error, again)


# --- samples and threads ------------------------------------------------------------------------------------------------


def errors_of(problem, samples, **options):
    weights, feedback, derivatives, delta = problem
    return dfc.backward_errors(
        weights, feedback, [slope[samples] for slope in derivatives], delta[samples], **options
    )


LOOPS = [("di", None), ("sldi", None), ("di", 1e-3), ("sldi", 1e-3)]


@needs_compiler
@pytest.mark.parametrize("rule, tolerance", LOOPS)
@each_nonlinearity
@each_dtype
def test_a_sample_does_not_depend_on_the_samples_beside_it(rule, tolerance, nonlinearity, dtype):
    """Whatever their number, their order, and the shards that they are in."""
    weights, feedback, derivatives, delta = cases.random_problem([3, 13, 5, 2], 70, dtype)
    delta[::3] *= 5.0
    feedback = feedback if rule == "di" else cases.single_feedback(weights)
    problem = weights, feedback, derivatives, delta
    options = {"rule": rule, "nonlinearity": nonlinearity, "steps": 100, "tolerance": tolerance}
    together = errors_of(problem, slice(None), **options)
    for chosen in (slice(4, 5), slice(1, 18), slice(None, None, -1), [3, 60, 3]):
        for alone, all_of_them in zip(errors_of(problem, chosen, **options), together, strict=True):
            np.testing.assert_array_equal(alone, all_of_them[chosen])


@needs_compiler
@pytest.mark.parametrize("count", [2, 3, 8])
@each_dtype
def test_loops_have_the_same_bits_for_any_number_of_threads(count, dtype):
    problem = cases.random_problem([3, 60, 50, 10], 150, dtype)
    assert 2 * 300 * 150 * (60 * 50 + 50 * 10) > 8 * 1e7, "worth eight threads"
    assert len(loops.shards(150, np.dtype(dtype))) > 1
    found = []
    for threads in (1, count):
        with dfc.limit_threads(threads):
            found.append(dfc.backward_errors(*problem, rule="di", steps=300))
    for one, several in zip(*found, strict=True):
        np.testing.assert_array_equal(one, several)


@pytest.mark.parametrize("dtype", [np.dtype(name) for name in cases.DTYPES], ids=str)
def test_shards_are_complete_and_even(dtype):
    for count in range(1, 200):
        pieces = loops.shards(count, dtype)
        ends = [first + n for first, n in pieces]
        assert [first for first, _ in pieces] == [0, *ends[:-1]] and ends[-1] == count
        assert min(n for _, n in pieces) > 0


# --- early ends ---------------------------------------------------------------------------------------------------------


def test_a_sample_ends_where_its_states_have_settled():
    """At the first multiple of 16 steps over which none of its states has moved by more than the tolerance."""
    weights, feedback, derivatives, delta = cases.random_problem([3, 8, 5], 40)
    delta[::2] *= np.linspace(1, 30, 20)[:, None]
    problem, tolerance = (weights, feedback, derivatives, delta), 1e-2
    options = {"rule": "di", "phi_prime": "none", "steps": 400, "nonlinearity": "tanh", "alpha": 0.05}
    (early,) = dfc.backward_errors(*problem, tolerance=tolerance, **options)
    _, states = dfc.backward_errors(*problem, trajectory=True, **options)
    both = np.concatenate([states.r_x[0], states.r_y[0]], axis=2)
    ends = []
    for s in range(40):
        change = np.abs(both[16:, s] - both[:-16, s]).max(axis=1)
        settled = change <= tolerance * np.abs(both[16:, s]).max(axis=1)
        ends.append(next((t for t in range(16, 401, 16) if settled[t - 16]), 400))
        np.testing.assert_array_equal(early[s], states.r_x[0][ends[-1], s])
    assert len(set(ends)) > 2 and min(ends) < 400


def test_what_never_settles_takes_all_steps():
    problem = cases.random_problem([3, 8, 5], 5)
    found = [dfc.backward_errors(*problem, rule="di", steps=50, tolerance=t) for t in (None, 1e-300)]
    np.testing.assert_array_equal(*[errors[0] for errors in found])


# --- other environments -------------------------------------------------------------------------------------------------


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in theirs:
        bound = BOUND["float32"] if "float32" in name else BOUND["float64"]
        assert problems.relative_deviation(ours[name], theirs[name]) <= bound, name


@needs_compiler
def test_loops_without_the_compiler_give_the_same_errors(tmp_path):
    assert_same(cases.in_another_process(tmp_path, NUMBA_DISABLE_JIT="1"), cases.results())


@pytest.mark.slow
@needs_compiler
def test_loops_stay_within_their_arrays(tmp_path):
    checks = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    assert_same(cases.in_another_process(tmp_path, **checks), cases.results())


@needs_compiler
@each_dtype
def test_one_compilation_per_dtype(dtype):
    cases.results()
    compiled = len(kernel.run_loop.signatures)
    weights, feedback, derivatives, delta = cases.random_problem([2, 4, 3, 4, 1], 9, dtype)
    frozen = delta.copy()
    frozen.flags.writeable = False
    dfc.backward_errors(weights, feedback, None, frozen, rule="di", steps=3)
    dfc.backward_errors(weights, cases.single_feedback(weights), None, delta[:1], rule="sldi", steps=1)
    assert len(kernel.run_loop.signatures) == compiled
