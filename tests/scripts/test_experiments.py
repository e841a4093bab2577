"""The scripts of the papers' experiments: they write figure and data, and what they compute by themselves is right."""

import csv
from argparse import ArgumentTypeError
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from command_line import invoked

import dfc_numba as dfc
from dfc_numba.configuration.config_file import load_config
from dfc_numba.learning.baselines import backpropagation
from dfc_numba.runs.experiment import load_data

FOLDER = Path(__file__).parents[2] / "scripts" / "experiments"
slow = pytest.mark.slow
needs_matplotlib = pytest.mark.skipif(not find_spec("matplotlib"), reason="matplotlib is not installed")


@pytest.fixture
def script(monkeypatch):
    """Imports a script, or a module that scripts share, by its name."""
    monkeypatch.syspath_prepend(FOLDER)
    return import_module


def read(path):
    """(comment lines, rows) of a data file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = [line for line in lines if line.startswith("# ")]
    return comments, list(csv.DictReader(lines[len(comments) :]))


# --- the scripts in their quick form ---------------------------------------------------------------------------------


def quick(script, name, out):
    """Run a script; returns the rows of its data file."""
    script(name).main(["--quick", "--out", str(out)])
    name = name.replace("_", "-")
    assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    comments, rows = read(out / f"{name}.csv")
    assert comments[0].startswith(f"# {name}: seed") and "numba" in comments[-1]
    return rows


@needs_matplotlib
def test_output_control_draws_and_writes(script, tmp_path, capsys):
    rows = quick(script, "output_control", tmp_path)
    assert {row["k_p"] for row in rows} == {"0", "0.3", "1"}
    first = rows[0]
    assert (float(first["time"]), float(first["output_median"]), float(first["control_median"])) == (0, 0, 0)
    assert "overshoot" in capsys.readouterr().out


@needs_matplotlib
def test_second_order_draws_and_writes(script, tmp_path, capsys):
    rows = quick(script, "second_order", tmp_path)
    module = script("second_order")
    methods, batches = [*module.RULES, *module.CONTROLLED], ["minibatch", "sample 0", "sample 1"]
    assert {row["network"] for row in rows} == {"initial", "trained"}
    assert len(rows) == 2 * len(batches) * len(methods) * len(module.REFERENCES)
    angles = {
        (row["network"], row["batch"], row["method"], row["reference"]): float(row["total"]) for row in rows
    }
    assert max(angles[key] for key in angles if key[2:] == ("BP", "BP")) < 1e-6
    for network in (
        "initial",
        "trained",
    ):  # without a leak, and B = -W^T, inversion at rest is the pseudo-inverse
        for reference in module.REFERENCES:
            at_rest, pseudo = (
                angles[network, "sample 0", rule, reference] for rule in ("NDI, alpha 0", "PBP")
            )
            assert at_rest == pytest.approx(pseudo, abs=1e-4)
    assert "trained, single samples: degrees to" in capsys.readouterr().out


@needs_matplotlib
def test_feedback_learning_draws_and_writes(script, tmp_path):
    rows = quick(script, "feedback_learning", tmp_path)
    assert {row["units"] for row in rows} == {"linear", "tanh"}
    assert {row["varied"] for row in rows} == {"gamma", "alpha", "k_p"}
    before = {
        row["angle"]
        for row in rows
        if row["epoch"] == "0" and row["varied"] != "gamma" and row["units"] == "tanh"
    }
    assert len(before) == 1  # all begin with the same feedback weights


@needs_matplotlib
def test_admissible_feedback_draws_and_writes(script, tmp_path):
    rows = quick(script, "admissible_feedback", tmp_path)
    admissible = [row for row in rows if row["admissible"] == "1"]
    assert 0 < len(admissible) < len(rows)
    assert all(float(row["mn_angle"]) < 0.01 for row in admissible)
    assert all(float(row["tilted_condition_2"]) < 1 for row in admissible)


METHODS = {"DFC", "DFC-SS", "DFC-SSA", "DFA", "DFC, fixed Q", "DFC-SS, fixed Q", "DFC-SSA, fixed Q"}


def check_courses(rows):
    assert {row["method"] for row in rows} == METHODS
    assert {row["epoch"] for row in rows} == {"1", "2"}
    for row in rows:
        assert 0 <= float(row["angle_bp"]) < 180
        assert (row["condition_2"] == "nan") == (row["method"] == "DFA")
        if row["method"].startswith("DFC-SSA"):
            assert float(row["angle_ssa"]) < 1e-3


@slow
@needs_matplotlib
def test_student_teacher_draws_and_writes_and_trains_once(script, tmp_path, monkeypatch):
    rows = quick(script, "student_teacher", tmp_path)
    check_courses(rows)
    monkeypatch.setattr(script("courses"), "train", None)  # what is finished is taken from the files
    assert quick(script, "student_teacher", tmp_path) == rows


@slow
@needs_matplotlib
def test_mnist_alignment_draws_and_writes(script, tmp_path, mnist_dir):
    check_courses(quick(script, "mnist_alignment", tmp_path))


# --- what they compute by themselves ---------------------------------------------------------------------------------


def test_direction_over_a_whole_set(script, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    settings = ["--set", "training.method=dfc-ss-newton", "--set", "data.options.train_size=60"]
    assert invoked("train", "digits", "--epochs", "1", "--out", run, *settings).exit_code == 0
    module = script("whole_set_direction")
    assert module.main([str(run), "--feedback", "jacobian_transpose"]) == 0
    lines = capsys.readouterr().out.splitlines()
    last = [line.split() for line in lines[-5:]]
    assert [row[0] for row in last] == ["layer", "1", "2", "3", "all"]
    assert lines[-6].startswith("60 samples") and all(0.0 < float(row[1]) <= 1.0 for row in last[1:])
    config, _ = load_config(run / "config.toml", [])
    network, data = dfc.Network.load(run / "weights_last.h5").copy(dtype="float64"), load_data(config).train
    whole = module.directions(network, data.x, data.y, config)
    monkeypatch.setattr(module, "SAMPLES_AT_A_TIME", 7)
    for ours, theirs in zip(whole, module.directions(network, data.x, data.y, config), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert np.linalg.norm(a - b) < 1e-9 * np.linalg.norm(a)
    exact = backpropagation(network, data.x, np.eye(10)[data.y], loss="cross_entropy").weights
    assert all(np.allclose(a, b, rtol=1e-12, atol=1e-15) for a, b in zip(whole[1], exact, strict=True))


def test_settling_time_and_overshoot(script):
    time = np.linspace(0, 10, 1001)
    rising, overshooting = 1 - np.exp(-time), 1 + np.exp(-time) * np.sin(3 * time)
    run = script("output_control").Run(time, np.transpose([rising, overshooting]), None)
    assert run.settling_time[0] == pytest.approx(np.log(20), abs=0.01)
    peak = np.arctan(3) / 3
    np.testing.assert_allclose(run.overshoot, [0, np.exp(-peak) * np.sin(3 * peak)], atol=1e-4)


def test_the_plane_holds_all_damped_pseudoinverses(script):
    module = script("admissible_feedback")
    jacobian = np.random.default_rng(0).standard_normal((2, 4))
    for damping in (1e-6, 0.3, 1.0, 1e3):
        q = module.damped_pseudoinverse(jacobian, damping)
        assert np.linalg.norm(module.in_plane(jacobian, q)) == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(module.in_plane(jacobian, module.unit(jacobian.T)), [1, 0], atol=1e-12)
    outside = module.random_feedback(jacobian, np.random.default_rng(1), 5)
    assert np.all(np.linalg.norm(module.in_plane(jacobian, outside), axis=-1) < 1)


def test_a_tilt_leaves_stability_and_says_condition_2(script):
    module, rng = script("admissible_feedback"), np.random.default_rng(0)
    jacobian = rng.standard_normal((2, 4))
    q = module.random_feedback(jacobian, rng, 1)[0]
    tilted = module.tilt(jacobian, q, rng)
    projected = np.linalg.pinv(jacobian) @ jacobian @ tilted
    condition = np.linalg.norm(projected)
    assert np.linalg.norm(tilted) == pytest.approx(1) and 0 < condition < 1
    np.testing.assert_allclose(jacobian @ tilted, condition * jacobian @ q, atol=1e-12)


def test_admissible_means_that_simulations_settle(script):
    module = script("admissible_feedback")
    problem = module.Problem.create(0)
    transpose = module.unit(problem.jacobian.T)
    assert module.is_admissible(problem.jacobian, transpose) and module.settles(problem, transpose)
    with np.errstate(over="ignore", invalid="ignore"):
        assert not module.is_admissible(problem.jacobian, -transpose) and not module.settles(
            problem, -transpose
        )


def test_the_network_gets_the_feedback_weights(script):
    problem = script("admissible_feedback").Problem.create(0)
    q = np.arange(8.0).reshape(4, 2)
    network = problem.with_feedback(q)
    np.testing.assert_array_equal(np.concatenate(network.feedback), q)
    assert not np.array_equal(np.concatenate(problem.network.feedback), q)


# --- what they share -------------------------------------------------------------------------------------------------


@needs_matplotlib
def test_results_are_stored_below_a_header(script, tmp_path, capsys):
    module, figures = script("results"), import_module("dfc_numba.support.figures")
    results = module.Results("name", SimpleNamespace(out=tmp_path / "new", seed=3))
    results.table(("a", "b"), [("x", 0.123456), ("longer", 2)])
    results.save(figures.new_figure(1, 1), [{"a": 1 / 3, "b": "text"}])
    comments, rows = read(tmp_path / "new" / "name.csv")
    assert comments[0] == "# name: seed 3" and f"dfc-numba {dfc.__version__}" in comments[2]
    assert rows == [{"a": "0.333333", "b": "text"}]
    assert "x       0.123\nlonger      2\n" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many"])
def test_counts_that_are_none_are_refused(script, text):
    with pytest.raises(ArgumentTypeError, match="a whole number from 1 to"):
        script("results").count(text)


def test_a_run_that_diverges_is_told(script):
    learning = script("learning")
    changes = {"training.epochs": 1, "training.method": "bp", "optimizer.learning_rate": 1e300}
    config = learning.preset("digits", changes)
    with pytest.raises(RuntimeError, match="bp: "):
        learning.train(config, import_module("dfc_numba.runs.experiment").load_data(config))
