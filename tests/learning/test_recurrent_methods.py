"""Methods of a recurrent layer at equilibrium: what they flag and clip, and how GRAPES modulates them."""

import re

import numpy as np
import pytest
from test_relatives_methods import configuration, trainer

import dfc_numba as dfc
from dfc_numba.learning import method as methods
from dfc_numba.registry import METHODS
from dfc_numba.relatives import least_control

RECURRENT = ("lcp-rnn-di", "lcp-rnn-kp", "lcp-rnn-lf", "recurrent-bp")


def one_minibatch(count=4, seed=0):
    """A minibatch of 6 inputs and 3 classes."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((count, 6)), np.eye(3)[np.arange(count) % 3]
    numbers = np.arange(count)
    return methods.Minibatch(
        phase="forward", epoch=1, position=1, number=0, indices=numbers, x=x, y=y, noise=dfc.NoiseKey(0, 0, numbers)
    )  # fmt: skip


def gradients_of(name, *, network=None, minibatch=None, own=None, **more):
    """(gradients, network, own arrays) of a method for a minibatch."""
    settings = {"network.hidden": [7], "method.steps": 200, **more}
    config, method = configuration(name, **settings), METHODS.find(name, key="training.method")
    network = dfc.Network.create([6, 7, 3], seed=1, dtype="float64") if network is None else network
    own = method.arrays(network, config).together | (own or {})
    return (
        method.gradients(network, one_minibatch() if minibatch is None else minibatch, config, own),
        network,
        own,
    )


def test_samples_without_a_free_equilibrium_are_flagged_although_the_controlled_phase_rests():
    """Feedback holds unit 0, which excites itself threefold, shut in all samples; without control sample 1 opens it."""
    minibatch = one_minibatch()
    minibatch.x[:, 0], minibatch.y[:] = [-1.0, 0.01, -1.0, -1.0], [1.0, 0.0, 0.0]
    network = dfc.Network.create([6, 7, 3], seed=1, dtype="float64", hidden_activation="relu")
    network.weights[0][0] = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    recurrent, feedback = np.zeros((7, 7)), np.zeros((7, 3))
    recurrent[0, 0], feedback[0, 0] = 3.0, -1000.0
    gradients, _, _ = gradients_of(
        "lcp-rnn-lf", network=network, minibatch=minibatch, own={"W": recurrent, "Q": feedback},
        **{"method.alpha": 1.0, "method.dt": 0.5, "network.hidden_activation": "relu"},
    )  # fmt: skip
    assert gradients.flagged.tolist() == [False, True, False, False]
    assert np.isfinite(gradients.weights[0]).all()


@pytest.mark.parametrize("name", RECURRENT)
def test_phases_that_are_not_to_end_early_are_not_flagged_for_that(name):
    gradients, _, _ = gradients_of(name, own={"W": 0.3 * np.eye(7)}, **{"method.tolerance": 0.0})
    assert not gradients.flagged.any()


@pytest.mark.parametrize("name", [*RECURRENT, "lcp-di", "lcp-kp", "lcp-lf"])
def test_the_remedies_of_a_warning_are_options_of_the_method(name):
    method = METHODS.find(name, key="training.method")
    named = re.findall(r"method\.(\w+)", method.flagged)
    assert len(named) >= 2
    assert set(named) <= {option.name for option in method.options}


def test_prediction_and_flags_share_the_free_equilibrium(monkeypatch):
    calls, free = [], least_control.free_equilibrium
    monkeypatch.setattr(
        least_control, "free_equilibrium", lambda *arguments: calls.append(len(arguments[1])) or free(*arguments)
    )  # fmt: skip
    run = trainer(configuration("lcp-rnn-di", epochs=1))
    minibatch = run._take(run.schedule[0], [np.arange(32)])
    run._learn(minibatch, 1)
    assert calls == [32]


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize("bias", [True, False])
def test_an_active_clip_is_the_joint_norm_of_the_gradients(name, bias):
    network = dfc.Network.create([6, 7, 3], seed=1, dtype="float64", bias=bias)
    shared = {"network": network, "network.bias": bias}
    plain, _, _ = gradients_of(name, **shared)
    clipped, _, _ = gradients_of(name, **shared, **{"method.clip": 1e-3})
    pairs = [key for key in plain.own if key in ("S", "T")]
    assert len(pairs) == (2 if name == "lcp-rnn-kp" else 0)
    for group in (lambda g: _main(g), lambda g: [g.own[key] for key in pairs]):
        before, after = group(plain), group(clipped)
        if not before:
            continue
        norm = _joint_norm(before)
        assert norm > 1e-2
        assert _joint_norm(after) == pytest.approx(1e-3, rel=1e-6 / norm * 1.001)
        for a, b in zip(after, before, strict=True):
            assert np.allclose(a, b * 1e-3 / norm, rtol=1e-3, atol=0)
    if name == "lcp-rnn-lf":
        assert np.array_equal(plain.own["Q"], clipped.own["Q"])


def _main(gradients):
    """The gradients that are clipped together: U, b, W, b_rec, D, c."""
    own = [gradients.own[key] for key in ("W", "b_rec") if key in gradients.own]
    return [*gradients.weights, *(gradients.biases or []), *own]


def _joint_norm(arrays):
    return np.sqrt(sum(np.sum(array**2) for array in arrays))


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize(("modulation", "clip"), [("grapes", (0.0, 2.0)), ("grapes-clipped", (1.0, 2.0))])
def test_responsibilities_count_recurrent_weights_and_scale_all_arrays_of_the_layer(name, modulation, clip):
    layers = []
    for extra in ({}, {"optimizer.modulation": modulation}):
        run = trainer(configuration(name, epochs=1, **extra))
        run.optimizers["forward"].step = lambda arrays, scale: layers.append(arrays)
        run._learn(run._take(run.schedule[0], [np.arange(32)]), 1)
    plain, modulated = layers
    incoming = np.abs(run.network.weights[0]).sum(axis=1) + np.abs(run.own["W"]).sum(axis=1)
    factor = np.clip(2.0 * incoming / incoming.max(), *clip)
    bias = run.network.biases is not None
    assert [len(layer) for layer in modulated] == ([4, 2] if bias else [2, 1])
    for scaled, gradient in zip(modulated[0], plain[0], strict=True):
        rows = factor.reshape(-1, *[1] * (gradient.ndim - 1))
        assert np.allclose(scaled, rows * gradient, rtol=1e-5, atol=0)
        assert scaled.dtype == gradient.dtype
        assert np.any(gradient)
    assert all(map(np.array_equal, modulated[1], plain[1]))
