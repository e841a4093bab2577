"""`backward_errors`: what the rules have in common, the factor phi', dtypes, what is refused, and what diverges."""

import inversion_cases as cases
import numpy as np
import problems
import pytest

import dfc_numba as dfc

SIZES = [3, 8, 5, 2]
RULES = ("di", "sldi", "ndi", "bp", "fa", "pbp", "dfa")
each_rule = pytest.mark.parametrize("rule", RULES)


def feedback_for(rule, weights, feedback):
    """Matrices of the shapes that a rule takes."""
    if rule == "sldi":
        return cases.single_feedback(weights)
    if rule == "dfa":
        return [np.ones((len(w), len(weights[-1])), w.dtype) for w in weights[:-1]]
    return None if rule in ("bp", "pbp") else feedback


def problem_for(rule, sizes=SIZES, count=6, dtype="float64"):
    """The positional arguments of `backward_errors` for a rule."""
    weights, feedback, derivatives, delta = cases.random_problem(sizes, count, dtype)
    return weights, feedback_for(rule, weights, feedback), derivatives, delta


def errors_of(rule, sizes=SIZES, count=6, dtype="float64", **options):
    return dfc.backward_errors(*problem_for(rule, sizes, count, dtype), rule=rule, **options)


# --- the rules ----------------------------------------------------------------------------------------------------------


def test_the_rules_by_hand():
    (_, w2, w3), (b1, b2), (d1, d2), delta = cases.random_problem(SIZES, 6)
    problem, alpha = ([np.zeros((8, 3)), w2, w3], [b1, b2], [d1, d2], delta), 0.1
    expected = {
        "bp": (w2.T, w3.T),
        "fa": (b1, b2),
        "pbp": (np.linalg.pinv(w2), np.linalg.pinv(w3)),
        "ndi": [b @ np.linalg.inv(w @ b - alpha * np.eye(len(w))) for w, b in ((w2, b1), (w3, b2))],
    }
    for rule, (to1, to2) in expected.items():
        above = d2 * (delta @ to2.T)
        found = dfc.backward_errors(*problem, rule=rule, alpha=alpha)
        for ours, theirs in zip(found, (d1 * (above @ to1.T), above), strict=True):
            assert problems.relative_deviation(ours, theirs) < 1e-12
    direct = [np.arange(16.0).reshape(8, 2), np.ones((5, 2))]
    found = dfc.backward_errors(problem[0], direct, *problem[2:], rule="dfa")
    for ours, theirs in zip(found, (d1 * (delta @ direct[0].T), d2 * (delta @ direct[1].T)), strict=True):
        assert problems.relative_deviation(ours, theirs) < 1e-14


@pytest.mark.parametrize("sizes", [[2, 9, 4], [2, 4, 9]], ids=["wide", "tall"])
def test_inversion_with_the_transpose_and_without_leak_is_the_pseudo_inverse(sizes):
    weights, _, derivatives, delta = cases.random_problem(sizes, 7)
    problem = weights, [-weights[1].T], derivatives, delta
    (exact,), (pseudo,) = (dfc.backward_errors(*problem, rule=rule) for rule in ("ndi", "pbp"))
    assert problems.relative_deviation(exact, pseudo) < 1e-12
    (dynamic,) = dfc.backward_errors(*problem, rule="di", steps=4000)
    assert problems.relative_deviation(dynamic, exact) < 1e-8


@pytest.mark.parametrize("sizes", [[2, 9, 4], [2, 4, 9], [2, 6, 6]], ids=["wide", "tall", "square"])
def test_both_forms_of_the_inversion_agree(sizes):
    """B (W B - alpha I)^{-1} = (B W - alpha I)^{-1} B."""
    (w1, w), (b,), derivatives, delta = cases.random_problem(sizes, 7)
    (ours,) = dfc.backward_errors([w1, w], [b], None, delta, rule="ndi", alpha=0.3)
    upper, lower = (np.linalg.inv(m - 0.3 * np.eye(len(m))) for m in (w @ b, b @ w))
    for matrix in (b @ upper, lower @ b):
        assert problems.relative_deviation(ours, delta @ matrix.T) < 1e-12


