"""Runs whose forward phase is solved by the waveform integrator: configuration, resuming, columns of metrics.csv."""

import numpy as np
import pytest
import small_runs

from dfc_numba.configuration.config_file import load_config
from dfc_numba.errors import ConfigurationError

SOLVED = {"controller": {"steps": 120, "dt": 0.05, "integrator": "waveform", "rtol": 1e-3}}
WAVEFORM = "controller.integrator=waveform"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([WAVEFORM, "controller.sigma=0.1"], "sigma"),
        ([WAVEFORM, "controller.jacobian_feedback=true"], "jacobian_feedback"),
        ([WAVEFORM, "controller.rtol=1e-7"], "rtol"),
        (["controller.rtol=1e-4"], "only controller.integrator = 'waveform'"),
        (["feedback_controller.integrator=waveform"], "euler"),
        ([WAVEFORM, "training.method=dfc-ssa"], "simulates nothing"),
    ],
    ids=["noise", "jacobian", "rtol", "rtol of euler", "feedback phase", "nothing simulated"],
)
def test_what_the_integrator_cannot_do_is_refused_when_the_configuration_is_read(overrides, message):
    with pytest.raises(ConfigurationError, match=message):
        load_config("digits", overrides)


@pytest.mark.parametrize("method", ["dfc", "dfc-ss"])
def test_a_run_learns_what_a_run_by_euler_steps_learns(method):
    training = {"training": {"method": method}}
    solved, _, _ = small_runs.train(small_runs.configuration(**SOLVED, **training))
    stepped, _, _ = small_runs.train(
        small_runs.configuration(controller={"steps": 120, "dt": 0.05}, **training)
    )
    for ours, theirs in zip(solved.network.weights, stepped.network.weights, strict=True):
        assert np.linalg.norm(ours - theirs) < 2e-3 * np.linalg.norm(theirs)


def test_metrics_have_the_largest_estimate_and_the_number_of_samples_that_were_stepped():
    trainer, _, _ = small_runs.train(small_runs.configuration(**SOLVED))
    for row in trainer.rows:
        assert 0 < row["estimated_error"] <= 1e-3
        assert 0 <= row["fallback_samples"] < 20
    trainer, _, _ = small_runs.train(small_runs.configuration())
    assert "estimated_error" not in trainer.rows[-1]


@pytest.mark.parametrize("stop_after", [5, 8, 10])
def test_an_interrupted_run_continues_to_the_same_bits(stop_after):
    config = small_runs.configuration(**SOLVED)
    whole, _, _ = small_runs.train(config)
    first, _, _ = small_runs.train(config, stop_after=stop_after)
    second = small_runs.Trainer(small_runs.network(), small_runs.dataset(), config)
    second.restore(first.state())
    second.run()
    assert small_runs.same(small_runs.parameters(second.network), small_runs.parameters(whole.network))
    columns = "fallback_samples", "estimated_error", "train_loss"
    for ours, theirs in zip(second.rows, whole.rows, strict=True):
        assert [ours[name] for name in columns] == [theirs[name] for name in columns]
