"""Comparisons: the tables say what the runs say, an interrupted one goes on, nothing starts that cannot run."""

import csv
import fcntl
import gc
import json
import os
import signal
import stat
import statistics
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from command_line import invoked
from typer.testing import CliRunner

from dfc_numba import cli
from dfc_numba.data.dataset import DataSet
from dfc_numba.display import progress, reports
from dfc_numba.errors import ConfigurationError
from dfc_numba.runs import comparison, summary
from dfc_numba.runs.run_directory import METRICS
from dfc_numba.support import figures, seals

DFC = "digits+controller.steps=9+feedback_controller.steps=9"
BP = "digits+training.method=bp"
WILD = "digits+training.method=bp+optimizer.name=sgd+optimizer.learning_rate=1e200"
SMALL = ["network.hidden=[6]", "data.options={train_size=48, validation_size=20, test_size=30}"]
SET = [f"--set={setting}" for setting in SMALL]
SCRIPT = Path(__file__).parents[2] / "scripts" / "compare_mnist.sh"


def compare(*arguments):
    """The result of `dfc compare`: exit code, standard output, standard error."""
    return invoked("compare", *arguments)


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def without_seconds(directory):
    """The rows of comparison.csv and summary.csv without the times."""
    return [
        {key: value for key, value in row.items() if "seconds" not in key}
        for name in ("comparison.csv", "summary.csv")
        for row in read(directory / name)
    ]


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def run_all(plan, display=lambda *_: nullcontext()):
    """How the runs of a plan ended, without showing anything."""
    return list(comparison.run(plan, display=display))


def written_table(directory):
    """The table in summary.md."""
    return (directory / "summary.md").read_text().partition("\n\n")[0]