def test_a_singular_inversion_is_the_solution_of_least_norm():
    weights, _, derivatives, delta = cases.random_problem([2, 9, 4], 7)
    weights[1][3] = weights[1][2]
    problem = weights, [-weights[1].T], derivatives, delta
    for rule in ("ndi", "pbp"):
        (ours,) = dfc.backward_errors(*problem, rule=rule)
        theirs = derivatives[0] * (delta @ np.linalg.pinv(weights[1]).T)
        assert problems.relative_deviation(ours, theirs) < 1e-10


def test_a_singular_linearised_inversion_is_the_least_squares_solution_of_each_sample():
    """r_x = B r_y with the least r_y of those with the least |W (r_x / phi') - delta|."""
    weights, _, derivatives, delta = cases.random_problem([2, 9, 4], 7)
    weights[1][3] = weights[1][2]
    w, b = weights[1], -weights[1].T
    call = {"rule": "ndi", "nonlinearity": "linearized"}
    (ours,) = dfc.backward_errors(weights, [b], derivatives, delta, **call)
    for s, slope in enumerate(derivatives[0]):
        theirs = b @ (np.linalg.pinv((w / slope) @ b, rcond=1e-13) @ delta[s])
        assert problems.relative_deviation(ours[s], theirs) < 1e-10
    for rule, matrices in (("ndi", [b]), ("sldi", [b])):
        (same,) = dfc.backward_errors(
            weights, matrices, derivatives, delta, **{**call, "rule": rule, "steps": None}
        )
        np.testing.assert_allclose(same, ours, rtol=1e-12)


@pytest.mark.parametrize("rule", ["di", "sldi"])
@pytest.mark.parametrize("nonlinearity", cases.NONLINEARITIES)
def test_the_dynamics_end_at_rest(rule, nonlinearity):
    options = {"rule": rule, "nonlinearity": nonlinearity, "alpha": 0.05}
    for rest, end in zip(errors_of(steps=None, **options), errors_of(steps=5000, **options), strict=True):
        assert problems.relative_deviation(end, rest) < 1e-10


@pytest.mark.parametrize("nonlinearity", cases.NONLINEARITIES)
def test_sequential_rest_of_more_outputs_than_inputs(nonlinearity):
    """Solved for r_x: without leak r_y never comes to rest."""
    options = {"sizes": [2, 4, 9], "nonlinearity": nonlinearity, "alpha": 0.0}
    (exact,), (rest,) = errors_of("ndi", **options), errors_of("di", steps=None, **options)
    (end,) = errors_of("di", steps=6000, **options)
    np.testing.assert_array_equal(rest, exact)
    assert problems.relative_deviation(end, exact) < 1e-9


def test_the_single_loop_inverts_all_layers():
    """At rest and without leak the hidden layers' activity causes the error at the output."""
    weights, feedback, derivatives, delta = problem_for("sldi")
    call = {"rule": "sldi", "steps": None}
    first, second = dfc.backward_errors(weights, feedback, derivatives, delta, **call)
    assert problems.relative_deviation(first @ weights[1].T, second) < 1e-12
    assert problems.relative_deviation(second @ weights[2].T, delta) < 1e-12
    options = {**call, "nonlinearity": "linearized"}
    first, second = dfc.backward_errors(weights, feedback, derivatives, delta, **options)
    assert problems.relative_deviation((second / derivatives[1]) @ weights[2].T, delta) < 1e-12


# --- the factor phi' ------------------------------------------------------------------------------------------------------


@each_rule
def test_the_derivative_enters_where_the_rule_says(rule):
    """Once on the way down, or not at all; "sldi" never multiplies by it."""
    weights, feedback, derivatives, delta = problem_for(rule)
    once, none = (errors_of(rule, phi_prime=which) for which in ("once", "none"))
    flat = dfc.backward_errors(weights, feedback, None, delta, rule=rule)
    for a, b in zip(none, flat, strict=True):
        np.testing.assert_array_equal(a, b)
    if rule == "sldi":
        np.testing.assert_array_equal(once[1], none[1])
    else:
        np.testing.assert_allclose(once[1], derivatives[1] * none[1], rtol=1e-13)


@pytest.mark.parametrize("rule", ["di", "ndi"])
@pytest.mark.parametrize("nonlinearity", ["tanh", "linearized"])
def test_a_nonlinearity_within_the_loop_has_no_factor_outside(rule, nonlinearity):
    found = [errors_of(rule, nonlinearity=nonlinearity, phi_prime=which) for which in ("once", "none")]
    for once, none in zip(*found, strict=True):
        np.testing.assert_array_equal(once, none)


