"""Feedback phases that diverge while all numbers stay finite are counted in training, and warned of."""

import numpy as np
import pytest
from small_runs import configuration, dataset, network
from typer.testing import CliRunner

from dfc_numba import cli
from dfc_numba.display import progress
from dfc_numba.dynamics.plasticity import FeedbackUpdate, ForwardUpdate
from dfc_numba.learning.divergence import Tally
from dfc_numba.learning.training import Trainer
from dfc_numba.runs.logger import Logger

WILD = {"k_p": 50.0}
NOISY = {"sigma": 0.05, "tau_noise": 0.1}


class Listener:
    """Keeps what is told of divergence."""

    def __init__(self):
        self.told = []

    def on_divergence(self, epoch, tally):
        self.told.append((epoch, tally))


def listen(method, controller, log=None):
    """What a run of two epochs with 20 samples tells of divergence; it comes to its end."""
    config = configuration(training={"method": method}, controller=controller, log={"every": 2})
    listener = Listener()
    trainer = Trainer(network(), dataset(), config, observers=[listener], log=log and log(config))
    assert trainer.run().status == "done"
    return listener.told


@pytest.mark.parametrize(
    ("method", "controller"), [("dfc", WILD), ("dfc-ss", WILD), ("dfc-single-phase", {**WILD, **NOISY})]
)
def test_an_epoch_tells_of_all_its_diverged_feedback_phases(method, controller):
    assert listen(method, controller) == [(epoch, Tally(samples=20, diverged=20)) for epoch in (1, 2)]


def test_diverged_minibatches_that_are_logged_are_counted_too(tmp_path):
    told = listen("dfc", WILD, log=lambda config: Logger(tmp_path, config))
    assert told == [(epoch, Tally(samples=20, diverged=20)) for epoch in (1, 2)]


@pytest.mark.parametrize("method", ["dfc", "dfc-ss", "dfc-ss-newton", "dfc-ssa", "bp"])
def test_nothing_is_told_where_nothing_diverges_or_nothing_is_simulated(method):
    assert listen(method, {}) == []


def test_a_tally_counts_the_updates_that_know():
    tally = Tally()
    tally.count(ForwardUpdate([], None, diverged=np.array([True, False, True])), FeedbackUpdate([]))
    tally.count(ForwardUpdate([], None))
    assert tally == Tally(samples=3, diverged=2)


@pytest.mark.parametrize(("diverged", "worth"), [(0, False), (50, False), (51, True), (1000, True)])
def test_a_few_samples_are_not_worth_a_warning(diverged, worth):
    assert Tally(samples=1000, diverged=diverged).worth_a_warning is worth
    assert not Tally().worth_a_warning


@pytest.mark.parametrize("display", [progress.PlainDisplay, progress.LiveDisplay])
def test_a_display_warns_in_one_line(capsys, display):
    display(label="run 2/7, ").on_divergence(3, Tally(200, 25))
    output, errors = capsys.readouterr()
    assert output == "" and errors.count("\n") == 1 and errors.startswith("run 2/7, warning: ")
    assert "in epoch 3 the feedback phase diverged for 25 of 200 samples (12.5 %)" in errors
    assert "a smaller controller.dt" in errors and "dfc analyze RUN --what stability" in errors


def test_dfc_train_warns_goes_on_and_ends_with_1_where_every_sample_diverged(tmp_path):
    settings = ["controller.k_p=50", "network.hidden=[8]", "data.options.train_size=64"]
    arguments = ["train", "digits", "--epochs", "1", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(cli.app, arguments + [f"--set={setting}" for setting in settings])
    assert result.exit_code == 1
    assert result.stderr.count("the feedback phase diverged for 64 of 64 samples (100 %)") == 1
