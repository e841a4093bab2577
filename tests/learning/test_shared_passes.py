"""The feedforward pass of a minibatch is computed once, and handed on to loss, target and feedback phase."""

import numpy as np
import pytest

import dfc_numba as dfc
from dfc_numba import data
from dfc_numba.configuration.config_file import load_config
from dfc_numba.learning.training import Trainer
from dfc_numba.model.network import Network, exact_forward, sharing_feedforward


def trainer(*settings):
    config, _ = load_config("digits", ["network.hidden=[9,8]", "training.epochs=1", *settings])
    digits = data.load("digits")
    net = dfc.Network.create([64, 9, 8, 10], seed=0, dtype=config.training.dtype)
    return Trainer(net, digits, config)


@pytest.mark.parametrize("method", ["dfc", "dfc-ss", "dfc-ssa", "bp"])
def test_a_minibatch_has_one_feedforward_pass(method, monkeypatch):
    passes, counts = [], []
    forward, learn = Network.forward, Trainer._learn

    def counted(self, minibatch, count):
        passes.clear()
        learn(self, minibatch, count)
        counts.append((minibatch.phase, [*passes]))

    monkeypatch.setattr(Network, "forward", lambda *a, **o: passes.append(o.get("dtype")) or forward(*a, **o))
    monkeypatch.setattr(Trainer, "_learn", counted)
    trainer(
        f"training.method={method}",
        *{"dfc": ["controller.steps=5"], "dfc-ss": ["controller.steps=5", "feedback.train=false"]}.get(
            method, []
        ),
    ).run()
    expected = [None] if method == "bp" else ["float64"]
    assert {phase for phase, _ in counts} >= {"forward"}
    assert all(found == expected for _, found in counts)


def test_passes_are_shared_within_the_context_alone():
    net, x = dfc.Network.create([3, 4, 2], seed=0), np.random.default_rng(0).normal(size=(5, 3))
    with sharing_feedforward():
        _, first = exact_forward(net, x)
        assert exact_forward(net, x)[1] is first
        assert exact_forward(net, x.copy())[1] is not first
        assert exact_forward(net.copy(), x)[1] is not first
    assert exact_forward(net, x)[1] is not first