# --- arguments ------------------------------------------------------------------------------------------------------------


@each_rule
def test_float32_stays_float32(rule):
    for ours, exact in zip(errors_of(rule, dtype="float32"), errors_of(rule), strict=True):
        assert ours.dtype == np.float32 and exact.dtype == np.float64
        assert problems.relative_deviation(ours, exact) < 1e-4
    weights, feedback, derivatives, delta = problem_for(rule, dtype="float32")
    mixed = dfc.backward_errors(weights, feedback, derivatives, delta.astype(np.float64), rule=rule)
    assert all(error.dtype == np.float64 for error in mixed)


@each_rule
def test_arguments_are_not_changed_and_may_have_any_order_in_memory(rule):
    weights, feedback, derivatives, delta = problem_for(rule)
    arrays = [*weights, *derivatives, delta, *([] if feedback is None else feedback)]
    before = [a.copy() for a in arrays]
    plain = dfc.backward_errors(weights, feedback, derivatives, delta, rule=rule)
    fortran = [np.asfortranarray(w) for w in weights]
    other = dfc.backward_errors(fortran, feedback, derivatives, np.asfortranarray(delta), rule=rule)
    for a, b in zip(plain, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
        assert a.flags.c_contiguous
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)


def changed(argument, value, rule="di"):
    """The positional arguments for a rule with one of them replaced, or changed by a function."""
    arguments = list(problem_for(rule))
    where = ("weights", "feedback", "derivatives", "delta_out").index(argument)
    arguments[where] = value(arguments[where]) if callable(value) else value
    return arguments


def with_nan(arrays):
    arrays = [a.copy() for a in arrays]
    arrays[1][0, 1] = np.nan
    return arrays


BAD_ARRAYS = {
    r"weights holds 1 matrix; at least two": ("weights", lambda w: w[:1]),
    r"weights\[2\] has shape \(2, 4\); expected \(2, 5\)": ("weights", lambda w: [*w[:2], w[2][:, :4]]),
    r"weights\[1\] has shape \(5,\); expected a matrix": ("weights", lambda w: [w[0], w[1][:, 0], w[2]]),
    r"weights must be a list of matrices": ("weights", None),
    r"weights\[1\]\[0, 1\] is nan": ("weights", with_nan),
    r"rule 'di' needs feedback matrices; feedback is None": ("feedback", None),
    r"feedback holds 1 matrices; 2 are needed, of the shapes": ("feedback", lambda b: b[:1]),
    r"feedback\[1\] has shape \(2, 5\); expected \(5, 2\)": ("feedback", lambda b: [b[0], b[1].T]),
    r"feedback\[1\]\[0, 1\] is nan": ("feedback", with_nan),
    r"derivatives holds 1 arrays; 2 are needed": ("derivatives", lambda d: d[:1]),
    r"derivatives\[0\] has shape \(5, 8\); expected \(6, 8\)": ("derivatives", lambda d: [d[0][1:], d[1]]),
    r"derivatives\[1\]\[0, 1\] is nan": ("derivatives", with_nan),
    r"delta_out has shape \(6, 1\); expected \(any, 2\)": ("delta_out", lambda e: e[:, :1]),
    r"delta_out holds no sample": ("delta_out", lambda e: e[:0]),
    r"delta_out\[0, 0\] is inf": ("delta_out", lambda e: e + np.inf),
    r"delta_out must be an array of numbers": ("delta_out", "none"),
}  # fmt: skip


@pytest.mark.parametrize("message", BAD_ARRAYS)
def test_arrays_that_do_not_fit(message):
    arguments = changed(*BAD_ARRAYS[message])
    with pytest.raises((ValueError, TypeError), match=message):
        dfc.backward_errors(*arguments, rule="di")


def test_the_single_loop_takes_one_matrix():
    weights, feedback, derivatives, delta = problem_for("sldi")
    in_a_list = dfc.backward_errors(weights, [feedback], derivatives, delta, rule="sldi", steps=5)
    alone = dfc.backward_errors(weights, feedback, derivatives, delta, rule="sldi", steps=5)
    np.testing.assert_array_equal(in_a_list[0], alone[0])
    with pytest.raises(ValueError, match=r"2 matrices; 1 are needed, of the shapes \[\(8, 2\)\]"):
        dfc.backward_errors(weights, [feedback, feedback], derivatives, delta, rule="sldi")


