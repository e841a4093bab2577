"""What `dfc simulate` makes of a feedback phase: how far the errors fell, what converged, what diverged."""

import numpy as np
import pytest
from typer.testing import CliRunner

import dfc_numba as dfc
from dfc_numba import cli
from dfc_numba.storage.reader import open_trajectories

STRONG = [
    "target.feedback=strong",
    "target.class_value=0.9",
    "controller.error=softmax",
    "controller.steps=9",
]


@pytest.fixture
def simulated(tmp_path):
    """Function from settings to the result of `dfc simulate`, its trajectory and the status of the file."""

    def simulate(*settings, path=tmp_path / "one.h5"):
        arguments = ["network.hidden=[8]", *settings]
        result = CliRunner().invoke(
            cli.app, ["simulate", "digits", *(f"--set={one}" for one in arguments), "--out", str(path)]
        )
        with open_trajectories(path) as file:
            return result, dfc.Trajectory.load(path), file.status

    return simulate


def test_divergence_counts_although_all_numbers_are_finite(simulated, tmp_path):
    result, trajectory, status = simulated("controller.k_p=50")
    assert np.isfinite(trajectory.error).all() and trajectory.diverged.all()
    assert result.exit_code == 1 and status == "diverged"
    assert "8 diverged: residual above the feedforward output" in result.stdout
    assert "a smaller controller.k_p or target.step" in result.stderr
    assert f"`dfc analyze {tmp_path / 'one.h5'} --what stability`" in result.stderr


def test_errors_that_fell_are_counted_and_converged_is_explained(simulated):
    result, trajectory, status = simulated("controller.steps=60")
    below = int((trajectory.error[-1] < 0.1 * trajectory.error[0]).sum())
    assert 0 < below < 8 and result.exit_code == 0 and status == "complete"
    assert f"of 8 samples:\n  {below} with an error below 10% of that at the start\n" in result.stdout
    assert "  0 converged: residual below 1e-05 of the feedforward output" in result.stdout
    assert "error below 25%" in result.stdout and "  0 diverged: " in result.stdout


def test_a_slow_sample_has_not_diverged(simulated):
    """A strong target is further away than the feedforward output is large: the flag is set, but the error falls."""
    result, trajectory, status = simulated(*STRONG)
    assert trajectory.diverged.any() and (trajectory.error[-1] < trajectory.error[0]).all()
    assert result.exit_code == 0 and status == "complete" and "  0 diverged: " in result.stdout
