"""The feedforward pass of a minibatch is computed once, and handed on to loss, target and feedback phase."""

import numpy as np
import pytest

import dfc_numba as dfc
from dfc_numba import data
from dfc_numba.configuration.config_file import load_config
from dfc_numba.learning.evaluation import Score
from dfc_numba.learning.training import Trainer
from dfc_numba.model.network import Network, exact_forward
from dfc_numba.model.shared_passes import sharing_passes
from dfc_numba.relatives import equilibrium_propagation


def trainer(*settings):
    config, _ = load_config("digits", ["network.hidden=[9,8]", "training.epochs=1", *settings])
    digits = data.load("digits")
    net = dfc.Network.create([64, 9, 8, 10], seed=0, dtype=config.training.dtype)
    return Trainer(net, digits, config)


@pytest.mark.parametrize("method", ["dfc", "dfc-ss", "dfc-ssa", "bp", "ddtp-linear", "gnt"])
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
    assert {phase for phase, _ in counts} >= {"forward"}
    assert all(len(found) == 1 for _, found in counts)


@pytest.mark.parametrize("method", ["ep", "ep-vector-field"])
def test_both_phases_and_the_prediction_of_a_minibatch_are_one_call_of_the_kernel(method, monkeypatch):
    calls, run_phases = [], equilibrium_propagation.Phases.run

    def counted(self):
        calls.append((self.relaxation.steps, len(self.nudging.betas)))
        run_phases(self)

    monkeypatch.setattr(equilibrium_propagation.Phases, "run", counted)
    run = trainer(f"training.method={method}", "target.loss=mse")
    monkeypatch.setattr(run, "_evaluate", lambda split: Score())
    run.run()
    assert calls == [(30, 1)] * run.counters.minibatches


def test_passes_are_shared_within_the_context_alone():
    net, x = dfc.Network.create([3, 4, 2], seed=0), np.random.default_rng(0).normal(size=(5, 3))
    with sharing_passes():
        _, first = exact_forward(net, x)
        assert exact_forward(net, x)[1] is first
        assert exact_forward(net, x.copy())[1] is not first
        assert exact_forward(net.copy(), x)[1] is not first
    assert exact_forward(net, x)[1] is not first
