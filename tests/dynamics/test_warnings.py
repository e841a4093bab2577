"""Warnings in Python where a feedback phase diverges, and what is shown while something takes long."""

import subprocess
import sys

import numpy as np
import pytest
from small_runs import configuration, dataset, network

import dfc_numba as dfc
from dfc_numba.dynamics.phase import judging_divergence
from dfc_numba.support import bars

WILD = dfc.Controller(dt=0.1, steps=40, k_p=60.0)
CALM = dfc.Controller(dt=0.05, steps=40, k_p=0.5)


@pytest.fixture(scope="module")
def problem():
    net = dfc.Network.create([4, 6, 5, 3], seed=1)
    x = np.random.default_rng(0).normal(size=(5, 4))
    return net, x, net.predict(x) + 0.3


def test_a_diverged_simulation_is_warned_of(problem):
    with pytest.warns(
        dfc.DivergenceWarning, match=r"diverged for 5 of 5 samples \(0, 1, 2, ...\).*largest stable dt"
    ):
        assert dfc.simulate(*problem, WILD).diverged.all()
    with pytest.warns(dfc.DivergenceWarning, match="try a smaller controller.k_p"):
        dfc.forward_update(*problem, WILD)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("steps", [40, 100])  # too few for nodes in time, and enough
def test_a_solution_in_time_that_diverges_is_warned_of_where_it_was_asked_for(problem, steps):
    net, x, target = problem
    controller = dfc.Controller(dt=0.05, steps=steps, alpha=0.0, k_p=60.0, integrator="waveform")
    with pytest.warns(dfc.DivergenceWarning, match="the feedback phase diverged for") as caught:
        update = dfc.forward_update(net, x, target, controller)
    assert update.diverged.any() and caught[0].filename == __file__


def test_simulations_that_converge_or_are_slow_are_not_warned_of(problem):
    dfc.simulate(*problem, CALM)
    slow = dfc.Controller(dt=0.05, steps=3, k_p=0.5)
    assert dfc.forward_update(
        problem[0], problem[1], problem[2] + 50.0, slow
    ).diverged.any()  # its error falls


@pytest.mark.filterwarnings("error")
def test_a_caller_may_judge_by_itself(problem):
    with judging_divergence():
        dfc.simulate(*problem, WILD)


def test_a_trainer_warns_unless_an_observer_hears():
    config = configuration(training={"epochs": 1}, controller={"k_p": 50.0})
    with pytest.warns(
        dfc.DivergenceWarning, match="in epoch 1 the feedback phase diverged for 20 of 20 samples"
    ):
        dfc.Trainer(network(), dataset(), config).run()


class Shown:
    """A bar that keeps what it shows."""

    def __init__(self):
        self.seen, self.closed = [], False

    def update(self, done, total, text):
        self.seen.append((done, total, text))

    def close(self):
        self.closed = True


def test_a_simulation_shows_how_many_shards_are_done(problem, monkeypatch):
    net, x, target = problem
    bar = Shown()
    monkeypatch.setattr(bars, "TerminalBar", lambda: bar)
    monkeypatch.setattr(bars, "PATIENCE", 0.0)
    many = [np.repeat(array, 16, axis=0) for array in (x, target)]
    dfc.simulate(net, *many, CALM, progress=True)
    count = len(bar.seen)
    assert count > 1 and bar.seen == [(n, count, "simulating") for n in range(1, count + 1)] and bar.closed
    dfc.simulate(net, *many, CALM)  # nobody looks
    assert len(bar.seen) == count


def test_the_first_compilation_is_announced(tmp_path):
    code = (
        "import numpy; from dfc_numba.kernels.optimizers import sum_of_squares; sum_of_squares(numpy.ones(3))"
    )
    for expected in ("dfc-numba: compiling kernels, the first time on this machine ...\n", ""):
        result = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env={"NUMBA_CACHE_DIR": str(tmp_path), "PATH": ""},
        )
        assert (result.returncode, result.stderr) == (0, expected)
