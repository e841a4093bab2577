"""GRAPES: factors, the update beside numerical gradients and the reference, the local form on any update, refusals."""

from dataclasses import replace

import numpy as np
import pytest
import relatives_oracle as oracle
import relatives_reference as reference

import dfc_numba as dfc
from dfc_numba.relatives.grapes import Grapes, grapes_update, modulated, responsibilities

SIZES = [6, 5, 4, 3]


def problem(rule="bp", *, bias=True, **values):
    net = dfc.Network.create(SIZES, seed=1, bias=bias)
    rng = np.random.default_rng(2)
    feedback = {
        "bp": None,
        "fa": [rng.standard_normal(shape) for shape in zip(SIZES[1:-1], SIZES[2:], strict=True)],
        "dfa": [rng.standard_normal((n, 3)) for n in SIZES[1:-1]],
    }[rule]
    return net, Grapes(rule=rule, **values), rng.standard_normal((7, 6)), rng.integers(0, 3, 7), feedback


def test_factors_are_twice_the_share_of_the_largest_sum_of_weights():
    net, *_ = problem()
    for f, w in zip(responsibilities(net.weights), net.weights[:-1], strict=True):
        assert f.max() == 2.0
        assert np.allclose(f, 2 * np.abs(w).sum(axis=1) / np.abs(w).sum(axis=1).max())
    of_senders = responsibilities(net.weights, of="senders")
    assert [len(f) for f in of_senders] == SIZES[1:-1]
    assert (of_senders[-1] == 1).all()
    assert min(f.min() for f in responsibilities(net.weights, clip=(1.0, 2.0))) >= 1.0
    assert all((f == 1).all() for f in responsibilities([0 * w for w in net.weights]))


def test_without_grapes_the_update_descends_along_the_numerical_gradient_with_dropout():
    net, options, x, y, _ = problem(form="none", keep=0.7)
    masks = [(np.random.default_rng(3).random((7, n)) < 0.7) * 1.0 for n in SIZES[1:-1]]
    update = grapes_update(net, x, y, options, masks=masks)

    def loss():
        h = x
        for w, b, mask in zip(net.weights[:-1], net.biases[:-1], masks, strict=True):
            h = np.tanh(h @ w.T + b) * mask / 0.7
        p = oracle.softmax(h @ net.weights[-1].T + net.biases[-1])
        return -np.mean(np.log(p[range(7), y]))

    for w, b, dw, db in zip(net.weights, net.biases, update.weights, update.biases, strict=True):
        assert np.allclose(-dw, oracle.numerical_gradient(loss, w), atol=1e-8)
        assert np.allclose(-db, oracle.numerical_gradient(loss, b), atol=1e-8)


@pytest.mark.parametrize("rule", ["bp", "fa"])
def test_the_local_form_scales_the_rows_of_the_plain_update(rule):
    net, options, x, y, feedback = problem(rule, form="local")
    local = grapes_update(net, x, y, options, feedback=feedback)
    plain = grapes_update(net, x, y, replace(options, form="none"), feedback=feedback)
    assert all(map(np.array_equal, local.weights, modulated(plain.weights, net.weights)))
    assert all(map(np.array_equal, local.biases, modulated(plain.biases, net.weights)))


def test_the_propagating_form_multiplies_factors_towards_the_input():
    net, options, x, y, _ = problem()
    propagating = grapes_update(net, x, y, options)
    plain = grapes_update(net, x, y, replace(options, form="none"))
    assert np.allclose(propagating.deltas[1], plain.deltas[1] * propagating.factors[1])
    assert not np.allclose(propagating.deltas[0], plain.deltas[0] * propagating.factors[0])


def test_direct_feedback_alignment_with_one_hidden_layer_is_left_as_it_is():
    net = dfc.Network.create([4, 5, 3], seed=0)
    rng = np.random.default_rng(1)
    x, y, feedback = rng.standard_normal((6, 4)), rng.integers(0, 3, 6), [rng.standard_normal((5, 3))]
    with_factors = grapes_update(net, x, y, Grapes(rule="dfa"), feedback=feedback)
    without = grapes_update(net, x, y, Grapes(rule="dfa", form="none"), feedback=feedback)
    assert all(map(np.array_equal, with_factors.weights, without.weights))


def test_the_published_look_ahead_that_never_looks_ahead_differs_from_ours():
    """In the published code "NAG" from the command line is plain momentum: a string is compared by identity."""
    (path,) = [path for path in reference.shipped("grapes") if "nag" in path.stem]
    arrays, parameters = reference.read(path)
    results = reference.module("grapes").results
    slip = results(arrays, {**parameters, "optimizer": "mom"})
    ours = results(arrays, parameters)
    assert np.allclose(ours["step3_W1"], arrays["step3_W1"], atol=1e-12)
    assert not np.allclose(slip["step3_W1"], arrays["step3_W1"], atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Grapes(clip=(2.0, 1.0)), "low <= high"),
        (lambda: Grapes(keep=0.0), "keep is 0.0"),
        (lambda: Grapes(form="locale"), "'local'"),
        (lambda: updated("fa", feedback=None), "needs feedback"),
        (lambda: updated("bp", feedback=[np.zeros((5, 4))]), "has no feedback"),
        (lambda: updated("bp", keep=0.5), "pass masks"),
        (lambda: updated("bp", masks=[np.full((7, 5), 0.5), np.ones((7, 4))]), "numbers other than 0 and 1"),
    ],
)
def test_bad_input_is_refused_with_its_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def updated(rule, *, feedback="own", masks=None, **values):
    net, options, x, y, own = problem(rule, **values)
    given = own if isinstance(feedback, str) else feedback
    return grapes_update(net, x, y, options, feedback=given, masks=masks)