BAD_OPTIONS = {
    "rule is 'DI'; allowed are .*did you mean 'di'": {"rule": "DI"},
    "alpha is -1": {"alpha": -1},
    "alpha is nan": {"alpha": np.nan},
    "dt is 0": {"dt": 0},
    "steps is 0; a whole number from 1": {"steps": 0},
    "steps is 2.5": {"steps": 2.5},
    "nonlinearity is 'linearised'.*did you mean 'linearized'": {"nonlinearity": "linearised"},
    "phi_prime is 'twice'": {"phi_prime": "twice"},
    "trajectory is 1; True or False": {"trajectory": 1},
    "tolerance is 0; a finite number > 0": {"tolerance": 0},
    "rule 'bp' .* has no trajectory": {"rule": "bp", "trajectory": True},
    "rule 'di' with steps=None has no trajectory": {"steps": None, "trajectory": True},
    "a trajectory holds all steps; leave out tolerance": {"tolerance": 0.1, "trajectory": True},
}


@pytest.mark.parametrize("message", BAD_OPTIONS)
def test_options_that_are_not_allowed(message):
    options = {"rule": "di", **BAD_OPTIONS[message]}
    with pytest.raises((ValueError, TypeError), match=message):
        dfc.backward_errors(*problem_for("di"), **options)


def test_a_linearised_loop_needs_derivatives_other_than_zero():
    arguments = changed("derivatives", lambda d: [d[0], np.where(d[1] > 0.9, 0.0, d[1])])
    with pytest.raises(ValueError, match=r"derivatives\[1\]\[.*is 0, and nonlinearity='linearized' divides"):
        dfc.backward_errors(*arguments, rule="di", nonlinearity="linearized")
    dfc.backward_errors(*arguments, rule="di")


def test_a_trajectory_that_does_not_fit_into_memory():
    with pytest.raises(MemoryError, match="the trajectory needs .* take fewer steps or samples"):
        errors_of("di", steps=2**31 - 1, trajectory=True)


# --- what diverges -----------------------------------------------------------------------------------------------------


def unstable(count=5):
    """The sign of the feedback is that of backpropagation; the error of sample 1 is zero and stays so."""
    weights, _, derivatives, delta = cases.random_problem([3, 8, 5, 2], count)
    delta[1] = derivatives[1][0, 0] = 0.0
    return weights, [10 * w.T for w in weights[1:]], derivatives, delta


def test_a_loop_that_overflows_is_flagged():
    with pytest.raises(
        dfc.DivergenceError, match="errors of layer 2 are not finite for 4 of 5 samples"
    ) as told:
        dfc.backward_errors(*unstable(), rule="di", steps=5000)
    assert told.value.layer == 2 and told.value.samples == (0, 2, 3, 4)


def test_the_trajectory_of_a_loop_that_overflows():
    errors, states = dfc.backward_errors(*unstable(), rule="di", steps=5000, trajectory=True)
    np.testing.assert_array_equal(states.diverged, [True, False, True, True, True])
    assert np.isfinite(states.r_x[1][:10]).all() and not np.isfinite(errors[1][0]).all()


def test_a_loop_that_grows_without_overflow_is_returned():
    (_, last) = dfc.backward_errors(*unstable(), rule="di", steps=20)
    assert np.isfinite(last).all() and np.abs(last).max() > 1e3


def test_an_inversion_without_fixed_point_is_flagged():
    """tanh shows at most 1, so that without leak no error beyond the weights' reach has one."""
    weights, feedback, derivatives, delta = problem_for("di", sizes=[2, 6, 3])
    delta[4] = 100.0
    call = {"rule": "di", "steps": None, "nonlinearity": "tanh"}
    with pytest.raises(dfc.DivergenceError, match="no state of rest was found for 1 of 6 samples") as told:
        dfc.backward_errors(weights, feedback, derivatives, delta, **call)
    assert told.value.samples == (4,)
    (error,) = dfc.backward_errors(weights, feedback, derivatives, delta, alpha=1.0, **call)
    assert np.isfinite(error).all()
