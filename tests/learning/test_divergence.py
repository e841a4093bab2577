"""Runs that diverge say where, and what to change; data that do not fit are refused."""

import numpy as np
import pytest
from small_runs import SIZES, configuration, dataset, network, parameters, train

from dfc_numba.learning.method import Gradients, Method
from dfc_numba.learning.training import Trainer
from dfc_numba.registry import METHODS


def test_parameters_that_overflow_end_the_run():
    config = configuration(training={"method": "bp"}, optimizer={"name": "sgd", "learning_rate": 1e308})
    _, watcher, outcome = train(config, net=network(hidden_activation="linear"))
    assert outcome.status == "diverged" and watcher.calls[-1] == "diverged"
    assert "forward phase, epoch 1, minibatch" in outcome.message and "layer" in outcome.message
    assert "lower optimizer.learning_rate" in outcome.message


def test_a_diverging_sample_is_named(monkeypatch):
    """One sample's update is not finite: layer, epoch, minibatch and sample are told, weights stay finite."""
    data_set = dataset()
    poison = data_set.train.x[13].copy()

    def forward(network, minibatch, config):
        gradients = Gradients(weights=[np.zeros_like(w) for w in network.weights])
        gradients.biases = [np.zeros_like(b) for b in network.biases]
        if (minibatch.x == poison).all(axis=1).any():
            gradients.weights[1][0, 0] = np.inf
        return gradients

    monkeypatch.setitem(METHODS._items, "bp", Method("bp", forward=forward))
    batches = [np.arange(8), np.arange(8, 20)]
    net = network()
    _, _, outcome = train(configuration(training={"method": "bp"}), data_set, net, minibatches=batches)
    assert outcome.status == "diverged"
    assert "epoch 1, minibatch 2, sample 5 (number 13 of the training set)" in outcome.message
    assert "the update of layer 2 is not finite" in outcome.message
    assert all(np.isfinite(array).all() for array in parameters(net).values())


@pytest.mark.parametrize("injected", [False, True])
def test_a_diverging_simulation_in_a_feedback_phase_is_told(injected):
    """Strongly amplifying feedback weights blow the feedback phase up."""
    net = network(hidden_activation="linear")
    for feedback in net.feedback:
        feedback *= -1e6
    config = configuration(feedback_controller={"steps": 200, "k_p": 1.0})
    rng = np.random.default_rng(0)
    noise = [[rng.normal(size=(201, 20, n)) for n in SIZES[1:]]] if injected else None
    batches = [np.arange(20)] if injected else None
    _, _, outcome = train(config, net=net, minibatches=batches, noise=noise)
    assert outcome.status == "diverged"
    assert "pretraining phase, epoch 1, minibatch 1, sample 0" in outcome.message
    assert "feedback_controller.dt" in outcome.message


def test_a_loss_that_is_not_finite_ends_the_run():
    net = network(hidden_activation="linear")
    net.biases[1][:] = 1e200
    config = configuration(target={"loss": "mse"}, training={"method": "bp"})
    _, _, outcome = train(config, dataset("regression"), net)
    assert outcome.status == "diverged" and "the loss is inf" in outcome.message


def test_an_earlier_best_epoch_survives_divergence():
    config = configuration(training={"method": "bp", "epochs": 3})
    net, data_set = network(), dataset()
    trainer = Trainer(net, data_set, config)

    class Saboteur:
        def on_epoch(self, row):
            net.weights[0][0, 0] = np.nan

    trainer.observers = (Saboteur(),)
    outcome = trainer.run()
    assert (outcome.status, outcome.epochs, outcome.best_epoch) == ("diverged", 1, 1)
    assert all(np.isfinite(array).all() for array in parameters(trainer.best_network).values())


def test_wrong_data_sets_and_methods_are_refused():
    with pytest.raises(ValueError, match="has 4 inputs and 3 outputs, but the network 5 and 3"):
        Trainer(network([5, 6, 3]), dataset(), configuration())
    with pytest.raises(ValueError, match="set target.loss = 'mse'"):
        Trainer(network(), dataset("regression"), configuration())
    with pytest.raises(ValueError, match="did you mean 'dfc-ss'"):
        METHODS.find("dfc_ss")