def table(directory):
    """The rows of summary.md as dicts of texts."""
    lines = written_table(directory).splitlines()
    heading, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(heading, row, strict=True)) for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder and the result of a comparison of two methods with two seeds."""
    directory = tmp_path_factory.mktemp("whole") / "comparison"
    return directory, compare(DFC, BP, *SET, "--seeds", 2, "--epochs", 2, "--seed", 5, "--out", directory)


def test_every_run_has_an_ordinary_run_directory(whole):
    directory, result = whole
    assert result.exit_code == 0, result.output
    folders = {path.name for path in directory.iterdir() if path.is_dir()}
    assert folders == {f"{name}-seed{seed}" for name in (DFC, BP) for seed in (5, 6)}
    for seed in (5, 6):
        again = directory.parent / f"again-{seed}"
        run = directory / f"{BP}-seed{seed}"
        assert json.loads((run / "run.json").read_text())["status"] == "done"
        trained = CliRunner().invoke(cli.app, ["train", str(run / "config.toml"), "--out", str(again)])
        assert trained.exit_code == 0
        assert (again / "weights_last.h5").read_bytes() == (run / "weights_last.h5").read_bytes()


def test_comparison_csv_holds_the_rows_of_the_runs(whole):
    directory, _ = whole
    expected = [
        {"preset": name, "seed": str(seed), "status": "done", **row}
        for seed in (5, 6)
        for name in (DFC, BP)
        for row in read(directory / f"{name}-seed{seed}" / "metrics.csv")
    ]
    assert read(directory / "comparison.csv") == expected and len(expected) == 8
    assert tuple(expected[0]) == ("preset", "seed", "status", *METRICS)


def test_the_tables_hold_means_and_deviations_of_the_runs(whole):
    directory, result = whole
    for row, shown in zip(read(directory / "summary.csv"), table(directory), strict=True):
        runs = [read(directory / f"{row['preset']}-seed{seed}" / "metrics.csv") for seed in (5, 6)]
        errors = [1 - float(rows[-1]["test_accuracy"]) for rows in runs]
        losses = [float(rows[-1]["train_loss"]) for rows in runs]
        best = [max(rows, key=lambda epoch: float(epoch["val_accuracy"])) for rows in runs]
        expected = {
            "test_error": errors,
            "train_loss": losses,
            "best_test_error": [1 - float(epoch["test_accuracy"]) for epoch in best],
            "epoch_seconds": [float(rows[1]["seconds"]) for rows in runs],
            "seconds": [sum(float(epoch["seconds"]) for epoch in rows) for rows in runs],
        }
        for key, numbers in expected.items():
            assert float(row[f"{key}_mean"]) == pytest.approx(statistics.mean(numbers), rel=1e-12)
            assert float(row[f"{key}_std"]) == pytest.approx(statistics.stdev(numbers), rel=1e-9, abs=1e-15)
        assert (row["runs"], row["done"], shown["runs"], shown["epochs"]) == ("2", "2", "2", "2")
        mean, std = 100 * statistics.mean(errors), 100 * statistics.stdev(errors)
        assert shown["test error (%)"] == f"{mean:.2f} ± {std:.2f}"
        assert shown["train loss"] == f"{statistics.mean(losses):.3f} ± {statistics.stdev(losses):.3f}"
    assert written_table(directory) in result.stdout


def test_the_output_says_which_run_of_how_many_and_where_the_files_are(whole):
    directory, result = whole
    assert [line for line in result.stdout.splitlines() if line.startswith("run ")] == [
        f"run 1/4: {DFC}, seed 5",
        f"run 2/4: {BP}, seed 5",
        f"run 3/4: {DFC}, seed 6",
        f"run 4/4: {BP}, seed 6",
    ]
    assert result.stdout.count("digits: 64 inputs") == 1 and "expected" in result.stdout
    assert f"left out of {BP}" in result.stdout and "controller" in result.stdout
    assert f"results: {directory} (comparison.csv, summary.csv, summary.md" in result.stdout


def test_the_same_command_again_runs_nothing(whole):
    directory, _ = whole
    before = {path: path.stat().st_mtime_ns for path in directory.glob("*-seed*/*")}
    again = compare(DFC, BP, *SET, "--seeds", 2, "--epochs", 2, "--seed", 5, "--out", directory)
    assert again.exit_code == 0 and "runs that are done already, and kept: 4" in again.stdout
    assert "run 1/4" not in again.stdout and written_table(directory) in again.stdout
    assert {path: path.stat().st_mtime_ns for path in directory.glob("*-seed*/*")} == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_an_interrupted_comparison_goes_on_where_it_stopped(whole, tmp_path, monkeypatch, number):
    class Interrupting(progress.NoDisplay):
        def on_minibatch(self, progress):
            if progress.minibatch == 2:
                os.kill(os.getpid(), number)

    def interrupt_the_second(run, position, n_runs):
        return Interrupting() if position == 2 else progress.NoDisplay()

    directory, command = tmp_path / "out", [DFC, BP, *SET, "--seeds", 2, "--epochs", 2, "--seed", 5, "--out"]
    monkeypatch.setattr(reports, "display", interrupt_the_second)
    stopped = compare(*command, directory)
    assert stopped.exit_code == 75
    assert "interrupted by" in stopped.stderr and "run the same command again" in stopped.stdout
    assert {row["preset"] for row in read(directory / "comparison.csv")} == {DFC}
    assert table(directory)[1]["runs"] == "0 of 2, 1 interrupted"
    first = contents(directory / f"{DFC}-seed5")
    monkeypatch.undo()
    assert compare(*command, directory).exit_code == 0
    assert contents(directory / f"{DFC}-seed5") == first
    assert without_seconds(directory) == without_seconds(whole[0])
    resumed = directory / f"{BP}-seed5"
    assert json.loads((resumed / "run.json").read_text())["resumed_after"] == {"epochs": 1, "minibatches": 2}
    for name in ("weights_last.h5", "weights_best.h5"):
        assert (resumed / name).read_bytes() == (whole[0] / f"{BP}-seed5" / name).read_bytes()


def test_no_run_begins_with_the_data_of_another_in_memory(tmp_path):
    plan = comparison.plan([BP, DFC], [*SMALL, "training.epochs=1"], out=tmp_path / "out")

    def count_data_sets(*_):
        there.append(sum(type(thing) is DataSet for thing in gc.get_objects()))
        return nullcontext()

    gc.collect()
    there, before = [], sum(type(thing) is DataSet for thing in gc.get_objects())
    gc.disable()  # whether the collector comes by itself is chance
    try:
        comparison.prepare(plan)
        run_all(plan, count_data_sets)
    finally:
        gc.enable()
    assert there == [before] * 2


@pytest.mark.parametrize(
    ("status", "kept"),
    [("done", True), ("diverged", True), ("failed", False), ("interrupted", False), ("running", False)],
)
def test_a_comparison_keeps_finished_runs_only(tmp_path, status, kept):
    plan = comparison.plan([BP], [*SMALL, "training.epochs=1"], out=tmp_path / "out")
    run_all(plan)
    path = plan.runs[0].directory / "run.json"
    path.write_text(json.dumps(seals.sealed({**json.loads(path.read_text()), "status": status})))
    (ended,) = run_all(plan)
    assert (json.loads(path.read_text())["resumed"] == 0) is kept
    assert ended.status == (status if kept else "done")


def test_a_run_that_was_killed_while_it_started_is_done_again(tmp_path):
    plan = comparison.plan([BP], [*SMALL, "training.epochs=1"], out=tmp_path / "out")
    plan.runs[0].directory.mkdir(parents=True)
    (plan.runs[0].directory / "run.json").touch()
    assert [ended.status for ended in run_all(plan)] == ["done"]


def test_more_seeds_and_sources_may_be_added_later(whole, tmp_path):
    settings = [*SMALL, "training.epochs=1"]
    few = comparison.plan([BP], settings, out=tmp_path / "out")
    (first,) = run_all(few)
    more = comparison.plan([DFC, BP], settings, seeds=2, out=tmp_path / "out")
    assert comparison.prepare(more).kept == 1
    assert len(run_all(more)) == 4 and comparison.finished(few.runs[0]).rows == first.rows


def test_a_diverging_run_is_marked_and_does_not_stop_the_others(tmp_path):
    result = compare(WILD, BP, *SET, "--epochs", 1, "--out", tmp_path / "out")
    assert result.exit_code == 1 and f"{WILD}, seed 0: " in result.stderr and "diverged" in result.stderr
    assert "time unknown" in result.stdout
    wild, sound = table(tmp_path / "out")
    assert wild["runs"] == "0 of 1, 1 diverged" and wild["test error (%)"] == ""
    assert sound["runs"] == "1" and float(sound["test error (%)"]) > 0
    counts = [(row["done"], row["diverged"]) for row in read(tmp_path / "out" / "summary.csv")]
    assert counts == [("0", "1"), ("1", "0")]
    again = compare(WILD, BP, *SET, "--epochs", 1, "--out", tmp_path / "out")
    assert again.exit_code == 1 and "runs that are done already, and kept: 2" in again.stdout


def test_a_failing_run_does_not_stop_the_others(tmp_path, monkeypatch):
    class Failing(comparison.Experiment):
        def run(self, observers=()):
            if self.config.training.seed == 0:
                raise RuntimeError("the moon is full")
            return super().run(observers)

    monkeypatch.setattr(comparison, "Experiment", Failing)
    result = compare(BP, *SET, "--seeds", 2, "--epochs", 1, "--out", tmp_path / "out")
    assert result.exit_code == 1 and "RuntimeError: the moon is full (failed)" in result.stderr
    assert table(tmp_path / "out")[0]["runs"] == "1 of 2, 1 failed"
    monkeypatch.undo()
    assert compare(BP, *SET, "--seeds", 2, "--epochs", 1, "--out", tmp_path / "out").exit_code == 0
    assert table(tmp_path / "out")[0]["runs"] == "2"


def test_no_figure_without_a_run_that_is_done(tmp_path):
    result = compare(WILD, *SET, "--epochs", 1, "--out", tmp_path / "out")
    assert result.exit_code == 1 and "no figure: no run is done" in result.stdout
    assert not (tmp_path / "out" / "comparison.png").exists()


def test_another_configuration_in_the_same_folder_is_refused_with_what_differs(whole):
    directory, _ = whole
    before = contents(directory)
    result = compare(DFC, BP, *SET, "--seeds", 2, "--epochs", 3, "--seed", 5, "--out", directory)
    assert result.exit_code == 2 and "training.epochs = 2 in the run, 3 requested" in result.stderr
    assert "choose another directory with --out" in result.stderr and contents(directory) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digit"], "did you mean 'digits'?"),
        (["digits", "nowhere.toml"], "nowhere.toml: cannot be read"),
        ([BP, DFC, "--set", "controller.steps=7"], "controller.steps"),
        ([BP, "digits", "--set", "controller.steps=7"], f"{BP}: controller.steps: not used"),
        (["digits", "digits+training.method=xx"], 'dfc: digits+training.method=xx: training.method = "xx"'),
        (["digits+training.epoch=3"], "did you mean 'epochs'?"),
        (["digits+epochs=3"], "training.epochs="),
        (["digits+training.epochs=3", "--epochs", "2"], "training.epochs=3 is also set for all"),
        (["digits", "digits"], "list each source once"),
        (["digits", "student-teacher+target.loss=cross_entropy"], "set target.loss = 'mse'"),
        (["digits", "digits+network.start_from=nowhere.h5"], "nowhere.h5"),
        (["digits", "--set", "data.options.what=3"], "what"),
        (["digits", "--seeds", "0"], "seeds"),
        (["digits", "--out", os.devnull], "cannot write to"),
    ],
)
def test_wrong_use_ends_with_2_before_any_work(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(comparison, "expect", lambda *_, **__: type("Expected", (), {"seconds": 1.0}))
    result = compare(*arguments)
    assert result.exit_code == 2 and message in result.stderr and "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_equal_data_sets_are_loaded_once_to_check_them(monkeypatch):
    loaded, load_data = [], comparison.load_data
    monkeypatch.setattr(comparison, "load_data", lambda config: loaded.append(config) or load_data(config))
    comparison.prepare(comparison.plan([DFC, BP, "digits+training.method=dfa"], SMALL))
    assert len(loaded) == 1


def test_two_comparisons_in_one_folder_at_a_time_are_refused(tmp_path):
    plan = comparison.plan([BP], [*SMALL, "training.epochs=1"], out=tmp_path)
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(ConfigurationError, match="in use by another comparison"):
        run_all(plan)
    os.close(handle)
    assert len(run_all(plan)) == 1


def test_sources_of_the_same_name_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, epochs in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.toml").write_text(f"[training]\nepochs = {epochs}\n")
    plan = comparison.plan(["a/mine.toml", "b/mine.toml", "digits"])
    assert [source.name for source in plan.sources] == ["a/mine.toml", "b/mine.toml", "digits"]
    assert [run.directory.name for run in plan.runs] == [
        "a-mine.toml-seed0",
        "b-mine.toml-seed0",
        "digits-seed0",
    ]
    assert [run.config.training.epochs for run in plan.runs] == [1, 2, 10]
    assert comparison.plan(["a/mine.toml", "digits"]).sources[0].name == "mine"


def test_a_source_with_changes_keeps_them_in_its_name_and_folder():
    plan = comparison.plan(["digits+network.hidden=[9,8]+optimizer.epsilon=1e-08+training.seed=3"], seeds=2)
    (source,) = plan.sources
    assert source.name == "digits+network.hidden=[9,8]+optimizer.epsilon=1e-08+training.seed=3"
    assert source.folder == "digits+network.hidden=9,8+optimizer.epsilon=1e-08+training.seed=3"
    assert source.config.network.hidden == (9, 8) and [run.seed for run in plan.runs] == [3, 4]


def test_without_a_folder_the_same_sources_and_settings_find_the_same_one():
    plan = comparison.plan([DFC, BP], SMALL)
    assert plan.directory.parent == Path("runs")
    assert comparison.plan([DFC, BP], SMALL, seeds=3).directory == plan.directory
    assert comparison.plan([DFC], SMALL).directory != plan.directory
    assert comparison.plan([DFC, BP], [*SMALL, "training.epochs=3"]).directory != plan.directory


def test_regressions_have_columns_of_their_own_and_one_seed_no_deviation(tmp_path):
    file = tmp_path / "teacher.toml"
    options = "{train_size=32, validation_size=0, test_size=16, teacher_hidden=[5]}"
    file.write_text(
        f'[data]\nname = "student_teacher"\noptions = {options}\n[target]\nloss = "mse"\n[training]\nmethod = "bp"\n'
    )
    result = compare(file, f"{BP}+{SMALL[1]}", SET[0], "--epochs", 1, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    regression, classification = table(tmp_path / "out")
    assert regression["test error (%)"] == "" and float(regression["test loss"]) > 0
    assert classification["test loss"] == "" and float(classification["test accuracy (%)"]) >= 0
    assert "±" not in "".join([*regression.values(), *classification.values()])
    assert "at best validation" not in regression and "at best validation (%)" in classification
    alone = compare(file, SET[0], "--epochs", 1, "--out", tmp_path / "alone")
    assert alone.exit_code == 0 and "error" not in table(tmp_path / "alone")[0]
    assert "test_error_mean" not in read(tmp_path / "alone" / "summary.csv")[0]


def test_a_terminal_gets_a_table_that_fits(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    name = "digits+network.hidden_activation=[relu]"
    reports._print_table(["preset", "runs", "test error (%)"], [[name, "2", "2.08 ± 0.15"]])
    *_, first, second, _ = capsys.readouterr().out.splitlines()
    assert "2.08 ± 0.15" in first and len(first) == len(second) == 60
    assert (first[:36] + second).replace(" ", "") == name


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((0.012343, 0.00056), "0.01234 ± 0.00056"),
        ((86.26, 0.141), "86.26 ± 0.14"),
        ((1.5e-7, 2e-8), "1.500e-07 ± 2.000e-08"),
        ((12345.6, 12.3), "12346 ± 12"),
        ((0.0, 0.0), "0.000e+00 ± 0.000e+00"),
        ((0.5, float("nan")), "0.5000"),
        ((float("nan"), float("nan")), ""),
    ],
)
def test_numbers_have_the_digits_of_their_mean(numbers, expected):
    quantity = next(quantity for quantity in summary.QUANTITIES if quantity.key == "train_loss")
    assert summary._text(quantity, *numbers) == expected


def test_the_figure_shows_means_and_bands(whole, monkeypatch):
    pytest.importorskip("matplotlib")
    directory, _ = whole
    assert (directory / "comparison.png").read_bytes().startswith(b"\x89PNG")
    drawn = []
    monkeypatch.setattr(figures, "draw", lambda panels, path, note: drawn.append((panels, path, note)))
    plan = comparison.plan(
        [DFC, BP], [*SMALL, "training.epochs=2", "training.seed=5"], seeds=2, out=directory
    )
    ended = [comparison.finished(run) for run in plan.runs]
    assert summary.draw(plan, ended) is None
    ((panels, path, note),) = drawn
    assert note == "Lines: mean over 2 seeds; bands: ± one standard deviation."
    assert path == directory / "comparison.png"
    assert [panel.title for panel in panels] == ["test error (%)", "train loss"]
    runs = [read(directory / f"{DFC}-seed{seed}" / "metrics.csv") for seed in (5, 6)]
    curve = panels[0].curves[0]
    assert curve.name == DFC and [curve.name for curve in panels[1].curves] == [DFC, BP]
    for epoch in range(2):
        errors = [100 * (1 - float(rows[epoch]["test_accuracy"])) for rows in runs]
        assert curve.means[epoch] == pytest.approx(statistics.mean(errors))
        assert curve.stds[epoch] == pytest.approx(statistics.stdev(errors))


def test_a_figure_leaves_pyplot_alone(tmp_path):
    pytest.importorskip("matplotlib")
    nan = float("nan")
    steep = figures.Panel(
        "train loss", [figures.Curve("a", (1.0, 0.01), (nan, nan)), figures.Curve("b", (1.0,), (0.1,))]
    )
    empty = figures.Panel("test error (%)", [figures.Curve("a", (nan, nan), (nan, nan))])
    before = "matplotlib.pyplot" in sys.modules
    figures.draw([empty, steep], tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert ("matplotlib.pyplot" in sys.modules) is before
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]
    assert (figures._scale(steep.curves), figures._scale(empty.curves)) == ("log", "linear")


def test_without_matplotlib_only_the_figure_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = compare(BP, *SET, "--epochs", 1, "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert "no figure: figures need matplotlib" in result.stdout and "dfc-numba[plot]" in result.stdout
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_file()} == {
        "SHA256SUMS",
        "comparison.csv",
        "summary.csv",
        "summary.md",
    }


def test_the_mnist_comparison_names_sources_that_exist(tmp_path):
    stub = tmp_path / "dfc"
    stub.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [SCRIPT, "--seeds", "2"], env={"PATH": path}, capture_output=True, text=True, check=True
    )
    command, *words = done.stdout.splitlines()
    start = next(index for index, word in enumerate(words) if word.startswith("-"))
    sources, options = words[:start], words[start:]
    options = dict(zip(options[::2], options[1::2], strict=True))
    assert command == "compare" and options["--seeds"] == "2"
    settings = ["training.epochs", "training.seed", "training.dtype"]
    values = [options[name] for name in ("--epochs", "--seed", "--dtype")]
    plan = comparison.plan(sources, [f"{key}={value}" for key, value in zip(settings, values, strict=True)])
    configs = [source.config for source in plan.sources]
    methods = [config.training.method for config in configs]
    assert (
        methods[:5] == ["bp", "dfa", "dfc-ssa", "dfc-ss-newton", "dfc"] and methods[6] == "dfc-single-phase"
    )
    assert [config.target.feedback for config in configs[5:]] == ["strong", "strong"]
    assert {(config.data.name, config.training.epochs) for config in configs} == {("mnist", 1)}


def test_a_table_that_csv_cannot_read_is_refused(tmp_path):
    (tmp_path / "comparison.csv").write_text(
        f"preset,seed,status\n{'x' * (csv.field_size_limit() + 1)},1,done\n"
    )
    with pytest.raises(ValueError, match="is not a table of a comparison"):
        summary.read_courses(tmp_path)
