"""Angles between updates, and how fast updates take the loss down."""

from types import SimpleNamespace

import numpy as np
import oracle
import oracle_analysis
import pytest
from problems import inputs, parameters, probabilities

import dfc_numba as dfc
from dfc_numba.analysis.alignment import alignment, angle, loss_decrease
from dfc_numba.analysis.directions import reference_update
from dfc_numba.learning import baselines

NET = dfc.Network(**parameters([6, 8, 7, 4]))
X, Y = inputs(5, 6), probabilities(5, 4)
BP, MN = (reference_update(NET, X, Y, kind) for kind in ("bp", "mn"))


def scaled(update, factor, *, layers=(0, 1, 2)):
    """The update with some layers multiplied by a factor, the others as they are."""
    kinds = (update.weights, update.biases)
    return dfc.ForwardUpdate(
        *([factor * a if i in layers else a for i, a in enumerate(kind)] for kind in kinds)
    )


def numbers(found):
    return np.hstack([found.weights, found.biases, found.layers, found.total, found.total_weights])


def test_the_angles_are_those_of_the_cosines():
    ours, expected = alignment(MN, BP), oracle_analysis.alignment(MN, BP)
    np.testing.assert_allclose(numbers(ours), numbers(expected), rtol=1e-12)
    assert ours.total != ours.total_weights


def test_networks_without_biases_have_angles_of_weights_alone():
    net = dfc.Network(**parameters([6, 8, 4], bias=False))
    a, b = (reference_update(net, X, Y, kind) for kind in ("bp", "mn"))
    found = alignment(a, b)
    assert (
        found.biases is None
        and np.array_equal(found.weights, found.layers)
        and found.total == found.total_weights
    )


@pytest.mark.parametrize("factor, degrees", [(3.0, 0.0), (1e-200, 0.0), (1e200, 0.0), (-2.0, 180.0)])
def test_length_does_not_count_but_sense_does(factor, degrees):
    np.testing.assert_allclose(
        numbers(alignment(scaled(BP, factor), BP)), degrees, atol=1e-6 if degrees else 1e-13
    )


@pytest.mark.parametrize("small", [1e-3, 1e-7, 1e-12])
def test_small_angles_have_their_digits(small):
    """Which the arc cosine has not: cos(1e-12) is 1 in float64."""
    assert angle([[1.0], [0.0]], [[np.cos(small)], [np.sin(small)]]) == pytest.approx(
        np.degrees(small), rel=1e-3
    )


@pytest.mark.parametrize("factor", [0.0, np.nan, np.inf])
def test_layers_that_do_not_change_have_no_angle(factor):
    with np.errstate(invalid="ignore"):
        broken = scaled(BP, factor, layers=(1,))
    for found in (alignment(broken, BP), alignment(BP, broken)):
        assert np.isnan([found.weights[1], found.biases[1], found.layers[1]]).all()
        assert np.isfinite(found.weights[[0, 2]]).all()
        assert np.isnan(found.total) == (factor != 0)


def test_updates_of_different_networks_are_refused():
    without = SimpleNamespace(weights=BP.weights, biases=None)
    with pytest.raises(ValueError, match="biases"):
        alignment(BP, without)
    with pytest.raises(ValueError, match="shapes"):
        alignment(BP, SimpleNamespace(weights=BP.weights[::-1], biases=BP.biases))


@pytest.mark.parametrize("other", [dfc.FeedbackUpdate(BP.weights), BP.weights, None])
def test_something_else_than_forward_updates_is_refused(other):
    calls = [
        lambda: alignment(BP, other),
        lambda: alignment(other, BP),
        lambda: loss_decrease(NET, X, Y, other),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=f"of the forward weights.* not a {type(other).__name__}"):
            call()


def test_backpropagation_is_the_negative_gradient_and_nothing_falls_faster():
    for loss in ("mse", "cross_entropy"):
        gradient = baselines.backpropagation(NET, X, Y, loss=loss)
        norm = np.sqrt(sum(np.sum(array**2) for array in (*gradient.weights, *gradient.biases)))
        uphill = SimpleNamespace(weights=gradient.weights, biases=gradient.biases)
        descent = reference_update(NET, X, Y, "bp", loss=loss)
        assert loss_decrease(NET, X, Y, descent, loss=loss) == pytest.approx(norm, rel=1e-13)
        assert loss_decrease(NET, X, Y, uphill, loss=loss) == pytest.approx(-norm, rel=1e-13)
        others = [reference_update(NET, X, Y, kind, loss=loss) for kind in ("gn", "mn")]
        assert all(0 < loss_decrease(NET, X, Y, update, loss=loss) < norm for update in others)


def test_a_step_that_is_taken_tends_to_the_first_order():
    slope = loss_decrease(NET, X, Y, MN)
    errors = [loss_decrease(NET, X, Y, MN, step=step) - slope for step in (1e-2, 1e-3, 1e-4)]
    assert np.allclose(np.divide(errors[:-1], errors[1:]), 10, rtol=0.1)
    moved = NET.copy()
    length = np.sqrt(sum(np.sum(array**2) for array in (*MN.weights, *MN.biases)))
    for parameter, change in zip([*moved.weights, *moved.biases], [*MN.weights, *MN.biases], strict=True):
        parameter += 0.5 * change / length
    before, after = (oracle.mean_loss(net.predict(X), Y, "mse") for net in (NET, moved))
    assert loss_decrease(NET, X, Y, MN, step=0.5) == pytest.approx((before - after) / 0.5, rel=1e-12)


@pytest.mark.parametrize("step", [None, 0.1])
@pytest.mark.parametrize("factor", [1e-300, 1e-170, 1e170, 1e300])
def test_the_decrease_does_not_depend_on_the_length_of_the_update(factor, step):
    """Whose square may under- or overflow."""
    expected = loss_decrease(NET, X, Y, MN, step=step)
    assert loss_decrease(NET, X, Y, scaled(MN, factor), step=step) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("step", [None, 0.1])
@pytest.mark.parametrize("factor", [0.0, np.nan, np.inf])
def test_no_update_no_decrease(factor, step):
    assert np.isnan(loss_decrease(NET, X, Y, scaled(BP, factor), step=step))


def test_a_step_needs_a_length_above_zero():
    with pytest.raises(ValueError, match="step is 0.0"):
        loss_decrease(NET, X, Y, BP, step=0.0)
