"""Whole training runs of the published code, step by step through the trainer."""

import os
from functools import partial
from pathlib import Path

import numpy as np
import oracle
import pytest
import training_cases

from dfc_numba import methods
from dfc_numba.optimizers import Gradients

RESOURCES = Path(__file__).parent / "resources" / "training"
METRICS = {
    "train_loss": "train_loss",
    "test_loss": "test_loss",
    "train_acc": "train_accuracy",
    "test_acc": "test_accuracy",
}


def files():
    """The runs in the resources, and those of a folder of more files."""
    folders = [RESOURCES, os.environ.get("DFC_REFERENCE_DIR")]
    return [path for folder in folders if folder for path in training_cases.files(folder)]


@pytest.fixture
def published_dfa(monkeypatch):
    """Direct feedback alignment without the activation derivative, as the published code has it."""

    def gradient(network, x, y, *, loss, activity):
        plain = oracle.direct_feedback_gradient(network, x, y, loss=loss, derivative=False)
        return Gradients(weights=plain.weights, biases=plain.biases)

    method = methods.Method(summary="", forward=partial(methods.from_loss, gradient=gradient))
    monkeypatch.setitem(methods.METHODS, "dfa", method)


@pytest.mark.parametrize("path", files(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_steps_and_metrics(path, published_dfa):
    """The order of the optimisers' steps, all parameters after each, and the metrics of every epoch."""
    run = training_cases.Run(path)
    trainer, recorder = run.train()
    assert recorder.events == run.events
    deviation, name = recorder.worst()
    assert deviation < 1e-12, name
    for theirs, ours in METRICS.items():
        if run.metrics(theirs) is not None:
            np.testing.assert_allclose([row[ours] for row in trainer.rows], run.metrics(theirs), rtol=1e-12)


def test_our_direct_feedback_alignment_differs_by_the_derivative():
    run = training_cases.Run(RESOURCES / "train_dfa_ce_adam.npz")
    _, recorder = run.train()
    assert recorder.worst()[0] > 1e-3


def test_a_wrong_option_is_noticed():
    """The comparison is sharp: other minibatches, draws or options do not pass."""
    path = RESOURCES / "train_2p_weak_mse_cont_adam.npz"
    for change in ("minibatches", "noise", "options"):
        run = training_cases.Run(path)
        if change == "options":
            controller = {**vars(run.config.controller), "alpha": 0.02}
            run.config = run.config.model_copy(
                update={"controller": type(run.config.controller)(**controller)}
            )
        else:
            setattr(run, change, getattr(run, change)[::-1])
        if change == "noise":
            run.noise = run.noise[:1] + [draws or run.noise[0] for draws in run.noise[1:]]
        _, recorder = run.train()
        assert recorder.worst()[0] > 1e-9, change
