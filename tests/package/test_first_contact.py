"""What a new user meets: durations, losses that were left out, logs that keep some samples, runs in which all diverges."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import dfc_numba as dfc
from dfc_numba import cli
from dfc_numba.analysis.stability import STABLE, UNSTABLE, VERDICTS
from dfc_numba.display import progress, reports
from dfc_numba.display.trajectory_figures import heading
from dfc_numba.runs.comparison import note_of_durations

ROW = {f"{split}_{score}": 0.123456 for split in ("train", "val", "test") for score in ("loss", "accuracy")}


def test_a_duration_stands_for_steps():
    assert dfc.Controller(dt=0.01, duration=20).steps == 2000 == dfc.Controller(dt=0.01, steps=2000).steps
    assert dfc.Controller(duration=2.0).steps == 100 and dfc.Controller(
        dt=0.05, steps=40
    ).duration == pytest.approx(2.0)
    config = dfc.load_config("digits", {"controller.dt": 0.01, "controller.duration": 2})
    assert config.controller.steps == 200
    assert dfc.load_config(config, {"controller.dt": 0.02}).controller.steps == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"duration": 2.0, "steps": 10}, "state one of them"),
        ({"duration": -1.0}, "Controller.duration is -1.0; a finite number > 0 is allowed"),
    ],
)
def test_a_wrong_duration_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        dfc.Controller(**options)
    with pytest.raises(ValueError, match=message):
        dfc.load_config("digits", {f"controller.{key}": value for key, value in options.items()})


def test_steps_that_stay_while_dt_differs_are_told():
    def configs(**changes):
        return [dfc.load_config("digits", {"controller.dt": dt, **changes}) for dt in (0.01, 0.02)]

    assert "set controller.duration in place of steps" in note_of_durations(configs())
    assert note_of_durations(configs(**{"controller.duration": 2})) is None
    assert note_of_durations([dfc.load_config("digits")]) is None


def test_classes_beside_a_loss_that_was_left_out_are_warned_of():
    net, x, y = dfc.Network.create([4, 6, 3], seed=1), np.ones((2, 4)), [0, 1]
    with pytest.warns(UserWarning, match="loss='cross_entropy' for classes, or loss='mse'"):
        target = dfc.output_target(net, x, y)
    with pytest.warns(UserWarning, match="loss was left out"):
        dfc.evaluate(net, x, y)
    assert np.array_equal(target, dfc.output_target(net, x, y, loss="mse"))
    dfc.output_target(net, x, np.eye(3)[:2])


@pytest.mark.parametrize("seconds", [0.1, 12.0, 83.0])
def test_an_epoch_fits_into_80_columns(seconds):
    line = progress.epoch_line({**ROW, "epoch": 7, "seconds": seconds}, {"forward": 100})
    assert len(line) <= 80 and all(
        name in line for name in ("epoch   7/100", "train 0.12", "val", "test", "12.35 %")
    )
    alone = {**ROW, "val_loss": float("nan"), "test_loss": float("nan"), "epoch": 7, "seconds": seconds}
    assert "train 0.1235 (12.35 %)" in progress.epoch_line(alone, {"forward": 100})


@pytest.mark.parametrize(
    ("changes", "n_samples", "told"),
    [
        ({}, 1297, (16, 17)),
        ({"log.every": 2}, 1297, (16, 32)),
        ({"log.samples": 17}, 1297, None),
        ({}, 1296, None),
    ],
)
def test_a_log_tells_which_samples_it_keeps(changes, n_samples, told):
    config = dfc.load_config("digits", {"log.on": True, **changes})
    assert progress.left_out_samples(config, n_samples) == told


def test_a_run_in_which_every_sample_diverges_fails(tmp_path):
    settings = [
        "controller.k_p=80",
        "feedback.train=false",
        "network.feedback_init=weight_product",
        "controller.steps=60",
    ]
    settings += ["data.options.train_size=200", "training.batch_size=100", "network.hidden=[8]"]
    options = [f"--set={text}" for text in settings]
    result = CliRunner().invoke(
        cli.app, ["train", "digits", "--epochs=1", *options, "--out", str(tmp_path / "run")]
    )
    assert result.exit_code == 1 and "every feedback phase of the last epoch diverged" in result.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "done"


def test_a_simulation_is_headed_by_what_it_is():
    net, x = dfc.Network.create([4, 3], seed=0), np.ones((1, 4))
    recipe = dfc.simulate(net, x, net.predict(x), dfc.Controller(dt=0.05, steps=2)).recipe
    recipe = type(recipe)(**{**vars(recipe), "epoch": 1, "minibatch": 1})
    assert heading(None, recipe, 0) == "simulation at the initial weights, sample 0"


def test_a_verdict_says_where_a_smaller_step_makes_it_worse():
    codes = np.array([VERDICTS.index(STABLE), VERDICTS.index(UNSTABLE)], np.int8)
    note = {
        "sample_index": np.array([3, 4]), "verdict": 0.5, "verdict_sample": codes, "largest_dt_sample": np.array([0.0, 0.0]),
        "euler_radius_sample": np.array([0.9, 1.1]),
    }  # fmt: skip
    text = "\n".join(reports.analysis_lines({"last": note}, ["verdict"], ["stability"]))
    assert (
        "stable by the Euler step alone: 1, sample 3" in text
        and "a smaller dt would make them diverge" in text
    )
    assert "unstable: 1, sample 4" in text and "a smaller dt does not help" in text
    assert "verdict" not in text and "fraction of the samples that are stable" in text
